"""Restoring what a deletion took: exactly, as one operation, through every fault, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from msb_cache import (
    ImageCache,
    ImageNotFoundError,
    InvalidConfigError,
    InvalidReferenceError,
    OperationNotFoundError,
    RegistryOptions,
    RestoreResult,
    failpoints,
)
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from tests.engines.interrupting import Pruning, check_clean, in_a_child, killing_at
from tests.engines.msb.support import check
from tests.fakemsb import FakeMsb
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer, oci_archive
from tests.registry_server import RegistryServer, error

FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)
BASE = layer([file("base", b"b" * 9000)])
REMOTE = image([BASE, layer([file("remote", b"r")])])
MOVED = image([BASE, layer([file("moved", b"m")])])
LOCAL = image([BASE, layer([file("local", b"l")])], "local:1", "local:latest")
OTHER = image([BASE, layer([file("other", b"o")])], "other:2")


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    failpoints.observer = None


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "images.tar"
    path.write_bytes(docker_archive(OTHER, LOCAL))
    return path


@pytest.fixture
def remote(server: RegistryServer) -> str:
    return server.add(REMOTE, "team/app", "1")


def pruned(cache: ImageCache, archive: Path, remote: str) -> str:
    """Fill a cache from an archive and a registry, prune it, and return the prune's operation."""
    cache.load(archive, tag="mine:7")
    cache.pull(remote, options=FAST)
    return cache.prune().operation or ""


def here(cache: ImageCache) -> dict[str, str | None]:
    return {each.reference: each.manifest_digest for each in cache.list()}


def restored(cache: ImageCache, *arguments: Any, **options: Any) -> RestoreResult:
    return cache.restore(*arguments, options=FAST, **options)


def told(result: RestoreResult) -> dict[str | None, str]:
    return {each.reference: each.outcome for each in result.images}


def ends(cache: ImageCache) -> list[ev.RestoreFinished]:
    return [
        event.data
        for event in cache.events(types=["restore.finished"])
        if isinstance(event.data, ev.RestoreFinished)
    ]


def test_everything_comes_back_as_one_operation(
    cache: ImageCache, archive: Path, remote: str, server: RegistryServer
) -> None:
    cache.load(archive, tag="mine:7")
    cache.pull(remote, options=FAST)
    before = here(cache)
    operation = cache.prune().operation or ""
    server.add(MOVED, "team/app", "1")  # the tag means another image by now
    position = len(cache.events())
    seen: list[str | None] = []
    result = restored(cache, operation[:13], report=lambda each: seen.append(each.reference))
    assert here(cache) == before
    assert told(result) == dict.fromkeys(before, "restored")
    assert result.complete
    assert (result.undoes, result.kind, result.others, result.lost) == (operation, "prune", (), ())
    assert sorted(filter(None, seen)) == sorted(before)
    events = cache.events(after=position)
    assert {event.operation for event in events} == {result.operation}
    assert (events[0].type, events[-1].type) == ("restore.started", "restore.finished")
    assert events[0].subject == events[-1].subject == result.operation
    began, end = events[0].data, events[-1].data
    assert isinstance(began, ev.RestoreStarted)
    assert isinstance(end, ev.RestoreFinished)
    assert (began.undoes, {(each.reference, each.how, each.place) for each in began.images}) == (
        operation,
        {(remote, "pull", server.host)} | {(name, "load", str(archive)) for name in before if name != remote},
    )
    assert (end.outcome, end.restored, end.wanted, end.undoes) == ("completed", 4 + 1, 4 + 1, operation)
    pulls = [event.data for event in events if isinstance(event.data, ev.ImagePulled)]
    assert {pull.undoes for pull in pulls} == {operation}
    check_clean(cache.home)


def test_a_second_restore_has_nothing_to_do(cache: ImageCache, archive: Path, remote: str) -> None:
    operation = pruned(cache, archive, remote)
    restored(cache, operation)
    position = len(cache.events())
    again = restored(cache, operation)
    assert again.operation is None
    assert set(told(again).values()) == {"here"}
    assert again.complete
    assert len(cache.events()) == position


def test_a_dry_run_records_nothing(cache: ImageCache, archive: Path, remote: str) -> None:
    operation = pruned(cache, archive, remote)
    position = len(cache.events())
    result = restored(cache, operation, dry_run=True)
    assert set(told(result).values()) == {"planned"}
    assert not result.complete
    assert result.operation is None
    assert (len(cache.events()), cache.list()) == (position, [])


