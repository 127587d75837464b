"""From stored text to typed events: the catalogue of known types, and the upcasters of old versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from msb_cache.errors import CorruptLogError, UnknownEventError
from msb_cache.eventstore.events import EVENT_TYPES, Event, EventData

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Lifts an event's data from one version to the next; it gets a fresh dict it may change."""


class Catalogue:
    """The event types this release knows, and how to read older versions of them.

    Args:
        types: the newest struct of each event type. For every version below its own it has an upcaster, a
            static method such as ``upcast_v1_v2``, which lifts data to the next version.

    Raises:
        ValueError: two structs have the same type, or one lacks an upcaster.
    """

    def __init__(self, types: Iterable[type[Event]] = EVENT_TYPES) -> None:
        self._types: dict[str, type[Event]] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}
        self._decoders: dict[tuple[str, int], Callable[[str], EventData]] = {}
        for cls in types:
            if cls.type in self._types:
                raise ValueError(f"two structs are {cls.type}")
            self._types[cls.type] = cls
            for version in range(1, cls.version):
                upcaster = getattr(cls, f"upcast_v{version}_v{version + 1}", None)
                if upcaster is None:
                    raise ValueError(f"{cls.type} has no upcaster from version {version}")
                self._upcasters[cls.type, version] = upcaster

    def __contains__(self, event: Event) -> bool:
        """Return whether this release could read the event, once it is stored."""
        return self._types.get(event.type) is type(event)

    @property
    def type_names(self) -> tuple[str, ...]:
        """The known event types, in catalogue order."""
        return tuple(self._types)

    def decode(self, type_: str, version: int, data: str) -> EventData:
        """Return the event that ``data`` (JSON text) holds, lifted to the newest version.

        Raises:
            UnknownEventError: the type is unknown here, or its version is newer than this release.
            CorruptLogError: the data does not fit the type.
        """
        decode = self._decoders.get((type_, version))
        try:
            if decode is None and (cls := self._types.get(type_)) is not None and cls.version == version:
                # Made when first used: all of them would cost a command that needs two a millisecond.
                decode = self._decoders[type_, version] = _decoder(cls)
            if decode is not None:
                return decode(data)
            return self._lift(type_, version, data)
        except (msgspec.MsgspecError, RecursionError, AttributeError, LookupError, TypeError) as error:
            # The last three are an upcaster's, whose old data is not of the form that it was written in.
            raise CorruptLogError(f"the log holds a damaged {type_} event: {error}") from None

    def _lift(self, type_: str, version: int, data: str) -> EventData:
        cls = self._types.get(type_)
        if cls is None:
            raise UnknownEventError(
                f"the log holds an event of the unknown type {type_!r}; a newer msb-cache can read it"
            )
        if not isinstance(version, int) or not 1 <= version <= cls.version:
            raise UnknownEventError(
                f"the log holds {type_} in version {version}, but this msb-cache knows versions "
                f"up to {cls.version}; a newer msb-cache can read it"
            )
        fields = msgspec.json.decode(data, type=dict[str, Any])
        for step in range(version, cls.version):
            fields = self._upcasters[type_, step](fields)
        return cast("EventData", msgspec.convert(fields, cls))


def _decoder(cls: type[Event]) -> Callable[[str], EventData]:
    return cast("Callable[[str], EventData]", msgspec.json.Decoder(cls).decode)


CATALOGUE = Catalogue()
