"""Old versions are lifted when read, one step at a time."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest

from msb_cache.errors import CorruptLogError, UnknownEventError
from msb_cache.eventstore import events as ev
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


class TestManifestAddedOfVersion1:
    def lifted(self, **fields: Any) -> ev.ManifestAdded:
        layer = {"diff_id": "d", "blob_digest": "b", "media_type": "m", "size": 7}
        nothing = {"diff_id": "e", "blob_digest": "c", "media_type": "", "size": 0}
        stored = {"media_type": "m", "config_digest": "", "config": {}, "layers": [layer, nothing], **fields}
        event = CATALOGUE.decode("manifest.added", 1, msgspec.json.encode(stored).decode())
        assert isinstance(event, ev.ManifestAdded)
        return event

    def test_the_total_is_the_layers_sum(self) -> None:
        found = self.lifted()
        assert (found.total_size, found.media_type, found.config_digest) == (7, "m", None)
        assert [(each.media_type, each.size) for each in found.layers] == [("m", 7), (None, 0)]

    def test_of_msb_0_was_no_size(self) -> None:
        assert [each.size for each in self.lifted(row="manifest:1").layers] == [7, None]

    @pytest.mark.parametrize(
        "fields", [{"layers": None}, {"layers": [1]}, {"layers": [{}]}, {"layers": [{"size": "x"}]}]
    )
    def test_one_that_is_damaged_is_an_error(self, fields: dict[str, Any]) -> None:
        with pytest.raises(CorruptLogError, match=r"damaged manifest\.added"):
            self.lifted(**fields)

    def test_a_field_that_was_required_is_missing(self) -> None:
        with pytest.raises(CorruptLogError, match=r"damaged manifest\.added"):
            CATALOGUE.decode("manifest.added", 1, '{"layers":[]}')
