"""Each thing that can be wrong with a home is found, in words that say what comes of it and what mends it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from msb_cache import DataRequest, Finding, ImageCache, RegistryOptions, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lease, Lock
from msb_cache.care import doctor
from msb_cache.engines.own.downloads import STALE_SECONDS
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.home import reserve
from tests.cli.support import APP, TOOL, written
from tests.engines.interrupting import in_a_child, killing_at
from tests.flatroots import add, put
from tests.logs import digest
from tests.msbhome import MsbHome
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)
APP_REFERENCE, TOOL_REFERENCE = "docker.io/library/app:1", "example.org/team/tool:2"
TOOL_LAYER = TOOL.layers[1].diff_id


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with app:1 and app:latest, and a tool:2 that shares their base."""
    folder = tmp_path_factory.mktemp("template")
    with ImageCache(folder / "home") as cache:
        for number, each in enumerate((APP, TOOL)):
            cache.load(written(folder / f"{number}.tar", each))
    return folder / "home"


@pytest.fixture
def cache(home: Path) -> Iterator[ImageCache]:
    with ImageCache(home) as opened:
        yield opened


def only(cache: ImageCache) -> Finding:
    (found,) = cache.doctor()
    return found


def kinds(cache: ImageCache) -> list[str]:
    return [finding.kind for finding in cache.doctor()]


def test_the_page_has_a_line_about_each_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == [*get_args(doctor.FindingKind)]
    assert "less than four of the home's reserves" in page
    assert doctor.NEARLY_FULL_RESERVES == 4
    assert f"fewer than {doctor.NEARLY_FULL_FILES:,} files" in page


def test_nothing_is_wrong(cache: ImageCache, tmp_path: Path) -> None:
    assert cache.doctor() == []
    with ImageCache(tmp_path / "none") as empty:
        assert empty.doctor() == []
    assert not (tmp_path / "none").exists()


# -- files of images ----------------------------------------------------------------------------------------


def test_a_lost_vmdk(cache: ImageCache, layout: Layout) -> None:
    layout.vmdk(APP.digest).unlink()
    assert only(cache) == Finding(
        "file-missing",
        "the VMDK is missing, and its image does not start",
        layout.vmdk(APP.digest),
        "vmdk",
        APP.digest,
        ("app:latest", "app:1"),
        "msb-cache doctor --fix",
        fixable=True,
    )


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (lambda path: path.unlink(), "missing", "the merged tree is missing, and"),
        (lambda path: path.write_bytes(b"x"), "size", "the merged tree has 1 bytes, not"),
        (
            lambda path: path.write_bytes(b"x" * path.stat().st_size),
            "damaged",
            "the merged tree is dam",
        ),
        (lambda path: shutil.copy(Layout(path.parents[2]).fsmeta(TOOL.digest), path), "other", "is not its"),
    ],
)
def test_what_is_wrong_with_a_file(
    cache: ImageCache, layout: Layout, damage: Callable[[Path], object], kind: str, says: str
) -> None:
    damage(layout.fsmeta(APP.digest))
    found = only(cache)
    assert (found.kind, found.fixable, found.needs_pull) == (f"file-{kind}", True, False)
    assert says in found.meaning
    assert found.meaning.endswith("and its image does not start")


def test_a_home_that_was_moved(template: Path, own_home: Path) -> None:
    shutil.copytree(template, own_home)
    with ImageCache(own_home) as cache:
        found = cache.doctor()
        assert {(each.kind, each.artifact, each.fixable) for each in found} == {("file-moved", "vmdk", True)}
        assert f"it was made for {template}" in found[0].meaning


def test_a_file_that_was_found_to_be_altered(cache: ImageCache, layout: Layout) -> None:
    """Its bytes are not read: what the last look at them found is told."""
    path = layout.layer(TOOL_LAYER)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert kinds(cache) == []
    cache.verify(data=DataRequest())
    # The VMDKs of a home that is a copy are others, too (see tests.moving).
    (found,) = (each for each in cache.doctor() if each.artifact != "vmdk")
    assert (found.kind, found.artifact, found.images) == ("file-altered", "layer", (TOOL_REFERENCE,))
    assert "when it was last read, its bytes were not those of its digest" in found.meaning


