"""What a log tells over time, in a form that can be cut at any of its positions.

The index itself is the fold's (``projections.fold``): this follows its tables, so that nothing is folded by
two pieces of code that could drift apart. What it keeps goes on where it stopped when events have come, and
one that has the whole log answers for each earlier position: everything in it says at which position it
began and ended. It takes a few hundred bytes for each reference and each deletion, and some 50 for each use.

Times that are drawn on a line are effective ones: the least that the clock said at an append from a position
to the log's end. They never go back with the positions, though the clock may, and ``EventStore.position_at``
goes by the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from msgspec import Struct

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import time_of
from msb_cache.eventstore.store import Actor, EventStore, StoredEvent
from msb_cache.oci.reference import as_typed
from msb_cache.projections.fold import Fold
from msb_cache.projections.rows import (
    DamageRow,
    DeletionOutcomeRow,
    DeletionRow,
    DigestRow,
    GoingRow,
    HoldRow,
    ImageRow,
    LayerRow,
    LeftoverRow,
    ManifestRow,
    OpenUseRow,
    PinRow,
    PointedAtRow,
    RuleCountRow,
    UndoingRow,
)
from msb_cache.projections.tables import Key, R, Table, Tables

NAMES = 20
"""So many of the references that a deletion took are kept by name."""

_UNKEPT = frozenset(
    {DamageRow, DeletionOutcomeRow, DigestRow, GoingRow, LeftoverRow, PointedAtRow, RuleCountRow, UndoingRow}
)
"""Rows that change nothing of what is followed here; of some there are as many as files ever deleted."""

_MILLISECOND = 1_000_000
_LATEST = 2**63 - 1
_MOMENT = 13  # characters of an event's id: when it was appended

PULL, USE, BOOT = range(3)
"""Kinds of acts."""


class Lasting(Struct, gc=False):
    """Something that began by an event and ends by another; times are what the events say, in ns.

    ``until_ns`` is when it ends by itself, without an event; ``by`` is a person's number, or a text.
    """

    seq: int
    since_ns: int
    by: int | str
    until_ns: int | None = None
    end_seq: int = 0
    end_ns: int = 0
    ended_by: int = -1
    ended_how: str = ""


class Life:
    """What happened to one image, under the name that it has in the index.

    Attributes:
        here: when it was in the cache.
        points: at which position it began to point at which manifest.
        runs: boots from it.
        acts: the numbers of its pulls and uses.
    """

    __slots__ = ("acts", "here", "points", "reference", "runs", "spelling")

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.spelling: str | None = None
        self.here: list[Lasting] = []
        self.points: list[tuple[int, str]] = []
        self.runs: list[Lasting] = []
        self.acts = array("q")

    @property
    def shown(self) -> str:
        """The reference as people see it."""
        return as_typed(self.reference, self.spelling)


class Deletion:
    """A removal or a prune, or what another program deleted, as far as its events were taken.

    Attributes:
        seq: the position of its decision.
        last_seq: the position of its last event.
        bytes: what came free; None: none of it could be measured.
        forced: how many of its images were held or pinned.
    """

    __slots__ = (
        *("actor", "bytes", "forced", "images", "kind", "last_seq", "names", "operation", "outcome", "rules"),
        *("_going", "seq"),
    )

    def __init__(self, operation: str, kind: str, seq: int, actor: Actor) -> None:
        self.operation, self.kind, self.seq, self.actor = operation, kind, seq, actor
        self.last_seq = seq
        self.images = self.forced = 0
        self.bytes: int | None = None
        self.outcome: str | None = "completed" if kind == "external" else None
        self.names: list[str] = []
        self.rules: Counter[str] = Counter()
        self._going: dict[tuple[str, str | None], str] = {}

    def take(self, event: StoredEvent) -> None:
        """Take one of its events."""
        data = event.data
        match data:
            case ev.DeletionStarted():
                for judged in data.going:
                    rule = judged.policy_rule or judged.rule
                    self._going[judged.subject, judged.spelling] = rule
            case ev.ImageRemoved():
                self._removed(event.subject, data)
            case ev.ArtifactDeleted():
                if data.bytes is not None and data.kind != "flat_ref":
                    self.bytes = (self.bytes or 0) + data.bytes
            case ev.DeletionFinished():
                self.outcome = data.outcome
                self._going.clear()
            case _:
                if self.kind == "external":
                    return  # that operation is the sync's, which has seen other things as well
        self.last_seq = event.seq

    def _removed(self, reference: str, data: ev.ImageRemoved) -> None:
        self.images += 1
        self.forced += data.forced
        if len(self.names) < NAMES:
            self.names.append(as_typed(reference, data.spelling))
        rule = self._going.pop((reference, data.spelling), None)
        if rule is not None:
            self.rules[rule] += 1


class _Unkept(Table[R]):
    """A table that has no rows, whatever is put into it."""

    def put(self, row: R) -> None:
        pass


class _Followed(Table[R]):
    """A table that tells what is put into it and what is taken out."""

    def __init__(
        self,
        row_type: type[R],
        by: str | None,
        put: Callable[[R | None, R], None],
        gone: Callable[[R], None],
    ) -> None:
        super().__init__(row_type, by)
        self._put, self._gone = put, gone

    def put(self, row: R) -> None:
        before = self.rows.get(self.key_of(row))
        super().put(row)
        self._put(before, row)

    def delete(self, key: Key) -> R | None:
        row = super().delete(key)
        if row is not None:
            self._gone(row)
        return row


class Chronicle:
    """What one log tells, up to position ``seq``.

    Attributes:
        seq: the last position that is in it.
        hash: that event's.
        times: the effective time of each position, in ns since the epoch, UTC; position 1 is the first.
        earliest_ns: the earliest time that an event tells of: in a home of msb, before the log began.
        point_seqs, point_bytes, point_images: after which positions the cache's size or number of images was
            another one, and which.
        lives: by the images' names.
        holds: by manifest digest.
        pins: by canonical reference or manifest digest.
        pointing: by manifest digest, the names that have ever pointed there.
        weights: by manifest digest, what its files measured together, in bytes.
        deletions: by operation, in the order of their decisions.
        undone: deletions of which a restore has brought something back: at which position the first.
        people: who they are, by their numbers.
    """

    def __init__(self) -> None:
        self.seq, self.hash = 0, b""
        self.times = array("q")
        self.earliest_ns = _LATEST
        self.point_seqs, self.point_bytes, self.point_images = array("q"), array("q"), array("q")
        self.lives: dict[str, Life] = {}
        self.holds: dict[str, list[Lasting]] = {}
        self.pins: dict[str, list[Lasting]] = {}
        self.pointing: dict[str, list[str]] = {}
        self.weights: dict[str, int] = {}
        self.deletions: dict[str, Deletion] = {}
        self.undone: dict[str, int] = {}
        self.people: list[Actor] = []
        self.act_seqs, self.act_times, self.act_bytes = array("q"), array("q"), array("q")
        self.act_people, self.act_kinds = array("l"), array("b")
        self.act_holders: dict[int, str] = {}
        self._numbers: dict[tuple[str | bool, ...], int] = {}
        self._open: dict[tuple[type[Any], Key], Lasting] = {}
        self._bytes = 0
        self._read = (-1, "")
        self._event: StoredEvent
        self._left: tuple[int, str] = (0, "")
        self._fold = Fold(Tables(self._table))
        self._images = self._fold.tables.of(ImageRow).rows
        self._after: dict[type[ev.Event], Callable[[StoredEvent, Any], None]] = {
            ev.ImagePulled: self._pulled,
            ev.ImageUsed: self._used,
            ev.ImageRemoved: self._of_deletion,
            ev.DeletionStarted: self._of_deletion,
            ev.DeletionFinished: self._of_deletion,
            **dict.fromkeys((ev.ArtifactKept, ev.ArtifactDeleteFailed), self._of_deletion),
            **dict.fromkeys(ev.OUTCOMES.values(), self._of_deletion),
        }

    def extend(self, store: EventStore, until: int) -> None:
        """Take the events up to a position; the caller's transaction makes them those of one moment.

        Raises:
            UnknownEventError, CorruptLogError: an event cannot be read.
        """
        if until > self.seq:
            self._fold.apply(self._taken(store.read(after=self.seq, until=until)))

    def goes_on(self, store: EventStore) -> bool:
        """Return whether a log is this one, perhaps with more events."""
        if not self.seq:
            return True
        event = store.at(self.seq)
        return event is not None and event.hash == self.hash

    def at_ns(self, seq: int) -> int:
        """Return the effective time of a position; of 0 that of the log's beginning."""
        return self.times[max(seq, 1) - 1]

    def after(self, time_ns: int) -> int:
        """Return the last position before a time."""
        return bisect_left(self.times, time_ns)

    def person(self, actor: Actor) -> int:
        """Return the number of who did something: of a user on a machine, and by which program."""
        observed = actor.observed and actor.seen_by is None
        key = (observed, actor.login or actor.user, actor.host, actor.program)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.people)
            self.people.append(actor)
        return number

    def acts(self, after: int, until: int) -> range:
        """Return the numbers of the acts between two positions, the later one included."""
        return range(bisect_right(self.act_seqs, after), bisect_right(self.act_seqs, until))

    def _taken(self, events: Iterator[StoredEvent]) -> Iterator[StoredEvent]:
        """Pass events on to the fold, and look at each when that has applied it."""
        after, images = self._after, self._images
        last = (self.point_bytes[-1], self.point_images[-1]) if self.point_seqs else (0, 0)
        for event in events:
            self._event = event
            self._see_clock(event)
            yield event
            handler = after.get(type(event.data))
            if handler is not None:
                handler(event, event.data)
            now = (self._bytes, len(images))
            if now != last:
                last = now
                self.point_seqs.append(event.seq)
                self.point_bytes.append(now[0])
                self.point_images.append(now[1])
            self.seq, self.hash = event.seq, event.hash

    def _see_clock(self, event: StoredEvent) -> None:
        if event.occurred_at_ns < self.earliest_ns:
            self.earliest_ns = event.occurred_at_ns
        times, reading, moment = self.times, event.recorded_at_ns, event.id[:_MOMENT]
        if (reading, moment) == self._read:
            times.append(times[-1])  # of the same transaction
            return
        self._read = (reading, moment)
        said = time_of(event.id)
        if 0 < said // _MILLISECOND < reading // _MILLISECOND:
            reading = said  # the clock was behind what had been recorded
        times.append(reading)
        at = len(times) - 2
        while at >= 0 and times[at] > reading:
            times[at] = reading
            at -= 1

    # -- the tables that are followed --------------------------------------------------------------

    def _table(self, row_type: type[R], by: str | None = None) -> Table[R]:
        if row_type in _UNKEPT:
            return _Unkept(row_type, by)
        followed: dict[type[Any], tuple[Callable[[Any, Any], None], Callable[[Any], None]]] = {
            LayerRow: (self._layer_put, self._layer_gone),
            ManifestRow: (self._manifest_put, self._manifest_gone),
            ImageRow: (self._image_put, self._image_gone),
            OpenUseRow: (self._run_began, self._run_ended),
            HoldRow: (self._hold_put, self._hold_gone),
            PinRow: (self._pin_put, self._pin_gone),
            DeletionRow: (self._deletion_put, self._deletion_gone),
        }
        found = followed.get(row_type)
        return Table(row_type, by) if found is None else _Followed(row_type, by, *found)

    def _layer_put(self, before: LayerRow | None, row: LayerRow) -> None:
        self._bytes += (row.erofs_bytes or 0) - (0 if before is None else before.erofs_bytes or 0)

    def _layer_gone(self, row: LayerRow) -> None:
        self._bytes -= row.erofs_bytes or 0

    def _manifest_put(self, before: ManifestRow | None, row: ManifestRow) -> None:
        row.config = None  # nothing here asks for it, and it is most of a row
        self._bytes += _own_bytes(row) - (0 if before is None else _own_bytes(before))
        data = self._event.data
        if isinstance(data, ev.ManifestAdded):
            sizes = {layer.diff_id: layer.erofs_size or 0 for layer in data.layers}
            self.weights[row.digest] = _own_bytes(row) + sum(sizes.values())

    def _manifest_gone(self, row: ManifestRow) -> None:
        self._bytes -= _own_bytes(row)

    def _image_put(self, before: ImageRow | None, row: ImageRow) -> None:
        event = self._event
        if before is None:
            if self._left[0] == event.seq and row.name not in self.lives:
                # The same image under another name from now on.
                life = self.lives[row.name] = self.lives.pop(self._left[1])
                life.here[-1].end_seq = 0
            else:
                life = self.lives.setdefault(row.name, Life(row.reference))
                since = min(row.created_at, event.occurred_at_ns)
                life.here.append(Lasting(event.seq, since, self.person(event.actor)))
        else:
            life = self.lives[row.name]
        if before is None or not life.points or life.points[-1][1] != row.manifest_digest:
            life.points.append((event.seq, row.manifest_digest))
            names = self.pointing.setdefault(row.manifest_digest, [])
            if row.name not in names:
                names.append(row.name)

    def _image_gone(self, row: ImageRow) -> None:
        event, here = self._event, self.lives[row.name].here[-1]
        here.end_seq, here.end_ns = event.seq, event.occurred_at_ns
        if isinstance(event.data, ev.ImageRemoved):
            here.ended_by, here.ended_how = self.person(event.actor), event.data.cause
        else:
            self._left = (event.seq, row.name)

    def _run_began(self, before: OpenUseRow | None, row: OpenUseRow) -> None:
        data = self._event.data
        if before is not None or not isinstance(data, ev.ImageUsed):
            return
        life = self._life(row.reference, data.spelling)
        if life is not None:
            run = self._begin(OpenUseRow, row.run, row.holder or "")
            life.runs.append(run)

    def _run_ended(self, row: OpenUseRow) -> None:
        self._end(OpenUseRow, row.run)

    def _hold_put(self, before: HoldRow | None, row: HoldRow) -> None:
        key = (row.manifest_digest, row.holder)
        hold = self._open.get((HoldRow, key))
        if hold is None or hold.seq != row.seq:
            hold = self._begin(HoldRow, key, row.holder)
            self.holds.setdefault(row.manifest_digest, []).append(hold)
        hold.until_ns = row.until

    def _hold_gone(self, row: HoldRow) -> None:
        self._end(HoldRow, (row.manifest_digest, row.holder))

    def _pin_put(self, before: PinRow | None, row: PinRow) -> None:
        pin = self._open.get((PinRow, row.subject))
        if pin is None or pin.seq != row.seq:
            pin = self._begin(PinRow, row.subject, self.person(self._event.actor))
            self.pins.setdefault(row.subject, []).append(pin)
        pin.until_ns = row.until

    def _pin_gone(self, row: PinRow) -> None:
        self._end(PinRow, row.subject)

    def _deletion_put(self, before: DeletionRow | None, row: DeletionRow) -> None:
        if row.operation not in self.deletions:
            event = self._event
            self.deletions[row.operation] = Deletion(row.operation, row.kind, event.seq, event.actor)

    def _deletion_gone(self, row: DeletionRow) -> None:
        raise AssertionError("no deletion is ever taken out")

    def _begin(self, of: type[Any], key: Key, by: int | str) -> Lasting:
        """Begin something; what began under the same key before ends."""
        self._end(of, key)
        found = self._open[of, key] = Lasting(self._event.seq, self._event.occurred_at_ns, by)
        return found

    def _end(self, of: type[Any], key: Key) -> None:
        found = self._open.pop((of, key), None)
        if found is not None:
            found.end_seq, found.end_ns = self._event.seq, self._event.occurred_at_ns

    # -- what no table says ------------------------------------------------------------------------

    def _life(self, reference: str, spelling: str | None) -> Life | None:
        """Return the life of a reference, under this spelling where that is its name."""
        life = None if spelling is None else self.lives.get(spelling)
        return self.lives.get(reference) if life is None or life.reference != reference else life

    def _act(self, event: StoredEvent, kind: int, spelling: str | None, fetched: int) -> Life | None:
        life = self._life(event.subject, spelling)
        if life is not None:
            life.acts.append(len(self.act_seqs))
        self.act_seqs.append(event.seq)
        self.act_times.append(event.occurred_at_ns)
        self.act_bytes.append(fetched)
        self.act_people.append(self.person(event.actor))
        self.act_kinds.append(kind)
        return life

    def _pulled(self, event: StoredEvent, data: ev.ImagePulled) -> None:
        life = self._act(event, PULL, data.spelling, data.bytes_fetched or 0)
        if life is not None:
            life.spelling = data.spelling
        if data.undoes is not None:
            self.undone.setdefault(data.undoes, event.seq)

    def _used(self, event: StoredEvent, data: ev.ImageUsed) -> None:
        if data.holder is not None:
            self.act_holders[len(self.act_seqs)] = data.holder
        self._act(event, USE if data.run is None else BOOT, data.spelling, 0)

    def _of_deletion(self, event: StoredEvent, data: ev.Event) -> None:
        deletion = self.deletions.get(event.operation)
        if deletion is not None:
            deletion.take(event)


def _own_bytes(row: ManifestRow) -> int:
    return (row.fsmeta_bytes or 0) + (row.vmdk_bytes or 0)


class Keeper:
    """Keeps the chronicle of one home between reports; of several threads one uses it at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept = Chronicle()

    @contextmanager
    def chronicle(self, store: EventStore) -> Iterator[Chronicle]:
        """Give the chronicle of a log, up to its end; the caller's transaction makes that one moment.

        Raises:
            UnknownEventError, CorruptLogError: an event cannot be read.
        """
        with self._lock:
            # What an error cuts short is not gone on with.
            kept, self._kept = self._kept, Chronicle()
            head = store.head()
            if not kept.goes_on(store):
                kept = Chronicle()
            kept.extend(store, 0 if head is None else head.seq)
            self._kept = kept
            yield kept
