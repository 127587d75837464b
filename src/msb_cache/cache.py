"""ImageCache: every use case of the cache in one synchronous class, and what each promises.

What each does stands in a module of its own, imported when it is asked for: a list of images is there before
the event types would be.
"""

from __future__ import annotations

import builtins
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, ParamSpec, TypeVar, Unpack

from msgspec.structs import replace

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import HomeNotFoundError, InvalidConfigError, MicrosandboxError
from msb_cache.models import MAX_AGE_NS, ImageHandle, Origin
from msb_cache.oci.reference import Reference
from msb_cache.projections import images
from msb_cache.queries import resolve
from msb_cache.session import Session

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from msb_cache.activity import Tell
    from msb_cache.audit.backup import BackupReport
    from msb_cache.audit.begin_anew import AnewReport
    from msb_cache.audit.checkpoints import Checkpoint, Signing
    from msb_cache.audit.data import DataRequest
    from msb_cache.audit.import_log import ImportReport
    from msb_cache.audit.layers import LayerComparison
    from msb_cache.audit.notary import Attested, SigningPlan
    from msb_cache.audit.prove import EventProof
    from msb_cache.audit.replay import Comparison, Log
    from msb_cache.audit.restore import RestoreReport
    from msb_cache.audit.schema import SchemaProblem
    from msb_cache.audit.verify import Verification
    from msb_cache.care.disk_usage import DiskUsage
    from msb_cache.care.doctor import Finding
    from msb_cache.care.gc import GcRun
    from msb_cache.care.metrics import CacheMetrics
    from msb_cache.care.repair import RepairReport
    from msb_cache.commands.hand_over import HandedOver
    from msb_cache.commands.prune import Prune
    from msb_cache.commands.restore import RestoredImage, RestoreResult
    from msb_cache.engines.arriving import MakesRoom
    from msb_cache.engines.choose import EngineChoice
    from msb_cache.engines.decision import Confirm, Preview, Report
    from msb_cache.engines.engine import Policy, Progress
    from msb_cache.eventstore.store import Actor, Clock, StoredEvent
    from msb_cache.eventstore.subtrees import SubtreeProblem
    from msb_cache.fleet.ship import Shipped
    from msb_cache.home.heads import Mismatch
    from msb_cache.home.ledger import Who
    from msb_cache.interchange.formats import ExportFormat
    from msb_cache.interchange.posting import Posted
    from msb_cache.interchange.receiver import WebhookReceiver
    from msb_cache.models import HeldImage, ImageDetail, ImagePruneReport, PulledImage
    from msb_cache.msb.sync import SyncReport
    from msb_cache.oci.registry.credentials import Credential
    from msb_cache.oci.registry.options import RegistryOptions
    from msb_cache.projections.history import HistoryEvent
    from msb_cache.projections.images import Damage, HandleRow
    from msb_cache.projections.live import Difference
    from msb_cache.projections.replay import State, Step
    from msb_cache.proof.signer import Signer
    from msb_cache.proof.vkey import VerifierKey
    from msb_cache.queries.as_of import AsOf, Changes, Hold, Use
    from msb_cache.queries.deletions import DeletionReport, DeletionSummary
    from msb_cache.queries.events import Filters, Reader
    from msb_cache.queries.info import HomeInfo
    from msb_cache.queries.last_used import IdleImage
    from msb_cache.queries.pins import Pin
    from msb_cache.queries.policy_file import PolicyMistake
    from msb_cache.queries.restore_plan import RestorePlan
    from msb_cache.queries.sql import SqlRow, SqlValue
    from msb_cache.queries.times import Moment
    from msb_cache.queries.why import Reasons
    from msb_cache.report.chronicle import Keeper
    from msb_cache.report.facts import CacheReport
    from msb_cache.retention.policy import CachePolicy, PrunePolicy
    from msb_cache.retention.rules import RuleVerdict
    from msb_cache.waiting import Note

_Found = TypeVar("_Found")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _saying(
    method: Callable[Concatenate[ImageCache, _P], _R],
) -> Callable[Concatenate[ImageCache, _P], _R]:
    """Have what a method does recorded with the ``reason`` and ``context`` that it is called with."""

    @wraps(method)
    def saying(cache: ImageCache, /, *args: _P.args, **keywords: _P.kwargs) -> _R:
        given: Mapping[str, Any] = keywords
        with cache._session.saying(given.get("reason"), given.get("context")):
            return method(cache, *args, **keywords)

    return saying


