"""Which images are pinned: by whom, why, until when, and what of them is here."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from msb_cache.errors import ImageNotFoundError, InvalidReferenceError
from msb_cache.eventstore.store import StoredEvent, as_datetime
from msb_cache.oci.digest import digest_problem, shown
from msb_cache.projections import images
from msb_cache.projections.images import PinDetailRow
from msb_cache.queries import resolve
from msb_cache.shapes import Result


@dataclass(frozen=True, slots=True)
class Pin(Result):
    """A person keeps an image."""

    reference: str | None
    """Which reference, as it was typed; None: a manifest, by its digest."""
    manifest_digest: str | None
    """That manifest, or where the reference points; None: the reference is not in the cache."""
    by: str
    """The user who pinned it, as logged in."""
    reason: str | None
    """Why, as that user said; None: nothing was said."""
    since_ns: int
    """In ns since the epoch, UTC."""
    until_ns: int | None
    """When it ends by itself, in ns since the epoch, UTC; None: it does not."""
    here: bool
    """Whether what is pinned is in the cache."""
    enforced: bool = True
    """Whether every program that deletes here knows the pin; false in a home that msb keeps, where msb's own
    prune and remove delete the image all the same."""

    @property
    def since(self) -> datetime:
        """Since when: an aware UTC time, to the µs."""
        return as_datetime(self.since_ns)

    @property
    def until(self) -> datetime | None:
        """Until when: an aware UTC time, to the µs; None: it has no end."""
        return None if self.until_ns is None else as_datetime(self.until_ns)


def pin(
    connection: sqlite3.Connection, row: PinDetailRow, event: StoredEvent | None, *, enforced: bool
) -> Pin:
    """Return a pin.

    Args:
        connection: the index, now or as it was.
        row: the pin there.
        event: what says so.
        enforced: whether every program that deletes in this home knows pins.
    """
    is_digest = row.subject.startswith("sha256:")
    if is_digest:
        here = images.has_manifest(connection, row.subject)
        digest: str | None = row.subject
    else:
        found = images.spellings(connection, row.subject)
        digest, here = (found[0].manifest_digest if found else None), bool(found)
    actor = None if event is None else event.actor
    return Pin(
        None if is_digest else resolve.as_typed(row.subject, row.spelling),
        digest,
        "unknown" if actor is None else actor.login or actor.user,
        None if actor is None else actor.reason,
        row.since,
        row.until,
        here,
        enforced,
    )


def subject(connection: sqlite3.Connection | None, text: str) -> tuple[str, str | None]:
    """Return what a pin of this text is of, and its spelling: a canonical reference, or a manifest's digest.

    A reference need not be in the cache, nor need a whole digest; the beginning of one must mean a manifest
    that is there.

    Raises:
        ImageNotFoundError: no manifest has a digest that begins so.
        InvalidReferenceError: the text is neither a reference nor a digest, or several digests begin with it.
    """
    if resolve.is_pattern(text):
        raise InvalidReferenceError(f"{shown(text)} has wildcards; a pin is of one reference or digest")
    parsed, prefix = resolve.as_reference(text), resolve.digest_prefix(text)
    if parsed is not None:
        rows = [] if connection is None else resolve.by_reference(connection, text)
        known = any(row.reference == parsed.canonical for row in rows)
        if known or (parsed.digest is None and prefix is None and not text.startswith("sha256:")):
            return parsed.canonical, parsed.spelling
        if parsed.digest is not None:
            return parsed.digest, None
    if prefix is None:
        raise InvalidReferenceError(
            f"{shown(text)} is no digest; write sha256: and lower-case hexadecimal digits, 4 to 64 of them"
        )
    if digest_problem(prefix) is None:
        return prefix, None
    try:
        return resolve.manifest(connection, text), None
    except ImageNotFoundError as error:
        if text.startswith("sha256:"):
            raise
        raise ImageNotFoundError(f"{error}; if it is a name to come, write {text}:latest") from None


def pinned_subject(connection: sqlite3.Connection | None, text: str) -> tuple[str, str | None]:
    """Return what the pin is of that this text means, and its spelling.

    Raises:
        ImageNotFoundError: no pin is.
        InvalidReferenceError: the text is neither a reference nor a digest, or several begin with it.
    """
    if resolve.is_pattern(text):
        raise InvalidReferenceError(f"{shown(text)} has wildcards; a pin is of one reference or digest")
    rows = {} if connection is None else {row.subject: row for row in images.pins(connection)}
    parsed, prefix = resolve.as_reference(text), resolve.digest_prefix(text)
    found = [] if parsed is None else [name for name in (parsed.canonical, parsed.digest) if name in rows]
    if not found and prefix is not None:
        found = [name for name in rows if name.startswith(prefix)]
        if len(found) > 1:
            resolve.only(found, text, "pinned")
    if not found:
        raise ImageNotFoundError(f"{shown(text)} is not pinned; `msb-cache pins` lists what is")
    return found[0], rows[found[0]].spelling
