"""What an engine is: the program that adds to a home's cache and deletes from it, and what it is asked to do.

There are two. Our own writes and unlinks files itself; that of msb, in a home that msb keeps, has msb do it
and records what it did. ``Session.engine`` says which one a home has, anew for each operation.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Protocol

from msgspec import Struct

from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import StoredEvent
from msb_cache.home.operation import Operation
from msb_cache.models import MAX_AGE_NS
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.projections.digests import Artifact
from msb_cache.projections.images import HandleRow
from msb_cache.waiting import Note

if TYPE_CHECKING:
    import sqlite3

    from msb_cache.artifacts.kinds import ArtifactKind
    from msb_cache.engines.arriving import MakesRoom
    from msb_cache.engines.decision import Confirm, Planner, Preview, Report
    from msb_cache.engines.leftovers import Leftover
    from msb_cache.oci.registry.credentials import Credential
    from msb_cache.oci.registry.downloads import LayerProgress
    from msb_cache.projections.state import IndexState

Policy = Literal["missing", "always", "never"]
Progress = Callable[["LayerProgress"], None]


class Within(Struct, frozen=True):
    """The restore that an addition is part of; such an addition takes no reference from another image.

    Attributes:
        operation: the restore's, which runs.
        undoes: the operation of the deletion.
    """

    operation: Operation
    undoes: str


class LoadRequest(Struct, frozen=True, kw_only=True):
    """An archive whose images are to be added.

    Attributes:
        source: a tar file, an OCI layout directory, or an open binary stream.
        origin: where that is, for the record.
        began_ns: when the command began, by ``time.monotonic_ns``.
        tags: more references for the first image.
        only: add no other images than those with these manifests, by their digests, each under these
            references; under its own where there are none. Of msb that cannot be had.
        within: the restore that it is part of; None: it is an operation of its own.
        platform: which image of an index; None: the host's.
        max_age_ns: nanoseconds for which it is good that a file which is reused was compared with its digest.
        note: gets sentences about what is unusual.
        room: makes room for the images; None: they take what there is.
    """

    source: Path | BinaryIO
    origin: ev.Source
    began_ns: int
    tags: tuple[Reference, ...] = ()
    only: Mapping[str, tuple[Reference, ...]] | None = None
    within: Within | None = None
    platform: Platform | None = None
    max_age_ns: int = MAX_AGE_NS
    note: Note | None = None
    room: MakesRoom | None = None


class PullRequest(Struct, frozen=True, kw_only=True):
    """An image to pull, and how; see ``ImageCache.pull``.

    Attributes:
        digest: the image manifest to fetch, whatever the reference means at the registry by now; what is
            pulled is recorded under ``reference`` all the same. None: what the reference means.
        began_ns: when the command began, by ``time.monotonic_ns``.
        jobs: how many layers are fetched at the same time.
        progress: gets typed progress events, from the threads that fetch.
        within: as for ``LoadRequest``.
        max_age_ns: as for ``LoadRequest``.
        note: gets sentences about what is unusual.
        room: makes room for the image; None: it takes what there is.
    """

    reference: Reference
    digest: str | None = None
    began_ns: int
    platform: Platform | None = None
    policy: Policy = "missing"
    force: bool = False
    credential: Credential | None = None
    options: RegistryOptions
    jobs: int = 3
    progress: Progress | None = None
    within: Within | None = None
    max_age_ns: int = MAX_AGE_NS
    note: Note | None = None
    room: MakesRoom | None = None

    @property
    def source(self) -> ev.Source:
        """Where the image comes from, for the record."""
        return ev.Source(kind="registry", name=self.reference.registry)


@contextmanager
def begun(layout: Layout, request: LoadRequest | PullRequest) -> Iterator[Operation]:
    """Begin the addition's operation, or its part of the restore's; it ends with the block."""
    within = request.within
    with Operation(layout) if within is None else within.operation.part() as operation:
        yield operation


def length(source: Path | BinaryIO) -> int | None:
    """Return how many bytes an archive has from where it is read on; None: not known, as of a pipe."""
    try:
        if isinstance(source, Path):
            found, start = os.stat(source), 0
        else:
            found = os.fstat(source.fileno())
            start = source.tell() if stat.S_ISREG(found.st_mode) else 0
    except (OSError, AttributeError):  # io.UnsupportedOperation is an OSError
        return None
    return max(0, found.st_size - start) if stat.S_ISREG(found.st_mode) else None


def operation_of(request: LoadRequest | PullRequest) -> str:
    """Return the operation that an addition belongs to: the restore's, or a new one."""
    return uuid7() if request.within is None else request.within.operation.id


def undone_by(request: LoadRequest | PullRequest) -> str | None:
    """Return the operation of the deletion that an addition undoes; None: it undoes none."""
    return None if request.within is None else request.within.undoes