class ImageCache:
    """The image cache of one home.

    Use it as a context manager, from any number of threads. Each has a connection to the database of its own,
    which is closed when the thread ends. Threads that change the cache wait for each other as processes do.
    Functions that a caller gives, such as ``note``, are called in the thread that has something to say. What
    yields, such as ``follow``, may be made in one thread and read in another, by one at a time.

    Reading writes nothing: without a log there are simply no images. Every method that writes first finishes
    or undoes what a killed process left.

    A cache that is dropped with its database open closes it and gives a ``ResourceWarning``, as files do.

    A child that is forked between two calls may use it. One that is forked while a call runs gets a
    ``LogError``: SQLite would take its parent's locks for its own.

    Every method that changes something takes a ``reason``, why it is done, of at most 300 characters, and a
    ``context`` as the constructor's, which count for that one call: the log keeps them with what that did.

    In a home that msb keeps (``db/msb.db`` exists) every method that reads first records what msb did since
    the last time, if its database changed and the home can be written to.

    Args:
        home: the home; None: the environment's, that is ``MSB_HOME``, else ``~/.microsandbox``.
        actor: who is recorded in the log, or a function that says it when something is; None: this
            process's user and program, and what its environment claims (see docs/event-log.md).
        context: what the log keeps beside that, by name, such as a ticket or who is acted for: at most 16
            names, and 256 bytes of each value. Of a name that sounds like a secret's only the name is kept.
        clock: nanoseconds since the epoch, UTC.
        sync: record what msb did before reading; else only ``sync()`` does.
        note: gets a sentence when that cannot be done, and reading goes on with what the log has; also when a
            question is about a time of which the log knows nothing, when another process that writes or
            deletes has to be waited for, and when a home is made, who keeps it.
        progress: gets an ``Activity`` when something begins that can take long (recording what msb did for
            the first time, checking or folding the log, measuring what a prune deletes, reading an archive),
            as it goes on, and when it is over; in the thread that does it. A deletion is told of here unless
            it has a ``report`` of its own.
        engine: who shall keep a home that is not made yet: ``own``, msb-cache itself, or ``msb``. None: msb
            where ``home`` is None and an msb is found, else msb-cache itself. A home that is there has the
            engine that it has, and the other one is refused.

    Raises:
        HomeOwnedByMicrosandboxError: msb keeps this home, and the engine ``own`` was asked for.
        InvalidConfigError: msb-cache keeps it, and ``msb`` was asked for; or it is no engine's name; or the
            context, or ``MSB_CACHE_CONTEXT``, cannot be kept as it is.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        actor: Actor | Who | None = None,
        context: Mapping[str, str] | None = None,
        clock: Clock = time.time_ns,
        sync: bool = True,
        note: Note | None = None,
        progress: Tell | None = None,
        engine: EngineChoice | None = None,
    ) -> None:
        is_default = home is None
        if home is None:
            from msb_cache.msb.config import home_from_environment

            home = home_from_environment()
        if context is not None and actor is not None:
            raise InvalidConfigError("give a context or an actor, whose own `claimed` says it, and not both")
        if actor is None and (context or os.environ.get("MSB_CACHE_CONTEXT")):
            from msb_cache.home import identity

            actor = partial(identity.current_actor, context=identity.checked_context(context))
        self._layout = Layout(home)
        self._session = Session(
            self._layout,
            actor=actor,
            clock=clock,
            note=note,
            sync=sync,
            engine=engine,
            is_default=is_default,
            progress=progress,
        )
        self._session.check_engine()
        self._ledger = self._session.ledger
        self._origin = Origin(self._layout.home, type(self))
        self._chronicle: Keeper | None = None

    @property
    def home(self) -> Path:
        """The home's absolute path."""
        from pathlib import Path

        return Path(self._layout.home)

    @property
    def kept_by_msb(self) -> bool:
        """Whether msb keeps this home, so that it is msb that pulls, loads, removes and prunes."""
        return self._session.kept_by_msb

    def close(self) -> None:
        """Close the database, in every thread; whatever is called afterwards opens it anew.

        A call that runs in another thread goes on to its end. What it still opens is closed when that thread
        ends, or when this is called again.
        """
        self._chronicle = None
        self._session.close()

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Bound here, because the module may be gone when a cache outlives the interpreter's modules.
    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        session: Session | None = getattr(self, "_session", None)
        if session is None or not session.is_open:
            return
        try:
            # The source is what tracemalloc shows the origin of; the level, the line that dropped it.
            warn(f"unclosed image cache of {self._layout.home}", ResourceWarning, stacklevel=2, source=self)
        finally:
            session.close()

    def _handle(self, row: HandleRow) -> ImageHandle:
        from msb_cache.queries.images import handle  # a history has no handles

        return handle(row, self._origin)

    # -- reading ---------------------------------------------------------------------------------

    def list(
        self, *patterns: str, filter: Sequence[str] = (), as_of: AsOf | None = None
    ) -> builtins.list[ImageHandle]:
        """Return cached images by creation time, newest first.

        Args:
            patterns: only images that one of these means: a reference, with wildcards (``*``, ``?``) or
                without, or a digest; none: all.
            filter: only what these select, as for ``PrunePolicy``.
            as_of: the images at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError: nothing matches a pattern.
            InvalidReferenceError: one is no reference.
            InvalidConfigError: the moment is none, or in the future; or a filter is none.
        """
        from msb_cache.queries.images import handle

        with self._session.index(as_of) as connection:
            if filter and connection is not None:
                from msb_cache.queries.images import selected

                rows = selected(connection, filter)
            else:
                rows = [] if connection is None else [*images.handles(connection)]
            chosen = {name for text in patterns for name in resolve.in_index(connection, text)}
            return [handle(row, self._origin) for row in rows if not patterns or row.name in chosen]

    def damage(self, *, as_of: AsOf | None = None) -> builtins.list[Damage]:
        """Return which files of images are gone because another program deleted them, as the log knows.

        In a home of msb, its ``image rm`` takes layers away from images that it does not know; a pull or load
        of the image mends it. ``verify`` looks at the disk itself.

        Args:
            as_of: at this moment of the past; None: now. See ``AsOf``.
        """
        with self._session.index(as_of) as connection:
            found = [] if connection is None else images.damage(connection)
        return [replace(each, reference=resolve.as_typed(each.reference, each.spelling)) for each in found]

    def get(self, reference: str) -> ImageHandle:
        """Return an image.

        Args:
            reference: in canonical or familiar form; or a manifest's digest, or at least four digits of its
                beginning, if no image has that name.

        Raises:
            ImageNotFoundError: it is not in the cache.
            InvalidReferenceError: the text is no reference, or several digests begin with it.
        """
        with self._session.index() as connection:
            return self._handle(resolve.image(connection, reference))

    def inspect(self, reference: str, *, as_of: AsOf | None = None) -> ImageDetail:
        """Return an image's handle, configuration and layers (bottom to top).

        Args:
            reference: the image, as for ``get``.
            as_of: how it was at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
            InvalidConfigError: the moment is none, or in the future.
        """
        from msb_cache.queries.images import detail, flat

        with self._session.index(as_of) as connection:
            row = resolve.image(connection, reference)
            assert connection is not None  # noqa: S101
            root = flat(self._origin.root, row.manifest_digest) if as_of is None else None
            return detail(connection, row, self._origin, root)

    def holders(self, reference: str, *, as_of: AsOf | None = None) -> builtins.list[str]:
        """Return who holds the manifest that a reference points at, now or ``as_of`` a moment, by name."""
        with self._session.index(as_of) as connection:
            row = resolve.image(connection, reference)
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
        from msb_cache.queries.as_of import holds

        with self._session.index(as_of) as connection:
            digest = None if reference is None else resolve.manifest(connection, reference)
            return [] if connection is None else holds(connection, digest)

    def pins(self, reference: str | None = None, *, as_of: AsOf | None = None) -> builtins.list[Pin]:
        """Return what is pinned, by whom, why and until when, by reference.

        Args:
            reference: only the pins that keep this image, by its reference or its digest; None: all.
            as_of: at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError, InvalidReferenceError, InvalidConfigError: as for ``inspect``.
        """
        with self._session.index(as_of) as connection, self._ledger.statement() as live:
            row = None if reference is None else resolve.image(connection, reference)
            if connection is None or live is None:
                return []
            rows = images.pins(connection)
            if row is not None:
                rows = [each for each in rows if each.subject in (row.reference, row.manifest_digest)]
            if not rows:
                return []  # as a rule: then no event is read
            from msb_cache.queries.pins import pin

            store, enforced = self._ledger.store(live), not self.kept_by_msb
            return [pin(connection, each, store.at(each.seq), enforced=enforced) for each in rows]

    def knows(self, as_of: AsOf) -> bool:
        """Return whether the log knows what was here at a moment; if not, lists as of then are empty.

        It does not before it begins, and in a home that msb keeps, before it first saw msb's index.

        Raises:
            InvalidConfigError: the moment is none, or in the future.
        """
        self._session.observe()
        return self._session.knows(as_of)

    def uses(self, reference: str | None = None, *, as_of: AsOf | None = None) -> builtins.list[Use]:
        """Return the boots of msb's sandboxes that last, the longest first.

        Args:
            reference: only those that concern this: a reference, one with wildcards, or a manifest's digest
                or its beginning, as for ``history``; None: all.
            as_of: at this moment of the past; None: now. See ``AsOf``.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``history``.
            InvalidConfigError: the moment is none, or in the future.
        """
        from msb_cache.queries.as_of import uses

        with self._session.index() as connection:
            meant = (None, None) if reference is None else resolve.in_log(connection, reference)
        with self._session.index(as_of) as connection:
            return [] if connection is None else uses(connection, *meant)

    def diff(self, before: AsOf, after: AsOf | None = None) -> Changes:
        """Return what differs between two moments: images, holds and pins, and the change in bytes.

        Args:
            before: a moment of the past; see ``AsOf``.
            after: another, also an earlier one; None: now.

        Raises:
            InvalidConfigError: a moment is none, or in the future.
        """
        from msb_cache.queries.as_of import changes

        self._session.observe()
        return changes(self._session.contents(before), self._session.contents(after))

    def compare_layers(
        self,
        other: str | os.PathLike[str],
        *,
        log: str | os.PathLike[str] | None = None,
        note: Note | None = None,
    ) -> LayerComparison:
        """Return the layers whose bytes are others than in another log, as of another host.

        Args:
            other: the other log: what ``export`` or ``backup`` wrote, or a database; only read.
            log: the log to compare with it; None: this home's.
            note: gets a sentence if a log does not verify.

        Raises:
            LogError: a log is not there, or cannot be read.
        """
        from msb_cache.audit.layers import compare

        with self._log(log, note) as here, self._log(other, note) as there:
            return compare(here.state(), there.state())

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
        from msb_cache.projections.history import Scope
        from msb_cache.queries.events import Query, pages

        query = Query(filters, self._ledger.clock())
        with self._session.index() as connection:
            scope = Scope(*resolve.in_log(connection, reference))
        read = query.history_of(lambda _: scope)
        return self._kept_open(pages(self._ledger, query, read))

    def events(self, **filters: Unpack[Filters]) -> builtins.list[StoredEvent]:
        """Return the log's events that fit every given condition, in position order; see ``Filters``.

        Raises:
            ImageNotFoundError, InvalidReferenceError, InvalidConfigError, OperationNotFoundError: as for
                ``history``.
        """
        return [*self.iter_events(**filters)]

    def iter_events(self, **filters: Unpack[Filters]) -> Iterator[StoredEvent]:
        """Yield what ``events`` returns, read in pages; the log may be written to meanwhile."""
        from msb_cache.queries.events import Query, pages

        query = Query(filters, self._ledger.clock())
        self._session.observe()
        return self._kept_open(pages(self._ledger, query, query.events))

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
        from msb_cache.projections.history import Scope
        from msb_cache.queries.events import Query, follow
        from msb_cache.queries.follow import looks

        if filters.get("until") is not None or filters.get("reverse"):
            raise InvalidConfigError(
                "what is followed has no end and comes oldest first; leave `until` and `reverse` out"
            )
        query = Query(filters, self._ledger.clock())
        with self._session.index() as connection:
            if reference is not None:
                resolve.in_log(connection, reference)
        turns = looks(self._session.recorded, stopped=stopped, note=self._session.note, interval=interval)
        read: Reader[StoredEvent] = query.events
        if reference is not None:
            name = reference
            read = query.history_of(lambda connection: Scope(*resolve.in_log(connection, name)))
        return self._kept_open(follow(self._ledger, query, read, turns))

    def post_events(
        self,
        receiver: WebhookReceiver | str,
        *,
        position: str | os.PathLike[str] | None = None,
        batch: int | None = None,
        follow: bool = False,
        with_config: bool = False,
        people: bool = True,
        stopped: Callable[[], bool] = lambda: False,
        interval: float = 0.5,
        **filters: Unpack[Filters],
    ) -> Posted:
        """Deliver events as CloudEvents by HTTP POST, in the order of the log, each at least once.

        An event goes out when the one before it was taken. What is not taken is sent again until it is, after
        waits that grow to five minutes, or as long as the receiver asks for; ``note`` of the cache hears of
        it once until that changes. An event that is sent again has the same id. See docs/webhooks.md.

        Args:
            receiver: who gets them; text: its URL.
            position: a file that says how far they were delivered. It is read first, written after events
                were taken, and held by one process at a time; None: one for this home and URL, in
                ``XDG_STATE_HOME``. Where there is none yet, it begins with what the filters let in; with
                ``follow`` and neither ``since`` nor ``after``, with what comes from now on.
            batch: send up to so many events (1 to 1000, and 1 MiB) in one request; None: each in its own.
            follow: stay for what comes, until ``stopped`` says so.
            with_config: tell the values of environments and labels, which may hold tokens.
            people: tell users, machines and reasons.
            stopped: asked ten times a second whether to end; what is being sent then is broken off.
            interval: seconds between two looks.
            filters: as for ``events``, without ``reverse``, and with ``follow`` without ``until``; of
                ``limit``, the first that come.

        Raises:
            DeliveryError: the receiver refuses an event or wants no more, or the position is of another log.
            BusyError: another process delivers from this position.
            InvalidConfigError: an argument makes no sense, or the position cannot be read.
        """
        from msb_cache.interchange.posting import post
        from msb_cache.interchange.privacy import Privacy

        return post(
            self._session,
            filters,
            receiver,
            position=position,
            batch=batch,
            follow=follow,
            privacy=Privacy(config=with_config, people=people),
            stopped=stopped,
            interval=interval,
        )

    def ship(
        self,
        to: str | None = None,
        *,
        follow: bool = False,
        stopped: Callable[[], bool] = lambda: False,
        interval: float = 0.5,
    ) -> Shipped:
        """Send a fleet's server what it does not have yet of this home's log, each event once.

        The server says how far the log is there, so any number of processes may do this, be killed and do it
        again. Signed checkpoints that the home keeps go along, the newest of each name. See docs/fleet.md.

        Args:
            to: the server's DSN, as libpq takes it; None: what ``MSB_CACHE_FLEET`` says.
            follow: stay for what comes, until ``stopped`` says so. What is in the way then is said to
                ``note`` of the cache, once until that changes, and is tried again after waits that grow to
                five minutes.
            stopped: asked ten times a second whether to end; what is being sent then is broken off.
            interval: seconds between two looks.

        Raises:
            FleetError: the server cannot be asked, or refuses the log: ``verdict`` has its word. A
                connection that is lost in the middle is made again a few times first.
            CorruptLogError: the log is damaged.
            InvalidConfigError: there is no DSN, or it cannot be read.
            UnsupportedError: the extra ``fleet`` is not installed.
        """
        from msb_cache.extras import require

        require("fleet", "a fleet", "psycopg")
        from msb_cache.fleet.ship import ship

        return ship(self._session, to, follow=follow, stopped=stopped, interval=interval)

    def sql(
        self,
        query: str,
        parameters: Sequence[SqlValue] | Mapping[str, SqlValue] = (),
        *,
        timeout: float | timedelta = 10.0,
    ) -> builtins.list[SqlRow]:
        """Return the rows with which the database answers SQL, each a dict by column, all of one position.

        The views ``v_images``, ``v_events``, ``v_prunes``, ``v_holders`` and ``v_layers`` are made for that;
        docs/event-log.md describes their columns and those of the tables. A home without a log has them all,
        empty. Nothing can be written, and SQLite's own time and memory are bounded.

        Args:
            query: one statement that reads, in SQLite's SQL.
            parameters: values for ``?`` in their order, or for ``:name`` by name.
            timeout: how long SQLite may work on it, in seconds.

        Raises:
            InvalidQueryError: it is no such statement, or SQLite cannot carry it out.
            QueryLimitError: it took longer than ``timeout``, or more than 1 GiB of memory.
        """
        return [*self.iter_sql(query, parameters, timeout=timeout)]

    def iter_sql(
        self,
        query: str,
        parameters: Sequence[SqlValue] | Mapping[str, SqlValue] = (),
        *,
        timeout: float | timedelta = 10.0,
    ) -> Iterator[SqlRow]:
        """Yield what ``sql`` returns, row by row; what is done with a row does not count as time."""
        from msb_cache.queries.sql import rows

        seconds = timeout if isinstance(timeout, float | int) else timeout.total_seconds()
        self._session.observe()
        clock, note = self._ledger.clock, self._session.note
        return rows(self._layout, query, parameters, seconds=seconds, clock=clock, note=note)

    def prunes(self, *, limit: int | None = None) -> builtins.list[DeletionSummary]:
        """Return past removals and prunes, newest first: who, by which policy, and the counters.

        Args:
            limit: at most this many; None: all.

        Raises:
            InvalidConfigError: the limit is no number from 0 to 2^63-1.
        """
        from msb_cache.queries.deletions import summaries
        from msb_cache.queries.events import checked_number

        most = None if limit is None else checked_number(limit, "limit")
        with self._session.log() as log:
            return [] if log is None else summaries(*log, limit=most)

    def prune_report(self, operation: str) -> DeletionReport:
        """Return what one deletion decided, deleted and kept, and who ran it.

        Args:
            operation: its id, or a prefix of at least four characters that no other shares.

        Raises:
            OperationNotFoundError: no deletion has that id, or several begin with it.
        """
        from msb_cache.queries.events import deletion_in_log

        with self._session.log() as log:
            return deletion_in_log(log, operation)

    def why(self, target: str, *, policy: PrunePolicy | CachePolicy | None = None) -> Reasons:
        """Explain why an image, manifest or layer is here, or gone.

        Args:
            target: a reference; or a digest of a manifest or layer (diff ID or blob), or its beginning.
            policy: also say what a prune by these rules would do to it now, and when.

        Raises:
            ImageNotFoundError: no event is about it; names like it are offered.
            InvalidReferenceError: it is neither, or several digests begin so.
            InvalidConfigError: the policy makes no sense.
        """
        from msb_cache.queries.why import never_seen, why

        rules, files = None, None
        if policy is not None:
            from msb_cache.artifacts.measured import MeasuredFiles
            from msb_cache.queries.policy import rules_of

            rules, files = rules_of(policy, self._ledger.clock()), MeasuredFiles(self._layout)
        with self._session.log() as log:
            if log is None:
                raise never_seen(target)
            index = partial(
                self._session.engine().index_to_judge,
                facts=rules is not None,
                labels=any(each.needs_labels for each in rules or ()),
            )
            recorded = None if policy is None else policy.recorded()
            return why(*log, target, index, rules, files, recorded)

    def policy(self, path: str | os.PathLike[str] | None = None) -> CachePolicy | None:
        """Return what the policy file says by which this cache is kept small; None: there is none.

        Args:
            path: the file; None: ``cache-policy.toml`` in the home, else ``msb-cache/policy.toml`` in the
                user's configuration (``XDG_CONFIG_HOME``, else ``~/.config``).

        Raises:
            InvalidConfigError: it cannot be read or has a mistake; says in which line, and what is right.
        """
        from msb_cache.queries import policy_file

        found = policy_file.find(self._layout) if path is None else os.path.abspath(os.fsdecode(path))
        return None if found is None else policy_file.read(found)

    def check_policy(
        self, path: str | os.PathLike[str] | None = None
    ) -> tuple[str, builtins.list[PolicyMistake]]:
        """Return the path of the policy file, and every mistake in it; ``path`` as for ``policy``.

        Raises:
            InvalidConfigError: there is none, or it cannot be read.
        """
        from msb_cache.queries import policy_file

        checked = policy_file.required(self._layout) if path is None else os.path.abspath(os.fsdecode(path))
        return checked, policy_file.parse(policy_file.text_of(checked), checked)[1]

    def begin_policy(self, *, user: bool = False) -> Path:
        """Write a policy file to begin with, and return its path.

        Args:
            user: in the user's configuration, for all homes that have none of their own; else in the home.

        Raises:
            InvalidConfigError: there is one already.
        """
        from msb_cache.commands.policy import begin

        return begin(self._layout, user=user)

    def test_policy(self, reference: str, policy: CachePolicy | None = None) -> builtins.list[RuleVerdict]:
        """Return what each rule of a policy makes of an image now, in order, until one takes it.

        Args:
            reference: the image, as for ``get``, or a manifest that no reference points at.
            policy: None: that of ``policy()``.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
            InvalidConfigError: there is no policy, or it has a mistake.
        """
        from msb_cache.commands.policy import verdicts
        from msb_cache.queries import policy_file

        found = policy or policy_file.read(policy_file.required(self._layout))
        return verdicts(self._session, found, reference)

    def last_used(self, *, at_least: str | timedelta | None = None) -> builtins.list[IdleImage]:
        """Return images by how long they were not used, longest first, with the events that say so.

        Where the clock is known to have jumped ahead since the machine was started, that time does not count.

        Args:
            at_least: only those idle for as long or longer: text such as ``30 days``, or a ``timedelta``;
                None: all.

        Raises:
            InvalidConfigError: the text is no duration.
        """
        from msb_cache.queries.last_used import idle

        at_least_ns = 0
        if at_least is not None:
            from msb_cache.queries.times import duration_ns  # with dateutil

            at_least_ns = duration_ns(at_least, self._ledger.clock())

        with self._session.log() as log:
            if log is None:
                return []
            return idle(*log, self._session.corrected_time(log[0]), at_least_ns)

    def restore_plan(self, operation: str) -> RestorePlan:
        """Return which commands would bring back what one deletion deleted, and what cannot be had again.

        Args, Raises: as for ``prune_report``.
        """
        from msb_cache.queries.events import deletion_in_log
        from msb_cache.queries.restore_plan import restore_plan

        with self._session.log() as log:
            report = deletion_in_log(log, operation)
            assert log is not None  # noqa: S101
            return restore_plan(*log, report, kept_by_msb=self.kept_by_msb, home=self._session.home_named)

    def idle(self, *, at_least_ns: int = 0) -> builtins.list[IdleImage]:
        """Return what ``last_used`` does; its older name."""
        _older("idle", "last_used")
        return self.last_used(at_least=_of_ns(at_least_ns))

    def deletions(self, *, limit: int | None = None) -> builtins.list[DeletionSummary]:
        """Return what ``prunes`` does; its older name."""
        _older("deletions", "prunes")
        return self.prunes(limit=limit)

    def deletion(self, operation: str) -> DeletionReport:
        """Return what ``prune_report`` does; its older name."""
        _older("deletion", "prune_report")
        return self.prune_report(operation)

    def verify(
        self,
        against: str | bytes | None = None,
        *,
        keys: Sequence[str | VerifierKey] = (),
        policy: bytes | None = None,
        data: DataRequest | None = None,
    ) -> Verification:
        """Check the hash chain, and all that is made of the log: schema, projections, their copies, the disk.

        Args:
            against: the text of a checkpoint made before, by this release or an older one, or of a file to
                which several were appended; the log must extend each. None, with keys or a policy: the newest
                signed one that the home keeps.
            keys: verifier keys (``name+hash+key``): of logs that are believed, and of witnesses that must all
                have cosigned it. Without keys and policy nobody's signature is looked at.
            policy: what a policy file (C2SP's tlog-policy) has; with ``keys`` both must hold.
            data: read files as well, and compare their bytes with the digests that the log has. Files of
                which it has none get one, as first seen; else this writes nothing. None: read none.

        Raises:
            HomeNotFoundError: there is no such home.
            LogError: ``against`` is no checkpoint.
            InvalidConfigError: ``data`` asks for a part that is none; a key or the policy is none, or no key
                of a log is given.
            UnsupportedError: what checks signatures is not installed: the extra ``proof``.
        """
        from msb_cache.audit.noted import wanted
        from msb_cache.audit.verify import verify
        from msb_cache.home.connect import is_missing

        if is_missing(self._layout.home):  # an empty log of nothing would be found to be sound
            raise HomeNotFoundError(
                f"the home {self._layout.home} does not exist, so nothing can be verified"
            )
        asked = wanted(against, keys, policy)
        self._ledger.tells_of_head = False  # what is found says it
        if data is not None:
            with suppress(
                MicrosandboxError, OSError
            ):  # what a killed process left is its files, not altered ones
                self._session.begin_writing()
        self._session.observe()
        return verify(self._ledger, self._session.engine(), asked, self._session.observe, data)

    def checkpoint(self, *, origin: str | None = None, sign: Signing | Signer | None = None) -> Checkpoint:
        """Return what fixes the log as it is now; its ``note`` is text to keep elsewhere, for ``verify``.

        Args:
            origin: the log's name in it; None: the name of the key, else one that is made of the log's id.
            sign: sign it. The events since the last checkpoint that this key signed are checked before, and
                the root is recomputed from them. The home keeps what is signed. Its witnesses are asked to
                cosign it; ``problem`` says if not all that are needed did. None: it is taken from the hashes
                that are kept of the log, as they are.

        Raises:
            CorruptLogError: it is to be signed, and does not verify or is not what the key signed before.
            LogError: there is none, or it has fewer events than were signed; the home cannot be written to.
            InvalidConfigError: the key is no log's, or ``origin`` is another name than its.
        """
        from msb_cache.audit import checkpoints

        self._session.observe()
        if sign is None:
            return checkpoints.take(self._session, origin)
        signing = sign if isinstance(sign, checkpoints.Signing) else checkpoints.Signing(sign)
        checkpoints.check_key(signing.signer.key, origin)
        return checkpoints.attest(self._session, signing)

    def attest(self, plan: SigningPlan) -> Attested | None:
        """Do once what ``keep_small`` and ``watch`` do with a plan: sign what is new, and deliver that.

        The last checkpoint is delivered also if nothing is new: the home does not know whether it was.

        Args:
            plan: who signs, and where it goes; its ``every`` does not count.

        Returns:
            What it has come to, with what was in the way; None: there is no log yet.

        Raises:
            InvalidConfigError: the plan makes no sense, or its key cannot be used.
        """
        from msb_cache.audit.notary import Notary, once

        notary = Notary(self._session, once(plan))
        notary.check()
        self._session.observe()
        return notary.turn()

    def checkpoints(
        self, *, origin: str | None = None, limit: int | None = None
    ) -> builtins.list[Checkpoint]:
        """Return the signed checkpoints that the home keeps, the largest first.

        Args:
            origin: only those of this name; None: all.
            limit: at most so many.

        Raises:
            InvalidProofError: one is damaged.
        """
        from msb_cache.audit.checkpoints import signed

        return signed(self._session, origin)[:limit]

    def signed_checkpoint(self, size: int | None = None, *, origin: str | None = None) -> Checkpoint:
        """Return a signed checkpoint that the home keeps.

        Args:
            size: of so many events; None: the largest.
            origin: of this name; None: of any.

        Raises:
            InvalidProofError: it is damaged.
            LogError: there is none.
        """
        from msb_cache.audit.checkpoints import signed_one

        return signed_one(self._session, size, origin)

    def forget_checkpoint(self, size: int, *, origin: str | None = None) -> int:
        """Forget a signed checkpoint that the home keeps, such as one that somebody else put there.

        What its key has signed by it is then known only to those who have the note, and to witnesses.

        Args:
            size: of so many events.
            origin: of this name; None: of any.

        Returns:
            How many there were, damaged ones, too.

        Raises:
            LogError: there is none, or the home cannot be written to.
        """
        from msb_cache.audit.checkpoints import forget

        return forget(self._session, size, origin)

    def prove(
        self,
        what: str | int,
        *,
        policy: bytes | None = None,
        size: int | None = None,
        origin: str | None = None,
        type: str | None = None,
    ) -> EventProof:
        """Return the proof that an event is in the log that was signed: a text that anybody can check.

        ``msb_cache.check_proof`` checks it with nothing but the log's key. The first signed checkpoint that
        has the event is taken; the log's own tree is compared with it first.

        Args:
            what: a position (``12``, ``@12``), the id of an event, or a reference, digest or operation. Of a
                reference the newest event that says what became of the image, else the newest of all.
            policy: only of a checkpoint that is signed and cosigned as this policy file (C2SP's tlog-policy)
                asks; the whole of it.
            size: only of the checkpoint of so many events.
            origin: only of a checkpoint of the log under this name.
            type: the newest event of this type in the history of what is named, such as ``manifest.deleted``.

        Raises:
            ImageNotFoundError, OperationNotFoundError, InvalidReferenceError: the text names nothing that was
                ever in the log.
            InvalidConfigError: the log has no such position, there is no such type, or the policy is none.
            LogError: there is no log, no such event, or no checkpoint that has it and is signed so.
            CorruptLogError: the log is not the one that was signed.
        """
        from msb_cache.audit.prove import prove

        asked = None
        if policy is not None:
            from msb_cache.proof.policy import trusted  # by default any checkpoint will do

            asked = trusted((), policy)
        self._session.observe()
        return prove(self._ledger, what, policy=asked, size=size, origin=origin, type=type)

    def export(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        since_seq: int = 0,
        format: ExportFormat = "jsonl",
        with_config: bool = False,
        people: bool = True,
    ) -> int:
        """Write the log (docs/event-log.md), and return the number of events.

        As JSON Lines it is evidence: all of it, byte for byte as it is stored. The other formats are for
        other programs (docs/interchange.md), and leave the values of environments and labels out.

        Args:
            target: a file, replaced only when the export is whole, or an open binary stream.
            since_seq: only events behind this position.
            format: ``jsonl``, ``cloudevents``, ``cloudevents-batch``, ``csv`` or ``parquet``.
            with_config: tell those values as well, in which tokens may stand.
            people: tell users, machines, folders and reasons; else of an actor only the program.

        Raises:
            InvalidConfigError: there is no such format, or JSON Lines shall leave something out.
            LogError: there is no log, or it ends before that position.
            UnknownEventError: an event is none that this release knows, so no other format can have it.
            UnsupportedError: what the format needs is not installed: DuckDB, for ``parquet``.
        """
        from msb_cache.audit import export

        if format == "jsonl":
            if with_config or not people:
                raise InvalidConfigError(
                    "JSON Lines are the log as it is stored, so nothing is left out; choose another format"
                )
            self._session.observe()
            return export.export_log(self._ledger, target, since_seq=since_seq)
        from msb_cache.interchange.formats import writer
        from msb_cache.interchange.privacy import Privacy

        self._session.observe()
        privacy = Privacy(config=with_config, people=people)
        write = writer(format, lambda: export.log_id(self._ledger), privacy)
        return export.export_events(self._ledger, target, write, since_seq=since_seq)

    def import_log(self, source: BinaryIO) -> ImportReport:
        """Take in a whole export, ids, times and hashes included, where there is no log yet; or nothing.

        Files of images are no part of it: ``list`` shows what the log says, ``verify`` what is missing.

        Raises:
            LogError: this home has a log.
            CorruptLogError, UnknownEventError: the export is damaged, changed, or not from msb-cache.
            HomeOwnedByMicrosandboxError: msb owns the home.
        """
        from msb_cache.audit.import_log import import_log

        with self._session.making_own_home():
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

        from msb_cache.audit.log_files import read_state

        wanted = read_state(Path(state))
        with self._log(log, note) as found:
            return found.compare(wanted)

    def info(self) -> HomeInfo:
        """Return which engine changes this cache and why, and how much there is."""
        from msb_cache.queries.info import info

        self._session.observe()
        choice = self._session.choice()
        is_new = choice.is_open(self._ledger)
        return info(self._ledger, self._session.engine(), is_new=is_new, wants_msb=choice.wants_msb)

    def disk_usage(self) -> DiskUsage:
        """Return what the home takes of the disk, by image and by kind of file, and what would come free.

        Sizes are measured, and those of the cache add up to what ``du`` says of it. Appends nothing. What
        cannot be read is left out, and is in the result's ``notes``.

        Raises:
            CorruptLogError: the index is damaged.
        """
        from msb_cache.care.disk_usage import disk_usage

        return disk_usage(self._session)

    def report(
        self,
        *,
        since: AsOf = "30 days",
        as_of: AsOf | None = None,
        with_config: bool = False,
        people: bool = True,
    ) -> CacheReport:
        """Return what the home looks like and how it came to that, as values for pictures.

        Of now, sizes are measured; of the past they are the log's, and the disk is left alone. What is read
        of the log is kept until ``close``, so that the next report of this cache, of whatever moment, reads
        only what came since. Appends nothing but what msb did. A home without a log has an empty report.

        Args:
            since: where the time shown begins: a time, a ``timedelta`` or text such as ``7 days`` before the
                moment that is told of, or a position as ``@5``.
            as_of: that moment; None: now. See ``AsOf``.
            with_config: tell the values of labels as well, in which tokens may stand.
            people: tell users, machines and the reasons that people gave; else only programs.

        Raises:
            InvalidConfigError: a moment is none, or in the future; or ``since`` is later than ``as_of``.
            CorruptLogError: the log or the index is damaged.
        """
        from msb_cache.interchange.privacy import Privacy
        from msb_cache.report.chronicle import Keeper
        from msb_cache.report.make import Asked, report

        if self._chronicle is None:
            self._chronicle = Keeper()
        asked = Asked(since, as_of, Privacy(config=with_config, people=people))
        return report(self._session, self._chronicle, asked)

    def doctor(self) -> builtins.list[Finding]:
        """Return everything that is wrong with the home, each with what it means and what mends it.

        That is all that ``verify`` finds, and what lies about: operations that were cut short, parts of
        downloads, locks, files that are another user's; of a home that msb keeps also an unknown schema, and
        that no ``watch`` runs; and a log on a nearly full disk. Appends nothing but what msb did.
        """
        from msb_cache.care.doctor import diagnose

        return diagnose(self._session)

    def metrics(self) -> CacheMetrics:
        """Return what this cache is like now, in numbers for a monitoring system.

        Sizes are those that files had when they came: none is looked at, so that this may be asked every
        minute. ``disk_usage`` measures.

        Raises:
            LogError: the log cannot be read.
        """
        from msb_cache.care.metrics import metrics

        return metrics(self._session)

    def sync(self, *, force: bool = False) -> SyncReport:
        """Record what msb did in this home since the last time; in a home of our own, nothing.

        Args:
            force: compare even if msb's database looks unchanged.

        Raises:
            MsbDatabaseError: msb's database cannot be read.
            LogError, BusyError: the log cannot be written.
        """
        from msb_cache.msb.sync import sync

        return sync(self._ledger, force=force)

    def watch(
        self,
        *,
        stopped: Callable[[], bool] = lambda: False,
        interval: float = 0.5,
        sign: SigningPlan | None = None,
        ship: str | None = None,
    ) -> Iterator[StoredEvent]:
        """Stay, and yield each event that enters the log; what msb does here is recorded as it happens.

        Args:
            stopped: asked after each look whether to end, such as ``threading.Event().is_set``.
            interval: seconds between two looks.
            sign: sign the log by itself meanwhile, each time that is due; in another thread, so that nothing
                is recorded later because a witness is slow.

        Raises:
            InvalidConfigError: the plan makes no sense, or its key cannot be used.
        """
        from msb_cache.queries.follow import watch

        events = watch(self._ledger, stopped=stopped, note=self._session.note, interval=interval)
        if sign is not None:
            from msb_cache.audit.notary import Notary

            notary = Notary(self._session, sign)
            notary.check()
            events = notary.iterated(events)
        if ship is not None:
            from msb_cache.extras import require

            require("fleet", "a fleet", "psycopg")
            from msb_cache.fleet.ship import Shipper

            events = Shipper(self._session, ship).iterated(events, interval)
        return self._kept_open(events)

    # -- writing ---------------------------------------------------------------------------------

    @_saying
    def load(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        tag: str | Sequence[str] | None = None,
        digest: str | None = None,
        platform: str | None = None,
        max_age: str | timedelta | None = None,
        max_age_ns: int | None = None,
        make_room: bool = False,
        note: Note | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> builtins.list[ImageHandle]:
        """Add the images of a docker-save or OCI archive: all of them, or none.

        Args:
            source: a tar file, an OCI layout directory, or an open binary stream.
            tag: one more reference for the first image, or several.
            digest: add only the image with this manifest, under ``tag`` and nothing else, or, without one,
                under its own names; None: all images. Not in a home that msb keeps.
            platform: such as ``linux/arm64``, to choose from an index; None: the host's linux platform.
            max_age: a layer that is here already is read, and compared with the digest that the log has of
                it, if that was last done longer ago than this: text such as ``12h``, or a ``timedelta``;
                None: 30 days. One that differs is made anew.
            max_age_ns: the same in ns; an older name.
            make_room: first delete by the policy (see ``policy``) what the images need room for.
            note: gets sentences about what is unusual.
            reason, context: as the class says.

        Returns:
            A handle for each reference: those of ``tag``, then the others in the archive's order.

        Raises:
            InvalidImageError: the archive is damaged, lies about a digest, or is no archive.
            InvalidReferenceError: ``tag``, or a name in the archive, is no reference.
            InvalidConfigError: ``digest`` is none, or msb keeps the home, which loads all of an archive.
            BoundNotKeptError: with ``make_room``: what the policy lets go is too little, or it would let too
                much go; nothing was added.
            InvalidConfigError: with ``make_room``: there is no policy, or it has a mistake; or msb keeps the
                home, and the source is a stream.
        """
        from msb_cache.commands.acquire import load

        tags = () if tag is None else (tag,) if isinstance(tag, str) else tag
        rows = load(
            self._session,
            source,
            tags=tags,
            digest=digest,
            platform=platform,
            max_age_ns=_age_ns(max_age, max_age_ns, self._ledger.clock),
            note=note,
            room=self._room(note) if make_room else None,
        )
        return [self._handle(row) for row in rows]

    @_saying
    def pull(
        self,
        reference: str,
        *,
        digest: str | None = None,
        platform: str | None = None,
        policy: Policy = "missing",
        force: bool = False,
        credential: Credential | None = None,
        options: RegistryOptions | None = None,
        jobs: int = 3,
        max_age: str | timedelta | None = None,
        max_age_ns: int | None = None,
        make_room: bool = False,
        progress: Progress | None = None,
        note: Note | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> PulledImage:
        """Pull an image from its registry; a failure is recorded as well.

        Args:
            reference: by tag, digest or both; short names mean Docker Hub.
            digest: pull this image manifest, whatever the reference means at the registry by now; the
                reference points at it then. Not in a home that msb keeps. None: what the reference means.
            platform: such as ``linux/arm64``; None: the host's linux platform.
            policy: ``missing`` takes a cached image as it is, ``always`` asks the registry what the
                reference means now and reuses layers, ``never`` does not ask the registry.
            force: fetch and make everything anew, whatever is cached.
            credential: the login; None: what Docker's configuration and credential helpers say.
            options: how to reach the registry.
            jobs: how many layers to fetch at the same time.
            max_age, max_age_ns: as for ``load``.
            make_room: first delete by the policy (see ``policy``) what the image needs room for.
            progress: gets typed progress events, from the threads that fetch.
            note: gets sentences about what is unusual.
            reason, context: as the class says.

        Returns:
            The image's handle, with the event that was recorded.

        Raises:
            ImagePullFailedError: the registry cannot or will not give it.
            ImageNotFoundError: it is not cached, and the policy is ``never``.
            InvalidImageError: what the registry gives is not what it says.
            InvalidConfigError: an argument makes no sense, or asks of msb what it cannot do.
            BoundNotKeptError, InvalidConfigError: with ``make_room``, as for ``load``. In a home of msb the
                image may be there all the same, and take more than was expected; then the error says so.
        """
        from msb_cache.commands.acquire import checked_digest, parse_platform, pull
        from msb_cache.engines.engine import PullRequest
        from msb_cache.oci.registry.options import RegistryOptions
        from msb_cache.queries.images import pulled_image

        request = PullRequest(
            reference=Reference.parse(reference),
            digest=None if digest is None else checked_digest(digest),
            began_ns=time.monotonic_ns(),
            platform=None if platform is None else parse_platform(platform),
            policy=policy,
            force=force,
            credential=credential,
            options=options or RegistryOptions(),
            jobs=jobs,
            max_age_ns=_age_ns(max_age, max_age_ns, self._ledger.clock),
            progress=progress,
            note=note,
            room=self._room(note) if make_room else None,
        )
        pulled = pull(self._session, request)
        return pulled_image(pulled.row, self._origin, pulled.recorded)

    def _room(self, note: Note | None) -> MakesRoom:
        from msb_cache.care.make_room import RoomMaker
        from msb_cache.queries import policy_file

        policy = policy_file.read(policy_file.required(self._layout))
        return RoomMaker(self._session, policy, note)

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
        from msb_cache.commands.save import choose, save

        if format not in ("docker", "oci"):
            raise InvalidConfigError(f"{format!r} is no archive format; use docker or oci")
        wanted = [references] if isinstance(references, str) else [*references]
        with self._session.index() as connection:
            rows = [resolve.image(connection, reference) for reference in wanted]
            chosen = [] if connection is None else choose(connection, rows)
        save(self._layout, chosen, target, format=format)

    @_saying
    def use(
        self,
        reference: str,
        *,
        holder: str | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> ImageHandle:
        """Record that an image was used, now; it is not held by that.

        Args:
            reference: the image.
            holder: the sandbox or snapshot that used it, such as ``sandbox:dev``.
            reason, context: as the class says.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
        """
        from msb_cache.commands.holds import use

        return self._handle(use(self._session, reference, holder))

    @_saying
    def hold(
        self,
        reference: str,
        holder: str,
        *,
        until: Moment | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> HeldImage:
        """Keep the manifest a reference points at now until the holder releases it. Idempotent.

        In a home that msb keeps, msb's own prune and remove do not know the hold: the result is not
        ``enforced``, unless msb has that sandbox or snapshot itself.

        Args:
            reference: the image.
            holder: ``sandbox:<name>`` or ``snapshot:<name or path>``.
            until: when the hold ends by itself: text such as ``friday`` or ``2 weeks``, or an aware
                ``datetime``; None: it does not. It replaces an end that was given before.
            reason, context: as the class says.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
            InvalidConfigError: ``until`` is no time to come, or msb itself has that holder.
        """
        from msb_cache.commands.holds import hold
        from msb_cache.queries.images import held_image

        row, until_ns, enforced = hold(self._session, reference, holder, until)
        return held_image(row, self._origin, holder, until_ns=until_ns, enforced=enforced)

    @_saying
    def release(
        self,
        holder: str,
        *,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> builtins.list[str]:
        """End every hold of a holder.

        Args:
            reason, context: as the class says.

        Returns:
            The digests of the manifests it held; none is no error.
        """
        from msb_cache.commands.holds import release

        return release(self._session, holder)

    @_saying
    def pin(
        self,
        reference: str,
        *,
        until: Moment | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Pin:
        """Keep an image from every prune, and from ``remove`` without force, until ``unpin`` or ``until``.

        A reference is kept wherever it points, and need not be in the cache yet; a digest keeps that manifest
        and what points at it. The pin survives the image. One that is there already gets the new end and
        reason.

        In a home that msb keeps, msb's own prune and remove do not know pins: the result is not ``enforced``.

        Args:
            reference: a reference; or a manifest's digest, or at least four digits of its beginning.
            until: as for ``hold``.
            reason, context: as the class says.

        Raises:
            ImageNotFoundError: no manifest's digest begins so.
            InvalidReferenceError: the text is no reference, or several digests begin with it.
            InvalidConfigError: ``until`` is no time to come.
        """
        from msb_cache.commands.pins import pin

        return pin(self._session, reference, until)

    @_saying
    def unpin(
        self,
        reference: str,
        *,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Pin:
        """End a pin; returns it as it was.

        Args:
            reason, context: as the class says.

        Raises:
            ImageNotFoundError: there is none of this reference or digest.
            InvalidReferenceError: as for ``pin``.
        """
        from msb_cache.commands.pins import unpin

        return unpin(self._session, reference)

    @_saying
    def remove(
        self,
        references: str | Sequence[str],
        *,
        force: bool = False,
        dry_run: bool = False,
        refused: Callable[[MicrosandboxError], None] | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> ImagePruneReport:
        """Remove images as one operation: references, and the manifests and layers that nothing else needs.

        With ``force`` only the reference goes while a sandbox or snapshot holds the manifest; the rest
        stays until the last hold is gone and a prune runs.

        Args:
            references: one or more: each a reference, one with wildcards (``*``, ``?``), or a digest: of a
                manifest without a reference, or with one; with ``force``, with several.
            force: remove what is held or pinned, too. A pin stays, and keeps what comes again.
            dry_run: only report what would go; appends nothing.
            refused: told of each image that is not removed and why, and the others go; None: the first is
                raised, before anything is deleted as far as that is known then.
            reason, context: as the class says.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``.
            ImageInUseError: one is held or pinned, and not forced.
            BusyError: another deletion runs.
        """
        from msb_cache.commands.remove import remove
        from msb_cache.commands.reports import of_preview

        if dry_run:
            return of_preview(self.preview_remove(references, force=force, refused=refused))
        wanted = [references] if isinstance(references, str) else [*references]
        return remove(self._session, wanted, force=force, refused=refused)

    def preview_remove(
        self,
        references: str | Sequence[str],
        *,
        force: bool = False,
        refused: Callable[[MicrosandboxError], None] | None = None,
    ) -> Preview:
        """Return what ``remove`` would delete now, with measured sizes; arguments and errors as there."""
        from msb_cache.commands.remove import preview_remove

        wanted = [references] if isinstance(references, str) else [*references]
        return preview_remove(self._session, wanted, force=force, refused=refused)

    @_saying
    def prune(
        self,
        policy: PrunePolicy | CachePolicy | None = None,
        *,
        dry_run: bool = False,
        orphans: bool = False,
        orphans_only: bool = False,
        confirm: Confirm | None = None,
        report: Report | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> ImagePruneReport:
        """Remove what nothing uses: references, then manifests, then layers; or what a policy says.

        What a sandbox or snapshot holds, what runs and what is pinned never goes.

        Args:
            policy: its rules, or what the policy file says (see ``policy``); None: all that nothing uses.
            dry_run: only report what would go; appends nothing.
            orphans: also delete files that the index does not name and no process has locked.
            orphans_only: delete those, and no image.
            confirm: asked with a preview before anything is decided; if it says no, nothing happens.
            report: told how far it is.
            reason, context: as the class says.

        Raises:
            BoundNotKeptError: all that may go does not free enough, or more would go than may; nothing was
                deleted. Not with ``dry_run``.
            InvalidConfigError: the policy makes no sense.
            BusyError: another deletion runs.
        """
        from msb_cache.commands.reports import of_preview

        asked = self.plan_prune(policy, orphans=orphans, orphans_only=orphans_only)
        return of_preview(asked.preview()) if dry_run else asked.run(confirm=confirm, report=report)

    def preview_prune(
        self,
        policy: PrunePolicy | CachePolicy | None = None,
        *,
        orphans: bool = False,
        orphans_only: bool = False,
    ) -> Preview:
        """Return what a prune would delete and keep now, and why, with measured sizes; arguments as there."""
        return self.plan_prune(policy, orphans=orphans, orphans_only=orphans_only).preview()

    def plan_prune(
        self,
        policy: PrunePolicy | CachePolicy | None = None,
        *,
        orphans: bool = False,
        orphans_only: bool = False,
    ) -> Prune:
        """Return a prune that can be looked at, checked against its bounds, and run; arguments as there.

        Raises:
            InvalidConfigError: the policy makes no sense.
        """
        from msb_cache.commands.prune import Prune
        from msb_cache.retention.policy import PrunePolicy

        return Prune(self._session, policy or PrunePolicy(), orphans=orphans, orphans_only=orphans_only)

    @_saying
    def restore(
        self,
        operation: str,
        references: str | Sequence[str] = (),
        *,
        dry_run: bool = False,
        guesses: bool = False,
        options: RegistryOptions | None = None,
        jobs: int = 3,
        max_age: str | timedelta | None = None,
        max_age_ns: int | None = None,
        progress: Progress | None = None,
        report: Callable[[RestoredImage], None] | None = None,
        note: Note | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> RestoreResult:
        """Bring back what one deletion deleted, as one operation that the log knows to undo it.

        That is what ``restore_plan`` says. Images come back under the references that the deletion took,
        where no other image has those by now. Those that are here are left alone; if all are, nothing is
        recorded. Not to be confused with ``restore_backup``, which puts the log back.

        Args:
            operation: the deletion's id, or a prefix of at least four characters that no other shares.
            references: which of its images: references as they were typed, wildcards, digests or their
                beginnings, looked for among what it took; none: all.
            dry_run: only say what would be done; nothing is changed or recorded.
            guesses: also pull images of which the log does not say where they came from; those that
                ``references`` name are pulled anyway.
            options: how to reach registries.
            jobs: how many layers to fetch at the same time.
            max_age, max_age_ns, progress: as for ``pull``.
            report: told what became of each image.
            note: gets sentences about what is unusual.
            reason, context: as the class says.

        Returns:
            What became of each image. One that fails says why, and the others go on.

        Raises:
            OperationNotFoundError: no deletion has that id, or several begin with it.
            ImageNotFoundError, InvalidReferenceError: the deletion took no such image; nothing was done.
            InvalidConfigError: ``jobs`` is less than 1.
        """
        from msb_cache.commands.restore import Fetching, restore
        from msb_cache.oci.registry.options import RegistryOptions

        wanted = [references] if isinstance(references, str) else [*references]
        age_ns = _age_ns(max_age, max_age_ns, self._ledger.clock)
        fetching = Fetching(options or RegistryOptions(), jobs, age_ns, progress, note)
        return restore(
            *(self._session, operation, wanted, fetching), dry_run=dry_run, guesses=guesses, report=report
        )

    @_saying
    def gc(
        self,
        policy: CachePolicy | None = None,
        *,
        report: Report | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> GcRun:
        """Delete what the policy file says, once: as ``prune`` by it, and what it did in full.

        Args:
            policy: None: that of ``policy()``.
            report: told how far it is.
            reason, context: as the class says.

        Raises:
            InvalidConfigError: there is no policy, or it has a mistake.
            BoundNotKeptError: more would go than may; nothing was deleted. A bound that cannot be kept
                although all went that may is in the result's ``shortfall``.
            BusyError: another deletion runs.
        """
        from msb_cache.care.gc import collect

        return collect(self._session, policy, report)

    def keep_small(
        self,
        every: str | timedelta,
        told: Callable[[GcRun], object],
        *,
        path: str | os.PathLike[str] | None = None,
        max_delete: str | int | None = None,
        stopped: Callable[[], bool] = lambda: False,
        apart: bool = False,
        started: Callable[[], object] = lambda: None,
        sign: SigningPlan | None = None,
    ) -> bool:
        """Run ``gc`` now and then each time so much has passed, until ``stopped`` says so.

        The policy file is read anew before each run. What is in the way of a run is in its ``error``, and the
        next one comes all the same. Between two runs no database is open.

        Args:
            every: text such as ``15m``, or a ``timedelta``; at least a second.
            told: called with what each run did.
            path: the policy file, as for ``policy``.
            max_delete: take nothing if more would go, whatever the policy says; see ``PrunePolicy``.
            stopped: asked ten times a second whether to end; a deletion then ends between two files.
            apart: do each run, and tell of it, in a child of this process, so that its memory is free when it
                is over. Only for a program without other threads.
            started: called before the first run, when the arguments are found to make sense.
            sign: sign the log by itself as well: after a run, or between two, when that is due. With
                ``apart``, in a child, too, where ``told`` of the plan is called then.

        Returns:
            Whether a deletion was ended by that.

        Raises:
            InvalidConfigError: an argument makes no sense, there is no policy file to begin with, or the key
                to sign with cannot be used.
        """
        from msb_cache.care.gc import keep_small, path_of

        return keep_small(
            self._session,
            every,
            told,
            path=path_of(path),
            max_delete=max_delete,
            stopped=stopped,
            apart=apart,
            started=started,
            sign=sign,
        )

    @_saying
    def hand_over(
        self,
        references: str | Sequence[str] = (),
        *,
        dry_run: bool = False,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> builtins.list[HandedOver]:
        """Make images known to msb that are in this home and not in msb's index, as they are.

        msb gets manifest and config as they are stored, and finds the layers: the digest stays, and no layer
        is copied. A home of ours becomes msb's by it. Files are checked first and stay locked until msb is
        done. A release of msb that does not take an image so gets an archive of it; the digest changes then.

        Args:
            references: which images; none: all that msb does not know.
            dry_run: only check and say what would be handed over; nothing is changed or recorded.
            reason, context: as the class says.

        Returns:
            What became of each image, oldest first. Each that fails says why, and the others go on.

        Raises:
            ImageNotFoundError, InvalidReferenceError: as for ``get``, or there is no cache in this home;
                nothing was handed over.
            InvalidConfigError: the home was to be kept by msb-cache itself.
            MsbProgramError: no msb is found, or it cannot be run.
        """
        from msb_cache.audit.files import checking
        from msb_cache.commands.hand_over import hand_over

        wanted = [references] if isinstance(references, str) else [*references]
        return hand_over(self._session, wanted, checking(self._ledger), dry_run=dry_run)

    @_saying
    def repair(
        self,
        *,
        pull: bool = False,
        options: RegistryOptions | None = None,
        jobs: int = 3,
        progress: Progress | None = None,
        note: Note | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> RepairReport:
        """Mend what ``doctor`` finds and can be mended, and look again.

        Operations that were cut short are finished or undone, what is derived is made anew, and so are VMDKs,
        merged trees and metadata of what else is in the cache; each such file is recorded as
        ``artifact.repaired``. Orphans, foreign files and other users' stay.

        Args:
            pull: fetch what cannot be made so, by the manifest's digest from the registry that the log names;
                references stay as they are. In a home that msb keeps, msb pulls the image, if its registry
                has the same one by that reference.
            options: how registries are reached.
            jobs: how many layers are fetched at the same time.
            progress: gets typed progress events, from the threads that fetch.
            note: gets a sentence when another process has to be waited for.
            reason, context: as the class says.

        Returns:
            What was mended, and what is wrong now with why that was not.
        """
        from msb_cache.care.repair import repair
        from msb_cache.oci.registry.options import RegistryOptions

        return repair(
            self._session,
            pull=pull,
            options=options or RegistryOptions(),
            jobs=jobs,
            progress=progress,
            note=note,
        )

    def rebuild(self) -> builtins.list[SchemaProblem | Difference | SubtreeProblem]:
        """Make anew what is derived: schema, projections and the copies of the index, from the log.

        Returns:
            What was wrong with the schema, triggers among it, the rows that differed, and the hashes of the
            log's tree that did. It must be none.

        Raises:
            CorruptLogError: the log's own table is another, or the log's end is gone; nothing was changed.
        """
        from msb_cache.audit.verify import rebuild

        return rebuild(self._session)

    def backup(self, target: str | os.PathLike[str]) -> BackupReport:
        """Copy the log into one file, while other processes work with it; it is checked after it was written.

        Args:
            target: the file; one that is there is replaced when the copy is whole.

        Returns:
            Which log was copied, up to which event, and the file's size in bytes.

        Raises:
            CorruptLogError: the log does not verify.
            LogError: there is none yet, or the file cannot be written.
        """
        from pathlib import Path

        from msb_cache.audit.backup import backup

        self._session.observe()
        return backup(self._ledger, Path(target))

    @_saying
    def restore_backup(
        self,
        source: str | os.PathLike[str],
        *,
        discard_events: int | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> RestoreReport:
        """Put the log back to a backup, or to an export; what was there is set aside in the home.

        Until ``confirm_restore`` is called, no file is deleted because the index does not name it.

        Args:
            source: what ``backup`` or ``export`` wrote.
            discard_events: how many events of the present log the backup does not have; None: none.
            reason, context: as the class says.

        Returns:
            What was put back, how many events that lost, and where what was there is now.

        Raises:
            LogError: the present log has events that the backup lacks, and ``discard_events`` is not their
                number; or it is another log.
            CorruptLogError, UnknownEventError: the backup is refused; says why and where.
            BusyError: a deletion runs, or the present log cannot be read and another process has it open.
        """
        from pathlib import Path

        from msb_cache.audit.restore import restore_backup

        with self._session.making_own_home():
            return restore_backup(self._session, Path(source), discard_events)

    @_saying
    def confirm_restore(
        self,
        *,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> bool:
        """Record that a person has looked at what a restore left, so orphans may go again.

        Args:
            reason, context: as the class says.

        Returns:
            Whether there was one to confirm.
        """
        from msb_cache.audit.restore import confirm_restore

        return confirm_restore(self._session)

    @_saying
    def acknowledge_log(
        self,
        *,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Mismatch | None:
        """Record that a person knows that the log does not go on from the note of it outside the home.

        The note is of the log as it is from then on.

        Args:
            reason, context: as the class says.

        Returns:
            How it does not go on; None if it does, and nothing was recorded.

        Raises:
            LogError: there is no log any more that could record it.
        """
        from msb_cache.audit.acknowledge import acknowledge

        return acknowledge(self._session)

    @_saying
    def begin_log_anew(
        self,
        *,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> AnewReport:
        """Go on with the log as one of a new id, which event 1 then names with the log before.

        For a home that was copied together with its machine: each copy goes on with a log of the same id. All
        other events stay as they are but for their hashes, so whatever is asked of the home has the same
        answer. The log before is set aside in the home.

        Args:
            reason, context: as the class says; they stand in event 1.

        Returns:
            The id and the end of the new log and of the one before, and where that is now.

        Raises:
            LogError: there is no log, or a person has not acknowledged yet that it was put back or exchanged.
            CorruptLogError: the log does not verify; nothing was changed.
            BusyError: another operation runs, or another process wrote meanwhile; nothing was changed.
        """
        from msb_cache.audit.begin_anew import begin_anew

        return begin_anew(self._session)

    def _kept_open(self, found: Iterator[_Found]) -> Iterator[_Found]:
        """Keep this cache from being dropped for as long as a caller reads what it gave."""
        yield from found

    @contextmanager
    def _log(self, path: str | os.PathLike[str] | None, note: Note | None) -> Iterator[Log]:
        """Open the log to replay: a file's, or this home's."""
        from msb_cache.audit.replay import opened

        if path is None:
            self._session.observe()
        say = note or (lambda sentence: None)
        with opened(
            self._ledger, path, lambda found: say(f"the log does not verify: {found.problem}")
        ) as log:
            yield log


def _older(name: str, now: str) -> None:
    """Warn the caller of a method that what it asked for has another name now."""
    warnings.warn(f"{name} is called {now}", DeprecationWarning, stacklevel=3)


def _of_ns(ns: int) -> timedelta:
    from datetime import timedelta

    return timedelta(microseconds=-(-ns // 1000))  # so long at least


def _age_ns(max_age: str | timedelta | None, max_age_ns: int | None, clock: Clock) -> int:
    """Return how old a digest may be, in ns, given by one of both arguments, or by none."""
    if max_age_ns is not None:
        if max_age is not None:
            raise InvalidConfigError("max_age and max_age_ns are the same; give one")
        warnings.warn("max_age_ns is called max_age", DeprecationWarning, stacklevel=4)
        return max_age_ns
    if max_age is None:
        return MAX_AGE_NS
    from msb_cache.queries.times import duration_ns

    return duration_ns(max_age, clock())
