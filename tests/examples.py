"""Two small images that share a layer, and what many tests ask of a cache."""

from __future__ import annotations

import io

from msb_cache import (
    ImageCache,
)
from tests.imagebuilder import BuiltImage, directory, docker_archive, file, image, layer

SHARED = layer([directory("etc"), file("etc/shared", b"s" * 5000)])


CONFIG = {
    "Env": ["A=1", "B=2"],
    "Cmd": ["/bin/sh"],
    "Entrypoint": ["/init"],
    "WorkingDir": "/w",
    "User": "app",
    "Labels": {"k": "v"},
    "StopSignal": "SIGINT",
}


ONE = image([SHARED, layer([file("one", b"1")])], "one:1", config=CONFIG)


TWO = image([SHARED, layer([file("two", b"2")])], "two:1")


def archive(*images: BuiltImage) -> io.BytesIO:
    return io.BytesIO(docker_archive(*images))


def types(cache: ImageCache) -> list[str]:
    return [event.type for event in cache.events()]


DAY = 86_400 * 10**9
START = 1_800_000_000 * 10**9
"""2027-01-15T08:00:00Z, where tests' clocks begin that need a time."""


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, ns: int = START) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns

    def days(self, count: float) -> None:
        """Go on by so many days."""
        self.ns += int(count * DAY)
