"""What kind of home this is: which engine changes its cache and why, and how much there is."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.engine import Engine
from msb_cache.engines.leftovers import Leftover
from msb_cache.errors import LogError, MsbProgramError
from msb_cache.home import reserve
from msb_cache.home.ledger import Ledger
from msb_cache.migrations import SCHEMA_VERSION
from msb_cache.msb import schema as msb_schema
from msb_cache.msb.program import find_program
from msb_cache.projections import deletions, restored
from msb_cache.projections.moment import LASTS
from msb_cache.queries.as_of import known_since
from msb_cache.shapes import Result, Time, fields

_TIMES = ("began_at", "known_since", "synced_at", "restored_at")


@dataclass(frozen=True)
class HomeInfo(Result):
    """A home, its engine and its counts. Times in ns since the epoch, UTC; sizes in bytes.

    Attributes:
        home: its absolute path.
        engine: ``msb`` where ``db/msb.db`` exists, so that msb changes the cache, else ``msb-cache``; of a
            home that is not made yet, the one that will keep it.
        why: the reason for that, a sentence.
        writable: whether pull, load, remove and prune can work here.
        program: the msb that would be run; None: there is none.
        program_version: what it says of itself.
        msb_schema: the newest migration of msb's database, of those that this msb-cache was not tried with
            if there are any.
        msb_schema_note: a sentence about such a schema; None: it was tried.
        database: where the log is.
        schema: the version of its schema; None: there is no log yet.
        events: how many events the log has.
        log_id: which log it is.
        began_at: when its first event was recorded.
        known_since: since when it knows what is in the home; later than that where msb's index was first
            seen later.
        synced_at: when it was last compared with msb's index.
        images, manifests, layers, holds, pins: how many there are in the index.
        layer_bytes: what the layers' EROFS images measure together.
        flat_roots: how many flat roots there are, of images or left behind by msb, which deletes none.
        flat_bytes, flat_allocated_bytes: how long they are together, and what they take of the disk.
        reserve: what is kept free for a deletion on a full disk.
        unfinished: deletions that run now, or were cut short.
        leftovers: files that earlier deletions had to leave; the next one tries again.
        restored_at: when the log was put back to a backup, if no person has confirmed that yet.
        events_lost: how many events that took out; None: it is not known, or was confirmed.
    """

    home: Path
    engine: Literal["msb", "msb-cache"]
    why: str
    writable: bool
    program: Path | None
    program_version: str | None
    database: Path
    msb_schema: str | None = None
    msb_schema_note: str | None = None
    schema: int | None = None
    events: int = 0
    log_id: str | None = None
    began_at: int | None = None
    known_since: int | None = None
    synced_at: int | None = None
    images: int = 0
    manifests: int = 0
    layers: int = 0
    holds: int = 0
    pins: int = 0
    layer_bytes: int = 0
    flat_roots: int = 0
    flat_bytes: int = 0
    flat_allocated_bytes: int = 0
    reserve: int = 0
    unfinished: tuple[str, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    restored_at: int | None = None
    events_lost: int | None = None

    def _shape(self) -> dict[str, Any]:
        return fields(self) | {name: Time.or_none(getattr(self, name)) for name in _TIMES}


def info(ledger: Ledger, engine: Engine, *, is_new: bool = False, wants_msb: bool = False) -> HomeInfo:
    """Describe a home and the engine that it has; reads only.

    Args:
        ledger: the home.
        engine: what it has now.
        is_new: it is not made yet.
        wants_msb: msb will keep it then, if there is one.
    """
    layout = ledger.layout
    path, version, problem = None, None, ""
    try:
        program = find_program(layout.home)
        if program is not None:
            path, version = program.path, program.version()
    except MsbProgramError as error:
        program, problem = None, f": {error}"
    owned, name = engine.name == "msb", engine.name
    marker = os.path.relpath(layout.msb_database, layout.home)
    why = f"{marker} is there, so msb keeps this cache" if owned else f"there is no {marker}"
    if owned and program is None:
        why += f", but no msb was found, so it is only read{problem}"
    if is_new:
        name = "msb" if wants_msb and program is not None else "msb-cache"
        why = f"the home is new, and {name} will keep it"
        if wants_msb and name != "msb":
            why = f"the home is new, and no msb is found{problem}"
    theirs = msb_schema.read(layout.msb_database) if owned else None
    with ledger.read() as connection:
        counts = {} if connection is None else _counts(connection)
        row = None if connection is None else restored.unconfirmed(connection)
        since = None if connection is None else known_since(connection, owned)
        return HomeInfo(
            home=Path(layout.home),
            engine=name,
            why=why,
            writable=(not owned or program is not None) and _may_write(ledger),
            program=path,
            program_version=version,
            database=Path(layout.database),
            msb_schema=None if theirs is None else theirs.version,
            msb_schema_note=None if theirs is None else theirs.note,
            schema=None if connection is None else SCHEMA_VERSION,
            reserve=reserve.held(layout),
            unfinished=() if connection is None else tuple(deletions.unfinished(connection)),
            leftovers=() if connection is None else tuple(engine.leftovers(connection)),
            known_since=None if since is None else since[1],
            restored_at=None if row is None else row.restored_at,
            events_lost=None if row is None else row.events_lost,
            **counts,
            **_flat_roots(layout),
        )


def _may_write(ledger: Ledger) -> bool:
    try:
        ledger.check_writable()
    except LogError:
        return False
    return True


def _flat_roots(layout: Layout) -> dict[str, Any]:
    found = layout.sizes("flat")
    paths = [layout.artifact("flat", digest) for digest in found]
    return {
        "flat_roots": len(found),
        "flat_bytes": sum(found.values()),
        "flat_allocated_bytes": sum(files.measure_artifact("flat", path) or 0 for path in paths),
    }


def _counts(connection: sqlite3.Connection) -> dict[str, Any]:
    cursor = connection.execute(
        "SELECT (SELECT coalesce(max(seq), 0) FROM events) AS events, "  # noqa: S608
        "(SELECT subject FROM events WHERE seq = 1) AS log_id, "
        "(SELECT recorded_at FROM events WHERE seq = 1) AS began_at, "
        "(SELECT synced_at FROM sync_state) AS synced_at, "
        "(SELECT count(*) FROM image) AS images, (SELECT count(*) FROM manifest) AS manifests, "
        "(SELECT count(*) FROM layer) AS layers, "
        f"(SELECT count(*) FROM hold WHERE {LASTS}) AS holds, "
        f"(SELECT count(*) FROM pin WHERE {LASTS}) AS pins, "
        "(SELECT coalesce(sum(erofs_bytes), 0) FROM layer) AS layer_bytes"
    )
    return dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
