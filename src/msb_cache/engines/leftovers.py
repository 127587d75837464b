"""Files that earlier deletions had to leave: those of the log that still lie there and no index names.

The next deletion takes them up, whatever it is asked for. Not files that no deletion ever came to: those are
orphans, and only ``prune --orphans`` deletes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.named_files import NamedFiles
from msb_cache.eventstore import events as ev
from msb_cache.projections import deletions
from msb_cache.shapes import Result, Time, fields

_BECAUSE = {
    "busy": "another process worked with it",
    "owned": "the home had become msb's",
    "left": "msb left it behind",
}


class Leftover(Result, Struct, frozen=True):
    """A file that a deletion had to leave.

    Attributes:
        kind: what it is.
        subject: of what; for metadata the reference, or the file's name if none is known.
        path: where it lies.
        bytes: its size.
        operation: the deletion that came to it last.
        reason: that of ``artifact.kept``, or what the operating system said.
        since: when that was, in ns since the epoch, UTC.
    """

    kind: ev.ArtifactKind
    subject: str
    path: Path
    bytes: int
    operation: str
    reason: str
    since: int

    @property
    def planned(self) -> ev.PlannedArtifact:
        """What a decision says of it."""
        return ev.PlannedArtifact(kind=self.kind, subject=self.subject, bytes=self.bytes)

    @property
    def because(self) -> str:
        """From which deletion it is left over, and why, for people."""
        return f"left over from operation {self.operation}: {_BECAUSE.get(self.reason, self.reason)}"

    def _shape(self) -> dict[str, Any]:
        return {**fields(self), "since": Time(self.since)}


def on_disk(layout: Layout, connection: sqlite3.Connection) -> list[Leftover]:
    """Return what the log says was left, and still lies there; whether it is needed by now is not asked."""
    found = []
    for row in deletions.leftovers(connection):
        path = layout.artifact(row.kind, row.subject)
        size = files.measure_artifact(row.kind, path)
        if size is not None:
            kind: ev.ArtifactKind = row.kind  # type: ignore[assignment]
            found.append(Leftover(kind, row.subject, path, size, row.operation, row.reason, row.since))
    return found


def unnamed(found: Iterable[Leftover], named: NamedFiles) -> list[Leftover]:
    """Return those that an index does not name."""
    return [each for each in found if not named.has(each.kind, known_as(each.path, each.kind, each.subject))]


def known_as(path: Path, kind: str, subject: str) -> str:
    """Return an artifact's subject as its file names it: of a metadata file, the bare name."""
    return path.name if kind == "metadata" else subject
