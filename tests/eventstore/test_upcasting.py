"""Old versions are lifted when read, one step at a time."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from msb_cache.errors import CorruptLogError, UnknownEventError
from msb_cache.eventstore.events import Event
from msb_cache.eventstore.upcasting import CATALOGUE, Catalogue


class Renamed(Event, frozen=True, kw_only=True):
    """An event in its third version."""

    type: ClassVar[str] = "test.renamed"
    version: ClassVar[int] = 3
    name: str
    size_bytes: int


def to_two(fields: dict[str, Any]) -> dict[str, Any]:
    return {"name": fields["title"], "size": fields["size"]}


def to_three(fields: dict[str, Any]) -> dict[str, Any]:
    return {"name": fields["name"], "size_bytes": fields["size"] * 1024}


CASES = Catalogue([Renamed], {("test.renamed", 1): to_two, ("test.renamed", 2): to_three})


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
        Catalogue([Renamed], {("test.renamed", 1): dict, ("test.renamed", 2): dict}).decode(
            "test.renamed", 1, "{}"
        )


def test_a_missing_upcaster_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no upcaster from version 1"):
        Catalogue([Renamed], {("test.renamed", 2): to_three})


def test_the_catalogue_knows_every_event() -> None:
    assert len(CATALOGUE.type_names) == len(set(CATALOGUE.type_names)) == 17
