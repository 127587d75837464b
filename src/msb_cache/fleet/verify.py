"""Check the logs of a fleet as a host checks its own: the chain, what is folded from it, and what was signed.

The server's own words are no evidence: events are read as they are stored and hashed here, folded here anew,
and compared with what the server answers from; and, where a host's export is given, event by event with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from msb_cache.activity import Activities
from msb_cache.audit import log_files
from msb_cache.audit.admit import admit
from msb_cache.audit.noted import CheckpointFault, CheckpointProblem
from msb_cache.errors import (
    CorruptLogError,
    FleetError,
    ImageNotFoundError,
    InvalidConfigError,
    LogError,
)
from msb_cache.eventstore.chain import Break, explained
from msb_cache.eventstore.events import ManifestAdded
from msb_cache.eventstore.merkle import Frontier
from msb_cache.eventstore.row import COLUMNS, Value
from msb_cache.fleet import archive_files, stored
from msb_cache.fleet.archive_files import Row, Stretch
from msb_cache.fleet.checked import Checkpoint, problem
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.fold import without_config
from msb_cache.fleet.hosts import KnownLog
from msb_cache.fleet.place import Place, Reading
from msb_cache.fleet.stored import Anchor, Followed
from msb_cache.oci.digest import shown
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.fold import Fold
from msb_cache.projections.live import Difference, differences
from msb_cache.projections.tables import Tables, columns
from msb_cache.shapes import Result
from msb_cache.wording import plural

_RECORDED_AT = COLUMNS.index("recorded_at")


@dataclass(frozen=True)
class Compared(Result):
    """A log of the fleet beside a host's own export or database.

    Attributes:
        path: the file.
        events: how many were compared.
        differs_at: the first event that is another in the file; None: those in both are the same.
        column: which column of it differs first; None: no event differs.
        missing_at: the first event that the file has and the fleet has not, though it has later ones; None:
            there is none.
        fleet_has: the fleet has so many events behind the file's last one.
        file_has: the file has so many behind the fleet's last one: they were not shipped yet, or went.
        unreadable: why the file could not be read to its end; None: it was.
    """

    path: Path
    events: int
    differs_at: int | None
    column: str | None
    missing_at: int | None
    fleet_has: int
    file_has: int
    unreadable: str | None

    @property
    def _name(self) -> str:
        return str(self.path)

    @property
    def problem(self) -> str | None:
        """Why the two are not one log, in one sentence; None: one is the beginning of the other."""
        if self.differs_at is not None:
            return f"event {self.differs_at} is another in {self._name}: its {self.column} differs"
        if self.missing_at is not None:
            return f"event {self.missing_at} is in {self._name}, and the fleet has only later ones"
        return self.unreadable

    def _shape(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "events": self.events,
            "problem": self.problem,
            "differs_at": self.differs_at,
            "column": self.column,
            "missing_at": self.missing_at,
            "fleet_has": self.fleet_has,
            "file_has": self.file_has,
        }


@dataclass
class FleetVerified(Result):
    """What was checked of one log, and what was found wrong. ``sound`` is the verdict.

    Attributes:
        host: the log's host.
        log_id: its id.
        events: how many are in order, those of an archive included.
        head: the hash of the last of them.
        archived_seq: the last event that is in an archive; 0: none is.
        archive_read: whether those were read, too.
        folded_seq: the last event that is folded into what is asked.
        broken: where the chain breaks; None: it does not.
        problems: what else is not as it must be, in sentences.
        differences: rows of what is folded that are not as the log says.
        unreadable: why these could not be compared; None: they were.
        checkpoints: how many signed checkpoints were compared with the log.
        bad_checkpoints: those of them that are not of this log.
        against: what a host's own export says; None: none was given of this log.
    """

    host: str
    log_id: str
    events: int = 0
    head: bytes = b""
    archived_seq: int = 0
    archive_read: bool = False
    folded_seq: int = 0
    broken: Break | None = None
    problems: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    unreadable: str | None = None
    checkpoints: int = 0
    bad_checkpoints: list[CheckpointProblem] = field(default_factory=list)
    against: Compared | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        compared = None if self.against is None else self.against.problem
        wrong = (self.problems, self.differences, self.unreadable, self.bad_checkpoints, compared)
        return self.broken is None and not any(wrong)

    def _shape(self) -> dict[str, Any]:
        broken = self.broken
        return {
            "host": self.host,
            "log_id": self.log_id,
            "folded_seq": self.folded_seq,
            "sound": self.sound,
            "events": self.events,
            "head": self.head,
            "archived_seq": self.archived_seq,
            "archive_read": self.archive_read,
            "broken_at": None if broken is None else broken.seq,
            "kind": None if broken is None else broken.kind,
            "problem": None if broken is None else broken.problem,
            "problems": self.problems,
            "unreadable": self.unreadable,
            "differences": self.differences,
            "checkpoints": self.checkpoints,
            "bad_checkpoints": self.bad_checkpoints,
            "against": self.against,
        }


@contextmanager
def reading_events(place: Place) -> Iterator[Reading]:
    """Begin a read in which the logs themselves are read, configurations of images included.

    Raises:
        FleetError: this role may not read them, or the place cannot be asked.
    """
    with place.read() as reading:
        if isinstance(place, Postgres) and reading.rows(
            "SELECT has_table_privilege('msb_cache.events', 'SELECT')"
        ) != [(True,)]:
            raise FleetError(
                "this role may not read the events themselves, which have images' environments in them; "
                "connect as a folder (`msb-cache fleet enrol --as folder`) or as the role that made the fleet"
            )
        yield reading


def verify(
    place: Place,
    logs: Sequence[KnownLog],
    activities: Activities,
    *,
    against: Path | None = None,
    archive: Path | None = None,
) -> Iterator[FleetVerified]:
    """Check logs of a place, each as of one moment; yields what was found as each is done.

    Args:
        place: where they are.
        logs: these.
        activities: tells how far it is.
        against: an export or a database of a host that has one of them.
        archive: the folder with the events that are in an archive; None: these are not read.

    Raises:
        FleetError: the place cannot be asked, or this role may not read events.
        LogError: the archive's folder cannot be read.
    """
    files = {} if archive is None else archive_files.listed(archive)
    for log in logs:
        with reading_events(place) as reading:
            found = FleetVerified(log.host, log.log_id)
            stretches = None if archive is None else files.get(log.log_id, [])
            check = _Check(reading, found, against, stretches, activities)
            check.run()
        yield found


def log_of_file(path: Path, logs: Sequence[KnownLog]) -> KnownLog:
    """Return the log that a host's export or database has.

    Raises:
        ImageNotFoundError: none of these is it.
        InvalidConfigError: the file does not say, for it has not event 1, and these are several.
        LogError: the file cannot be read.
    """
    with log_files.opened(path) as rows:
        first = next(iter(rows()), None)
    if first is None:
        raise CorruptLogError(f"{path} has no log in it")
    row, _ = first
    if row[0] != 1:
        if len(logs) == 1:
            return logs[0]
        raise InvalidConfigError(
            f"{path} begins at event {row[0]!r} and does not say whose it is; name the host"
        )
    for log in logs:
        if log.log_id == row[4]:
            return log
    raise ImageNotFoundError(
        f"the log in {path} is that of no such host of the fleet; its id is {row[4]!r:.40}"
    )


class _Check:
    """The check of one log, in one read."""

    def __init__(
        self,
        reading: Reading,
        found: FleetVerified,
        against: Path | None,
        stretches: Sequence[Stretch] | None,
        activities: Activities,
    ) -> None:
        self._reading = reading
        self._found = found
        self._against = against
        self._stretches = stretches
        self._activities = activities
        self._anchor = stored.anchor_of(reading, found.log_id)
        state = self._ask("seq, hash, recorded_at, host, tree", "fold_state")
        self._folded: tuple[Any, ...] = state[0] if state else (0, b"", 0, "", None)
        found.archived_seq = 0 if self._anchor is None else self._anchor.seq
        found.folded_seq = self._folded[0]
        keys = reading.rows(
            "SELECT e.log_key FROM msb_cache.head h JOIN msb_cache.enrolment e ON e.role = h.role "
            "WHERE h.log_id = ?",
            (found.log_id,),
        )
        self._log_key: str | None = keys[0][0] if keys else None
        self._roots: dict[int, bytes] = {}
        self._last: tuple[Value, ...] | None = None
        self._told: dict[int, bytes] = {}

    def run(self) -> None:
        found = self._found
        (head,) = self._ask("size, hash, recorded_at", "head")
        notes = self._ask("origin, size, note", "checkpoint", "ORDER BY size, origin")
        sizes = {size for _, size, _ in notes}
        anchor = self._anchor if self._stretches is None else None
        followed = self._begun(anchor)
        self._keep_root(followed, sizes)
        with self._activities(f"checking {found.host}", "events", head[0] - followed.checker.seq) as count:
            self._follow(followed, count.each(self._rows()), sizes)
        found.events, found.head = followed.checker.seq, followed.checker.head
        self._check_head(head, followed)
        self._compare_rows(followed)
        self._check_notes(notes, followed)

    def _begun(self, anchor: Anchor | None) -> Followed:
        found = self._found
        if 0 < found.folded_seq < found.archived_seq:
            found.problems.append(
                f"event {found.folded_seq} is said to be the last folded one, and is archived"
            )
        try:
            followed = Followed(anchor)
            if not found.folded_seq:
                followed.fold = Fold(Tables())  # nothing is folded, nor what was before the anchor
            elif anchor is not None and found.folded_seq == anchor.seq:
                self._check_position(
                    "the fold's state", self._folded, anchor.seq, anchor.hash, anchor.recorded_at_ns
                )
                self._check_fold(followed)
            return followed
        except FleetError as error:
            found.unreadable = str(error)
        followed = Followed()
        followed.checker, followed.tree = Followed.before(anchor)(), None
        return followed

    def _keep_root(self, followed: Followed, sizes: set[int]) -> None:
        if followed.tree is not None and followed.tree.size in sizes:
            self._roots[followed.tree.size] = followed.tree.root()

    def _ask(self, columns: str, table: str, more: str = "") -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM msb_cache.{table} WHERE log_id = ? {more}"
        return self._reading.rows(query, (self._found.log_id,))

    def _rows(self) -> Iterator[Row]:
        after = 0
        if self._anchor is not None:
            after = self._anchor.seq
            for stretch in (
                archive_files.leading_to(self._stretches, after) if self._stretches is not None else ()
            ):
                yield from archive_files.rows_of(stretch)
            self._found.archive_read = self._stretches is not None
        yield from stored.events(self._reading, self._found.log_id, after)

    def _follow(self, followed: Followed, rows: Iterable[Row], sizes: set[int]) -> None:
        """Check the rows one by one; fold those that are folded in the fleet."""
        found, checker = self._found, followed.checker
        with ExitStack() as stack:
            beside = (
                None if self._against is None else stack.enter_context(_Beside.of(self._against, checker.seq))
            )
            try:
                for row, hash_ in rows:
                    if beside is not None:
                        beside.take(row, hash_)
                    if found.broken is not None:
                        continue  # only what is beside it is looked at further
                    broken = checker.check(row, hash_)
                    if broken is None:
                        self._take(followed, row, hash_, sizes)
                        continue
                    behind = partial(stored.events, self._reading, found.log_id, checker.seq + 1)
                    found.broken = explained(broken, checker, row, hash_, behind)
                    if beside is None:
                        break
            except CorruptLogError as error:  # of the archive's files
                found.problems.append(str(error))
                found.unreadable = found.unreadable or "not all of the log could be read"
            if beside is not None:
                found.against = beside.ended()

    def _take(self, followed: Followed, row: tuple[Value, ...], hash_: bytes, sizes: set[int]) -> None:
        found, seq = self._found, followed.checker.seq
        event = None
        if seq <= found.folded_seq and found.unreadable is None:
            try:
                event = admit((row, hash_))
            except LogError as error:
                found.unreadable = str(error)
        if event is not None and isinstance(event.data, ManifestAdded) and seq > found.archived_seq:
            self._told[seq] = sha256(without_config((*row, hash_), event.data).encode()).digest()
        followed.take(hash_, event)
        self._keep_root(followed, sizes)
        self._last = seq, hash_, row[_RECORDED_AT]
        if seq == found.archived_seq:
            self._check_anchor(followed, *self._last)
        if seq == found.folded_seq:
            self._check_position("the fold's state", self._folded, *self._last)
            self._check_fold(followed)

    def _check_anchor(self, followed: Followed, *last: Value) -> None:
        """Compare the anchor with the archive that leads to it."""
        anchor = self._anchor
        assert anchor is not None  # noqa: S101
        self._check_position("the anchor", (anchor.seq, anchor.hash, anchor.recorded_at_ns), *last)
        if anchor.fold_version == FOLD_VERSION and anchor.rows != followed.packed():
            self._found.problems.append(
                "what the anchor keeps is not what is folded from the archive; "
                "`msb-cache fleet archive --refold FOLDER` mends that"
            )

    def _check_fold(self, followed: Followed) -> None:
        """Compare what else is kept of the fold at its last event."""
        _, _, _, host, tree = self._folded
        found = self._found
        if followed.host is not None and host != followed.host:
            found.problems.append(
                f"the fold's state calls the host {shown(host)}, and the log {shown(followed.host)}"
            )
        if tree is not None and followed.tree is not None and tree != followed.tree.peaks:
            found.problems.append("the fold's state has another tree than that of the log's events")

    def _check_position(self, what: str, said: Sequence[object], *last: Value) -> None:
        if (*said[:3],) != last:
            self._found.problems.append(f"{what} has not the hash and the time of event {last[0]!r}")

    def _check_head(self, head: tuple[Any, ...], followed: Followed) -> None:
        """Compare the log's end with what the server says of it."""
        found, seq, size = self._found, followed.checker.seq, head[0]
        if found.broken is not None or found.problems:
            return
        if seq < size:
            found.broken = Break(
                seq + 1, f"the log ends at event {seq}, and it had {size}: its end is gone", "truncated"
            )
        elif seq > size:
            found.problems.append(
                f"{plural(seq - size, 'event')} behind event {size}, where the log's head is"
            )
        elif self._last is not None:
            self._check_position("the log's head", head, *self._last)
        elif self._anchor is not None:
            anchor = self._anchor
            self._check_position("the log's head", head, anchor.seq, anchor.hash, anchor.recorded_at_ns)
        if found.folded_seq > size:
            found.problems.append(f"event {found.folded_seq} is said to be folded, and there are {size}")

    def _compare_rows(self, followed: Followed) -> None:
        """Compare what the fleet answers from with the fold."""
        found = self._found
        ((version,),) = self._reading.rows("SELECT fold_version FROM msb_cache.fleet")
        if version != FOLD_VERSION:
            found.unreadable = (
                f"the fleet's read models are of the fold's version {version}, and this msb-cache has "
                f"{FOLD_VERSION}"
            )
        if found.unreadable is not None or followed.checker.seq < found.folded_seq:
            return  # a break says so
        for table in followed.fold.tables.all():
            live = self._ask(", ".join(columns(table.row_type)), table.row_type.table)
            found.differences += differences(table, live)
        told = self._reading.stream(
            "SELECT seq, data FROM msb_cache.told WHERE log_id = ? ORDER BY seq", (found.log_id,)
        )
        for seq, data in told:
            if self._told.pop(seq, None) != sha256(data.encode()).digest():
                found.problems.append(f"what is told of event {seq} is not what the event says")
        found.problems += (f"what event {seq} says is not told" for seq in self._told)

    def _check_notes(self, notes: Sequence[tuple[str, int, str]], followed: Followed) -> None:
        """Compare signed checkpoints with the tree; of what lies in an archive only where that was read."""
        found = self._found
        for origin, size, note in notes:
            root = Frontier().root() if size == 0 else self._roots.get(size)
            is_cut_off = root is None and size > followed.checker.seq and found.broken is None
            if (root is None and not is_cut_off) or not self._is_of_the_key(origin):
                continue
            found.checkpoints += 1
            detail = problem(Checkpoint(size, note), root, self._log_key)
            if detail is not None:
                kind: CheckpointFault = "cut-off" if is_cut_off else "rewritten"
                found.bad_checkpoints.append(CheckpointProblem(origin, size, kind, detail))

    def _is_of_the_key(self, origin: str) -> bool:
        return self._log_key is None or self._log_key.startswith(f"{origin}+")


