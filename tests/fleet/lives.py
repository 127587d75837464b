"""Hosts with lives of their own: what people do to a cache, in any order, on the same clock."""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import count
from pathlib import Path

from msb_cache import Actor, ImageCache, MicrosandboxError, PrunePolicy
from tests.imagebuilder import directory, docker_archive, file, image, layer

MINUTE = 60 * 10**9
BEGIN = 1_795_000_000 * 10**9  # ns since the epoch

_BASE = layer([directory("etc"), file("etc/name", b"base\n")])
_LABELS = {"Labels": {"team": "green", "nul": "a\0b"}, "Env": ["TOKEN=secret"]}
ARCHIVES = [
    docker_archive(
        image([_BASE, layer([file(f"data{number}", bytes([number]) * 3000)])], *names, config=config)
    )
    for number, (names, config) in enumerate(
        [
            (("app:1", "app:latest"), _LABELS),
            (("app:1",), {}),
            (("example.org/team/tool:2",), {"Cmd": ["/tool"]}),
            (("ghcr.io/acme/agent:3",), _LABELS),
        ]
    )
]
REFERENCES = ("app:1", "app:latest", "example.org/team/tool:2", "ghcr.io/acme/agent:3")

OPERATIONS = (
    *("load", "load", "load", "use", "use", "hold", "hold briefly", "release", "pin", "unpin", "remove"),
    *("force", "prune", "policy", "later", "back"),
)
"""What can be done; what comes to nothing where it is done is no error."""


class Clock:
    """Minutes go by, and now and then it is put back."""

    def __init__(self) -> None:
        self.now_ns = BEGIN

    def __call__(self) -> int:
        return self.now_ns


class Host:
    """A machine with a home.

    Attributes:
        name: the machine's.
        cache: its home.
    """

    def __init__(self, home: Path, name: str, clock: Clock) -> None:
        actor = Actor(user="ci", uid=1000, host=name, program="msb-cache")
        self.name, self._clock, self._numbers = name, clock, count()
        self.cache = ImageCache(home, actor=actor, clock=clock)
        self.do("load", 0)

    def do(self, operation: str, choice: int) -> None:
        """Do one of ``OPERATIONS``, to the image of that number."""
        self._clock.now_ns += MINUTE
        reference, cache = REFERENCES[choice % len(REFERENCES)], self.cache
        holder = f"sandbox:{choice % 2}"
        with suppress(MicrosandboxError):
            match operation:
                case "load":
                    cache.load(io.BytesIO(ARCHIVES[choice % len(ARCHIVES)]))
                case "use":
                    cache.use(reference, holder=holder)
                case "hold":
                    cache.hold(reference, holder)
                case "hold briefly":
                    cache.hold(reference, holder, until="30m")
                case "release":
                    cache.release(holder)
                case "pin":
                    cache.pin(reference, reason="<needed> \u202e")
                case "unpin":
                    cache.unpin(reference)
                case "remove":
                    cache.remove(reference)
                case "force":
                    cache.remove(reference, force=True)
                case "prune":
                    cache.prune(reason="nightly")
                case "policy":
                    cache.prune(PrunePolicy(unused_for="5m"))
                case "later":
                    self._clock.now_ns += 45 * MINUTE
                case "back":
                    self._clock.now_ns -= 90 * MINUTE
                case _:
                    raise AssertionError(operation)

    def export(self, events: int | None = None) -> bytes:
        """Return the export of its log, or of so many of its first events."""
        out = io.BytesIO()
        self.cache.export(out)
        return b"".join(out.getvalue().splitlines(keepends=True)[:events])
