"""The formats that a log is exported in besides its own, and what writes each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.interchange.privacy import Privacy

FORMATS = ("cloudevents", "cloudevents-batch", "csv", "parquet")

ExportFormat = Literal["jsonl", "cloudevents", "cloudevents-batch", "csv", "parquet"]
"""``jsonl`` is the log's own."""

Write = Callable[[Iterator[StoredEvent], BinaryIO], None]
"""Writes events as they come."""


def writer(format_: str, log_id: Callable[[], str], privacy: Privacy) -> Write:
    """Return what writes events in a format.

    Args:
        format_: which.
        log_id: reads the log's id, where the format names it.
        privacy: what of the events is told.

    Raises:
        InvalidConfigError: there is no such format.
        UnsupportedError: what the format needs is not installed.
    """
    if format_ not in FORMATS:
        raise InvalidConfigError(f"{format_!r} is no format; use jsonl, {', '.join(FORMATS)}")
    # Each with what it needs: a command that writes one loads no other.
    if format_ == "parquet":
        from msb_cache.interchange import parquet

        parquet.check_installed()
        return lambda events, out: parquet.write(events, privacy, out)
    if format_ == "csv":
        from msb_cache.interchange import csv_file

        return lambda events, out: out.writelines(csv_file.pieces(events, privacy))
    from msb_cache.interchange.cloudevents import CloudEvents

    told = CloudEvents(log_id(), privacy)
    made = told.lines if format_ == "cloudevents" else told.batch
    return lambda events, out: out.writelines(made(events))
