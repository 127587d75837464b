"""Which log is on which of a fleet's servers: kept on the first one, by those who fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from msb_cache.errors import MicrosandboxError
from msb_cache.fleet.place import SCHEMA, Place, marks
from msb_cache.fleet.writing import UnkeepableError, writable
from msb_cache.waiting import beside
from msb_cache.wording import short_log_id

EVERY_SECONDS = 60.0

_SAID = 5  # logs, in sentences
_AT_A_TIME = 500


def keep(places: Sequence[Place], said: Callable[[str], object]) -> None:
    """Write down on the first server which logs are on the others.

    Args:
        places: the first server, and the others.
        said: gets a sentence about logs that are on several, so that answers have them more than once.

    Raises:
        FleetError: a server cannot be asked.
    """
    first, *further = places
    if not further:
        return
    with ThreadPoolExecutor(min(len(places), 16)) as pool:
        mine, *others = pool.map(_logs, places)
    found: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    for place, logs in zip(further, others, strict=True):
        for log_id in sorted(logs):
            where = first.name if log_id in mine else found.setdefault(log_id, place.name)
            if where != place.name:
                twice[log_id] = (where, place.name)
    with suppress(UnkeepableError), writable(first) as into, into.transaction() as writing:
        # Another folder may do the same at this moment; then one of the two has done it.
        known: dict[str, str] = dict(writing.rows(f"SELECT log_id, server FROM {SCHEMA}.directory"))
        other = [log_id for log_id, server in known.items() if found.get(log_id) != server]
        for start in range(0, len(other), _AT_A_TIME):
            some = other[start : start + _AT_A_TIME]
            writing.run(f"DELETE FROM {SCHEMA}.directory WHERE log_id IN ({marks(some)})", some)
        new = [(log_id, server) for log_id, server in found.items() if known.get(log_id) != server]
        if new:
            writing.insert("directory", ("log_id", "server"), new)
    for log_id, (one, another) in [*twice.items()][:_SAID]:
        said(
            f"the log {short_log_id(log_id)} is on {one} and on {another}, and answers have it twice; "
            "its host must ship to one of them"
        )
    if len(twice) > _SAID:
        said(f"{len(twice) - _SAID} more logs are on several servers")


@contextmanager
def kept(
    places: Sequence[Place], said: Callable[[str], object], *, every: float = EVERY_SECONDS
) -> Iterator[None]:
    """Do that now and then, until the block ends; a server that is away is asked the next time."""
    if len(places) < 2:
        yield
        return
    told = set[str]()

    def say(sentence: str) -> None:
        if sentence not in told:
            told.add(sentence)
            said(sentence)

    def look() -> None:
        with suppress(MicrosandboxError):
            keep(places, say)

    with beside(look, "msb-cache-directory", every):
        yield


def _logs(place: Place) -> set[str]:
    with place.read() as reading:
        return {log_id for (log_id,) in reading.rows(f"SELECT log_id FROM {SCHEMA}.head")}
