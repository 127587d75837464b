"""ImageCache: every use case of the cache in one synchronous class, and nothing but the use cases.

It joins the log with its projections (``ledger``), the formats (``oci``) and the disk (``artifacts``);
what each step does stands in those.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Unpack

from msb_cache import finding
from msb_cache.artifacts.layout import Layout
from msb_cache.errors import (
    BusyError,
    HomeOwnedByMicrosandboxError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidConfigError,
    InvalidImageError,
    MsbProgramError,
    OperationNotFoundError,
)
from msb_cache.finding import familiar as familiar
from msb_cache.ledger import Ledger, Who, as_text
from msb_cache.models import ImageHandle
from msb_cache.oci.reference import Reference
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow

# The rest is imported by what needs it: a list of images is there before the event types would be.
if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.adding import Addition
    from msb_cache.deletion import Confirm, Delete, Preview
    from msb_cache.details import ImageDetail, ImagePruneReport
    from msb_cache.eventstore.checkpoint import Checkpoint
    from msb_cache.eventstore.store import Actor, Clock, StoredEvent
    from msb_cache.explaining import IdleImage, Reasons
    from msb_cache.importing import ImportReport
    from msb_cache.info import HomeInfo
    from msb_cache.oci.credentials import Credential
    from msb_cache.oci.image import SourceImage
    from msb_cache.oci.platform import Platform
    from msb_cache.oci.registry_options import RegistryOptions
    from msb_cache.past import AsOf, Changes, Contents, Hold
    from msb_cache.projections.deletions import DeletionReport, DeletionSummary
    from msb_cache.projections.history import HistoryEvent
    from msb_cache.projections.live import Difference
    from msb_cache.projections.past import Past
    from msb_cache.projections.replay import State, Step
    from msb_cache.projections.state import IndexState
    from msb_cache.pulling import Policy, Progress
    from msb_cache.replaying import Comparison, Log
    from msb_cache.restoring import RestorePlan
    from msb_cache.selection import Filters, Reader
    from msb_cache.sync import SyncReport
    from msb_cache.verification import Verification

_ATTEMPTS = 5
_LOAD_WORKERS = 2  # layers are hashed and written outside of the interpreter's lock
_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_OPERATION_PREFIX = r"[0-9a-f-]{4,36}"

Note = Callable[[str], None]
"""Gets sentences for a person about something unusual that is no error."""


class ImageCache:
    """The image cache of one home.

    Use it as a context manager, in one thread. Reading writes nothing: without a log there are simply no
    images. Every method that writes first finishes or undoes what a killed process left.

    In a home that msb keeps (``db/msb.db`` exists) every method that reads first records what msb did since
    the last time, if its database changed and the home can be written to.

    Args:
        home: the home; None: the environment's, that is ``MSB_HOME``, else ``~/.microsandbox``.
        actor: who is recorded in the log, or a function that says it when something is; None: this
            process's user and program.
        clock: nanoseconds since the epoch, UTC.
        sync: record what msb did before reading; else only ``sync()`` does.
        note: gets a sentence when that cannot be done, and reading goes on with what the log has; also when a
            question is about a time before the log.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        actor: Actor | Who | None = None,
        clock: Clock = time.time_ns,
        sync: bool = True,
        note: Note | None = None,
    ) -> None:
        if home is None:
            from msb_cache.backends import home_from_environment

            home = home_from_environment()
        self._layout = Layout(home)
        self._ledger = Ledger(self._layout, actor=actor, clock=clock)
        self._sync_first = sync
        self._note = note
        self._noted: str | None = None
        self._past: Past | None = None

    @property
    def home(self) -> Path:
        """The home's absolute path."""
        return self._layout.home

    @property
    def kept_by_msb(self) -> bool:
        """Whether msb keeps this home, so that it is msb that pulls, loads, removes and prunes."""
        return self._ledger.owned_by_msb

    def close(self) -> None:
        """Close the database."""
        self._forget_past()
        self._ledger.close()

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------------

    def list(self, *patterns: str, as_of: AsOf | None = None) -> builtins.list[ImageHandle]:
        """Return cached images by creation time, newest first.

        Args:
            patterns: only images that one of these means: a reference, with wildcards (``*``, ``?``) or
                without, or a digest; none: all.
            as_of: the images at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError: nothing matches a pattern.
            InvalidReferenceError: one is no reference.
            InvalidConfigError: the moment is none, or in the future.
        """
        self._observe()
        with self._index(as_of) as connection:
            chosen = {name for text in patterns for name in finding.in_index(connection, text)}
            rows = () if connection is None else images.handles(connection)
            return [self._handle(row) for row in rows if not patterns or row.reference in chosen]

    def get(self, reference: str) -> ImageHandle:
        """Return an image.

        Args:
            reference: in canonical or familiar form; or a manifest's digest, or at least four digits of its
                beginning, if no image has that name.

        Raises:
            ImageNotFoundError: it is not in the cache.
            InvalidReferenceError: the text is no reference, or several digests begin with it.
        """
        self._observe()
        with self._ledger.snapshot() as connection:
            return self._handle(finding.image(connection, reference))

    def inspect(self, reference: str, *, as_of: AsOf | None = None) -> ImageDetail:
        """Return an image's handle, configuration and layers (bottom to top).

        Args:
            reference: the image, as for ``get``.
            as_of: how it was at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
            InvalidConfigError: the moment is none, or in the future.
        """
        import msgspec

        from msb_cache.details import ImageConfigDetail, ImageDetail, ImageLayerDetail
        from msb_cache.eventstore.events import ImageConfig

        self._observe()
        with self._index(as_of) as connection:
            row = finding.image(connection, reference)
            assert connection is not None  # noqa: S101
            config = images.config(connection, row.manifest_digest)
            layers = images.layers(connection, row.manifest_digest)
        detail = None
        if config is not None:
            fields = msgspec.json.decode(config.fields, type=ImageConfig)
            detail = ImageConfigDetail(
                digest=config.digest,
                env=[*fields.env],
                cmd=None if fields.cmd is None else [*fields.cmd],
                entrypoint=None if fields.entrypoint is None else [*fields.entrypoint],
                working_dir=fields.working_dir,
                user=fields.user,
                labels=fields.labels,
                stop_signal=fields.stop_signal,
            )
        return ImageDetail(self._handle(row), detail, [ImageLayerDetail(*layer) for layer in layers])

    def holders(self, reference: str, *, as_of: AsOf | None = None) -> builtins.list[str]:
        """Return who holds the manifest that a reference points at, now or ``as_of`` a moment, by name."""
        self._observe()
        with self._index(as_of) as connection:
            row = finding.image(connection, reference)
            assert connection is not None  # noqa: S101
            return images.holders(connection, row.manifest_digest)

    def holds(self, reference: str | None = None, *, as_of: AsOf | None = None) -> builtins.list[Hold]:
        """Return who holds what, since when and by which reference, by holder.

        Args:
            reference: only holds of this manifest: a reference to it, or its digest, also when no reference
                points at it any more; None: all holds.
            as_of: at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError, InvalidReferenceError, InvalidConfigError: as for ``inspect``.
        """
        from msb_cache.past import holds

        self._observe()
        with self._index(as_of) as connection:
            digest = None if reference is None else finding.manifest(connection, reference)
            return [] if connection is None else holds(connection, digest)

    def diff(self, before: AsOf, after: AsOf | None = None) -> Changes:
        """Return what came, went, moved, was held and released between two moments, and the change in bytes.

        Args:
            before: a moment of the past; see ``AsOf``.
            after: another, also an earlier one; None: now.

        Raises:
            InvalidConfigError: a moment is none, or in the future.
        """
        from msb_cache.past import changes

        self._observe()
        return changes(self._contents(before), self._contents(after))

    def history(self, reference: str, **filters: Unpack[Filters]) -> builtins.list[HistoryEvent]:
        """Return everything that happened to an image, oldest first, also when it is gone.

        That is: every event on the reference; holds, releases and deletions of each manifest it ever
        pointed at; and what became of their layers.

        Args:
            reference: a reference; one with wildcards (``*``, ``?``), for the images that match; or a digest,
                or a unique beginning of one, for what concerned that manifest.
            filters: what the events must fit; see ``Filters``.

        Raises:
            ImageNotFoundError: the log knows no such image.
            InvalidReferenceError: the text is no reference, or several digests begin with it.
            InvalidConfigError: a filter makes no sense.
            OperationNotFoundError: no operation has that id, or several begin with it.
        """
        return [*self.iter_history(reference, **filters)]

    def iter_history(self, reference: str, **filters: Unpack[Filters]) -> Iterator[HistoryEvent]:
        """Yield what ``history`` returns, read in pages; the log may be written to meanwhile."""
        from msb_cache.finding import in_log
        from msb_cache.selection import Query, pages

        query = Query(filters, self._ledger.clock())
        self._observe()
        with self._ledger.snapshot() as connection:
            in_log(connection, reference)
        return pages(self._ledger, query, query.history_of(reference))

    def events(self, **filters: Unpack[Filters]) -> builtins.list[StoredEvent]:
        """Return the log's events that fit every given condition, in position order; see ``Filters``.

        Raises:
            ImageNotFoundError, InvalidReferenceError, InvalidConfigError, OperationNotFoundError: as for
                ``history``.
        """
        return [*self.iter_events(**filters)]

    def iter_events(self, **filters: Unpack[Filters]) -> Iterator[StoredEvent]:
        """Yield what ``events`` returns, read in pages; the log may be written to meanwhile."""
        from msb_cache.selection import Query, pages

        query = Query(filters, self._ledger.clock())
        self._observe()
        return pages(self._ledger, query, query.events)

    def follow(
        self,
        reference: str | None = None,
        *,
        stopped: Callable[[], bool] = lambda: False,
        interval: float = 0.5,
        **filters: Unpack[Filters],
    ) -> Iterator[StoredEvent]:
        """Yield events as ``iter_events`` or, with a reference, ``iter_history``; then stay for what comes.

        Without ``since`` or ``after``, the last ten come first. A home without a log is waited for.

        Args:
            reference: whose history to follow; None: all events.
            stopped: asked after each look whether to end.
            interval: seconds between two looks.
            filters: as for ``events``; ``until`` and ``reverse`` make no sense here.

        Raises:
            InvalidConfigError: ``until`` or ``reverse`` was given; else as for ``history``.
        """
        from msb_cache.finding import in_log
        from msb_cache.selection import Query, follow
        from msb_cache.watch import looks

        if filters.get("until") is not None or filters.get("reverse"):
            raise InvalidConfigError("what is followed has no end and comes oldest first")
        query = Query(filters, self._ledger.clock())
        self._observe()
        if reference is not None:
            with self._ledger.snapshot() as connection:
                in_log(connection, reference)
        note = self._note or (lambda sentence: None)
        turns = looks(self._recorded, stopped=stopped, note=note, interval=interval)
        read: Reader[StoredEvent] = query.events if reference is None else query.history_of(reference)
        return follow(self._ledger, query, read, turns)

    def deletions(self, *, limit: int | None = None) -> builtins.list[DeletionSummary]:
        """Return past removals and prunes, newest first: who, by which policy, and the counters."""
        from msb_cache.projections import deletions

        self._observe()
        with self._ledger.snapshot() as connection:
            if connection is None:
                return []
            store = self._ledger.store(connection)
            rows = deletions.deletions(connection, limit=limit)
            found = (deletions.summary(store, row) for row in rows)
            return [summary for summary in found if summary is not None]

    def deletion(self, operation: str) -> DeletionReport:
        """Return what one deletion decided, deleted and kept, and who ran it.

        Args:
            operation: its id, or a prefix of at least four characters that no other shares.

        Raises:
            OperationNotFoundError: no deletion has that id, or several begin with it.
        """
        from msb_cache.projections import deletions

        if not re.fullmatch(_OPERATION_PREFIX, operation):
            shown = as_text(operation[:100])
            raise OperationNotFoundError(f"{shown!r} is no operation id; `msb-cache prunes` lists them")
        self._observe()
        with self._ledger.snapshot() as connection:
            found = [] if connection is None else deletions.find(connection, operation)
            if len(found) > 1:
                raise OperationNotFoundError(
                    f"{len(found)} deletions begin with {operation}; give more of the id"
                )
            if found and connection is not None:
                report = deletions.report(connection, self._ledger.store(connection), found[0].operation)
                if report is not None:
                    return report
        raise OperationNotFoundError(f"no deletion has the id {operation}; `msb-cache prunes` lists them")

    def why(self, target: str) -> Reasons:
        """Explain why an image, manifest or layer is here, or gone.

        Args:
            target: a reference; or a digest of a manifest or layer (diff ID or blob), or its beginning.

        Raises:
            ImageNotFoundError: no event is about it; names like it are offered.
            InvalidReferenceError: it is neither, or several digests begin so.
        """
        from msb_cache.explaining import never_seen, why
        from msb_cache.projections.state import load, load_observed

        self._observe()
        index = load_observed if self._ledger.owned_by_msb else load
        with self._ledger.snapshot() as connection:
            if connection is None:
                raise never_seen(target)
            return why(connection, self._ledger.store(connection), target, index)

    def idle(self, *, at_least_ns: int = 0) -> builtins.list[IdleImage]:
        """Return images by how long nobody has used them, longest first, with the events that say so.

        Args:
            at_least_ns: only those idle for as long or longer, in ns.
        """
        from msb_cache.explaining import idle

        self._observe()
        with self._ledger.snapshot() as connection:
            if connection is None:
                return []
            return idle(connection, self._ledger.store(connection), self._ledger.clock(), at_least_ns)

    def restore_plan(self, operation: str) -> RestorePlan:
        """Return which commands would bring back what one deletion deleted, and what cannot be had again.

        Args, Raises: as for ``deletion``.
        """
        from msb_cache.restoring import restore_plan

        report = self.deletion(operation)
        with self._ledger.snapshot() as connection:
            assert connection is not None  # noqa: S101
            return restore_plan(connection, self._ledger.store(connection), report)

    def verify(self, against: str | None = None) -> Verification:
        """Check the hash chain, the projections against a fold of the log, and the disk against the index.

        Args:
            against: the text of a checkpoint made before; the log must extend it.

        Raises:
            LogError: ``against`` is no checkpoint.
        """
        from msb_cache.eventstore.checkpoint import parse
        from msb_cache.verification import verify

        note = None if against is None else parse(against)
        self._observe()
        return verify(self._ledger, note)

    def checkpoint(self) -> Checkpoint:
        """Return what fixes the log as it is now; its ``note`` is text to keep elsewhere, for ``verify``.

        Raises:
            CorruptLogError: the log does not verify.
            LogError: there is none.
        """
        from msb_cache.verification import take_checkpoint

        self._observe()
        return take_checkpoint(self._ledger)

    def export(self, target: str | os.PathLike[str] | BinaryIO, *, since_seq: int = 0) -> int:
        """Write the log as JSON Lines (docs/event-log.md), and return the number of events.

        Args:
            target: a file, replaced only when the export is whole, or an open binary stream.
            since_seq: only events behind this position.

        Raises:
            LogError: there is no log, or it ends before that position.
        """
        from msb_cache.exporting import export_log

        self._observe()
        return export_log(self._ledger, target, since_seq=since_seq)

    def import_log(self, source: BinaryIO) -> ImportReport:
        """Take in a whole export, ids, times and hashes included, where there is no log yet; or nothing.

        Files of images are no part of it: ``list`` shows what the log says, ``verify`` what is missing.

        Raises:
            LogError: this home has a log.
            CorruptLogError, UnknownEventError: the export is damaged, changed, or not from msb-cache.
            HomeOwnedByMicrosandboxError: msb owns the home.
        """
        from msb_cache.importing import import_log

        return import_log(self._ledger, source)

    def replay(
        self,
        *,
        log: str | os.PathLike[str] | None = None,
        after: int = 0,
        until: int | None = None,
        note: Note | None = None,
    ) -> Iterator[Step]:
        """Yield each event with the rows of the projections that it changes, folding from the beginning.

        Args:
            log: a database of msb-cache, or an export, to read instead of this home's log.
            after: only events behind this position.
            until: only events up to this position.
            note: gets a sentence if the log does not verify; the replay goes on.

        Raises:
            LogError: there is no log, or it cannot be read.
        """
        with self._log(log, note) as found:
            yield from found.steps(after=after, until=until)

    def replay_state(
        self,
        *,
        log: str | os.PathLike[str] | None = None,
        until: int | None = None,
        note: Note | None = None,
    ) -> State:
        """Return all rows of the projections as a log says at a position (None: at its end).

        Args, Raises: as for ``replay``.
        """
        with self._log(log, note) as found:
            return found.state(until)

    def compare_state(
        self,
        state: str | os.PathLike[str],
        *,
        log: str | os.PathLike[str] | None = None,
        note: Note | None = None,
    ) -> Comparison:
        """Find the first event after which the fold of a log and a given state differ for good.

        Args:
            state: a database of msb-cache, for the rows it has; or a state written by ``replay --state``.
            log, note: as for ``replay``.

        Raises:
            LogError: the state cannot be read, or is of another log, release or position.
        """
        from pathlib import Path

        from msb_cache.log_files import read_state

        wanted = read_state(Path(state))
        with self._log(log, note) as found:
            return found.compare(wanted)

    def info(self) -> HomeInfo:
        """Return which engine changes this cache and why, and how much there is."""
        from msb_cache.info import info

        self._observe()
        return info(self._ledger)

    def sync(self, *, force: bool = False) -> SyncReport:
        """Record what msb did in this home since the last time; in a home of our own, nothing.

        Args:
            force: compare even if msb's database looks unchanged.

        Raises:
            MsbDatabaseError: msb's database cannot be read.
            LogError, BusyError: the log cannot be written.
        """
        from msb_cache.sync import sync

        return sync(self._ledger, force=force)

    def watch(
        self, *, stopped: Callable[[], bool] = lambda: False, interval: float = 0.5
    ) -> Iterator[StoredEvent]:
        """Stay, and yield each event that enters the log; what msb does here is recorded as it happens.

        Args:
            stopped: asked after each look whether to end, such as ``threading.Event().is_set``.
            interval: seconds between two looks.
        """
        from msb_cache.watch import watch

        note = self._note or (lambda sentence: None)
        return watch(self._ledger, stopped=stopped, note=note, interval=interval)

    # -- writing ---------------------------------------------------------------------------------

    def load(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        tag: str | None = None,
        platform: str | None = None,
        note: Note | None = None,
    ) -> builtins.list[ImageHandle]:
        """Add the images of a docker-save or OCI archive: all of them, or none.

        Args:
            source: a tar file, an OCI layout directory, or an open binary stream.
            tag: one more reference for the first image.
            platform: such as ``linux/arm64``, to choose from an index; None: the host's linux platform.
            note: gets sentences about what is unusual.

        Returns:
            A handle for each reference, in the archive's order, ``tag`` first.

        Raises:
            InvalidImageError: the archive is damaged, lies about a digest, or is no archive.
            InvalidReferenceError: ``tag``, or a name in the archive, is no reference.
        """
        from pathlib import Path

        from msb_cache.eventstore.events import Source

        began = time.monotonic_ns()
        extra = None if tag is None else Reference.parse(tag)
        wanted = None if platform is None else _platform(platform)
        self._begin_writing()
        if isinstance(source, str | os.PathLike):
            opened: Path | BinaryIO = Path(source)
            origin = Source(kind="archive", name=as_text(os.path.abspath(os.fsdecode(source))))
        else:
            opened, origin = source, Source(kind="archive", name="-")
        if self._ledger.owned_by_msb:
            from msb_cache import msb_adding

            with _naming(source, self._layout.cache):
                rows = msb_adding.load(self._ledger, opened, origin, extra, wanted)
            return [self._handle(row) for row in rows]
        from msb_cache.adding import add
        from msb_cache.oci.archive import open_archive
        from msb_cache.oci.image import SourceLayer
        from msb_cache.operations import Operation

        with (
            _naming(source, self._layout.cache),
            Operation(self._layout) as operation,
            open_archive(opened, operation.staging(), wanted) as archive,
        ):
            for sentence in archive.notes:
                if note is not None:
                    note(sentence)
            names = _name(archive.images, extra)
            rows = add(
                self._ledger,
                operation,
                _additions(archive.images, names),
                origin,
                began,
                workers=_LOAD_WORKERS,
                reuse=SourceLayer.verify_only,
                note=note,
            )
        return [self._handle(row) for row in rows]

    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        policy: Policy = "missing",
        force: bool = False,
        credential: Credential | None = None,
        options: RegistryOptions | None = None,
        jobs: int = 3,
        progress: Progress | None = None,
        note: Note | None = None,
    ) -> ImageHandle:
        """Pull an image from its registry; a failure is recorded as well.

        Args:
            reference: by tag, digest or both; short names mean Docker Hub.
            platform: such as ``linux/arm64``; None: the host's linux platform.
            policy: ``missing`` takes a cached image as it is, ``always`` asks the registry what the
                reference means now and reuses layers, ``never`` does not ask the registry.
            force: fetch and make everything anew, whatever is cached.
            credential: the login; None: what Docker's configuration and credential helpers say.
            options: how to reach the registry.
            jobs: how many layers to fetch at the same time.
            progress: gets typed progress events, from the threads that fetch.
            note: gets sentences about what is unusual.

        Raises:
            ImagePullFailedError: the registry cannot or will not give it.
            ImageNotFoundError: it is not cached, and the policy is ``never``.
            InvalidImageError: what the registry gives is not what it says.
        """
        from msb_cache.oci.registry_options import RegistryOptions
        from msb_cache.pulling import Wanted, pull

        wanted = Wanted(
            Reference.parse(reference),
            None if platform is None else _platform(platform),
            policy,
            force,
            credential,
            options or RegistryOptions(),
            jobs,
        )
        if policy not in ("missing", "always", "never") or jobs < 1:
            raise InvalidConfigError("the policy is missing, always or never, and jobs is at least 1")
        self._begin_writing()
        if self._ledger.owned_by_msb:
            from msb_cache import msb_adding

            msb_adding.pull(self._ledger, wanted)
        else:
            with _naming(None, self._layout.cache):
                pull(self._ledger, wanted, progress=progress, note=note)
        return self.get(wanted.reference.canonical)

    def save(
        self,
        references: str | Sequence[str],
        target: str | os.PathLike[str] | BinaryIO,
        *,
        format: str = "docker",
    ) -> None:
        """Write images to an archive that docker, skopeo, msb and this cache load.

        A layer's tar is made anew from its EROFS image, so digests differ from those of the original.

        Args:
            references: one or more.
            target: a file, replaced only when the archive is whole, or an open binary stream.
            format: ``docker`` or ``oci``.

        Raises:
            ImageNotFoundError: one is not in the cache.
            CorruptArtifactError: one of its files is missing or damaged.
        """
        from msb_cache.saving import save

        if format not in ("docker", "oci"):
            raise InvalidConfigError(f"{format!r} is no archive format; use docker or oci")
        wanted = [references] if isinstance(references, str) else [*references]
        self._observe()
        with self._ledger.snapshot() as connection:
            rows = [finding.image(connection, reference) for reference in wanted]
        save(self._layout, rows, target, format=format)

    def use(self, reference: str, *, holder: str | None = None) -> ImageHandle:
        """Record that an image was used, now; it is not held by that.

        Args:
            reference: the image.
            holder: the sandbox or snapshot that used it, such as ``sandbox:dev``.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
        """
        from msb_cache.eventstore.events import ImageUsed
        from msb_cache.eventstore.ids import uuid7
        from msb_cache.eventstore.store import NewEvent

        if holder is not None:
            finding.check_holder(holder)
        self._begin_writing()
        self.get(reference)  # nothing is made for an image that is not there
        with self._ledger.attest(uuid7()) as transaction:
            row = finding.reference(transaction.connection, reference)
            used = ImageUsed(manifest_digest=row.manifest_digest, holder=holder)
            transaction.append([NewEvent(used, row.reference)])
        return self.get(row.reference)

    def hold(self, reference: str, holder: str) -> ImageHandle:
        """Keep the manifest a reference points at now until the holder releases it. Idempotent.

        Args:
            reference: the image.
            holder: ``sandbox:<name>`` or ``snapshot:<name or path>``.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
        """
        from msb_cache.eventstore.events import ImageHeld
        from msb_cache.eventstore.ids import uuid7
        from msb_cache.eventstore.store import NewEvent

        finding.check_holder(holder)
        self._begin_writing()
        self.get(reference)  # nothing is made for an image that is not there
        with self._ledger.attest(uuid7()) as transaction:
            row = finding.image(transaction.connection, reference)
            if holder not in images.holders(transaction.connection, row.manifest_digest):
                held = ImageHeld(holder=holder, reference=row.reference)
                transaction.append([NewEvent(held, row.manifest_digest)])
        return self._handle(row)

    def release(self, holder: str) -> builtins.list[str]:
        """End every hold of a holder.

        Returns:
            The digests of the manifests it held; none is no error.
        """
        from msb_cache.eventstore.events import ImageReleased
        from msb_cache.eventstore.ids import uuid7
        from msb_cache.eventstore.store import NewEvent

        finding.check_holder(holder)
        self._begin_writing()
        with self._ledger.snapshot() as connection:
            if connection is None or not images.held_by(connection, holder):
                return []
        with self._ledger.attest(uuid7()) as transaction:
            digests = images.held_by(transaction.connection, holder)
            transaction.append([NewEvent(ImageReleased(holder=holder), digest) for digest in digests])
        return digests

    def remove(self, reference: str, *, force: bool = False) -> ImagePruneReport:
        """Remove a reference, its manifest if nothing else reaches it, and the layers nothing else needs.

        With ``force`` only the reference goes while a sandbox or snapshot holds the manifest; the rest
        stays until the last hold is gone and a prune runs.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
            ImageInUseError: it is held, and not forced.
            BusyError: another deletion runs.
        """
        from msb_cache.plan import Plan, plan_remove

        self._begin_writing()
        self._observe()
        with self._ledger.snapshot() as connection:
            canonical = finding.reference(connection, reference).reference

        def planner(state: IndexState, within: Plan | None) -> Plan:
            if canonical not in state.references:
                raise ImageNotFoundError(f"image not found: {familiar(canonical)}")
            holders = state.holders.get(state.references[canonical])
            if holders and not force:
                raise self._in_use(canonical, holders)
            _check_reachable(state, canonical)
            return plan_remove(state, [canonical], force=force, within=within)

        policy = {"references": [canonical], "force": force}
        for _ in range(_ATTEMPTS):
            operation, shown = self._delete(self._ledger, planner, kind="remove", policy=policy)
            if operation is not None:
                report = self._report(operation, shown)
                if not report.image_refs_removed:
                    self._raise_refused(operation, canonical)
                return report
            # It moved to another image between plan and decision: plan again.
        raise BusyError(f"{familiar(canonical)} keeps changing; try again")

    def prune(
        self, *, dry_run: bool = False, orphans: bool = False, confirm: Confirm | None = None
    ) -> ImagePruneReport:
        """Remove what no sandbox and no snapshot uses: references, then manifests, then layers.

        Args:
            dry_run: only report what would go; appends nothing.
            orphans: also delete files that the index does not name and no process has locked.
            confirm: asked with a preview before anything is decided; if it says no, nothing happens.

        Raises:
            BusyError: another deletion runs.
        """
        from msb_cache.plan import plan_prune

        if dry_run:
            return _as_report(self.preview_prune(orphans=orphans))
        self._begin_writing()

        policy: dict[str, object] = {"rule": "unused"}
        if orphans:
            policy["orphans"] = True
        operation, shown = self._delete(
            self._ledger,
            lambda state, within: plan_prune(state, within=within),
            kind="prune",
            policy=policy,
            orphans=orphans,
            confirm=confirm,
        )
        return self._report(operation, shown)

    def preview_prune(self, *, orphans: bool = False) -> Preview:
        """Return what a prune would delete and keep now, with measured sizes."""
        from msb_cache.plan import plan_prune

        self._observe()
        if self._ledger.owned_by_msb:
            from msb_cache.msb_deletion import preview
        else:
            from msb_cache.deletion import preview
        return preview(self._ledger, lambda state, within: plan_prune(state, within=within), orphans=orphans)

    def rebuild(self) -> builtins.list[Difference]:
        """Fold the whole log again into the projections; return how they differed. It must be none."""
        from msb_cache import snapshots
        from msb_cache.eventstore.ids import uuid7
        from msb_cache.projections import live

        self._begin_writing()
        # The long part is done without keeping others from writing.
        with self._ledger.snapshot() as connection:
            if connection is None:
                return []
            store = self._ledger.store(connection)
            head = store.head()
            fold = live.fold_until(store)
        with self._ledger.attest(uuid7()) as transaction:
            store = self._ledger.store(transaction.connection)
            differences = live.rebuild(transaction.connection, store, fold, head.seq if head else 0)
        if differences:
            snapshots.forget(self._ledger)
        return differences

    # -- helpers ---------------------------------------------------------------------------------

    @contextmanager
    def _log(self, path: str | os.PathLike[str] | None, note: Note | None) -> Iterator[Log]:
        from msb_cache.replaying import opened

        if path is None:
            self._observe()
        say = note or (lambda sentence: None)
        with opened(
            self._ledger, path, lambda found: say(f"the log does not verify: {found.problem}")
        ) as log:
            yield log

    @contextmanager
    def _index(self, as_of: AsOf | None) -> Iterator[sqlite3.Connection | None]:
        """Read the index now, or as it was; None when the home has no log yet."""
        with self._ledger.snapshot() as connection:
            if as_of is None:
                yield connection
            else:
                yield self._index_at(connection, self._position(connection, as_of))

    def _position(self, connection: sqlite3.Connection | None, as_of: AsOf) -> int:
        from msb_cache.past import position_of

        store = None if connection is None else self._ledger.store(connection)
        position = position_of(store, as_of, self._ledger.clock())
        if position == 0 and self._note is not None:
            self._note("the log begins later than that; there was nothing")
        return position

    def _index_at(self, connection: sqlite3.Connection | None, position: int) -> sqlite3.Connection | None:
        from msb_cache.snapshots import index_at

        if connection is None:
            return None
        if self._past is None or self._past.position != position:
            self._forget_past()
            self._past = index_at(self._ledger, connection, position)
        return self._past.connection

    def _forget_past(self) -> None:
        if self._past is not None:
            self._past.close()
            self._past = None

    def _contents(self, as_of: AsOf | None) -> Contents:
        from msb_cache.past import Contents, contents

        with self._ledger.snapshot() as connection:
            if as_of is not None:
                position = self._position(connection, as_of)
                index = self._index_at(connection, position)
            else:
                head = None if connection is None else self._ledger.store(connection).head()
                position, index = 0 if head is None else head.seq, connection
            return Contents(position, {}, {}, 0) if index is None else contents(index, position)

    def _recorded(self) -> str | None:
        """Record what msb did, if it keeps this home; return a sentence if that cannot be done."""
        if not self._sync_first or not self._ledger.owned_by_msb:
            return None
        from msb_cache.sync import sync_before_reading

        return sync_before_reading(self._ledger)

    def _observe(self) -> None:
        sentence = self._recorded()
        if sentence is not None and sentence != self._noted and self._note is not None:
            self._note(sentence)
        self._noted = sentence

    def _begin_writing(self) -> None:
        from msb_cache.recovery import recover

        self._ledger.check_writable()
        recover(self._ledger)

    @property
    def _delete(self) -> Delete:
        """What deletes in this home: our own engine, or msb."""
        if self._ledger.owned_by_msb:
            from msb_cache.msb_deletion import delete
        else:
            from msb_cache.deletion import delete
        return delete

    def _in_use(self, canonical: str, holders: Sequence[str]) -> ImageInUseError:
        by = f" by {_listed(holders)}" if holders else ""
        error = ImageInUseError(f"{familiar(canonical)} is in use{by}")
        error.seen_in_msb = self._ledger.owned_by_msb
        return error

    def _raise_refused(self, operation: str, canonical: str) -> None:
        """Say why a reference that msb was asked to remove is still there."""
        for artifact in self.deletion(operation).artifacts:
            if (artifact.kind, artifact.subject) != ("metadata", canonical):
                continue
            name = familiar(canonical)
            if artifact.outcome == "kept" and artifact.holders:
                raise self._in_use(canonical, artifact.holders)
            if artifact.outcome == "kept":
                raise MsbProgramError(f"msb said nothing against it, but {name} is still there; try again")
            if artifact.outcome == "failed":
                raise MsbProgramError(f"msb could not remove {name}: {artifact.reason}")

    def _handle(self, row: HandleRow) -> ImageHandle:
        reference, size, digest, architecture, os_name, layers, created, used = row
        name, home = familiar(reference), self._layout.root
        return ImageHandle(name, size, digest, architecture, os_name, layers or 0, created, used, home)

    def _report(self, operation: str | None, shown: Preview) -> ImagePruneReport:
        from msb_cache.details import ImagePruneReport
        from msb_cache.projections import deletions

        if operation is None:
            return ImagePruneReport(0, 0, 0, 0, 0, None)
        with self._ledger.snapshot() as connection:
            assert connection is not None  # noqa: S101
            (row,) = deletions.find(connection, operation)
        orphans, gone = shown.orphaned(), 0
        if orphans:  # what became of each artifact takes a second read of the whole operation
            gone = sum(
                artifact.outcome == "deleted" and (artifact.kind, artifact.subject) in orphans
                for artifact in self.deletion(operation).artifacts
            )
        return ImagePruneReport(
            image_refs_removed=row.image_refs_removed,
            manifests_removed=row.manifests_removed,
            layers_removed=row.layers_removed,
            fsmeta_removed=row.fsmeta_removed,
            vmdk_removed=row.vmdk_removed,
            bytes_reclaimed=row.bytes_reclaimed,
            skipped_in_use=len(shown.plan.references) - row.image_refs_removed,
            orphans_removed=gone,
            artifacts_failed=row.failed,
            operation=operation,
        )


