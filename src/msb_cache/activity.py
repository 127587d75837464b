"""What goes on in work that takes long, and how far it is, for a person who waits for it.

Not how that looks: a command shows it on a terminal, a program as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeVar

Unit = Literal["bytes", "events", "files", "images"]

_EVERY = 100
"""After so many of what is counted one by one it is told how many there were."""

T = TypeVar("T")


class Activity(NamedTuple):
    """What is being done.

    Attributes:
        what: that, such as ``checking the log``.
        unit: what is counted; None: nothing is.
        done: how many of these are done.
        total: of how many; None: that is not known.
        over: it has ended, whether it succeeded or not.
    """

    what: str
    unit: Unit | None = None
    done: int = 0
    total: int | None = None
    over: bool = False


Tell = Callable[[Activity], None]
"""Told when something begins, as it goes on, and when it is over, in the thread that does it.

Within one activity there can be another, which is over before the first goes on.
"""


class Count:
    """Tells how many of its units an activity has done."""

    def __init__(self, tell: Tell | None, activity: Activity) -> None:
        self._tell = tell
        self._activity = activity

    def __call__(self, done: int, total: int | None = None) -> None:
        """Tell that so many are done; and, if that is known only now, of how many."""
        if self._tell is not None:
            total = self._activity.total if total is None else total
            self._activity = self._activity._replace(done=done, total=total)
            self._tell(self._activity)

    def each(self, items: Iterable[T]) -> Iterable[T]:
        """Return the items, counted as they are taken."""
        return items if self._tell is None else self._counted(items)

    def _counted(self, items: Iterable[T]) -> Iterator[T]:
        done = self._activity.done
        for item in items:
            yield item
            done += 1
            if not done % _EVERY:
                self(done)
        self(done)


class Activities:
    """What tells of activities; ``tell`` may be None, and then there is nothing to do."""

    def __init__(self, tell: Tell | None = None) -> None:
        self._tell = tell

    @contextmanager
    def __call__(self, what: str, unit: Unit | None = None, total: int | None = None) -> Iterator[Count]:
        """Tell that this goes on in the block; what is given counts."""
        activity = Activity(what, unit, 0, total)
        if self._tell is not None:
            self._tell(activity)
        try:
            yield Count(self._tell, activity)
        finally:
            if self._tell is not None:
                self._tell(activity._replace(over=True))
