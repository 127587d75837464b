"""What is served: homes by their ids, and what of them is told."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from msb_cache.async_cache import AsyncImageCache
from msb_cache.interchange.privacy import Privacy
from msb_cache.queries.near import meant
from msb_cache.report.facts import CacheReport
from msb_cache.shapes import jsonable
from msb_cache.web.live import Streams
from msb_cache.web.problems import RefusedError
from msb_cache.web.turns import Turns

EXPENSIVE_AT_ONCE = 2
EXPENSIVE_WAITING = 16
STREAMS = 16


class Site:
    """What is served.

    Args:
        homes: their caches by id, in order: without an id the first is meant.
        privacy: what is told.
    """

    def __init__(self, homes: Mapping[str, AsyncImageCache], privacy: Privacy) -> None:
        self.homes = {**homes}
        self.privacy = privacy
        self.turns = Turns(EXPENSIVE_AT_ONCE, EXPENSIVE_WAITING)
        self.streams = Streams(STREAMS)

    def home(self, name: str | None) -> tuple[str, AsyncImageCache]:
        """Return a home's id and its cache; None: the first.

        Raises:
            RefusedError: there is none of that id.
        """
        wanted = next(iter(self.homes)) if name is None else name
        if wanted not in self.homes:
            offered = meant(wanted[:100], self.homes) or f"; there are: {', '.join(self.homes)}"
            raise RefusedError(
                HTTPStatus.NOT_FOUND, f"no home is served under this id{offered}", "home-not-found"
            )
        return wanted, self.homes[wanted]

    def plain(self, value: Any) -> Any:
        """Return a value of the library as JSON has it, without what is not told."""
        return jsonable(self.privacy.of(value))

    def check_asked(self, given: Mapping[str, Any]) -> None:
        """Refuse a question whose answer would tell what is not told: who may ask again could spell it out.

        Args:
            given: the parameters of the query.

        Raises:
            RefusedError: it looks at values of environments or labels, or at people, which are left out.
        """
        config, people = self.privacy.config, self.privacy.people
        hidden = [name for name in ("actor", "host") if name in given and not people]
        hidden += ["grep"] * ("grep" in given and not (config and people))
        values = (text.partition("=")[2] for text in given.get("filter", ()) if text.startswith("label"))
        hidden += ["filter"] * (not config and any("=" in text for text in values))
        if hidden:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"{hidden[0]} looks at what this server does not tell; it may with --with-config and without "
                "--no-people",
                "not-told",
            )

    async def report(self, cache: AsyncImageCache, given: Mapping[str, Any]) -> CacheReport:
        """Return the report that ``as_of`` and ``since`` ask for, in its turn."""
        options: dict[str, Any] = {name: given[name] for name in ("as_of", "since") if name in given}
        async with self.turns.taken():
            found: CacheReport = await cache.report(
                with_config=self.privacy.config, people=self.privacy.people, **options
            )
        return found


def ids_of(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return a short id for each home: the name of its folder, with a number where several have that."""
    found: list[str] = []
    for path in paths:
        name = os.path.basename(os.path.abspath(path)).lstrip(".")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:40] or "home"
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}-{number}"
        found.append(free)
    return found
