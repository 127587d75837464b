"""Who changes msb's database, as the kernel tells it: named only where it can have been no other process.

Each process that opens the database is taken note of as it does (``fanotify``), and looked at while it
lives. A window goes from before one look at the database to behind the next: what differs between the two
was written by a process that had it open in the window. Which those are is known from a moment on at which
the kernel grants a lease that it grants only while no process has the file open for writing. Of several, it
is the one that wrote, if all others are the same person's or root's and did not. In every other case no
name is given.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from msb_cache.home import descriptors
from msb_cache.msb import fanotify, processes
from msb_cache.waiting import pause

if TYPE_CHECKING:
    from msb_cache.artifacts.layout import Layout
    from msb_cache.eventstore.store import Actor

_WRITTEN = fanotify.MODIFY | fanotify.RENAMED
_CHANGED = _WRITTEN | fanotify.CLOSE_WRITE
_NOT_THE_DATABASE = ("msb-cache.db", "reserve", "msb.db-shm", "msb.db.migration.lock")
"""How files in ``db`` begin that are no part of msb's database; its -shm is written to by readers too."""

_MOST_PROCESSES = 256
"""Each keeps a descriptor. Of more than that at once nothing is said."""
_LATE_NS = 10**9
"""By so much later than it happens may an event be taken note of."""
_AT_WORK_NS = 10**9
"""For so long after a process has come, it is waited for: most of msb's are done by then."""
_EXIT_SECONDS = 0.05
"""How long a process that has closed the database is waited for: msb ends at once then."""

_WRITE_LOCK = 120
"""The byte of the -shm that SQLite locks while a transaction is written: https://sqlite.org/walformat.html."""
_LOCK = struct.Struct("hhqqi4x")


class Changer(NamedTuple):
    """The one process that can have changed the database since it was last looked at.

    Times in ns since the epoch: ``looked_ns`` when that was, ``came_ns`` before the process opened it.
    """

    actor: Actor
    looked_ns: int
    came_ns: int


@dataclass
class _Opener:
    """A process that had the database open, and the places in the order of events of what it did last."""

    pidfd: int
    process: processes.Process | None
    came_ns: int
    touched: int = 0
    wrote: int = 0
    closed: int = 0


@dataclass(frozen=True)
class _Mark:
    """A look at the database: where in the order of events it began, and what was so at that moment."""

    place: int = 0
    time_ns: int = 0
    clean: bool = False
    """No process had the database open for writing."""
    quiet: bool = False
    """No process was within a transaction that writes."""


