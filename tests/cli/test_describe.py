"""Events in words as the terminal has them."""

from __future__ import annotations

import json

import msgspec
import pytest

from msb_cache.cli import look
from msb_cache.cli.describe import describe
from msb_cache.cli.look import absolute
from msb_cache.eventstore import events as ev
from msb_cache.shapes import jsonable
from tests.cli.support import RFC3339, stored
from tests.logs import PYTHON, digest, layer, manifest_added, pulled

DIGEST = digest(1)
OPERATION = "01a208de-7af1-7b41-9b6b-151e9b4ceb8a"


@pytest.mark.parametrize(
    ("data", "subject", "line"),
    [
        (pulled(digest(1)), PYTHON, ("loaded", "green", DIGEST, "from python.tar")),
        (
            pulled(digest(1), previous=digest(2)),
            PYTHON,
            ("moved", "green", DIGEST, f"was {digest(2)}, from python.tar"),
        ),
        (
            ev.ImagePulled(
                manifest_digest=digest(1),
                changed=True,
                source=ev.Source(kind="registry", name="ghcr.io"),
                bytes_fetched=2048,
                bytes_reused=1024,
            ),
            PYTHON,
            ("pulled", "green", DIGEST, "from ghcr.io, 2.0 KiB new, 1.0 KiB reused"),
        ),
        (
            ev.ImagePulled(
                manifest_digest=digest(1), changed=False, source=ev.Source(kind="archive", name="-")
            ),
            PYTHON,
            ("loaded", "green", DIGEST, "from stdin, unchanged"),
        ),
        (
            ev.ImagePulled(
                manifest_digest=digest(1),
                changed=True,
                source=ev.Source(kind="microsandbox"),
                bytes_fetched=0,
            ),
            PYTHON,
            ("pulled", "green", DIGEST, "all layers already here"),
        ),
        (ev.ImagePullFailed(reason="no such host"), PYTHON, ("pull failed", "red", None, "no such host")),
        (ev.ImageUsed(manifest_digest=digest(1)), PYTHON, ("used", "cyan", DIGEST, "")),
        (
            msgspec.structs.replace(pulled(digest(1)), observed_since_ns=0),
            PYTHON,
            ("loaded", "green", DIGEST, f"observed since {absolute(0)}, from python.tar"),
        ),
        (
            ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:a"),
            PYTHON,
            ("used", "cyan", DIGEST, "by sandbox:a"),
        ),
        (ev.ImageHeld(holder="sandbox:a"), digest(1), ("held", "yellow", DIGEST, "by sandbox:a")),
        (ev.ImageReleased(holder="sandbox:a"), digest(1), ("released", "yellow", DIGEST, "by sandbox:a")),
        (
            ev.ImageRemoved(manifest_digest=digest(1), cause="prune"),
            PYTHON,
            ("removed", "red", DIGEST, "by a prune"),
        ),
        (
            ev.ImageRemoved(manifest_digest=digest(1), cause="remove", forced=True),
            PYTHON,
            ("removed", "red", DIGEST, "forced while held or pinned"),
        ),
        (
            ev.LayerDeleted(bytes=3000, recovered=True),
            digest(1),
            ("layer deleted", "red", DIGEST, "2.9 KiB freed, found gone while recovering"),
        ),
        (ev.MetadataDeleted(), PYTHON, ("metadata deleted", "red", None, "")),
        (
            ev.ArtifactKept(kind="vmdk", reason="held", holders=("sandbox:a", "sandbox:b")),
            digest(1),
            ("vmdk kept", "yellow", DIGEST, "in use by sandbox:a, sandbox:b"),
        ),
        (
            ev.ArtifactDeleteFailed(kind="layer", errno=13, reason="Permission denied"),
            digest(1),
            ("layer stuck", "red", DIGEST, "Permission denied"),
        ),
        (
            manifest_added([layer(1), layer(2)]),
            digest(1),
            ("added", "green", DIGEST, "linux/amd64, 2 layers, 2.0 KiB"),
        ),
        (
            ev.DeletionFinished(outcome="partial", recovered=True),
            OPERATION,
            ("finished", "red", None, "partial, by recovery"),
        ),
        (ev.LogCreated(log_id="0" * 32, format=1), "0" * 32, ("log created", "white", None, "format 1")),
        (
            ev.LogCreated(
                log_id="0" * 32, format=1, previous_log_id="1" * 32, previous_size=7, previous_head="2" * 64
            ),
            "0" * 32,
            ("log begun anew", "white", None, f"format 1, from the 7 events of log {'1' * 32}"),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ev.Event) else "",
)
def test_an_event_in_a_line(data: ev.Event, subject: str, line: tuple[str, ...]) -> None:
    found = describe(stored(data, subject))
    assert (found.what, found.colour, found.digest, found.details) == line


def test_what_a_detail_names_is_whole_but_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = msgspec.structs.replace(pulled(digest(1), previous=digest(2)), undoes=OPERATION)
    said = "after deletion {}, was {}, from python.tar"
    assert describe(stored(moved, PYTHON)).details == said.format(OPERATION, digest(2))
    monkeypatch.setattr(look, "room", lambda *, err=False: 80)
    assert describe(stored(moved, PYTHON)).details == said.format(OPERATION[:13], digest(2)[7:19])


def test_fields_are_ready_for_json_and_keep_the_nanosecond() -> None:
    event = stored(manifest_added([layer(1)]), digest(1))
    found = json.loads(json.dumps(jsonable(event)))
    assert found["occurred_at"] == "2027-01-15T08:00:00.000000007+00:00"
    assert RFC3339.fullmatch(found["recorded_at"])
    assert (found["type"], found["hash"]) == ("manifest.added", "ab" * 32)
    assert found["data"]["layers"][0]["diff_id"] == layer(1).diff_id
    assert "shared" not in found
