"""Take down what the bytes of files are that were there already, as first seen."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msb_cache.artifacts.kinds import KINDS
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home import checks
from msb_cache.home.checks import Check
from msb_cache.home.ledger import Transaction
from msb_cache.projections import digests, images
from msb_cache.projections.digests import Artifact

_MOMENT = 10**9
_PULL_TAKES = 3600 * 10**9
"""Nanoseconds between a file that a pull writes and the record of the reference, at the most."""


class Stamp(NamedTuple):
    """What changes of a file when another takes its place, or it is written to."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Measured(NamedTuple):
    """The digest of a file that looked so before it was read, and the one that the log has, or None."""

    artifact: Artifact
    path: Path
    stamp: Stamp
    digest: str
    before: str | None = None


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of the file at ``path`` itself; None: there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def digested(kind: ev.ArtifactKind, subject: str, digest: str, how: str) -> NewEvent:
    """Return the event that says from now on what the bytes of an artifact are."""
    algorithm = KINDS[kind].algorithm
    known = ev.ArtifactDigested(kind=kind, algorithm=algorithm, digest=digest, how=how)  # type: ignore[arg-type]
    return NewEvent(known, subject)


def record(
    transaction: Transaction, good: Mapping[Artifact, int | None], seen: Sequence[Measured]
) -> list[Artifact]:
    """Take note that files are as the log says, and what others are of which it says otherwise or nothing.

    Args:
        transaction: what it is written in.
        good: those that are, with their inodes.
        seen: the others.

    Returns:
        Those of the others whose digest the log has now. One that has changed meanwhile, or of which another
        process has recorded something else, is left out.
    """
    connection, new = transaction.connection, list[Artifact]()
    now = {**good}
    for each in seen:
        kind, subject = each.artifact
        if kind == "flat" and each.digest != subject:
            continue  # msb names it by its digest, so it has been altered
        known = digests.digest(connection, each.artifact)
        if stamp(each.path) != each.stamp:
            continue
        if (known and known.digest) == each.before:
            transaction.append([digested(kind, subject, each.digest, "seen")])  # type: ignore[arg-type]
        elif known is None or known.digest != each.digest:
            continue
        new.append(each.artifact)
        now[each.artifact] = each.stamp.inode
    checks.remember(connection, now, time.time_ns())
    return new


def rewritten_by_msb(connection: sqlite3.Connection, measured: Measured, last: Check | None) -> int | None:
    """Return the event that says that msb pulled or loaded an image with this file when it was written.

    In a home of msb its ``pull --force`` writes every file of an image anew, and where we had made one, in
    other bytes. It puts another file in the place, so one that was changed where it is was changed by others.

    Args:
        connection: the index.
        measured: the file as it is now.
        last: what came of the last look at it.

    Returns:
        None: no event says so.
    """
    kind, subject = measured.artifact
    if last is not None and last.inode == measured.stamp.inode:
        return None
    if kind == "metadata":
        references = {subject}
    else:
        # Of all images that ever had it: the one that msb pulled may have gone since.
        manifests = [subject]
        if kind == "layer":
            added = "SELECT DISTINCT subject FROM events WHERE type = 'manifest.added' AND instr(data, ?)"
            manifests = [digest for (digest,) in connection.execute(added, (subject,))]
        references = {name for digest in manifests for name in images.references_of(connection, digest)}
    marks, written = ", ".join("?" * len(references)), measured.stamp.mtime_ns
    row = connection.execute(
        f"SELECT seq FROM events WHERE subject IN ({marks}) AND type IN ('image.pulled', 'image.used') "  # noqa: S608
        "AND occurred_at BETWEEN ? AND ? AND json_extract(data, '$.holder') IS NULL "
        "AND json_extract(data, '$.run') IS NULL ORDER BY seq DESC LIMIT 1",
        (*references, written - _MOMENT, written + _PULL_TAKES),
    ).fetchone()
    return row[0] if row else None
