"""AsyncImageCache: the cache for asyncio; every method is an awaitable, every iterator an asynchronous one.

What a method does stands in ``ImageCache``. Here is how it is run in a thread, so that the event loop never
waits for a disk or a lock, and how a task that is cancelled ends that.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial, wraps
from itertools import islice
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from msb_cache.cache import ImageCache
from msb_cache.errors import InvalidConfigError
from msb_cache.waiting import ended_by

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from msb_cache.activity import Tell
    from msb_cache.engines.choose import EngineChoice
    from msb_cache.eventstore.store import Actor, Clock
    from msb_cache.home.ledger import Who
    from msb_cache.waiting import Note

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

WORKERS = 8
"""How many calls run at the same time; more wait for their turn."""

_MANY = 256
"""What is there already is taken from an iterator in such pieces: a thread's turn costs more than an item."""


class _StoppedError(Exception):
    """What was asked to end has ended."""


def _awaitable(
    method: Callable[Concatenate[ImageCache, P], R],
) -> Callable[Concatenate[AsyncImageCache, P], Coroutine[Any, Any, R]]:
    """Return a method as an awaitable."""

    @wraps(method)
    async def call(self: AsyncImageCache, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(self._calls(), Event(), partial(method, self._cache, *args, **kwargs))

    return call


def _staying(
    method: Callable[Concatenate[ImageCache, P], R],
) -> Callable[Concatenate[AsyncImageCache, P], Coroutine[Any, Any, R]]:
    """Return a method as an awaitable that goes on until its ``stopped`` says so, in a thread of its own."""

    @wraps(method)
    async def call(self: AsyncImageCache, /, *args: P.args, **kwargs: P.kwargs) -> R:
        options: dict[str, Any] = {**kwargs}
        stop, given = Event(), options.get("stopped")
        options["stopped"] = lambda: stop.is_set() or (given is not None and given())
        work = partial(cast("Callable[..., R]", method), self._cache, *args, **options)
        pool = self._own_thread(stop)
        try:
            return await self._run(pool, stop, work)
        finally:
            self._give_back(pool, stop)

    return call


def _iterated(
    method: Callable[Concatenate[ImageCache, P], Iterator[T]], at_once: int = _MANY
) -> Callable[Concatenate[AsyncImageCache, P], AsyncGenerator[T, None]]:
    """Return a method whose iterator is read in a thread of its own, only when the next item is asked for."""

    @wraps(method)
    async def iterate(self: AsyncImageCache, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        stop, iterator = Event(), None
        pool = self._own_thread(stop)
        try:
            iterator = await self._run(pool, stop, partial(method, self._cache, *args, **kwargs))
            while found := await self._run(pool, stop, partial(_next, iterator, at_once)):
                for each in found:
                    yield each
                    if stop.is_set():
                        return
        except _StoppedError:
            return  # the cache was closed
        finally:
            try:
                if isinstance(iterator, Generator):
                    await self._run(pool, Event(), iterator.close)
            finally:
                self._give_back(pool, stop)

    return iterate


class AsyncImageCache:
    """The image cache of one home, for asyncio: ``ImageCache`` with every method as an awaitable.

    Parameters, results and errors are those of the method of that name there. What yields there is an
    asynchronous iterator here: ``async for event in cache.follow(since="yesterday")``. It reads on only when
    the next event is asked for, and ends with ``break`` or ``aclose``. Use it as an asynchronous context
    manager, from any number of tasks, and of event loops.

    Calls run in threads of this cache, ``workers`` of them at the same time. What stays (``keep_small`` and
    the iterators) has one of its own meanwhile. Functions that the caller gives, such as ``progress``,
    ``report``, ``note`` and ``confirm``, are called in these threads, with the context variables of the task
    that called; ``loop.call_soon_threadsafe`` leads back to the event loop.

    Cancelling a call asks its thread to end: a wait ends within a tenth of a second, a pull or load as soon,
    with nothing recorded of it, and a deletion between two files, as with Ctrl-C. The task goes on, with
    ``CancelledError``, when the thread has ended, and the cache is whole. What was done by then stays done;
    what cannot be asked, such as one query, is done to its end.

    Args:
        home, actor, context, clock, sync, note, engine: as for ``ImageCache``.
        workers: how many calls run at the same time; more wait for their turn.

    Raises:
        InvalidConfigError: ``workers`` is less than 1; else errors as for ``ImageCache``.
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
        workers: int = WORKERS,
    ) -> None:
        self._begin(workers)
        self._cache = ImageCache(
            home,
            actor=actor,
            context=context,
            clock=clock,
            sync=sync,
            note=note,
            progress=progress,
            engine=engine,
        )

    @classmethod
    def of(cls, cache: ImageCache, *, workers: int = WORKERS) -> AsyncImageCache:
        """Return a cache for asyncio that asks one that is there already, and closes it when it is closed.

        Args:
            cache: the one that is asked.
            workers: as for the class.

        Raises:
            InvalidConfigError: as for the class.
        """
        found = cls.__new__(cls)
        found._begin(workers)
        found._cache = cache
        return found

    def _begin(self, workers: int) -> None:
        if workers < 1:
            raise InvalidConfigError("at least one call runs at a time, so workers is 1 or more")
        self._workers = workers
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._stay: set[Event] = set()
        self._running: set[Future[Any]] = set()

    @property
    def home(self) -> Path:
        """The home's absolute path."""
        return self._cache.home

    @property
    def kept_by_msb(self) -> bool:
        """Whether msb keeps this home, so that it is msb that pulls, loads, removes and prunes."""
        return self._cache.kept_by_msb

    async def close(self) -> None:
        """End what stays, wait for the calls that run, and close the database.

        Whatever is called afterwards opens it anew.
        """
        with self._lock:
            pool, self._pool = self._pool, None
        for stop in [*self._stay]:
            stop.set()
        running = [*self._running]

        def end() -> None:
            wait(running)
            if pool is not None:
                pool.shutdown()
            self._cache.close()

        stop = Event()
        own = self._own_thread(stop)
        try:
            await self._run(own, stop, end)
        finally:
            self._give_back(own, stop)

    async def __aenter__(self) -> AsyncImageCache:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- reading ---------------------------------------------------------------------------------

    list = _awaitable(ImageCache.list)
    damage = _awaitable(ImageCache.damage)
    get = _awaitable(ImageCache.get)
    inspect = _awaitable(ImageCache.inspect)
    holders = _awaitable(ImageCache.holders)
    holds = _awaitable(ImageCache.holds)
    pins = _awaitable(ImageCache.pins)
    knows = _awaitable(ImageCache.knows)
    uses = _awaitable(ImageCache.uses)
    diff = _awaitable(ImageCache.diff)
    compare_layers = _awaitable(ImageCache.compare_layers)
    history = _awaitable(ImageCache.history)
    iter_history = _iterated(ImageCache.iter_history)
    events = _awaitable(ImageCache.events)
    iter_events = _iterated(ImageCache.iter_events)
    follow = _iterated(ImageCache.follow, 1)
    post_events = _staying(ImageCache.post_events)
    ship = _staying(ImageCache.ship)
    sql = _awaitable(ImageCache.sql)
    iter_sql = _iterated(ImageCache.iter_sql)
    prunes = _awaitable(ImageCache.prunes)
    prune_report = _awaitable(ImageCache.prune_report)
    why = _awaitable(ImageCache.why)
    policy = _awaitable(ImageCache.policy)
    check_policy = _awaitable(ImageCache.check_policy)
    begin_policy = _awaitable(ImageCache.begin_policy)
    test_policy = _awaitable(ImageCache.test_policy)
    last_used = _awaitable(ImageCache.last_used)
    restore_plan = _awaitable(ImageCache.restore_plan)
    verify = _awaitable(ImageCache.verify)
    checkpoint = _awaitable(ImageCache.checkpoint)
    attest = _awaitable(ImageCache.attest)
    checkpoints = _awaitable(ImageCache.checkpoints)
    signed_checkpoint = _awaitable(ImageCache.signed_checkpoint)
    forget_checkpoint = _awaitable(ImageCache.forget_checkpoint)
    prove = _awaitable(ImageCache.prove)
    export = _awaitable(ImageCache.export)
    import_log = _awaitable(ImageCache.import_log)
    replay = _iterated(ImageCache.replay)
    replay_state = _awaitable(ImageCache.replay_state)
    compare_state = _awaitable(ImageCache.compare_state)
    info = _awaitable(ImageCache.info)
    disk_usage = _awaitable(ImageCache.disk_usage)
    report = _awaitable(ImageCache.report)
    doctor = _awaitable(ImageCache.doctor)
    metrics = _awaitable(ImageCache.metrics)
    sync = _awaitable(ImageCache.sync)
    watch = _iterated(ImageCache.watch, 1)

    # -- writing ---------------------------------------------------------------------------------

    load = _awaitable(ImageCache.load)
    pull = _awaitable(ImageCache.pull)
    save = _awaitable(ImageCache.save)
    use = _awaitable(ImageCache.use)
    hold = _awaitable(ImageCache.hold)
    release = _awaitable(ImageCache.release)
    pin = _awaitable(ImageCache.pin)
    unpin = _awaitable(ImageCache.unpin)
    remove = _awaitable(ImageCache.remove)
    preview_remove = _awaitable(ImageCache.preview_remove)
    prune = _awaitable(ImageCache.prune)
    preview_prune = _awaitable(ImageCache.preview_prune)
    plan_prune = _awaitable(ImageCache.plan_prune)
    restore = _awaitable(ImageCache.restore)
    gc = _awaitable(ImageCache.gc)
    keep_small = _staying(ImageCache.keep_small)
    hand_over = _awaitable(ImageCache.hand_over)
    repair = _awaitable(ImageCache.repair)
    rebuild = _awaitable(ImageCache.rebuild)
    backup = _awaitable(ImageCache.backup)
    restore_backup = _awaitable(ImageCache.restore_backup)
    confirm_restore = _awaitable(ImageCache.confirm_restore)
    acknowledge_log = _awaitable(ImageCache.acknowledge_log)
    begin_log_anew = _awaitable(ImageCache.begin_log_anew)

    # -- threads ---------------------------------------------------------------------------------

    def _calls(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="msb-cache-call")
            return self._pool

    def _own_thread(self, stop: Event) -> ThreadPoolExecutor:
        """Return a thread for what stays, which ``stop`` ends when the cache is closed."""
        self._stay.add(stop)
        return ThreadPoolExecutor(1, thread_name_prefix="msb-cache-stay")

    def _give_back(self, pool: ThreadPoolExecutor, stop: Event) -> None:
        self._stay.discard(stop)
        pool.shutdown(wait=False)

    async def _run(self, pool: ThreadPoolExecutor, stop: Event, work: Callable[[], R]) -> R:
        """Return what ``work`` returns in a thread, which is asked to end if this task is cancelled."""
        loop = asyncio.get_running_loop()

        def stopped() -> bool:
            return stop.is_set() or loop.is_closed()

        submitted = pool.submit(copy_context().run, _stoppable, work, stopped)
        self._running.add(submitted)
        submitted.add_done_callback(self._running.discard)
        future = asyncio.wrap_future(submitted)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            if not submitted.cancel():
                while not future.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait((future,))
                future.exception()  # how it ended does not matter any more
            raise


def _stoppable(work: Callable[[], R], stopped: Callable[[], bool]) -> R:
    with ended_by(stopped):
        try:
            return work()
        except KeyboardInterrupt:
            if not stopped():
                raise
            raise _StoppedError from None


def _next(iterator: Iterator[T], at_once: int) -> tuple[T, ...]:
    return tuple(islice(iterator, at_once))
