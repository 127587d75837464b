"""An image's history as a timeline: of one, of several, of a digest, and as it grows."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

from msb_cache import ImageCache
from tests.cli.support import APP, APP_NEXT, BASE, TOOL, Call, Following, every, on_terminal, seqs, written

KINDS = "manifest|metadata|fsmeta|vmdk|layer"


def whats(call: Call, reference: str) -> list[str]:
    """What happened, line by line of the timeline."""
    known = rf"(loaded|used|held|moved|released|removed|(?:{KINDS}) deleted)"
    found = [re.search(rf"(?:^| ){known} +(?:sha256:|-)", line) for line in call("history", reference).lines]
    assert all(found)
    return [match[1] for match in found if match]


class TestHistory:
    def test_a_whole_life(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("use", "app:1", "--holder", "sandbox:dev")
        call("hold", "app:1", "sandbox:dev")
        call("load", "-q", "-i", written(tmp_path / "next.tar", APP_NEXT))
        call("release", "sandbox:dev")
        call("rm", "app:1", "app:latest", "--reason", "no longer needed")
        call("load", "-q", "-i", tmp_path / "app.tar")
        done = call("history", "app:1")
        assert (done.code, done.err) == (0, "")
        timeline = whats(call, "app:1")
        assert timeline[:5] == ["loaded", "used", "held", "moved", "released"]
        assert timeline[5] == "removed"
        assert set(timeline[6:-1]) == {
            "manifest deleted",
            "metadata deleted",
            "fsmeta deleted",
            "vmdk deleted",
            "layer deleted",
        }
        assert timeline[-1] == "loaded"
        by_hand = done.out
        assert "by sandbox:dev" in by_hand
        assert f"was {APP.digest}, from next.tar" in by_hand
        assert "no longer needed" in by_hand
        assert " freed" in by_hand
        assert re.search(r"\w+@\S+", done.lines[0])

    def test_json(self, home: Path, call: Call) -> None:
        call("rm", "app:1", "--reason", "why not")
        found = call("history", "app:1", "--format", "json").json
        assert [event["type"] for event in found][:2] == ["image.pulled", "image.removed"]
        assert [event["seq"] for event in found] == sorted(event["seq"] for event in found)
        removed = found[1]
        assert removed["subject"] == "docker.io/library/app:1"
        assert removed["actor"]["reason"] == "why not"
        assert removed["actor"]["program"] == "msb-cache"
        assert re.fullmatch("[0-9a-f]{64}", removed["hash"])

    def test_what_others_share_stays_out(self, home: Path, call: Call) -> None:
        """tool:2 goes, app:1 stays: the shared layer is not reported as deleted."""
        call("rm", "example.org/team/tool:2")
        subjects = {
            event["subject"]
            for event in call("history", "example.org/team/tool:2", "--format", "json").json
            if event["type"] == "layer.deleted"
        }
        assert subjects == {TOOL.layers[1].diff_id}
        assert not [what for what in whats(call, "app:1") if "deleted" in what]

    def test_a_layer_shared_by_what_went_together(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        shared = [
            event
            for event in call("history", "app:1", "--format", "json").json
            if event["type"] == "layer.deleted" and event["subject"] == BASE.diff_id
        ]
        assert [event["shared"] for event in shared] == [True]
        assert "shared with other images" in call("history", "app:1").out

    def test_of_an_image_long_gone(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        assert call("inspect", "app:1").code == 3
        assert call("history", "app:1").code == 0
        assert "by a prune" in call("history", "library/app:1").out


def test_history_in_reverse_and_in_part(long: Path, call: Call) -> None:
    whole = seqs(call, "history", "app:1")
    assert len(whole) > 3
    assert seqs(call, "history", "app:1", "--reverse") == whole[::-1]
    assert seqs(call, "history", "app:1", "-n", 2) == whole[-2:]
    assert seqs(call, "history", "app:1", "-n", 2, "--reverse") == whole[::-1][:2]


def test_history_of_several_and_of_a_digest(long: Path, call: Call) -> None:
    one, latest = (set(seqs(call, "history", name)) for name in ("app:1", "app:latest"))
    assert set(seqs(call, "history", "app:*")) == one | latest
    assert seqs(call, "history", "app:?") == sorted(one)
    assert seqs(call, "history", "*") == sorted(
        {*one, *latest, *seqs(call, "history", "example.org/team/tool:2")}
    )
    of_next = every(call, "history", APP_NEXT.digest[7:15])
    assert [event["type"] for event in of_next] == [
        "manifest.added",
        "image.pulled",
        "image.held",
        "image.pulled",
    ]
    assert all(APP_NEXT.digest in json.dumps(event) for event in of_next)
    of_old = every(call, "history", APP.digest)
    assert [event["type"] for event in of_old] == [
        "manifest.added",
        "image.pulled",
        "image.pulled",
        "image.held",
        "image.pulled",  # where it moved away
    ]


def test_follow_a_history(home: Path) -> None:
    with ImageCache(home) as cache:
        for _ in range(15):
            cache.use("app:1")
        following = Following(home, "history", "app:1")
        following.wait_for("image.used", 10)
        cache.use("example.org/team/tool:2")
        cache.remove("app:latest")
        cache.remove("app:1")
        following.wait_for("layer.deleted")
        of_its_own = len(cache.history("app:1"))
        followed = 16 - 10
    assert following.end(signal.SIGINT) == (0, "")
    assert len(following.lines) == of_its_own - followed
    assert not any("tool:2" in line for line in following.lines)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}  ", line) for line in following.lines)


def test_on_80_columns_a_history_leaves_what_happened_whole(home: Path) -> None:
    with ImageCache(home) as cache:
        cache.hold("app:1", "snapshot:" + "nightly-of-everything-" * 4)
        cache.release("snapshot:" + "nightly-of-everything-" * 4)
    found = on_terminal(["history", "app:1"], NO_COLOR="1").said.splitlines()
    assert all(len(line) <= 80 for line in found)
    digest = APP.digest.removeprefix("sha256:")[:12]
    held = next(at for at, line in enumerate(found) if re.search(rf"  held +{digest}", line))
    below = "".join(line.strip() for line in found[held + 1 : held + 4])
    assert below.startswith(f"bysnapshot:{'nightly-of-everything-' * 4}")


def test_how_it_was_typed_is_said_where_that_is_not_the_familiar_form(call: Call, tmp_path: Path) -> None:
    written(tmp_path / "tool.tar", TOOL)
    for name in ("odd:1", "index.docker.io/library/odd:1"):
        assert call("load", "-i", tmp_path / "tool.tar", "--tag", name).code == 0
    first, again = call("history", "odd:1").out.splitlines()
    assert " as " not in first
    assert "as index.docker.io/library/odd:1, from tool.tar" in again
