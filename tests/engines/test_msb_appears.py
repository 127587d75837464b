"""Any msb command makes a home of ours msb's: it may do so at every step of every command that writes.

What must hold then: the command ends as ours or with a sentence, no file that either index names is deleted,
the log stays sound, and the next command goes on from there. The steps of each command are found by running
it once, so that a new one is tried as well.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

import pytest

from msb_cache import HomeOwnedByMicrosandboxError, ImageCache, MicrosandboxError
from msb_cache import failpoints as steps
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.chain import Verified
from msb_cache.oci.reference import Reference
from tests.engines.msb.support import files_of, forked
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive, file, image, layer
from tests.registry_server import RegistryServer

LABELS = {"Labels": {"k": "v"}}
SHARED = layer([file("shared", b"s" * 9000)])
ONE = image([SHARED, layer([file("one", b"1")], "gzip")], "one:1", config=LABELS)
TWO = image([SHARED, layer([file("two", b"2")])], "two:1", config=LABELS)
MOVED = image([SHARED, layer([file("moved", b"3")])], "one:1", config=LABELS)
LONE = image([layer([file("lone", b"4")])], "lone:1", config=LABELS)
IMAGES = {"one": ONE, "two": TWO, "moved": MOVED, "lone": LONE}


@dataclass
class Work:
    """Where a command works: archives, a registry with an image, and the home."""

    folder: Path
    remote: str = ""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def names(self) -> tuple[str, ...]:
        """Every reference that a command here gives to an image."""
        return ("one:1", "two:1", "lone:1", "more:1", self.remote)

    def archive(self, name: str) -> Path:
        return self.folder / f"{name}.tar"


Command = Callable[[ImageCache, Work], object]


@dataclass(frozen=True)
class Case:
    """A command, and the images and more that are there before it."""

    command: Command
    images: tuple[str, ...] = ("one", "two", "lone")
    before: Command = field(default=lambda cache, work: None)
    killed_at: tuple[Command, str] | None = None


def held(cache: ImageCache, work: Work) -> None:
    cache.hold("two:1", "sandbox:dev")


def stray(cache: ImageCache, work: Work) -> None:
    held(cache, work)
    Layout(work.home).layer(f"sha256:{'0' * 64}").write_bytes(b"orphan")


CASES = {
    "load": Case(lambda cache, work: cache.load(work.archive("two"), tag="more:1"), ("one",)),
    "load into an empty home": Case(lambda cache, work: cache.load(work.archive("two")), ()),
    "retag": Case(lambda cache, work: cache.load(work.archive("moved"))),
    "pull": Case(lambda cache, work: cache.pull(work.remote), ("one",)),
    "pull of what is cached": Case(
        lambda cache, work: cache.pull(work.remote), ("one",), lambda cache, work: cache.pull(work.remote)
    ),
    "remove": Case(lambda cache, work: cache.remove("lone:1")),
    "forced remove": Case(lambda cache, work: cache.remove("two:1", force=True), before=held),
    "prune": Case(lambda cache, work: cache.prune(), before=held),
    "prune of orphans": Case(lambda cache, work: cache.prune(orphans=True), before=stray),
    "use": Case(lambda cache, work: cache.use("one:1", holder="sandbox:dev")),
    "hold": Case(lambda cache, work: cache.hold("one:1", "sandbox:dev")),
    "release": Case(lambda cache, work: cache.release("sandbox:dev"), before=held),
    "rebuild": Case(lambda cache, work: cache.rebuild()),
    "recovery of a deletion": Case(
        lambda cache, work: cache.use("two:1"),
        before=held,
        killed_at=(lambda cache, work: cache.prune(), "delete.unlinked"),
    ),
    "recovery of a retag": Case(
        lambda cache, work: cache.use("one:1"),
        killed_at=(lambda cache, work: cache.load(work.archive("moved")), "add.published"),
    ),
    "recovery of an addition": Case(
        lambda cache, work: cache.use("one:1"),
        ("one",),
        killed_at=(lambda cache, work: cache.load(work.archive("two")), "add.published"),
    ),
}


FILES_CHANGE = {
    *("load", "load into an empty home", "retag", "pull", "remove", "prune", "prune of orphans"),
    *("recovery of a deletion", "recovery of a retag", "recovery of an addition"),
}


# -- what msb does when it appears ------------------------------------------------------------------------


def an_empty_file(fake: FakeMsb, names: Sequence[str]) -> None:
    """It has not come further than to make the file."""
    fake.home.joinpath("db").mkdir(parents=True, exist_ok=True)
    (fake.home / "db" / "msb.db").touch()


def tables(fake: FakeMsb, names: Sequence[str]) -> None:
    """It lists what there is: nothing, as it does not know our images."""
    fake("ls")


def our_images(fake: FakeMsb, names: Sequence[str]) -> None:
    """It pulls images whose files are all there, which it takes for its own."""
    fake("ls")
    layout = Layout(fake.home)
    for name in names:
        if fake.takes(layout.metadata(Reference.parse(name).canonical)):
            fake("pull", name)


APPEARANCES = {"empty file": an_empty_file, "tables": tables, "our images": our_images}


BEFORE = ("", 0)
"""A step that stands for the time before the command."""


class Appearing:
    """An observer that lets msb appear when a step is reached for the n-th time, from 1."""

    def __init__(self, fake: FakeMsb, appear: Callable[[], None], step: str, number: int) -> None:
        self._fake, self._appear, self._step, self._left = fake, appear, step, number
        self._lock = Lock()  # steps are reached in threads too
        self.files: set[str] | None = None
        """The artifacts that were there when it appeared; None: it has not."""

    def __call__(self, step: str) -> None:
        with self._lock:
            if step != self._step or self.files is not None:
                return
            self._left -= 1
            if self._left == 0:
                self.appear()

    def appear(self) -> None:
        self._appear()
        self.files = {*files_of(self._fake.home)}


# -- what must hold afterwards ----------------------------------------------------------------------------


def named_by_msb(fake: FakeMsb) -> set[str]:
    """Return the artifacts that msb's index names."""
    layout = Layout(fake.home)
    paths = [layout.layer(name) for (name,) in fake.rows("SELECT diff_id FROM layer")]
    for (digest,) in fake.rows("SELECT digest FROM manifest"):
        paths += [layout.fsmeta(digest), layout.vmdk(digest)]
    paths += [layout.metadata(Reference.parse(name).canonical) for name in fake.references()]
    return {str(path.relative_to(layout.cache)) for path in paths}


