"""The application: the page, its parts, the API and the events, behind the access."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import cache

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msb_cache import diagnostics
from msb_cache.async_cache import AsyncImageCache
from msb_cache.errors import InvalidConfigError
from msb_cache.interchange.privacy import Privacy
from msb_cache.web import api, pages
from msb_cache.web.access import Access, Guard
from msb_cache.web.openapi import description
from msb_cache.web.problems import encoded, problem
from msb_cache.web.site import Site


def application(
    homes: Mapping[str, AsyncImageCache], access: Access, privacy: Privacy | None = None
) -> Starlette:
    """Return the server as an application, to be served by any ASGI server or mounted in another one.

    Mounted, it needs no lifespan; the caches stay the caller's, who closes them. ``state.site.streams.close``
    ends the streams of events, which an ASGI server waits for when it ends.

    Args:
        homes: the caches by the ids that ``?home=`` chooses by; without it the first is shown.
        access: who may ask.
        privacy: what is told; None: no values of environments and labels.

    Raises:
        InvalidConfigError: there is no home.
    """
    if not homes:
        raise InvalidConfigError("at least one home is served")
    site = Site(homes, privacy or Privacy())
    routes = [
        *pages.routes(site),
        Route("/api/openapi.json", _description, methods=["GET"]),
        Mount("/api", app=Router(api.routes(site), redirect_slashes=False)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Told), Middleware(Guard, access=access)],
        exception_handlers={HTTPException: refused},
    )
    app.router.redirect_slashes = False
    app.state.site = site
    return app


async def refused(request: Request, error: Exception) -> Response:
    """Answer what the router refuses as everything else is refused."""
    return problem(request.scope, error)


async def _description(request: Request) -> Response:
    return Response(await asyncio.to_thread(_encoded_description), media_type="application/json")


@cache
def _encoded_description() -> bytes:
    return encoded(description())


class Told:
    """Tells the diagnostics of each request: not its query, which can hold what is nobody's business."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and tell."""
        began = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if scope["type"] == "http":
                diagnostics.debug(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(time.monotonic() - began, 3),
                )
