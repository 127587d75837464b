"""One event in a person's words: what happened, to which digest, and the details worth a column."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from msb_cache.cli.output import plural, printable, short, size
from msb_cache.eventstore import events as ev

if TYPE_CHECKING:
    from msb_cache.eventstore.store import Actor, StoredEvent


class Line(Struct, frozen=True):
    """``what`` in one or two words with its colour, the digest it is about, and details."""

    what: str
    colour: str
    digest: str
    details: str


def describe(event: StoredEvent) -> Line:
    """Return an event's line."""
    data = event.data
    if isinstance(data, ev.ImagePulled):
        return _pulled(data)
    if isinstance(data, ev.ImageUsed):
        return Line("used", "cyan", short(data.manifest_digest), f"by {data.holder}" if data.holder else "")
    if isinstance(data, ev.ImageRemoved):
        details = {"remove": "", "prune": "by a prune", "external": "by another program"}[data.cause]
        if data.forced:
            details = "forced while in use"
        return Line("removed", "red", short(data.manifest_digest), details)
    if isinstance(data, ev.ImageHeld | ev.ImageReleased):
        held = isinstance(data, ev.ImageHeld)
        what, colour = ("held", "yellow") if held else ("released", "yellow")
        return Line(what, colour, short(event.subject), f"by {data.holder}")
    if isinstance(data, ev.ImagePullFailed):
        return Line("pull failed", "red", "-", data.reason)
    if isinstance(data, ev.ArtifactDeleted | ev.ArtifactKept | ev.ArtifactDeleteFailed):
        return _outcome(event, data)
    return _other(event, data)


def _pulled(data: ev.ImagePulled) -> Line:
    what = "pulled" if data.source.kind == "registry" else "loaded"
    if data.source.kind == "microsandbox":
        what = "pulled"
    if data.previous_digest is not None:
        what = "moved"
    parts = []
    if data.previous_digest is not None:
        parts.append(f"was {short(data.previous_digest)}")
    if data.source.name:
        parts.append(f"from {_place(data.source)}")
    if not data.changed:
        parts.append("unchanged")
    elif data.bytes_fetched:
        reused = f", {size(data.bytes_reused)} reused" if data.bytes_reused else ""
        parts.append(f"{size(data.bytes_fetched)} new{reused}")
    elif data.bytes_fetched == 0:
        parts.append("all layers already here")
    return Line(what, "green", short(data.manifest_digest), ", ".join(parts))


def _place(source: ev.Source) -> str:
    name = source.name or source.kind
    if source.kind != "archive":
        return name
    return "stdin" if name == "-" else os.path.basename(name)


def _outcome(
    event: StoredEvent, data: ev.ArtifactDeleted | ev.ArtifactKept | ev.ArtifactDeleteFailed
) -> Line:
    subject = short(event.subject) if event.subject.startswith("sha256:") else "-"
    if isinstance(data, ev.ArtifactKept):
        reasons = {
            "busy": "another process works with it",
            "needed": "an image needs it",
            "owned": "the home had become msb's",
            "held": "in use",
            "left": "msb left it behind",
        }
        reason = reasons[data.reason]
        if data.holders:
            reason += f" by {', '.join(data.holders)}"
        return Line(f"{data.kind} kept", "yellow", subject, reason)
    if isinstance(data, ev.ArtifactDeleteFailed):
        return Line(f"{data.kind} stuck", "red", subject, data.reason)
    details = [] if data.bytes is None else [f"{size(data.bytes)} freed"]
    if data.recovered:
        details.append("found gone while recovering")
    if getattr(event, "shared", False):
        details.append("shared with other images")
    return Line(f"{data.kind} deleted", "red", subject, ", ".join(details))


def _other(event: StoredEvent, data: ev.Event) -> Line:
    if isinstance(data, ev.ManifestAdded):
        total = size(sum(layer.size for layer in data.layers))
        details = f"{data.os}/{data.architecture}, {plural(len(data.layers), 'layer')}, {total}"
        return Line("added", "green", short(event.subject), details)
    if isinstance(data, ev.DeletionStarted):
        part = f", part {data.part} of {data.parts}" if data.parts > 1 else ""
        details = f"{data.kind}: {plural(len(data.artifacts), 'artifact')}, {len(data.kept)} kept back{part}"
        return Line("decided", "red", "-", details)
    if isinstance(data, ev.DeletionFinished):
        return Line("finished", "red", "-", data.outcome + (", by recovery" if data.recovered else ""))
    if isinstance(data, ev.LogCreated):
        return Line("log created", "white", "-", f"format {data.format}")
    return Line(event.type, "white", "-", "")


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
    return printable(f"{name}: {actor.reason}" if actor.reason else name)


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
