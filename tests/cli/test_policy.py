"""The policy command: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import NOT_FOUND, USAGE, Call, fingerprint, sentence


@pytest.fixture(autouse=True)
def user(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder without configuration."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("MSB_HOME", str(own_home))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "user"


def test_from_nothing_to_a_policy_that_is_shown(home: Path, call: Call) -> None:
    for words in (["policy"], ["policy", "show"], ["policy", "check"], ["policy", "test", "app:1"]):
        done = call(*words)
        assert (done.code, done.out) == (USAGE, "")
        assert sentence(done.err).endswith("has no policy; `msb-cache policy init` writes one to begin with")
    path = home / "cache-policy.toml"
    assert call("policy", "init").lines == [str(path)]
    again = call("policy", "init")
    assert (again.code, sentence(again.err)) == (USAGE, f"{path} is there already, and stays as it is")
    assert call("policy", "check").lines == [f"{path} is right."]
    before = fingerprint(home)
    shown = call("policy")
    assert shown.out == call("policy", "show").out
    assert shown.lines == [
        f"File:        {path}",
        "Deletes:     at most 50% of the images at once",
        "Rule idle:   unused-for 30d, keep-last 1, keep-last-by used, grace 1h",
        "Watermarks:  from 85% down to 80%",
    ]
    found = call("policy", "show", "--format", "json").json
    assert [each["name"] for each in found["rules"]] == ["idle"]
    assert found["max_delete"] == "50%"
    assert fingerprint(home) == before


def test_a_home_that_it_makes_is_said(tmp_path: Path, call: Call) -> None:
    begun = ("--home", tmp_path / "new", "policy", "init")
    assert f"note: {tmp_path / 'new'} is new; " in call(*begun).err
    assert call("--home", tmp_path / "quiet", "policy", "init", "-q").err == ""
    (tmp_path / "there").mkdir()
    assert call("--home", tmp_path / "there", "policy", "init").err == ""


def test_the_users_own(home: Path, user: Path, call: Call) -> None:
    path = user / ".config/msb-cache/policy.toml"
    assert call("policy", "init", "--user").lines == [str(path)]
    assert call("policy", "check").lines == [f"{path} is right."]


def test_a_policy_without_rules(home: Path, call: Call) -> None:
    (home / "cache-policy.toml").write_text('[keep]\nlabels = ["a=b", "c"]\n')
    shown = call("policy", "show")
    assert shown.lines[1:] == [
        "Deletes:     at most 90% of the images at once (of ten images or more)",
        "Keeps:       label=a=b, label=c",
    ]
    assert shown.err == "It has no rule, so it deletes nothing.\n"
    assert call("policy", "test", "app:1").lines == ["app:1 stays."]


def test_every_mistake_is_told(home: Path, tmp_path: Path, call: Call) -> None:
    path = tmp_path / "new.toml"
    path.write_text("a = 1\n[[rule]]\nunused-for = 3\n")
    done = call("policy", "check", path)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        f"error: {path}: line 1: a: there is no such key; there are max-delete, keep, rule, watermarks",
        f'error: {path}: line 3: unused-for: it takes a duration in quotes; write unused-for = "14d"',
    ]
    asked = call("policy", "check", path, "--format", "json")
    assert asked.code == 1
    assert asked.json["file"] == str(path)
    assert [(each["line"], each["key"]) for each in asked.json["mistakes"]] == [(1, "a"), (3, "unused-for")]
    absent = call("policy", "check", tmp_path / "absent.toml")
    assert (absent.code, "No such file" in sentence(absent.err)) == (USAGE, True)


def test_one_image(loaded: Path, call: Call) -> None:
    (loaded / "cache-policy.toml").write_text(
        '[[rule]]\nname = "tools"\nfilter = "reference=example.org/*"\n[[rule]]\nname = "old"\n'
        'unused-for = "3d"\n[[rule]]\nname = "rest"\nkeep-last = 9\nexclude = "app:latest"\ngrace = "0s"\n'
    )
    assert [" ".join(line.split()) for line in call("policy", "test", "app:1").lines] == [
        "RULE BECAUSE",
        "tools KEEP it is not selected",
        "old KEEP idle under a minute, within the grace of 1h",
        "rest KEEP 1st of the last 9 of app",
        "",
        "app:1 stays.",
    ]
    (loaded / "cache-policy.toml").write_text('[[rule]]\nfilter = "reference=app:1"\ngrace = "0s"\n')
    found = call("policy", "test", "app:1", "--format", "json").json
    assert (found["reference"], found["deletes"], found["rule"]) == ("app:1", True, "rule-1")
    assert found["rules"] == [
        {"name": "rule-1", "deletes": True, "rule": "due", "because": "idle under a minute"}
    ]
    assert call("policy", "test", "app:1").lines[-1] == "app:1 goes, by the rule 'rule-1'."
    assert call("policy", "test", "none:1").code == NOT_FOUND
