"""Writing commands that are killed, paused or made to fail at any step, and what their home must be then."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from msb_cache import DataRequest, ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.oci.reference import Reference
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer

Action = Callable[[ImageCache, Path], object]


SHARED = layer([file("shared", b"s" * 9000)])


ONE = image([SHARED, layer([file("one", b"1")])], "one:1")


TWO = image([SHARED, layer([file("two", b"2")])], "two:1")


MOVED = image([SHARED, layer([file("moved", b"3")])], "one:1")


def write(path: Path, *images: BuiltImage) -> Path:
    path.write_bytes(docker_archive(*images))
    return path


def load_two(cache: ImageCache, folder: Path) -> None:
    cache.load(folder / "two.tar", tag="extra:1")


def retag(cache: ImageCache, folder: Path) -> None:
    cache.load(folder / "moved.tar")


def remove(cache: ImageCache, folder: Path) -> None:
    cache.remove("one:1")


def prune(cache: ImageCache, folder: Path) -> None:
    cache.prune(orphans=True)


ACTIONS: dict[str, tuple[Action, list[BuiltImage]]] = {
    "load": (load_two, [ONE]),
    "load into an empty home": (load_two, []),
    "retag": (retag, [ONE]),
    "remove": (remove, [ONE, TWO]),
    "prune": (prune, [ONE, TWO]),
}


def prepare(folder: Path, name: str) -> Path:
    write(folder / "two.tar", TWO)
    write(folder / "moved.tar", MOVED)
    home = folder / "home"
    with ImageCache(home) as cache:
        for number, each in enumerate(ACTIONS[name][1]):
            cache.load(write(folder / f"{number}.tar", each))
        if name == "prune":
            cache.hold("two:1", "sandbox:dev")
            (home / "cache/layers" / f"sha256_{'0' * 64}.erofs").write_bytes(b"orphan")
    return home


def in_a_child(home: Path, action: Action, folder: Path, observer: Callable[[str], None]) -> int:
    """Run an action in a forked process; return its wait status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist's threads do not matter to the child
        child = os.fork()
    if child == 0:
        code = 1
        try:
            failpoints.observer = observer
            with ImageCache(home) as cache:
                action(cache, folder)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killing_at(number: int) -> Callable[[str], None]:
    count = 0

    def observer(step: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return observer


def names(home: Path) -> list[str]:
    with ImageCache(home) as cache:
        return sorted(handle.reference for handle in cache.list())


def log(home: Path) -> list[tuple[int, bytes]]:
    with ImageCache(home) as cache:
        return [(event.seq, event.hash) for event in cache.events()]


def check_clean(home: Path) -> None:
    """Nothing half-visible, nothing leaked, the log sound."""
    with ImageCache(home) as cache:
        found = cache.verify(data=DataRequest())
        assert found.sound, found
        assert found.data is None or found.data.digested == []  # each had its digest when it was published
        assert found.disk == []
        for row in cache.prunes():
            assert row.counters.finished_at is not None
    layout = Layout(home)
    assert layout.interrupted_operations() == []
    with ImageCache(home) as cache:
        for handle in cache.list():
            cache.save(handle.reference, home.parent / "saved.tar")
            metadata = layout.metadata(Reference.parse(handle.reference).canonical)
            assert handle.manifest_digest is not None
            assert handle.manifest_digest in metadata.read_text()


class Pruning(threading.Thread):
    """A prune in a thread of its own."""

    def __init__(self, home: Path, observer: Callable[[str], None]) -> None:
        super().__init__()
        self._home = home
        failpoints.observer = observer

    def run(self) -> None:
        with ImageCache(self._home) as cache:
            cache.prune()


class Loading(threading.Thread):
    """A load in a thread of its own."""

    def __init__(self, home: Path, archive: Path, observer: Callable[[str], None]) -> None:
        super().__init__()
        self._home, self._archive = home, archive
        failpoints.observer = observer

    def run(self) -> None:
        with ImageCache(self._home) as cache:
            cache.load(self._archive)
