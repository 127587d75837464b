"""Which logs a fleet has, whose they are, and how far each has come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from msb_cache.errors import ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.place import Reading, Values
from msb_cache.oci.digest import shown
from msb_cache.queries.near import meant
from msb_cache.shapes import Result
from msb_cache.wording import short_log_id

T = TypeVar("T")

OF_LOG = (
    "h.log_id, coalesce(f.host, h.role), h.role, h.size, coalesce(f.seq, 0), coalesce(a.seq, 0), f.problem"
)
"""The columns of a ``KnownLog``, of ``WITH_LOG`` or ``with_log``."""
_AND = (
    "LEFT JOIN msb_cache.fold_state f ON f.log_id = h.log_id "
    "LEFT JOIN msb_cache.anchor a ON a.log_id = h.log_id"
)
WITH_LOG = f"msb_cache.head h {_AND}"
_OF_LOG = 7  # columns

_LOG_ID = re.compile(r"[0-9a-f]{4,32}")

LISTED = "; `msb-cache fleet hosts` lists them"
"""What the error about a host that is none says where nothing like it is known."""

HELD = "; `msb-cache fleet list` shows what the hosts have, `msb-cache fleet events` what they had"
"""The same of an image."""

LONGEST_NAME = 255
"""So many characters of a host's name are kept: it says so itself, and stands in everybody's tables."""


class KnownLog(msgspec.Struct, frozen=True):
    """A log of the fleet.

    Attributes:
        log_id: its id.
        host: the machine's name, as its events say; the role's until one was folded.
        role: which enrolment ships it.
        size: how many events were shipped.
        folded_seq: the last of them that is folded into what is asked; 0: none is.
        archived_seq: the last of them that is in an archive, and not told any more; 0: none is.
        problem: why it is not folded on, in a sentence; None: it is.
    """

    log_id: str
    host: str
    role: str
    size: int
    folded_seq: int
    archived_seq: int = 0
    problem: str | None = None

    @property
    def name(self) -> str:
        """What tells it from others in a sentence: its host, and the beginning of its id."""
        return f"{self.host} ({short_log_id(self.log_id)})"


@dataclass(frozen=True, slots=True)
class OnHost(Result, Generic[T]):
    """Something that is so on one host: what that host itself would answer, and how far its log is folded.

    ``folded_seq`` is the last event of its log that the answer knows; in JSON the fields of ``found`` stand
    beside these.
    """

    host: str
    log_id: str
    folded_seq: int
    found: T

    def _shape(self) -> dict[str, Any]:
        found = self.found
        assert isinstance(found, Result)  # noqa: S101
        own = {"host": self.host, "log_id": self.log_id, "folded_seq": self.folded_seq}
        return own | {name: value for name, value in found._shape().items() if name not in own}


def on_host(log: KnownLog, found: T) -> OnHost[T]:
    """Return what was found in a log, with the host that it is of."""
    return OnHost(log.host, log.log_id, log.folded_seq, found)


def logs(reading: Reading) -> list[KnownLog]:
    """Return every log of a place, by host."""
    return [KnownLog(*row) for row in reading.rows(f"SELECT {OF_LOG} FROM {WITH_LOG} ORDER BY 2, 1")]


def with_log(alias: str) -> str:
    """Return what joins the log of the rows of a table, so that ``OF_LOG`` can be selected."""
    return f"JOIN msb_cache.head h ON h.log_id = {alias}.log_id {_AND}"


def split(row: Values) -> tuple[KnownLog, Values]:
    """Return the log of a row that begins with the columns ``OF_LOG``, and what stands behind them."""
    return KnownLog(*row[:_OF_LOG]), row[_OF_LOG:]


def chosen(known: Iterable[KnownLog], names: Sequence[str]) -> list[KnownLog]:
    """Return the logs that names mean: a host's, a role, or a log's id or its beginning; none: all.

    Raises:
        ImageNotFoundError: a name means none.
    """
    everything = [*known]
    if not names:
        return everything
    found: dict[str, KnownLog] = {}
    for name in names:
        means = [log for log in everything if name in (log.host, log.role) or is_beginning(name, log.log_id)]
        if not means:
            near = meant(name, sorted({log.host for log in everything} | {log.role for log in everything}))
            raise ImageNotFoundError(f"no host of the fleet is {shown(name[:100])}{near or LISTED}")
        found.update((log.log_id, log) for log in means)
    return [log for log in everything if log.log_id in found]


def only(known: Iterable[KnownLog], name: str) -> KnownLog:
    """Return the one log that a name means.

    Raises:
        ImageNotFoundError: it means none.
        InvalidConfigError: it means several.
    """
    means = chosen(known, [name])
    if len(means) > 1:
        listed = ", ".join(log.name for log in means[:5])
        more = f" and {len(means) - 5} more" if len(means) > 5 else ""
        raise InvalidConfigError(
            f"{shown(name[:100])} means {len(means)} logs of the fleet: {listed}{more}; "
            "name one by the beginning of its id"
        )
    return means[0]


def is_beginning(text: str, log_id: str) -> bool:
    """Return whether a word means a log by its id, or the beginning of it."""
    return _LOG_ID.fullmatch(text) is not None and log_id.startswith(text)
