"""One event as a command shows it: its words, with times, digests and colours as the terminal has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from msb_cache.cli.look import absolute, name
from msb_cache.queries import told

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent
    from msb_cache.eventstore.telling import Tone


_COLOURS: Mapping[Tone, str] = {
    "came": "green",
    "used": "cyan",
    "held": "yellow",
    "went": "red",
    "plain": "white",
}


class Line(Struct, frozen=True):
    """``what`` in one or two words with its colour, the digest it is about if there is one, and details."""

    what: str
    colour: str
    digest: str | None
    details: str


def describe(event: StoredEvent) -> Line:
    """Return an event's line."""
    found = told.line_of(event, time=absolute, name=name)
    return Line(found.what, _COLOURS[found.tone], found.digest, found.details)
