"""The report of a fleet, live: the page anew with each look at it, and what it shows as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from msb_cache.fleet.fleet import Fleet
from msb_cache.report.fleet import make
from msb_cache.report.fleet_facts import FleetReport
from msb_cache.shapes import jsonable
from msb_cache.web.access import Access, Guard
from msb_cache.web.app import Told
from msb_cache.web.app import refused as refused_by_router
from msb_cache.web.asked import SINCE, given
from msb_cache.web.problems import RefusedError, answering, encoded, problem
from msb_cache.web.site import EXPENSIVE_AT_ONCE, EXPENSIVE_WAITING
from msb_cache.web.turns import Turns


def application(fleet: Fleet, access: Access, *, people: bool = True) -> Starlette:
    """Return the server as an application, as ``web.app.application`` does for homes.

    Args:
        fleet: whose hosts are shown. Its DSN is told to nobody.
        access: who may ask.
        people: whether it tells who deleted what.
    """
    turns = Turns(EXPENSIVE_AT_ONCE, EXPENSIVE_WAITING)

    async def report(shown: Mapping[str, Any]) -> FleetReport:
        async with turns.taken():
            return await asyncio.to_thread(make, fleet, people=people, **shown)

    async def page(request: Request) -> Response:
        from msb_cache.report import fleet_page  # with Jinja
        from msb_cache.report.page import csp

        found = await report(given(request.query_params, (SINCE,)))
        text = await asyncio.to_thread(fleet_page.render, found, live=True)
        return HTMLResponse(text, headers={"Content-Security-Policy": csp(live=True)})

    async def plain(request: Request) -> Response:
        found = await report(given(request.query_params, (SINCE,)))
        text = await asyncio.to_thread(lambda: encoded(jsonable(found)))
        return Response(text, media_type="application/json")

    app = Starlette(
        routes=[
            Route("/", answering(page), methods=["GET"]),
            Route("/api/report", answering(plain), methods=["GET"]),
        ],
        middleware=[Middleware(Told), Middleware(Guard, access=access)],
        exception_handlers={HTTPException: _refused},
    )
    app.router.redirect_slashes = False
    return app


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND:
        there_is = "there is nothing at this path; / is the page, and /api/report what it shows"
        return problem(request.scope, RefusedError(HTTPStatus.NOT_FOUND, there_is, "not-found"))
    return await refused_by_router(request, error)
