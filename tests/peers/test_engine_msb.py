"""Removing, pruning, pulling and loading in a home that the real msb keeps: msb does it, the log says so."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from msb_cache import (
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    ImagePullFailedError,
    InvalidConfigError,
    InvalidImageError,
    InvalidReferenceError,
    MsbProgramError,
    SyncReport,
    failpoints,
)
from msb_cache.artifacts.locks import Lock
from msb_cache.cli.main import run
from msb_cache.engines.msb import delete as msb_deletion
from msb_cache.eventstore import events as ev
from msb_cache.msb import database as msb_database
from msb_cache.oci.registry.credentials import Credential
from msb_cache.projections import known
from msb_cache.queries.why import Fate, ImageReasons
from msb_cache.retention.plan import Verdict
from tests.imagebuilder import docker_archive, file, image, layer, oci_archive
from tests.oci.registry.test_peers import Peers
from tests.peers.realmsb import BASE, IMAGES, Msb, copied, files_of, short_home

pytestmark = pytest.mark.peer


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    failpoints.observer = None


@pytest.fixture
def twin(real: Msb) -> Iterator[Msb]:
    """Another copy of the same home."""
    with short_home() as home:
        copied(real.home, home)
        yield Msb(real.program, home, real.archives)


def at(step: str, action: Callable[[], object]) -> None:
    """Do something once, when a step is reached."""
    done: list[str] = []

    def observer(reached: str) -> None:
        if reached == step and not done:
            done.append(step)
            action()

    failpoints.observer = observer


def alike(cache: ImageCache) -> None:
    """Both indexes say the same, nothing needed is missing, and another sync finds nothing."""
    state = msb_database.read(cache.home / "db" / "msb.db")
    assert cache.sync(force=True) == SyncReport()
    with cache._ledger.read() as connection:
        assert connection is not None
        ours = known.load(connection)
    assert {name: each.manifest_digest for name, each in ours.images.items()} == {
        name: each.manifest_digest for name, each in state.images.items()
    }
    assert set(ours.manifests) == set(state.manifests)
    assert {key for key, hold in ours.holds.items() if hold.row} == set(state.holds)
    assert set(ours.layers) == {layer.diff_id for each in state.manifests.values() for layer in each.layers}
    assert cache.rebuild() == []
    found = cache.verify()
    assert found.sound
    assert not [problem for problem in found.disk if problem.problem != "extra"]


def data_of(cache: ImageCache, *types: str) -> list[ev.Event]:
    return [event.data for event in cache.events(types=types)]


# -- remove -----------------------------------------------------------------------------------------------


def test_remove(real: Msb, cache: ImageCache) -> None:
    before = files_of(real.home)
    report = cache.remove("alone:1")
    gone = {name: size for name, size in before.items() if name not in files_of(real.home)}
    assert "alone:1" not in real.references()
    assert report.bytes_reclaimed == sum(gone.values())
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 1, 1)
    assert (report.fsmeta_removed, report.vmdk_removed) == (1, 1)
    *_, removed = [event for event in cache.history("alone:1") if event.type == "image.removed"]
    assert isinstance(removed.data, ev.ImageRemoved)
    assert (removed.data.spelling, removed.data.cause, removed.data.forced) == ("alone:1", "remove", False)
    assert not removed.actor.observed
    assert cache.prunes()[0].counters.engine == "msb"
    assert cache.prunes()[0].counters.outcome == "completed"
    with pytest.raises(ImageNotFoundError):
        cache.remove("alone:1")
    alike(cache)


def test_one_spelling_goes_and_the_others_stay(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    """Three names of one reference are three images, with a manifest each."""
    names = ("lat", "lat:latest", "docker.io/library/lat:latest")
    for name in names:
        archive = tmp_path / "x.tar"
        archive.write_bytes(docker_archive(image([layer([file("x", name.encode())])], "x:0")))
        real("load", "-q", "-i", str(archive), "-t", name)
    digests = {name: cache.get(name).manifest_digest for name in names}
    assert len({*digests.values()}) == 3
    assert {handle.reference for handle in cache.list("lat*")} >= {*names}
    assert cache.verify().sound  # they share one metadata file, which is that of the last
    with pytest.raises(InvalidReferenceError, match=r"several names"):
        cache.remove("index.docker.io/library/lat")
    report = cache.remove("lat")
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 1, 1)
    assert real.references() & {*names} == {*names[1:]}
    assert cache.prunes()[0].counters.outcome == "completed"
    alike(cache)
    real("image", "rm", "lat:latest")
    assert cache.get("lat").reference == "docker.io/library/lat:latest"
    story = [(event.type, getattr(event.data, "spelling", None)) for event in cache.history("lat")]
    assert [name for what, name in story if what == "image.removed"] == ["lat", "lat:latest"]
    cache.remove("lat")
    assert not real.references() & {*names}
    alike(cache)


def test_in_use(real: Msb, cache: ImageCache) -> None:
    before = files_of(real.home)
    with pytest.raises(ImageInUseError, match=r"app:1 is in use by sandbox:dev$"):
        cache.remove("app:1")
    assert cache.prunes() == []
    assert run(["--home", str(real.home), "rm", "app:1"]) == 4
    assert files_of(real.home) == before
    report = cache.remove("app:1", force=True)
    assert (report.image_refs_removed, report.manifests_removed) == (1, 0)
    (removed,) = data_of(cache, "image.removed")
    assert isinstance(removed, ev.ImageRemoved)
    assert (removed.cause, removed.forced) == ("remove", True)
    assert "app:1" not in real.references()
    alike(cache)


def test_a_sandbox_appears_between_plan_and_deletion(real: Msb, cache: ImageCache) -> None:
    at("msb.decided", lambda: real.hold("alone:1", "late"))
    with pytest.raises(ImageInUseError, match="alone:1 is in use by sandbox:late"):
        cache.remove("alone:1")
    assert "alone:1" in real.references()
    (summary,) = cache.prunes()
    assert (summary.counters.outcome, summary.counters.image_refs_removed) == ("partial", 0)
    report = cache.prune_report(summary.operation)
    kept = {artifact.kind: artifact for artifact in report.artifacts}
    assert (kept["metadata"].reason, kept["metadata"].holders) == ("held", ("sandbox:late",))
    assert {artifact.outcome for artifact in report.artifacts} == {"kept"}
    assert {kept[kind].reason for kind in ("manifest", "fsmeta", "vmdk", "layer")} == {"needed"}
    alike(cache)


def test_msb_that_cannot_be_run(real: Msb, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.sync()
    broken = real.home / "broken-msb"
    broken.write_text("#!/bin/sh\necho 'error: the disk is on fire' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("MSB_PATH", str(broken))
    with pytest.raises(MsbProgramError, match="msb could not remove alone:1: the disk is on fire"):
        cache.remove("alone:1")
    report = cache.prune()
    assert report.artifacts_failed
    assert report.image_refs_removed == 0
    assert cache.prunes()[0].counters.outcome == "partial"
    broken.write_text("#!/bin/sh\necho '  ✓ Removed  alone:1' >&2\n")
    with pytest.raises(MsbProgramError, match="alone:1 is still there"):
        cache.remove("alone:1")
    broken.write_text("no program")
    with pytest.raises(MsbProgramError, match="cannot run"):
        cache.remove("alone:1")
    monkeypatch.setenv("MSB_PATH", str(real.home / "nothing"))
    with pytest.raises(MsbProgramError, match="MSB_PATH names no program"):
        cache.remove("alone:1")
    alike(cache)


def test_settings_about_the_cloud_do_not_reach_msb(
    real: Msb, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_BACKEND", "cloud")
    monkeypatch.setenv("MSB_API_KEY", "secret")
    monkeypatch.setenv("MSB_API_URL", "http://127.0.0.1:1")
    cache.remove("alone:1")
    assert "alone:1" not in " ".join(msb_database.read(cache._layout.msb_database).images)


# -- prune ------------------------------------------------------------------------------------------------


def messy(real: Msb) -> None:
    """Make a manifest that no reference points at and no sandbox holds any more, beside other images."""
    real("image", "rm", "--force", "app:1")
    real("rm", "dev")
    real.load("next")


@pytest.mark.parametrize("way", ["whole", "one by one"])
def test_our_prune_is_that_of_msb(real: Msb, twin: Msb, cache: ImageCache, way: str) -> None:
    for home in (real, twin):
        messy(home)
    confirm = None if way == "whole" else (lambda shown: True)
    report = cache.prune(confirm=confirm)
    theirs = twin.json("image", "prune", "--yes")
    assert {name: getattr(report, name) for name in theirs} == theirs
    assert report.bytes_reclaimed
    assert (
        real.references()
        == twin.references()
        == {"two", "example.org/team/two:2", "two:latest"} & (real.references())
    )
    assert files_of(real.home) == files_of(twin.home)
    ours, other = (msb_database.read(home.home / "db" / "msb.db") for home in (real, twin))
    assert (ours.images.keys(), ours.manifests.keys()) == (other.images.keys(), other.manifests.keys())
    assert {event.actor.observed for event in cache.events(types=["image.removed"])} == {False}
    assert cache.prunes()[0].counters.outcome == "completed"
    alike(cache)
    # msb works normally afterwards.
    real.load("app")
    real("image", "rm", "app:1")
    alike(cache)


def test_our_own_hold_keeps_an_image(real: Msb, cache: ImageCache) -> None:
    cache.hold("alone:1", "sandbox:elsewhere")
    report = cache.prune()
    assert "alone:1" in real.references()
    assert report.image_refs_removed == 0
    cache.release("sandbox:elsewhere")
    assert cache.prune().image_refs_removed == 1
    assert "alone:1" not in real.references()


def test_only_what_was_shown_goes(real: Msb, cache: ImageCache) -> None:
    shown: list[str] = []

    def confirm(preview: msb_deletion.Preview) -> bool:
        shown.extend(preview.plan.references)
        real("rm", "dev")  # what it held could go now, and was not shown
        return True

    cache.prune(confirm=confirm)
    assert shown == ["alone:1"]
    assert "app:1" in real.references()
    alike(cache)


def test_what_msb_gets_after_the_decision_stays(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    late = tmp_path / "late.tar"
    late.write_bytes(docker_archive(image([layer([file("late", b"late")])], "late:1")))
    at("msb.decided", lambda: real("load", "-q", "-i", str(late)))
    cache.prune()  # nobody is asked, so it would be msb's own prune
    assert "late:1" in real.references()
    assert "alone:1" not in real.references()
    assert cache.prunes()[0].counters.outcome == "completed"
    alike(cache)


def test_a_dry_run_records_nothing(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    before = len(cache.events())
    report = cache.prune(dry_run=True)
    assert report.image_refs_removed == 1
    assert len(cache.events()) == before
    assert "alone:1" in real.references()


def test_another_command_sees_it_first(real: Msb, cache: ImageCache) -> None:
    def look() -> None:
        with ImageCache(real.home) as other:
            assert "alone:1" not in {handle.reference for handle in other.list()}

    at("msb.ran", look)
    report = cache.prune()
    assert report.image_refs_removed == 1
    removed = cache.events(types=["image.removed"])
    assert [event.operation for event in removed] == [report.operation]
    assert isinstance(removed[0].data, ev.ImageRemoved)
    assert removed[0].data.cause == "prune"
    assert cache.prunes()[0].counters.manifests_removed == 1
    alike(cache)


@pytest.mark.parametrize("step", ["msb.planned", "msb.decided", "msb.ran", "msb.concluding", "msb.finished"])
@pytest.mark.parametrize("way", ["remove", "prune"])
def test_killed_and_concluded(real: Msb, twin: Msb, step: str, way: str) -> None:
    with ImageCache(real.home) as cache:
        cache.sync()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist's threads do not matter to the child
        child = os.fork()
    if child == 0:
        try:
            at(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            with ImageCache(real.home) as cache:
                cache.remove("alone:1") if way == "remove" else cache.prune()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    there = "alone:1" in real.references()
    files = files_of(real.home)
    with ImageCache(real.home) as cache:
        cache.use("two")  # any command that writes
        assert files_of(real.home) == files  # what there is is found out, and nothing is deleted
        for summary in cache.prunes():
            assert summary.counters.outcome == ("partial" if there else "completed")
            assert summary.counters.image_refs_removed == (0 if there else 1)
        assert bool(cache.prunes()) == (step != "msb.planned")
        assert ("alone:1" in {handle.reference for handle in cache.list()}) == there
        with cache._ledger.read() as connection:
            assert connection is not None
            assert not connection.execute("SELECT 1 FROM deletion WHERE finished_at IS NULL").fetchall()
        alike(cache)
        assert cache.prune().image_refs_removed == (1 if there else 0)


def test_killed_while_msb_goes_on(
    real: Msb, cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.sync()
    slow = tmp_path / "msb"
    slow.write_text(f'#!/bin/sh\ntouch {tmp_path}/began\nsleep 1\nexec {real.program} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("MSB_PATH", str(slow))
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from msb_cache.cli.main import main; main()",
            "--home",
            str(real.home),
            "rm",
            "alone:1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    child.kill()
    child.wait()
    cache.use("two")  # a command that writes would conclude what is left
    assert "alone:1" in real.references()
    assert cache.prunes()[0].counters.outcome is None
    while "alone:1" in real.references():
        time.sleep(0.05)
    (removed,) = cache.events(types=["image.removed"])
    assert removed.operation == cache.prunes()[0].operation
    deadline = time.monotonic() + 30
    while cache.prunes()[0].counters.outcome is None and time.monotonic() < deadline:
        cache.use("two")
    assert cache.prunes()[0].counters.outcome == "completed"
    alike(cache)


def test_what_comes_back_and_goes_again_is_not_ours(real: Msb, cache: ImageCache) -> None:
    def others() -> None:
        with ImageCache(real.home) as other:
            other.sync()
            real.load("alone")
            other.sync()
            real("image", "rm", "alone:1")
            other.sync()

    at("msb.ran", others)
    report = cache.remove("alone:1")
    assert report.image_refs_removed == 1
    removed = [event.data for event in cache.events(types=["image.removed"])]
    assert [event.cause for event in removed if isinstance(event, ev.ImageRemoved)] == ["remove", "external"]
    alike(cache)


@pytest.mark.parametrize("way", ["remove", "prune", "prune without asking"])
def test_one_of_two_spellings_is_held(real: Msb, cache: ImageCache, way: str) -> None:
    other = "docker.io/library/app:1"
    real("load", "-q", "-i", str(real.archives / "alone.tar"), "-t", other)
    assert cache.get(other).manifest_digest == cache.get("alone:1").manifest_digest
    assert (cache.holders("app:1"), cache.holders(other)) == (["sandbox:dev"], [])
    shown = cache.preview_prune().plan
    assert other in shown.references
    assert Verdict("app:1", "held", ("sandbox:dev",)) in shown.kept
    found = cache.why("app:1")
    assert isinstance(found, ImageReasons)
    assert found.fate == Fate(False, "held", ("sandbox:dev",))
    before = real.references()
    if way == "remove":
        with pytest.raises(ImageInUseError, match=r"app:1 is in use by sandbox:dev$"):
            cache.remove("app:1")
        assert cache.prunes() == []
        assert cache.remove(other).image_refs_removed == 1
        assert before - real.references() == {other}
    else:
        report = cache.prune(confirm=None if "without" in way else (lambda shown: True))
        assert report.skipped_in_use == 0
        assert report.image_refs_removed == len(shown.references)
        assert before - real.references() == {*shown.references}
    assert cache.prunes()[0].counters.outcome == "completed"
    assert cache.rebuild() == []


# -- what only msb can read ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d" * 64, f"x@sha512:{'a' * 128}"])
def test_what_only_msb_can_read_stays(real: Msb, cache: ImageCache, name: str) -> None:
    real("load", "-q", "-i", str(real.archives / "alone.tar"), "-t", name)
    stray(real, "old")
    for path in (real.home / "cache" / "manifests").iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    before = files_of(real.home)
    assert cache.preview_prune(orphans=True).orphans == 0
    assert cache.prune(orphans=True, confirm=lambda shown: True).image_refs_removed == 1
    assert cache.prune().image_refs_removed == 0
    assert name in real.references()
    gone = before.keys() - files_of(real.home).keys()
    assert gone == {str(cache._layout.metadata("docker.io/library/alone:1").relative_to(real.home / "cache"))}
    assert "unclear" in {problem.problem for problem in cache.verify().disk}


# -- files that no record names ---------------------------------------------------------------------------


def stray(real: Msb, name: str, age: float = 7200) -> Path:
    path = real.home / "cache" / "layers" / f"sha256_{sha256(name.encode()).hexdigest()}.erofs"
    path.write_bytes(b"x" * 4096)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_orphans(real: Msb, cache: ImageCache) -> None:
    old, fresh = stray(real, "old"), stray(real, "fresh", 60)
    leased, written = stray(real, "leased"), stray(real, "written")
    lease = old.parent / ".msb-leases" / f"{sha256(leased.name.encode()).hexdigest()}.lock"
    problems = {problem.path for problem in cache.verify().disk}
    assert {old, fresh, leased, written} <= problems
    assert cache.verify().sound
    with Lock(lease) as first, Lock(written.with_name(written.name + ".lock")) as second:
        assert first.acquire()
        assert second.acquire()
        cache.hold("alone:1", "sandbox:x")
        report = cache.prune(orphans=True)
        assert (report.orphans_removed, report.bytes_reclaimed) == (1, 4096)
        assert [path.exists() for path in (old, fresh, leased, written)] == [False, True, True, True]
    assert cache.prune(orphans=True).orphans_removed == 2
    assert fresh.exists()
    assert cache.prune(orphans=True).operation is None
    alike(cache)


def test_an_orphan_that_comes_to_be_needed_is_kept(real: Msb, cache: ImageCache) -> None:
    real("image", "rm", "alone:1")
    digest = IMAGES["alone"].layers[0].diff_id
    path = cache._layout.layer(digest)
    path.write_bytes(b"x" * 4096)
    os.utime(path, (time.time() - 7200,) * 2)
    assert cache.preview_prune(orphans=True).orphans == 1
    path.unlink()
    at("msb.decided", lambda: real.load("alone"))
    path.write_bytes(b"x" * 4096)
    os.utime(path, (time.time() - 7200,) * 2)
    cache.prune(orphans=True, confirm=lambda shown: True)
    assert path.exists()
    assert "alone:1" in real.references()
    assert cache.verify().sound


def test_nothing_is_an_orphan_while_a_hold_names_no_record(real: Msb, cache: ImageCache) -> None:
    stray(real, "old")
    import sqlite3

    with closing(sqlite3.connect(cache._layout.msb_database)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(snapshot_index)") if row[3]]
        values = dict.fromkeys(columns, "2026-01-01 00:00:00.000000000")
        values |= {
            "artifact_path": "/snap",
            "image_manifest_digest": f"sha256:{'5' * 64}",
            "image_ref": "gone:1",
        }
        connection.execute(
            f"INSERT INTO snapshot_index ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
            [*values.values()],
        )
    connection.close()
    assert cache.preview_prune(orphans=True).orphans == 0
    assert "unclear" in {problem.problem for problem in cache.verify().disk}


# -- load and pull ----------------------------------------------------------------------------------------


def test_load(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    before = len(cache.events())
    handles = cache.load(real.archives / "next.tar", tag="newer")
    assert [handle.reference for handle in handles] == ["app:1", "newer"] or [
        handle.reference for handle in handles
    ] == ["newer", "app:1"]
    assert "newer" in real.references()
    new = [event for event in cache.events(after=before) if event.type == "image.pulled"]
    assert {event.subject for event in new} == {
        "docker.io/library/app:1",
        "docker.io/library/newer:latest",
    }
    assert len({event.operation for event in new}) == 1
    for event in new:
        assert isinstance(event.data, ev.ImagePulled)
        assert not event.actor.observed
        assert event.data.source == ev.Source(kind="archive", name=str(real.archives / "next.tar"))
    fetched = sum(event.data.bytes_fetched or 0 for event in new)  # type: ignore[attr-defined]
    assert fetched == len(IMAGES["next"].layers[1].blob)  # the base was here
    assert cache.load(real.archives / "next.tar")[0].manifest_digest == handles[0].manifest_digest
    *_, again = cache.events(types=["image.pulled"])
    assert isinstance(again.data, ev.ImagePulled)
    assert (again.data.changed, again.data.bytes_fetched) == (False, 0)
    alike(cache)


@pytest.mark.parametrize("kind", ["gzip", "stream", "gzipped stream"])
def test_load_of_what_msb_cannot_read_by_itself(
    real: Msb, cache: ImageCache, tmp_path: Path, kind: str
) -> None:
    data = (real.archives / "next.tar").read_bytes()
    if kind != "stream":
        data = gzip.compress(data)
    (tmp_path / "archive").write_bytes(data)
    (handle,) = cache.load(tmp_path / "archive" if kind == "gzip" else io.BytesIO(data))
    assert handle.reference == "app:1"
    alike(cache)


def test_load_of_bad_archives(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    cache.sync()
    before, events = files_of(real.home), len(cache.events())
    good = (real.archives / "next.tar").read_bytes()
    packed = gzip.compress(good)
    cut = (good[: len(good) // 2], packed[: len(packed) // 2])
    for number, data in enumerate((b"", b"junk" * 300, *cut)):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data)
        with pytest.raises(InvalidImageError):
            cache.load(path)
    with pytest.raises(InvalidImageError, match="pack it with tar"):
        cache.load(tmp_path)
    with pytest.raises(InvalidImageError, match="cannot be opened"):
        cache.load(tmp_path / "nothing")
    with pytest.raises(InvalidConfigError, match="msb keeps this home"):
        cache.load(real.archives / "next.tar", platform="linux/riscv64")
    assert len(cache.events()) == events
    assert {name for name in files_of(real.home) if "manifests" in name} == {
        name for name in before if "manifests" in name
    }


@pytest.fixture
def peers(require_peer: Callable[[str], str], tmp_path: Path) -> Peers:
    require_peer("root")  # skopeo gives the files of an oci-archive their owners
    return Peers(require_peer("docker-registry"), require_peer("skopeo"), tmp_path)


def test_pull(real: Msb, cache: ImageCache, peers: Peers, tmp_path: Path) -> None:
    for name in ("one", "two"):
        built = image([BASE, layer([file("app", name.encode() * 5000)], "gzip")], "app:1")
        (tmp_path / f"{name}.tar").write_bytes(oci_archive(built))
    with peers.running() as host:
        reference = f"{host}/team/app:1"
        peers.push(f"oci-archive:{tmp_path / 'one.tar'}", reference)
        before = len(cache.events())
        handle = cache.pull(reference)
        assert reference in real.references()
        (pulled,) = [event for event in cache.events(after=before) if event.type == "image.pulled"]
        assert isinstance(pulled.data, ev.ImagePulled)
        assert not pulled.actor.observed
        assert pulled.data.source == ev.Source(kind="registry", name=host)
        assert pulled.data.changed
        assert pulled.data.bytes_fetched
        assert (pulled.data.bytes_fetched or 0) + (pulled.data.bytes_reused or 0) == handle.size_bytes
        assert pulled.data.duration_ns

        cache.pull(reference)
        cache.pull(reference, policy="never")
        *_, cached, never = cache.events(types=["image.pulled"])
        for event in (cached, never):
            assert isinstance(event.data, ev.ImagePulled)
            assert (event.data.changed, event.data.bytes_fetched) == (False, 0)
        peers.push(f"oci-archive:{tmp_path / 'two.tar'}", reference)
        assert cache.pull(reference).manifest_digest == handle.manifest_digest
        moved = cache.pull(reference, policy="always")
        assert moved.manifest_digest != handle.manifest_digest
        *_, last = cache.events(types=["image.pulled"])
        assert isinstance(last.data, ev.ImagePulled)
        assert last.data.previous_digest == handle.manifest_digest
        alike(cache)

        with pytest.raises(ImagePullFailedError, match="msb could not pull"):
            cache.pull(f"{host}/team/nothing:1")
        *_, failed = cache.events()
        assert (failed.type, failed.subject) == ("image.pull_failed", f"{host}/team/nothing:1")
    with pytest.raises(ImageNotFoundError, match="never"):
        cache.pull("nothing:1", policy="never")
    with pytest.raises(InvalidConfigError, match="msb registry login"):
        cache.pull("nothing:1", credential=Credential(username="me", password="secret"))
    with pytest.raises(InvalidConfigError, match="msb keeps this home"):
        cache.pull("nothing:1", platform="linux/riscv64")
    assert "secret" not in json.dumps([str(event) for event in cache.events()])


# -- a home that was ours ---------------------------------------------------------------------------------


def test_a_home_of_ours_becomes_one_of_msb(msb: str, archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_PATH", msb)
    own = image([layer([file("own", b"own" * 5000)])], "own:1")
    mixed = image([BASE, layer([file("mixed", b"mixed" * 900)])], "mixed:1")
    with short_home() as home, ImageCache(home) as cache:
        for built in (own, mixed):
            cache.load(io.BytesIO(docker_archive(built)))
        assert cache.info().engine == "msb-cache"
        real = Msb(msb, home, archives)
        for name in ("app", "alone"):  # app has a layer of mixed
            real.load(name)
        info = cache.info()
        assert (info.engine, info.writable, info.program) == ("msb", True, Path(msb))
        assert info.program_version == "0.7.11"
        assert [handle.reference for handle in cache.list()] == ["alone:1", "app:1", "mixed:1", "own:1"]
        shown = cache.preview_prune()
        assert (len(shown.plan.references), shown.plan.kept) == (4, ())
        assert cache.remove("own:1").image_refs_removed == 1
        assert real.references() == {"alone:1", "app:1"}
        report = cache.remove("mixed:1")
        # msb has an image with the other layer.
        assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 1, 1)
        assert cache.verify().sound
        report = cache.prune(orphans=True)
        assert (report.image_refs_removed, report.orphans_removed) == (2, 0)
        assert (real.references(), cache.list(), files_of(home)) == (set(), [], {})
        assert cache.verify().sound
