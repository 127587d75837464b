"""Notes: what is written is read back, what is no note is refused, and what contradicts one is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import LogError
from msb_cache.eventstore import chain
from msb_cache.proof import chain_note
from msb_cache.proof.chain_note import ChainNote, parse
from tests.logs import new_ledger, some_events

NOTE = ChainNote("0123456789abcdef" * 2, 43, bytes(range(32)), 1_795_446_445_461_360_370).note


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(1, 10**18 - 1),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**63 - 1),
)
def test_a_note_is_read_back(log_id: bytes, size: int, head: bytes, recorded: int) -> None:
    made = ChainNote(log_id.hex(), size, head, recorded)
    assert parse(made.note) == made
    assert made.note.isascii()
    assert len(made.note) < chain_note.MAX_NOTE


def test_the_form_of_a_note() -> None:
    assert NOTE == (
        "msb-cache checkpoint 1\nlog 0123456789abcdef0123456789abcdef\nsize 43\n"
        "head 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
        "time 2026-11-23T15:07:25.461360370Z\n"
    )


@pytest.mark.parametrize(
    ("note", "says"),
    [
        ("", "first line"),
        ("hello\n", "first line"),
        (NOTE.replace("checkpoint 1", "checkpoint 2"), "version"),
        (NOTE.replace("43", "0"), "line 3"),
        (NOTE.replace("43", "043"), "line 3"),
        (NOTE.replace("43", "-1"), "line 3"),
        (NOTE.replace("43", "٤"), "line 3"),
        (NOTE.replace("43", "9" * 30), "line 3"),
        (NOTE.replace("log 0", "log g"), "line 2"),
        (NOTE.replace("head 00", "head "), "line 4"),
        (NOTE.replace("2026-11", "2026-13"), "line 5"),
        (NOTE.replace("370Z", "370"), "line 5"),
        (NOTE + "more\n", "6 lines"),
        (NOTE + "\n", "6 lines"),
        (NOTE[: NOTE.index("head")], "3 lines"),
        (NOTE.replace("\n", "\r\n"), "first line"),
        ("x" * 10**6, "first line"),
    ],
)
def test_what_is_no_note(note: str, says: str) -> None:
    with pytest.raises(LogError, match=says):
        parse(note)


def test_a_log_extends_every_note_of_itself_and_no_other(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "one", some_events())
    other = new_ledger(tmp_path / "other", some_events())
    with ledger.read() as connection, other.read() as others:
        assert connection is not None
        assert others is not None
        found, theirs = chain.verify(connection), chain.verify(others)
        assert isinstance(found, chain.Verified)
        rows = connection.execute("SELECT seq, hash, recorded_at FROM events ORDER BY seq").fetchall()
        for row in rows:
            note = ChainNote(str(found.log_id), *row)
            assert chain_note.contradiction(connection, note, found) is None
            assert "another log" in str(chain_note.contradiction(others, note, theirs))
            for changed in (
                ChainNote(note.log_id, note.size, bytes(32), note.recorded_at_ns),
                ChainNote(note.log_id, note.size, note.head, 0),
            ):
                assert "rewritten" in str(chain_note.contradiction(connection, changed, found))
            longer = ChainNote(note.log_id, note.size + len(rows), note.head, note.recorded_at_ns)
            assert "cut off" in str(chain_note.contradiction(connection, longer, found))
        assert "no log" in str(chain_note.contradiction(None, note, chain.Verified(0, chain.GENESIS, None)))


def test_what_lies_before_a_break_is_still_proved(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with ledger.read() as connection:
        assert connection is not None
        rows = connection.execute("SELECT seq, hash, recorded_at FROM events ORDER BY seq").fetchall()
        log_id = str(connection.execute("SELECT subject FROM events ORDER BY seq").fetchone()[0])
        broken = chain.Break(4, "event 4 does not match its hash", "changed")
        assert chain_note.contradiction(connection, ChainNote(log_id, *rows[2]), broken) is None
        assert "event 4" in str(chain_note.contradiction(connection, ChainNote(log_id, *rows[3]), broken))
