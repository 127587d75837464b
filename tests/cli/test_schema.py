"""Schemas of events, printed."""

from __future__ import annotations

import pytest

from msb_cache import event_schema
from msb_cache.eventstore.events import EVENT_TYPES
from tests.cli.support import Call, sentence


def test_all_types(call: Call) -> None:
    assert call("schema", "-q").lines == [kind.type for kind in EVENT_TYPES]
    told = call("schema", "--format", "json").json
    assert told == [{"type": kind.type, "version": kind.version} for kind in EVENT_TYPES]
    assert "image.pulled" in call("schema").out


def test_one(call: Call) -> None:
    assert call("schema", "image.pulled").json == event_schema("image.pulled")
    assert call("schema", "image.pulled", "--event-version", "1").json == event_schema("image.pulled", 1)
    assert call("schema", "event", "--format", "jsonl").json == event_schema()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["image.odd"], 2, "`msb-cache schema` lists them"),
        (["image.pulled", "--event-version", "9"], 2, "has versions 1 to 2, and no 9"),
        (["--event-version", "1"], 2, "name one"),
    ],
)
def test_what_there_is_none_of(call: Call, arguments: list[str], code: int, said: str) -> None:
    done = call("schema", *arguments)
    assert (done.code, done.raw) == (code, b"")
    assert said in sentence(done.err)
