"""The JSON API: what each path answers, in the shapes that the commands print with ``--format json``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from msb_cache.async_cache import AsyncImageCache
from msb_cache.care.disk_usage import DiskUsage
from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.projections.history import HistoryEvent
from msb_cache.queries.as_of import Changes, Hold
from msb_cache.queries.deletions import DeletionReport, DeletionSummary
from msb_cache.queries.info import HomeInfo
from msb_cache.queries.last_used import IdleImage
from msb_cache.queries.resolve import as_typed
from msb_cache.report.facts import CacheReport
from msb_cache.web import schemas
from msb_cache.web.asked import AS_OF, FILTERS, HOME, LIMIT, PAGE, SINCE, Parameter, given
from msb_cache.web.problems import answering, encoded
from msb_cache.web.schemas import Schema, Schemas, items
from msb_cache.web.site import Site


class Asked:
    """What one request asks of a home.

    Attributes:
        site: what is served.
        cache: the home's.
        given: the parameters that were given.
        path: what stands in the path, such as the reference; empty: nothing.
        next: the parameters of the next page, which an answer that has one sets.
    """

    def __init__(self, site: Site, cache: AsyncImageCache, given: dict[str, Any], path: str) -> None:
        self.site = site
        self.cache = cache
        self.given = given
        self.path = path
        self.next: dict[str, Any] | None = None


class Endpoint(Struct, frozen=True):
    """A path of the API.

    Attributes:
        path: below ``/api``.
        summary: what it answers, in a line.
        answer: asks the home; returns what makes plain data of that, for another thread.
        schema: of the answer.
        parameters: of the query, besides ``home``.
        in_path: what stands at the path's end, and what that means.
        expensive: it waits for its turn.
    """

    path: str
    summary: str
    answer: Callable[[Asked], Awaitable[Callable[[], Any]]]
    schema: Callable[[Schemas], Schema]
    parameters: Sequence[Parameter] = ()
    in_path: tuple[str, str] | None = None
    expensive: bool = False

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the query."""
        return (HOME, *self.parameters)


async def _homes(asked: Asked) -> Callable[[], Any]:
    homes = [
        {"id": name, "home": str(cache.home), "kept_by_msb": cache.kept_by_msb}
        for name, cache in asked.site.homes.items()
    ]
    return lambda: homes


async def _images(asked: Asked) -> Callable[[], Any]:
    asked.site.check_asked(asked.given)
    as_of = asked.given.get("as_of")
    patterns, selected = asked.given.get("pattern", ()), asked.given.get("filter", ())
    handles = await asked.cache.list(*patterns, filter=selected, as_of=as_of)
    damage = await asked.cache.damage(as_of=as_of) if handles else []
    damaged = {as_typed(each.reference, each.spelling) for each in damage}
    plain = asked.site.plain
    return lambda: [{**plain(each), "damaged": each.reference in damaged} for each in handles]


async def _image(asked: Asked) -> Callable[[], Any]:
    as_of = asked.given.get("as_of")
    detail = await asked.cache.inspect(asked.path, as_of=as_of)
    holders = await asked.cache.holders(asked.path, as_of=as_of)
    pins = await asked.cache.pins(asked.path, as_of=as_of)
    plain = asked.site.plain
    return lambda: {**plain(detail.handle), "holders": holders, "pins": plain(pins), **plain(detail)}


async def _history(asked: Asked) -> Callable[[], Any]:
    asked.site.check_asked(asked.given)
    asked.given.setdefault("limit", PAGE)
    return _page(asked, await asked.cache.history(asked.path, **asked.given))


async def _events(asked: Asked) -> Callable[[], Any]:
    asked.site.check_asked(asked.given)
    asked.given.setdefault("limit", PAGE)
    return _page(asked, await asked.cache.events(**asked.given))


def _page(asked: Asked, found: Sequence[StoredEvent]) -> Callable[[], Any]:
    """Return a page of events, and say where the next one begins if this one is full."""
    if found and len(found) == asked.given["limit"]:
        last = found[-1].seq
        if asked.given.get("reverse"):
            if last > 1:
                asked.next = {**asked.given, "recorded_until": f"@{last - 1}"}
        elif "after" in asked.given:
            asked.next = {**asked.given, "after": last}
    return lambda: asked.site.plain(found)