def test_only_what_was_asked_for(cache: ImageCache, archive: Path, remote: str) -> None:
    operation = pruned(cache, archive, remote)
    position = len(cache.events())
    for unknown, refusal in (
        ("nope:1", ImageNotFoundError),
        ("nope*", ImageNotFoundError),
        ("sha256:0000", ImageNotFoundError),
        ("BAD::x", InvalidReferenceError),
    ):
        with pytest.raises(refusal):
            restored(cache, operation, ["local:1", unknown])
    with pytest.raises(OperationNotFoundError):
        restored(cache, "0000aaaa")
    with pytest.raises(InvalidConfigError):
        restored(cache, operation, jobs=0)
    assert (len(cache.events()), cache.list()) == (position, [])
    assert told(restored(cache, operation, "docker.io/library/local:1")) == {"local:1": "restored"}
    assert here(cache) == {"local:1": LOCAL.digest}  # nothing else of the archive
    assert told(restored(cache, operation, ["local*", "mine:7"])) == {
        "local:1": "here",
        "local:latest": "restored",
        "mine:7": "restored",
    }
    assert told(restored(cache, operation, [REMOTE.digest[7:19]])) == {remote: "restored"}
    (undone,) = {row.outcome for row in cache.prune_report(operation).restores}
    assert undone == "completed"
    assert [row.restored for row in cache.prune_report(operation).restores] == [1, 2, 1]


def test_a_taken_name_is_left_where_it_points(
    cache: ImageCache, archive: Path, remote: str, server: RegistryServer, tmp_path: Path
) -> None:
    operation = pruned(cache, archive, remote)
    server.add(MOVED, "team/app", "1")
    cache.pull(remote, options=FAST)
    (tmp_path / "moved.tar").write_bytes(docker_archive(image([BASE], "local:1")))
    cache.load(tmp_path / "moved.tar")
    before = here(cache)
    result = restored(cache, operation, [remote, "local:1"])
    by_digest = {
        f"{server.host}/team/app@{REMOTE.digest}": REMOTE.digest,
        f"local@{LOCAL.digest}": LOCAL.digest,
    }
    assert here(cache) == before | by_digest
    assert {each.name for each in result.images} == set(by_digest)
    assert all("points at another image now" in each.notes[0] for each in result.images)
    again = restored(cache, operation, [remote, "local:1"])
    assert (again.operation, set(told(again).values())) == (None, {"here"})
    check_clean(cache.home)


def test_a_name_that_is_taken_meanwhile(
    cache: ImageCache, archive: Path, remote: str, server: RegistryServer
) -> None:
    operation = pruned(cache, archive, remote)
    server.add(MOVED, "team/app", "1")

    def observer(step: str) -> None:
        if step == "restore.started":
            failpoints.observer = None
            with ImageCache(cache.home) as other:
                other.pull(remote, options=FAST)

    failpoints.observer = observer
    result = restored(cache, operation, remote)
    assert told(result) == {remote: "failed"}
    assert "points at another image since a moment ago" in (result.images[0].reason or "")
    assert here(cache) == {remote: MOVED.digest}
    assert [end.outcome for end in ends(cache)] == ["failed"]
    check_clean(cache.home)


def test_what_the_registry_does_not_have_any_more(
    cache: ImageCache, archive: Path, remote: str, server: RegistryServer
) -> None:
    operation = pruned(cache, archive, remote)
    server.on(f"manifests/{REMOTE.digest}", lambda handler, content: handler.reply(404), always=True)
    result = restored(cache, operation)
    assert told(result) == {
        remote: "failed",
        **dict.fromkeys(("local:1", "local:latest", "mine:7", "other:2"), "restored"),
    }
    (failed,) = cache.events(types=["image.pull_failed"])
    assert isinstance(failed.data, ev.ImagePullFailed)
    assert (failed.operation, failed.data.undoes) == (result.operation, operation)
    (end,) = ends(cache)
    assert (end.outcome, end.restored, end.wanted) == ("partial", 4, 5)
    assert (end.images[0].outcome, end.images[0].reference) == ("failed", remote)
    assert end.images[0].reason == result.images[[*told(result)].index(remote)].reason
    check_clean(cache.home)


