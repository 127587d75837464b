"""What a chronicle tells of each position is what the index was there."""

from __future__ import annotations

from pathlib import Path

import msgspec
from hypothesis import settings
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import past
from msb_cache.projections.rows import ROW_TYPES, ImageRow, LayerRow, ManifestRow
from msb_cache.projections.tables import columns
from msb_cache.report.chronicle import Chronicle, Keeper
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled
from tests.projections.test_fold_stateful import Folding

KEPT = [row_type for row_type in ROW_TYPES if not row_type.only_grows]


def index_of(rows: bytes) -> tuple[int, int]:
    """How many bytes an index has, and how many images."""
    tables = dict(zip(KEPT, msgspec.msgpack.decode(rows), strict=True))

    def total(row_type: type, *names: str) -> int:
        at = [columns(row_type).index(name) for name in names]
        return sum(row[each] or 0 for row in tables[row_type] for each in at)

    amount = total(LayerRow, "erofs_bytes") + total(ManifestRow, "fsmeta_bytes", "vmdk_bytes")
    return amount, len(tables[ImageRow])


class Chronicled(Folding):
    """The life of an index, with all that can happen to it, and its chronicle."""

    def added(self, manifest: str, size: int) -> NewEvent:
        """Images of layers have sizes here, which can change too."""
        new = super().added(manifest, size)
        assert isinstance(new.event, ev.ManifestAdded)
        layers = tuple(replace(found, erofs_size=1000 * size or None) for found in new.event.layers)
        return NewEvent(replace(new.event, layers=layers), new.subject)

    def teardown(self) -> None:
        try:
            if hasattr(self, "ledger"):
                self.compare()
        finally:
            super().teardown()

    def compare(self) -> None:
        at_once, by_steps = Chronicle(), Chronicle()
        with self.ledger.read() as connection:
            if connection is None:
                return
            store = self.ledger.store(connection)
            for seq in self.was:
                by_steps.extend(store, seq)
            at_once.extend(store, max(self.was, default=0))
        for found in (at_once, by_steps):
            points = dict(
                zip(found.point_seqs, zip(found.point_bytes, found.point_images, strict=True), strict=True)
            )
            now = (0, 0)
            for seq in range(1, found.seq + 1):
                now = points.get(seq, now)
                if seq in self.was:
                    assert now == index_of(self.was[seq])
            here = {
                life.points[-1][1]: name for name, life in found.lives.items() if not life.here[-1].end_seq
            }
            assert {*here} == {image[0] for image in self.images.values()}
            assert [*found.times] == sorted(found.times)
            held = {
                (manifest, hold.by)
                for manifest, holds in found.holds.items()
                for hold in holds
                if not hold.end_seq
            }
            assert held == {*self.holds}
            pinned = {subject for subject, pins in found.pins.items() for pin in pins if not pin.end_seq}
            assert pinned == {*self.pins}
            assert {key: each.bytes for key, each in found.deletions.items()} == self.deleted


Chronicled.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestChronicled = Chronicled.TestCase
del Folding  # which has tests of its own


class TestTimes:
    def test_they_never_go_back_although_the_clock_does(self, tmp_path: Path) -> None:
        """An hour ahead for one event, and then right again: what was said ahead happened by then."""
        hour = 3600 * 10**9
        times = [10**18, 10**18 + 1, 10**18 + hour // 2, 10**18 + 5 * 10**6, 10**18 + 9 * 10**6]
        used = NewEvent(ev.ImageUsed(manifest_digest=digest(1)), PYTHON)
        ledger = new_ledger(
            tmp_path, [NewEvent(pulled(digest(1)), PYTHON), *[used] * 3], clock=iter(times * 9)
        )
        found = Chronicle()
        with ledger.read() as connection:
            assert connection is not None
            store = ledger.store(connection)
            found.extend(store, 4)
            head = store.head()
            assert head is not None
            found.extend(store, head.seq)
            assert [*found.times] == sorted(found.times)
            for seq, at_ns in enumerate(found.times, 1):
                assert store.position_at(at_ns + 10**6) >= seq  # ids know milliseconds
            assert found.times[-1] - found.times[0] < hour // 2

    def test_the_last_position_before_a_time(self) -> None:
        found = Chronicle()
        found.times.extend([5, 7, 7, 9])
        assert [found.after(at) for at in (4, 5, 6, 7, 8, 10)] == [0, 0, 1, 1, 3, 4]


class TestKeeper:
    def test_it_goes_on_and_begins_anew_with_another_log(self, tmp_path: Path) -> None:
        keeper = Keeper()

        def seq_of(home: str, count: int) -> tuple[int, int, list[str]]:
            events = [
                NewEvent(manifest_added([layer(home)]), digest(home)),
                NewEvent(pulled(digest(home)), PYTHON),
            ]
            ledger = new_ledger(tmp_path / home / str(count), (events * 3)[:count])
            with ledger.read() as connection:
                assert connection is not None
                with keeper.chronicle(ledger.store(connection)) as found:
                    return id(found), found.seq, [*found.weights]

        one, seq, weights = seq_of("a", 2)
        assert (seq, weights) == (3, [digest("a")])
        other, seq, weights = seq_of("b", 4)
        assert (seq, weights) == (5, [digest("b")])
        assert one != other

    def test_the_same_log_is_not_read_twice(self, tmp_path: Path) -> None:
        keeper = Keeper()
        ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), PYTHON)])
        found = []
        for _ in range(2):
            with ledger.read() as connection:
                assert connection is not None
                with keeper.chronicle(ledger.store(connection)) as chronicle:
                    found.append((chronicle, chronicle.seq))
            with ledger.write("next") as transaction:
                transaction.append([NewEvent(ev.ImageUsed(manifest_digest=digest(1)), PYTHON)])
        assert found[0][0] is found[1][0]
        assert [seq for _, seq in found] == [2, 3]
        assert [*found[0][0].lives[PYTHON].acts] == [0, 1]


def test_past_rows_are_those_that_are_compared() -> None:
    assert tuple(KEPT) == past.KEPT
