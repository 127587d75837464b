"""How far the events of a log were delivered: a small file, of one process at a time.

It says so by the log's id and the event's hash, so that a log that was put back, or is another one, is
noticed: to go on in it would leave out what it has had since.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import msgspec

from msb_cache.artifacts import files
from msb_cache.artifacts.durable import Changes, delete_unsynced, make_folder_unsynced
from msb_cache.artifacts.locks import Lock
from msb_cache.errors import BusyError, DeliveryError, InvalidConfigError
from msb_cache.eventstore.events import LogCreated
from msb_cache.eventstore.store import EventStore
from msb_cache.wording import reason_of

_FORMAT = 1
_MOST_BYTES = 4096


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far.

    Attributes:
        log: the log's id; None: there was no log yet.
        seq: the last event that was delivered; what is behind it comes next.
        hash: that event's, in hexadecimal; empty at 0.
        format: of the file.
    """

    log: str | None
    seq: int
    hash: str
    format: int = _FORMAT

    def misfit(self, connection: sqlite3.Connection) -> str | None:
        """Return why a log does not go on from here, as a part of a sentence; None: it does."""
        if self.log is None:
            return None
        log, size, found = connection.execute(
            "SELECT (SELECT subject FROM events WHERE seq = 1), (SELECT max(seq) FROM events), "
            "(SELECT hash FROM events WHERE seq = ?)",
            (self.seq,),
        ).fetchone()
        if log != self.log:
            return self._other(connection)
        if self.seq > size:
            return f"the log was put back: it has {size:,} events, and event {self.seq} was delivered"
        if self.seq and found.hex() != self.hash:
            return f"the log was put back and has gone on: its event {self.seq} is not the one delivered"
        return None

    def _other(self, connection: sqlite3.Connection) -> str | None:
        """Return the same of a log of another id, which goes on from here if it was begun anew here."""
        began = EventStore(connection).at(1)
        if began is None or not isinstance(began.data, LogCreated) or began.data.previous_log_id != self.log:
            return "it is of another log"
        if (began.data.previous_size, began.data.previous_head) == (self.seq, self.hash):
            return None
        return (
            f"the log was begun anew with another id at its event {began.data.previous_size}, "
            f"and event {self.seq} was delivered"
        )


def position_at(connection: sqlite3.Connection, seq: int) -> Position:
    """Return the position behind an event of a log, or at its beginning (0)."""
    log, found = connection.execute(
        "SELECT (SELECT subject FROM events WHERE seq = 1), (SELECT hash FROM events WHERE seq = ?)", (seq,)
    ).fetchone()
    return Position(log, seq if found else 0, found.hex() if found else "")


def usual_path(home: str, url: str) -> Path:
    """Return where the position of a home's events lies that go to a URL, unless another place is named.

    Raises:
        InvalidConfigError: this account has no place for it.
    """
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):
        raise InvalidConfigError("this account has no home directory; name a file with --position")
    host = "".join(char if char.isalnum() else "-" for char in urlsplit(url).hostname or "")
    which = hashlib.sha256(os.fsencode(f"{os.path.realpath(home)}\0{url}")).hexdigest()[:16]
    return Path(state) / "msb-cache" / "posts" / f"{host[:60]}-{which}.json"


class PositionFile:
    """The file, held by this process within a ``with`` block.

    Attributes:
        path: where it lies.
        position: what it says; None: there is none yet.

    Raises:
        BusyError: another process holds it.
        InvalidConfigError: it cannot be read, or what it says makes no sense.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.position: Position | None = None
        self._lock = Lock(f"{self.path}.lock")

    def __enter__(self) -> PositionFile:
        try:
            if not self.path.parent.is_dir():
                make_folder_unsynced(self.path.parent)
            held = self._lock.acquire()
        except OSError as error:
            raise InvalidConfigError(
                f"the position {self.path} cannot be kept: {reason_of(error)}, or name another --position"
            ) from None
        if not held:
            raise BusyError(
                f"another process delivers events from {self.path}; end that one, or name another --position"
            )
        try:
            self.position = self._read()
        except BaseException:
            self._lock.release(unlink=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release(unlink=True)

    def save(self, position: Position) -> None:
        """Replace the position, durably. Raises OSError; the one before is there then."""
        staged = self.path.with_name(f".{self.path.name[:200]}.part")  # no other process has this lock
        delete_unsynced(staged)
        try:
            files.write(staged, msgspec.json.encode(position) + b"\n")
            changes = Changes()
            changes.replace(staged, self.path)
            changes.sync()
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self.path)) from None
        self.position = position

    def check(self, connection: sqlite3.Connection) -> None:
        """Refuse a log that does not go on from the position.

        Raises:
            DeliveryError: it does not.
        """
        problem = None if self.position is None else self.position.misfit(connection)
        if problem is not None:
            raise DeliveryError(
                f"the position {self.path} does not fit this log: {problem}; delete the file to begin anew, "
                "with --since @SEQ at an event of your choice"
            )

    def _read(self) -> Position | None:
        try:
            # A pipe would be waited for, and no signal would end that.
            with open(self.path, "rb", opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise InvalidConfigError(f"{self.path} is no regular file; name another --position")
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidConfigError(
                f"the position {self.path} cannot be read: {reason_of(error)}, or name another --position"
            ) from None
        try:
            found = msgspec.json.decode(data, type=Position)
            if found.format == _FORMAT and 0 <= found.seq < 2**63:
                return found
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
        raise InvalidConfigError(
            f"{self.path} holds no position that this release understands; "
            "name another --position, or delete it to begin anew"
        )


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
