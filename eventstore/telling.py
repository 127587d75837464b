"""The line in which an event tells people what happened. How it is coloured and laid out, cli decides."""

from __future__ import annotations

from typing import Literal

import msgspec

Tone = Literal["came", "used", "held", "went", "plain"]
"""What became of the image: it came, was used, was held or let go, went; ``plain``: nothing of that."""


class Moment(msgspec.Struct, frozen=True):
    """A detail that ends with a time in ns since the epoch: how that is written, cli decides."""

    words: str
    ns: int


class Named(msgspec.Struct, frozen=True):
    """A detail that ends with a digest or an operation's id, whole: what of that is shown, cli decides."""

    words: str
    name: str


Detail = str | Moment | Named


class Telling(msgspec.Struct, frozen=True):
    """One event for people: what happened in one or two words, its tone, and details, each a few words."""

    what: str
    tone: Tone = "plain"
    details: tuple[Detail, ...] = ()
