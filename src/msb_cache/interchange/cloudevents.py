"""Events of the log as CloudEvents 1.0, in the JSON format: one a line, or several as a batch.

What is specific to msb-cache stands in ``data``, in the shape that ``events --format json`` prints; the
attributes around it are what a broker routes and orders by. docs/interchange.md has the mapping as a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import jsonable, rfc3339

JSON = "application/cloudevents+json"
"""The media type of one event."""

BATCH = "application/cloudevents-batch+json"
"""The media type of several: a JSON array of them."""

_PREFIX = "msb-cache"
_DIGITS = 19
"""As many as the greatest position of a log has, so that positions sort as text."""

# CloudEvents 1.0, "Type System": no control characters, and no code points that Unicode says are none.
_NO_TEXT = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufdd0-\\ufdef"
    + "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(17))
    + "]"
)
_encode = msgspec.json.Encoder().encode


class CloudEvents:
    """Makes CloudEvents of the events of one log.

    Args:
        log_id: the log's id, which ``source`` names: with ``id`` it is unique among all logs.
        privacy: what of an event is told.
    """

    def __init__(self, log_id: str, privacy: Privacy) -> None:
        self._log_id = log_id
        self._privacy = privacy

    def of(self, event: StoredEvent) -> dict[str, Any]:
        """Return an event as the JSON object that CloudEvents 1.0 calls structured.

        Raises:
            CorruptLogError: what a foreign program left in it is nested too deep to be written.
        """
        try:
            data = jsonable(self._privacy.of(event))
        except RecursionError:
            raise CorruptLogError(f"event {event.seq} cannot be written: it is nested too deep") from None
        subject = _NO_TEXT.sub(_written_out, data["subject"])
        return {
            "specversion": "1.0",
            "id": event.id,
            "source": f"{_PREFIX}:log/{self._log_id}",
            "type": f"{_PREFIX}.{event.type}",
            **({"subject": subject} if subject else {}),  # where there is one, it must not be empty
            "time": rfc3339(event.occurred_at_ns),
            "datacontenttype": "application/json",
            # The data is lifted to the newest version, whichever one was stored.
            "dataschema": f"{_PREFIX}:event/{event.type}/{event.data.version}",
            "sequence": f"{event.seq:0{_DIGITS}}",
            "recordedtime": rfc3339(event.recorded_at_ns),
            "partitionkey": self._log_id,  # a broker keeps the order within a partition: that of the log
            "data": data,
        }

    def line(self, event: StoredEvent) -> bytes:
        """Return an event as one line of JSON, its line feed included."""
        return _encode(self.of(event)) + b"\n"

    def lines(self, events: Iterable[StoredEvent]) -> Iterator[bytes]:
        """Yield each event as one line of JSON."""
        return map(self.line, events)

    def batch(self, events: Iterable[StoredEvent]) -> Iterator[bytes]:
        """Yield the pieces of one JSON array of events, however many they are; each event on a line."""
        yield b"["
        for before, event in zip(chain([b"\n"], _commas()), events, strict=False):
            yield before + _encode(self.of(event))
        yield b"\n]\n"


def _commas() -> Iterator[bytes]:
    while True:
        yield b",\n"


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
