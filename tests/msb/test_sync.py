"""Recording what msb did: what is recorded of it, in which order, and what is not taken for news."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from msb_cache import (
    Activity,
    Actor,
    BusyError,
    HomeOwnedByMicrosandboxError,
    ImageCache,
    InvalidConfigError,
    LogError,
    MsbDatabaseError,
    SyncReport,
    failpoints,
)
from msb_cache.artifacts import metadata
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import chain
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.home import foreign_db
from msb_cache.home.ledger import Ledger
from msb_cache.msb import liveness, runs, stored, sync
from msb_cache.msb.witness import Changer
from msb_cache.projections import live
from tests.imagebuilder import BuiltImage, docker_archive, sample, sha256
from tests.logs import digest
from tests.msbhome import SECRET, MsbHome


@pytest.fixture
def home(own_home: Path) -> Iterator[MsbHome]:
    """A home of msb with app:1 and two:2, and a sandbox of app:1."""
    found = MsbHome(own_home)
    found.load("app:1", "one", "xy", env=["A=1"])
    found.load("example.org/two:2", "two", "xz")
    found.create("app:1", "dev")
    yield found
    found.close()


@pytest.fixture
def cache(home: MsbHome) -> Iterator[ImageCache]:
    with ImageCache(home.layout.home) as found:
        yield found


def types(report: SyncReport) -> list[str]:
    return [event.type for event in report.events]


def settle() -> None:
    """Wait until a change of a file is sure to show in its modification time."""
    time.sleep(0.11)


def sound(cache: ImageCache) -> bool:
    with cache._ledger.read() as connection:
        assert connection is not None
        assert live.compare(connection, live.fold_until(cache._ledger.store(connection))) == []
        return isinstance(chain.verify(connection), chain.Verified)


# -- what is recorded -------------------------------------------------------------------------------------


def test_what_an_older_release_recorded_is_completed_once(
    home: MsbHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote the first version of manifest.added, and did not look into metadata files."""
    built = sample(config={"StopSignal": "SIGQUIT", "Labels": {"k": "v"}})
    diff_ids = [layer.diff_id for layer in built.layers]
    with monkeypatch.context() as older:
        older.setattr(ev.ManifestAdded, "version", 1)
        older.setattr(stored, "look", lambda path: None)
        home.connection.execute("UPDATE manifest SET media_type = 'm'")
        for row_id, diff_id in enumerate(diff_ids, 1):
            home.connection.execute("UPDATE layer SET diff_id = ? WHERE id = ?", (diff_id, row_id))
        home.connection.execute("UPDATE config SET digest = ?", (sha256(built.config),))
        home.connection.execute("UPDATE manifest SET config_digest = ?", (sha256(built.config),))
        with ImageCache(home.layout.home) as cache:
            cache.sync()
            versions = {event.version for event in cache.events() if event.type == "manifest.added"}
            assert versions == {1}
        CATALOGUE._decoders.clear()  # it knows by now how to read the first version as the newest
    home.connection.execute("UPDATE manifest SET total_size_bytes = 77 WHERE id = 1")
    home.connection.execute("UPDATE manifest SET total_size_bytes = NULL, media_type = NULL WHERE id = 2")
    path = home.layout.metadata("docker.io/library/app:1")
    one = replace(metadata_of(built), manifest_digest=digest("manifest one"))
    path.write_bytes(metadata.render(one))
    with ImageCache(home.layout.home, sync=False) as cache:
        cache.rebuild()  # as when the fold has a new version
        assert (cache.get("app:1").size_bytes, cache.get("example.org/two:2").size_bytes) == (2241, 2242)
    with ImageCache(home.layout.home) as cache:
        assert types(cache.sync(force=True)) == ["manifest.added", "manifest.added"]
        assert cache.sync(force=True).events == ()
        assert sound(cache)
        config = cache.inspect("app:1").config
        assert config is not None
        assert (cache.get("app:1").size_bytes, config.stop_signal) == (77, "SIGQUIT")
        assert cache.get("example.org/two:2").size_bytes is None
        assert [problem for problem in cache.verify().disk if problem.path == path] == []
        path.write_bytes(metadata.render(one).replace(b'\\"size\\"', b'\\"sizE\\"'))
        assert [problem.kind for problem in cache.verify().disk if problem.path == path] == ["metadata"]


def metadata_of(built: BuiltImage) -> metadata.Metadata:
    """Return what the metadata file of an image has."""
    config = json.loads(built.config)["config"]
    return metadata.Metadata(
        manifest_digest=built.digest,
        config_digest=sha256(built.config),
        raw_manifest_json=built.manifest.decode(),
        raw_config_json=built.config.decode(),
        config={
            **dict.fromkeys(metadata.CONFIG_KEYS),
            "labels": config["Labels"],
            "stop_signal": config["StopSignal"],
        },
        layers=[
            metadata.LayerMetadata(
                digest=each.digest,
                media_type=each.media_type,
                size_bytes=len(each.blob),
                diff_id=each.diff_id,
            )
            for each in built.layers
        ],
    )


