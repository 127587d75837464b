"""AsyncImageCache: the same methods, awaited; iterators, cancelling and closing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import msb_cache
from msb_cache import (
    AsyncImageCache,
    ImageCache,
    ImageNotFoundError,
    InvalidConfigError,
    RegistryOptions,
)
from msb_cache.async_cache import WORKERS
from tests.examples import ONE, TWO
from tests.imagebuilder import docker_archive
from tests.registry_server import RegistryServer, stall

SECONDS = 20
"""After so many a test is stuck."""


def run(main: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(main, SECONDS)

    return asyncio.run(bounded())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with two images."""
    with ImageCache(tmp_path / "home") as cache:
        for each in (ONE, TWO):
            (tmp_path / "images.tar").write_bytes(docker_archive(each))
            cache.load(tmp_path / "images.tar")
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = {*threading.enumerate()}
    yield
    for thread in {*threading.enumerate()} - before:
        thread.join(2)
        assert not thread.is_alive(), thread


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if name[0] != "_"}


OLDER = ("deletions", "deletion", "idle")


class TestFaces:
    """The two classes have the same methods, but for the names that one of them had before the other."""

    def test_every_method_is_there_with_its_parameters(self) -> None:
        current = {name: method for name, method in public(ImageCache).items() if name not in OLDER}
        assert public(AsyncImageCache).keys() - {"of"} == current.keys()
        for name, method in current.items():
            other = public(AsyncImageCache)[name]
            if isinstance(method, property):
                assert isinstance(other, property), name
                assert other.__doc__ == method.__doc__
                continue
            signature = inspect.signature(method)
            yields = str(signature.return_annotation).startswith("Iterator[")
            kind = inspect.isasyncgenfunction if yields else inspect.iscoroutinefunction
            assert kind(other), name
            assert inspect.signature(other) == signature, name
            if name != "close":
                assert (other.__wrapped__, other.__doc__) == (method, method.__doc__), name

    def test_it_is_made_with_the_same_arguments(self) -> None:
        ours = dict(inspect.signature(AsyncImageCache).parameters)
        assert ours.pop("workers").default == WORKERS
        assert ours == dict(inspect.signature(ImageCache).parameters)

    def test_it_is_made_of_one_that_is_there(self, home: Path) -> None:
        with ImageCache(home, sync=False) as cache:
            with pytest.raises(InvalidConfigError, match="workers is 1 or more"):
                AsyncImageCache.of(cache, workers=0)

            async def main() -> None:
                async with AsyncImageCache.of(cache) as same:
                    assert same.home == cache.home
                    assert await same.list() == cache.list()

            run(main())

    def test_it_is_loaded_when_it_is_asked_for(self) -> None:
        program = (
            "import sys, msb_cache; msb_cache.ImageCache\n"
            "assert 'asyncio' not in sys.modules and 'msb_cache.async_cache' not in sys.modules\n"
            "msb_cache.AsyncImageCache"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_arguments_are_checked(self, home: Path) -> None:
        with pytest.raises(InvalidConfigError, match="workers is 1 or more"):
            AsyncImageCache(home, workers=0)
        with pytest.raises(InvalidConfigError, match="engine"):
            AsyncImageCache(home, engine="other")  # type: ignore[arg-type]


class TestCalls:
    """Methods that return."""

    def test_one_after_the_other(self, home: Path, tmp_path: Path) -> None:
        async def main() -> None:
            async with AsyncImageCache(home) as cache:
                assert (cache.home, cache.kept_by_msb) == (home, False)
                assert [handle.reference for handle in await cache.list()] == ["two:1", "one:1"]
                assert (await cache.hold("one:1", "sandbox:a")).holder == "sandbox:a"
                assert [hold.holder for hold in await cache.holds()] == ["sandbox:a"]
                assert (await cache.remove("two:1")).image_refs_removed == 1
                with pytest.raises(ImageNotFoundError):
                    await cache.get("two:1")
                await cache.save("one:1", tmp_path / "saved.tar")
                assert await cache.rebuild() == []
                assert [event.type for event in await cache.events(after=0, limit=1)] == ["log.created"]
                assert (await cache.verify()).differences == []

        run(main())

    def test_several_caches_and_many_tasks(self, home: Path, tmp_path: Path) -> None:
        async def work(cache: AsyncImageCache, number: int) -> None:
            reference = ("one:1", "two:1")[number % 2]
            await cache.use(reference)
            await cache.hold(reference, f"sandbox:{number}")
            assert reference in {handle.reference for handle in await cache.list()}
            await cache.release(f"sandbox:{number}")

        async def main() -> None:
            async with AsyncImageCache(home) as one, AsyncImageCache(home, workers=2) as two:
                loads = [each.load(tmp_path / "images.tar") for each in (one, two)]
                await asyncio.gather(*loads, *(work((one, two)[i % 2], i) for i in range(20)))
                assert await one.holds() == []
                assert await two.rebuild() == []
                assert len(await two.events(types=["image.used"])) == 20

        run(main())

    def test_no_more_at_a_time_than_workers(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        running, most = list[int](), list[int]()
        together = threading.Barrier(3)

        def knows(self: ImageCache, as_of: Any) -> bool:
            running.append(1)
            most.append(len(running))
            together.wait(SECONDS)
            running.pop()
            return True

        with monkeypatch.context() as patched:
            patched.setattr(AsyncImageCache, "knows", msb_cache.async_cache._awaitable(knows))  # type: ignore[attr-defined]

            async def main() -> None:
                async with AsyncImageCache(home, workers=3) as cache:
                    assert all(await asyncio.gather(*(cache.knows(1) for _ in range(9))))

            run(main())
        assert max(most) == 3

    def test_functions_are_called_in_the_thread_with_the_tasks_context(self, home: Path) -> None:
        task = ContextVar("task", default="")
        seen: list[tuple[str, bool]] = []

        def confirm(shown: object) -> bool:
            seen.append((task.get(), threading.current_thread() is threading.main_thread()))
            return False

        async def main() -> None:
            task.set("mine")
            async with AsyncImageCache(home) as cache:
                await cache.prune(confirm=confirm)

        run(main())
        assert seen == [("mine", False)]

    def test_it_opens_again_after_close_and_in_another_loop(self, home: Path) -> None:
        cache = AsyncImageCache(home)
        for _ in range(2):
            assert len(run(cache.list())) == 2
            run(cache.close())
        assert not cache._cache._session.is_open

    def test_what_is_dropped_warns_as_image_cache_does(self, home: Path) -> None:
        cache = AsyncImageCache(home)
        run(cache.list())
        held = [cache]
        del cache

        def drop(caught: pytest.WarningsRecorder) -> None:
            held.clear()
            until = time.monotonic() + SECONDS
            while not caught and time.monotonic() < until:  # its thread is about to let go of the call
                gc.collect()
                time.sleep(0.01)

        with pytest.warns(ResourceWarning, match=f"unclosed image cache of {home}") as caught:
            drop(caught)


class TestIterators:
    """``async for``."""

    def test_what_is_there(self, home: Path) -> None:
        async def main() -> None:
            async with AsyncImageCache(home) as cache:
                events = [event async for event in cache.iter_events()]
                assert events == await cache.events()
                assert [event async for event in cache.iter_history("one:1")] == await cache.history("one:1")
                assert [step.event.seq async for step in cache.replay()] == [each.seq for each in events]
                with pytest.raises(InvalidConfigError):
                    await anext(cache.iter_events(types=["no.type"]))

        run(main())

    def test_more_than_a_piece(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        taken: list[int] = []

        def numbers(self: ImageCache) -> Iterator[int]:
            for number in range(10):
                taken.append(number)
                yield number

        monkeypatch.setattr(
            AsyncImageCache, "numbers", msb_cache.async_cache._iterated(numbers, 3), raising=False
        )  # type: ignore[attr-defined]

        async def main() -> None:
            async with AsyncImageCache(home) as cache, aclosing(cache.numbers()) as found:  # type: ignore[attr-defined]
                assert [await anext(found) for _ in range(4)] == [0, 1, 2, 3]
                assert len(taken) == 6  # no more than was asked for, in whole pieces
                assert [number async for number in found] == [*range(4, 10)]

        run(main())

    def test_following_while_others_write(self, home: Path) -> None:
        async def follow(cache: AsyncImageCache) -> list[int]:
            seen: list[int] = []
            async for event in cache.follow(after=0, types=["image.used"], interval=0.01):
                seen.append(event.seq)
                if len(seen) == 3:
                    break
            return seen

        async def main() -> None:
            async with AsyncImageCache(home, workers=1) as cache:
                followers = [asyncio.create_task(follow(cache)) for _ in range(3)]
                while not all(each.done() for each in followers):
                    await cache.use("one:1")  # which has its turn, however many follow
                used = [event.seq for event in await cache.events(types=["image.used"])]
                assert [await each for each in followers] == [used[:3]] * 3

        run(main())

    @pytest.mark.parametrize("how", ["break", "aclose", "cancel", "close", "time-out"])
    def test_how_following_ends(self, home: Path, how: str) -> None:
        async def main() -> None:
            cache = AsyncImageCache(home)
            got = asyncio.Event()

            async def follow() -> list[int]:
                seen = []
                async for event in cache.follow(interval=30):
                    seen.append(event.seq)
                    got.set()
                    if how == "break" and len(seen) == 3:
                        break
                return seen

            if how == "aclose":
                async with aclosing(cache.watch(interval=30)) as watching:
                    waiting = asyncio.ensure_future(anext(watching))
                    await asyncio.sleep(0.05)
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
            elif how == "time-out":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(follow(), 0.3)
            else:
                following = asyncio.create_task(follow())
                await got.wait()
                if how == "cancel":
                    following.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await following
                elif how == "close":
                    await cache.close()
                    assert len(await following) > 0
                else:
                    assert len(await following) == 3
            await cache.close()
            while cache._stay:  # an iterator that was left is closed by the loop when it gets to that
                await asyncio.sleep(0.01)
            assert not cache._cache._session.is_open

        run(main())

    def test_one_that_is_closed_while_it_is_not_read(self, home: Path) -> None:
        async def main() -> None:
            async with AsyncImageCache(home) as cache:
                found = cache.iter_events()
                assert (await anext(found)).seq == 1
            assert [event async for event in found] == []
            assert not cache._stay

        run(main())


@asynccontextmanager
async def cancelled(task: asyncio.Task[Any]) -> AsyncIterator[None]:
    """Cancel a task after the block, twice, and see it end so."""
    yield
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


class TestCancelling:
    """A task that is cancelled goes on when its thread has ended, and the cache is whole."""

    @pytest.mark.parametrize("part", ["manifests", "blobs"])
    def test_a_pull(self, home: Path, tmp_path: Path, part: str) -> None:
        with RegistryServer() as server:
            reference = server.add(ONE, "pulled")
            server.on(part, stall(10))

            async def main() -> None:
                async with AsyncImageCache(tmp_path / "pulls") as cache:
                    pull = asyncio.create_task(
                        cache.pull(reference, options=RegistryOptions(timeout=SECONDS))
                    )
                    async with cancelled(pull):
                        await until(lambda: server.count(part))
                        await asyncio.sleep(0.1)
                    assert await cache.events() == []
                    assert not [*(tmp_path / "pulls").glob("cache/tmp/*/*")]
                    assert (await cache.pull(reference)).manifest_digest == ONE.digest
                    assert await cache.rebuild() == []

            run(main())

    def test_a_wait_for_another_writer(self, home: Path) -> None:
        async def main() -> None:
            with ImageCache(home) as other:
                said: list[str] = []
                async with AsyncImageCache(home, note=said.append) as cache:
                    with other._ledger.write("x"):
                        use = asyncio.create_task(cache.use("one:1"))
                        async with cancelled(use):
                            await until(lambda: said)
                    assert await cache.events(types=["image.used"]) == []

        run(main())

    def test_a_deletion(self, home: Path) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            async with AsyncImageCache(home) as cache:
                begun, go_on = asyncio.Event(), threading.Event()

                def report(progress: object) -> None:
                    loop.call_soon_threadsafe(begun.set)
                    go_on.wait(SECONDS)

                prune = asyncio.create_task(cache.prune(report=report))
                async with cancelled(prune):
                    await begun.wait()
                    loop.call_later(0.2, go_on.set)
                assert await cache.list() == []
                (summary,) = await cache.prunes()
                assert summary.counters.outcome is None
                await cache.prune()  # finishes it
                assert {each.counters.outcome for each in await cache.prunes()} == {"completed"}
                assert await cache.rebuild() == []

        run(main())

    def test_a_call_that_has_not_begun(self, home: Path) -> None:
        async def main() -> None:
            async with AsyncImageCache(home, workers=1) as cache:
                go_on = threading.Event()
                asked = asyncio.create_task(cache.prune(confirm=lambda shown: not go_on.wait(SECONDS)))
                await asyncio.sleep(0.05)
                async with cancelled(asyncio.create_task(cache.use("one:1"))):
                    await asyncio.sleep(0.05)
                go_on.set()
                await asked
                assert await cache.events(types=["image.used"]) == []

        run(main())

    @pytest.mark.parametrize("how", ["cancel", "close", "stopped"])
    def test_what_stays(self, home: Path, how: str) -> None:
        async def main() -> None:
            async with AsyncImageCache(home, workers=1) as cache:
                await cache.begin_policy()
                runs: list[object] = []
                staying = asyncio.create_task(
                    cache.keep_small("1h", runs.append, stopped=lambda: how == "stopped" and bool(runs))
                )
                await until(lambda: runs)
                if how == "close":
                    await cache.close()
                elif how == "cancel":
                    async with cancelled(staying):
                        pass
                    return
                assert await staying is False

        run(main())


def test_a_program_with_every_warning_an_error(home: Path) -> None:
    program = """
import asyncio, sys
from msb_cache import AsyncImageCache

async def follow(cache, enough):
    async for event in cache.follow(after=0, interval=0.01):
        if event.seq >= enough:
            break

async def main():
    async with AsyncImageCache(sys.argv[1]) as cache, asyncio.TaskGroup() as group:
        for number in range(1, 6):
            group.create_task(follow(cache, number))
        for _ in range(5):
            group.create_task(cache.use("one:1"))
        await cache.list()
    task = asyncio.create_task(follow(cache, 10_000))
    await asyncio.sleep(0.1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        await cache.close()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program, str(home)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
