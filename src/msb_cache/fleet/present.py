"""Asking a fleet of now, in the words in which ``past`` asks it of then."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from msb_cache.fleet.images import known_references
from msb_cache.fleet.place import Reading

if TYPE_CHECKING:
    from msb_cache.fleet.timeline import Everywhere

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Question(Protocol[T_co]):
    """What a place is asked: about these logs (None: all) in a reading of it."""

    def __call__(self, reading: Reading, logs: Collection[str] | None, /) -> Iterable[T_co]:
        """Return what was found."""
        ...


class Present:
    """The present, which is asked at all places at the same time.

    Attributes:
        now_ns: the time, in ns since the epoch.
        unknown: a sentence if what was there then is not known; None.

    Args:
        everywhere: asks all places.
        logs: of which logs; None: of all.
        now_ns: the time.
    """

    unknown: str | None = None

    def __init__(self, everywhere: Everywhere, logs: Collection[str] | None, now_ns: int) -> None:
        self._everywhere, self._logs, self.now_ns = everywhere, logs, now_ns

    def ask(self, question: Question[T]) -> list[T]:
        """Return what the places have found."""
        return self._everywhere(lambda reading: question(reading, self._logs))

    def known_references(self) -> list[str]:
        """Return the references that there are, for an error to offer."""
        return self._everywhere(known_references)
