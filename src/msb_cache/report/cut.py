"""The part of a chronicle that a report shows: up to one position, from another one on."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from msb_cache.eventstore.store import Actor
from msb_cache.report.chronicle import Chronicle, Lasting


class Cut(Struct, frozen=True):
    """What of a log is shown.

    Attributes:
        chronicle: the log.
        until: the last position.
        after: the position behind which the time shown begins.
        since_ns: that time.
        at_ns: the moment that is told of; at or after the last position.
        people: whether users, machines and their reasons are told.
    """

    chronicle: Chronicle
    until: int
    after: int
    since_ns: int
    at_ns: int
    people: bool = True

    def began_ns(self, lasting: Lasting) -> int:
        """Return since when something lasts; never later than the position that says so."""
        return min(lasting.since_ns, self.chronicle.at_ns(lasting.seq))

    def ended_ns(self, lasting: Lasting) -> int | None:
        """Return when something ended, never before it began; None: not by the last position.

        The time of an end that comes by itself may be later than the moment shown.
        """
        until = lasting.until_ns
        if lasting.end_seq and lasting.end_seq <= self.until:
            ended = min(lasting.end_ns, self.chronicle.at_ns(lasting.end_seq))
            until = ended if until is None else min(ended, until)
        return None if until is None else max(until, self.began_ns(lasting))

    def told(self, seq: int, time_ns: int) -> int:
        """Return a time that an event tells; never later than its position."""
        return min(time_ns, self.chronicle.at_ns(seq))

    def person(self, number: int) -> str:
        """Return who a person of the chronicle is, in words; negative: nobody, so nothing."""
        return person(self.chronicle.people[number], self.people) if number >= 0 else ""


def person(actor: Actor, people: bool = True) -> str:
    """Return who did something, without how and why: a user on a machine, or a program.

    Args:
        actor: who it was.
        people: whether users and machines are told of.
    """
    name = f"{actor.login or actor.user}@{actor.host}" if people else actor.program
    return f"seen by {name}" if actor.observed and actor.seen_by is None else name


def spread(found: Sequence[int], most: int) -> list[int]:
    """Return at most so many of some numbers, evenly spread over them, the first and the last included."""
    count = len(found)
    if count <= most:
        return [*found]
    return [found[index * (count - 1) // (most - 1)] for index in range(most)]


def shortened(text: str, most: int) -> str:
    """Return a text, cut where it is longer than so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