class Witness:
    """Follows one home's database, with a thread that only takes note of processes; close it at the end.

    A look is ``begin``, ``settled`` between opening the database and reading it, ``changer``, and ``end``.

    Args:
        layout: the home; its folder need not be there yet.
        recorder: who records what is seen.

    Raises:
        OSError: this process may not, or this system cannot.
    """

    def __init__(self, layout: Layout, recorder: Actor) -> None:
        self._folder = layout.db
        self._database = str(layout.msb_database)
        self._log = f"{self._database}-wal"
        self._recorder = recorder
        self._own = os.getpid()
        self._listener = fanotify.Listener()
        self._lock = threading.Lock()
        """Held for all below that is about events."""
        self._place = 0
        self._openers: dict[int, _Opener] = {}
        self._earlier: list[_Opener] = []
        """Openers whose number another process has now."""
        self._unknown = 0
        """The place of the last event of a process that is not known, or at which events were lost."""
        self._changed = 0
        """The place of the last event that can have changed the database."""
        self._mark = self._clean = self._quiet = _Mark()
        """The look that goes on, and the last ones in the log that were clean and quiet."""
        self._looked = self._looked_ns = 0
        self._forced = self._read = False
        self._changer: Changer | None = None
        self._woken = threading.Event()
        self._ending, self._end = os.pipe()
        self._thread = threading.Thread(target=self._follow, name="msb-cache witness", daemon=True)
        self._thread.start()

    def rest(self, seconds: float) -> None:
        """Wait until a process has closed the database; else so long, and for one that is at work."""
        pause(seconds, self._woken.wait)
        if not self._woken.is_set():
            with self._lock:
                latest = max((each.came_ns for each in self._all() if not each.closed), default=0)
            pause((latest + _AT_WORK_NS - time.time_ns()) / 1e9, self._woken.wait)

    def close(self) -> None:
        """End following."""
        os.close(self._end)
        self._thread.join()
        os.close(self._ending)
        self._listener.close()
        for opener in self._all():
            os.close(opener.pidfd)

    # -- one look ----------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Begin a look; return whether the database must be read even if it looks unchanged.

        Raises:
            OSError: the file system says nothing of its files, or the database is not this user's.
        """
        self._woken.clear()
        self._attach()
        self._wait_for_exits()
        with self._lock:
            self._take_note()
            touched = max((each.touched for each in self._all()), default=0)
            still_clean = self._clean.clean and max(touched, self._unknown) <= self._clean.place
            place, changed = self._place, self._changed
        time_ns = time.time_ns()
        clean = still_clean or self._none_writes()
        self._mark = _Mark(place, time_ns, clean, clean or self._no_transaction())
        self._forced, self._read, self._changer = changed > self._looked or not self._looked_ns, False, None
        return self._forced

    def settled(self) -> None:
        """Take note that what is read from now on is the database as it was until now."""
        self._read, self._changer = True, self._who()

    def changer(self) -> Changer | None:
        """Return who changed what was read; None where it can have been several, or is not known."""
        return self._changer

    def _who(self) -> Changer | None:
        quiet = self._no_transaction()
        with self._lock:
            self._take_note()
            clean, since = self._clean, self._quiet.place
            openers = [each for each in self._all() if each.touched > clean.place]
            if not clean.clean or self._unknown > clean.place:
                return None
        writers = [each for each in openers if each.wrote > since]
        if len(writers) != 1 or (process := writers[0].process) is None:
            return None
        others = [each.process for each in openers if each is not writers[0]]
        if others and not quiet:
            return None
        if any(other is None or not other.stands_for(process) for other in others):
            return None
        actor = processes.actor_of(process, self._recorder)
        return Changer(actor, self._looked_ns, writers[0].came_ns - _LATE_NS)

    def end(self, *, recorded: bool) -> None:
        """End a look; ``recorded``: the log says what the database did then."""
        if not recorded or (self._forced and not self._read):
            return
        mark = self._mark
        with self._lock:
            self._looked = mark.place
            if self._read:
                self._looked_ns = mark.time_ns
            if mark.clean:
                self._clean = mark
            if mark.quiet:
                self._quiet = mark
            for opener in self._all():
                if opener.touched <= self._clean.place:
                    os.close(opener.pidfd)
            self._openers = {n: each for n, each in self._openers.items() if each.touched > self._clean.place}
            self._earlier = [each for each in self._earlier if each.touched > self._clean.place]

    # -- what the kernel says ----------------------------------------------------------------------------

    def _attach(self) -> None:
        """Listen to the folder, if it is another one than before, and to the files in it."""
        if not self._listener.has(self._folder):
            try:
                self._listener.add_folder(self._folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            with self._lock:
                self._lose()
        for path in (self._database, self._log):
            with suppress(FileNotFoundError):
                self._listener.add_file(path)  # a second name of it may lie in another folder

    def _wait_for_exits(self) -> None:
        """Wait a moment for processes that have closed the database: most are about to end."""
        with self._lock:
            left = {each.pidfd for each in self._all() if each.closed > self._looked}
        until = time.monotonic() + _EXIT_SECONDS
        while left and (seconds := until - time.monotonic()) > 0:
            poll = select.poll()
            for pidfd in left:
                poll.register(pidfd, select.POLLIN)
            left -= {pidfd for pidfd, _ in poll.poll(seconds * 1000)}

    def _none_writes(self) -> bool:
        """Return whether at this moment no process has the database open for writing, or mapped."""
        try:
            # Under another name it has another log, perhaps in another folder, of which nothing is told.
            found = os.lstat(self._database)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                return False
            return _grants_lease(self._database) and (
                not os.path.lexists(self._log) or _grants_lease(self._log)
            )
        except FileNotFoundError:
            return False

    def _no_transaction(self) -> bool:
        """Return whether at this moment no process is within a transaction of SQLite's that writes."""
        try:
            with descriptors.lent(f"{self._database}-shm") as descriptor:
                asked = _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _WRITE_LOCK, 1, 0)
                answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
        except OSError:
            return False
        kind: int = _LOCK.unpack(answer)[0]
        return kind == fcntl.F_UNLCK

    # -- processes ---------------------------------------------------------------------------------------

    def _all(self) -> list[_Opener]:
        return [*self._earlier, *self._openers.values()]

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        poll.register(self._ending, select.POLLIN)
        while self._ending not in dict(poll.poll()):
            with self._lock:
                self._take_note()

    def _take_note(self) -> None:
        """Take note of all events that there are by now; the lock is held."""
        while events := self._listener.read():
            for event in events:
                kept = False
                try:
                    if event.pid != self._own and not (event.name or "").startswith(_NOT_THE_DATABASE):
                        kept = self._take(event)
                finally:
                    if event.pidfd is not None and not kept:
                        os.close(event.pidfd)

    def _take(self, event: fanotify.Event) -> bool:
        """Take note of one event; return whether its descriptor was kept."""
        self._place += 1
        if event.mask & _CHANGED:
            self._changed = self._place
        if event.mask & (fanotify.CLOSE_WRITE | fanotify.RENAMED):
            self._woken.set()
        if event.mask & fanotify.OVERFLOW or event.pid <= 0:
            self._lose()
            return False
        opener, new = self._openers.get(event.pid), None
        if opener is None or (event.pidfd is not None and not _is_same(opener.pidfd, event.pidfd)):
            opener = new = self._identify(event)
        if opener is None:
            self._lose()
            return False
        opener.touched = self._place
        if event.mask & _WRITTEN:
            opener.wrote = self._place
        if event.mask & fanotify.CLOSE_WRITE:
            opener.closed = self._place
        return new is not None

    def _identify(self, event: fanotify.Event) -> _Opener | None:
        if event.pidfd is None or len(self._openers) + len(self._earlier) >= _MOST_PROCESSES:
            return None
        process = processes.seen(event.pid)
        # Until it is reaped its number is its own, so that is what was looked at.
        new = _Opener(event.pidfd, None if _is_reaped(event.pidfd) else process, time.time_ns())
        if event.pid in self._openers:
            self._earlier.append(self._openers[event.pid])
        self._openers[event.pid] = new
        return new

    def _lose(self) -> None:
        self._place += 1
        self._unknown = self._changed = self._place
        self._woken.set()


