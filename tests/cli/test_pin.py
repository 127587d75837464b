"""Pinning: what it says, what it keeps from `prune` and `remove`, and what is no pin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache
from tests.cli.support import APP, NOT_FOUND, TOOL, USAGE, Call, execute, fingerprint, sentence
from tests.examples import DAY
from tests.fakemsb import FakeMsb

IN_USE = 4
OFFSET = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"


def test_what_is_said(home: Path, call: Call) -> None:
    done = call("pin", "app:1", "--reason", "the demo")
    assert (done.code, done.out, done.err) == (0, "", "  ✓ Pinned     app:1\n")
    done = call("pin", APP.digest[7:15], "--until", "2 weeks")
    assert re.fullmatch(rf"  ✓ Pinned     {APP.digest} until {OFFSET}\n", done.err)
    done = call("pin", "later:1")
    assert (done.code, done.lines) == (0, [])
    assert done.err.splitlines() == [
        "  ✓ Pinned     later:1",
        "note: later:1 is not in the cache; it is kept once it is",
    ]
    assert call("pin", "never:1", "-q").err == ""
    found = call("pin", "app:latest", "--format", "json")
    assert found.err == ""
    assert (found.json["reference"], found.json["digest"], found.json["here"]) == (
        "app:latest",
        APP.digest,
        True,
    )
    assert call("verify").code == 0


def test_the_same_again_is_one_event(home: Path, call: Call) -> None:
    call("pin", "app:1", "--until", "2099-01-01")
    once = fingerprint(home)
    for spelling in ("app:1", "docker.io/library/app:1"):
        assert call("pin", spelling, "--until", "2099-01-01").code == 0
    assert fingerprint(home) == once
    assert call("pin", "app:1").code == 0
    assert fingerprint(home) != once


def test_it_makes_the_home_and_says_so(own_home: Path, call: Call) -> None:
    done = call("pin", "app:1")
    assert done.code == 0
    first, *others = done.err.splitlines()
    assert first.startswith(f"note: {own_home} is new and kept by msb-cache itself")
    assert others == ["  ✓ Pinned     app:1", "note: app:1 is not in the cache; it is kept once it is"]
    assert call("list").code == 0
    assert call("verify").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pin"], USAGE, "Missing argument 'REF|DIGEST'"),
        (["pin", ""], USAGE, "an empty text is not an image reference"),
        (["pin", "App:1"], USAGE, "a repository name must be lower case"),
        (["pin", "app*"], USAGE, "has wildcards; a pin is of one reference or digest"),
        (["pin", "abcd1234"], NOT_FOUND, "no such digest is in the cache; if it is a name to come, write"),
        (["pin", "sha256:abcd1234"], NOT_FOUND, "no such digest is in the cache"),
        (["pin", "sha256:xyz"], USAGE, "is no digest"),
        (["pin", "app:1", "--until", "yesterday"], USAGE, "is no time to come"),
        (["pin", "app:1", "--until", "2001-01-01"], USAGE, "has passed; write a time to come"),
        (["pin", "app:1", "--until", ""], USAGE, "is no time to come"),
        (["pin", "app:1", "--reason", "x" * 301], USAGE, "at most 300 characters are kept"),
        (["pin", "app:1", "tool:2"], USAGE, "unexpected extra argument"),
    ],
    ids=str,
)
def test_what_is_refused(own_home: Path, call: Call, arguments: list[str], code: int, said: str) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (code, "")
    assert said in sentence(done.err)
    assert not own_home.exists()


def test_prune_and_remove(home: Path, call: Call) -> None:
    call("pin", "app:1", "--until", "2099-01-01")
    assert re.search(rf"^app:1 +KEEP .* pinned by \S+ until {OFFSET}$", call("prune", "-n").out, re.M)
    done = call("rm", "app:1")
    assert (done.code, done.out) == (IN_USE, "")
    what, ends = sentence(done.err).split("; ")
    assert re.fullmatch(r"app:1 is pinned by \S+", what)
    assert ends == "`msb-cache unpin app:1` ends that, `remove --force` removes it all the same"
    assert call("rm", "-n", "app:1").code == IN_USE
    assert call("prune", "-y").code == 0
    assert call("list", "-q").lines == ["app:1"]
    assert "Pinned:" in call("why", "app:1").out
    assert call("rm", "-f", "app:1").code == 0
    assert call("pins", "--format", "json").json[0]["here"] is False


def test_a_hint_can_be_typed_as_it_is(home: Path, call: Call) -> None:
    call("pin", TOOL.digest)
    said = sentence(call("rm", "example.org/team/tool:2").err)
    (command,) = re.findall(r"`msb-cache (unpin [^`]*)`", said)
    assert call(*command.split()).code == 0
    assert call("rm", "example.org/team/tool:2").code == 0
    # Of a manifest without a name nothing is promised that force does not do.
    call("pin", APP.digest)
    call("rm", "-f", "app:1", "app:latest")
    for flags in ([], ["-f"]):
        done = call("rm", *flags, APP.digest)
        assert done.code == IN_USE
        assert sentence(done.err).endswith(f"; `msb-cache unpin {APP.digest[:19]}` ends that")


def test_one_that_has_ended(home: Path, call: Call) -> None:
    """As the command sees it now, and as it was."""
    with ImageCache(home) as cache:
        came = cache.events(reverse=True, limit=1)[0].recorded_at_ns
    actor = Actor(user="alice", uid=1, host="h", program="test")
    # A clock that is behind: the log's times do not go back, so the end is what lies between.
    with ImageCache(home, actor=actor, clock=lambda: came - 9 * DAY) as cache:
        pin = cache.pin("app:1", until="2 days")
        cache.hold("app:1", "sandbox:dev", until="2 days")
        seq = cache.events(reverse=True, limit=1)[0].seq
    assert pin.until_ns == came - 7 * DAY
    assert call("pins").err == "Nothing is pinned.\n"
    assert call("holders").err == "Nobody holds anything.\n"
    assert "Pinned by" not in call("inspect", "app:1").out
    assert call("info", "--format", "json").json["pins"] == 0
    assert call("pins", "--as-of", f"@{seq}").code == 0
    assert call("unpin", "app:1").code == NOT_FOUND
    assert call("rm", "app:1").code == 0


def test_with_the_installed_program(loaded: Path) -> None:
    """In processes of its own, as people run it."""
    assert execute("pin", "app:1", "--reason", "the demo", "--until", "friday").code == 0
    shown = execute("pins")
    assert shown.code == 0
    assert "the demo" in shown.lines[1]
    assert execute("rm", "app:1", "app:latest").code == IN_USE
    assert execute("rm", "-n", "*").code == IN_USE
    pruned = execute("prune", "-y", "--grace", "0s")
    assert pruned.code == 0
    assert execute("list", "-q").lines == ["app:1"]
    assert execute("unpin", "app:1").err == "  ✓ Unpinned   app:1\n"
    assert execute("unpin", "app:1").code == NOT_FOUND
    assert execute("prune", "-y", "--max-delete", "0").code == 5
    assert execute("prune", "-y", "--unused-for", "0s", "--grace", "0s").code == 0
    assert execute("list", "-q").lines == []
    gone = execute("why", "app:1")
    assert "  Because:       idle under a minute, over 0s" in gone.lines
    assert execute("verify").code == 0


def test_in_a_home_that_msb_keeps(
    own_home: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """msb itself knows no pins, so it is never asked for more than what may go."""
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(APP)
    fake.load(TOOL)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    done = call("pin", "app:1")
    assert done.code == 0
    assert (
        "msb keeps this home, and its own `msb image prune` and `msb image rm` do not know this pin"
        in done.err
    )
    listed = call("pins")
    assert "do not know pins" in listed.err
    assert call("pin", "app:1", "--format", "json").json["enforced"] is False
    assert call("rm", "app:1").code == IN_USE
    assert call("prune", "-n", "-q").lines
    assert call("prune", "-y").code == 0
    assert call("list", "-q").lines == ["app:1"]
    call("pin", APP.digest)
    call("unpin", "app:1")
    refused = call("rm", "-f", "app:1")
    assert refused.code == IN_USE
    assert sentence(refused.err) == (
        "app:1 is pinned by its digest, which msb does not know, so it would delete what is kept; "
        f"`msb-cache unpin {APP.digest[:19]}` ends that"
    )
    assert call("prune", "-y").err == "Nothing was pruned.\n"
    call("unpin", APP.digest)
    assert call("prune", "-y", "--unused-for", "0s", "--grace", "0s").code == 0
    assert call("list", "-q").lines == []
