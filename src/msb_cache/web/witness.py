"""The HTTP of a witness, as C2SP's tlog-witness: ``add-checkpoint``, and the latest checkpoint of each log.

Not for what is cosigned: see ``proof/witness``. Anybody may ask, as the protocol wants it: what decides is
whether a log that is known has signed what comes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from msb_cache import diagnostics
from msb_cache.errors import BusyError
from msb_cache.proof.submission import MAX_REQUEST, PATH
from msb_cache.proof.witness import TEXT_TYPE, Answer, Witness
from msb_cache.web.listening import REQUEST_SECONDS
from msb_cache.web.problems import RefusedError
from msb_cache.wording import as_sentence

Endpoint = Callable[[Request], Awaitable[Response]]

_HASH = re.compile(r"[0-9a-f]{64}")
_CLOSING = {"Connection": "close"}
"""Of an answer before which not all of the request was read."""


def application(witness: Witness, told: Callable[[Answer], None] = lambda answer: None) -> Starlette:
    """Return a witness as an application, to be served by any ASGI server; it needs no lifespan.

    Args:
        witness: what decides; it stays the caller's, who closes it.
        told: gets what each submission was answered, in the thread of the event loop.
    """

    async def add_checkpoint(request: Request) -> Response:
        body = await _body_of(request)
        answer = await asyncio.to_thread(witness.add_checkpoint, body)
        told(answer)
        # As a header: to a media type that is given Starlette adds a charset.
        return Response(answer.body, answer.status, {"Content-Type": answer.content_type})

    async def checkpoint(request: Request) -> Response:
        wanted = request.path_params["hash"]
        found = await asyncio.to_thread(witness.checkpoint, wanted) if _HASH.fullmatch(wanted) else None
        if found is None:
            return _text(HTTPStatus.NOT_FOUND, "this witness has cosigned no checkpoint of such a log")
        return Response(found.encode(), media_type=TEXT_TYPE)

    app = Starlette(
        routes=[
            Route(f"/{PATH}", _answering(add_checkpoint), methods=["POST"]),
            Route("/{hash}/checkpoint", _answering(checkpoint), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _elsewhere},
    )
    app.router.redirect_slashes = False
    return app


async def _body_of(request: Request) -> bytes:
    """Return the body of a request: bounded, and sent in time.

    Raises:
        RefusedError: it is neither.
    """
    too_large = RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a request has at most {MAX_REQUEST} bytes here",
        "too-large",
        _CLOSING,
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_REQUEST:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_REQUEST:
                    raise too_large
    except TimeoutError:
        raise RefusedError(
            HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end", "timeout", _CLOSING
        ) from None
    return bytes(body)


def _answering(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that tells about its errors in a sentence; what is the matter here stays here."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return _text(HTTPStatus.BAD_REQUEST, "the request was broken off")  # which nobody hears
        except RefusedError as error:
            return _text(error.status, error.sentence, error.headers)
        except BusyError:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "this witness is busy", {"Retry-After": "3"})
        except Exception as error:
            diagnostics.warning("witness failed", error=type(error).__name__, said=as_sentence(error)[:500])
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, "this witness cannot answer; its log says why")

    return answer


async def _elsewhere(request: Request, error: Exception) -> Response:
    """Answer what has no endpoint."""
    status, headers = HTTPStatus.NOT_FOUND, {}
    if isinstance(error, HTTPException):
        status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    sentence = {
        HTTPStatus.NOT_FOUND: f"there is nothing at this path; there are {PATH} and HASH/checkpoint",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{PATH} is asked by POST, and checkpoints by GET",
    }.get(status, status.phrase)
    if request.method not in ("GET", "HEAD"):
        headers |= _CLOSING
    return _text(status, sentence, headers)


def _text(status: HTTPStatus, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{sentence}\n", status, headers)
