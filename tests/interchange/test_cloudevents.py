"""CloudEvents as their SDK reads them: every type of event, one by one and as a batch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from msgspec.structs import replace

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import events as ev
from msb_cache.interchange.cloudevents import CloudEvents
from msb_cache.interchange.privacy import LEFT_OUT, Privacy
from msb_cache.shapes import jsonable
from tests.cli.support import stored
from tests.logs import PYTHON, digest, layer, manifest_added, pulled
from tests.samples import LOG_ID, new_sample

ALL = CloudEvents(LOG_ID, Privacy(config=True))


def sdk(told: bytes) -> Any:
    return JSONFormat().read(None, told)


@pytest.mark.parametrize("kind", ev.EVENT_TYPES, ids=lambda kind: str(kind.type))
def test_the_sdk_reads_every_type(kind: type[ev.Event]) -> None:
    new = new_sample(kind)
    event = stored(new.event, new.subject)
    line = ALL.line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    read = sdk(line)
    assert (read.get_specversion(), read.get_id(), read.get_subject()) == ("1.0", event.id, new.subject)
    assert (read.get_source(), read.get_type()) == (f"msb-cache:log/{LOG_ID}", f"msb-cache.{kind.type}")
    assert read.get_dataschema() == f"msb-cache:event/{kind.type}/{kind.version}"
    assert read.get_time() == event.occurred_at
    assert read.get_data() == jsonable(event)
    assert read.get_datacontenttype() == "application/json"


def test_order_is_kept_by_what_brokers_look_at() -> None:
    first, later = (ALL.of(replace(stored(pulled(digest(1)), PYTHON), seq=seq)) for seq in (9, 10))
    assert first["sequence"] < later["sequence"]
    assert len(first["sequence"]) == len(str(2**63 - 1))
    assert first["partitionkey"] == LOG_ID
    recorded = datetime.fromisoformat(first["recordedtime"])
    assert recorded.tzinfo is not None
    assert recorded.astimezone(UTC) == stored(pulled(digest(1)), PYTHON).recorded_at


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_is_one_array(count: int) -> None:
    events = [stored(pulled(digest(number)), PYTHON) for number in range(count)]
    found = json.loads(b"".join(ALL.batch(events)))
    assert found == [ALL.of(event) for event in events]
    assert b"".join(ALL.lines(events)).count(b"\n") == count


def test_it_tells_no_more_than_it_may() -> None:
    config = ev.ImageConfig(env=("TOKEN=secret-1",), labels={"owner": "secret-2"})
    event = stored(replace(manifest_added([layer(1)]), config=config), digest(1))
    told = CloudEvents(LOG_ID, Privacy(people=False)).of(event)
    assert "secret" not in str(told)
    assert told["data"]["data"]["config"]["labels"] == {"owner": LEFT_OUT}
    assert told["data"]["actor"]["user"] == ""


@pytest.mark.parametrize(
    ("subject", "told"),
    [("a\nb", "a\\nb"), ("a\x1b\x9b", "a\\x1b\\x9b"), ("\ufdd0\U0010ffff", "\\ufdd0\\U0010ffff"), ("é", "é")],
)
def test_a_subject_has_no_characters_that_the_format_forbids(subject: str, told: str) -> None:
    event = ALL.of(stored(ev.MetadataDeleted(), subject))
    assert event["subject"] == told
    assert event["data"]["subject"] == subject


def test_what_says_nothing_or_is_too_deep() -> None:
    assert "subject" not in ALL.of(stored(ev.MetadataDeleted(), ""))
    deep: Any = "end"
    for _ in range(5000):
        deep = [deep]
    event = stored(replace(manifest_added([]), config=ev.ImageConfig(labels=deep)), digest(1))
    with pytest.raises(CorruptLogError, match="nested too deep"):
        ALL.of(event)
    assert CloudEvents(LOG_ID, Privacy()).of(event)["data"]["data"]["config"]["labels"] == LEFT_OUT