def test_a_registry_that_is_away(cache: ImageCache, archive: Path) -> None:
    with RegistryServer() as gone:
        remote = gone.add(REMOTE, "team/app", "1")
        operation = pruned(cache, archive, remote)
    result = restored(cache, operation, remote)
    assert told(result) == {remote: "failed"}
    assert [end.outcome for end in ends(cache)] == ["failed"]
    assert cache.list() == []


def test_an_archive_that_has_changed(cache: ImageCache, archive: Path, remote: str) -> None:
    operation = pruned(cache, archive, remote)
    other = image([BASE, layer([file("local", b"another")])], "local:1")
    archive.write_bytes(docker_archive(OTHER, other))
    result = restored(cache, operation, ["local:1", "other:2"])
    assert told(result) == {"local:1": "failed", "other:2": "restored"}
    result = restored(cache, operation, "local:1")
    assert f"{archive} has changed: the archive has no manifest {LOCAL.digest}" in (
        result.images[0].reason or ""
    )
    archive.write_bytes(b"no archive")
    assert "has changed" in (restored(cache, operation, "local:1").images[0].reason or "")
    assert here(cache) == {"other:2": OTHER.digest}  # no image of the same name instead
    archive.unlink()
    position = len(cache.events())
    gone = restored(cache, operation, "local:1")
    assert (told(gone), gone.operation) == ({"local:1": "none"}, None)
    assert len(cache.events()) == position
    check_clean(cache.home)


def test_an_image_of_another_platform(cache: ImageCache, tmp_path: Path) -> None:
    """The archive's index would give this machine's image."""
    foreign = image([BASE], "app:1", architecture="s390x")
    archive = tmp_path / "a.tar"
    archive.write_bytes(docker_archive(foreign))
    cache.load(archive, platform="linux/s390x")
    operation = cache.prune().operation or ""
    assert told(restored(cache, operation)) == {"app:1": "restored"}
    assert cache.get("app:1").architecture == "s390x"


def test_guesses_are_tried_where_they_are_named(cache: ImageCache, archive: Path, remote: str) -> None:
    cache.load(archive)
    seen = ev.ImagePulled(manifest_digest=OTHER.digest, changed=False, source=ev.Source(kind="microsandbox"))
    with Ledger(Layout(cache.home)).write("seen") as transaction:
        transaction.append([NewEvent(seen, "docker.io/library/other:2")])
    operation = cache.prune().operation or ""
    position = len(cache.events())
    result = restored(cache, operation, dry_run=True)
    assert told(result) == {"local:1": "planned", "local:latest": "planned", "other:2": "guess"}
    assert told(restored(cache, operation, dry_run=True, guesses=True))["other:2"] == "planned"
    assert told(restored(cache, operation, "other:2", dry_run=True)) == {"other:2": "planned"}
    assert len(cache.events()) == position
    result = restored(cache, operation)
    assert told(result) == {"local:1": "restored", "local:latest": "restored", "other:2": "guess"}
    assert not result.complete
    (end,) = ends(cache)
    assert (end.outcome, end.wanted) == ("completed", 2)


def stopping_after(images: int, *, again: bool = False) -> Callable[[str], None]:
    """Stop a restore when so many images are back; with ``again`` also what it does then."""
    left = images

    def observer(step: str) -> None:
        nonlocal left
        left -= step == "restore.image"
        if (step == "restore.image" and left == 0) or (again and left <= 0):
            raise KeyboardInterrupt

    return observer


def test_what_a_person_stops(cache: ImageCache, archive: Path, remote: str) -> None:
    operation = pruned(cache, archive, remote)
    failpoints.observer = stopping_after(1)
    with pytest.raises(KeyboardInterrupt):
        restored(cache, operation)
    failpoints.observer = None
    (end,) = ends(cache)
    assert (end.outcome, end.restored, end.wanted, end.recovered) == ("interrupted", 1, 5, False)
    assert [each.outcome for each in end.images] == ["untried"] * 4 + ["restored"]
    assert Layout(cache.home).interrupted_operations() == []
    assert restored(cache, operation).complete
    check_clean(cache.home)


def test_what_a_person_stops_when_it_is_back(cache: ImageCache, archive: Path, remote: str) -> None:
    """An archive's images come at once, and are told of one by one."""
    operation = pruned(cache, archive, remote)
    failpoints.observer = stopping_after(2)
    with pytest.raises(KeyboardInterrupt):
        restored(cache, operation)
    failpoints.observer = None
    assert [(end.outcome, end.restored) for end in ends(cache)] == [("completed", 5)]


