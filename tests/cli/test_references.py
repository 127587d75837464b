"""What a reference, a digest or its beginning means, wherever one is given."""

from __future__ import annotations

from pathlib import Path

from msb_cache import ImageCache
from tests.cli.support import APP, NOT_FOUND, TOOL, USAGE, Call, every, sentence


def test_digests_wherever_a_reference_does(home: Path, call: Call, tmp_path: Path) -> None:
    for text in (TOOL.digest, TOOL.digest[7:], TOOL.digest[:11], TOOL.digest[7:11]):
        assert call("inspect", text, "--format", "json").json["reference"] == "example.org/team/tool:2"
        assert call("list", "-q", text).lines == ["example.org/team/tool:2"]
        assert call("use", "-q", text).code == 0
        assert call("hold", "-q", text, "sandbox:x").code == 0
        assert call("save", "-q", text, "-o", tmp_path / "saved.tar").code == 0
    assert call("release", "-q", "sandbox:x").code == 0
    assert call("list", "-q", APP.digest[7:19]).lines == ["app:latest", "app:1"]
    # What acts on one reference wants to know which.
    for command in ("use", "remove"):
        done = call(command, APP.digest)
        assert (done.code, done.raw) == (USAGE, b"")
        assert "app:1" in sentence(done.err)
        assert "app:latest" in sentence(done.err)
    assert call("remove", "-q", TOOL.digest[7:15]).code == 0
    assert call("list", "-q", "example.org/*").code == NOT_FOUND


def test_an_exact_reference_wins(home: Path, call: Call, tmp_path: Path) -> None:
    name = TOOL.digest[7:13]
    call("load", "-q", "-i", tmp_path / "app.tar", "--tag", name)
    assert call("inspect", name, "--format", "json").json["digest"] == APP.digest
    assert {event["data"]["manifest_digest"] for event in every(call, "history", name)} == {APP.digest}
    assert call("inspect", f"sha256:{name}", "--format", "json").json["digest"] == TOOL.digest


def test_an_ambiguous_digest_lists_candidates(home: Path, call: Call) -> None:
    with ImageCache(home) as cache, cache._ledger.write("x") as transaction:
        from msb_cache.eventstore.store import NewEvent
        from tests.logs import layer, manifest_added, pulled

        for number in range(9):
            digest = "sha256:abcd" + f"{number}" * 60
            transaction.append(
                [
                    NewEvent(manifest_added([layer(number)]), digest),
                    NewEvent(pulled(digest), f"example.org/x:{number}"),
                ]
            )
    for command in ("inspect", "history", "use", "remove", "holders", "list", "save"):
        done = call(command, "abcd")
        assert (done.code, done.raw) == (USAGE, b"")
        said = sentence(done.err)
        assert said.startswith("several digests begin with 'abcd': sha256:abcd0000")
        assert said.endswith("and more; give more")
    assert call("inspect", "abcd3", "--format", "json").json["reference"] == "example.org/x:3"