def test_what_came_from_an_archive_is_loaded_again(cache: ImageCache, layout: Layout, template: Path) -> None:
    layout.layer(TOOL_LAYER).unlink()
    layout.metadata(TOOL_REFERENCE).unlink()
    found = cache.doctor()
    assert {(each.artifact, each.fixable, each.command) for each in found} == {
        (kind, False, f"msb-cache load -i {template.parent / '1.tar'}") for kind in ("metadata", "layer")
    }


def test_what_another_reference_has_is_made_of_that(cache: ImageCache, layout: Layout) -> None:
    layout.metadata(APP_REFERENCE).unlink()
    found = only(cache)
    assert (found.artifact, found.fixable, found.needs_pull) == ("metadata", True, False)
    layout.metadata("docker.io/library/app:latest").unlink()
    assert [each.fixable for each in cache.doctor()] == [False, False]


def test_what_came_from_a_registry_is_pulled_again(cache: ImageCache, layout: Layout) -> None:
    """So are the files that are made of a lost layer, of all images that have it."""
    with RegistryServer() as server:
        cache.pull(server.add(TOOL), options=FAST)
    layout.layer(TOOL_LAYER).unlink()
    layout.vmdk(TOOL.digest).unlink()
    found = cache.doctor()
    assert {(each.artifact, each.command, each.needs_pull) for each in found} == {
        (kind, "msb-cache doctor --fix --pull", True) for kind in ("layer", "vmdk")
    }
    assert found[0].images == (f"{server.host}/app:1", TOOL_REFERENCE)


def test_a_folder_in_the_place_of_a_file(cache: ImageCache, layout: Layout) -> None:
    path = layout.vmdk(APP.digest)
    path.unlink()
    path.mkdir()
    found = only(cache)
    assert "a folder lies in its place" in found.meaning
    assert (found.fixable, found.command) == (False, f"mv {path} {path}.aside")


def test_a_huge_vmdk_is_not_read(cache: ImageCache, layout: Layout) -> None:
    os.truncate(layout.vmdk(APP.digest), 1 << 40)
    assert only(cache).kind == "file-size"


# -- what is more -------------------------------------------------------------------------------------------


def test_an_orphan_and_a_foreign_file(cache: ImageCache, layout: Layout) -> None:
    orphan, foreign = layout.layer(digest("orphan")), layout.folders["layer"] / "notes.txt"
    for path in (orphan, foreign):
        path.write_bytes(b"x" * 2048)
    found = {each.path: each for each in cache.doctor()}
    assert (found[orphan].kind, found[orphan].command) == ("orphan", "msb-cache prune --orphans-only")
    assert "no image needs it, and it takes 2.0 KiB" in found[orphan].meaning
    assert (found[foreign].kind, found[foreign].command) == ("foreign", None)
    assert not any(each.fixable for each in found.values())


def test_leaked_flat_roots(cache: ImageCache, home: Path) -> None:
    add(home, digest("gone"))
    put(Layout(home), digest("gone"), b"{}")
    assert kinds(cache) == ["flat-root", "flat-root"]


def test_what_a_deletion_had_to_leave(cache: ImageCache, layout: Layout) -> None:
    with Lock(lock_path(layout.vmdk(TOOL.digest))) as lock:
        assert lock.acquire()
        cache.remove(TOOL_REFERENCE)
    found = only(cache)
    assert (found.kind, found.fixable, found.subject) == ("leftover", True, TOOL.digest)
    assert "another process worked with it" in found.meaning


