"""Old versions are lifted when read, one step at a time."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from msb_cache.errors import CorruptLogError, UnknownEventError
from msb_cache.eventstore.events import EVENT_TYPES, Event
from msb_cache.eventstore.upcasting import CATALOGUE, Catalogue


class Renamed(Event, frozen=True, kw_only=True):
    """An event in its third version."""

    type: ClassVar[str] = "test.renamed"
    version: ClassVar[int] = 3
    name: str
    size_bytes: int

    @staticmethod
    def upcast_v1_v2(fields: dict[str, Any]) -> dict[str, Any]:
        return {"name": fields["title"], "size": fields["size"]}

    @staticmethod
    def upcast_v2_v3(fields: dict[str, Any]) -> dict[str, Any]:
        return {"name": fields["name"], "size_bytes": fields["size"] * 1024}


class Unliftable(Renamed, frozen=True, kw_only=True):
    """Its first version lifts to what is no event."""

    upcast_v1_v2 = staticmethod(dict)
    upcast_v2_v3 = staticmethod(dict)


class Forgotten(Event, frozen=True, kw_only=True):
    """An event in its third version, whose first nobody can lift."""

    type: ClassVar[str] = "test.forgotten"
    version: ClassVar[int] = 3

    upcast_v2_v3 = staticmethod(dict)


CASES = Catalogue([Renamed])


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (1, '{"title":"a","size":2}'),
        (2, '{"name":"a","size":2}'),
        (3, '{"name":"a","size_bytes":2048}'),
    ],
)
def test_every_version_reads_as_the_newest(version: int, data: str) -> None:
    assert CASES.decode("test.renamed", version, data) == Renamed(name="a", size_bytes=2048)


def test_a_newer_version_is_an_error_that_names_it() -> None:
    with pytest.raises(UnknownEventError, match=r"test\.renamed in version 4"):
        CASES.decode("test.renamed", 4, "{}")


def test_a_lifted_event_must_still_fit() -> None:
    with pytest.raises(CorruptLogError, match=r"damaged test\.renamed"):
        Catalogue([Unliftable]).decode("test.renamed", 1, "{}")


def test_a_missing_upcaster_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no upcaster from version 1"):
        Catalogue([Forgotten])


def test_two_structs_of_one_type_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match=r"two structs are test\.renamed"):
        Catalogue([Renamed, Unliftable])


def test_the_catalogue_knows_every_event() -> None:
    assert len(CATALOGUE.type_names) == len(set(CATALOGUE.type_names)) == len(EVENT_TYPES)
