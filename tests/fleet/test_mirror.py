"""A log's mirror has the index that its host has, and takes the events that it is asked for."""

from __future__ import annotations

from pathlib import Path

from msb_cache.fleet.events import named
from msb_cache.fleet.mirror import mirrors
from msb_cache.projections.rows import ROW_TYPES, DeletionOutcomeRow
from msb_cache.projections.tables import stored_rows
from tests.fleet.filled import Filled
from tests.fleet.random_lives import BEGIN, Life


def test_it_has_what_the_host_has(filled: Filled, tmp_path: Path) -> None:
    lives = [Life(tmp_path / name, name) for name in ("one", "two")]
    for step in (("load", "app:2", 1), ("hold", "app:2", 1), ("pin", "app:1", 0), ("remove", "app:1", 0)):
        lives[0].step(step)
    logs = {filled.add(life.home): life for life in lives}
    with filled.fleet()._places()[0].read() as reading:
        known = named(reading, [*logs])
        assert sorted(log.host for log in known) == ["one", "two"]
        for mirror in mirrors(reading, known, lambda: BEGIN):
            with logs[mirror.log.log_id].cache() as cache, cache._ledger.read() as own:
                assert own is not None
                store = cache._ledger.store(own)
                for row_type in ROW_TYPES:
                    if row_type is not DeletionOutcomeRow:
                        place = (
                            row_type.__struct_fields__.index("config") if row_type.table == "manifest" else -1
                        )
                        rows = [
                            (*row[:place], None, *row[place + 1 :]) if place >= 0 else row
                            for row in stored_rows(own, row_type)
                        ]
                        assert [*stored_rows(mirror.connection, row_type)] == rows
                asked = mirror.connection.execute("SELECT count(*) FROM events").fetchone()
                pins = own.execute("SELECT count(*) FROM pin").fetchone()
                assert asked == pins  # nothing else was asked for yet
                assert mirror.store.head() == store.head()
                hashes = [event.hash for event in store.read()]
                subject = next(store.read(types=["image.pulled"])).subject
                for question in (
                    {"subjects": [subject]},
                    {"types": ["image.removed", "image.pulled"]},
                    {"after": 1, "until": 2},
                    {"subjects": [subject], "types": ["image.pulled"], "reverse": True, "limit": 1},
                    {},
                ):
                    there = [event.hash for event in mirror.store.read(**question)]
                    assert there == [event.hash for event in store.read(**question)]
                assert len(there) == len(hashes)
