"""The notes of older releases: a few lines that fix a log up to a position by the hash of its last event.

What ``checkpoint`` prints today others can check, too: see ``tree_head``. A note of this kind names the log,
how many events it had, the hash of the last one and when that was recorded. The hash covers everything
before it, so a log that still has that hash at that position extends the note. docs/event-log.md describes
the format.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from msb_cache.errors import LogError
from msb_cache.eventstore.chain import Break, Verified
from msb_cache.shapes import Result, fields

TITLE = "msb-cache checkpoint 1"
"""The first line: what this is, and the version of the format."""

MAX_NOTE = 4096
"""Characters of a note that are looked at; one has about 200."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSIONED = re.compile(r"msb-cache checkpoint [0-9]{1,9}")
_LINES = (
    ("log", re.compile(r"log ([0-9a-f]{32})")),
    ("size", re.compile(r"size ([1-9][0-9]{0,17})")),
    ("head", re.compile(r"head ([0-9a-f]{64})")),
    ("time", re.compile(r"time (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z")),
)


@dataclass(frozen=True)
class ChainNote(Result):
    """A log up to a position: its id, number of events, last hash, and when that event was recorded (ns)."""

    log_id: str
    size: int
    head: bytes
    recorded_at_ns: int

    @property
    def note(self) -> str:
        """The note's text, five lines that each end in a line feed."""
        seconds, fraction = divmod(self.recorded_at_ns, 10**9)
        time = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
        lines = (TITLE, f"log {self.log_id}", f"size {self.size}", f"head {self.head.hex()}")
        return "\n".join((*lines, f"time {time}.{fraction:09}Z", ""))

    def _shape(self) -> dict[str, Any]:
        return {**fields(self), "note": self.note}


def parse(note: str) -> ChainNote:
    """Read a note.

    Raises:
        LogError: it is none, or of a version that this release does not know; says in which line.
    """
    lines = note[:MAX_NOTE].removesuffix("\n").split("\n")
    if lines[0] != TITLE:
        if _VERSIONED.fullmatch(lines[0]):
            raise LogError("the note is a checkpoint of a version that this msb-cache does not know")
        raise LogError(f"the note is no checkpoint: its first line is not {TITLE!r}")
    if len(lines) != len(_LINES) + 1:
        raise LogError(f"the note is no checkpoint: it has {len(lines)} lines and not {len(_LINES) + 1}")
    found = []
    for number, (line, (name, pattern)) in enumerate(zip(lines[1:], _LINES, strict=True), 2):
        match = pattern.fullmatch(line)
        if match is None:
            raise LogError(f"the note is no checkpoint: line {number} is no {name!r} line")
        found.append(match)
    log_id, size, head, time = found
    try:
        recorded = datetime.fromisoformat(f"{time[1]}+00:00") - _EPOCH
    except ValueError:
        raise LogError("the note is no checkpoint: line 5 has no time") from None
    seconds = recorded.days * 86400 + recorded.seconds
    return ChainNote(log_id[1], int(size[1]), bytes.fromhex(head[1]), seconds * 10**9 + int(time[2]))


def contradiction(
    connection: sqlite3.Connection | None, note: ChainNote, log: Verified | Break
) -> str | None:
    """Return why a log does not extend a note, as one sentence; None when it does.

    Args:
        connection: the log, in the read in which it was checked; None: there is none.
        note: what was kept.
        log: what the check of the log found. Up to a break behind the note's position it can be proved.
    """
    unproved = not_reached(note.size, log)
    if unproved is not None:
        return unproved
    length = log.events if isinstance(log, Verified) else note.size
    if length == 0 or connection is None:
        return f"there is no log, and the note is of {note.size:,} events"
    row = connection.execute("SELECT subject FROM events WHERE seq = 1").fetchone()
    if row[0] != note.log_id:
        return another_log(row[0], note.log_id)
    if length < note.size:
        return f"the log has only {length:,} events, and the note is of {note.size:,}: its end was cut off"
    found, recorded_at = connection.execute(
        "SELECT hash, recorded_at FROM events WHERE seq = ?", (note.size,)
    ).fetchone()
    if (found, recorded_at) != (note.head, note.recorded_at_ns):
        return f"event {note.size} is not the one of the note: the log was rewritten up to there"
    return None


def not_reached(size: int, log: Verified | Break) -> str | None:
    """Return why the check of a log says nothing of a note of a size; None: it came so far, or to the end."""
    if isinstance(log, Verified) or log.seq > size:
        return None
    ends = log.kind == "truncated"
    told = f"has only {log.seq - 1:,} events" if ends else f"is not sound at event {log.seq}"
    return f"the log {told}, and the note is of {size:,}"


def another_log(log_id: str | None, noted: str) -> str:
    """Return the sentence of a note that names the log of another id."""
    return f"this is another log: its id is {log_id}, the note's {noted}"
