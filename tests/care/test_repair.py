"""What is wrong with a home is mended, alone and all at once, and recorded; what may be a person's stays."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import DataRequest, ImageCache, RegistryOptions, RepairReport, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.own.downloads import STALE_SECONDS
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from tests.engines.interrupting import in_a_child, killing_at
from tests.imagebuilder import docker_archive, file, image, layer
from tests.logs import digest
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)
SHARED = layer([file("shared", b"s" * 9000)])
ONE = image([SHARED, layer([file("one", b"1" * 5000)], "gzip")], "one:1", "one:latest")
TWO = image([SHARED, layer([file("two", b"2" * 5000)])], "two:1")
PULLED = image([SHARED, layer([file("pulled", b"3" * 5000)], "zstd")])
TOP = PULLED.layers[1].diff_id


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        running.add(PULLED)
        yield running


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, server: RegistryServer) -> Path:
    """A home with one:1, one:latest and two:1 from archives, and an image from a registry."""
    folder = tmp_path_factory.mktemp("template")
    with ImageCache(folder / "home") as cache:
        for number, each in enumerate((ONE, TWO)):
            (folder / f"{number}.tar").write_bytes(docker_archive(each))
            cache.load(folder / f"{number}.tar")
        cache.pull(f"{server.host}/app:1", options=FAST)
    return folder / "home"


@pytest.fixture
def home(own_home: Path, template: Path) -> Path:
    """A copy, with VMDKs of its own that the log knows."""
    shutil.copytree(template, own_home)
    with ImageCache(own_home) as cache:
        assert cache.repair().left == ()
    return own_home


@pytest.fixture
def cache(home: Path) -> Iterator[ImageCache]:
    with ImageCache(home) as opened:
        yield opened
    failpoints.observer = None


def repaired(cache: ImageCache, after: int) -> list[tuple[str, str, str, bool]]:
    found = cache.events(after=after, types=["artifact.repaired"])
    data = [each.data for each in found]
    return [(d.kind, d.problem, d.how, d.differs) for d in data if isinstance(d, ev.ArtifactRepaired)]


def contents(home: Path) -> dict[Path, bytes]:
    """Every file of an image, with its bytes."""
    return {path: path.read_bytes() for _, _, path in Layout(home).files()}


def mend(cache: ImageCache, **how: bool) -> RepairReport:
    return cache.repair(options=FAST, **how)


def check_as_it_was(cache: ImageCache, before: dict[Path, bytes]) -> None:
    assert cache.doctor() == []
    assert contents(cache.home) == before
    found = cache.verify(data=DataRequest())
    assert (found.sound, found.disk) == (True, [])
    assert cache.rebuild() == []


def test_a_home_that_was_moved_gets_its_own_vmdks(template: Path, own_home: Path) -> None:
    """What was made for another folder differs from what is made for this one, and that is said."""
    shutil.copytree(template, own_home)
    with ImageCache(own_home) as cache:
        position = len(cache.events())
        report = mend(cache)
        assert (report.left, len(report.mended)) == ((), 3)
        assert report.differs == report.mended
        assert repaired(cache, position) == [("vmdk", "moved", "made", True)] * 3
        assert cache.verify(data=DataRequest()).disk == []


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "size": lambda path: path.write_bytes(path.read_bytes() + b"x" * 4096),
    "damaged": lambda path: path.write_bytes(b"x" * path.stat().st_size),
}


@pytest.mark.parametrize("problem", DAMAGES)
@pytest.mark.parametrize("kind", ["vmdk", "fsmeta", "metadata"])
def test_what_is_made_of_what_is_here(cache: ImageCache, layout: Layout, kind: str, problem: str) -> None:
    before, position = contents(cache.home), len(cache.events())
    DAMAGES[problem](layout.artifact(kind, "docker.io/library/one:1" if kind == "metadata" else ONE.digest))
    report = mend(cache)
    assert (len(report.mended), report.left, report.differs) == (1, (), ())
    expected = "damaged" if kind == "metadata" and problem == "size" else problem
    assert repaired(cache, position) == [(kind, expected, "made", False)]
    assert not [each for each in cache.events(after=position) if each.type == "image.pulled"]
    check_as_it_was(cache, before)


def test_another_images_file(cache: ImageCache, layout: Layout) -> None:
    """Which of the merged tree and the layers is wrong, the digests of the layers say."""
    before, position = contents(cache.home), len(cache.events())
    shutil.copy(layout.fsmeta(TWO.digest), layout.fsmeta(ONE.digest))
    shutil.copy(layout.vmdk(TWO.digest), layout.vmdk(ONE.digest))
    assert {each.kind for each in cache.doctor()} == {"file-other"}
    assert mend(cache).left == ()
    assert [each[:3] for each in repaired(cache, position)] == [
        ("fsmeta", "other", "made"),
        ("vmdk", "other", "made"),
    ]
    check_as_it_was(cache, before)


def test_bytes_that_are_others_in_a_merged_tree(cache: ImageCache, layout: Layout) -> None:
    before, position = contents(cache.home), len(cache.events())
    path = layout.fsmeta(ONE.digest)
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # in no field of what is read of it
    path.write_bytes(content)
    cache.verify(data=DataRequest())
    assert [each.kind for each in cache.doctor()] == ["file-altered"]
    assert mend(cache).left == ()
    assert repaired(cache, position) == [("fsmeta", "altered", "made", False)]
    check_as_it_was(cache, before)


def test_a_lost_layer_is_fetched_by_its_images_digest(
    cache: ImageCache, layout: Layout, server: RegistryServer
) -> None:
    """What references point at stays, though the tag means another image by now."""
    before, position = contents(cache.home), len(cache.events())
    pointing = [(each.reference, each.manifest_digest, each.last_used_at_ns) for each in cache.list()]
    for path in (layout.layer(TOP), layout.vmdk(PULLED.digest), layout.metadata(f"{server.host}/app:1")):
        path.unlink()
    left = mend(cache).left
    assert {(each.finding.artifact, each.finding.needs_pull) for each in left} == {
        (kind, True) for kind in ("layer", "vmdk", "metadata")
    }
    server.add(TWO)
    try:
        report = mend(cache, pull=True)
    finally:
        server.add(PULLED)
    assert (len(report.mended), report.left) == (3, ())
    assert sorted(each[:3] for each in repaired(cache, position)) == [
        (kind, "missing", "pulled") for kind in ("layer", "metadata", "vmdk")
    ]
    assert [(each.reference, each.manifest_digest, each.last_used_at_ns) for each in cache.list()] == pointing
    assert not [each for each in cache.events(after=position) if each.type.startswith("image.")]
    check_as_it_was(cache, before)


def test_a_layer_that_several_images_have(cache: ImageCache, layout: Layout) -> None:
    """It comes with the one image that has a registry."""
    before = contents(cache.home)
    layout.layer(SHARED.diff_id).write_bytes(b"\0" * 8192)
    layout.fsmeta(ONE.digest).unlink()
    assert mend(cache, pull=True).left == ()
    check_as_it_was(cache, before)


def test_what_no_registry_has(cache: ImageCache, layout: Layout) -> None:
    layout.layer(ONE.layers[1].diff_id).unlink()
    layout.fsmeta(ONE.digest).unlink()
    (tree, lost) = sorted(mend(cache, pull=True).left, key=lambda left: left.finding.artifact or "")
    assert (tree.finding.fixable, lost.finding.fixable) == (False, False)
    assert lost.finding.command is not None
    assert lost.finding.command.startswith("msb-cache load -i ")


def test_a_registry_that_cannot_be_reached(cache: ImageCache, layout: Layout) -> None:
    other = image([layer([file("other", b"4" * 5000)], "gzip")])
    with RegistryServer() as gone:
        cache.pull(gone.add(other), options=FAST)
    layout.layer(other.layers[0].diff_id).unlink()
    position = len(cache.events())
    (left,) = mend(cache, pull=True).left
    assert left.why is not None
    assert gone.host in left.why
    assert len(cache.events()) == position


def test_what_lies_in_the_place_of_files(cache: ImageCache, layout: Layout, tmp_path: Path) -> None:
    """A link is replaced, and what it leads to is not touched; a folder stays, and what is in it."""
    before = contents(cache.home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody's")
    layout.vmdk(ONE.digest).unlink()
    layout.vmdk(ONE.digest).symlink_to(elsewhere)
    folder = layout.fsmeta(TWO.digest)
    folder.unlink()
    folder.mkdir()
    (folder / "kept").touch()
    (left,) = mend(cache).left
    assert left.finding.path == folder
    assert elsewhere.read_bytes() == b"somebody's"
    assert (folder / "kept").exists()
    shutil.rmtree(folder)
    assert mend(cache).left == ()
    check_as_it_was(cache, before)


def test_a_huge_vmdk(cache: ImageCache, layout: Layout) -> None:
    before = contents(cache.home)
    os.truncate(layout.vmdk(ONE.digest), 1 << 40)
    assert mend(cache).left == ()
    check_as_it_was(cache, before)


def test_a_whole_folder_is_gone(cache: ImageCache, layout: Layout) -> None:
    before = contents(cache.home)
    shutil.rmtree(layout.folders["vmdk"])
    shutil.rmtree(layout.folders["fsmeta"])
    assert mend(cache).left == ()
    check_as_it_was(cache, before)


# -- all else -----------------------------------------------------------------------------------------------


def spoil(cache: ImageCache, layout: Layout, server: RegistryServer) -> set[str]:
    """Do to a home all that can be mended; return the kinds of what is found then."""
    with Lock(lock_path(layout.vmdk(TWO.digest))) as lock:
        assert lock.acquire()
        cache.remove("two:1")
    cache.close()
    layout.vmdk(ONE.digest).unlink()
    layout.fsmeta(ONE.digest).write_bytes(b"x")
    shutil.copy(layout.vmdk(ONE.digest.replace(ONE.digest, PULLED.digest)), layout.vmdk(ONE.digest))
    layout.layer(TOP).unlink()
    layout.metadata(f"{server.host}/app:1").write_bytes(b"{}")
    operation = uuid7()
    layout.operations.mkdir(exist_ok=True)
    layout.operation_lock(operation).touch()
    layout.staging_root.mkdir(exist_ok=True)
    layout.staging(operation).mkdir()
    (layout.staging(operation) / "part").touch()
    layout.staging(uuid7()).mkdir()
    layout.downloads.mkdir(exist_ok=True)
    stale = layout.downloads / f"{'0' * 64}.partial"
    stale.write_bytes(b"begun")
    os.utime(stale, (time.time() - STALE_SECONDS - 60,) * 2)
    lock_path(layout.layer(digest("gone"))).touch()
    with closing(sqlite3.connect(layout.database)) as connection:
        connection.execute("UPDATE image SET spelling = 'x'")
        connection.execute("DROP TRIGGER events_no_delete")
        connection.commit()
    return {
        *("leftover", "file-other", "file-size", "file-missing", "file-damaged", "unfinished"),
        *("dead-staging", "stale-download", "lone-lock", "index-differs", "log-schema"),
    }


def test_all_at_once(cache: ImageCache, layout: Layout, server: RegistryServer, template: Path) -> None:
    before = contents(cache.home)
    kinds = spoil(cache, layout, server)
    assert {each.kind for each in cache.doctor()} == kinds
    report = mend(cache, pull=True)
    assert report.left == ()
    assert {each.kind for each in report.mended} == kinds
    gone = {layout.fsmeta(TWO.digest), layout.vmdk(TWO.digest), layout.metadata("docker.io/library/two:1")}
    gone.add(layout.layer(TWO.layers[1].diff_id))
    check_as_it_was(cache, {path: content for path, content in before.items() if path not in gone})
    assert mend(cache, pull=True) == RepairReport((), ())


def test_what_may_be_a_persons_stays(cache: ImageCache, layout: Layout) -> None:
    orphan, foreign = layout.layer(digest("orphan")), layout.folders["layer"] / "notes.txt"
    for path in (orphan, foreign):
        path.write_bytes(b"x")
    layout.vmdk(ONE.digest).unlink()
    report = mend(cache)
    assert [each.kind for each in report.mended] == ["file-missing"]
    assert {each.finding.kind for each in report.left} == {"orphan", "foreign"}
    assert orphan.exists()
    assert foreign.exists()


def test_evidence_is_not_written_to(cache: ImageCache, layout: Layout) -> None:
    cache.close()
    with closing(sqlite3.connect(layout.database)) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET hash = zeroblob(32) WHERE seq = 3")
        connection.commit()
    layout.vmdk(ONE.digest).unlink()
    before = len(cache.events())
    report = mend(cache)
    assert report.mended == ()
    whys = {each.finding.kind: each.why for each in report.left}
    assert whys["file-missing"] == "the log is not what it was, so nothing is written to it"
    assert whys["log-broken"] is None
    assert len(cache.events()) == before


def test_a_file_that_another_process_works_with(cache: ImageCache, layout: Layout) -> None:
    """It is waited for, and that is said."""
    layout.vmdk(ONE.digest).unlink()
    said: list[str] = []
    lock = Lock(lock_path(layout.vmdk(ONE.digest)))
    assert lock.acquire()
    threading.Timer(2.5, lock.release).start()
    report = cache.repair(note=said.append)
    assert report.left == ()
    assert any(ONE.digest[7:] in sentence for sentence in said)


# -- beside others, and killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["mend.locked", "mend.staged", "add.journaled", "add.published"])
@pytest.mark.parametrize("other", ["load", "prune"])
def test_beside_another(cache: ImageCache, layout: Layout, template: Path, step: str, other: str) -> None:
    """What is loaded or pruned while files are made anew: nothing is lost, and nothing is left over."""
    layout.vmdk(ONE.digest).unlink()
    layout.fsmeta(TWO.digest).unlink()
    begun: list[threading.Thread] = []

    def beside() -> None:
        with ImageCache(cache.home) as second:
            if other == "prune":
                second.prune()
            else:
                second.load(template.parent / "0.tar")

    def observer(reached: str) -> None:
        if reached == step and not begun and threading.current_thread() is threading.main_thread():
            begun.append(threading.Thread(target=beside))
            begun[0].start()
            begun[0].join(0.3)

    failpoints.observer = observer
    mend(cache)
    failpoints.observer = None
    begun[0].join()
    assert mend(cache).left == ()  # a prune had to leave what was locked, perhaps
    assert cache.doctor() == []
    found = cache.verify(data=DataRequest())
    assert (found.sound, found.disk) == (True, [])
    assert len(cache.list()) == (0 if other == "prune" else 4)


def test_killed_at_every_step(home: Path, server: RegistryServer, tmp_path: Path) -> None:
    """After each cut the next repair brings back what is lost, byte for byte."""
    template = tmp_path / "spoilt"
    layout = Layout(home)
    before = contents(home)
    for path in (
        *(layout.vmdk(ONE.digest), layout.fsmeta(TWO.digest), layout.layer(TOP)),
        layout.metadata("docker.io/library/one:1"),
    ):
        path.unlink()
    shutil.copytree(home, template)
    steps: list[str] = []

    def action(cache: ImageCache, _: Path) -> None:
        cache.repair(pull=True, options=FAST)

    def restored() -> None:
        shutil.rmtree(home)
        shutil.copytree(template, home)

    failpoints.observer = steps.append
    with ImageCache(home) as cache:
        action(cache, home)
    failpoints.observer = None
    assert {"mend.locked", "mend.staged", "add.journaled", "add.renamed", "log.committed"} <= {*steps}
    for number in range(1, len(steps) + 1):
        restored()
        status = in_a_child(home, action, home, killing_at(number))
        assert os.WIFSIGNALED(status), number
        with ImageCache(home) as cache:
            report = cache.repair(pull=True, options=FAST)
            assert report.left == (), (number, steps[number - 1])
            check_as_it_was(cache, before)
        assert layout.interrupted_operations() == []
