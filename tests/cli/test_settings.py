"""config.toml: which file says what, which one wins, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.cli import settings
from msb_cache.cli.main import command_names
from msb_cache.cli.settings import File, Settings, load, parse
from msb_cache.errors import InvalidConfigError
from tests.cli.support import Put

USER = File("/user/config.toml", in_home=False)
HOME = File("/home/config.toml", in_home=True)
WHOLE = """\
times = "absolute"
color = "never"
pager = "less -RFX"

[columns]
list = ["reference", "size"]
last-used = [
  "idle",
]

[context]
team = "build"
api_token = "hunter2"
"url" = "https://ada:hunter2@ci.example/1"
"""


def mistakes(text: str, file: File = USER) -> list[str]:
    return [str(each) for each in parse(text, file).mistakes]


def test_without_a_file_all_is_as_by_default(own_home: Path) -> None:
    found = load(None)
    assert found == Settings()
    assert (found.times, found.color, found.pager, dict(found.columns)) == ("relative", "auto", True, {})
    assert found.source("times") == found.source("context.x") == "default"


def test_everything_that_a_file_can_say(put: Put) -> None:
    path = put("user", WHOLE)
    found = load(None)
    assert (found.times, found.color, found.pager) == ("absolute", "never", "less -RFX")
    assert dict(found.columns) == {"list": ("reference", "size"), "last-used": ("idle",)}
    assert dict(found.context) == {"team": "build", "api_token": "", "url": "https://ci.example/1"}
    assert dict(found.sources) == {
        "times": f"{path}:1",
        "color": f"{path}:2",
        "pager": f"{path}:3",
        "columns.list": f"{path}:6",
        "columns.last-used": f"{path}:7",
        "context.team": f"{path}:12",
        "context.api_token": f"{path}:13",
        "context.url": f"{path}:14",
    }


def test_what_is_found_cannot_be_changed(put: Put) -> None:
    put("user", WHOLE)
    found = load(None)
    with pytest.raises(AttributeError):
        found.times = "relative"  # type: ignore[misc]
    for mapping in (found.columns, found.context, found.sources):
        with pytest.raises(TypeError):
            mapping["a"] = "b"  # type: ignore[index]


def test_the_home_s_file_wins_by_name(put: Put) -> None:
    user = put("user", WHOLE)
    home = put(
        "home", 'color = "always"\n[columns]\nlist = ["digest"]\n[context]\nteam = "ops"\nsite = "x"\n'
    )
    found = load(None)
    assert (found.times, found.color) == ("absolute", "always")
    assert dict(found.columns) == {"list": ("digest",), "last-used": ("idle",)}
    assert {**found.context, "url": ""} == {"team": "ops", "api_token": "", "url": "", "site": "x"}
    assert found.source("times") == f"{user}:1"
    assert found.source("color") == f"{home}:1"
    assert found.source("context.team") == f"{home}:5"
    assert found.source("context.url") == f"{user}:14"


@pytest.mark.parametrize(
    ("user", "home", "pager"),
    [
        ('"less"', "true", "less"),
        ('"less"', "false", False),
        ("false", "true", True),
        ("true", None, True),
    ],
)
def test_a_home_says_whether_there_is_a_pager(put: Put, user: str, home: str | None, pager: object) -> None:
    path = put("user", f"pager = {user}\n")
    if home is not None:
        other = put("home", f"pager = {home}\n")
    found = load(None)
    assert found.pager == pager
    assert found.source("pager") == (f"{path}:1" if pager == "less" or home is None else f"{other}:1")


def test_another_home_has_its_own(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("home", 'times = "absolute"\n')
    assert load(str(tmp_path / "other")).times == "relative"
    monkeypatch.chdir(tmp_path / "home")
    assert load(".microsandbox").times == "absolute"
    assert load("~/.microsandbox").times == "absolute"


def test_a_changed_file_is_read_anew(put: Put) -> None:
    path = put("user", 'times = "absolute"\n')
    assert load(None).times == "absolute"
    os.replace(put("home", 'times = "relative"\n'), path)
    assert load(None).times == "relative"
    os.unlink(path)
    assert load(None) == Settings()


def test_a_user_without_a_home_has_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    """Another user may have put one into the folder in which a command is run."""
    monkeypatch.setenv("MSB_HOME", str(own_home))
    monkeypatch.setenv("HOME", "~")
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "~/.config/msb-cache"
    there.mkdir(parents=True)
    (there / "config.toml").write_text('times = "absolute"\n')
    assert load(None) == Settings()


@pytest.mark.parametrize(
    ("variables", "color", "source"),
    [
        ({}, "always", None),
        ({"NO_COLOR": ""}, "always", None),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, "never", "NO_COLOR"),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, "always", "FORCE_COLOR"),
        ({"FORCE_COLOR": "0"}, "always", None),
        ({"CLICOLOR_FORCE": "1", "CLICOLOR": "0"}, "always", "CLICOLOR_FORCE"),
        ({"TERM": "dumb"}, "never", "TERM"),
        ({"CLICOLOR": "0"}, "never", "CLICOLOR"),
        ({"CLICOLOR": "1"}, "always", None),
    ],
)
def test_the_environment_wins_over_files(
    put: Put, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], color: str, source: str | None
) -> None:
    path = put("user", 'color = "always"\n')
    monkeypatch.delenv("TERM", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = load(None)
    assert found.color == color
    assert found.source("color") == (f"environment variable {source}" if source else f"{path}:1")


@pytest.mark.parametrize(
    ("said", "variables", "pager", "source"),
    [
        (None, {"PAGER": "more"}, "more", "PAGER"),
        (None, {"PAGER": ""}, False, "PAGER"),
        (None, {"PAGER": " cat "}, False, "PAGER"),
        ("true", {"PAGER": "more"}, "more", "PAGER"),
        ("false", {"PAGER": "more"}, False, None),
        ('"less"', {"PAGER": "more"}, "less", None),
        ('"less"', {"PAGER": "more", "MSB_CACHE_PAGER": "most"}, "most", "MSB_CACHE_PAGER"),
        ("false", {"MSB_CACHE_PAGER": "most"}, "most", "MSB_CACHE_PAGER"),
        ("true", {"MSB_CACHE_PAGER": "cat", "PAGER": "more"}, False, "MSB_CACHE_PAGER"),
    ],
)
def test_a_pager_of_the_environment(
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
    said: str | None,
    variables: dict[str, str],
    pager: object,
    source: str | None,
) -> None:
    if said is not None:
        put("user", f"pager = {said}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = load(None)
    assert found.pager == pager
    assert found.source("pager").startswith("environment variable ") == (source is not None)
    assert found.source("pager").endswith(source or "config.toml:1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('times = "iso"', 'line 1: times: it takes "relative" or "absolute"; write times = "absolute"'),
        ("color = true", 'line 1: color: it takes "auto", "always" or "never"; write color = "never"'),
        ("color = []", 'line 1: color: it takes "auto", "always" or "never"; write color = "never"'),
        ('\ncolour = "red"', "line 2: colour: there is no such key; did you mean color?"),
        (
            "pager = 1",
            'line 1: pager: it takes true, false, or a command in quotes; write pager = "less -RFX"',
        ),
        (
            'pager = "a\\nb"',
            'line 1: pager: it takes true, false, or a command in quotes; write pager = "less -RFX"',
        ),
        ("columns = 1", "line 1: columns: it takes a table; write [columns]"),
        (
            '[columns]\nlits = ["size"]',
            "line 2: lits: no command of this name has columns to choose from; did you mean list?",
        ),
        (
            '[columns]\nx = ["size"]',
            "line 2: x: no command of this name has columns to choose from; "
            "there are list, holders, pins, last-used, prunes",
        ),
        (
            '[columns]\nlist = "size"',
            'line 2: list: it takes a list of columns; write list = ["reference", "size"]',
        ),
        (
            "[columns]\nlist = []",
            'line 2: list: it takes a list of columns; write list = ["reference", "size"]',
        ),
        (
            '[columns]\nlist = ["\\u001b[2J"]',
            "line 2: list: a column's name is of small letters, as in the heading of the table",
        ),
        (
            '[columns]\nlist = ["a", "a"]',
            "line 2: list: a column stands there twice; name each once",
        ),
        ("[context]\na = 1", 'line 2: a: it takes text in quotes, such as ticket = "OPS-12"'),
        ('context = "a=b"', "line 1: context: it takes a table; write [context]"),
        ("times = absolute", "line 1: it is no TOML: Invalid value, column 9"),
    ],
)
def test_a_mistake_is_said_with_what_is_right(text: str, says: str) -> None:
    assert mistakes(text) == [says]


def test_tables_are_those_of_commands() -> None:
    assert set(settings.TABLES) <= set(command_names())


def test_a_home_names_no_command() -> None:
    for text in ('pager = "rm -rf /"', "pager = 1"):
        assert mistakes(text, HOME) == [
            "line 1: pager: it takes true or false here, and a command in your own config.toml only; "
            "write pager = false"
        ]
    assert mistakes("pager = false", HOME) == []


def test_a_value_is_in_no_mistake() -> None:
    for text in ('[context]\n"a b" = "hunter2"', f'[context]\na = "hunter2{"x" * 256}"', 'times = "hunter2"'):
        (said,) = mistakes(text)
        assert "hunter2" not in said


def test_the_first_mistake_is_the_error_and_the_others_are_counted(put: Put) -> None:
    path = put("user", "a = 1\nb = 2\n")
    with pytest.raises(InvalidConfigError) as raised:
        load(None)
    assert str(raised.value) == (
        f"{path}: line 1: a: there is no such key; there are times, color, pager, columns, context "
        "(and 1 more mistake; `msb-cache config check` lists them)"
    )


def test_what_is_no_such_file(put: Put) -> None:
    path = Path(put("home", "#" * (64 * 1024 + 1)))
    with pytest.raises(InvalidConfigError, match="is longer than 64 KiB, so it is no list of settings"):
        load(None)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidConfigError, match="is no file"):
        load(None)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InvalidConfigError, match="cannot be read: Too many levels of symbolic links"):
        load(None)


@given(st.text(max_size=100) | st.text("[]columnstext.=\"'\n#{}, 1", max_size=60))
def test_whatever_stands_in_a_file(text: str) -> None:
    for file in (USER, HOME):
        said = parse(text, file)
        assert said.mistakes or set(said.values) <= {"times", "color", "pager", "columns", "context"}


@pytest.mark.peer
@pytest.mark.parametrize("whose", ["home", "user"])
def test_another_user_s_file_is_not_read(put: Put, whose: str, require_peer: Callable[[str], str]) -> None:
    require_peer("root")
    path = put(whose, 'times = "absolute"\n')
    os.chown(path, 12345, 12345)
    found = load(None)
    assert found.times == "relative"
    assert found.notes == (f"{path} is another user's, so it is not read",)


def test_a_file_that_becomes_another_user_s_is_not_read(put: Put) -> None:
    path = put("home", 'times = "absolute"\n')
    seen = os.stat(path)
    file = File(path, in_home=True, state=(1,), owner=seen.st_uid)
    assert settings.text_of(file) == 'times = "absolute"\n'
    assert file._replace(owner=os.geteuid() + 1).is_foreign
    assert not file._replace(owner=0).is_foreign


def test_a_context_is_that_of_files_under_what_is_given(put: Put) -> None:
    assert settings.with_context(load(None), None) == {}
    assert settings.with_context(load(None), {"a": "b"}) == {"a": "b"}
    put("user", '[context]\nteam = "build"\nsite = "x"\n')
    assert settings.with_context(load(None), {"team": "ops"}) == {"team": "ops", "site": "x"}
    with pytest.raises(InvalidConfigError, match="the context has 17 names; at most 16 are kept"):
        settings.with_context(load(None), {f"a{number}": "" for number in range(15)})


def test_without_a_file_nothing_more_is_imported(own_home: Path) -> None:
    code = (
        "import sys, msgspec, msb_cache.msb.config, msb_cache.cli.settings as settings\n"
        "before = set(sys.modules); settings.load(None)\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["msb_cache.queries", "msb_cache.queries.user_folder"]