def test_operations_that_were_cut_short(cache: ImageCache, layout: Layout) -> None:
    one, two, running = uuid7(), uuid7(), uuid7()
    layout.operations.mkdir(exist_ok=True)
    layout.operation_lock(one).touch()
    layout.staging_root.mkdir(exist_ok=True)
    layout.staging(two).mkdir()
    with Lock(layout.operation_lock(running)) as lock:
        assert lock.acquire()
        found = cache.doctor()
    assert {(each.kind, each.subject) for each in found} == {("unfinished", one), ("dead-staging", two)}
    assert all(each.fixable for each in found)


def test_a_deletion_that_was_cut_short(cache: ImageCache, layout: Layout) -> None:
    def killed(step: str) -> None:
        if step == "delete.decided":
            killing_at(1)(step)

    cache.close()
    in_a_child(Path(layout.home), lambda cache, _: cache.remove(TOOL_REFERENCE), Path(layout.home), killed)
    found = cache.doctor()
    assert [each.meaning for each in found] == [
        "a deletion was cut short, and some of its files are there still"
    ]  # and not that each of these may be of an image that the log has lost


def test_a_restore_that_was_cut_short(cache: ImageCache, layout: Layout) -> None:
    """Its lock may be gone, where the disk was too full to say how it ended."""
    cache.remove(TOOL_REFERENCE)
    (deletion,) = cache.prunes()
    restore = uuid7()
    with cache._session.ledger.write(restore) as transaction:
        transaction.append([NewEvent(ev.RestoreStarted(undoes=deletion.operation), restore)])
    (found,) = (each for each in cache.doctor() if each.kind == "unfinished")
    assert found.subject == restore
    assert found.meaning.startswith("a restore was cut short")
    assert found not in [each.finding for each in cache.repair().left]