def sound(cache: ImageCache) -> None:
    """The log verifies, the index is its fold, and no file that it names is missing or damaged."""
    found = cache.verify()
    assert isinstance(found.chain, Verified)
    assert (found.differences, found.unreadable) == ([], None)
    assert [problem for problem in found.disk if problem.problem in ("missing", "size", "damaged")] == []


def says_one_sentence(error: MicrosandboxError) -> None:
    assert type(error) is not MicrosandboxError
    assert str(error).strip()
    assert "\n" not in str(error)


def attempt(command: Callable[[], object]) -> MicrosandboxError | None:
    try:
        command()
    except MicrosandboxError as error:
        says_one_sentence(error)
        return error
    return None


def check(fake: FakeMsb, before: set[str], there: set[str]) -> None:
    """Check a home in which msb has appeared, and go on with it.

    Args:
        fake: msb, and its home.
        before: the artifacts before the command.
        there: those when msb appeared.
    """
    filled = os.stat(Layout(fake.home).msb_database).st_size > 0
    gone = there - files_of(fake.home).keys()
    if not filled and not [words for words in fake.calls if words[0] == "image"]:
        # What a command has published and cannot keep it may take back; else, what msb needs is not known.
        assert gone <= there - before, "deleted without msb"
    assert not filled or not gone & named_by_msb(fake), "deleted although msb needs it"
    with ImageCache(fake.home) as cache:
        sound(cache)
        for handle in cache.list()[:1]:
            cache.use(handle.reference)
        refused = attempt(cache.prune)
        assert (refused is None) == filled
        if refused is not None:
            fake("ls")
            cache.prune()
        sound(cache)
        for handle in cache.list():
            cache.save(handle.reference, io.BytesIO())
        assert cache.rebuild() == []
        assert [row for row in cache.prunes() if row.counters.finished_at is None] == []
    assert Layout(fake.home).interrupted_operations() == []


