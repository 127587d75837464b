"""Events as they come: what a stream sends, that it goes on where it was, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from msb_cache import AsyncImageCache, ImageCache
from msb_cache.errors import LogError
from msb_cache.interchange.privacy import Privacy
from msb_cache.web import live
from msb_cache.web.live import EventStream, Streams
from msb_cache.web.site import Site

SECONDS = 20


class Reader:
    """A client of one stream."""

    def __init__(self) -> None:
        self.status = 0
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body"):
            await self.parts.put(None)
        elif message["body"]:
            await self.parts.put(message["body"])

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def message(self) -> dict[str, str]:
        """Return the fields of the next message that is no comment."""
        while True:
            part = await self.parts.get()
            assert part is not None
            fields = dict(
                line.split(": ", 1) for line in part.decode().rstrip("\n").split("\n") if ": " in line
            )
            if "event" in fields:
                return fields

    async def end(self) -> None:
        """Wait until the answer is over."""
        while await self.parts.get() is not None:
            pass


Reading = Callable[[Site, AsyncImageCache], Awaitable[None]]


def reading(home: Path, work: Reading) -> None:
    """Run ``work`` on a home; afterwards no stream is counted and no task is left."""

    async def main() -> None:
        async with asyncio.timeout(SECONDS), AsyncImageCache(home) as cache:
            site = Site({"home": cache}, Privacy())
            await work(site, cache)
            assert len(asyncio.all_tasks()) == 1
            site.streams.begin()

    asyncio.run(main())


def begin(site: Site, cache: AsyncImageCache, after: int | None, method: str = "GET") -> tuple[Reader, Any]:
    reader = Reader()
    stream = EventStream(site.streams, cache, after, site.plain)
    scope = {"type": "http", "method": method, "headers": []}
    return reader, asyncio.create_task(stream(scope, reader.receive, reader.send))


def append(home: Path, name: str) -> None:
    with ImageCache(home) as cache:
        cache.pin(name)


def test_each_event_comes_once_in_order_and_a_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    append(tmp_path / "h", "app:1")

    async def work(site: Site, cache: AsyncImageCache) -> None:
        reader, task = begin(site, cache, 0)
        first = [await reader.message() for _ in range(2)]
        assert [each["id"] for each in first] == ["1", "2"]
        assert {each["event"] for each in first} == {"event"}
        assert json.loads(first[1]["data"])["type"] == "image.pinned"
        await asyncio.to_thread(append, tmp_path / "h", "app:2")
        third = await reader.message()
        assert (third["id"], json.loads(third["data"])["subject"]) == ("3", "docker.io/library/app:2")
        reader.gone.set()
        await task
        again, task = begin(site, cache, 2)
        assert (await again.message()) == third
        again.gone.set()
        await task

    reading(tmp_path / "h", work)


def test_without_a_position_only_what_is_new_comes(tmp_path: Path) -> None:
    append(tmp_path / "h", "app:1")

    async def work(site: Site, cache: AsyncImageCache) -> None:
        reader, task = begin(site, cache, None)
        assert await reader.parts.get() == b"retry: 3000\n\n"
        message = asyncio.create_task(reader.message())
        for number in range(100):  # the stream looks for its beginning first
            await asyncio.to_thread(append, tmp_path / "h", f"new:{number}")
            if (await asyncio.wait({message}, timeout=0.2))[0]:
                break
        assert "library/new:" in (await message)["data"]
        reader.gone.set()
        await task

    reading(tmp_path / "h", work)


def test_a_quiet_stream_says_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.01)

    async def work(site: Site, cache: AsyncImageCache) -> None:
        reader, task = begin(site, cache, 0)
        assert [await reader.parts.get() for _ in range(3)] == [b"retry: 3000\n\n", b":\n\n", b":\n\n"]
        reader.gone.set()
        await task

    reading(tmp_path / "no log yet", work)


def test_there_are_so_many_streams_and_no_more_and_all_end_with_the_server(tmp_path: Path) -> None:
    async def work(site: Site, cache: AsyncImageCache) -> None:
        streams = Streams(2)
        site.streams = streams
        readers = [begin(site, cache, 0) for _ in range(3)]
        await readers[2][1]
        assert readers[2][0].status == 429
        streams.close()
        for reader, task in readers[:2]:
            await task
            await reader.end()
        late, task = begin(site, cache, 0)
        await task
        assert late.status == 429
        site.streams = Streams(1)

    reading(tmp_path / "h", work)


def test_what_goes_wrong_is_told_and_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise LogError("the log <b>is gone</b>")

    async def work(site: Site, cache: AsyncImageCache) -> None:
        monkeypatch.setattr(cache, "follow", fail)
        reader, task = begin(site, cache, 0)
        told = await reader.message()
        assert told["event"] == "problem"
        assert json.loads(told["data"]) == {"detail": "the log <b>is gone</b>", "code": "log-error"}
        await reader.end()
        await task

    reading(tmp_path / "h", work)


def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SEND_SECONDS", 0.01)

    async def work(site: Site, cache: AsyncImageCache) -> None:
        async def send(message: Message) -> None:
            if message["type"] != "http.response.start":
                await asyncio.Event().wait()

        stream = EventStream(site.streams, cache, 0, site.plain)
        await stream({"type": "http", "method": "GET", "headers": []}, Reader().receive, send)

    reading(tmp_path / "h", work)


def test_nothing_is_told_that_is_not_to_be_told(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "h") as cache:
        cache.pin("app:1", reason="for\r\n\ndata: <script>\u2028")

    async def work(site: Site, cache: AsyncImageCache) -> None:
        site.privacy = Privacy(people=False)
        reader, task = begin(site, cache, 1)
        assert "script" not in (await reader.message())["data"]
        site.privacy = Privacy()
        named, other = begin(site, cache, 1)
        told = json.loads((await named.message())["data"])
        assert told["actor"]["reason"] == "for\r\n\ndata: <script>\u2028"
        for each in (reader, named):
            each.gone.set()
        await asyncio.gather(task, other)

    reading(tmp_path / "h", work)
