"""Logs for tests: a ledger in a temporary home, and a few events of the usual life of an image."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlite_utils import Database

from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, NewEvent
from msb_cache.home.index_cache import keep_live
from msb_cache.home.ledger import Ledger
from msb_cache.migrations import APPLICATION_ID
from msb_cache.migrations.schema import migrations

ACTOR = Actor(user="alice", uid=1000, host="host", program="test")
PYTHON = "docker.io/library/python:3.12"
SOURCE = ev.Source(kind="archive", name="/tmp/python.tar")


def digest(number: int | str) -> str:
    """Return a well-formed digest that is the same for the same number."""
    import hashlib

    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


def ticking(start: int = 1_800_000_000_000_000_000, step: int = 1_000_000_000) -> Iterator[int]:
    """Yield times, one second apart."""
    while True:
        yield start
        start += step


def layer(number: int | str, size: int = 1000) -> ev.Layer:
    """Return a layer with digests made from a number."""
    media_type = "application/vnd.oci.image.layer.v1.tar"
    return ev.Layer(
        diff_id=digest(f"diff{number}"), blob_digest=digest(f"blob{number}"), media_type=media_type, size=size
    )


def manifest_added(layers: Sequence[ev.Layer]) -> ev.ManifestAdded:
    """Return the event of a manifest with these layers."""
    return ev.ManifestAdded(
        media_type="application/vnd.oci.image.manifest.v1+json",
        config_digest=digest("config"),
        architecture="amd64",
        os="linux",
        config=ev.ImageConfig(env=("A=1",), cmd=("/bin/sh",)),
        layers=tuple(layers),
        total_size=sum(layer.size or 0 for layer in layers),
        fsmeta_size=4096,
        vmdk_size=500,
    )


def pulled(manifest: str, *, previous: str | None = None) -> ev.ImagePulled:
    """Return the event of a load that pointed a reference at a manifest."""
    return ev.ImagePulled(manifest_digest=manifest, previous_digest=previous, changed=True, source=SOURCE)


def some_events() -> list[NewEvent]:
    """Return six events: an image comes, is used, held, released, used again and dropped."""
    return [
        NewEvent(pulled(digest(1)), PYTHON),
        NewEvent(ev.ImageUsed(manifest_digest=digest(1)), PYTHON),
        NewEvent(ev.ImageHeld(holder="sandbox:dev"), digest(1)),
        NewEvent(ev.ImageReleased(holder="sandbox:dev"), digest(1)),
        NewEvent(ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:x"), PYTHON),
        NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="external"), PYTHON),
    ]


_made: list[Ledger] = []


def close_ledgers() -> None:
    """Close every ledger that ``new_ledger`` has made."""
    while _made:
        _made.pop().close()


def new_ledger(home: Path, events: Sequence[NewEvent], *, clock: Iterator[int] | None = None) -> Ledger:
    """Return a ledger in ``home`` with these events, each in a transaction of its own.

    It is closed when the test ends.
    """
    times = clock or ticking()
    layout = Layout(home)
    ledger = Ledger(
        layout,
        actor=ACTOR,
        clock=lambda: next(times),
        committed=lambda connection, before, seq: keep_live(connection, before, seq, layout.snapshots),
    )
    _made.append(ledger)
    for number, event in enumerate(events):
        with ledger.write(f"operation-{number}") as transaction:
            transaction.append([event])
    return ledger


def downgrade(path: Path, until: str) -> None:
    """Turn a database into what an older release left: the log alone."""
    old = path.with_name("old.db")
    connection = sqlite3.connect(old, isolation_level=None)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrations.apply(Database(connection), stop_before=until)
    connection.execute("ATTACH DATABASE ? AS new", (str(path),))
    connection.execute("INSERT INTO events SELECT * FROM new.events ORDER BY seq")
    connection.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    old.rename(path)


DONE, CLAIMED = "aaaa-1", "aaab-2"
"""Two deletions: a prune of ours, and a removal that msb carries out."""


def ledger_with_deletions(home: Path) -> Ledger:
    """Return a new log with a prune that kept and could not delete some, and a removal that has not ended."""
    x, y, z = map(digest, "xyz")

    def planned(kind: ev.ArtifactKind, subject: str) -> ev.PlannedArtifact:
        return ev.PlannedArtifact(kind=kind, subject=subject, bytes=10)

    ledger = new_ledger(home, [NewEvent(pulled(digest(1)), PYTHON)])
    layers = tuple(planned("layer", each) for each in (x, y, z))
    with ledger.write(DONE) as transaction:
        decided = ev.DeletionStarted(
            kind="prune", policy={"rule": "unused"}, artifacts=layers[:2], part=1, parts=2
        )
        more = ev.DeletionStarted(
            kind="prune", policy={"rule": "unused"}, artifacts=layers[2:], part=2, parts=2
        )
        transaction.append(
            [
                NewEvent(decided, DONE),
                NewEvent(more, DONE),
                NewEvent(ev.LayerDeleted(bytes=9, recovered=True), x),
                NewEvent(ev.ArtifactKept(kind="layer", reason="held", holders=("sandbox:dev",)), y),
                NewEvent(ev.ArtifactDeleteFailed(kind="layer", errno=1, reason="not permitted"), z),
                NewEvent(ev.DeletionFinished(outcome="partial"), DONE),
            ]
        )
    with ledger.write(CLAIMED) as transaction:
        asked = (planned("metadata", PYTHON), planned("layer", x))
        started = ev.DeletionStarted(kind="remove", policy={"force": True}, artifacts=asked, engine="msb")
        transaction.append([NewEvent(started, CLAIMED)])
    return ledger
