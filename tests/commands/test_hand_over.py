"""Images that msb does not know are handed over to it as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache, ImageNotFoundError, InvalidConfigError, MsbProgramError, failpoints
from msb_cache.artifacts.layout import Layout, lease_path, lock_path
from msb_cache.artifacts.locks import Lock
from tests.engines.msb.support import Kill, files_of, forked
from tests.fakemsb import FakeMsb
from tests.imagebuilder import file, image, layer, oci_archive
from tests.moving import settle

BASE = layer([file("etc/name", b"base\n")], compression="gzip")
APP = image([BASE, layer([file("app", b"app" * 5000)])], "app:1")
ARM = image([BASE, layer([file("arm", b"arm")])], "arm:1", architecture="arm64")
TWO = image([BASE, layer([file("two", b"two")])], "example.org/two:2", "two:latest")
THEIRS = image([BASE, layer([file("theirs", b"theirs")])], "theirs:1")


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    failpoints.observer = None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home, to be copied, with images that we loaded without an msb."""
    folder = tmp_path_factory.mktemp("ours")
    with ImageCache(folder / "home") as cache:
        for built in (APP, ARM, TWO):
            archive = folder / "image.tar"
            archive.write_bytes(oci_archive(built))
            cache.load(archive, platform=f"linux/{built.architecture}")
    return folder / "home"


