"""What both engines ask and record of files that are made anew: where they came from, and what was wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from msb_cache.artifacts.kinds import KINDS
from msb_cache.engines.engine import Wrong
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.oci.reference import Reference
from msb_cache.projections import images
from msb_cache.projections.digests import Artifact
from msb_cache.projections.rows import DigestRow


def manifests_of(connection: sqlite3.Connection, artifact: Artifact) -> list[str]:
    """Return the manifests in the index that need a file: what brings one of them back brings the file."""
    kind, subject = artifact
    if kind == "layer":
        return images.manifests_with(connection, subject)
    if kind == "metadata":
        return [*dict.fromkeys(row.manifest_digest for row in images.spellings(connection, subject))]
    return [subject] if images.has_manifest(connection, subject) else []


def sources(
    connection: sqlite3.Connection, store: EventStore, digest: str, had: Iterable[str] | None = None
) -> Iterator[tuple[Reference, ev.Source | None]]:
    """Yield the references under which a manifest came, each with where from, those that it has now first.

    Of one that came from several places a registry counts: it has the manifest by its digest, and msb and
    archives do not tell.

    Args:
        connection: the index.
        store: the log.
        digest: the manifest.
        had: the references that it ever had, for one who asks about many; None: they are looked for.
    """
    now = [row.reference for row in images.handles_of(connection, digest)]
    had = images.references_of(connection, digest) if had is None else had
    for reference in dict.fromkeys([*now, *had]):
        found: ev.Source | None = None
        for event in store.read(subjects=[reference], types=[ev.ImagePulled.type], reverse=True):
            data = event.data
            if not isinstance(data, ev.ImagePulled) or data.manifest_digest != digest:
                continue
            found = found or data.source
            if data.source is not None and data.source.kind == "registry":
                found = data.source
                break
        yield Reference.parse(reference), found


def archive_of(came: Iterable[ev.Source | None]) -> str | None:
    """Return the archive of what came from one, and from no registry; None: it did not."""
    found = [source for source in came if source is not None]
    if any(source.kind == "registry" for source in found):
        return None
    archives = [source.name for source in found if source.kind == "archive"]
    return ("stdin" if archives[0] in (None, "-") else archives[0]) if archives else None


def repaired(wrong: Wrong, digest: str, how: str, before: DigestRow | None) -> NewEvent:
    """Return the event that says that a file was made anew.

    Args:
        wrong: the file, and what was wrong with it.
        digest: of its bytes now.
        how: ``made`` or ``pulled``.
        before: what the log had of its bytes.
    """
    event = ev.ArtifactRepaired(
        kind=wrong.kind,
        algorithm=KINDS[wrong.kind].algorithm,
        digest=digest,
        problem=wrong.problem,
        how=how,  # type: ignore[arg-type]
        differs=before is not None and before.how == "made" and before.digest != digest,
    )
    return NewEvent(event, wrong.subject)
