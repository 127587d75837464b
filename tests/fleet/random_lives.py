"""Random lives of hosts, lived by real caches: images come, are used, held, pinned, moved and go."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path

from hypothesis import strategies as st

from msb_cache import Actor, ImageCache, MicrosandboxError
from tests.imagebuilder import docker_archive, file, image, layer

BEGIN = 1_800_000_000 * 10**9
NAMES = ("app:1", "app:2", "tool:1")
Step = tuple[str, str, int]
"""What is done, to which image, and a number that chooses how."""

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("load", "load", "load", "use", "hold", "release", "pin", "unpin", "remove", "prune")
        ),
        st.sampled_from(NAMES),
        st.integers(0, 3),
    ),
    max_size=14,
)


@cache
def _archive(name: str, content: int) -> bytes:
    """An image of one of four contents, which share their lowest layers in pairs."""
    layers = [layer([file("base", b"%d" % (content // 2))]), layer([file("top", b"%d" % content)])]
    return docker_archive(image(layers, name, config={"Env": ["SECRET=1"]}))


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
        holder = f"sandbox:s{number}"
        with ExitStack() as stack:
            cache = stack.enter_context(self.cache("bob" if number == 3 else "alice"))
            try:
                if what == "load":
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    path = folder / "image.tar"
                    path.write_bytes(_archive(name, number))
                    cache.load(path)
                elif what == "use":
                    cache.use(name, holder=holder)
                elif what == "hold":
                    cache.hold(name, holder)
                elif what == "release":
                    cache.release(holder)
                elif what == "pin":
                    cache.pin(name, reason='of "Ä" %_')
                elif what == "unpin":
                    cache.unpin(name)
                elif what == "remove":
                    cache.remove([name], force=number == 0, reason="superseded")
                else:
                    cache.prune()
            except MicrosandboxError:
                pass  # what is not there, or held, is refused as it should be
