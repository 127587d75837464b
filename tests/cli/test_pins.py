"""The list of pins: who, why, until when, and what of it is here."""

from __future__ import annotations

import getpass
from pathlib import Path

from tests.cli.support import APP, RFC3339, TOOL, USAGE, Call, on_terminal, sentence


def test_a_table(home: Path, call: Call) -> None:
    assert call("pins").err == "Nothing is pinned.\n"
    call("pin", "app:1", "--reason", "the demo", "--until", "2099-01-01")
    call("pin", TOOL.digest)
    call("pin", "later:1")
    done = call("pins")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].split() == ["PINNED", "DIGEST", "BY", "SINCE", "UNTIL", "REASON"]
    first, second, third = (line.split() for line in done.lines[1:])
    assert (first[0], first[1], first[-2:]) == ("app:1", APP.digest, ["the", "demo"])
    assert "2099-01-01" in first
    assert (second[:3], second[-2:]) == (["later:1", "not", "here"], ["-", "-"])
    assert third[:2] == [TOOL.digest, TOOL.digest]
    assert call("pins", "-q").lines == ["app:1", "later:1", TOOL.digest]


def test_json(home: Path, call: Call) -> None:
    assert call("pins", "--format", "json").json == []
    call("pin", "app:1", "--reason", "the demo", "--until", "2099-01-01T00:00:00Z")
    call("pin", TOOL.digest)
    call("pin", "docker.io/library/later:1")
    first, second, third = call("pins", "--format", "json").json
    for each in (first, second, third):
        assert RFC3339.fullmatch(each.pop("since"))
        assert each.pop("by") == getpass.getuser()
    assert first == {
        "reference": "app:1",
        "digest": APP.digest,
        "here": True,
        "reason": "the demo",
        "until": "2099-01-01T00:00:00.000000000+00:00",
        "enforced": True,
    }
    nothing = {"reason": None, "until": None, "enforced": True}
    assert second == {"reference": "docker.io/library/later:1", "digest": None, "here": False, **nothing}
    assert third == {"reference": None, "digest": TOOL.digest, "here": True, **nothing}


def test_as_of(home: Path, call: Call) -> None:
    def last() -> str:
        (event,) = call("events", "--reverse", "-n", "1", "--format", "json").json
        return f"@{event['seq']}"

    before = last()
    call("pin", "app:1")
    pinned = last()
    then = call("pins").raw
    call("unpin", "app:1")
    assert call("pins", "--as-of", pinned).raw == then
    for moment in (before, last(), "now"):
        done = call("pins", "--as-of", moment)
        assert (done.code, done.out, done.err) == (0, "", "Nothing is pinned.\n")
    done = call("pins", "--as-of", "2001-01-01")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("note: the log begins ")
    for moment in ("2099-01-01", "@999", "nonsense"):
        done = call("pins", "--as-of", moment)
        assert (done.code, done.out) == (USAGE, "")
        assert sentence(done.err)


def test_without_a_home(own_home: Path, call: Call) -> None:
    done = call("pins")
    assert (done.code, done.out, done.err) == (0, "", "Nothing is pinned.\n")
    assert call("pins", "--format", "json").json == []
    assert not own_home.exists()


def test_it_fits_a_terminal(home: Path, call: Call) -> None:
    call("pin", "registry.example.org/a/rather/long/name:tag", "--until", "2099-01-01", "--reason", "x" * 80)
    for line in on_terminal(["pins"], NO_COLOR="1").said.splitlines():
        assert len(line) <= 80
