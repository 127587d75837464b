"""Results as plain data: Python values, JSON, and columns of tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import pytest
from msgspec import Struct

from msb_cache import BackendKind, ImageCache
from msb_cache.shapes import Result, Time, fields, jsonable, rfc3339
from tests.examples import ONE, TWO, archive

NS = 1_700_000_000_123_456_789


class Inner(Result, Struct, frozen=True):
    manifest_digest: str
    until_ns: int | None


class Outer(Result, Struct, frozen=True):
    created_at_ns: int
    idle_ns: int
    inner: tuple[Inner, ...] = ()
    other: Any = None


def test_a_time_has_two_forms() -> None:
    found = Outer(NS, 5, (Inner("sha256:1", None),))
    told = {"idle_ns": 5, "inner": [{"digest": "sha256:1", "until": None}], "other": None}
    when = datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert found.to_dict() == {"created_at": when, **told}
    assert json.loads(found.to_json()) == {"created_at": "2023-11-14T22:13:20.123456789+00:00", **told}
    assert found.to_json(indent=2).startswith('{\n  "created_at"')


@pytest.mark.parametrize("ns", [0, -1, 10**9 - 1, 253_402_300_799 * 10**9 + 999_999_999])
def test_both_forms_are_one_time(ns: int) -> None:
    inner = Inner("", ns)
    text, when = json.loads(inner.to_json())["until"], inner.to_dict()["until"]
    assert datetime.fromisoformat(text[:26] + "+00:00") == when
    assert when - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=ns // 1000)
    assert text == rfc3339(ns)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (b"\x01\xff", "01ff"),
        (PurePosixPath("/a/b"), "/a/b"),
        (BackendKind.LOCAL, "local"),
        ({1: {"x"}}, {"1": ["x"]}),
        (True, True),
        (1.5, 1.5),
        (Time(0), "1970-01-01T00:00:00.000000000+00:00"),
    ],
)
def test_values(value: object, plain: object) -> None:
    found = jsonable(Outer(0, 0, other=value))["other"]
    assert found == plain
    assert type(found) is type(plain)


def test_what_is_no_plain_data_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no place in plain data"):
        jsonable([object()])
    with pytest.raises(TypeError, match="int has no fields"):
        fields(1)


@pytest.fixture
def used(cache: ImageCache) -> ImageCache:
    cache.load(archive(ONE, TWO))
    cache.use("one:1")
    cache.hold("two:1", "sandbox:dev")
    return cache


def test_handles_are_told_without_where_they_came_from(used: ImageCache) -> None:
    held, detail = used.hold("one:1", "sandbox:a", until="2 days"), used.inspect("one:1")
    first = held.to_dict()
    assert first.keys() - detail.handle.to_dict().keys() == {"holder", "enforced", "until"}
    assert first["created_at"] == held.created_at
    assert [layer["position"] for layer in detail.to_dict()["layers"]] == [0, 1]
    assert detail.to_dict()["reference"] == "one:1"


def test_an_event_has_its_data(used: ImageCache) -> None:
    event = used.events(types=["image.used"])[0]
    found = event.to_dict()
    assert (found["occurred_at"], found["data"]) == (event.occurred_at, event.data.to_dict())
    assert found["actor"] == event.actor.to_dict()
    assert found["hash"] == event.hash.hex()
    assert [each.to_dict()["shared"] for each in used.history("one:1", types=["image.used"])] == [False]


Frame = Callable[[list[dict[str, Any]]], Any]


def pandas() -> Frame:
    found: Frame = pytest.importorskip("pandas", exc_type=ImportError).DataFrame
    return found


def polars() -> Frame:
    found: Frame = pytest.importorskip("polars", exc_type=ImportError).DataFrame
    return found


@pytest.mark.peer
@pytest.mark.parametrize("library", [pandas, polars])
def test_results_are_columns(used: ImageCache, library: Callable[[], Frame]) -> None:
    frame = library()
    handles = frame([handle.to_dict() for handle in used.list()])
    assert [*handles.columns][:3] == ["reference", "digest", "size_bytes"]
    assert {*handles["reference"]} == {"one:1", "two:1"}
    assert "datetime64[us, UTC]" in str(handles["created_at"].dtype).replace("ns", "us") or str(
        handles["created_at"].dtype
    ).startswith("Datetime(time_unit='us', time_zone='UTC'")
    events = frame([event.to_dict() for event in used.events()])
    assert len(events) == len(used.events())
    assert [*events["seq"]] == [*range(1, len(events) + 1)]
    assert len(frame([image.to_dict() for image in used.last_used()])) == 2