# -- the tests --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    steps.observer = None


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def work(tmp_path: Path, registry: RegistryServer) -> Work:
    folder = tmp_path / "work"
    folder.mkdir()
    for name, built in IMAGES.items():
        (folder / f"{name}.tar").write_bytes(docker_archive(built))
    return Work(folder, registry.add(TWO))


def prepare(case: Case, work: Work) -> None:
    """Make the home as it is before the command."""
    with ImageCache(work.home) as cache:
        for name in case.images:
            cache.load(work.archive(name))
        case.before(cache, work)
    if case.killed_at is not None:
        command, wanted = case.killed_at

        def kill(step: str) -> None:
            if step == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

        def run() -> None:
            with ImageCache(work.home) as cache:
                command(cache, work)

        assert os.waitpid(forked(run, kill), 0)[1] == signal.SIGKILL


def recorded(case: Case, work: Work) -> list[tuple[str, int]]:
    """Run the command, and return each step that it reaches for the first and for the last time."""
    reached: list[str] = []
    steps.observer = reached.append
    with ImageCache(work.home) as cache:
        case.command(cache, work)
    steps.observer = None
    return sorted(
        {(step, number) for step in reached for number in (1, reached.count(step))},
        key=lambda each: (reached.index(each[0]), each[1]),
    )


# What msb knows matters to commands that add and delete files; to the others only that it is there.
COMBINATIONS = [
    *(("our images", name) for name in CASES if name in FILES_CHANGE),
    *(("tables", name) for name in CASES if name not in FILES_CHANGE),
    *(("tables", name) for name in ("recovery of a retag", "recovery of an addition")),
    *(("empty file", name) for name in ("retag", "recovery of a retag")),
]


@pytest.mark.parametrize(("how", "name"), COMBINATIONS)
def test_msb_appears_at_every_step(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch, how: str, name: str
) -> None:
    case = CASES[name]
    prepare(case, work)
    pristine = tmp_path / "pristine"
    if work.home.exists():
        shutil.copytree(work.home, pristine)
    points = recorded(case, work)
    assert points
    fake = FakeMsb(tmp_path / "msb", work.home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    for step, number in [BEFORE, *points]:
        shutil.rmtree(work.home)
        if pristine.exists():
            shutil.copytree(pristine, work.home)
        before = {*files_of(work.home)}
        appearing = Appearing(fake, partial(APPEARANCES[how], fake, work.names), step, number)
        if (step, number) == BEFORE:
            appearing.appear()
        steps.observer = appearing
        with ImageCache(work.home) as cache:
            refused = attempt(lambda: case.command(cache, work))
        steps.observer = None
        assert appearing.files is not None, f"{step} was not reached"
        try:
            check(fake, before, appearing.files)
        except Exception as error:
            ended = "well" if refused is None else f"with {refused}"
            raise AssertionError(f"at {step} ({number}), where {name} ended {ended}: {error}") from error


@pytest.mark.parametrize("how", list(APPEARANCES))
def test_where_no_msb_is_installed_it_is_only_read(
    work: Work, tmp_path: Path, no_msb: None, how: str
) -> None:
    prepare(CASES["prune"], work)
    before = files_of(work.home)
    fake = FakeMsb(tmp_path / "msb", work.home)
    appear = partial(APPEARANCES[how], fake, work.names)
    steps.observer = Appearing(fake, appear, "delete.decided", 1)
    with ImageCache(work.home) as cache:
        cache.prune()
        steps.observer = None
        assert files_of(work.home) == before
        (summary,) = cache.prunes()
        assert summary.counters.outcome == "partial"
        assert {artifact.reason for artifact in cache.prune_report(summary.operation).artifacts} == {
            "owned",
            None,
        }
        commands: list[Callable[[], object]] = [
            lambda: cache.prune(),
            lambda: cache.remove("two:1"),
            lambda: cache.load(work.archive("moved")),
            lambda: cache.pull(work.remote, force=True),
        ]
        for command in commands:
            with pytest.raises(HomeOwnedByMicrosandboxError, match="not installed here, so it is only read"):
                command()
        cache.use("two:1")
        assert cache.release("sandbox:dev") == [TWO.digest]
        sound(cache)
    assert files_of(work.home) == before
