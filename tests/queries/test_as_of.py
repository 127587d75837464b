"""Which position a moment means, and from which position on a log knows what is in its home."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from msb_cache.eventstore.store import NewEvent
from msb_cache.queries.as_of import known_since, position_in, unknown
from tests.logs import digest, layer, manifest_added, new_ledger, some_events


def test_positions() -> None:
    assert position_in("@0") == 0
    assert position_in(" @123 ") == 123
    for text in ("123", "2026", "@", "@-1", "@1.5", "@x", "@" + "9" * 20, "@٣"):
        assert position_in(text) is None


def test_since_when_a_log_knows_what_is_in_its_home(tmp_path: Path) -> None:
    """In a home that became msb's: since msb's index was first seen, not since the log began."""
    seen = replace(manifest_added([layer(1)]), row="manifest:1")
    ledger = new_ledger(tmp_path, [*some_events(), NewEvent(seen, digest("seen"))])
    with ledger.read() as connection:
        assert connection is not None
        (last, when), (first, began) = (
            known_since(connection, True) or (0, 0),
            known_since(connection, False) or (0, 0),
        )
        assert (last, first) == (len(some_events()) + 2, 1)
        assert when > began
        assert unknown(connection, 1, False) is unknown(connection, last, True) is None
        for position, theirs, words in (
            (0, False, "the log begins"),
            (last - 1, True, "what msb had here before"),
        ):
            assert (unknown(connection, position, theirs) or "").startswith(words)
    assert (unknown(None, 0, True) or "").startswith("there is no log here yet")
    ledger.close()


def test_a_log_that_saw_nothing_of_msb_knows_since_it_began(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with ledger.read() as connection:
        assert connection is not None
        assert known_since(connection, True) == known_since(connection, False)
    ledger.close()
