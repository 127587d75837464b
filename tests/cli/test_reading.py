"""Every command that reads prints the same facts in every format, and names alone with -q."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from tests.cli.support import APP, TOOL, USAGE, Call, Done

TOOL_NAME = "example.org/team/tool:2"
SEVERAL = {
    "list": [TOOL_NAME, "app:latest"],
    "last-used": ["app:latest", TOOL_NAME],
    "events --type image.removed": ["@18"],
    "history app:latest --type image.held": ["@21"],
    "holders": ["sandbox:dev"],
    "pins": ["app:latest"],
    "prunes": ["{operation}"],
}
"""Commands whose JSON is a list, and the names."""
ONE = {
    "inspect app:latest": ["app:latest"],
    "why app:1": ["app:1"],
    f"why {TOOL.digest}": [TOOL.digest],
    f"why {TOOL.layers[1].diff_id[7:]}": [TOOL.layers[1].diff_id],
    "diff @16": ["app:1"],
    "prunes show {operation}": ["app:1"],
    "prunes restore-plan {operation}": ["app:1"],
    "prune -n --grace 0s": [TOOL_NAME],
    "policy show": ["idle"],
    "policy check": [],
    "policy test app:latest": [],
}
"""Commands whose JSON is one object, and the names."""


@pytest.fixture
def operation(home: Path, call: Call) -> str:
    """The removal of app:1 from a home that also has a hold, a pin and a policy."""
    with ImageCache(home) as cache:
        found = cache.remove("app:1").operation
        cache.hold("app:latest", "sandbox:dev")
        cache.pin("app:latest")
        cache.begin_policy()
    assert found is not None
    return found


def still(value: Any) -> Any:
    """JSON without what grows while the test runs."""
    if isinstance(value, list):
        return [still(each) for each in value]
    if isinstance(value, dict):
        return {key: still(each) for key, each in value.items() if key not in ("idle_ns", "age_ns")}
    return value


def lines_of(done: Done) -> list[Any]:
    return [still(json.loads(line)) for line in done.lines]


@pytest.mark.parametrize("command", SEVERAL)
def test_a_list(operation: str, call: Call, command: str) -> None:
    words = command.split()
    found = call(*words, "--format", "json").json
    assert lines_of(call(*words, "--format", "jsonl")) == still(found)
    names = [name.format(operation=operation) for name in SEVERAL[command]]
    done = call(*words, "-q")
    assert (done.code, done.lines, done.err) == (0, names, "")
    key = next(iter(found[0]))
    assert call(*words, "--format", f"<{{{key}}}>").lines == [f"<{each[key]}>" for each in found]
    assert call(*words, "--format", "{none_such}").code == USAGE


@pytest.mark.parametrize("command", ONE)
def test_an_object(operation: str, call: Call, command: str) -> None:
    words = command.format(operation=operation).split()
    done = call(*words, "--format", "json")
    assert lines_of(call(*words, "--format", "jsonl")) == [still(done.json)]
    quiet = call(*words, "-q")
    assert (quiet.code, quiet.lines, quiet.err) == (done.code, ONE[command], "")
    assert call(*words, "--format", "{none_such}").code == USAGE


def test_a_replay_has_a_line_for_each_event(operation: str, call: Call) -> None:
    words = ("replay", "--from", "21", "--to", "22")
    lines = call(*words, "--format", "jsonl").lines
    assert call(*words, "--format", "json").lines == lines
    assert [f"@{json.loads(line)['seq']}" for line in lines] == call(*words, "-q").lines == ["@21", "@22"]
    assert call(*words, "--format", "{seq} {changes.0.table}").lines == ["21 hold", "22 pin"]


def test_a_policy_begun(home: Path, call: Call) -> None:
    path = str(home / "cache-policy.toml")
    assert call("policy", "init", "--format", "json").json == {"file": path}
    Path(path).write_text("[[rule]]\nname = 1\n")
    done = call("policy", "check", "-q")
    assert (done.code, done.lines) == (1, ["2"])
    assert APP.digest not in done.err


def test_one_that_holds_two_is_named_once(home: Path, call: Call) -> None:
    call("hold", "app:1", "sandbox:dev")
    call("hold", TOOL_NAME, "sandbox:dev")
    call("hold", TOOL_NAME, "snapshot:x")
    assert call("holders", "-q").lines == ["sandbox:dev", "snapshot:x"]
