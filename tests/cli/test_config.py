"""The config command: each setting with its source, and the mistakes of the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache.cli import settings
from tests.cli.support import FAILED, USAGE, Call, Put, fingerprint


def test_where_each_value_comes_from(
    put: Put, own_home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = put(
        "user", 'times = "absolute"\npager = "less"\n[context]\nteam = "build"\napi_token = "hunter2"\n'
    )
    home = put("home", '[columns]\nlist = ["reference", "size"]\n[context]\nteam = "ops"\n')
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("MSB_HOME", str(own_home))
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "stage=night,ticket=OPS-1")
    done = call("--context", "ticket=OPS-12", "config", "show", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert "hunter2" not in done.out
    assert [(each["name"], each["value"], each["source"]) for each in done.json] == [
        ("home", str(own_home), "environment variable MSB_HOME"),
        ("times", "absolute", f"{user}:1"),
        ("color", "never", "environment variable NO_COLOR"),
        ("pager", "less", f"{user}:2"),
        ("columns.list", ["reference", "size"], f"{home}:2"),
        ("context.team", "ops", f"{home}:4"),
        ("context.api_token", "", f"{user}:5"),
        ("context.stage", "night", "environment variable MSB_CACHE_CONTEXT"),
        ("context.ticket", "OPS-12", "option --context"),
    ]
    rows = [" ".join(line.split()) for line in call("config").lines]
    assert rows[:2] == ["SETTING VALUE SOURCE", f"home {own_home} environment variable MSB_HOME"]
    assert f"columns.list reference, size {home}:2" in rows
    assert f"context.api_token - {user}:5" in rows


def test_the_home_s_source(
    own_home: Path,
    call: Call,
    config: Callable[[object], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MSB_HOME", str(own_home))

    def home(*options: object) -> tuple[str, str]:
        first = call(*options, "config", "show", "--format", "json").json[0]
        return first["value"], first["source"]

    assert home("--home", tmp_path / "x") == (str(tmp_path / "x"), "option --home")
    assert home() == (str(own_home), "environment variable MSB_HOME")
    config({"home": "elsewhere"})
    assert home() == (str(own_home / "elsewhere"), str(own_home / "config.json"))


def test_a_default_home(own_home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first = call("config", "show", "--format", "json").json[0]
    assert first == {
        "name": "home",
        "value": f"{os.environ['HOME']}/.microsandbox",
        "source": "default",
    }


def test_where_the_files_lie(put: Put, own_home: Path, call: Call) -> None:
    user = put("user", "")
    home = str(own_home / "config.toml")
    assert call("config", "path").lines == [home, user]
    assert call("config", "path", "--format", "json").json == [
        {"path": home, "home": True, "exists": False},
        {"path": user, "home": False, "exists": True},
    ]


def test_all_mistakes_of_both_files(put: Put, call: Call) -> None:
    assert call("config", "check").err.startswith("There is no file of settings; ")
    user = put("user", 'times = "absolute"\n')
    assert call("config", "check").out == f"{user} is right.\n"
    home = put("home", 'pager = "less"\nx = 1\n')
    done = call("config", "check")
    assert (done.code, done.out) == (FAILED, f"{user} is right.\n")
    assert [line.split(": ")[:4] for line in done.err.splitlines()] == [
        ["error", home, "line 1", "pager"],
        ["error", home, "line 2", "x"],
    ]
    found = call("config", "check", "--format", "json").json
    assert [each["file"] for each in found] == [home, user]
    assert [(one["line"], one["key"]) for one in found[0]["mistakes"]] == [(1, "pager"), (2, "x")]


def test_a_column_that_the_table_does_not_have(put: Put, home: Path, call: Call) -> None:
    path = put("user", '[columns]\npins = ["pinned"]\nlist = ["reference", "sise"]\n')
    said = "list has no column 'sise'; there are: reference, digest, size, in_use, created, last_used"
    done = call("config", "check")
    assert (done.code, done.err) == (FAILED, f"error: {path}: line 3: columns.list: {said}\n")
    assert (call("list").code, call("list").err) == (USAGE, f"error: {path}:3: {said}\n")
    assert call("pins").code == 0


@pytest.mark.parametrize("command", settings.TABLES)
def test_every_table_of_the_settings_is_known(put: Put, call: Call, command: str) -> None:
    put("user", f'[columns]\n{command} = ["no-such-column"]\n')
    assert f"{command} has no column 'no-such-column'; there are: " in call("config", "check").err


def test_another_file_is_checked_as_one_s_own(put: Put, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text('pager = "less"\n')
    assert call("config", "check", path).out == f"{path} is right.\n"
    home = put("home", 'pager = "less"\n')
    assert call("config", "check", home).code == FAILED
    assert call("config", "check", tmp_path / "none").code == USAGE


def test_commands_end_with_the_mistake(put: Put, home: Path, call: Call) -> None:
    put("user", "x = 1\n")
    before = fingerprint(home)
    for command in (["list"], ["rm", "app:1"], ["config"]):
        done = call(*command)
        assert (done.code, done.out) == (USAGE, "")
        assert "config.toml: line 1: x: there is no such key" in done.err
    assert fingerprint(home) == before
    assert call("list", "--help").code == call("config", "check").code - FAILED == 0


def test_the_context_is_kept_with_every_event(put: Put, home: Path, call: Call) -> None:
    put("user", '[context]\nteam = "build"\nsite = "x"\napi_token = "hunter2"\n')
    assert call("--context", "team=ops", "rm", "app:latest").code == 0
    (event,) = call("events", "--type", "image.removed", "--format", "json").json
    assert event["actor"]["claimed"] == {"team": "ops", "site": "x", "api_token": ""}


@pytest.mark.peer
def test_another_user_s_file_is_said_once(
    put: Put, home: Path, call: Call, require_peer: Callable[[str], str]
) -> None:
    require_peer("root")
    path = put("home", "x = 1\n")
    os.chown(path, 12345, 12345)
    done = call("list")
    assert (done.code, done.err) == (0, f"note: {path} is another user's, so it is not read\n")
    assert call("config", "check").err == f"note: {path} is another user's, so it is not read\n"
