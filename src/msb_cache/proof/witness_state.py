"""What a witness remembers: of each log the latest checkpoint that it cosigned, and what it refused.

One SQLite file, outside of any home. It is all that keeps a witness from cosigning two histories of one log,
so a change is on the disk before anybody is told of it, and the database itself refuses one that goes back.
"""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from msb_cache import ownership
from msb_cache.errors import BusyError, InvalidConfigError, InvalidProofError
from msb_cache.eventstore.merkle import HASH_BYTES
from msb_cache.proof.note import Note, parse
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.shapes import Result, Time
from msb_cache.waiting import BUSY_SECONDS, TURN_SECONDS, is_busy, patiently

MOST_REFUSED = 16
"""Refused checkpoints that are kept of one log."""

_APPLICATION_ID = 0x6D736277  # "msbw"
_VERSION = 1

_SCHEMA = (
    """CREATE TABLE witnessed (
  origin TEXT NOT NULL PRIMARY KEY,
  size INTEGER NOT NULL CHECK (typeof(size) = 'integer' AND size >= 0),
  root BLOB NOT NULL CHECK (typeof(root) = 'blob' AND length(root) = 32),
  note TEXT NOT NULL,
  cosigned_at INTEGER NOT NULL CHECK (typeof(cosigned_at) = 'integer' AND cosigned_at > 0)
)""",
    """CREATE TRIGGER witnessed_forward BEFORE UPDATE ON witnessed
WHEN NEW.origin IS NOT OLD.origin OR NEW.size < OLD.size OR NEW.cosigned_at < OLD.cosigned_at
  OR (NEW.size = OLD.size AND NEW.root IS NOT OLD.root)
BEGIN SELECT RAISE(ABORT, 'a witness does not go back'); END""",
    """CREATE TRIGGER witnessed_kept BEFORE DELETE ON witnessed
BEGIN SELECT RAISE(ABORT, 'a witness does not forget'); END""",
    """CREATE TABLE refused (
  id INTEGER PRIMARY KEY,
  origin TEXT NOT NULL,
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  note TEXT NOT NULL,
  is_fork INTEGER NOT NULL,
  against TEXT,
  refused_at INTEGER NOT NULL,
  UNIQUE (origin, size, root)
)""",
)


class Witnessed(Struct, frozen=True):
    """The latest checkpoint of a log that was cosigned.

    Attributes:
        head: what it says.
        note: with the signatures of the log that were checked, and the witness's.
        cosigned_at: in s since the epoch, UTC.
    """

    head: TreeHead
    note: Note
    cosigned_at: int


class RefusedCheckpoint(Result, Struct, frozen=True):
    """A checkpoint that a log signed and the witness did not cosign.

    Attributes:
        origin: the name of the log.
        size: how many events it says that there are.
        root: over them, 32 bytes.
        note: with the log's signatures.
        is_fork: it proves by itself, beside ``against``, that the log has two histories; else only the proof
            that came with it was wrong.
        against: the checkpoint of another root and the same size that was cosigned; None: there is none.
        refused_at_ns: in ns since the epoch, UTC.
    """

    origin: str
    size: int
    root: bytes
    note: str
    is_fork: bool
    against: str | None
    refused_at_ns: int

    def _shape(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "root": base64.b64encode(self.root).decode(),
            "is_fork": self.is_fork,
            "refused_at": Time(self.refused_at_ns),
            "note": self.note,
            "against": self.against,
        }


class WitnessedLog(Result, Struct, frozen=True):
    """What a witness knows of a log.

    Attributes:
        origin: the name of the log.
        size: of the latest checkpoint that was cosigned; None: none was.
        root: its root, 32 bytes.
        note: the checkpoint, with the signatures of log and witness.
        cosigned_at_ns: when, in ns since the epoch, UTC.
        refused: what was not, in the order in which it came.
    """

    origin: str
    size: int | None
    root: bytes | None
    note: str | None
    cosigned_at_ns: int | None
    refused: tuple[RefusedCheckpoint, ...] = ()

    def _shape(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "size": self.size,
            "root": None if self.root is None else base64.b64encode(self.root).decode(),
            "cosigned_at": Time.or_none(self.cosigned_at_ns),
            "note": self.note,
            "refused": self.refused,
        }