async def _prunes(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.prunes(limit=asked.given.get("limit", PAGE))
    return lambda: asked.site.plain(found)


async def _prune(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.prune_report(asked.path)
    return lambda: asked.site.plain(found)


async def _last_used(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.last_used(at_least=asked.given.get("idle_for"))
    return lambda: asked.site.plain(found)


async def _holders(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.holds(asked.given.get("reference"), as_of=asked.given.get("as_of"))
    return lambda: asked.site.plain(found)


async def _df(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.disk_usage()
    return lambda: to_builtins(asked.site.privacy.of(found))


async def _why(asked: Asked) -> Callable[[], Any]:
    policy = None
    with suppress(InvalidConfigError):  # a mistake in it is no reason to say nothing about the image
        policy = await asked.cache.policy()
    found = await asked.cache.why(asked.path, policy=policy)
    return lambda: asked.site.plain(found)


async def _diff(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.diff(asked.given["before"], asked.given.get("after"))
    return lambda: asked.site.plain(found)


async def _report(asked: Asked) -> Callable[[], Any]:
    found = await asked.site.report(asked.cache, asked.given)
    return lambda: asked.site.plain(found)


async def _info(asked: Asked) -> Callable[[], Any]:
    found = await asked.cache.info()
    return lambda: asked.site.plain(found)


_REFERENCE = ("reference", "A reference, or a digest or its beginning.")
_OPERATION = ("operation", "The operation's id, or a unique beginning of it.")
_TARGET = ("target", "A reference, or the digest of a manifest or layer, or its beginning.")
_HOMES_SCHEMA = items(
    schemas.object_of({"id": schemas.TEXT, "home": schemas.TEXT, "kept_by_msb": schemas.FLAG})
)


def _of(kind: Any) -> Callable[[Schemas], Schema]:
    return lambda of: of.of(kind)


ENDPOINTS = (
    Endpoint("/homes", "The homes that are served.", _homes, lambda of: _HOMES_SCHEMA),
    Endpoint(
        "/images",
        "Cached images, newest first.",
        _images,
        lambda of: items(schemas.image_in_list(of)),
        (
            AS_OF,
            Parameter("pattern", "Only images that this means, with or without wildcards.", many=True),
            Parameter("filter", "Only what `prune --filter` selects, such as `label=team=web`.", many=True),
        ),
    ),
    Endpoint(
        "/images/{reference}",
        "An image's configuration, layers, holders and pins.",
        _image,
        schemas.image_in_full,
        (AS_OF,),
        _REFERENCE,
    ),
    Endpoint(
        "/history/{reference}",
        "Everything that happened to an image, oldest first, also when it is gone.",
        _history,
        _of(list[HistoryEvent]),
        FILTERS,
        ("reference", "A reference, with or without wildcards, or a digest or its beginning."),
    ),
    Endpoint("/events", "The event log.", _events, _of(list[StoredEvent]), FILTERS),
    Endpoint(
        "/prunes", "Past prunes and removals, newest first.", _prunes, _of(list[DeletionSummary]), (LIMIT,)
    ),
    Endpoint(
        "/prunes/{operation}",
        "What one of them deleted and kept.",
        _prune,
        _of(DeletionReport),
        in_path=_OPERATION,
    ),
    Endpoint(
        "/last-used",
        "Images by how long they lay idle, longest first.",
        _last_used,
        _of(list[IdleImage]),
        (Parameter("idle_for", "Only those idle for as long, such as `30 days`."),),
    ),
    Endpoint(
        "/holders",
        "Who holds what.",
        _holders,
        _of(list[Hold]),
        (Parameter("reference", "Only holds of this image."), AS_OF),
    ),
    Endpoint("/df", "What the home takes of the disk.", _df, _of(DiskUsage), expensive=True),
    Endpoint(
        "/why/{target}",
        "Why an image, manifest or layer is here, or gone.",
        _why,
        schemas.reasons,
        in_path=_TARGET,
        expensive=True,
    ),
    Endpoint(
        "/diff",
        "What differs between two moments.",
        _diff,
        _of(Changes),
        (
            Parameter("before", "A time, or a position such as `@5`.", needed=True),
            Parameter("after", "Another; without it, now."),
        ),
        expensive=True,
    ),
    Endpoint("/report", "All that the page shows, as values.", _report, _of(CacheReport), (AS_OF, SINCE)),
    Endpoint("/info", "Which engine the home has, and how much there is.", _info, _of(HomeInfo)),
)
"""The API; the documents and its description are held against it."""


def routes(site: Site) -> list[Route]:
    """Return the routes of the API, below ``/api``."""
    return [Route(_pattern(each), _answering(site, each), methods=["GET"]) for each in ENDPOINTS]


def _pattern(endpoint: Endpoint) -> str:
    return endpoint.path.replace("}", ":path}")


def _answering(site: Site, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    return answering(partial(_answered, site, endpoint))


async def _answered(site: Site, endpoint: Endpoint, request: Request) -> Response:
    found = given(request.query_params, endpoint.all_parameters)
    home = found.pop("home", None)
    name, cache = site.home(home)
    path = next(iter(request.path_params.values()), "")
    asked = Asked(site, cache, found, path)
    if endpoint.expensive:
        async with site.turns.taken():
            make = await endpoint.answer(asked)
    else:
        make = await endpoint.answer(asked)
    body = await asyncio.to_thread(lambda: encoded(make()))
    headers = {}
    if asked.next is not None:
        if home is not None:
            asked.next["home"] = name
        values = {key: str(value).lower() if value is True else value for key, value in asked.next.items()}
        query = urlencode(values, doseq=True)
        headers["Link"] = f'<?{query}>; rel="next"'
    return Response(body, headers=headers, media_type="application/json")
