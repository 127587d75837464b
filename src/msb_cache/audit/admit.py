"""Admit events that come from elsewhere: an export, or a database that is not this home's.

The chain proves that nothing was changed since the log was written; it does not prove that msb-cache
wrote it. What passes here can be folded, shown, and turned into paths without another look.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from msb_cache.artifacts.layout import is_metadata_name
from msb_cache.errors import CorruptLogError, InvalidReferenceError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.export import Row
from msb_cache.eventstore.store import FORMAT, StoredEvent, decode_row
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.oci.digest import digest_problem
from msb_cache.oci.reference import Reference

_MAX_INT = 2**63 - 1  # what SQLite can hold
_MAX_SIZE = 2**50  # bytes of one file, so that no sum of them is larger than that
_MAX_NAME = 4096
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_OPERATION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SIZES = {"size", "erofs_size", "fsmeta_size", "vmdk_size", "bytes", "bytes_fetched", "bytes_reused"}
_DIGESTS = {"manifest_digest", "previous_digest", "diff_id", "blob_digest", "stored_digest"}


def admit(row: Row) -> StoredEvent:
    """Decode a row from elsewhere.

    Raises:
        UnknownEventError: its type or version is not known here.
        CorruptLogError: it is no event that msb-cache writes; names its position.
    """
    columns, stored = row
    event = decode_row((*columns, stored), CATALOGUE.decode)
    problem = next(_problems(event), None)
    if problem is not None:
        raise CorruptLogError(f"event {event.seq} is none that msb-cache writes: {problem}")
    return event


def _problems(event: StoredEvent) -> Iterator[str]:
    if min(event.occurred_at_ns, event.recorded_at_ns) < 0:
        yield "its time is before 1970"
    if not _ID.fullmatch(event.id):
        yield "its id is no UUIDv7, which says what the clock read"
    if not _OPERATION.fullmatch(event.operation):
        yield "its operation is no id"
    subject = _subject_problem(event)
    if subject is not None:
        yield f"its subject {subject}"
    if isinstance(event.data, ev.LogCreated) and event.data.format != FORMAT:
        yield f"its log has format {event.data.format}, and this msb-cache knows {FORMAT}"
    yield from _values("data", msgspec.to_builtins(event.data))
    # What is claimed has names of its own, which mean nothing here.
    yield from _values("actor", msgspec.to_builtins(msgspec.structs.replace(event.actor, claimed=None)))


def _subject_problem(event: StoredEvent) -> str | None:
    subject, data = event.subject, event.data
    match data.about:
        case "log":
            return None if subject == getattr(data, "log_id", subject) else "is not its log id"
        case "reference":
            return _reference_problem(subject)
        case "image":
            is_digest = subject.startswith("sha256:")
            return digest_problem(subject) if is_digest else _reference_problem(subject)
        case "operation":
            planned: tuple[ev.PlannedArtifact, ...] = getattr(data, "artifacts", ())
            found = (_artifact_problem(artifact.kind, artifact.subject) for artifact in planned)
            return next((problem for problem in found if problem is not None), None)
        case "artifact":
            return _artifact_problem(getattr(data, "kind", ""), subject)
        case "manifest" | "layer" | "flat":
            return digest_problem(subject)


def _artifact_problem(kind: str, subject: str) -> str | None:
    if kind != "metadata":
        return digest_problem(subject)
    return None if is_metadata_name(subject) else _reference_problem(subject)


def _reference_problem(text: str) -> str | None:
    try:
        canonical = Reference.parse(text).canonical == text
    except InvalidReferenceError:
        canonical = False
    return None if canonical else "is no canonical reference"


def _values(name: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value, or with those in it: numbers and names are bounded."""
    if name == "labels":
        return  # any JSON of anyone's; nothing is made of it
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _values(key, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(name, inner)
    elif isinstance(value, int | float):
        if not 0 <= value <= (_MAX_SIZE if name in _SIZES else _MAX_INT):
            yield f"{name[:100]!r} is {str(value)[:30]}"
    elif name in _DIGESTS and digest_problem(value) is not None:
        yield f"{name!r} {digest_problem(value)}"
    elif name == "holder" and not 0 < len(value) <= _MAX_NAME:
        yield "its holder is too long"