def test_what_a_person_stops_twice(cache: ImageCache, archive: Path, remote: str) -> None:
    """Its end is not recorded then, and the next command that writes says it."""
    operation = pruned(cache, archive, remote)
    failpoints.observer = stopping_after(1, again=True)
    with pytest.raises(KeyboardInterrupt):
        restored(cache, operation)
    failpoints.observer = None
    assert ends(cache) == []
    assert [row.finished_at for row in cache.prune_report(operation).restores] == [None]
    cache.use(remote)
    (end,) = ends(cache)
    assert (end.outcome, end.restored, end.recovered) == ("interrupted", 1, True)
    check_clean(cache.home)


def test_killed_at_every_step(tmp_path: Path, archive: Path, remote: str) -> None:
    home, pristine = tmp_path / "home", tmp_path / "pristine"
    with ImageCache(home) as cache:
        operation = pruned(cache, archive, remote)
    shutil.copytree(home, pristine)

    def action(cache: ImageCache, folder: Path) -> object:
        return restored(cache, operation)

    steps: list[str] = []
    with ImageCache(home) as cache:
        failpoints.observer = steps.append
        try:
            action(cache, tmp_path)
        finally:
            failpoints.observer = None
        after = here(cache)
    began = steps.index("restore.started") - 1  # the commit before it
    assert steps.count("restore.image") == 5
    for number in range(began, len(steps) + 1):
        shutil.rmtree(home)
        shutil.copytree(pristine, home)
        status = in_a_child(home, action, tmp_path, killing_at(number))
        assert os.WIFSIGNALED(status), steps[number - 1]
        with ImageCache(home) as cache:
            left = [row.outcome for row in cache.prune_report(operation).restores]
            assert left in ([None], [], ["completed"]), steps[number - 1]  # what reads, ends nothing
            cache.release("sandbox:nobody")  # any writing command
            for end in ends(cache):
                came = {each.reference for each in end.images if each.outcome == "restored"}
                assert came == {each.reference for each in cache.list()}
                assert (end.outcome == "interrupted") == end.recovered or end.outcome == "completed"
            assert len(ends(cache)) == len(left)
        check_clean(home)
        with ImageCache(home) as cache:
            assert restored(cache, operation).complete, steps[number - 1]
            assert here(cache) == after
        check_clean(home)


