"""Events as rows of a table: the columns that CSV and Parquet have, and what an event has in each."""

from __future__ import annotations

import json
from typing import Any, Literal

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import jsonable

Kind = Literal["integer", "text", "time"]
"""``time``: ns since the epoch, UTC."""

Value = int | str | None

COLUMNS: dict[str, Kind] = {
    "seq": "integer",
    "id": "text",
    "type": "text",
    "version": "integer",
    "subject": "text",
    "operation": "text",
    "occurred_at": "time",
    "recorded_at": "time",
    "user": "text",
    "uid": "integer",
    "login": "text",
    "host": "text",
    "program": "text",
    "reason": "text",
    "holder": "text",
    "manifest_digest": "text",
    "data": "text",
    "hash": "text",
}
"""The columns, in order. ``data`` is JSON, lifted to the newest version of the type; ``version`` is that of
what is stored, as is ``hash``, in hexadecimal."""


def row_of(event: StoredEvent, privacy: Privacy) -> tuple[Value, ...]:
    """Return what an event has in each column; None: nothing.

    Raises:
        CorruptLogError: what a foreign program left in it is nested too deep to be written.
    """
    told = privacy.of(event)
    actor = told.actor
    try:
        data: dict[str, Any] = jsonable(told.data)
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise CorruptLogError(f"event {event.seq} cannot be written: it is nested too deep") from None
    return (
        told.seq,
        told.id,
        told.type,
        told.version,
        told.subject,
        told.operation,
        told.occurred_at_ns,
        told.recorded_at_ns,
        *((actor.user, actor.uid) if privacy.people else (None, None)),
        actor.login,
        actor.host if privacy.people else None,
        actor.program,
        actor.reason,
        data.get("holder"),
        data.get("manifest_digest"),
        text,
        told.hash.hex(),
    )
