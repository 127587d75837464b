"""Events as they enter the log, as server-sent events; a bounded number of such streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from starlette.types import Receive, Scope, Send

from msb_cache.async_cache import AsyncImageCache
from msb_cache.eventstore.store import StoredEvent
from msb_cache.web.problems import RefusedError, encoded, problem, refusal

HEARTBEAT_SECONDS = 15.0
"""After so many without an event a comment is sent, so that what lies between knows that the stream lives."""

SEND_SECONDS = 30.0
"""A client that takes nothing for so long is gone."""

_RETRY_MS = 3000
_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no"))


class Streams:
    """The streams that are open.

    Args:
        most: how many there are at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[asyncio.Event] = set()
        self._closed = False

    def begin(self) -> asyncio.Event:
        """Return what is set when a new stream shall end.

        Raises:
            RefusedError: there are as many as there may be, or the server ends.
        """
        if self._closed or len(self._open) >= self._most:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self._most} programs and pages follow events already; close one of them",
                "too-many-streams",
                {"Retry-After": "10"},
            )
        over = asyncio.Event()
        self._open.add(over)
        return over

    def end(self, over: asyncio.Event) -> None:
        """Count a stream no more."""
        self._open.discard(over)

    def close(self) -> None:
        """End all streams, and let none begin; called in the thread of their event loop."""
        self._closed = True
        for over in self._open:
            over.set()


class EventStream:
    """The answer that goes on: each event as JSON, its position as the message's id.

    The client goes on where it was by ``after``, the last id that it had.

    Args:
        streams: those it is counted among.
        cache: whose events.
        after: only positions greater than this; None: what comes from now on.
        plain: makes an event plain data.
    """

    def __init__(
        self, streams: Streams, cache: AsyncImageCache, after: int | None, plain: Callable[[Any], Any]
    ) -> None:
        self._streams = streams
        self._cache = cache
        self._after = after
        self._plain = plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes or the server ends."""
        try:
            over = self._streams.begin()
        except RefusedError as error:
            await problem(scope, error)(scope, receive, send)
            return
        ends = [asyncio.create_task(over.wait()), asyncio.create_task(_disconnected(receive))]
        try:
            await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [*_HEADERS]})
            if scope["method"] != "HEAD":
                await self._send_all(send, {*ends})
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            pass  # nobody reads
        finally:
            self._streams.end(over)
            await _cancelled(*ends)

    async def _send_all(self, send: Send, ends: set[asyncio.Task[Any]]) -> None:
        async def write(part: bytes) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": part, "more_body": True})

        await write(b"retry: %d\n\n" % _RETRY_MS)
        messages = self._messages()
        pending = asyncio.create_task(_next(messages))
        try:
            while True:
                waited_for = {pending, *ends}
                done, _ = await asyncio.wait(
                    waited_for, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if ends & done:
                    return
                if pending not in done:
                    await write(b":\n\n")
                elif (part := _result(pending)) is None:
                    return
                else:
                    await write(part)
                    pending = asyncio.create_task(_next(messages))
        finally:
            await _cancelled(pending)
            await messages.aclose()

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        after = self._after
        if after is None:
            newest = await self._cache.events(limit=1)
            after = newest[-1].seq if newest else 0
        async with aclosing(self._cache.follow(after=after)) as events:
            async for event in events:
                yield await asyncio.to_thread(self._of_event, event)

    def _of_event(self, event: StoredEvent) -> bytes:
        return _message("event", encoded(self._plain(event)), event.seq)


async def _next(messages: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(messages, None)


def _result(done: asyncio.Task[bytes | None]) -> bytes | None:
    """Return what was to be sent; of an error what tells of it, behind which nothing comes."""
    error = done.exception()
    if error is None:
        return done.result()
    if not isinstance(error, Exception):
        raise error
    told = refusal(error)
    return _message("problem", encoded({"detail": told.sentence, "code": told.code}))


def _message(kind: str, data: bytes, position: int | None = None) -> bytes:
    """Return a message; JSON is one line, whatever stands in its texts."""
    id_ = b"" if position is None else b"id: %d\n" % position
    return b"%sevent: %s\ndata: %s\n\n" % (id_, kind.encode(), data)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