def why_not(error: OSError) -> str:
    """Return a sentence that says why nothing is known of who changes the database, and what would help."""
    known = "who changes msb's database is not recorded, only what changed"
    if error.errno == errno.EPERM:
        return (
            f"{known}: the kernel tells root, or a process with CAP_SYS_ADMIN; the unit in examples/ has it"
        )
    if error.errno == errno.EACCES:
        return f"{known}: {error.filename} belongs to another user; run this as that user, or as root"
    return f"{known}: this system does not tell ({error.strerror}); Linux 5.15 and later do"


def _grants_lease(path: str) -> bool:
    """Return whether no process has a file open for writing, or mapped: the kernel then grants a lease.

    It is given back at once. A process that opens the file within that moment waits for it.
    """
    with descriptors.lent(path) as descriptor:
        fcntl.fcntl(
            descriptor, fcntl.F_SETSIG, signal.SIGURG
        )  # ignored; what is usual would end this process
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return False
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))


def _is_same(known: int, pidfd: int) -> bool:
    """Return whether two descriptors, of processes that had one number, are of the same process."""
    if not _is_reaped(known):
        return True  # it has the number still
    # Since Linux 6.9 a process has an inode, before that all had one.
    found, own = os.fstat(pidfd), os.pidfd_open(os.getpid())
    try:
        return os.path.samestat(os.fstat(known), found) and not os.path.samestat(os.fstat(own), found)
    finally:
        os.close(own)


def _is_reaped(pidfd: int) -> bool:
    """Return whether a process has ended and its number may be another one's by now."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, and there
    return False
