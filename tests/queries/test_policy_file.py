"""The policy file: what it says, where it lies, and of each mistake the line and what is right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.artifacts.layout import Layout
from msb_cache.commands.policy import FIRST
from msb_cache.errors import InvalidConfigError
from msb_cache.queries import policy_file
from msb_cache.queries.policy import limit_of, rules_of
from msb_cache.queries.policy_file import PolicyMistake, parse
from msb_cache.retention.policy import CachePolicy, NamedRule, PrunePolicy, Watermarks

WHOLE = """\
max-delete = "50%"

[keep]
references = ["python", "base/*"]
labels = "keep=yes"
digests = ["sha256:695829d7"]

[[rule]]
name = "ci"
filter = ["reference=ci/*", "label!=stage"]
exclude = "ci/base"
unused-for = "3d"
older-than = "30d"
keep-last = 2
keep-last-by = "pulled"
grace = "2h"

[[rule]]
max-size = 1024
min-free = "10%"

[watermarks]
high = "85%"
low = "80%"
"""


def mistakes(text: str) -> list[str]:
    return [str(each) for each in parse(text)[1]]


def test_everything_that_a_policy_can_say() -> None:
    found, wrong = parse(WHOLE, "/home/cache-policy.toml")
    assert wrong == []
    assert found == CachePolicy(
        rules=(
            NamedRule(
                name="ci",
                rule=PrunePolicy(
                    filter=("reference=ci/*", "label!=stage"),
                    exclude=("ci/base",),
                    unused_for="3d",
                    older_than="30d",
                    keep_last=2,
                    keep_last_by="pulled",
                    grace="2h",
                ),
            ),
            NamedRule(name="rule-2", rule=PrunePolicy(max_size=1024, min_free="10%")),
        ),
        keep=("reference=python", "reference=base/*", "label=keep=yes", "digest=sha256:695829d7"),
        watermarks=Watermarks(high="85%", low="80%"),
        max_delete="50%",
        source="/home/cache-policy.toml",
        digest=found.digest,
    )


def test_the_digest_is_that_of_the_file() -> None:
    from hashlib import sha256

    assert parse(WHOLE)[0].digest == f"sha256:{sha256(WHOLE.encode()).hexdigest()}"


def test_every_word_of_a_rule_is_known() -> None:
    """But for those that are the policy's as a whole."""
    fields = {name.replace("_", "-") for name in PrunePolicy.__struct_fields__}
    assert fields - {"best-effort", "max-delete"} | {"name"} == policy_file._RULE.keys()


def test_the_first_policy_is_right_and_protects_most() -> None:
    found, wrong = parse(FIRST)
    assert wrong == []
    assert [each.name for each in rules_of(found, 0)] == ["idle", "watermarks"]
    assert limit_of(found) is not None
    commented = FIRST.replace("# [[", "[[").replace('# name = "', 'name = "')
    for key in ("filter", "unused-for", "max-size"):
        commented = commented.replace(f"# {key} =", f"{key} =")
    assert mistakes(commented) == []
    assert len(parse(commented)[0].rules) == 3


def test_an_empty_policy_is_one_without_rules() -> None:
    assert mistakes("") == []
    assert parse("")[0].rules == ()


