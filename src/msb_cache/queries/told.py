"""Events in people's words: what happened in a line, and who did it as far as that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from msb_cache.eventstore.events import ArtifactDeleted
from msb_cache.eventstore.telling import Detail, Moment, Tone

if TYPE_CHECKING:
    from msb_cache.eventstore.store import Actor, StoredEvent


class Line(Struct, frozen=True):
    """``what`` in one or two words with its tone, the digest it is about if there is one, and details."""

    what: str
    tone: Tone
    digest: str | None
    details: str


def line_of(event: StoredEvent, *, time: Callable[[int], str], name: Callable[[str], str]) -> Line:
    """Return an event's line.

    Args:
        event: the event.
        time: shows a time (ns since the epoch, UTC).
        name: shows a digest or an operation's id.
    """

    def shown(detail: Detail) -> str:
        if isinstance(detail, str):
            return detail
        return f"{detail.words} {time(detail.ns) if isinstance(detail, Moment) else name(detail.name)}"

    said = event.data.told()
    of = event.subject if event.subject.startswith("sha256:") else None
    digest: str | None = getattr(event.data, "manifest_digest", of)
    deleted = isinstance(event.data, ArtifactDeleted)
    shared = ("shared with other images",) if deleted and getattr(event, "shared", False) else ()
    return Line(said.what, said.tone, digest, ", ".join((*map(shown, said.details), *shared)))


def holder_of(event: StoredEvent) -> str:
    """Return the sandbox or snapshot that an event is about besides its subject; empty: none."""
    return getattr(event.data, "holder", None) or ""


def who(actor: Actor) -> str:
    """Return who did it, as far as it matters, with the reason they gave: ``alice@host (as root)``."""
    known = f"{actor.login or actor.user}@{actor.host}"
    notes = [f"as {actor.user}"] if actor.login not in (None, actor.user) else []
    if actor.program != "msb-cache":
        notes.append(actor.program)
    # What no person typed has a service; a user's own manager is none.
    if (unit := actor.unit or "").endswith(".service") and not (unit.startswith("user@") and "/" not in unit):
        notes.append(unit)
    if actor.container is not None:
        notes.append(actor.container)
    if notes:
        known += f" ({', '.join(notes)})"
    if actor.observed and actor.seen_by is None:
        known = f"seen by {known}"
    if said := _claims(actor):
        known += f", says {said}"
    return f"{known}: {actor.reason}" if actor.reason else known


def _claims(actor: Actor) -> str:
    """Return what the caller said of itself."""
    if not actor.claimed:
        return ""
    said = dict(actor.claimed)
    job, user = said.pop("ci_job", None), said.pop("sudo_user", None)
    said.pop("ci_url", None)
    words = [] if job is None else [f"{said.pop('ci', 'ci')} job {job}"]
    if user is not None and actor.login is None:
        words.append(f"sudo by {user}")
    words += _pairs(said)
    return ", ".join(words)


def _pairs(claimed: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in claimed.items()]


def who_in_full(actor: Actor) -> str:
    """Return all that is known of who did it, what the caller said of itself last."""
    parts = [f"{actor.user}@{actor.host} (uid {actor.uid})"]
    if actor.login is not None:
        parts.append(f"logged in as {actor.login} (uid {actor.login_uid})")
    parts.append(f"program {actor.program}")
    if actor.parent is not None:
        parts.append(f"started by {actor.parent}")
    if actor.unit is not None:
        parts.append(f"unit {actor.unit}")
    if actor.container is not None:
        parts.append(f"container {actor.container}")
    if actor.seen_by is not None:
        parts.append(f"seen by {actor.seen_by}")
    elif actor.observed:
        parts[0] = f"seen by {parts[0]}"
    if actor.claimed:
        parts.append(f"says {', '.join(_pairs(actor.claimed))}")
    known = ", ".join(parts)
    return f"{known}: {actor.reason}" if actor.reason else known
