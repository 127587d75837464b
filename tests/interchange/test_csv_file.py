"""Events as CSV: what reads it gets the values, and no spreadsheet gets a formula."""

from __future__ import annotations

import csv
import io

import pytest
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from msb_cache.interchange.columns import COLUMNS
from msb_cache.interchange.csv_file import pieces
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import rfc3339
from tests.cli.support import stored
from tests.logs import PYTHON, digest, pulled


def told(*events: StoredEvent) -> list[dict[str, str]]:
    text = b"".join(pieces(events, Privacy())).decode()
    assert text.endswith("\r\n")
    return [*csv.DictReader(io.StringIO(text, newline=""), strict=True)]


def test_a_row_for_each_event() -> None:
    event = stored(pulled(digest(1)), PYTHON)
    rows = told(*[replace(event, seq=seq) for seq in range(1, 1201)])
    assert [row["seq"] for row in rows] == [str(seq) for seq in range(1, 1201)]
    assert [*rows[0]] == [*COLUMNS]
    assert rows[0]["occurred_at"] == rfc3339(event.occurred_at_ns)
    assert rows[0]["holder"] == ""
    assert b"".join(pieces([], Privacy())).decode() == ",".join(COLUMNS) + "\r\n"


@pytest.mark.parametrize("beginning", [*"=+-@\t\r\n＝＋－＠"])
def test_no_cell_begins_a_formula(beginning: str) -> None:
    actor = replace(stored(pulled(digest(1)), PYTHON).actor, reason=f"{beginning}1+1")
    [row] = told(replace(stored(ev.ImagePinned(), f"{beginning}a"), actor=actor))
    assert (row["subject"], row["reason"]) == (f"'{beginning}a", f"'{beginning}1+1")


@pytest.mark.parametrize("text", ['a"b', "a,b", "a\r\nb", "a=b", "'a", "é\x1b\x00"])
def test_other_text_is_as_it_is(text: str) -> None:
    [row] = told(stored(ev.ImagePinned(), text))
    assert row["subject"] == text
