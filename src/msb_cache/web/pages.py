"""The page of a home, whole and in parts, and its events as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from msb_cache.async_cache import AsyncImageCache
from msb_cache.web.asked import AS_OF, HOME, SINCE, Parameter, given
from msb_cache.web.live import EventStream
from msb_cache.web.problems import RefusedError, answering
from msb_cache.web.site import Site

_SHOWN = (HOME, AS_OF, SINCE)
_FOLLOWED = (HOME, Parameter("after", "Only positions greater than this.", "number"))
_LONGEST_ID = 19  # digits of a position


def routes(site: Site) -> list[Route]:
    """Return the routes of the page; what it asks for itself is relative, so that any prefix will do."""

    async def whole(request: Request) -> Response:
        from msb_cache.report import page  # with Jinja

        shown = given(request.query_params, _SHOWN)
        name, cache = site.home(shown.get("home"))
        report = await site.report(cache, shown)
        live = page.Live(
            home=name, homes=tuple(site.homes), head=await _head(cache) if report.is_past else None
        )
        text = await asyncio.to_thread(page.render, report, live=live)
        return HTMLResponse(text, headers={"Content-Security-Policy": page.csp(live=True)})

    async def part(request: Request) -> Response:
        from msb_cache.report import page

        shown = given(request.query_params, _SHOWN)
        _, cache = site.home(shown.get("home"))
        report = await site.report(cache, shown)
        return HTMLResponse(await asyncio.to_thread(page.fragment, report))

    async def events(request: Request) -> ASGIApp:
        found = given(request.query_params, _FOLLOWED)
        _, cache = site.home(found.get("home"))
        return EventStream(site.streams, cache, _after(request, found), site.plain)

    return [
        Route("/", answering(whole), methods=["GET"]),
        Route("/page", answering(part), methods=["GET"]),
        Route("/events", answering(events, seconds=None), methods=["GET"]),
    ]


async def _head(cache: AsyncImageCache) -> int:
    newest = await cache.events(reverse=True, limit=1)
    return newest[0].seq if newest else 0


def _after(request: Request, found: Mapping[str, Any]) -> int | None:
    """Return the position behind which events are asked for: where a stream was cut off, that comes first."""
    text = request.headers.get("last-event-id", "")
    if not text:
        after: int | None = found.get("after")
        return after
    if not (text.isascii() and text.isdigit() and len(text) < _LONGEST_ID):
        raise RefusedError(
            HTTPStatus.BAD_REQUEST, "Last-Event-ID is the position of an event", "invalid-parameter"
        )
    return int(text)