def test_nothing_more_comes_when_something_cannot_be_taken_back(
    cache: ImageCache, archive: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = pruned(cache, archive, remote)

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def observer(step: str) -> None:
        if step == "add.published":
            fail()

    failpoints.observer = observer
    monkeypatch.setattr("msb_cache.engines.own.staging.undo", fail)
    result = restored(cache, operation)
    failpoints.observer = None
    monkeypatch.undo()
    assert set(told(result).values()) == {"failed"}
    assert sorted({each.reason or "" for each in result.images})[1].startswith(
        f"files of operation {result.operation}"
    )
    assert result.operation in Layout(cache.home).interrupted_operations()
    assert restored(cache, operation).complete
    assert [end.outcome for end in ends(cache)] == ["failed", "completed"]
    check_clean(cache.home)


def test_beside_a_prune_that_runs(tmp_path: Path, archive: Path, remote: str) -> None:
    home = tmp_path / "home"
    with ImageCache(home) as cache:
        operation = pruned(cache, archive, remote)
        restored(cache, operation, "other:2")
    decided, go_on = threading.Event(), threading.Event()

    def observer(step: str) -> None:
        if step == "delete.decided":
            decided.set()
            assert go_on.wait(30)

    worker = Pruning(home, observer)
    worker.start()
    assert decided.wait(30)
    failpoints.observer = None
    with ImageCache(home) as cache:
        result = restored(cache, operation)
        assert result.complete
        undone = here(cache)
    go_on.set()
    worker.join(30)
    with ImageCache(home) as cache:
        assert here(cache) == undone
    check_clean(home)


def test_a_manifest_that_had_no_name(cache: ImageCache, archive: Path) -> None:
    cache.load(archive)
    cache.hold("other:2", "sandbox:dev")
    cache.remove("other:2", force=True)
    cache.release("sandbox:dev")
    operation = cache.prune().operation or ""
    result = restored(cache, operation, [OTHER.digest])
    assert told(result) == {None: "restored"}
    assert here(cache) == {f"other@{OTHER.digest}": OTHER.digest}


def test_by_its_digest(cache: ImageCache, remote: str, server: RegistryServer, archive: Path) -> None:
    name = f"{server.host}/team/app@{REMOTE.digest}"
    cache.pull(name, options=FAST)
    operation = cache.prune().operation or ""
    assert told(restored(cache, operation)) == {name: "restored"}
    assert here(cache) == {name: REMOTE.digest}


def test_an_archive_that_is_a_folder(cache: ImageCache, tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(oci_archive(LOCAL, OTHER))) as tar:
        tar.extractall(tmp_path / "layout", filter="data")
    cache.load(tmp_path / "layout")
    before = here(cache)
    operation = cache.prune().operation or ""
    assert restored(cache, operation).complete
    assert here(cache) == before


# -- in a home that msb keeps -------------------------------------------------------------------------------


class Theirs:
    """A cache in a home that the fake msb keeps, and a registry that both reach."""

    def __init__(self, fake: FakeMsb, cache: ImageCache, server: RegistryServer) -> None:
        self.fake, self.cache, self.server = fake, cache, server

    def offer(self, built: BuiltImage) -> str:
        """Let the registry have an image by its tag and its digest; return the tag."""
        reference = self.server.add(built, "team/app", "1")
        self.fake.offer(reference, built)
        self.fake.offer(self.by_digest(built), built)
        return reference

    def by_digest(self, built: BuiltImage) -> str:
        return f"{self.server.host}/team/app@{built.digest}"


@pytest.fixture
def theirs(
    own_home: Path, tmp_path: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Theirs]:
    fake = FakeMsb(tmp_path / "msb", own_home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    fake("ls")
    with ImageCache(own_home) as cache:
        yield Theirs(fake, cache, server)
        check(cache, fake)


def test_msb_pulls_a_tag_that_means_the_same(theirs: Theirs) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    operation = cache.prune().operation or ""
    position = len(cache.events())
    result = restored(cache, operation)
    assert told(result) == {reference: "restored"}
    assert here(cache) == {reference: REMOTE.digest}
    events = cache.events(after=position)
    assert {event.operation for event in events} == {result.operation}
    assert [event.data.undoes for event in events if isinstance(event.data, ev.ImagePulled)] == [operation]
    again = restored(cache, operation)
    assert (told(again), again.operation) == ({reference: "here"}, None)


def test_msb_pulls_by_digest_where_the_tag_has_moved(theirs: Theirs) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    operation = cache.prune().operation or ""
    theirs.offer(MOVED)
    result = restored(cache, operation)
    assert here(cache) == {theirs.by_digest(REMOTE): REMOTE.digest}
    assert result.images[0].notes == (f"{reference} means {MOVED.digest} by now, so it stays away",)
    again = restored(cache, operation)
    assert (told(again), again.operation) == ({reference: "here"}, None)


def test_msb_pulls_by_digest_where_the_tag_cannot_be_asked_about(theirs: Theirs) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    operation = cache.prune().operation or ""
    theirs.server.on("manifests", error(403, "DENIED", "no"), always=True)
    result = restored(cache, operation)
    assert here(cache) == {theirs.by_digest(REMOTE): REMOTE.digest}
    assert "cannot be found out" in result.images[0].notes[0]


def test_a_tag_that_moves_while_msb_pulls_it(theirs: Theirs) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    operation = cache.prune().operation or ""
    theirs.fake.offer(reference, MOVED)
    result = restored(cache, operation)
    assert here(cache) == {reference: MOVED.digest, theirs.by_digest(REMOTE): REMOTE.digest}
    assert result.images[0].name == theirs.by_digest(REMOTE)
    assert result.images[0].notes == (f"{reference} was moved meanwhile: it came as {MOVED.digest}",)


def test_msb_cannot_pull_it(theirs: Theirs) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    operation = cache.prune().operation or ""
    theirs.fake.fails("pull", "error: no such thing", always=True)
    result = restored(cache, operation)
    assert told(result) == {reference: "failed"}
    assert {event.operation for event in cache.events(types=["image.pull_failed"])} == {result.operation}
    assert [end.outcome for end in ends(cache)] == ["failed"]


def test_msb_loads_all_of_an_archive(theirs: Theirs, archive: Path) -> None:
    cache = theirs.cache
    cache.load(archive, tag="mine:7")
    operation = cache.prune().operation or ""
    result = restored(cache, operation, ["mine:7", "local:1"])
    assert told(result) == {"local:1": "restored", "mine:7": "restored"}
    assert {*result.others} == {"local:latest", "other:2"}
    assert here(cache) == {
        "local:1": LOCAL.digest,
        "local:latest": LOCAL.digest,
        "mine:7": OTHER.digest,
        "other:2": OTHER.digest,
    }
    (end,) = ends(cache)
    assert (end.outcome, end.restored, end.wanted) == ("completed", 2, 2)


@pytest.mark.parametrize("moved", ["local:1", "other:2"])
def test_msb_takes_no_name_from_another_image(
    theirs: Theirs, archive: Path, tmp_path: Path, moved: str
) -> None:
    """The one that is to come back, or one of what comes with it."""
    cache = theirs.cache
    cache.load(archive)
    operation = cache.prune().operation or ""
    theirs.fake.load(image([BASE, layer([file("x", b"x")])], moved))
    before = here(cache)
    result = restored(cache, operation, "local:1")
    assert told(result) == {"local:1": "none" if moved == "local:1" else "failed"}
    assert moved == "local:1" or f"would take {moved} from the image" in (result.images[0].reason or "")
    assert here(cache) == before


def test_msb_does_not_load_an_archive_that_has_changed(theirs: Theirs, archive: Path) -> None:
    cache = theirs.cache
    cache.load(archive)
    operation = cache.prune().operation or ""
    archive.write_bytes(docker_archive(image([BASE], "local:1"), OTHER))
    result = restored(cache, operation)
    assert set(told(result).values()) == {"failed"}
    assert "has changed" in (result.images[0].reason or "")
    assert cache.list() == []


def test_a_tag_that_msb_would_give_to_another_image(theirs: Theirs, archive: Path) -> None:
    cache = theirs.cache
    cache.load(archive, tag="mine:7")  # of the first image, OTHER
    operation = cache.prune().operation or ""
    archive.write_bytes(docker_archive(LOCAL, OTHER))
    result = restored(cache, operation, "mine:7")
    assert "mine:7 is another one" in (result.images[0].reason or "")
    assert cache.list() == []


def test_what_msb_deleted_by_itself(theirs: Theirs) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    theirs.fake("image", "rm", reference)
    (external,) = cache.prunes()
    assert external.counters.kind == "external"
    result = restored(cache, external.operation[:13])
    assert (result.kind, told(result)) == ("external", {reference: "restored"})
    assert [row.operation for row in cache.prune_report(external.operation).restores] == [result.operation]


def test_each_spelling_comes_back(theirs: Theirs) -> None:
    """In a home of msb each is an image of its own."""
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    host, _, rest = reference.partition("/")
    theirs.fake.offer(f"{host}/{rest.removesuffix(':1')}:latest", REMOTE)
    theirs.server.add(REMOTE, "team/app", "latest")
    names = [f"{host}/team/app", f"{host}/team/app:latest"]
    for name in names:
        cache.pull(name)
    operation = cache.prune().operation or ""
    assert told(restored(cache, operation, names[1])) == {names[1]: "restored"}
    assert told(restored(cache, operation)) == {names[0]: "restored", names[1]: "here"}
    assert here(cache) == dict.fromkeys(names, REMOTE.digest)


def test_a_digest_needs_no_tag(theirs: Theirs) -> None:
    cache, _ = theirs.cache, theirs.offer(REMOTE)
    name = theirs.by_digest(REMOTE)
    cache.pull(name)
    operation = cache.prune().operation or ""
    asked = len(theirs.server.requests)
    result = restored(cache, operation)
    assert [(each.outcome, each.name, each.notes) for each in result.images] == [("restored", name, ())]
    assert len(theirs.server.requests) == asked


def test_killed_in_a_home_of_msb(theirs: Theirs, archive: Path, tmp_path: Path) -> None:
    cache, reference = theirs.cache, theirs.offer(REMOTE)
    cache.pull(reference)
    cache.load(archive)
    before = here(cache)
    operation = cache.prune().operation or ""
    cache.close()

    def observer(step: str) -> None:
        if step == "restore.image":
            os.kill(os.getpid(), signal.SIGKILL)

    home = theirs.fake.home
    assert os.WIFSIGNALED(in_a_child(home, lambda child, _: restored(child, operation), tmp_path, observer))
    assert [row.outcome for row in cache.prune_report(operation).restores] == [None]
    assert restored(cache, operation).complete
    assert [(end.outcome, end.recovered) for end in ends(cache)] == [
        ("interrupted", True),
        ("completed", False),
    ]
    assert here(cache) == before
