"""What a request is told that cannot be answered: problem details (RFC 9457) with one sentence.

Not for what is logged. No answer carries a traceback, a token, or anything of a home that was not asked for.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from msb_cache import diagnostics, errors
from msb_cache.wording import as_sentence

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (errors.ImageNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.OperationNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.HomeNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.InvalidReferenceError, HTTPStatus.BAD_REQUEST),
    (errors.InvalidConfigError, HTTPStatus.BAD_REQUEST),
    (errors.BusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.ImageInUseError, HTTPStatus.CONFLICT),
    (errors.HomeOwnedByMicrosandboxError, HTTPStatus.CONFLICT),
)
"""The first that fits counts; of other errors of the library the status is 500, with their sentence."""

SECONDS = 60.0
"""After so many an answer is given up."""

_BRIEF = "3"
"""Seconds after which what is busy now may be asked again."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: the HTTP status.
        sentence: why, and what to do about it; for people.
        code: a stable name of the reason, for programs.
        headers: besides those that every answer has.
    """

    def __init__(
        self, status: HTTPStatus, sentence: str, code: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.code = code
        self.headers = headers or {}


def too_busy(sentence: str) -> RefusedError:
    """Return what says that the server has its hands full."""
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, sentence, "busy", {"Retry-After": _BRIEF})


def refusal(error: Exception) -> RefusedError:
    """Return what a request is told about an error; one that nobody expected is logged, and not told."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, errors.MicrosandboxError):
        found = (status for kind, status in _STATUS if isinstance(error, kind))
        status = next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(error, errors.FleetError) and error.temporary:
            status = HTTPStatus.SERVICE_UNAVAILABLE
        headers = {"Retry-After": _BRIEF} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
        return RefusedError(status, str(error), error.code, headers)
    if isinstance(error, TimeoutError):
        return too_busy("this took too long and was given up; ask for less, or again later")
    if isinstance(error, OSError | sqlite3.Error | MemoryError):
        return RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, as_sentence(error), "system-error")
    diagnostics.warning("request failed", error=type(error).__name__, said=str(error)[:300])
    sentence = "this server made a mistake; its log names it, at the level of warnings"
    return RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, sentence, "internal-error")


def _of_framework(error: HTTPException) -> RefusedError:
    status = HTTPStatus(error.status_code)
    sentence = {
        HTTPStatus.NOT_FOUND: "there is nothing at this path; /api/openapi.json lists what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: "this server only reads: it answers GET and HEAD",
    }.get(status, status.phrase)
    code = status.phrase.lower().replace(" ", "-")
    return RefusedError(status, sentence, code, dict(error.headers or {}))


def problem(scope: Scope, error: Exception) -> Response:
    """Return the answer that tells about an error: JSON, or the sentence alone for a person's browser."""
    told = refusal(error)
    accepts = dict(scope["headers"]).get(b"accept", b"")
    if b"text/html" in accepts:
        return PlainTextResponse(f"{told.sentence}\n", told.status, told.headers)
    body = {
        "type": "about:blank",
        "title": told.status.phrase,
        "status": int(told.status),
        "detail": told.sentence,
        "code": told.code,
    }
    return Response(encoded(body), told.status, told.headers, MEDIA_TYPE)


def answering(
    endpoint: Callable[[Request], Awaitable[Any]], *, seconds: float | None = SECONDS
) -> Callable[[Request], Awaitable[Any]]:
    """Return an endpoint that tells about its errors in a sentence, and takes at most so long."""

    async def answer(request: Request) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await endpoint(request)
        except Exception as error:
            return problem(request.scope, error)

    return answer


def encoded(value: Any) -> bytes:
    """Return plain data as JSON; a text that is no Unicode, as the name of a file can be, is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