def test_beside_processes_that_work(
    cache: ImageCache, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they take away while it is looked at is no finding, nor what they are about to delete."""
    orphan, lone = layout.layer(digest("gone")), lock_path(layout.layer(digest("lone")))

    def ended(step: str) -> None:
        if step == "doctor.looked" and orphan.exists():
            orphan.unlink()
            lone.unlink()

    for path in (orphan, lone):
        path.touch()
    assert {each.path for each in cache.doctor()} == {orphan, lone}
    monkeypatch.setattr(failpoints, "observer", ended)
    assert cache.doctor() == []
    found: list[list[Finding]] = []

    def deleting(step: str) -> None:
        if step == "delete.decided":
            with ImageCache(layout.home) as second:
                found.append(second.doctor())

    monkeypatch.setattr(failpoints, "observer", deleting)
    cache.remove(TOOL_REFERENCE)
    assert found == [[]]


def test_parts_of_downloads_and_lone_locks(cache: ImageCache, layout: Layout) -> None:
    layout.downloads.mkdir(parents=True)
    stale, fresh, held = (layout.downloads / f"{number * 64}.partial" for number in "012")
    for path in (stale, fresh, held):
        path.write_bytes(b"begun")
    old = time.time() - STALE_SECONDS - 60
    for path in (stale, held):
        os.utime(path, (old, old))
    lone = lock_path(layout.layer(digest("gone")))
    lone.touch()
    with Lock(held) as lock:
        assert lock.acquire()
        found = cache.doctor()
    assert [(each.kind, each.path) for each in found] == [("stale-download", stale), ("lone-lock", lone)]


def test_what_is_another_users(cache: ImageCache, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    layers = [*home.glob("cache/layers/*.erofs")]
    for path in layers:
        os.lchown(path, 4321, 4321)
    os.lchown(home / "cache/vmdk", 4321, -1)
    found = cache.doctor()
    assert [(each.kind, each.path) for each in found] == [
        ("other-owner", home / "cache/vmdk"),
        ("other-owner", home / "cache/layers"),
    ]
    assert found[0].command == f"sudo chown -h 0:0 {home / 'cache/vmdk'}"
    assert found[1].command is not None
    assert "-uid 4321" in found[1].command
    assert f"{len(layers)} files and folders in this are user 4321's" in found[1].meaning
    os.chmod(home / "cache/layers", 0o2770)  # a group shares it
    assert [each.path for each in cache.doctor()] == [home / "cache/vmdk"]


# -- the log ------------------------------------------------------------------------------------------------


def change(layout: Layout, *statements: str) -> None:
    with closing(sqlite3.connect(layout.database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_an_index_that_is_not_what_the_log_says(cache: ImageCache, layout: Layout) -> None:
    cache.close()
    change(layout, "UPDATE image SET spelling = 'x'", "DROP TRIGGER events_no_update")
    found = {each.kind: each for each in cache.doctor()}
    assert found.keys() == {"log-schema", "index-differs"}
    assert all(each.fixable for each in found.values())
    assert "3 rows of the index are not as the log says" in found["index-differs"].meaning


def test_a_log_that_is_not_what_was_written(cache: ImageCache, layout: Layout) -> None:
    cache.close()
    change(layout, "DROP TRIGGER events_no_update", "UPDATE events SET hash = zeroblob(32) WHERE seq = 3")
    found = {each.kind: each for each in cache.doctor()}
    assert not found["log-broken"].fixable
    assert "no evidence any more: the stored hash of event 3" in found["log-broken"].meaning


def test_a_file_that_is_no_database(cache: ImageCache, layout: Layout) -> None:
    cache.close()
    Path(layout.database).write_bytes(b"no database" * 1000)
    assert kinds(cache) == ["log-broken"]


def test_a_nearly_full_disk(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    room = doctor.NEARLY_FULL_RESERVES * reserve.SMALLEST
    monkeypatch.setattr(reserve, "free", lambda layout: room)
    assert kinds(cache) == []
    monkeypatch.setattr(reserve, "free", lambda layout: room - 1)
    found = only(cache)
    assert (found.kind, found.command) == ("disk-nearly-full", "msb-cache prune")
    assert "and 4.0 MiB should be" in found.meaning


def test_a_file_system_without_room_for_files(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEARLY_FULL_FILES", 1 << 60)
    assert "can be made where the log is" in only(cache).meaning


# -- msb ----------------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(own_home: Path) -> Iterator[MsbHome]:
    theirs = MsbHome(own_home)
    theirs.load("app:1", "one")
    with closing(theirs):
        yield theirs


def of_msb(home: Path) -> dict[str, Finding]:
    with ImageCache(home) as cache:
        return {each.kind: each for each in cache.doctor() if not each.kind.startswith("file-")}


def test_no_watch_in_a_home_of_msb(theirs: MsbHome, own_home: Path) -> None:
    found = of_msb(own_home)["no-watch"]
    assert found.command == "msb-cache watch"
    with Lock(Layout(own_home).watch_lock) as alone:  # doctor itself, in another process
        assert alone.acquire()
    with Lease(Layout(own_home).watch_lock) as lease:
        assert lease.acquire()
        assert "no-watch" not in of_msb(own_home)
    assert "no-watch" in of_msb(own_home)


def test_a_schema_that_was_not_tried(theirs: MsbHome, own_home: Path) -> None:
    with theirs.transaction() as connection:
        connection.execute("CREATE TABLE seaql_migrations (version TEXT, applied_at INTEGER)")
        connection.execute("INSERT INTO seaql_migrations VALUES ('m29990101_000001_new', 1)")
    found = of_msb(own_home)["msb-schema"]
    assert "m29990101_000001_new" in found.meaning


def test_a_deletion_that_msb_was_stopped_in(theirs: MsbHome, own_home: Path) -> None:
    folder = own_home / "cache/.image-deletions/delete-1"
    folder.mkdir(parents=True)
    assert of_msb(own_home)["msb-deletion"].command == "msb image prune"


def test_what_msb_did_cannot_be_recorded(theirs: MsbHome, own_home: Path) -> None:
    with ImageCache(own_home) as cache:
        cache.sync()
    theirs.close()
    (own_home / "db/msb.db").write_bytes(b"no database" * 1000)
    for suffix in ("-wal", "-shm"):
        (own_home / f"db/msb.db{suffix}").unlink(missing_ok=True)
    assert "not-recorded" in of_msb(own_home)