def _check_reachable(state: IndexState, canonical: str) -> None:
    """Refuse to remove what msb, which keeps the home, does not know or would take from others."""
    from msb_cache.plan import UNKNOWN, Bounds

    kept = Bounds(state)(canonical, state.references[canonical])
    if kept is not None:
        why = (
            "it came here before msb, which keeps this home and does not know it"
            if kept.rule == UNKNOWN
            else "msb, which keeps this home, would delete layers of images that it does not know"
        )
        raise HomeOwnedByMicrosandboxError(f"{familiar(canonical)} is not removed: {why}")


def _platform(text: str) -> Platform:
    from msb_cache.oci.platform import Platform

    try:
        return Platform.parse(text)
    except InvalidImageError as error:
        raise InvalidConfigError(str(error)) from None


@contextmanager
def _naming(source: object, target: Path) -> Iterator[None]:
    """Name the archive, or what was written to, in an error of the operating system that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_WRITING:
            error.filename = os.fspath(target)
        elif error.filename is None and isinstance(source, str | os.PathLike):
            error.filename = os.fspath(source)
        raise


def _name(found: Sequence[SourceImage], extra: Reference | None) -> list[list[Reference]]:
    """Return each image's references; a name given twice belongs to the last image, as in docker."""
    names = [list(image.references) for image in found]
    if extra is not None and names:
        names[0].insert(0, extra)
    for index, group in enumerate(names):
        later = {name for other in names[index + 1 :] for name in other}
        if not group:
            raise InvalidImageError(
                f"the archive names no reference for {found[index].manifest_digest}; give one with --tag"
            )
        names[index] = [name for name in dict.fromkeys(group) if name not in later]
    return names


def _additions(found: Sequence[SourceImage], names: Sequence[Sequence[Reference]]) -> list[Addition]:
    from msb_cache.adding import Addition

    merged: dict[str, tuple[SourceImage, list[Reference]]] = {}
    for image, group in zip(found, names, strict=True):
        merged.setdefault(image.manifest_digest, (image, []))[1].extend(group)
    return [Addition(image, tuple(group)) for image, group in merged.values()]


def _listed(names: Sequence[str], most: int = 3) -> str:
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def _as_report(preview: Preview) -> ImagePruneReport:
    from msb_cache.details import ImagePruneReport

    plan = preview.plan
    return ImagePruneReport(
        image_refs_removed=len(plan.references),
        manifests_removed=len(plan.manifests),
        layers_removed=len(plan.layers),
        fsmeta_removed=preview.count("fsmeta"),
        vmdk_removed=preview.count("vmdk"),
        bytes_reclaimed=preview.bytes,
        orphans_removed=preview.orphans,
    )
