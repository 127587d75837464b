"""Plan how to bring back what a remove or prune deleted: which commands, and what they cannot do.

The log knows of each image which manifest it was and where it came from. Content from a registry comes
back exactly, by digest. What an archive or another program brought can only be asked for again there.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass, replace
from typing import Literal

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore
from msb_cache.oci.reference import Reference
from msb_cache.projections import images
from msb_cache.projections.deletions import DeletionReport
from msb_cache.queries.resolve import as_typed, familiar


@dataclass(frozen=True)
class Restoration:
    """One image that a deletion took, and how to have it again.

    Attributes:
        reference: the tag or name it had, familiar; None for a manifest that had none.
        manifest_digest: what it pointed at.
        certainty: ``exact``: the digest decides what comes; ``same source``: an archive that may have
            changed; ``guess``: the log does not say where it came from; ``here``: it is back, or never
            left; ``none``: there is no way.
        arguments: what to give to ``msb-cache``; empty when there is no way, or no need.
        notes: sentences on what that brings back and what not.
    """

    reference: str | None
    manifest_digest: str
    certainty: Literal["exact", "same source", "guess", "here", "none"]
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LostFile:
    """A deleted file that no image of the log accounts for, so nothing brings it back."""

    kind: str
    subject: str


@dataclass(frozen=True)
class RestorePlan:
    """How to bring back what an operation deleted."""

    operation: str
    kind: str
    images: tuple[Restoration, ...]
    lost: tuple[LostFile, ...]


def restore_plan(connection: sqlite3.Connection, store: EventStore, report: DeletionReport) -> RestorePlan:
    """Plan from a deletion's report; reads the log, and whether archives are still where they were."""
    named = {data.manifest_digest for _, data in report.images}
    deleted = [artifact for artifact in report.artifacts if artifact.outcome == "deleted"]
    manifests = [artifact.subject for artifact in deleted if artifact.kind == "manifest"]
    found = [_restoration(connection, store, *image, report.counters.seq) for image in report.images]
    found += [
        _nameless(connection, store, digest, report.counters.seq)
        for digest in manifests
        if digest not in named
    ]
    covered = {reference for reference, _ in report.images} | set(manifests)
    covered |= {diff_id for digest in manifests for diff_id in _diff_ids(store, digest)}
    roots = [artifact for artifact in deleted if artifact.kind == "flat"]
    covered |= {artifact.subject for artifact in roots if artifact.manifest_digest in covered}
    flat = {artifact.manifest_digest for artifact in roots}
    found = [_with_flat_root(each) if each.manifest_digest in flat else each for each in found]
    lost = [LostFile(each.kind, each.subject) for each in deleted if each.subject not in covered]
    return RestorePlan(report.operation, report.counters.kind, tuple(found), tuple(lost))


def _with_flat_root(found: Restoration) -> Restoration:
    again = "msb makes its flat root anew when it is asked to: `msb pull --materialize flat`"
    return replace(found, notes=(*found.notes, again))


def _restoration(
    connection: sqlite3.Connection, store: EventStore, canonical: str, removed: ev.ImageRemoved, before: int
) -> Restoration:
    name, digest = as_typed(canonical, removed.spelling), removed.manifest_digest
    reference = Reference.parse(name)
    rows = images.spellings(connection, canonical)
    if len(rows) > 1:
        rows = [row for row in rows if row.name == removed.spelling]
    if any(row.manifest_digest == digest for row in rows):
        return Restoration(name, digest, "here", notes=("it is in the cache again",))
    notes = [f"{name} points at another image now"] if rows else []
    return _from_source(store, reference, digest, before, notes)


def _nameless(connection: sqlite3.Connection, store: EventStore, digest: str, before: int) -> Restoration:
    """Plan for a manifest whose references went earlier: by the last of them."""
    if images.has_manifest(connection, digest):
        return Restoration(None, digest, "here", notes=("it is in the cache again",))
    row = connection.execute(
        "SELECT reference FROM pointed_at WHERE manifest_digest = ? AND seq < ? ORDER BY seq DESC LIMIT 1",
        (digest, before),
    ).fetchone()
    if row is None:
        return Restoration(None, digest, "none", notes=("no reference ever pointed at it",))
    reference = Reference.parse(familiar(row[0]))
    notes = [f"no reference pointed at it any more when it went; it had been {reference.familiar}"]
    found = _from_source(store, reference, digest, before, notes)
    return Restoration(None, digest, found.certainty, found.arguments, found.notes)


def _from_source(
    store: EventStore, reference: Reference, digest: str, before: int, notes: list[str]
) -> Restoration:
    source = _source(store, reference.canonical, digest, before)
    shown = reference.typed or reference.familiar
    if source is not None and source.kind == "archive":
        return _from_archive(source.name or "-", shown, digest, notes)
    by_digest = f"{reference.familiar_name}@{digest}"
    if reference.tag is not None:
        notes.append(f"it comes back as {by_digest}")
        notes.append(f"`msb-cache pull {shown}` gives the tag again, with what it means by then")
    if source is not None and source.kind == "registry":
        return Restoration(shown, digest, "exact", ("pull", by_digest), tuple(notes))
    notes.append(f"a guess: the log does not say where it came from, so {reference.registry} is asked")
    return Restoration(shown, digest, "guess", ("pull", by_digest), tuple(notes))


def _from_archive(path: str, shown: str, digest: str, notes: list[str]) -> Restoration:
    if path == "-":
        notes.append("it was loaded from stdin, and nothing says what that was")
        return Restoration(shown, digest, "none", notes=tuple(notes))
    if not os.path.exists(path):
        notes.append(f"it was loaded from {path}, which is not there any more")
        return Restoration(shown, digest, "none", notes=tuple(notes))
    notes.append(f"{path} brings back all of its images, and {shown} must then be {digest}")
    return Restoration(shown, digest, "same source", ("load", path, "--tag", shown), tuple(notes))


def _source(store: EventStore, canonical: str, digest: str, before: int) -> ev.Source | None:
    """Return where the reference last got this manifest from, before the deletion."""
    pulls = store.read(subjects=[canonical], types=[ev.ImagePulled.type], until=before, reverse=True)
    for event in pulls:
        data = event.data
        if not isinstance(data, ev.ImagePulled) or data.manifest_digest != digest:
            continue
        if data.source.kind != "cache":  # there it had come by an earlier pull
            return data.source
    return None


def _diff_ids(store: EventStore, digest: str) -> set[str]:
    added = store.read(subjects=[digest], types=[ev.ManifestAdded.type])
    return {
        layer.diff_id
        for event in added
        if isinstance(event.data, ev.ManifestAdded)
        for layer in event.data.layers
    }
