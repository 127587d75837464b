"""What each event has in the columns of a table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import events as ev
from msb_cache.interchange.columns import COLUMNS, row_of
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import jsonable
from tests.cli.support import stored
from tests.logs import digest, manifest_added
from tests.samples import new_sample

KINDS = {"integer": int, "time": int, "text": str}


@pytest.mark.parametrize("kind", ev.EVENT_TYPES, ids=lambda kind: str(kind.type))
def test_every_event_has_a_row(kind: type[ev.Event]) -> None:
    new = new_sample(kind)
    event = stored(new.event, new.subject)
    row = dict(zip(COLUMNS, row_of(event, Privacy(config=True)), strict=True))
    assert all(value is None or type(value) is KINDS[COLUMNS[name]] for name, value in row.items())
    assert json.loads(str(row["data"])) == jsonable(event.data)
    assert row["manifest_digest"] == getattr(event.data, "manifest_digest", None)
    assert row["holder"] == getattr(event.data, "holder", None)
    assert (row["seq"], row["occurred_at"]) == (event.seq, event.occurred_at_ns)
    assert (row["user"], row["host"], row["hash"]) == (event.actor.user, event.actor.host, event.hash.hex())


def test_nobody_is_null() -> None:
    row = row_of(stored(ev.MetadataDeleted(), "it"), Privacy(people=False))
    told = dict(zip(COLUMNS, row, strict=True))
    assert [told[name] for name in ("user", "uid", "host", "login", "reason")] == [None] * 5
    assert told["program"]


def test_what_is_too_deep() -> None:
    deep: Any = "end"
    for _ in range(5000):
        deep = [deep]
    event = stored(replace(manifest_added([]), config=ev.ImageConfig(labels=deep)), digest(1))
    with pytest.raises(CorruptLogError, match="nested too deep"):
        row_of(event, Privacy(config=True))
