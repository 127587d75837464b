"""Plan how to bring back what a remove or prune deleted: which commands, and what they cannot do.

The log knows of each image which manifest it was and where it came from. Content from a registry comes
back exactly, by digest. What an archive or another program brought can only be asked for again there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from msb_cache.errors import ImageNotFoundError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore
from msb_cache.oci.digest import shown
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.reference import Reference
from msb_cache.projections import images
from msb_cache.queries.deletions import DeletionReport
from msb_cache.queries.resolve import (
    as_reference,
    as_typed,
    digest_prefix,
    familiar,
    is_pattern,
    matcher,
    only,
    seen,
)
from msb_cache.shapes import Result


@dataclass(frozen=True)
class Way:
    """How one image comes back.

    Attributes:
        how: ``pull`` or ``load``.
        place: the registry, or the archive's path.
        name: the reference that will point at it.
        of_manifest: whether just its manifest is asked for, by digest; else what ``name`` means there, or all
            that the archive has.
        platform: the image's, where it is another than this host's and has to be chosen.
    """

    how: Literal["pull", "load"]
    place: str
    name: str
    of_manifest: bool = False
    platform: str | None = None

    def arguments(self, digest: str) -> tuple[str, ...]:
        """Return what to give to ``msb-cache`` for it."""
        by_digest = ("--digest", digest) if self.of_manifest else ()
        if self.how == "pull":
            return ("pull", *by_digest, self.name)
        chosen = () if self.platform is None else ("--platform", self.platform)
        return ("load", self.place, *by_digest, "--tag", self.name, *chosen)


@dataclass(frozen=True)
class Restoration(Result):
    """One image that a deletion took, and how to have it again.

    Attributes:
        reference: the tag or name it had, as it was typed; None for a manifest that had none.
        manifest_digest: what it pointed at.
        certainty: ``exact``: the digest decides what comes; ``same source``: an archive that may have
            changed; ``guess``: the log does not say where it came from; ``here``: it is back, or never
            left; ``none``: there is no way.
        way: how it comes back; None when there is no way, or no need.
        notes: sentences on what that brings back and what not.
        home: the home, where it has to be named; None: the environment's.
    """

    reference: str | None
    manifest_digest: str
    certainty: Literal["exact", "same source", "guess", "here", "none"]
    way: Way | None = None
    notes: tuple[str, ...] = ()
    home: str | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """What to give to ``msb-cache``; empty when there is no way, or no need."""
        return () if self.way is None else self.way.arguments(self.manifest_digest)

    @property
    def command(self) -> tuple[str, ...] | None:
        """What brings it back, as words for a shell; None when there is no way, or no need."""
        if self.way is None:
            return None
        return ("msb-cache", *(() if self.home is None else ("--home", self.home)), *self.arguments)

    def _shape(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "digest": self.manifest_digest,
            "certainty": self.certainty,
            "command": self.command,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class LostFile(Result):
    """A deleted file that no image of the log accounts for, so nothing brings it back."""

    kind: str
    subject: str


@dataclass(frozen=True)
class RestorePlan(Result):
    """How to bring back what an operation deleted."""

    operation: str
    kind: str
    images: tuple[Restoration, ...]
    lost: tuple[LostFile, ...]


def restore_plan(
    connection: sqlite3.Connection,
    store: EventStore,
    report: DeletionReport,
    *,
    kept_by_msb: bool,
    home: str | None,
) -> RestorePlan:
    """Plan from a deletion's report; reads the log, and whether archives are still where they were.

    Args:
        connection: the index.
        store: the log, on the same connection.
        report: the deletion's.
        kept_by_msb: whether msb keeps the home; it brings no manifest back under a name of its own.
        home: the home, where its commands have to name it; None: it is the environment's.
    """
    planning = _Planning(connection, store, report.counters.seq, kept_by_msb)
    named = {data.manifest_digest for _, data in report.images}
    deleted = [artifact for artifact in report.artifacts if artifact.outcome == "deleted"]
    manifests = [artifact.subject for artifact in deleted if artifact.kind == "manifest"]
    found = [planning.of_image(*image) for image in report.images]
    found += [planning.of_nameless(digest) for digest in manifests if digest not in named]
    covered = {reference for reference, _ in report.images} | set(manifests)
    covered |= {diff_id for digest in manifests for diff_id in _diff_ids(store, digest)}
    roots = [artifact for artifact in deleted if artifact.kind == "flat"]
    covered |= {artifact.subject for artifact in roots if artifact.manifest_digest in covered}
    flat = {artifact.manifest_digest for artifact in roots}
    found = [_with_flat_root(each) if each.manifest_digest in flat else each for each in found]
    lost = [LostFile(each.kind, each.subject) for each in deleted if each.subject not in covered]
    images_ = tuple(replace(each, home=home) for each in found)
    return RestorePlan(report.operation, report.counters.kind, images_, tuple(lost))


def chosen(plan: RestorePlan, texts: Sequence[str]) -> list[Restoration]:
    """Return the images of a plan that the texts mean: references, with wildcards or without, or digests.

    They are looked for among what the deletion took, whatever is here now. No text means all.

    Raises:
        ImageNotFoundError: the deletion took nothing of that name.
        InvalidReferenceError: a text is neither a reference nor a digest, or several digests begin with it.
    """
    if not texts:
        return [*plan.images]
    wanted = {id(image) for text in texts for image in _meant(plan, text)}
    return [image for image in plan.images if id(image) in wanted]


def _meant(plan: RestorePlan, text: str) -> list[Restoration]:
    named = [(each.reference, each) for each in plan.images if each.reference is not None]
    if is_pattern(text):
        fits = matcher(text)
        found = [each for name, each in named if fits(name) or fits(Reference.parse(name).canonical)]
    else:
        parsed = as_reference(text)
        same = [
            (name, each)
            for name, each in named
            if parsed is not None and Reference.parse(name).canonical == parsed.canonical
        ]
        found = [each for name, each in same if name == text] or [each for _, each in same]
        if not found and (prefix := digest_prefix(text)) is not None:
            found = [each for each in plan.images if each.manifest_digest.startswith(prefix)]
            if found:
                only(sorted({each.manifest_digest for each in found}), text, "in what went")
    if not found:
        raise ImageNotFoundError(
            f"deletion {plan.operation[:13]} took no image {shown(text)}; "
            f"`msb-cache prunes show {plan.operation[:13]}` lists what went"
        )
    return found


class _Planning:
    """The plan of one deletion, from one position."""

    def __init__(
        self, connection: sqlite3.Connection, store: EventStore, before: int, kept_by_msb: bool
    ) -> None:
        self._connection = connection
        self._store = store
        self._before = before
        self._kept_by_msb = kept_by_msb

    def of_image(self, canonical: str, removed: ev.ImageRemoved) -> Restoration:
        name, digest = as_typed(canonical, removed.spelling), removed.manifest_digest
        reference = Reference.parse(name)
        rows = images.spellings(self._connection, canonical)
        if self._kept_by_msb or len(rows) > 1:
            rows = [row for row in rows if seen(row) == name]  # each spelling is an image of its own
        if any(row.manifest_digest == digest for row in rows):
            return Restoration(name, digest, "here", notes=("it is in the cache again",))
        taken = f"{name} points at another image now" if rows else None
        if (rows or self._kept_by_msb) and self._is_here(by_digest := _by_digest(reference, digest)):
            return Restoration(name, digest, "here", notes=_notes(taken, f"it is here as {by_digest}"))
        return self._from_source(reference, name, digest, taken)

    def of_nameless(self, digest: str) -> Restoration:
        """Plan for a manifest whose references went earlier: by the last of them."""
        if images.has_manifest(self._connection, digest):
            return Restoration(None, digest, "here", notes=("it is in the cache again",))
        row = self._connection.execute(
            "SELECT reference FROM pointed_at WHERE manifest_digest = ? AND seq < ? "
            "ORDER BY seq DESC LIMIT 1",
            (digest, self._before),
        ).fetchone()
        if row is None:
            return Restoration(None, digest, "none", notes=("no reference ever pointed at it",))
        reference = Reference.parse(familiar(row[0]))
        had = f"no reference pointed at it any more when it went; it had been {reference.familiar}"
        return self._from_source(reference, None, digest, had)

    def _is_here(self, name: str) -> bool:
        rows = images.spellings(self._connection, Reference.parse(name).canonical)
        return any(row.manifest_digest == name.rpartition("@")[2] for row in rows)

    def _from_source(
        self, reference: Reference, name: str | None, digest: str, apart: str | None
    ) -> Restoration:
        """Return the way back from where it came.

        Args:
            reference: what pointed at it.
            name: the same as it was typed; None: nothing pointed at it any more.
            digest: the manifest.
            apart: why ``reference`` is not to point at it again; None: it is.
        """
        source = _source(self._store, reference.canonical, digest, self._before)
        if source is not None and source.kind == "archive":
            return self._from_archive(source.name or "-", reference, name, digest, apart)
        by_digest = _by_digest(reference, digest)
        if reference.digest == digest:
            way, notes = Way("pull", reference.registry, name or by_digest), _notes(apart)
        elif self._kept_by_msb or apart is not None:
            way = Way("pull", reference.registry, by_digest)
            notes = _notes(apart, f"it comes back as {by_digest}")
            if reference.tag is not None:
                again = f"`msb-cache pull {name or reference.familiar}` gives the tag again"
                notes = _notes(*notes, f"{again}, with what it means by then")
        else:
            way = Way("pull", reference.registry, name or by_digest, of_manifest=True)
            notes = ()
        if source is not None and source.kind == "registry":
            return Restoration(name, digest, "exact", way, notes)
        guess = f"a guess: the log does not say where it came from, so {reference.registry} is asked"
        return Restoration(name, digest, "guess", way, _notes(*notes, guess))

    def _from_archive(
        self, path: str, reference: Reference, name: str | None, digest: str, apart: str | None
    ) -> Restoration:
        if path == "-":
            no = "it was loaded from stdin, and nothing says what that was"
            return Restoration(name, digest, "none", notes=_notes(apart, no))
        if not os.path.isfile(path) and not os.path.isdir(path):  # a pipe would be waited for
            there = "no file" if os.path.lexists(path) else "not there"
            no = f"it was loaded from {path}, which is {there} any more"
            return Restoration(name, digest, "none", notes=_notes(apart, no))
        shown_ = name or reference.familiar
        if not self._kept_by_msb:
            back = shown_ if apart is None else _by_digest(reference, digest)
            way = Way("load", path, back, of_manifest=True, platform=self._platform(digest))
            comes = None if apart is None else f"it comes back as {back}"
            return Restoration(name, digest, "same source", way, _notes(apart, comes))
        if apart is not None and name is not None:
            no = f"msb would load {path} under that name, and so take it from the image that has it now"
            return Restoration(name, digest, "none", notes=_notes(apart, no))
        all_of_it = f"{path} brings back all of its images, and {shown_} must then be {digest}"
        return Restoration(name, digest, "same source", Way("load", path, shown_), _notes(apart, all_of_it))

    def _platform(self, digest: str) -> str | None:
        """Return the platform that a load has to ask for; None: this host's, which is taken anyway."""
        for added in _added(self._store, digest):
            platform = Platform.of(added.os or "linux", added.architecture or "unknown", added.variant)
            host = Platform.host()
            if added.architecture is not None and (platform.os, platform.architecture) != (
                host.os,
                host.architecture,
            ):
                return str(platform)
        return None


def _notes(*sentences: str | None) -> tuple[str, ...]:
    return tuple(each for each in sentences if each is not None)


def _by_digest(reference: Reference, digest: str) -> str:
    return f"{reference.familiar_name}@{digest}"


def _with_flat_root(found: Restoration) -> Restoration:
    again = "msb makes its flat root anew when it is asked to: `msb pull --materialize flat`"
    return replace(found, notes=(*found.notes, again))


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
    return {layer.diff_id for added in _added(store, digest) for layer in added.layers}


def _added(store: EventStore, digest: str) -> Iterator[ev.ManifestAdded]:
    for event in store.read(subjects=[digest], types=[ev.ManifestAdded.type]):
        if isinstance(event.data, ev.ManifestAdded):
            yield event.data