def test_first_contact_is_one_operation(home: MsbHome, cache: ImageCache) -> None:
    report = cache.sync()
    assert report.adopted
    assert types(report) == [
        *("manifest.added", "manifest.added", "image.pulled", "image.pulled", "image.used", "image.held")
    ]
    assert {event.operation for event in report.events} == {report.operation}
    assert all(event.actor.observed for event in report.events)
    assert [handle.reference for handle in cache.list()] == ["example.org/two:2", "app:1"]
    assert cache.holders("app:1") == ["sandbox:dev"]
    detail = cache.inspect("app:1")
    assert detail.config is not None
    assert detail.config.env == ["A=1"]
    assert [layer.erofs_size_bytes for layer in detail.layers] == [8192, 8192]
    assert sound(cache)


def test_twice_adds_nothing(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    for force in (True, False, True):
        assert cache.sync(force=force) == SyncReport()
    settle()
    assert cache.sync() == cache.sync() == SyncReport()
    assert len(cache.events()) == 7


def test_reading_records_first(home: MsbHome, cache: ImageCache) -> None:
    assert len(cache.list()) == 2
    home.load("three:3", "three", "w")
    assert cache.get("three:3").manifest_digest == digest("manifest three")
    home.remove_sandbox("dev")
    assert cache.holders("app:1") == []
    home.remove("app:1")
    events = [event.type for event in cache.history("app:1")]
    assert events == [
        *("image.pulled", "image.used", "image.held", "image.released", "image.removed"),
        *("manifest.deleted", "vmdk.deleted", "fsmeta.deleted", "layer.deleted"),
    ]
    assert len({event.operation for event in cache.events()[-5:]}) == 1


def test_reading_without_recording(home: MsbHome) -> None:
    with ImageCache(home.layout.home, sync=False) as cache:
        assert cache.list() == cache.events() == []
        assert not os.path.exists(home.layout.database)
        assert cache.sync().adopted
        assert len(cache.list()) == 2


def test_what_msb_did_between_two_syncs(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.load("app:1", "next", "xw")
    home.touch("example.org/two:2")
    home.create("app:1", "ops")
    home.snapshot("app:1", "ready", "ops")
    report = cache.sync()
    assert not report.adopted
    assert types(report) == [
        # msb has one time for both, the pull and the sandbox: that of the last use.
        *("manifest.added", "image.used", "image.pulled", "image.used", "image.held", "image.held")
    ]
    assert cache.holders("app:1") == ["sandbox:ops", "snapshot:ops:ready"]
    home.remove_sandbox("ops")
    home.remove_sandbox("dev")
    home.remove_snapshot("ready")
    home.prune()
    report = cache.sync()
    assert cache.list() == []
    freed = sum(getattr(event.data, "bytes", None) or 0 for event in report.events)
    assert freed == 3 * (4096 + 633) + 4 * 8192
    assert sound(cache)


def test_files_that_msb_deletes_later(home: MsbHome, cache: ImageCache) -> None:
    """msb deletes the records first; the sync that sees that comes before the files have gone."""
    cache.sync()
    home.remove_sandbox("dev")
    manifests, layers = home.prune(files=False)
    report = cache.sync()
    assert types(report) == ["image.released", *["image.removed"] * 2, *["manifest.deleted"] * 2]
    assert cache.sync() == SyncReport()
    home.delete_files(manifests[:1], layers)
    later = cache.sync()
    assert sorted(types(later)) == ["fsmeta.deleted", *["layer.deleted"] * 3, "vmdk.deleted"]
    assert {event.operation for event in later.events} == {report.operation}
    home.delete_files(manifests, layers)
    assert sorted(types(cache.sync())) == ["fsmeta.deleted", "vmdk.deleted"]
    settle()
    assert cache.sync(force=True) == cache.sync() == SyncReport()
    gone = [event.type for event in cache.history("app:1") if event.type.endswith(".deleted")]
    assert sorted(gone) == [
        *("fsmeta.deleted", "layer.deleted", "layer.deleted", "manifest.deleted", "vmdk.deleted")
    ]
    assert sound(cache)


def test_files_that_msb_forgets_are_not_waited_for_longer_than_an_hour(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.sync()
    home.remove("example.org/two:2", files=False)
    assert types(cache.sync()) == ["image.removed", "manifest.deleted"]
    monkeypatch.setattr(sync, "_WAIT_FOR_FILES", -1)
    assert cache.sync() == SyncReport()
    home.delete_files([digest("manifest two")], [])
    assert cache.sync(force=True) == SyncReport()


def test_files_whose_records_come_back_were_not_deleted(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.remove("example.org/two:2", files=False)
    cache.sync()
    home.load("example.org/two:2", "two", "xz")
    assert types(cache.sync()) == ["manifest.added", "image.pulled"]
    home.delete_files([digest("manifest two")], [])
    assert cache.sync(force=True) == SyncReport()


# -- what a deletion of ours has asked msb to delete ------------------------------------------------------


def claim(cache: ImageCache, *artifacts: tuple[ev.ArtifactKind, str], force: bool = False) -> str:
    """Record that msb is asked to delete these, as the deletion does before it runs msb; return its id."""
    operation = uuid7()
    planned = tuple(ev.PlannedArtifact(kind=kind, subject=subject) for kind, subject in artifacts)
    started = ev.DeletionStarted(
        kind="remove", policy={"force": force}, artifacts=planned, engine="msb", part=1, parts=1
    )
    with cache._ledger.write(operation, owner="msb") as transaction:
        transaction.append([NewEvent(started, operation)])
    return operation


TWO = "example.org/two:2"
FILES_OF_TWO: list[tuple[ev.ArtifactKind, str]] = [
    ("fsmeta", digest("manifest two")),
    ("vmdk", digest("manifest two")),
    ("layer", digest("diff z")),
]


def test_files_of_a_claimed_deletion_are_left_to_it(home: MsbHome, cache: ImageCache) -> None:
    """The deletion looks at its files itself when msb is done: a sync says nothing of them."""
    cache.sync()
    operation = claim(cache, ("metadata", TWO), ("manifest", digest("manifest two")), *FILES_OF_TWO)
    home.remove(TWO, files=False)
    report = cache.sync()
    assert types(report) == []  # nothing else happened
    mine = cache.events(operation=operation)
    assert [event.type for event in mine] == ["deletion.started", "image.removed", "manifest.deleted"]
    assert [event.actor.observed for event in mine[1:]] == [True, True]
    removed = mine[1].data
    assert isinstance(removed, ev.ImageRemoved)
    assert (removed.cause, removed.forced) == ("remove", False)
    home.delete_files([digest("manifest two")], [digest("diff z")])
    assert cache.sync(force=True) == SyncReport()
    assert cache.events(operation=operation) == mine
    assert sound(cache)


def test_files_beside_those_of_a_claimed_deletion(home: MsbHome, cache: ImageCache) -> None:
    """What goes with it and was not asked for is what msb did by itself."""
    cache.sync()
    vmdk, fsmeta, layer = FILES_OF_TWO[1], FILES_OF_TWO[0], FILES_OF_TWO[2]
    operation = claim(cache, ("metadata", TWO), vmdk)
    home.remove(TWO, files=False)
    report = cache.sync()
    assert types(report) == ["manifest.deleted"]
    assert report.operation != operation
    home.delete_files([digest("manifest two")], [digest("diff z")])
    later = cache.sync()
    assert sorted(types(later)) == ["fsmeta.deleted", "layer.deleted"]
    assert {event.subject for event in later.events} == {fsmeta[1], layer[1]}
    assert {event.operation for event in later.events} == {report.operation}


@pytest.mark.parametrize(
    ("force", "reference", "forced"), [(True, TWO, False), (True, "app:1", True), (False, "app:1", False)]
)
def test_a_claimed_removal_was_forced_only_if_the_image_was_held(
    home: MsbHome, cache: ImageCache, force: bool, reference: str, forced: bool
) -> None:
    cache.sync()
    canonical = {"app:1": "docker.io/library/app:1"}.get(reference, reference)
    operation = claim(cache, ("metadata", canonical), force=force)
    home.remove(reference)
    cache.sync()
    (event,) = (each.data for each in cache.events(operation=operation, types=["image.removed"]))
    assert isinstance(event, ev.ImageRemoved)
    assert (event.cause, event.forced) == ("remove", forced)


@pytest.mark.parametrize("own", [True, False])
def test_what_was_claimed_is_recorded_as_done_by_the_process_that_claimed_it(
    home: MsbHome, cache: ImageCache, own: bool
) -> None:
    cache.sync()
    operation = claim(cache, ("metadata", TWO))
    home.remove(TWO)
    sync.sync(cache._ledger, acting=sync.OwnAction(operation if own else uuid7()))
    (event,) = cache.events(operation=operation, types=["image.removed"])
    assert event.actor.observed is not own


# -- homes ------------------------------------------------------------------------------------------------


def test_a_home_of_ours_is_never_synced(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "ours") as cache:
        assert cache.sync() == SyncReport()
        assert not (tmp_path / "ours").exists()
        ledger = cache._ledger
        with pytest.raises(LogError, match="does not belong to msb"), ledger.write("x", owner="msb"):
            pass
        assert not (tmp_path / "ours").exists()


def test_the_writing_check_is_as_before(home: MsbHome, cache: ImageCache) -> None:
    with pytest.raises(HomeOwnedByMicrosandboxError), cache._ledger.write("x"):
        pass
    cache.sync()
    with pytest.raises(HomeOwnedByMicrosandboxError), cache._ledger.write("x"):
        pass


def test_images_that_were_ours_stay_ours(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(docker_archive(sample("ours:1", seed="ours")))
    elsewhere = MsbHome(tmp_path / "msb")
    elsewhere.load("theirs:1", "one")
    elsewhere.close()
    with ImageCache(tmp_path / "ours") as cache:
        cache.load(archive)
        cache.hold("ours:1", "sandbox:mine")
        shutil.copy(elsewhere.path, tmp_path / "ours/db/msb.db")
        assert {handle.reference for handle in cache.list()} == {"ours:1", "theirs:1"}
        assert cache.holders("ours:1") == ["sandbox:mine"]
        assert cache.sync(force=True) == SyncReport()


def test_a_database_made_anew(home: MsbHome, cache: ImageCache) -> None:
    """The ids begin at 1 again, and the same rows are not the same records."""
    cache.sync()
    home.close()
    for path in home.layout.db.glob("msb.db*"):
        path.unlink()
    shutil.rmtree(home.layout.cache)
    again = Path(home.layout.home).with_name("again")
    other = MsbHome(again)
    other.now += 10**12
    other.load("app:1", "one", "xy")
    other.close()
    shutil.copy(other.path, home.path)
    assert {"image.removed", "image.pulled", "image.released"} < set(types(cache.sync()))
    (handle,) = cache.list()
    assert handle.created_at_ns is not None
    assert handle.created_at_ns > home.now
    assert sound(cache)


@pytest.mark.parametrize("content", [b"", b"garbage" * 500])
def test_a_database_that_cannot_be_read(own_home: Path, content: bytes) -> None:
    (own_home / "db").mkdir(parents=True)
    (own_home / "db/msb.db").write_bytes(content)
    notes: list[str] = []
    with ImageCache(own_home, note=notes.append) as cache:
        with pytest.raises(MsbDatabaseError, match=r"msb\.db"):
            cache.sync()
        assert cache.list() == []
        assert cache.list() == []
    assert len(notes) == 1
    assert "msb.db" in notes[0]
    assert os.listdir(own_home / "db") == ["msb.db"]


def test_nothing_is_recorded_of_a_database_that_breaks(home: MsbHome) -> None:
    notes: list[str] = []
    with ImageCache(home.layout.home, note=notes.append) as cache:
        cache.sync()
        home.connection.execute("ALTER TABLE image_ref RENAME TO something_else")
        assert len(cache.list()) == 2
        assert "no images of microsandbox" in notes[0]
        with pytest.raises(MsbDatabaseError):
            cache.sync()
        home.connection.execute("ALTER TABLE something_else RENAME TO image_ref")
        assert cache.sync() == SyncReport()


def test_a_home_that_we_cannot_write_is_read(home: MsbHome, monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageCache(home.layout.home) as cache:
        cache.sync()
    home.load("three:3", "three")
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK and access(path, mode))
    notes: list[str] = []
    with ImageCache(home.layout.home, note=notes.append) as cache:
        assert len(cache.list()) == 2
    assert ["cannot be written to" in note for note in notes] == [True]


def test_rows_that_make_no_sense_are_noted(home: MsbHome, cache: ImageCache) -> None:
    home.connection.execute("INSERT INTO image_ref (reference, manifest_id) VALUES ('BAD one', 1)")
    report = cache.sync()
    assert report.notes == ("left out of msb.db: the reference 'BAD one'",)
    assert len(cache.list()) == 2


# -- changed since last time ------------------------------------------------------------------------------


def test_an_unchanged_database_is_not_read(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle()
    cache.sync()
    monkeypatch.setattr("msb_cache.msb.database.read", lambda path: pytest.fail("it was read"))
    cache.sync()
    cache.list()
    began = time.perf_counter()
    for _ in range(20):
        cache.sync()
    assert (time.perf_counter() - began) / 20 < 0.005


def test_files_are_waited_for_without_reading_it(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.sync()
    home.remove("example.org/two:2", files=False)
    settle()
    first = cache.sync()
    assert types(first) == ["image.removed", "manifest.deleted"]
    with monkeypatch.context() as patch:
        patch.setattr("msb_cache.msb.database.read", lambda path: pytest.fail("it was read"))
        assert cache.sync() == SyncReport()
        home.delete_files([digest("manifest two")], [])
        later = cache.sync()
        assert {"fsmeta.deleted", "vmdk.deleted"} <= set(types(later))
        assert {event.operation for event in later.events} == {first.operation}
    assert "manifest.added" not in types(cache.sync(force=True))
    assert cache.rebuild() == []


def test_a_change_within_the_clocks_tick_is_seen(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of files moves in steps: two changes can leave the same modification time."""
    monkeypatch.setattr(sync, "_TICK", 10**11)  # this machine may be busy
    home.touch("app:1")
    home.connection.execute("PRAGMA wal_checkpoint(RESTART)")
    home.touch("app:1")
    assert cache.sync().operation is not None
    before = sync.stamp(home.layout)
    assert before is not None
    home.connection.execute("UPDATE image_ref SET updated_at = replace(updated_at, '20', '21')")
    home.connection.execute("PRAGMA wal_checkpoint(RESTART)")
    home.touch("app:1")
    os.utime(home.path, ns=(before.db_mtime_ns, before.db_mtime_ns))
    os.utime(f"{home.path}-wal", ns=(before.wal_mtime_ns, before.wal_mtime_ns))
    assert sync.stamp(home.layout) == before
    assert cache.sync().operation is not None


def test_what_other_tables_say_is_no_news(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.connection.execute("CREATE TABLE other (id)")
    assert cache.sync() == SyncReport()
    settle()
    with cache._ledger.read() as connection:
        assert connection is not None
        first = connection.execute("SELECT * FROM sync_state").fetchall()
    cache.sync(force=True)
    with cache._ledger.read() as connection:
        assert connection is not None
        assert connection.execute("SELECT * FROM sync_state").fetchall() != first


def test_the_last_look_is_disposable(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    with cache._ledger.write("x", owner="msb") as transaction:
        transaction.connection.execute("DELETE FROM sync_state")
    assert cache.sync() == SyncReport(adopted=False)


# -- at once ----------------------------------------------------------------------------------------------


def test_many_at_once_add_nothing_twice(home: MsbHome) -> None:
    def one(_: int) -> int:
        with ImageCache(home.layout.home) as cache:
            return len(cache.sync(force=True).events)

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(one, range(12))) == [0] * 11 + [6]


def test_an_older_view_never_follows_a_newer_one(home: MsbHome) -> None:
    """One sync stops after taking our lock; msb goes on, and the other sync sees the later state only."""
    order: list[str] = []

    def observer(step: str) -> None:
        if step == "sync.locked" and threading.current_thread().name == "first":
            order.append("locked")
            home_now.load("three:3", "three", "w")
            time.sleep(0.3)
        if step == "sync.committing":
            order.append(threading.current_thread().name)

    def go() -> None:
        with ImageCache(home.layout.home) as cache:
            cache.sync()

    first, second = threading.Thread(target=go, name="first"), threading.Thread(target=go, name="second")
    home.close()
    home_now = _reopened(home)
    failpoints.observer = observer
    try:
        first.start()
        while not order:
            time.sleep(0.01)
        second.start()
        first.join()
        second.join()
    finally:
        failpoints.observer = None
        home_now.close()
    assert order[:2] == ["locked", "first"]
    with ImageCache(home.layout.home, sync=False) as cache:
        assert len(cache.list()) == 3
        assert len(cache.events(types=["image.pulled"])) == 3


def _reopened(home: MsbHome) -> MsbHome:
    home.connection = sqlite3.connect(home.path, isolation_level=None, check_same_thread=False)
    return home


def test_reading_does_not_wait_long_for_another_writer(home: MsbHome) -> None:
    with ImageCache(home.layout.home) as cache:
        cache.sync()
    home.load("three:3", "three")
    other = sqlite3.connect(home.layout.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    notes: list[str] = []
    with ImageCache(home.layout.home, note=notes.append) as cache:
        began = time.monotonic()
        assert len(cache.list()) == 2
        assert time.monotonic() - began < 10
        assert notes[0].startswith("waiting for another process that is writing to")
        assert notes[1].startswith("what msb did since the last sync is missing here: another process")
        with pytest.raises(BusyError), cache._ledger.write("x", wait=0.01, owner="msb"):
            pass
        other.execute("ROLLBACK")
        assert len(cache.list()) == 3
    other.close()


def test_killed_before_the_commit_nothing_is_recorded(home: MsbHome) -> None:
    program = (
        "import os, signal, sys; from msb_cache import ImageCache, failpoints\n"
        "def kill(step):\n"
        "    if step == 'sync.committing': os.kill(os.getpid(), signal.SIGKILL)\n"
        "failpoints.observer = kill\n"
        "ImageCache(sys.argv[1]).sync()"
    )
    done = subprocess.run([sys.executable, "-c", program, str(home.layout.home)])
    assert done.returncode == -signal.SIGKILL
    with ImageCache(home.layout.home, sync=False) as cache:
        assert cache.events() == []
        assert cache.sync().adopted


def test_watch_from_a_program(home: MsbHome, cache: ImageCache) -> None:
    stop = threading.Event()
    seen: list[str] = []
    for event in cache.watch(stopped=stop.is_set, interval=0.01):
        seen.append(event.type)
        if event.type == "image.held":
            stop.set()
    assert seen[-1] == "image.held"
    with pytest.raises(StopIteration):
        next(cache.watch(stopped=lambda: True))


def test_sizes_of_many_files(home: MsbHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_MANY", 1)
    os.symlink("/etc/passwd", home.layout.layer(digest("diff w")))
    home.load("three:3", "three", "xyz")
    measure = sync._measure(home.layout)
    for kind, subject in (
        *(("layer", digest(f"diff {name}")) for name in "xyzwv"),
        *(("fsmeta", digest(f"manifest {name}")) for name in ("one", "two", "none")),
    ):
        alone = sync._measure(home.layout)(kind, subject)
        assert measure(kind, subject) == alone
    assert Layout(Path(home.layout.home, "none")).sizes("layer") == {}
    assert isinstance(Ledger(home.layout).owned_by_msb, bool)


def test_times_that_msb_wrote_while_the_clock_was_ahead(home: MsbHome) -> None:
    """They are no uses of images once the clock is right again, at the next sync or at any later."""
    years = 3652 * 86_400 * 10**9
    with ImageCache(home.layout.home, clock=lambda: home.now) as cache:
        cache.sync()
        home.now += years
        home.touch("app:1")
        home.load("new:1", "new", "z")
        assert sorted(types(cache.sync())) == ["image.pulled", "image.used", "manifest.added"]
        home.now -= years
        home.tick()
        home.create("example.org/two:2", "prod")
        for _ in range(3):
            home.tick()
            cache.sync()
            assert max(image.last_used_at_ns for image in cache.list()) <= home.now
            assert max(image.created_at_ns for image in cache.list()) <= home.now
            settle()
        events = cache.events(after=1)
        assert [event.type for event in events].count("clock.jumped") == 1
        assert [event.type for event in events].count("image.used") == 3
        home.touch("app:1")
        home.touch("new:1")
        report = cache.sync()
        assert types(report) == ["image.used", "image.used"]
        assert all(0 <= home.now - event.occurred_at_ns < 3 * 10**9 for event in report.events)
        assert sound(cache)


# -- who did it -------------------------------------------------------------------------------------------


class Knows:
    """Stands for a witness that knows who changed the database."""

    actor = Actor(user="alice", uid=1000, host="h", program="msb image rm", observed=True, seen_by="root@h")

    def __init__(self, *, came_ns: int = 0, looked_ns: int = 0) -> None:
        self.came_ns, self.looked_ns = came_ns, looked_ns
        self.moments = 0

    def settled(self) -> None:
        self.moments += 1

    def changer(self) -> Changer:
        assert self.moments == 1
        return Changer(self.actor, self.looked_ns, self.came_ns)

    def sync(self, cache: ImageCache) -> list[str | None]:
        """Sync, and say who did what is recorded; None: seen by this process."""
        self.moments = 0
        report = sync.sync(cache._ledger, force=True, witness=self)  # type: ignore[arg-type]
        assert {event.actor.observed for event in report.events} <= {True}
        return [None if event.actor.seen_by is None else event.actor.user for event in report.events]


def test_who_changed_the_database_is_the_actor(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.remove("example.org/two:2")
    assert {*Knows().sync(cache)} == {"alice"}
    assert cache.prunes()[0].actor == Knows.actor
    assert sound(cache)
    home.load("three:3", "three", "w")
    assert {*Knows().sync(cache)} == {"alice"}
    home.load("four:4", "four", "v")
    assert {*Knows(came_ns=time.time_ns()).sync(cache)} == {None}  # msb's times lie before that


def test_files_that_go_later_are_not_the_changers(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.remove("example.org/two:2", files=False)
    assert {*Knows().sync(cache)} == {"alice"}
    home.delete_files([digest("manifest two")], [digest("diff z")])
    assert {*Knows().sync(cache)} == {None}


def test_in_another_log_than_the_witness_looked_at_nobody_is_named(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.remove("example.org/two:2")
    assert {*Knows(looked_ns=time.time_ns()).sync(cache)} == {None}


# -- boots ------------------------------------------------------------------------------------------------


def told(report: SyncReport) -> list[tuple[str, str | None, str | None]]:
    """Return the type, holder and status of what was recorded."""
    return [
        (event.type, getattr(event.data, "holder", None), getattr(event.data, "status", None))
        for event in report.events
    ]


def boots_of(cache: ImageCache, *types: str) -> list[str]:
    chosen = types or (ev.ImageUsed.type, ev.ImageUseEnded.type)
    return [event.data.run for event in cache.events(types=[*chosen]) if event.data.run]


@pytest.fixture
def sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be no container: a process that is not seen is not there."""
    monkeypatch.setattr(liveness, "_sees_all", lambda: True)


@pytest.fixture
def now(home: MsbHome) -> None:
    """Let it be now in the home: what was booted in the past has ended with the computer's last start."""
    home.now = time.time_ns()


def test_every_boot_is_a_use(home: MsbHome, cache: ImageCache, now: None) -> None:
    run = home.boot("dev", os.getpid())
    assert told(cache.sync())[-2:] == [
        ("image.held", "sandbox:dev", "Running"),
        ("image.used", "sandbox:dev", None),  # the creation is no use besides
    ]
    (handle,) = cache.list("app:1")
    assert (handle.in_use_by, handle.in_use_since_ns, handle.idle_since_ns) == (
        ("sandbox:dev",),
        home.now,
        None,
    )
    assert handle.last_used_at_ns == home.now
    assert cache.sync(force=True) == SyncReport()
    home.end(run)
    assert told(cache.sync()) == [("image.use_ended", "sandbox:dev", "Stopped")]
    (handle,) = cache.list("app:1")
    assert (handle.in_use_by, handle.in_use_since_ns, handle.idle_since_ns) == ((), None, home.now)
    assert handle.last_used_at_ns == home.now - 1_000_000_007
    again = home.boot("dev", os.getpid())
    home.end(again)
    assert told(cache.sync()) == [
        ("image.used", "sandbox:dev", None),
        ("image.use_ended", "sandbox:dev", None),
    ]
    assert len(cache.history("app:1")) == 6
    assert sound(cache)


def test_the_killed_process_is_seen_though_msb_writes_nothing(
    home: MsbHome, cache: ImageCache, sees_all: None, now: None
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        home.boot("dev", process.pid)
        settle()
        assert cache.get("app:1").in_use_by == ("sandbox:dev",)
        assert cache.get("app:1").in_use_by == ("sandbox:dev",)
        before = len(cache.events())
        process.kill()
    assert cache.get("app:1").in_use_by == ()
    (ended,) = cache.events()[before:]
    assert (ended.type, ended.data.how, ended.data.status) == ("image.use_ended", "vanished", None)
    assert cache.get("app:1").idle_since_ns == ended.occurred_at_ns
    home.end(1)  # msb sees it as well, later: nothing is recorded twice
    assert [event.type for event in cache.sync().events] == ["image.held"]
    assert sound(cache)


def test_a_sandbox_that_was_removed_ran_until_nobody_knows_when(
    home: MsbHome, cache: ImageCache, now: None
) -> None:
    home.boot("dev", os.getpid())
    cache.sync()
    home.remove_sandbox("dev")
    report = cache.sync()
    assert types(report) == ["image.released", "image.use_ended"]
    assert report.events[-1].data.how == "vanished"
    assert (cache.get("app:1").in_use_by, cache.holds()) == ((), [])
    assert boots_of(cache)  # what msb deletes stays in the log


def test_a_run_from_before_the_computers_start_has_ended_by_then(
    home: MsbHome, cache: ImageCache, sees_all: None
) -> None:
    home.boot("dev", 2**22 + 1)
    report = cache.sync()
    assert report.events[-1].data.how == "restarted"
    started = liveness.computer_started_ns()
    assert abs(report.events[-1].occurred_at_ns - started) < 10**9
    assert abs((cache.get("app:1").idle_since_ns or 0) - started) < 10**9


def test_a_process_of_before_the_computers_start_is_none_of_now(
    home: MsbHome, cache: ImageCache, now: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.boot("dev", os.getpid())
    cache.sync()
    monkeypatch.setattr(liveness, "boot", lambda: "another start of the computer")
    monkeypatch.setattr(liveness, "find", lambda pid, name, started: "gone")
    assert [event.data.how for event in cache.sync().events] == ["restarted"]


def test_only_the_image_that_it_ran_from_is_used(home: MsbHome, cache: ImageCache, now: None) -> None:
    run = home.boot("dev")
    moved = home.load("app:1", "new", "w")
    home.load("same:1", "one", "xy")
    cache.sync()
    used = {image.reference: image.in_use_by for image in cache.list()}
    assert used == {"app:1": (), "same:1": ("sandbox:dev",), "example.org/two:2": ()}
    before = cache.get("app:1")
    assert before.manifest_digest == moved
    home.end(run)
    home.boot("dev")
    cache.sync()
    after = cache.get("app:1")
    assert (after.last_used_at_ns, after.idle_since_ns) == (before.last_used_at_ns, None)
    same = cache.get("same:1")
    assert (same.in_use_by, same.idle_since_ns) == (("sandbox:dev",), None)
    boots = [event for event in cache.history("app:1") if event.type == "image.used" and event.data.run]
    assert {event.data.manifest_digest for event in boots} == {digest("manifest one")}
    assert sound(cache)


def test_a_sandbox_of_a_folder_uses_and_holds_no_image(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.create_from_folder("bound")
    home.end(home.boot("bound"))
    assert cache.sync() == SyncReport()


def test_boots_without_a_row_are_counted_and_not_made_up(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    home.create("app:1", "gone")
    for _ in range(3):
        home.end(home.boot("gone"))
    home.remove_sandbox("gone")
    home.end(home.boot("dev"))
    report = cache.sync()
    assert report.notes == ("3 boots left no row in msb.db: their sandboxes were removed before a sync",)
    assert len(boots_of(cache)) == 2
    assert cache.sync(force=True) == SyncReport()


def test_what_goes_on_is_told(home: MsbHome) -> None:
    told: list[Activity] = []
    settle()
    with ImageCache(home.layout.home, progress=told.append) as cache:
        cache.list()
        first = [each for each in told if not each.over]
        told.clear()
        cache.list()
        assert told == []  # nothing has changed, so nothing is done
    assert [each.what for each in first] == [
        "recording what msb did",
        "reading msb's database",
        "comparing msb's index with the log",
    ]
    assert (first[-1].unit, first[-1].total) == ("images", 2)


def test_all_boots_that_are_there_are_adopted_in_batches(
    home: MsbHome, cache: ImageCache, now: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "BATCH", 3)
    for _ in range(10):
        home.end(home.boot("dev"))
    report = cache.sync()
    assert report.adopted
    assert {event.operation for event in report.events} == {report.operation}
    assert len(boots_of(cache, ev.ImageUsed.type)) == len(set(boots_of(cache))) == 10
    assert sound(cache)
    home.boot("dev")
    assert types(cache.sync()) == ["image.used"]


def test_a_copied_database_brings_nothing_twice(home: MsbHome, cache: ImageCache, now: None) -> None:
    ended, open_ = home.boot("dev"), home.boot("dev")
    home.end(ended)
    cache.sync()
    before = boots_of(cache)
    copied = home.path.with_name("copied.db")
    home.connection.execute("VACUUM INTO ?", (str(copied),))
    home.connection.close()
    for suffix in ("-wal", "-shm"):
        home.path.with_name(f"{home.path.name}{suffix}").unlink(missing_ok=True)
    os.replace(copied, home.path)
    home.connection = sqlite3.connect(home.path, isolation_level=None)
    assert cache.sync(force=True) == SyncReport()
    home.end(open_)
    new = home.boot("dev")
    assert [event.type for event in cache.sync().events] == ["image.use_ended", "image.used"]
    assert [int(run[4:].split("@")[0]) for run in boots_of(cache)[len(before) :]] == [open_, new]
    assert sound(cache)


def test_without_what_it_kept_all_is_compared_with_the_log(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "BATCH", 2)
    for _ in range(5):
        home.end(home.boot("dev"))
    cache.sync()
    with cache._ledger.write("x", owner="any") as transaction:
        for table in ("sync_state", "sync_runs", "sync_process"):
            transaction.connection.execute(f"DELETE FROM {table}")
    home.end(home.boot("dev"))
    assert types(cache.sync()) == ["image.used", "image.use_ended"]
    assert len(set(boots_of(cache))) == 6


def test_the_cost_is_of_what_is_new(home: MsbHome, cache: ImageCache) -> None:
    home.connection.executescript(
        "INSERT INTO run (sandbox_id, status, started_at, terminated_at) "
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000) "
        "SELECT 1, 'Terminated', 1790000000 + x, 1790000001 + x FROM n"
    )
    cache.sync()
    for _ in range(3):
        home.end(home.boot("dev"))
    asked: list[runs.Cursor] = []
    read = runs.read

    def reading(connection: sqlite3.Connection, path: str, cursor: runs.Cursor, as_ns: object) -> object:
        asked.append(cursor)
        found = read(connection, path, cursor, as_ns)  # type: ignore[arg-type]
        assert found is not None
        assert len(found.found) == 3
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "read", reading)
        assert len(cache.sync().events) == 6
    assert [cursor.through for cursor in asked] == [3000]


# -- statuses and labels ----------------------------------------------------------------------------------


def test_the_status_is_recorded_where_it_changed(home: MsbHome, cache: ImageCache) -> None:
    cache.sync()
    (hold,) = cache.holds()
    assert (hold.holder, hold.status, hold.root, hold.labels) == ("sandbox:dev", "Stopped", None, {})
    home.connection.execute("UPDATE sandbox SET status = 'Crashed'")
    report = cache.sync()
    assert told(report) == [("image.held", "sandbox:dev", "Crashed")]
    (after,) = cache.holds()
    assert (after.status, after.since_ns) == ("Crashed", hold.since_ns)
    assert [each.status for each in cache.holds(as_of=report.events[0].seq - 1)] == ["Stopped"]
    home.connection.execute("UPDATE sandbox SET status = ?", ("\x1b[31mred",))
    assert cache.sync() == SyncReport()  # what would drive a terminal says nothing


def test_a_flat_root_is_said(home: MsbHome, cache: ImageCache) -> None:
    home.create("app:1", "flat", root="flat")
    cache.sync()
    assert {hold.holder: hold.root for hold in cache.holds()} == {"sandbox:dev": None, "sandbox:flat": "flat"}


def test_labels_are_recorded_that_were_asked_for(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.create("app:1", "ops", team="infra", token="abc", note="x" * 252)
    cache.sync()
    assert [hold.labels for hold in cache.holds()] == [{}, {}]
    monkeypatch.setenv("MSB_CACHE_LABELS", "team, owner ,,note")
    report = cache.sync(force=True)
    assert [event.data.labels for event in report.events] == [{"team": "infra"}]
    assert report.notes == ("left out of msb.db: a label of more than 256 bytes, or with control characters",)
    monkeypatch.setenv("MSB_CACHE_LABELS", "owner")
    home.connection.execute("UPDATE sandbox_labels SET key = 'owner', value = 'me' WHERE key = 'token'")
    cache.sync()
    (hold,) = (hold for hold in cache.holds() if hold.holder == "sandbox:ops")
    assert hold.labels == {"owner": "me", "team": "infra"}  # which this process was not to look at
    home.connection.execute("DELETE FROM sandbox_labels")
    cache.sync()
    (hold,) = (hold for hold in cache.holds() if hold.holder == "sandbox:ops")
    assert hold.labels == {"team": "infra"}
    assert sound(cache)


def test_more_labels_than_a_log_should_have_are_refused(
    home: MsbHome, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_CACHE_LABELS", ",".join(f"l{number}" for number in range(17)))
    with pytest.raises(InvalidConfigError, match="MSB_CACHE_LABELS names 17 labels; name at most 16"):
        cache.sync()


def test_nothing_secret_of_a_sandbox_is_read(home: MsbHome, cache: ImageCache) -> None:
    home.boot("dev")
    asked: list[str] = []
    connect = foreign_db.descriptors.connect

    def connecting(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[arg-type]
        connection.set_trace_callback(asked.append)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign_db.descriptors, "connect", connecting)
        cache.sync()
    (query,) = (each for each in asked if "FROM sandbox LIMIT" in each)
    with home.transaction() as connection:
        rows = connection.execute(query).fetchall()
    assert rows == [(1, "dev", "Running", "app:1", "managed")]
    assert SECRET not in "".join(str(event) for event in cache.events())
