"""The same questions of a host and of a fleet, and what differs by design."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msb_cache.errors import MicrosandboxError
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.hosts import KnownLog, OnHost
from msb_cache.shapes import jsonable
from tests.fleet.random_lives import REFERENCES, Host
from tests.fleet.sent import log_of


def told(found: Any) -> Any:
    """An answer as JSON, without what a fleet does not tell: images' configurations."""
    value = jsonable(found)
    if isinstance(value, dict):
        data = value.get("data")
        if value.get("type") == "manifest.added" and isinstance(data, dict):
            data["config"] = None
        return {name: told(each) for name, each in value.items()}
    return [told(each) for each in value] if isinstance(value, list | tuple) else value


def own(answer: Callable[[], Any]) -> Any:
    """What a host answers, as a list, or what kind of error."""
    try:
        found = told(answer())
    except MicrosandboxError as error:
        return type(error).__name__
    return found if isinstance(found, list) else [found]


def of_fleet(answer: Callable[[], OnHost[Any] | Iterable[OnHost[Any]]], log: KnownLog) -> Any:
    """The same of a fleet that is asked of one log, without which host it is."""
    try:
        answered = answer()
        found = [answered] if isinstance(answered, OnHost) else [*answered]
    except MicrosandboxError as error:
        return type(error).__name__
    for each in found:
        assert (each.host, each.log_id, each.folded_seq) == (log.host, log.log_id, log.size)
    return [told(each.found) for each in found]


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "events": lambda asked: asked.events(),
    "newest events": lambda asked: asked.events(reverse=True, limit=5),
    "events of a type": lambda asked: asked.events(types=["image.used", "manifest.added"]),
    "events since": lambda asked: asked.events(since="30 minutes ago"),
    **{f"history {name}": lambda asked, name=name: asked.history(name) for name in (*REFERENCES, "app:*")},
    "list": lambda asked: asked.list(),
    "last_used": lambda asked: asked.last_used(),
    "last_used of long": lambda asked: asked.last_used(at_least="10m"),
    "holds": lambda asked: asked.holds(),
    **{f"holds {name}": lambda asked, name=name: asked.holds(name) for name in REFERENCES},
    "prunes": lambda asked: asked.prunes(),
    **{f"why {name}": lambda asked, name=name: asked.why(name) for name in REFERENCES},
}
"""What is asked in the same words: of a host's cache, and of a fleet about one log."""


class AboutOne:
    """A fleet that is asked about one log."""

    def __init__(self, fleet: Fleet, log: KnownLog) -> None:
        self._fleet, self._log = fleet, log

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(getattr(self._fleet, name), hosts=[self._log.log_id])


def check(host: Host, fleet: Fleet) -> None:
    """Ask a host and the fleet the same."""
    [log] = fleet.logs([log_of(host.cache.home)[0][0]])
    deletions = [each.operation for each in host.cache.prunes()]
    for question, ask in (
        QUESTIONS | {f"prune_report {name}": partial(_report, name) for name in deletions}
    ).items():
        mine = own(partial(ask, host.cache))
        theirs = of_fleet(partial(ask, AboutOne(fleet, log)), log)
        assert theirs == mine, f"{question} of {host.name}"


def _report(operation: str, asked: Any) -> Any:
    return asked.prune_report(operation)
