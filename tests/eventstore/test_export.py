"""The export: read back byte for byte, checked by a stranger's program, refused if it is none."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.audit.export import export_log
from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import chain, export
from tests.logs import new_ledger, some_events

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = text.filter(bool)
times = st.integers(0, 2**63 - 1)
rows = st.tuples(
    st.integers(1, 2**63 - 1), names, names, st.integers(1, 2**31), text, names, times, times, text, text
)


@given(st.lists(st.tuples(rows, st.binary(min_size=32, max_size=32)), max_size=5))
def test_what_is_written_is_read(written: list[export.Row]) -> None:
    data = b"".join(export.line_of(*row) for row in written)
    assert data.count(b"\n") == len(written)
    assert list(export.read(io.BytesIO(data))) == written
    assert [list(json.loads(line))[-1] for line in data.splitlines()] == ["hash"] * len(written)


def test_a_stranger_checks_an_export(tmp_path: Path) -> None:
    """What docs/event-log.md tells a stranger to do, with the export alone."""
    ledger = new_ledger(tmp_path / "home", some_events())
    assert export_log(ledger, tmp_path / "log.jsonl") == len(some_events()) + 1
    previous = bytes(32)
    for line in (tmp_path / "log.jsonl").read_bytes().splitlines():
        event = json.loads(line)
        *values, stored = event.values()
        message = previous
        for value in values:
            number = isinstance(value, int)
            payload = value.to_bytes(8, "big", signed=True) if number else value.encode()
            message += (b"i" if number else b"t") + len(payload).to_bytes(4, "big") + payload
        previous = hashlib.sha256(message).digest()
        assert previous.hex() == stored
        assert json.loads(event["data"]) is not None
    with ledger.read() as connection:
        assert connection is not None
        assert previous == connection.execute("SELECT hash FROM events ORDER BY seq DESC").fetchone()[0]


def test_parts_make_the_whole(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    whole, head, tail = io.BytesIO(), io.BytesIO(), io.BytesIO()
    count = export_log(ledger, whole)
    assert export_log(ledger, tail, since_seq=3) == count - 3
    head.write(b"".join(whole.getvalue().splitlines(keepends=True)[:3]))
    assert head.getvalue() + tail.getvalue() == whole.getvalue()
    assert export_log(ledger, io.BytesIO(), since_seq=count) == 0


@pytest.mark.parametrize("column", chain.COLUMNS)
def test_a_row_that_no_line_can_carry(column: str) -> None:
    row: list[chain.Value] = [1, "id", "type", 1, "subject", "operation", 1, 1, "{}", "{}"]
    row[chain.COLUMNS.index(column)] = b"bytes"
    with pytest.raises(CorruptLogError, match=f"{column} is no"):
        export.line_of(tuple(row), bytes(32))


GOOD = json.loads(export.line_of((1, "i", "log.created", 1, "s", "o", 1, 1, '{"a":1}', '{"b":2}'), bytes(32)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": -1}, "seq"),
        ({"seq": "1"}, "seq"),
        ({"seq": 1.5}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": 2**63}, "seq"),
        ({"seq": 10**400}, ""),
        ({"version": None}, "version"),
        ({"occurred_at": -1}, "occurred_at"),
        ({"recorded_at": 2**63}, "recorded_at"),
        ({"id": ""}, "id"),
        ({"id": "x" * 1000}, "id"),
        ({"subject": "x" * 10000}, "subject"),
        ({"actor": {"user": "x"}}, "actor"),
        ({"actor": "x" * 70000}, "actor"),
        ({"data": {"b": 2}}, "data"),
        ({"data": "x" * (4 * 1024 * 1024 + 1)}, "data"),
        ({"hash": "00"}, "hash"),
        ({"hash": "G" * 64}, "hash"),
        ({"hash": "A" * 64}, "hash"),
        ({"more": 1}, "more"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_lines_that_are_refused(changes: dict[str, object], says: str) -> None:
    line = msgspec.json.encode({**GOOD, **changes}) if 10**400 not in changes.values() else b""
    line = line or json.dumps({**GOOD, **changes}).encode()
    with pytest.raises(CorruptLogError, match=rf"line 1 is no exported event.*{says}"):
        list(export.read(io.BytesIO(line + b"\n")))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n", "line 1"),
        (b"[]\n", "line 1"),
        (b"not json\n", "line 1"),
        (b"\xff\xfe\n", "line 1"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (msgspec.json.encode(GOOD), "cut off"),
        (msgspec.json.encode(GOOD) + b"\n{", "line 2, the last, is cut off"),
        (b"x" * (export.MAX_LINE + 1), "more than"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_files_that_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(CorruptLogError, match=says):
        list(export.read(io.BytesIO(data)))


def test_the_largest_event_fits_in_a_line() -> None:
    worst = '"' * (4 * 1024 * 1024)
    row = (1, "i", "t", 1, "s", "o", 1, 1, "\\" * 65536, worst)
    line = export.line_of(row, bytes(32))
    assert len(line) <= export.MAX_LINE
    assert list(export.read(io.BytesIO(line))) == [(row, bytes(32))]


def test_text_survives_as_it_is_stored(tmp_path: Path) -> None:
    """JSON that no encoder of ours would write is still what the hash covers."""
    ledger = new_ledger(tmp_path, some_events())
    ledger.close()
    odd = '{ "manifest_digest" :"sha256:\\u00e9é" , "a":1.0e1}'
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET data = ? WHERE seq = 3", (odd,))
        out = io.BytesIO()
        export_log(ledger, out)
        assert next(row for row, _ in export.read(io.BytesIO(out.getvalue())) if row[0] == 3)[-1] == odd