WRONG = [
    ("a = ", "it is no TOML: Invalid value"),
    ("max-delete = 1\n]", "line 2: it is no TOML: Invalid statement, column 1"),
    ("x = " + "[" * 100_000, "it is no TOML: it is nested too deep"),
    ("a" + ".a" * 3000 + " = 1", "it is no TOML: it is nested too deep"),
    (
        "max-delete = 0x" + "f" * 5000,
        'line 1: max-delete: it takes a number, or a share in quotes; write max-delete = "50%"',
    ),
    ("maxdelete = 1", "line 1: maxdelete: there is no such key; did you mean max-delete?"),
    ("\n[[rules]]\nname = 'a'", "line 2: rules: there is no such key; did you mean rule?"),
    ("zzz = 1", "line 1: zzz: there is no such key; there are max-delete, keep, rule, watermarks"),
    (
        "max-delete = 1.5",
        'line 1: max-delete: it takes a number, or a share in quotes; write max-delete = "50%"',
    ),
    (
        "max-delete = true",
        'line 1: max-delete: it takes a number, or a share in quotes; write max-delete = "50%"',
    ),
    ('max-delete = "200%"', "line 1: max-delete: '200%' is more than 100%"),
    ("max-delete = -1", "line 1: max-delete: '-1' is no number of images and no share; write 100 or 50%"),
    ("rule = 3", "line 1: rule: it takes a list of tables; write [[rule]]"),
    ("[rule]\nunused-for = '3d'", "line 1: rule: it takes a list of tables; write [[rule]]"),
    ("keep = []", "line 1: keep: it takes a table; write [keep]"),
    ("\n[keep]\nreferences = ['a b']", "line 3: references: 'a b' is not an image reference"),
    ("[keep]\nreference = 'a'", "line 2: reference: there is no such key; did you mean references?"),
    (
        "[keep]\nreferences = [1]",
        'line 2: references: it takes a list of texts; write references = ["python", "base/*"]',
    ),
    ("[keep]\ndigests = ['xyz']", "line 2: digests: 'xyz' is no digest"),
    (
        "# one\n\n[[rule]]\nunused_for = '3d'",
        "line 4: unused_for: there is no such key; did you mean unused-for?",
    ),
    (
        "[[rule]]\nunused-for = 3",
        'line 2: unused-for: it takes a duration in quotes; write unused-for = "14d"',
    ),
    ("[[rule]]\nunused-for = 'soon'", "line 2: unused-for: 'soon' is no duration"),
    ("[[rule]]\nunused-for = '3d'\n\n[[rule]]\nolder-than = '1x'", "line 5: older-than: '1x' is no duration"),
    ("[[rule]]\nkeep-last = 0", "line 2: keep-last: '0' keeps none"),
    ("[[rule]]\nkeep-last = true", "line 2: keep-last: it takes a number; write keep-last = 2"),
    ("[[rule]]\nunused-for = '1d'\nkeep-last-by = 'pulled'", "line 3: keep-last-by: keep-last-by says what"),
    ("[[rule]]\nkeep-last = 1\nkeep-last-by = 'size'", "line 3: keep-last-by: 'size' is no way to count"),
    (
        "[[rule]]\nmax-size = '5x'",
        "line 2: max-size: '5x' is no size; write 20GiB, 500MB or a number of bytes",
    ),
    ("[[rule]]\nfilter = [\n  'dangling',\n  'colour=red',\n]", "line 2: filter: 'colour=red' is no filter"),
    ("[[rule]]\nunused-for = '1d'\nexclude = '$$'", "line 3: exclude: '$$' is not an image reference"),
    (
        "[[rule]]",
        "line 1: rule 'rule-1' would take every image; give it a limit such as unused-for = \"14d\"",
    ),
    ("[[rule]]\nname = 'x'\ngrace = '1d'", "line 1: rule 'x' would take every image"),
    ("[[rule]]\nname = '-'\nunused-for = '1d'", "line 2: name: '-' is no name; use at most 64 letters"),
    ("[[rule]]\nname = 'watermarks'\nunused-for = '1d'", "line 2: name: 'watermarks' is another rule's name"),
    (
        "[[rule]]\nbest-effort = true\nunused-for = '1d'",
        "line 2: best-effort: there is no such key; there are name,",
    ),
    (
        "rule = [{unused-for = '1d'}, {unused = '1d'}]",
        "line 1: unused: there is no such key; did you mean unused-for?",
    ),
    ("[watermarks]\nhigh = '85%'", 'line 1: watermarks: it takes both, such as high = "85%" and low = "80%"'),
    ("[watermarks]\nhigh = '80%'\nlow = '80%'", "line 3: low: '80%' is not less than high, which is '80%'"),
    ("[watermarks]\nhigh = '80%'\nlow = '1k'", "line 3: low: high and low are both sizes of the cache"),
    ('"\\u001b[31m" = 1', "line 1: '\\x1b[31m': there is no such key"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_mistake_names_its_line_and_what_is_right(text: str, sentence: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(sentence)


def test_all_mistakes_are_told_in_the_order_of_their_lines() -> None:
    rules = "[[rule]]\nname = 'a'\nunused-for = 'x'\n\n[[rule]]\nname = 'a'\nkeep-last = 'y'\n"
    text = f"{rules}\n[keep]\nlabel = 1\n"
    assert [each.split(":")[0] for each in mistakes(text)] == ["line 3", "line 6", "line 7", "line 10"]


def test_more_rules_than_anybody_writes() -> None:
    rule = "[[rule]]\nunused-for = '1d'\n"
    assert mistakes(rule * 100) == []
    assert mistakes(rule * 101) == ["line 201: a policy has at most 100 rules"]


@given(st.text(max_size=200) | st.text("[]rule.=\"'\n#{}, 1", max_size=60))
def test_whatever_stands_in_the_file(text: str) -> None:
    found, wrong = parse(text)
    lines = text.count("\n") + text.count("\r") + len(text.splitlines()) + 1
    assert all(each.line is None or 1 <= each.line <= lines for each in wrong)
    if not wrong:
        rules_of(found, 1_800_000_000 * 10**9)


# -- files ---------------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return Layout(tmp_path / "home")


def put(path: str | Path, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return str(path)


def test_the_home_s_own_file_comes_first(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert policy_file.find(layout) is None
    user = put(tmp_path / "user/.config/msb-cache/policy.toml", WHOLE)
    assert policy_file.find(layout) == user
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert policy_file.find(layout) is None
    other = put(tmp_path / "xdg/msb-cache/policy.toml", WHOLE)
    assert policy_file.find(layout) == other
    own = put(tmp_path / "home/cache-policy.toml", WHOLE)
    assert policy_file.find(layout) == own
    assert policy_file.read(own).source == own


@pytest.mark.parametrize("home", [None, "~"])
def test_the_folder_in_which_a_command_is_run_has_no_policy(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    """Another user may have put it there."""
    for folder in ("xdg", "~/.config"):
        put(tmp_path / folder / "msb-cache/policy.toml", WHOLE)
    monkeypatch.chdir(tmp_path)
    if home is None:
        monkeypatch.setenv("XDG_CONFIG_HOME", "xdg")
    else:
        monkeypatch.setenv("HOME", home)  # what expanduser leaves where a user has none
    assert policy_file.find(layout) is None


def test_a_dangling_link_is_no_reason_to_take_another_file(layout: Layout, tmp_path: Path) -> None:
    put(tmp_path / "user/.config/msb-cache/policy.toml", WHOLE)
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/cache-policy.toml").symlink_to("nowhere")
    found = policy_file.find(layout)
    assert found is not None
    with pytest.raises(InvalidConfigError, match=r"cache-policy\.toml cannot be read: No such file"):
        policy_file.read(found)


def test_a_home_without_one(layout: Layout) -> None:
    with pytest.raises(InvalidConfigError, match="has no policy; `msb-cache policy init` writes one"):
        policy_file.required(layout)


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe, folder, large, latin = (tmp_path / name for name in ("pipe", "folder", "large", "latin"))
    os.mkfifo(pipe)
    folder.mkdir()
    large.write_bytes(b"#" * (64 * 1024 + 1))
    latin.write_bytes(b"# a\n# \xe4\n")
    for path, sentence in (
        (pipe, "is no file"),
        (folder, "Is a directory|is no file"),
        (large, "is longer than 64 KiB"),
        (latin, "line 2: it is no UTF-8"),
        (Path("/dev/zero"), "is no file"),
    ):
        with pytest.raises(InvalidConfigError, match=sentence):
            policy_file.read(str(path))
    large.write_bytes(b"#" * 64 * 1024)
    assert policy_file.read(str(large)).rules == ()


def test_the_first_mistake_is_the_error_and_the_others_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "policy.toml", "a = 1\nb = 2\nc = 3\n")
    with pytest.raises(InvalidConfigError) as raised:
        policy_file.read(path)
    assert str(raised.value) == (
        f"{path}: line 1: a: there is no such key; there are max-delete, keep, rule, watermarks "
        f"(and 2 more mistakes; `msb-cache policy check {path}` lists them)"
    )


def test_a_mistake_of_no_line() -> None:
    assert str(PolicyMistake(None, "", "so")) == "so"
    assert str(PolicyMistake(None, "a", "so")) == "a: so"
    assert str(PolicyMistake(3, "", "so")) == "line 3: so"
