"""One event in a person's words: what happened, to which digest, and the details worth a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from msb_cache.cli.output import local_time, short
from msb_cache.eventstore.events import ArtifactDeleted
from msb_cache.eventstore.telling import Moment, Tone

if TYPE_CHECKING:
    from msb_cache.eventstore.store import Actor, StoredEvent


_COLOURS: Mapping[Tone, str] = {
    "came": "green",
    "used": "cyan",
    "held": "yellow",
    "went": "red",
    "plain": "white",
}


class Line(Struct, frozen=True):
    """``what`` in one or two words with its colour, the digest it is about, and details."""

    what: str
    colour: str
    digest: str
    details: str


def describe(event: StoredEvent) -> Line:
    """Return an event's line."""
    told = event.data.told()
    of = event.subject if event.subject.startswith("sha256:") else None
    digest: str | None = getattr(event.data, "manifest_digest", of)
    deleted = isinstance(event.data, ArtifactDeleted)
    shared = ("shared with other images",) if deleted and getattr(event, "shared", False) else ()
    return Line(
        told.what, _COLOURS[told.tone], short(digest), ", ".join((*map(_detail, told.details), *shared))
    )


def _detail(detail: str | Moment) -> str:
    return detail if isinstance(detail, str) else f"{detail.words} {local_time(detail.ns)}"


def kept_because(rule: str, by: Sequence[str], more: int = 0) -> str:
    """Return why a deletion keeps something: its rule in words, and those it is kept for."""
    from msb_cache.queries.resolve import familiar

    names = ", ".join(short(name) if name.startswith("sha256:") else familiar(name) for name in by)
    if more:
        names += f" and {more} more"
    if rule == "unknown":
        return "msb does not know it"
    if rule == "shared":
        return f"shares layers with {names}, which msb does not know"
    return f"{rule} by {names}" if names else rule


def who(actor: Actor) -> str:
    """Return who did it: ``root@host``, with the reason they gave."""
    name = f"{actor.user}@{actor.host}"
    if actor.program != "msb-cache":
        name += f" ({actor.program})"
    if actor.observed:
        name = f"seen by {name}"
    return f"{name}: {actor.reason}" if actor.reason else name


def fields(event: StoredEvent) -> dict[str, Any]:
    """Return an event as JSON-ready fields, times in RFC 3339 with nine digits."""
    import msgspec

    from msb_cache.cli.output import rfc3339

    shared: Mapping[str, Any] = {"shared": event.shared} if hasattr(event, "shared") else {}
    return {
        "seq": event.seq,
        "id": event.id,
        "type": event.type,
        "version": event.version,
        "subject": event.subject,
        "operation": event.operation,
        "occurred_at": rfc3339(event.occurred_at_ns),
        "recorded_at": rfc3339(event.recorded_at_ns),
        "actor": msgspec.to_builtins(event.actor),
        "data": msgspec.to_builtins(event.data),
        "hash": event.hash.hex(),
        **shared,
    }