class WitnessState:
    """The file of a witness, for any number of threads, and of processes.

    Args:
        path: where it is, or is made: mode 0600, its folder 0700 if that is made, too.
        make: make one that is not there.

    Raises:
        InvalidConfigError: there is none, or something else is there, or others can change it.
        InvalidProofError: it is damaged.
        BusyError: another process has it locked.
    """

    def __init__(self, path: str | os.PathLike[str], *, make: bool = True) -> None:
        self.path = os.path.abspath(path)
        self._lock = threading.RLock()
        if make:
            _make_file(self.path)
        self._identity = _checked_file(self.path)
        self._connection = sqlite3.connect(
            f"{Path(self.path).as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=TURN_SECONDS,
            check_same_thread=False,
        )
        try:
            with self._told():
                patiently(self._prepare)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        # A journal that is deleted is a commit, and that the folder is synced with it, too, makes it last:
        # with less a power loss could bring the journal back, and with it the state of before.
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute("PRAGMA cell_size_check = ON")
        self._connection.execute("PRAGMA synchronous = EXTRA")
        self._connection.execute("PRAGMA fullfsync = ON")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            application, version, schema = self._stamp()
            if (application, version, schema) == (0, 0, set()):
                for statement in _SCHEMA:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif application != _APPLICATION_ID:
                raise InvalidConfigError(
                    f"{self.path} is a database, but not the state of a witness; give --state another path"
                )
            elif version > _VERSION:
                raise InvalidConfigError(
                    f"{self.path} was written by a newer release of msb-cache; use that one"
                )
            elif (version, schema) != (_VERSION, set(_SCHEMA)):
                raise InvalidProofError(f"{self.path} is no state of a witness any more: it has other tables")
            if self._connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise _damaged(self.path)
            self._connection.execute("COMMIT")
        finally:
            self._roll_back()

    def _stamp(self) -> tuple[int, int, set[str]]:
        ((application,),) = self._connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = self._connection.execute("PRAGMA user_version").fetchall()
        found = self._connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return application, version, {sql for (sql,) in found}

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let this thread alone read and write in the block; what it wrote is on the disk when that ends.

        Raises:
            InvalidConfigError: the file was taken away, or another put in its place.
            InvalidProofError: it is damaged.
            BusyError: another process has it locked.
            sqlite3.Error: it cannot be written.
        """
        with self._lock, self._told():
            patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"), seconds=BUSY_SECONDS)
            try:
                if _checked_file(self.path) != self._identity:
                    raise InvalidConfigError(
                        f"{self.path} is another file than it was, so what this witness cosigned is not "
                        "known any more; put the right one in its place and start the witness again"
                    )
                yield
                patiently(lambda: self._connection.execute("COMMIT"), seconds=BUSY_SECONDS)
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise BusyError(f"another process has {self.path} locked; try again") from None
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise _damaged(self.path) from None
            raise

    def latest(self, origin: str) -> Witnessed | None:
        """Return the latest checkpoint of a log that was cosigned; None: none was.

        Raises:
            InvalidProofError: what is remembered of it is damaged.
        """
        row = self._connection.execute(
            "SELECT size, root, note, cosigned_at FROM witnessed WHERE origin = ?", (origin,)
        ).fetchone()
        if row is None:
            return None
        size, root, text, cosigned_at = row
        what = f"the checkpoint of {size} events in {self.path}"
        if not isinstance(text, str) or not isinstance(cosigned_at, int):
            raise InvalidProofError(f"{what} is damaged")
        note = parse(text.encode("utf-8", "surrogatepass"), what)
        head = head_of(note, what)
        if (head.origin, head.size, head.root) != (origin, size, root):
            raise InvalidProofError(f"{what} is damaged: its note is of {head.size} events")
        return Witnessed(head, note, cosigned_at)

    def origins(self) -> list[str]:
        """Return the names of the logs of which a checkpoint was cosigned."""
        return [origin for (origin,) in self._connection.execute("SELECT origin FROM witnessed")]

    def advance(self, new: Witnessed) -> None:
        """Remember what is about to be cosigned, in ``changing``.

        Raises:
            sqlite3.IntegrityError: it would go back.
        """
        head = new.head
        self._connection.execute(
            "INSERT INTO witnessed (origin, size, root, note, cosigned_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, "
            "note = excluded.note, cosigned_at = excluded.cosigned_at",
            (head.origin, head.size, head.root, str(new.note), new.cosigned_at),
        )
        # What was refused for want of a proof has it now, or is seen to be of another history.
        self._connection.execute(
            "DELETE FROM refused WHERE origin = ? AND size = ? AND root = ? AND NOT is_fork",
            (head.origin, head.size, head.root),
        )
        self._connection.execute(
            "UPDATE refused SET is_fork = 1, against = ? "
            "WHERE origin = ? AND size = ? AND root <> ? AND NOT is_fork",
            (str(new.note), head.origin, head.size, head.root),
        )

    def keep_refused(self, refused: RefusedCheckpoint) -> None:
        """Keep a checkpoint as evidence, in ``changing``: once, and of each log a bounded number.

        Where there are too many, the oldest of those goes that prove nothing by themselves, so that nobody
        can push out what does.
        """
        place = (refused.origin, refused.size, refused.root)
        known = self._connection.execute(
            "SELECT is_fork FROM refused WHERE origin = ? AND size = ? AND root = ?", place
        ).fetchone()
        if known is not None and (known[0] or not refused.is_fork):
            return
        if known is not None:
            self._connection.execute("DELETE FROM refused WHERE origin = ? AND size = ? AND root = ?", place)
        elif not self._make_room(refused.origin):
            return
        self._connection.execute(
            "INSERT INTO refused (origin, size, root, note, is_fork, against, refused_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*place, refused.note, refused.is_fork, refused.against, refused.refused_at_ns),
        )

    def _make_room(self, origin: str) -> bool:
        (count,) = self._connection.execute(
            "SELECT count(*) FROM refused WHERE origin = ?", (origin,)
        ).fetchone()
        if count < MOST_REFUSED:
            return True
        gone = self._connection.execute(
            "DELETE FROM refused WHERE id = (SELECT min(id) FROM refused WHERE origin = ? AND NOT is_fork)",
            (origin,),
        )
        return gone.rowcount > 0

    def logs(self) -> list[WitnessedLog]:
        """Return all that is remembered, by the names of the logs.

        Raises:
            InvalidProofError: some of it is damaged.
        """
        with self.changing():
            refused: dict[str, list[RefusedCheckpoint]] = {}
            for row in self._connection.execute(
                "SELECT origin, size, root, note, is_fork, against, refused_at FROM refused ORDER BY id"
            ):
                refused.setdefault(str(row[0]), []).append(self._refused(row))
            names = sorted({*self.origins(), *refused})
            return [self._log(name, tuple(refused.get(name, ()))) for name in names]

    def _log(self, origin: str, refused: tuple[RefusedCheckpoint, ...]) -> WitnessedLog:
        known = self.latest(origin)
        if known is None:
            return WitnessedLog(origin, None, None, None, None, refused)
        head, at_ns = known.head, known.cosigned_at * 10**9
        return WitnessedLog(origin, head.size, head.root, str(known.note), at_ns, refused)

    def _refused(self, row: tuple[Any, ...]) -> RefusedCheckpoint:
        origin, size, root, note, is_fork, against, at_ns = row
        if not (
            isinstance(origin, str)
            and isinstance(size, int)
            and isinstance(root, bytes)
            and len(root) == HASH_BYTES
            and isinstance(note, str)
            and isinstance(against, str | None)
            and isinstance(at_ns, int)
        ):
            raise InvalidProofError(f"a refused checkpoint in {self.path} is damaged")
        return RefusedCheckpoint(origin, size, root, note, bool(is_fork), against, at_ns)

    def close(self) -> None:
        """Close the file, once nobody is changing it."""
        with self._lock:
            self._connection.close()


def usual_path() -> str:
    """Return where a witness's state lies unless another place is named.

    Raises:
        InvalidConfigError: this account has no place for it.
    """
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):
        raise InvalidConfigError("this account has no home directory; name a file with --state")
    return os.path.join(state, "msb-cache", "witness.db")


def _damaged(path: str) -> InvalidProofError:
    return InvalidProofError(
        f"{path} is damaged, or no state of a witness; what was cosigned is in it alone, so without it begin "
        "another witness, with another key"
    )


def _make_file(path: str) -> None:
    """Make an empty file that is its user's alone, and the folders above it, so that they outlast a crash."""
    try:
        _make_folder(os.path.dirname(path))
        os.close(ownership.open_file(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise InvalidConfigError(f"no state of a witness can be made at {path}: {error.strerror}") from None


def _make_folder(path: str) -> None:
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_folder(above)
    with suppress(FileExistsError):
        ownership.make_folder(path, 0o700)
    descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked_file(path: str) -> tuple[int, int]:
    """Return which file is at a path, if it can be a state."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise InvalidConfigError(
            f"there is no state of a witness at {path}; `witness serve --state` makes one"
        ) from None
    except OSError as error:
        raise InvalidConfigError(f"the state {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidConfigError(f"{path} is no file, so it is no state of a witness")
    if found.st_mode & 0o022:
        raise InvalidConfigError(f"others can change {path}, so it proves nothing; `chmod 600` it")
    return found.st_dev, found.st_ino
