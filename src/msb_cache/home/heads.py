"""Notes outside a home of how far its log has come: one that was put back to last week's is behind its note.

For each home one small file in ``$XDG_STATE_HOME/msb-cache/heads``. Nothing waits for it to be durable, and a
commit that cannot leave one is none the worse: it is for finding what happened to the home alone. What
happened to the whole machine, or was done by the same user, is found only from outside (``checkpoint``).
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Literal
from zlib import crc32

from msgspec import Struct

from msb_cache.shapes import Result
from msb_cache.waiting import Wait

if TYPE_CHECKING:
    from msb_cache.eventstore.store import Head, StoredEvent

_TITLE = "msb-cache head 1"
_EXPECTED = "-expected"
"""The end of the name of the file that says which log may come next."""
_MAX_BYTES = 8192
_LOCK_SECONDS = 1.0
_FIELDS = ("folder", "log", "events", "head", "recorded")
_NAMED = 100  # characters of a home's path that stand in the name of its note
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108

Kind = Literal["gone", "another", "behind", "beside"]


class HeadNote(Result, Struct, frozen=True):
    """How far a home's log had come.

    ``folder`` is the home's device and inode then, ``head`` the hash of event ``size`` in hexadecimal, and
    ``recorded_at_ns`` when that was recorded, in ns since the epoch, UTC.
    """

    home: str
    folder: tuple[int, int]
    log_id: str
    size: int
    head: str
    recorded_at_ns: int


class Mismatch(Result, Struct, frozen=True):
    """A log that does not go on from its note.

    ``gone``: there is no log; ``another``: it is another log; ``behind``: its end is not there; ``beside``:
    it has gone on otherwise. ``size`` is how many events it has, ``moved`` whether the home is another folder
    than then.
    """

    kind: Kind
    note: HeadNote
    size: int
    moved: bool

    @property
    def sentence(self) -> str:
        """What that is, for people."""
        noted = f"{self.note.size:,} events"
        how = {
            "gone": f"is gone: it had {noted}",
            "another": f"is another one than that of {noted} which was here",
            "behind": f"was put back: it has {self.size:,} events, and had {self.note.size:,}",
            "beside": f"was put back and has gone on otherwise: it is not the one that had {noted}",
        }[self.kind]
        return f"the log of {self.note.home} {how}"


class HeadFile:
    """The note of one home.

    Args:
        home: the home.
        kept: False for a home that is not to have one.

    Attributes:
        path: the note's file; None: none is kept.
    """

    def __init__(self, home: str, *, kept: bool = True) -> None:
        self._home = os.path.realpath(home)
        self._written = b""
        self._size = 0
        """What this object left there, and of how many events that is."""
        folder = _folder()
        self._why_none = "this account has no home directory" if folder is None else _why_none(self._home)
        self.path: str | None = None
        if kept and folder is not None and self._why_none is None:
            end = self._home[-_NAMED:]
            name = "".join(char if char.isascii() and char.isalnum() else "-" for char in end).strip("-")
            encoded = os.fsencode(self._home)
            # Two sums of 32 bits: no library that hashes better is loaded by a list of images.
            self.path = os.path.join(folder, f"{name}-{crc32(encoded):08x}{crc32(encoded[::-1]):08x}")

    def read(self) -> HeadNote | None:
        """Return the note; None: there is none that can be read."""
        return None if self.path is None else self._read(self.path)

    def _read(self, path: str) -> HeadNote | None:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return self._decoded(os.pread(descriptor, _MAX_BYTES, 0))
            finally:
                os.close(descriptor)
        return None

    @property
    def why_none(self) -> str | None:
        """Why there is no note; None: there is one."""
        if self._why_none is not None or self.path is None:
            return self._why_none
        if self.read() is not None:
            return None
        nearest = self.path
        while not os.path.lexists(nearest):
            nearest = os.path.dirname(nearest)
        if not os.access(nearest, os.W_OK):
            return f"{nearest} cannot be written to"
        return f"{self.path} is damaged" if nearest == self.path else "none was left yet"

    def mismatch(self, connection: sqlite3.Connection | None, note: HeadNote) -> Mismatch | None:
        """Return why the log does not go on from a note that was read before it; None when it does.

        Args:
            connection: the home's database; None: there is none.
            note: the note.
        """
        found = self._mismatch(connection, note)
        if found is not None and found.kind == "another" and self.path is not None:
            # It may have been begun anew since the note was read; and whoever did that may have been killed
            # before the note was of the new one.
            for other in (self._read(self.path), self._read(self.path + _EXPECTED)):
                if other is not None and self._mismatch(connection, other) is None:
                    return None
        return found

    def _mismatch(self, connection: sqlite3.Connection | None, note: HeadNote) -> Mismatch | None:
        if connection is None:
            return Mismatch("gone", note, 0, _identity(self._home) != note.folder)
        size, log_id, found = connection.execute(
            "SELECT (SELECT coalesce(max(seq), 0) FROM events), (SELECT subject FROM events WHERE seq = 1), "
            "(SELECT hash FROM events WHERE seq = ?)",
            (note.size,),
        ).fetchone()
        kind: Kind
        if log_id is None:
            kind = "gone"
        elif log_id != note.log_id:
            kind = "another"
        elif found is None:
            kind = "behind"
        elif found != bytes.fromhex(note.head):
            kind = "beside"
        else:
            return None
        return Mismatch(kind, note, size, _identity(self._home) != note.folder)

    def keep(self, connection: sqlite3.Connection, last: Head | StoredEvent, *, anew: bool = False) -> bool:
        """Note how far the log has come, after a commit; return whether there is such a note now.

        A note from which the log does not go on stays as it is.

        Args:
            connection: the home's database.
            last: the log's end, as it was committed.
            anew: take the place of any note.
        """
        if self.path is None:
            return False
        with suppress(OSError):
            descriptor = _open(self.path)
            try:
                kept = _locked(descriptor) and self._replace(descriptor, connection, last, anew)
            finally:
                os.close(descriptor)
            if kept and anew and os.path.lexists(self.path + _EXPECTED):
                from msb_cache.artifacts.durable import delete_unsynced

                delete_unsynced(self.path + _EXPECTED)
            return kept
        return False

    def expect(self, log_id: str, last: Head) -> None:
        """Note, durably, that this log may come in the place of the one that is noted; to be told of neither.

        It stands in a file of its own until the note is made anew, so a log that is not begun after all does
        no harm.

        Args:
            log_id: the id of the log that may come.
            last: its end.

        Raises:
            OSError: there is a note, and this one cannot be left beside it.
        """
        if self.read() is None:
            return
        assert self.path is not None  # noqa: S101
        from msb_cache.artifacts.durable import sync_folder
        from msb_cache.artifacts.files import sync_descriptor

        path = self.path + _EXPECTED
        descriptor = _open(path)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, self._encoded(log_id, last), 0)
            sync_descriptor(descriptor, path)
        finally:
            os.close(descriptor)
        sync_folder(os.path.dirname(path))

    def _replace(
        self, descriptor: int, connection: sqlite3.Connection, last: Head | StoredEvent, anew: bool
    ) -> bool:
        data = os.pread(descriptor, _MAX_BYTES, 0)
        if not anew and data == self._written and self._size > last.seq:
            return True  # another thread has committed since, and was here first
        if not anew and data != self._written:
            before = self._decoded(data)
            if before is not None and self.mismatch(connection, before) is not None:
                return False
            if before is not None and before.size > last.seq:
                return True  # another process has committed since, and was here first
        # Asked each time: another process may have begun the log anew.
        (log_id,) = connection.execute("SELECT subject FROM events WHERE seq = 1").fetchone()
        self._written, self._size = self._encoded(log_id, last), last.seq
        os.pwrite(descriptor, self._written, 0)
        if len(data) > len(self._written):
            os.ftruncate(descriptor, len(self._written))
        return True

    def _encoded(self, log_id: str, last: Head | StoredEvent) -> bytes:
        device, inode = _identity(self._home)
        return os.fsencode(
            f"{_TITLE}\nfolder {device} {inode}\nlog {log_id}\nevents {last.seq}\n"
            f"head {last.hash.hex()}\nrecorded {last.recorded_at_ns}\nhome {self._home}\n"
        )

    def _decoded(self, data: bytes) -> HeadNote | None:
        """Return a note of this home; None for what is damaged, cut off or another home's."""
        lines = os.fsdecode(data).split("\n", len(_FIELDS) + 1)
        if len(lines) != len(_FIELDS) + 2 or lines[0] != _TITLE or lines[-1] != f"home {self._home}\n":
            return None
        fields = [line.partition(" ") for line in lines[1:-1]]
        if tuple(name for name, _, _ in fields) != _FIELDS:
            return None
        folder, log_id, size, head, recorded_at = (value for _, _, value in fields)
        try:
            device, inode = folder.split(" ")
            if len(bytes.fromhex(head)) != 32 or len(bytes.fromhex(log_id)) != 16:
                return None
            return HeadNote(self._home, (int(device), int(inode)), log_id, int(size), head, int(recorded_at))
        except ValueError:
            return None


def _why_none(home: str) -> str | None:
    if os.environ.get("MSB_CACHE_NO_HEAD"):
        return "MSB_CACHE_NO_HEAD is set"
    named = os.environ.get("TMPDIR")
    for temporary in (named,) if named else _TEMPORARY:
        real = os.path.realpath(temporary).rstrip("/")
        if home == real or home.startswith(f"{real}/"):
            return "the home is in a temporary folder"
    return None


def _folder() -> str | None:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "msb-cache", "heads") if os.path.isabs(state) else None


def _identity(home: str) -> tuple[int, int]:
    try:
        found = os.stat(home)
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _open(path: str) -> int:
    from msb_cache.ownership import open_file

    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = open_file(path, flags, 0o600)
    except FileNotFoundError:
        from pathlib import Path

        from msb_cache.artifacts.durable import make_folder_unsynced

        make_folder_unsynced(Path(os.path.dirname(path)))
        descriptor = open_file(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(path)
    return descriptor


def _locked(descriptor: int) -> bool:
    import fcntl  # which a command that reads need not

    waiting = Wait(seconds=_LOCK_SECONDS)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if waiting.over():
                return False