class _Beside:
    """A host's own export or database, read beside the fleet's log."""

    def __init__(self, path: Path, rows: Iterator[Row], after: int) -> None:
        self._path = path
        self._rows = rows
        self._unreadable: str | None = None
        self._next = self._read()
        while self._next is not None and _seq(self._next) <= after:
            self._next = self._read()
        self._events = 0
        self._differs_at: int | None = None
        self._column: str | None = None
        self._missing_at: int | None = None
        self._fleet_has = 0

    @classmethod
    @contextmanager
    def of(cls, path: Path, after: int) -> Iterator[_Beside]:
        """Open the file; events up to ``after`` are passed over."""
        with log_files.opened(path) as rows:
            yield cls(path, iter(rows()), after)

    def take(self, row: tuple[Value, ...], hash_: bytes) -> None:
        """Compare the fleet's next event."""
        seq = row[0]
        assert isinstance(seq, int)  # noqa: S101
        while self._next is not None and _seq(self._next) < seq:
            self._missing_at = self._missing_at or _seq(self._next)
            self._next = self._read()
        if self._next is None:
            self._fleet_has += 1
            return
        if _seq(self._next) > seq:
            return  # an export of the log's end
        self._events += 1
        theirs = (*self._next[0], self._next[1])
        if theirs != (*row, hash_) and self._differs_at is None:
            self._differs_at = seq
            pairs = zip((*COLUMNS, "hash"), theirs, (*row, hash_), strict=True)
            self._column = next(name for name, one, other in pairs if one != other)
        self._next = self._read()

    def ended(self) -> Compared:
        """Return what was found, when the fleet's log has no further event."""
        file_has = 0
        while self._next is not None:
            file_has += 1
            self._next = self._read()
        return Compared(
            path=self._path,
            events=self._events,
            differs_at=self._differs_at,
            column=self._column,
            missing_at=self._missing_at,
            fleet_has=self._fleet_has,
            file_has=file_has,
            unreadable=self._unreadable,
        )

    def _read(self) -> Row | None:
        try:
            return next(self._rows, None)
        except LogError as error:
            self._unreadable = str(error)
            return None


def _seq(row: Row) -> int:
    seq = row[0][0]
    return seq if isinstance(seq, int) else 0
