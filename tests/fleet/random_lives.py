"""Random lives of hosts, lived by real caches: what people do to one, in any order.

There are two kinds of hosts. Of a ``Life`` every step is a command of its own, by one of two people. A
``Host`` has one cache that stays open, and a clock that several share and that is put back now and then. What
no cache would ever write is in ``randomlogs``.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache as kept
from itertools import count
from pathlib import Path

from hypothesis import strategies as st

from msb_cache import Actor, ImageCache, MicrosandboxError, PrunePolicy
from tests.imagebuilder import docker_archive, file, image, layer

BEGIN = 1_800_000_000 * 10**9  # ns since the epoch
MINUTE = 60 * 10**9
NAMES = ("app:1", "app:2", "tool:1")
REFERENCES = ("app:1", "app:latest", "example.org/team/tool:2", "ghcr.io/acme/agent:3")
Step = tuple[str, str, int]
"""What is done, to which image, and a number that chooses how."""

OFTEN = ("load", "load", "load", "use", "hold", "release", "pin", "unpin", "remove", "prune")
OPERATIONS = (*OFTEN, "use", "hold briefly", "force", "policy", "later", "back")
"""What can be done to a ``Host``; what comes to nothing where it is done is no error."""

steps = st.lists(
    st.tuples(st.sampled_from(OFTEN), st.sampled_from(NAMES), st.integers(0, 3)),
    max_size=14,
)
"""The steps of a ``Life``."""

_CONFIGS = (
    {"Env": ["SECRET=1"]},
    {"Env": ["SECRET=1"], "Labels": {"team": "green", "nul": "a\0b"}},
    {},
    {"Cmd": ["/tool"]},
)


@kept
def _archive(name: str, content: int) -> bytes:
    """An image of one of four contents, which share their lowest layers in pairs; app:latest is app:1 too."""
    layers = [layer([file("base", b"%d" % (content // 2))]), layer([file("top", b"%d" % content * 3000)])]
    names = (name, "app:1") if name == "app:latest" else (name,)
    return docker_archive(image(layers, *names, config=_CONFIGS[content]))


def _load(cache: ImageCache, data: bytes, *, from_file: bool) -> None:
    if not from_file:
        cache.load(io.BytesIO(data))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.tar")
        path.write_bytes(data)
        cache.load(path)


def _do(cache: ImageCache, what: str, name: str, number: int, holder: str) -> None:
    """Do something; what is not there, or held, is refused as it should be."""
    with suppress(MicrosandboxError):
        match what:
            case "load":
                _load(cache, _archive(name, number % 4), from_file=number % 2 == 0)
            case "use":
                cache.use(name, holder=holder)
            case "hold":
                cache.hold(name, holder)
            case "hold briefly":
                cache.hold(name, holder, until="30m")
            case "release":
                cache.release(holder)
            case "pin":
                cache.pin(name, reason="<needed> \u202e" if number % 2 else 'of "Ä" %_')
            case "unpin":
                cache.unpin(name)
            case "remove" | "force":
                cache.remove([name], force=what == "force", reason="superseded")
            case "prune":
                cache.prune(reason="nightly" if number % 2 else None)
            case "policy":
                cache.prune(PrunePolicy(unused_for="5m"))
            case _:
                raise AssertionError(what)


class Life:
    """A host that lives on, step by step.

    Args:
        home: its home.
        host: the machine's name.
        clock: gives times, in ns since the epoch.
    """

    def __init__(self, home: Path, host: str, clock: Iterable[int] | None = None) -> None:
        self.home = home
        self.host = host
        self._clock = iter(clock or count(BEGIN, 10**9))
        self._now = next(self._clock)
        # A home has a log from its first event on.
        self.step(("load", NAMES[0], 0))

    def cache(self, user: str = "alice") -> ImageCache:
        actor = Actor(user=user, uid=1000, host=self.host, program="test")
        return ImageCache(self.home, actor=actor, clock=lambda: self._now)

    def step(self, step: Step) -> None:
        what, name, number = step
        self._now = next(self._clock)
        if (what, number) == ("remove", 0):
            what = "force"
        with self.cache("bob" if number == 3 else "alice") as cache:
            _do(cache, what, name, number, f"sandbox:s{number}")


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
        self.name, self._clock = name, clock
        self.cache = ImageCache(home, actor=actor, clock=clock)
        self.do("load", 0)

    def do(self, operation: str, choice: int) -> None:
        """Do one of ``OPERATIONS``, to the image of that number: there are two contents of each."""
        self._clock.now_ns += MINUTE
        if operation == "later":
            self._clock.now_ns += 45 * MINUTE
        elif operation == "back":
            self._clock.now_ns -= 90 * MINUTE
        else:
            reference = REFERENCES[choice % len(REFERENCES)]
            _do(self.cache, operation, reference, choice % 3, f"sandbox:{choice % 2}")

    def export(self, events: int | None = None) -> bytes:
        """Return the export of its log, or of so many of its first events."""
        out = io.BytesIO()
        self.cache.export(out)
        return b"".join(out.getvalue().splitlines(keepends=True)[:events])
