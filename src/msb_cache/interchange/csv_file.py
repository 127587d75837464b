"""Events as CSV (RFC 4180): a header, one event a line, UTF-8, lines that end in CR LF.

It is made for spreadsheets, which run as a formula what begins like one. An image's name or a reason can be
made to: such a cell gets an apostrophe before it. Who wants values exactly as they are takes JSON or Parquet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice

from msb_cache.eventstore.store import StoredEvent
from msb_cache.interchange.columns import COLUMNS, Value, row_of
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import rfc3339

_AT_ONCE = 500
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""How cells begin that spreadsheets take for formulas, or that do so once white space is taken away."""
_TIMES = tuple(kind == "time" for kind in COLUMNS.values())


def pieces(events: Iterable[StoredEvent], privacy: Privacy) -> Iterator[bytes]:
    """Yield the file, piece by piece."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    rows = (map(_cell, row_of(event, privacy), _TIMES) for event in events)
    while True:
        writer.writerows(islice(rows, _AT_ONCE))
        if not text.tell():
            return
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _cell(value: Value, is_time: bool) -> object:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return rfc3339(value) if is_time else value
