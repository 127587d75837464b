"""When an image was last used: by the time that an event occurred, not by its place in the log."""

from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.queries.last_used import idle
from tests.logs import PYTHON, digest, manifest_added, new_ledger, pulled

OTHER = "docker.io/library/app:1"


def test_the_latest_use_counts_however_late_it_was_learned_of(tmp_path: Path) -> None:
    def used(at: int, holder: str) -> NewEvent:
        return NewEvent(ev.ImageUsed(manifest_digest=digest(1), holder=holder), PYTHON, at)

    events = [
        NewEvent(manifest_added([]), digest(1)),
        NewEvent(pulled(digest(1)), PYTHON, 100),
        NewEvent(pulled(digest(1)), OTHER, 200),
        used(500, "sandbox:late"),
        used(300, "sandbox:early"),
    ]
    with new_ledger(tmp_path, events).read() as connection:
        assert connection is not None
        store = new_ledger(tmp_path / "unused", []).store(connection)
        found = idle(connection, store, 1000)
        assert [(each.reference, each.idle_ns) for each in found] == [(OTHER, 800), (PYTHON, 500)]
        assert [each.event and each.event.seq for each in found] == [4, 5]
        assert [each.reference for each in idle(connection, store, 1000, 501)] == [OTHER]
        assert idle(connection, store, 1000, 801) == []