class Pulled(Struct, frozen=True):
    """A pulled image as the index has it, and the ``image.pulled`` event that was recorded."""

    row: HandleRow
    recorded: StoredEvent


Problem = Literal["missing", "size", "damaged", "other", "moved", "altered"]
"""What can be wrong with a file that the index needs; see ``audit.files.DiskProblem``."""


class Wrong(Struct, frozen=True):
    """A file that the index needs and that is not as it must be; its subject is as for its deletion."""

    kind: ev.ArtifactKind
    subject: str
    problem: Problem

    @property
    def artifact(self) -> Artifact:
        """Its kind and subject."""
        return self.kind, self.subject


class MendRequest(Struct, frozen=True, kw_only=True):
    """Files to make anew.

    Attributes:
        wrong: the files.
        pull: fetch what cannot be made of what is here, from the registries that it came from.
        began_ns: when the command began, by ``time.monotonic_ns``.
        options, jobs, progress, note: as for ``PullRequest``.
    """

    wrong: Sequence[Wrong]
    pull: bool = False
    began_ns: int
    options: RegistryOptions
    jobs: int = 3
    progress: Progress | None = None
    note: Note | None = None

    def pulling(self, reference: Reference, digest: str | None) -> PullRequest:
        """Return the pull of an image that is to come back; nothing of it that is reused is only believed."""
        return PullRequest(
            reference=reference,
            digest=digest,
            began_ns=self.began_ns,
            policy="always",
            options=self.options,
            jobs=self.jobs,
            progress=self.progress,
            max_age_ns=0,
            note=self.note,
        )


class Mended(Struct, frozen=True):
    """A file that was made anew; ``differs``: in other bytes than those that msb-cache had made before."""

    kind: ev.ArtifactKind
    subject: str
    how: Literal["made", "pulled"]
    differs: bool = False


class Mending(Struct, frozen=True):
    """What became of files that were to be made anew: those that were, and why others were not."""

    mended: list[Mended]
    why_not: dict[Artifact, str]


class Orphans(Struct, frozen=True):
    """Files in the artifact folders that no index names, each by kind, subject and path.

    ``judged`` is false where that cannot be told, because an index cannot be read as a whole; then each file
    is in the list that our own index does not name.
    """

    files: Sequence[tuple[ArtifactKind, str, Path]]
    judged: bool = True


class Engine(Protocol):
    """Adds to the cache of one home, and deletes from it."""

    name: ClassVar[ev.Engine]

    def add(self, request: LoadRequest) -> list[HandleRow]:
        """Add the images of an archive, all or none; return each reference's row, in the archive's order."""

    def pull(self, request: PullRequest) -> Pulled:
        """Pull an image, or find it cached, and record that; a failure is recorded as well."""

    def index(self, connection: sqlite3.Connection) -> IndexState:
        """Return the index, live or past, as this engine sees it, within the caller's transaction."""

    def index_to_judge(self, connection: sqlite3.Connection, *, facts: bool, labels: bool) -> IndexState:
        """Return the live index as a deletion sees it, and at wish what rules ask of images."""

    def plan(self, planner: Planner, *, orphans: bool = False) -> Preview:
        """Return what a deletion would do now, with measured sizes; changes nothing and appends nothing."""

    def delete(
        self,
        planner: Planner,
        *,
        kind: ev.DeletionKind,
        policy: dict[str, Any],
        orphans: bool = False,
        confirm: Confirm | None = None,
        report: Report | None = None,
    ) -> tuple[str | None, Preview]:
        """Decide and delete; files that earlier deletions had to leave go with it.

        Args:
            planner: what to delete.
            kind: the command, for the record.
            policy: its rules, for the record.
            orphans: delete files that no index names as well.
            confirm: asked with the preview before anything is decided; false ends it.
            report: told how far it is.

        Returns:
            The operation, None when there was nothing to delete or it was not confirmed; and what was shown
            before.

        Raises:
            BusyError: another deletion runs in this home.
            HomeOwnedByMicrosandboxError: msb keeps the home and cannot be run, or came to keep it meanwhile.
        """

    def mend(self, request: MendRequest) -> Mending:
        """Make anew what can be made of files of images that are not as they must be, and record it.

        Raises:
            HomeOwnedByMicrosandboxError: msb keeps the home and cannot be run, or came to keep it meanwhile.
        """

    def recover(self, operation: str) -> None:
        """Finish a deletion that this engine decided; the caller holds its lock, and its process is gone."""

    def orphans(self, state: IndexState) -> Orphans:
        """Return the files that neither our index, in this state, nor another one names."""

    def leftovers(self, connection: sqlite3.Connection) -> list[Leftover]:
        """Return the files that earlier deletions had to leave and the next one tries again."""
