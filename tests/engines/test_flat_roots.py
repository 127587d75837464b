"""Flat roots go with their images and are found where msb left them, in homes of msb and in ours."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache import failpoints as steps
from msb_cache.artifacts.flat import FlatRefs
from msb_cache.artifacts.layout import Layout, lease_path, lock_path
from msb_cache.engines import flat_roots
from msb_cache.eventstore import events as ev
from tests.engines.msb.support import Kill, at, check, forked, outcomes
from tests.engines.support import left, refusing
from tests.fakemsb import FakeMsb
from tests.flatroots import MIB, add, document, put
from tests.imagebuilder import docker_archive
from tests.logs import digest
from tests.peers.realmsb import IMAGES

ALONE, TWO = IMAGES["alone"], IMAGES["two"]
ALONE_1, TWO_1 = "docker.io/library/alone:1", "docker.io/library/two:latest"


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    steps.observer = None


@pytest.fixture
def fake(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
    """Return the fake msb with a home: alone:1 has only a flat root, two:latest all that msb makes."""
    fake = FakeMsb(tmp_path / "msb", own_home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    fake.offer(ALONE_1, ALONE)
    fake.offer(TWO_1, TWO)
    fake("pull", "--materialize", "flat", "alone:1")
    fake("pull", "--materialize", "all", "two:latest")
    return fake


@pytest.fixture
def cache(fake: FakeMsb) -> Iterator[ImageCache]:
    with ImageCache(fake.home) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ImageCache]:
    """Yield a cache of ours with both images, each with a flat root that was put there."""
    with ImageCache(tmp_path / "own") as cache:
        for image in (ALONE, TWO):
            cache.load(io.BytesIO(docker_archive(image)))
            add(cache.home, image.digest)
        yield cache


def flat_files(cache: ImageCache) -> dict[Path, int]:
    """Return the flat refs and flat roots in a cache, and the bytes that each has on the disk."""
    folder = cache.home / "cache" / "flat"
    found = [*(folder / "refs").iterdir(), *(folder / "blobs").iterdir()]
    return {path: path.stat().st_blocks * 512 for path in found}


def of(cache: ImageCache, manifest: str) -> tuple[Path, Path]:
    layout = Layout(cache.home)
    ref = FlatRefs(layout).by_manifest[manifest]
    return layout.artifact("flat_ref", manifest), layout.artifact("flat", ref.artifact_digest)


def subjects(cache: ImageCache, manifest: str) -> tuple[tuple[str, str], tuple[str, str]]:
    blob = of(cache, manifest)[1].name
    return ("flat_ref", manifest), ("flat", f"sha256:{blob[7:71]}")


def age(cache: ImageCache, seconds: float = 7200) -> None:
    then = time.time() - seconds
    for path in flat_files(cache):
        os.utime(path, (then, then))


@contextmanager
def held(path: Path, how: int = fcntl.LOCK_SH) -> Iterator[None]:
    """Have a lock, as msb has it."""
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


# -- in homes of msb --------------------------------------------------------------------------------------


def test_it_is_counted_and_shown(cache: ImageCache, fake: FakeMsb) -> None:
    cache.sync()
    check(cache, fake)
    roots = {path: size for path, size in flat_files(cache).items() if path.suffix == ".raw"}
    found = cache.info()
    assert (found.flat_roots, found.flat_bytes) == (2, 512 * MIB)
    assert found.flat_allocated_bytes == sum(roots.values()) < MIB
    root = cache.inspect("alone:1").flat
    assert root is not None
    assert (root.artifact_digest, root.virtual_size_bytes) == (subjects(cache, ALONE.digest)[1][1], 256 * MIB)
    assert root.allocated_bytes == roots[of(cache, ALONE.digest)[1]]
    assert cache.inspect("alone:1", as_of=cache.events()[-1].seq).flat is None


def test_it_goes_with_its_image(cache: ImageCache, fake: FakeMsb) -> None:
    ref, blob = of(cache, ALONE.digest)
    of_ref, of_blob = subjects(cache, ALONE.digest)
    size = flat_files(cache)[blob]
    files = {name: path.stat().st_size for name, path in artifacts(fake).items()}
    report = cache.remove("alone:1")
    assert not ref.exists()
    assert not blob.exists()
    assert all(path.exists() for path in of(cache, TWO.digest))
    assert (report.flat_removed, report.flat_bytes_reclaimed) == (1, size)
    assert (report.image_refs_removed, report.fsmeta_removed, report.vmdk_removed) == (1, 0, 0)
    assert report.bytes_reclaimed == sum(size for name, size in files.items() if name not in artifacts(fake))
    assert (report.orphans_removed, report.artifacts_failed) == (0, 0)
    assert report.operation is not None
    events = cache.events(operation=report.operation, types=["flat.deleted", "flat_ref.deleted"])
    assert [(event.type, event.subject) for event in events] == [
        ("flat_ref.deleted", ALONE.digest),
        ("flat.deleted", of_blob[1]),
    ]
    assert events[1].data == ev.FlatDeleted(bytes=size, manifest_digest=ALONE.digest)
    told = outcomes(cache, report.operation)
    assert (told[of_ref], told[of_blob]) == ("deleted", "deleted")
    assert {"flat_ref.deleted", "flat.deleted"} <= {event.type for event in cache.history("alone:1")}
    assert "flat.deleted" not in {event.type for event in cache.history("two:latest")}
    plan = cache.restore_plan(report.operation)
    assert plan.lost == ()
    assert "--materialize flat" in plan.images[0].notes[-1]
    check(cache, fake)


def artifacts(fake: FakeMsb) -> dict[str, Path]:
    folder = fake.home / "cache"
    return {
        str(path.relative_to(folder)): path
        for kind in ("manifests", "layers", "fsmeta", "vmdk")
        for path in (folder / kind).glob("sha256_*[!k]" if kind != "manifests" else "*.json")
    }


def test_prune(cache: ImageCache, fake: FakeMsb) -> None:
    fake("create", "two:latest", "--name", "dev")
    shown = cache.preview_prune()
    size = flat_files(cache)[of(cache, ALONE.digest)[1]]
    assert (shown.count("flat_ref"), shown.count("flat"), shown.flat_bytes) == (1, 1, size)
    assert shown.orphans == 0
    report = cache.prune()
    assert (report.flat_removed, report.flat_bytes_reclaimed) == (1, size)
    assert report.bytes_reclaimed == shown.bytes
    assert {*flat_files(cache)} == {*of(cache, TWO.digest)}
    fake("remove", "dev")
    assert cache.prune().flat_removed == 1
    assert flat_files(cache) == {}
    assert [each.counters.flat_removed for each in cache.prunes()] == [1, 1]
    check(cache, fake)


@pytest.mark.parametrize("lock", ["fsmeta", "vmdk", "layer", "derivation"])
def test_nothing_is_waited_for(cache: ImageCache, fake: FakeMsb, lock: str) -> None:
    layout = Layout(cache.home)
    derivation = FlatRefs(layout).by_manifest[ALONE.digest].derivation_digest
    path = {
        "fsmeta": lease_path(layout.fsmeta(ALONE.digest)),
        "vmdk": lock_path(layout.vmdk(ALONE.digest)),
        "layer": lease_path(layout.layer(ALONE.layers[0].diff_id)),
        "derivation": layout.flat_lock(derivation),
    }[lock]
    whole = of(cache, ALONE.digest)
    both = subjects(cache, ALONE.digest)
    stack = held(path)
    # msb must not find them busy, or it would keep the image.
    at("msb.ran", stack.__enter__)
    report = cache.remove("alone:1")
    stack.__exit__(None, None, None)
    assert [outcomes(cache, report.operation)[each] for each in both] == ["kept busy"] * 2
    assert all(path.exists() for path in whole)
    assert left(cache) == sorted((*each, "busy") for each in both)
    # The next deletion tries again, whatever it is asked for.
    report = cache.remove("two:latest")
    assert (report.flat_removed, report.orphans_removed) == (2, 2)
    assert flat_files(cache) == {}
    check(cache, fake)


def test_a_pull_that_makes_it_anew_keeps_it(cache: ImageCache, fake: FakeMsb) -> None:
    at("msb.ran", lambda: fake("pull", "--materialize", "flat", "alone:1"))
    both = subjects(cache, ALONE.digest)
    report = cache.remove("alone:1")
    assert [outcomes(cache, report.operation)[each] for each in both] == ["kept needed"] * 2
    assert all(path.exists() for path in of(cache, ALONE.digest))
    assert left(cache) == []
    check(cache, fake)


def test_the_last_ref_of_a_root_takes_it(cache: ImageCache) -> None:
    _, blob = of(cache, ALONE.digest)
    shared = f"sha256:{blob.name[7:71]}"
    ref = put(Layout(cache.home), TWO.digest, document(TWO.digest, artifact_digest=shared))
    report = cache.remove("alone:1")
    assert report.flat_removed == 0
    assert ("flat", shared) not in outcomes(cache, report.operation)
    assert blob.exists()
    report = cache.remove("two:latest")
    assert report.flat_removed == 1
    assert not ref.exists()
    assert not blob.exists()


def test_what_msb_left_is_an_orphan_when_it_is_old(cache: ImageCache, fake: FakeMsb) -> None:
    cache.sync()
    fake("image", "remove", "alone:1")
    assert len(flat_files(cache)) == 4
    assert cache.prune(orphans=True).operation is not None  # it takes two:latest
    assert len(flat_files(cache)) == 2
    assert {each.kind for each in cache.verify().disk} == {"flat_ref", "flat"}
    assert cache.prune(orphans=True).operation is None
    age(cache)
    shown = cache.preview_prune(orphans=True)
    assert (shown.orphans, shown.bytes) == (2, None)
    assert cache.prune().operation is None
    report = cache.prune(orphans=True)
    assert (report.orphans_removed, report.flat_removed, report.bytes_reclaimed) == (2, 1, None)
    assert flat_files(cache) == {}
    check(cache, fake)


def test_a_root_without_a_ref_goes_only_while_no_root_is_made(cache: ImageCache, fake: FakeMsb) -> None:
    ref, blob = of(cache, ALONE.digest)
    fake("image", "remove", "alone:1")
    ref.unlink()
    age(cache)
    layout = Layout(cache.home)
    derivation = FlatRefs(layout).by_manifest[TWO.digest].derivation_digest
    fake("create", "two:latest", "--name", "dev")
    with held(layout.flat_lock(derivation), fcntl.LOCK_EX):
        assert cache.prune(orphans=True).operation is None
    at("msb.decided", held(layout.flat_lock(derivation), fcntl.LOCK_EX).__enter__)
    report = cache.prune(orphans=True)
    assert outcomes(cache, report.operation) == {("flat", f"sha256:{blob.name[7:71]}"): "kept busy"}
    assert blob.exists()


def test_a_ref_that_cannot_be_read_may_name_any_root(cache: ImageCache, fake: FakeMsb) -> None:
    ref, blob = of(cache, ALONE.digest)
    put(Layout(cache.home), TWO.digest, b"junk")
    fake("create", "two:latest", "--name", "dev")
    fake("image", "remove", "alone:1")
    ref.unlink()
    age(cache)
    assert cache.prune(orphans=True).operation is None
    assert blob.exists()
    assert [(each.problem, each.kind) for each in cache.verify().disk if each.problem == "damaged"] == [
        ("damaged", "flat_ref")
    ]
    assert cache.inspect("two:latest").flat is None
    fake("remove", "dev")
    report = cache.prune(orphans=True)
    assert report.flat_removed == 2  # and the one that the damaged ref had named, which nothing names now
    assert flat_files(cache) == {}


def test_where_no_file_can_be_judged_it_is_left(cache: ImageCache, fake: FakeMsb) -> None:
    """msb takes names that are no references; what such a record is of is not known."""
    both, whole = subjects(cache, ALONE.digest), of(cache, ALONE.digest)
    fake.offer("docker.io/library/odd:1", IMAGES["app"])
    fake("pull", "odd:1")
    fake.rows(f"UPDATE image_ref SET reference = '{'f' * 64}' WHERE reference = 'odd:1'")
    report = cache.remove("alone:1")
    assert [outcomes(cache, report.operation)[each] for each in both] == ["kept left"] * 2
    fake("image", "remove", "f" * 64)
    cache.remove("two:latest")
    assert not any(path.exists() for path in whole)
    check(cache, fake)


def test_verify(cache: ImageCache) -> None:
    assert cache.verify().sound
    _, blob = of(cache, ALONE.digest)
    os.truncate(blob, MIB)
    (problem,) = cache.verify().disk
    assert (problem.problem, problem.kind, problem.path) == ("size", "flat", blob)
    assert (problem.expected_bytes, problem.found_bytes) == (256 * MIB, MIB)
    assert problem.references == (ALONE_1,)
    blob.unlink()
    assert [each.problem for each in cache.verify().disk] == ["missing"]
    root = cache.inspect("alone:1").flat
    assert root is not None
    assert root.allocated_bytes is None
    of(cache, ALONE.digest)[0].unlink()
    # Then it is an image of which the merged files are missing.
    assert sorted(each.kind for each in cache.verify().disk) == ["fsmeta", "vmdk"]


def test_an_image_that_msb_makes_layered_as_well(cache: ImageCache, fake: FakeMsb) -> None:
    cache.sync()
    fake("pull", "--materialize", "layered", "alone:1")
    cache.sync()
    check(cache, fake)
    vmdk = Layout(cache.home).vmdk(ALONE.digest)
    vmdk.write_bytes(b"junk")
    assert [(each.problem, each.path) for each in cache.verify().disk] == [("size", vmdk)]
    vmdk.unlink()
    assert [(each.problem, each.path) for each in cache.verify().disk] == [("missing", vmdk)]


def test_the_system_refuses(cache: ImageCache) -> None:
    ref, _ = of(cache, ALONE.digest)
    both = subjects(cache, ALONE.digest)
    with refusing(errno.EIO, ref):
        report = cache.remove("alone:1")
    assert [outcomes(cache, report.operation)[each] for each in both] == [
        "failed Input/output error",
        "kept busy",
    ]
    assert report.artifacts_failed == 1
    layout = Layout(cache.home)
    lock = layout.flat_lock(FlatRefs(layout).by_manifest[ALONE.digest].derivation_digest)
    lock.unlink()
    lock.symlink_to(cache.home / "elsewhere")
    assert cache.prune().flat_removed == 1
    assert not (cache.home / "elsewhere").exists()
    lock.unlink()
    assert cache.prune().flat_removed == 1
    assert flat_files(cache) == {}


@pytest.mark.parametrize("number", range(12))
def test_killed(fake: FakeMsb, number: int) -> None:
    """Whatever a killed deletion has done, the next command that writes ends it, the flat roots included."""
    with ImageCache(fake.home) as cache:
        cache.sync()

    def action() -> None:
        with ImageCache(fake.home) as cache:
            cache.remove("alone:1")

    _, status = os.waitpid(forked(action, Kill("msb.decided", number)), 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    with ImageCache(fake.home) as cache:
        cache.release("sandbox:none")
        if killed and any(image.reference == "alone:1" for image in cache.list()):
            assert len(flat_files(cache)) == 4  # msb had not been asked yet
        else:
            assert {*flat_files(cache)} == {*of(cache, TWO.digest)}
            assert cache.prunes()[0].counters.flat_removed == 1
            events = cache.events(types=["flat.deleted"])
            assert [event.subject for event in events] == [digest_of(ALONE.digest)]
        check(cache, fake)


def digest_of(manifest: str) -> str:
    """Return what the fake says that the flat root of a manifest is."""
    from hashlib import sha256

    return f"sha256:{sha256(f'blob {manifest}'.encode()).hexdigest()}"


# -- in homes of ours -------------------------------------------------------------------------------------


def test_in_a_home_of_ours(own: ImageCache) -> None:
    assert own.verify().sound
    size = flat_files(own)[of(own, ALONE.digest)[1]]
    report = own.remove("alone:1")
    assert (report.flat_removed, report.flat_bytes_reclaimed) == (1, size)
    assert {*flat_files(own)} == {*of(own, TWO.digest)}
    assert own.prune().flat_removed == 1
    assert flat_files(own) == {}
    assert not [*(own.home / "cache").rglob("*.lock")]
    assert own.rebuild() == []


def test_orphans_in_a_home_of_ours(own: ImageCache) -> None:
    add(own.home, digest("nobody's"))
    lone = add(own.home, digest("gone"))
    lone.unlink()
    assert own.prune(orphans=True).flat_removed == 4
    assert flat_files(own) == {}


def test_busy_in_a_home_of_ours(own: ImageCache) -> None:
    both = subjects(own, ALONE.digest)
    with held(lease_path(Layout(own.home).fsmeta(ALONE.digest))):
        report = own.remove("alone:1")
    assert [outcomes(own, report.operation)[each] for each in both] == ["kept busy"] * 2
    assert left(own) == sorted((*each, "busy") for each in both)
    assert own.remove("two:latest").flat_removed == 1  # which has another name yet
    assert {*flat_files(own)} == {*of(own, TWO.digest)}


@pytest.mark.parametrize("number", range(14))
def test_killed_in_a_home_of_ours(own: ImageCache, number: int) -> None:
    home, both = own.home, subjects(own, ALONE.digest)

    def action() -> None:
        with ImageCache(home) as cache:
            cache.remove("alone:1")

    os.waitpid(forked(action, Kill("delete.decided", number)), 0)
    own.release("sandbox:none")
    assert {*flat_files(own)} == {*of(own, TWO.digest)}
    (deletion,) = own.prunes()
    assert (deletion.counters.flat_removed, deletion.counters.outcome) == (1, "completed")
    assert [outcomes(own, deletion.operation)[each] for each in both] == ["deleted"] * 2
    assert own.verify().sound


def test_a_home_that_becomes_msbs(own: ImageCache) -> None:
    def come() -> None:
        (own.home / "db" / "msb.db").write_bytes(b"")

    both = subjects(own, ALONE.digest)
    at("delete.decided", come)
    report = own.remove("alone:1")
    assert [outcomes(own, report.operation)[each] for each in both] == ["kept owned"] * 2


def test_one_of_an_image_that_msb_does_not_know(
    own: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    msb = FakeMsb(tmp_path / "msb", own.home)
    monkeypatch.setenv("MSB_PATH", str(msb.program))
    msb("ls")
    assert own.remove("alone:1").flat_removed == 1
    assert {*flat_files(own)} == {*of(own, TWO.digest)}
    assert own.prune().flat_removed == 1
    assert flat_files(own) == {}
    check(own, msb)


def test_many_at_once(own: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_roots, "AT_ONCE", 2)
    for number in range(5):
        add(own.home, digest(number))
    assert own.prune(orphans=True).flat_removed == 7
    assert flat_files(own) == {}


def test_a_log_from_elsewhere_names_them(own: ImageCache, tmp_path: Path) -> None:
    own.prune()
    exported = io.BytesIO()
    own.export(exported)
    exported.seek(0)
    with ImageCache(tmp_path / "copy") as copy:
        copy.import_log(exported)
        assert copy.prunes()[0].counters == own.prunes()[0].counters
    wrong = exported.getvalue().replace(json.dumps(ALONE.digest).encode(), b'"../../etc"')
    with ImageCache(tmp_path / "other") as copy, pytest.raises(Exception, match="event"):
        copy.import_log(io.BytesIO(wrong))
