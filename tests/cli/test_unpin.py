"""The end of a pin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import APP, NOT_FOUND, USAGE, Call, fingerprint, sentence


@pytest.mark.parametrize("spelling", ["app:1", "library/app:1", "docker.io/library/app:1"])
def test_by_any_spelling(home: Path, call: Call, spelling: str) -> None:
    call("pin", "app:1")
    done = call("unpin", spelling)
    assert (done.code, done.out, done.err) == (0, "", "  ✓ Unpinned   app:1\n")
    assert call("pins").err == "Nothing is pinned.\n"


@pytest.mark.parametrize(
    "text", [APP.digest, APP.digest[7:], APP.digest[:15], APP.digest[7:11], f"x@{APP.digest}"]
)
def test_by_a_digest(home: Path, call: Call, text: str) -> None:
    call("pin", APP.digest)
    assert call("unpin", text, "-q").err == ""
    assert call("pins").err == "Nothing is pinned.\n"


def test_of_what_is_gone(home: Path, call: Call) -> None:
    call("pin", "app:1")
    call("pin", APP.digest)
    call("rm", "-f", "app:1", "app:latest")
    for text in ("app:1", APP.digest[7:19]):
        assert call("unpin", text).code == 0
    assert call("prune", "-y", "--format", "json").json["manifests_removed"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["unpin"], USAGE, "Missing argument"),
        (["unpin", "app:1"], NOT_FOUND, "'app:1' is not pinned; `msb-cache pins` lists what is"),
        (["unpin", "abcd"], NOT_FOUND, "'abcd' is not pinned"),
        (["unpin", APP.digest], NOT_FOUND, "is not pinned"),
        (["unpin", "*"], USAGE, "has wildcards"),
        (["unpin", "App"], USAGE, "must be lower case"),
        (["unpin", ""], USAGE, "an empty text is not an image reference"),
    ],
    ids=str,
)
def test_what_is_refused(
    own_home: Path, call: Call, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    for _ in range(2):  # without a home, and in one where something else is pinned
        before = fingerprint(own_home)
        done = call(*arguments)
        assert (done.code, done.out) == (code, "")
        assert said in sentence(done.err)
        assert fingerprint(own_home) == before
        call("pin", "other:1")


def test_the_reason_is_kept(home: Path, call: Call) -> None:
    call("pin", "app:1")
    call("unpin", "app:1", "--reason", "the demo is over")
    assert "the demo is over" in call("history", "app:1").lines[-1]
