"""Logs of events by chance, such as no cache would write too, and putting logs into a place as if shipped.

Nobody has lived these, as ``random_lives`` are: all types of events are in them, in any order.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import astuple, replace

from msb_cache.audit.admit import admit
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.chain import GENESIS, link
from msb_cache.eventstore.events import EVENT_TYPES
from msb_cache.eventstore.store import NewEvent
from msb_cache.fleet.file import FleetFile
from msb_cache.fleet.place import Place
from msb_cache.fleet.schema import EVENT_COLUMNS
from msb_cache.fleet.writing import Writing, writable
from msb_cache.projections.fold import Fold
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import Tables
from tests.logs import ACTOR, digest, layer, manifest_added, pulled
from tests.samples import OPERATION, new_sample

Row = tuple[Any, ...]
REFERENCES = [f"docker.io/library/{name}" for name in ("a:1", "b:1", "b:2")]
MANIFESTS = {digest(n): [layer(x) for x in layers] for n, layers in enumerate(["x", "xy", "yz", "xyzx"])}
DIGESTS = [*MANIFESTS]
BEGIN = 1_800_000_000_000_000_000
_SAMPLES = [new_sample(each) for each in EVENT_TYPES if each is not ev.LogCreated]


def _deletion(chance: random.Random) -> NewEvent:
    going = ev.Judged(subject=chance.choice(REFERENCES), rule="unused")
    artifact = ev.PlannedArtifact(kind="layer", subject=layer(chance.choice("xyz")).diff_id, bytes=10)
    data = ev.DeletionStarted(kind="prune", policy={}, artifacts=(artifact,), going=(going,))
    return NewEvent(data, OPERATION)


def _event(chance: random.Random) -> NewEvent:
    reference, manifest = chance.choice(REFERENCES), chance.choice(DIGESTS)
    holder, run = chance.choice(["sandbox:one", "snapshot:two"]), chance.choice(["1@a", "2@b", None])
    of_layer = chance.choice(MANIFESTS[manifest]).diff_id
    return chance.choice(
        [
            NewEvent(manifest_added(MANIFESTS[manifest]), manifest),
            NewEvent(pulled(manifest), reference),
            NewEvent(pulled(manifest), reference),
            NewEvent(ev.ImageUsed(manifest_digest=manifest, holder=holder, run=run), reference),
            NewEvent(ev.ImageUseEnded(manifest_digest=manifest, run=run or "1@a", how="ended"), reference),
            NewEvent(ev.ImageHeld(holder=holder), manifest),
            NewEvent(ev.ImageReleased(holder=holder), manifest),
            NewEvent(ev.ImagePinned(until_ns=chance.choice([None, BEGIN])), reference),
            NewEvent(ev.ImageUnpinned(), reference),
            NewEvent(ev.ImageRemoved(manifest_digest=manifest, cause="external"), reference),
            _deletion(chance),
            NewEvent(ev.ManifestDeleted(), manifest),
            NewEvent(ev.LayerDeleted(bytes=9, needed=chance.random() < 0.3), of_layer),
            NewEvent(ev.ArtifactKept(kind="layer", reason="busy"), of_layer),
            NewEvent(ev.DeletionFinished(outcome="partial"), OPERATION),
            chance.choice(_SAMPLES),
        ]
    )


def random_log(seed: int, count: int) -> list[Row]:
    """Return a log of so many events as rows of ``EVENT_COLUMNS``; the same for the same seed."""
    chance = random.Random(seed)
    log_id = chance.randbytes(16).hex()
    actor = msgspec.json.encode(replace(ACTOR, host=f"host-{seed}")).decode()
    operations = [f"0000000{number}-0000-4000-8000-000000000000" for number in range(4)]
    outcomes: set[tuple[str, object, str]] = set()
    rows: list[Row] = []
    previous = GENESIS
    events = [NewEvent(ev.LogCreated(log_id=log_id, format=1), log_id)]
    events += [_deletion(chance) for _ in range(min(3, count - 1))]
    events += [_event(chance) for _ in range(count - len(events))]
    for seq, new in enumerate(events, 1):
        identifier = f"01a00000-0000-7000-8000-{chance.randrange(16**12):012x}"
        operation = operations[seq - 2] if 1 < seq < 5 else chance.choice(operations)
        outcome = (operation, getattr(new.event, "kind", "manifest"), new.subject)
        if outcome in outcomes:  # an artifact has one outcome in a deletion
            operation = f"{seq:08x}-0000-4000-8000-000000000000"
        outcomes.add(outcome)
        subject = log_id if new.event.about == "log" else new.subject
        if new.subject == OPERATION:
            subject = operation
        columns = (
            *(seq, identifier, new.event.type, new.event.version, subject, operation),
            *(BEGIN + seq, BEGIN + seq, actor, msgspec.json.encode(new.event).decode()),
        )
        previous = link(previous, columns)
        admit((columns, previous))
        rows.append((log_id, *columns, previous))
    return rows


def put(writing: Writing, rows: Sequence[Row], *, role: str = "host") -> None:
    """Put the next events of a log into a place, as ``append()`` leaves them there."""
    log_id, last = rows[0][0], rows[-1]
    writing.insert("events", EVENT_COLUMNS, rows)
    writing.run("DELETE FROM msb_cache.head WHERE log_id = ?", (log_id,))
    writing.run(
        "INSERT INTO msb_cache.head "
        "(log_id, role, size, hash, recorded_at, claimed_at, seen_at, host_size) "
        "VALUES (?, ?, ?, ?, ?, 1, 1, ?)",
        (log_id, role, last[1], last[-1], last[8], last[1]),
    )


def rows_of_fold(rows: Iterable[Row]) -> dict[str, set[Row]]:
    """Return what a fold of a log in memory has, without images' configurations."""
    fold = Fold(Tables())
    for row in rows:
        fold.apply([admit((row[1:-1], row[-1]))])
    found = {}
    for table in fold.tables.all():
        if table.row_type.table == "manifest":
            for each in table.rows.values():
                each.config = None
        found[table.row_type.table] = {astuple(each) for each in table.rows.values()}
    return found


def new_file(path: Path) -> FleetFile:
    """Make a fleet in a file, without a log."""
    found = FleetFile(str(path))
    with found.write(make=True):
        pass
    return found


def ship(place: Place, rows: Sequence[Row]) -> None:
    with writable(place) as into, into.transaction() as writing:
        put(writing, rows)


def ask(place: Place, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    with place.read() as reading:
        return reading.rows(sql, arguments)


def run(place: Place, sql: str, *arguments: object) -> None:
    with writable(place) as into, into.transaction() as writing:
        writing.run(sql, arguments)


def folded_rows(place: Place, log_id: str) -> dict[str, set[Row]]:
    found = {}
    with place.read() as reading:
        for row_type in ROW_TYPES:
            names = ", ".join(row_type.__struct_fields__)
            sql = f"SELECT {names} FROM msb_cache.{row_type.table} WHERE log_id = ?"
            found[row_type.table] = {*reading.rows(sql, (log_id,))}
    return found


def state(place: Place, log_id: str) -> tuple[Any, ...]:
    (found,) = ask(
        place, "SELECT seq, hash, host, problem FROM msb_cache.fold_state WHERE log_id = ?", log_id
    )
    return (found[0], bytes(found[1]), *found[2:])