@pytest.fixture
def fake(own_home: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
    """Return the fake msb, which msb-cache finds, with a copy of that home."""
    shutil.copytree(prepared, own_home)
    settle(own_home)
    fake = FakeMsb(tmp_path / "msb", own_home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    return fake


@pytest.fixture
def cache(fake: FakeMsb) -> Iterator[ImageCache]:
    with ImageCache(fake.home) as found:
        yield found


def index_of(fake: FakeMsb) -> dict[str, str]:
    query = "SELECT reference, digest FROM image_ref JOIN manifest m ON m.id = manifest_id"
    return dict(fake.rows(query))


def test_all_that_msb_does_not_know(fake: FakeMsb, cache: ImageCache) -> None:
    fake("ls")
    fake.load(THEIRS)
    before = {name: size for name, size in files_of(fake.home).items() if not name.startswith("manifests")}
    found = cache.hand_over()
    assert [(each.reference, each.outcome, each.new_digest) for each in found] == [
        ("app:1", "handed over", None),
        ("arm:1", "handed over", None),
        ("example.org/two:2", "handed over", None),
        ("two:latest", "handed over", None),
    ]
    assert index_of(fake) == {
        "app:1": APP.digest,
        "arm:1": ARM.digest,
        "example.org/two:2": TWO.digest,
        "two:latest": TWO.digest,
        "theirs:1": THEIRS.digest,
    }
    after = {name: size for name, size in files_of(fake.home).items() if not name.startswith("manifests")}
    assert after == before
    assert cache.hand_over() == []
    assert cache.rebuild() == []
    assert cache.remove("app:1").image_refs_removed == 1  # by msb, which knows it now


def test_it_is_recorded_as_done_by_us(fake: FakeMsb, cache: ImageCache) -> None:
    (found,) = cache.hand_over("app:1")
    recorded = found.recorded
    assert recorded is not None
    assert not recorded.actor.observed
    assert recorded.data.row is not None
    assert recorded.data.source.kind == "cache"
    assert not recorded.data.changed
    events = cache.events(operation=recorded.operation)
    assert [event.type for event in events] == ["manifest.added", "image.pulled"]
    assert not any(event.actor.observed for event in events)


def test_what_msb_says_otherwise_is_listed(fake: FakeMsb, cache: ImageCache) -> None:
    handle = cache.get("arm:1")
    (found,) = cache.hand_over("arm:1")
    reset = {each.what: each.before for each in found.reset}
    assert reset == {
        "platform": "linux/arm64",
        "created_at": handle.created_at_ns,
        "last_used_at": handle.last_used_at_ns,
    }
    assert cache.get("arm:1").created_at_ns == handle.created_at_ns  # the log has it still


def test_a_home_of_ours_becomes_that_of_msb(fake: FakeMsb, cache: ImageCache) -> None:
    assert not cache.kept_by_msb
    assert [each.outcome for each in cache.hand_over("app:1")] == ["handed over"]
    assert cache.kept_by_msb
    assert set(index_of(fake)) == {"app:1"}


def test_not_for_an_image_that_is_not_there(fake: FakeMsb, cache: ImageCache) -> None:
    with pytest.raises(ImageNotFoundError):
        cache.hand_over(["app:1", "nothing:1"])
    assert not cache.kept_by_msb


def test_not_in_a_home_that_is_to_be_kept_by_us(fake: FakeMsb) -> None:
    with ImageCache(fake.home, engine="own") as cache:
        with pytest.raises(InvalidConfigError, match="leave `--engine own` out"):
            cache.hand_over()
        assert not cache.kept_by_msb
    assert fake.calls == []


def test_a_home_that_is_not_there_is_not_made(fake: FakeMsb, tmp_path: Path) -> None:
    with ImageCache(tmp_path / "none") as cache, pytest.raises(ImageNotFoundError, match="no image cache in"):
        cache.hand_over()
    assert not (tmp_path / "none").exists()
    assert fake.calls == []


def test_a_dry_run_changes_nothing(fake: FakeMsb, cache: ImageCache) -> None:
    os.unlink(Layout(fake.home).vmdk(APP.digest))
    before = files_of(fake.home)
    events = len(cache.events())
    found = cache.hand_over(["app:1", "two"], dry_run=True)
    assert [each.outcome for each in found] == ["failed", "planned"]
    assert "is missing; load the image again" in (found[0].problem or "")
    assert (files_of(fake.home), len(cache.events()), cache.kept_by_msb, fake.calls) == (
        before,
        events,
        False,
        [],
    )


def test_one_that_is_known_is_left(fake: FakeMsb, cache: ImageCache) -> None:
    cache.hand_over("app:1")
    fake.calls  # noqa: B018 - they are forgotten
    assert [each.outcome for each in cache.hand_over(["app:1"])] == ["known"]
    assert fake.calls == []


@pytest.mark.parametrize("kind", ["layer", "fsmeta", "vmdk", "metadata"])
def test_a_damaged_image_is_not_handed_over_and_the_others_are(
    fake: FakeMsb, cache: ImageCache, kind: str
) -> None:
    subject = {"layer": APP.layers[1].diff_id, "metadata": "docker.io/library/app:1"}.get(kind, APP.digest)
    path = Layout(fake.home).artifact(kind, subject)
    path.write_bytes(b"\0" * path.stat().st_size)
    found = {each.reference: each for each in cache.hand_over(["app:1", "two"])}
    assert found["two:latest"].outcome == "handed over"
    assert found["app:1"].outcome == "failed"
    assert path.name in (found["app:1"].problem or "")
    assert set(index_of(fake)) == {"two:latest"}


def test_a_layer_that_goes_before_msb_looks_is_no_image(fake: FakeMsb, cache: ImageCache) -> None:
    path = Layout(fake.home).layer(APP.layers[1].diff_id)

    def observer(step: str) -> None:
        if step == "hand_over.locked":
            path.unlink(missing_ok=True)

    failpoints.observer = observer
    (found,) = cache.hand_over("app:1")
    assert found.outcome == "failed"
    assert "size mismatch" in (found.problem or "")
    assert "no archive can be made" in (found.problem or "")
    assert index_of(fake) == {}


def test_what_is_used_is_locked_until_msb_is_done(fake: FakeMsb, cache: ImageCache) -> None:
    layout = Layout(fake.home)
    layers = [layout.layer(each.diff_id) for each in APP.layers]
    leased = [*layers, layout.fsmeta(APP.digest), layout.vmdk(APP.digest)]
    seen: list[str] = []

    def observer(step: str) -> None:
        if step in ("hand_over.locked", "hand_over.loaded"):
            assert not any(Lock(lock_path(path)).acquire() for path in layers)
            assert not any(Lock(lease_path(path)).acquire() for path in leased)
            seen.append(step)

    failpoints.observer = observer
    cache.hand_over("app:1")
    assert seen == ["hand_over.locked", "hand_over.loaded"]
    for path in leased:
        lock = Lock(lease_path(path))
        assert lock.acquire()
        lock.release()


def test_what_another_process_deletes_is_not_handed_over(
    fake: FakeMsb, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msb_cache.commands.hand_over._HOLDING_UP", 0.01)
    fake("image", "ls")
    path = Layout(fake.home).fsmeta(APP.digest)
    lease_path(path).parent.mkdir(exist_ok=True)
    with Lock(lease_path(path)) as lock:
        assert lock.acquire()
        (found,) = cache.hand_over("app:1")
    assert (found.outcome, found.problem) == (
        "failed",
        f"another process is deleting {path.name}; try again",
    )


def test_a_release_that_refuses_gets_an_archive(fake: FakeMsb, cache: ImageCache) -> None:
    fake.fails("load", "error: size mismatch")
    (found,) = cache.hand_over("app:1")
    assert found.outcome == "saved"
    assert found.problem == "msb did not take it as it is (size mismatch)"
    assert found.new_digest == index_of(fake)["app:1"] == cache.get("app:1").manifest_digest
    assert found.new_digest != APP.digest
    assert not list((fake.home / "cache" / "tmp").glob("*-*"))  # the archive is gone


def test_one_that_refuses_that_too(fake: FakeMsb, cache: ImageCache) -> None:
    fake.fails("load", "error: no", always=True)
    (found,) = cache.hand_over("app:1")
    assert found.outcome == "failed"
    assert found.problem == "msb did not take it as it is (no), nor as an archive (no)"
    assert cache.get("app:1").manifest_digest == APP.digest


def test_without_an_msb(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSB_PATH")
    with pytest.raises(MsbProgramError, match="no msb is found that images could be handed over to"):
        cache.hand_over()
    assert not cache.kept_by_msb


@pytest.mark.parametrize("step", ["hand_over.locked", "hand_over.loaded", "sync.committing"])
def test_killed_at(fake: FakeMsb, step: str) -> None:
    def run() -> None:
        with ImageCache(fake.home) as cache:
            cache.hand_over("two")

    fake("ls")
    os.waitpid(forked(run, Kill(step, 0)), 0)
    with ImageCache(fake.home) as cache:
        assert cache.hand_over("two")[0].outcome in ("handed over", "known")
        assert index_of(fake) == {"two:latest": TWO.digest}
        assert cache.rebuild() == []
        assert cache.info().unfinished == ()
        assert not list((fake.home / "cache" / "tmp").glob("*-*"))


def test_the_restore_plan_goes_by_how_it_came(fake: FakeMsb, cache: ImageCache, prepared: Path) -> None:
    cache.hand_over()
    report = cache.remove("arm:1")
    assert report.operation is not None
    (step,) = cache.restore_plan(report.operation).images
    assert step.arguments[:2] == ("load", str(prepared.parent / "image.tar"))
