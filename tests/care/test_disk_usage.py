"""What a cache takes of the disk is what du says, and what would come free comes free."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import DiskCategory, DiskUsage, ImageCache, ImageUsage
from msb_cache.artifacts.layout import Layout, lease_path
from msb_cache.care.disk_usage import BLOCK, CACHE, OUTSIDE
from tests.cli.support import APP, APP_NEXT, TOOL, fingerprint, written
from tests.engines.support import refusing
from tests.flatroots import add, document, put
from tests.imagebuilder import file, image, layer
from tests.logs import digest
from tests.msbhome import MsbHome

BIG = image([layer([file("big", os.urandom(300_000))])], "big:1")
DAY = 86400 * 10**9
HELD = "sandbox:dev"


def du(path: Path, *options: str) -> int:
    done = subprocess.run(["du", "-s", "-D", *options, path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def taken(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * BLOCK for path in paths)


def of(home: Path) -> DiskUsage:
    """What is found; it adds up, and is what du says."""
    with ImageCache(home) as cache:
        found = cache.disk_usage()
    check(found, home)
    return found


def check(found: DiskUsage, home: Path) -> None:
    assert tuple(each.name for each in found.cache) == CACHE
    assert tuple(each.name for each in found.outside) == OUTSIDE
    columns = zip(*(each.amounts for each in found.cache), strict=True)
    assert found.cache_total == DiskCategory("total", *map(sum, columns))
    assert found.cache_total.reclaimable_bytes == found.prune_bytes + found.orphans_bytes
    cache = home / "cache"
    if cache.exists():
        assert found.cache_total.allocated_bytes == du(cache, "-B1")
        assert found.cache_total.files == du(cache, "--inodes")
    for row in found.images:
        assert row.allocated_bytes == row.unique_bytes + row.shared_bytes
        assert row.reclaimable_bytes <= row.unique_bytes + row.flat_allocated_bytes + 4096  # and a flat ref
    if (home / "db" / "snapshots").exists():
        assert category(found, "index_copies").allocated_bytes == du(home / "db" / "snapshots", "-B1")


def category(found: DiskUsage, name: str) -> DiskCategory:
    (each,) = (each for each in (*found.cache, *found.outside) if each.name == name)
    return each


def row(found: DiskUsage, name: str) -> ImageUsage:
    (each,) = (each for each in found.images if name in (each.reference, each.manifest_digest))
    return each


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with app:1 and app:latest, tool:2 that shares their base, and a big:1 that shares nothing."""
    folder = tmp_path_factory.mktemp("template")
    with ImageCache(folder / "home") as cache:
        for number, each in enumerate((APP, TOOL, BIG)):
            cache.load(written(folder / f"{number}.tar", each))
    return folder / "home"


class TestImages:
    def test_what_is_shared_and_what_is_not(self, layout: Layout, home: Path) -> None:
        found = of(home)
        assert found.images[0].reference == "big:1"
        sizes = [each.allocated_bytes for each in found.images]
        assert sizes == sorted(sizes, reverse=True)
        base, tool = (layout.layer(each.diff_id) for each in TOOL.layers)
        own = [
            layout.fsmeta(TOOL.digest),
            layout.vmdk(TOOL.digest),
            layout.metadata("example.org/team/tool:2"),
        ]
        one = row(found, "example.org/team/tool:2")
        assert (one.unique_bytes, one.shared_bytes) == (taken(tool, *own), taken(base))
        assert one.reclaimable_bytes == one.unique_bytes
        assert (one.flat_allocated_bytes, one.holders, one.running) == (0, (), 0)
        metadata = taken(layout.metadata("docker.io/library/app:1"))
        two = row(found, "app:1")
        assert two.manifest_digest == APP.digest
        assert two.unique_bytes == two.reclaimable_bytes == metadata
        files = [layout.layer(each.diff_id) for each in APP.layers]
        assert two.shared_bytes == taken(*files, layout.fsmeta(APP.digest), layout.vmdk(APP.digest))

    def test_a_held_image_frees_nothing(self, home: Path) -> None:
        with ImageCache(home) as cache:
            cache.hold("big:1", HELD)
        found = of(home)
        big = row(found, "big:1")
        assert (big.reclaimable_bytes, big.holders) == (0, (HELD,))
        assert big.unique_bytes > 300_000 > found.prune_bytes

    def test_a_manifest_without_a_reference(self, home: Path) -> None:
        with ImageCache(home) as cache:
            cache.hold("big:1", HELD)
            cache.remove("big:1", force=True)
            held = of(home)
            cache.release(HELD)
            found = of(home)
        assert row(held, BIG.digest).reclaimable_bytes == 0
        big = row(found, BIG.digest)
        assert (big.reference, big.holders) == (None, ())
        assert big.reclaimable_bytes == big.unique_bytes == big.allocated_bytes > 300_000

    def test_its_layers_are_those_of_an_unreferenced_manifest(self, home: Path, tmp_path: Path) -> None:
        """app:1 moves on; what it was is held, and needs layers of the new one."""
        with ImageCache(home) as cache:
            cache.remove("example.org/team/tool:2")
            cache.remove("app:latest")
            cache.hold("app:1", HELD)
            cache.load(written(tmp_path / "next.tar", APP_NEXT))
        found = of(home)
        base = Layout(home).layer(APP.layers[0].diff_id)
        assert row(found, "app:1").shared_bytes == row(found, APP.digest).shared_bytes == taken(base)

    def test_a_layer_that_a_manifest_has_twice_counts_once(self, own_home: Path, tmp_path: Path) -> None:
        twice = image([BIG.layers[0], BIG.layers[0]], "twice:1")
        with ImageCache(own_home) as cache:
            cache.load(written(tmp_path / "twice.tar", twice))
        found = row(of(own_home), "twice:1")
        assert 300_000 < found.unique_bytes < 400_000
        assert found.shared_bytes == 0

    def test_what_is_missing_takes_nothing(self, layout: Layout, home: Path) -> None:
        before = row(of(home), "big:1").allocated_bytes
        path = layout.layer(BIG.layers[0].diff_id)
        size = taken(path)
        path.unlink()
        assert row(of(home), "big:1").allocated_bytes == before - size


class TestComesFree:
    """What is promised is what du finds gone. Here folders take no blocks, and no lock file has any."""

    @pytest.fixture(params=["plain", "flat", "linked", "held", "moved"])
    def told(self, request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Path:
        layout = Layout(home)
        if request.param == "flat":
            add(home, BIG.digest)
            add(home, APP.digest, digest("both"))
            add(home, TOOL.digest, digest("both"))
        elif request.param == "linked":
            os.link(layout.layer(BIG.layers[0].diff_id), tmp_path / "elsewhere")
            os.link(layout.fsmeta(TOOL.digest), home / "cache" / "tmp" / "within")
        elif request.param in ("held", "moved"):
            with ImageCache(home) as cache:
                cache.hold("app:1", HELD)
                if request.param == "moved":
                    cache.load(written(tmp_path / "next.tar", APP_NEXT))
        return home

    def test_with_each_image(self, told: Path, tmp_path: Path) -> None:
        for each in of(told).images:
            if each.reference is None or each.holders:
                assert not each.reclaimable_bytes
                continue
            copy = tmp_path / "copy"
            subprocess.run(["cp", "-a", told, copy], check=True)
            with ImageCache(copy) as cache:
                before = of(copy)
                cache.remove(each.reference)
            now = du(copy / "cache", "-B1")
            assert row(before, each.reference).reclaimable_bytes == before.cache_total.allocated_bytes - now
            shutil.rmtree(copy)

    def test_with_a_prune(self, told: Path) -> None:
        found = of(told)
        with ImageCache(told) as cache:
            shown = cache.preview_prune()
            paths = [
                Layout(told).artifact(each.kind, each.subject)
                for each in shown.artifacts
                if each.bytes is not None
            ]
            assert found.prune_bytes == sum(taken(path) for path in paths if path.stat().st_nlink == 1)
            cache.prune()
        # What has a name elsewhere is gone from here, and still takes the disk.
        elsewhere = sum(taken(path) for path in told.parent.glob("elsewhere"))
        gone = found.cache_total.allocated_bytes - du(told / "cache", "-B1")
        assert found.prune_bytes == gone - elsewhere
        assert found.orphans_bytes == 0
        assert of(told).prune_bytes == 0

    def test_with_what_an_earlier_deletion_left_and_with_orphans(self, home: Path) -> None:
        layout = Layout(home)
        with ImageCache(home) as cache:
            left = [layout.layer(BIG.layers[0].diff_id), layout.metadata("docker.io/library/big:1")]
            with refusing(5, *left):
                cache.remove("big:1")
            orphans = [layout.layer(digest("none")), layout.metadata("none:1"), layout.vmdk(digest("none"))]
            for path in orphans:
                path.write_bytes(b"x" * 9000)
            found = of(home)
            assert category(found, "orphans").files == 5
            assert category(found, "orphans").allocated_bytes == taken(*left, *orphans)
            assert category(found, "orphans").reclaimable_bytes == taken(*left, *orphans)
            assert found.orphans_bytes == taken(*orphans)
            cache.prune()
            between = du(home / "cache", "-B1")
            assert found.prune_bytes == found.cache_total.allocated_bytes - between
            cache.prune(orphans=True)
        assert found.orphans_bytes == between - du(home / "cache", "-B1")

    def test_but_not_what_must_not_be_deleted(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Layout(home).vmdk(digest("none")).write_bytes(b"x" * 9000)
        plain = of(home)
        assert plain.orphans_bytes > 0
        monkeypatch.setattr("msb_cache.projections.restored.unconfirmed", lambda connection: object())
        found = of(home)
        assert (found.prune_bytes, found.orphans_bytes) == (plain.prune_bytes, 0)
        (note,) = found.notes
        assert "restore-backup --confirm" in note


class TestCategories:
    def test_each(self, layout: Layout, home: Path) -> None:
        before = of(home)
        operation = "01a208de-7af1-7b41-9b6b-151e9b4ceb8a"
        layout.staging(operation).mkdir()
        (layout.staging(operation) / "0.erofs").write_bytes(b"x" * 5000)
        layout.downloads.mkdir(exist_ok=True)
        (layout.downloads / "ab.partial").write_bytes(b"x" * 9000)
        lease = lease_path(layout.layer(digest("none")))
        lease.parent.mkdir()
        lease.touch()
        layout.flat_locks.mkdir(parents=True)
        layout.flat_lock(digest("none")).write_bytes(b"pid")
        layout.layer(digest("none")).write_bytes(b"x" * 13000)
        put(layout, APP.digest)
        (layout.cache / "layers" / "README").write_bytes(b"x")
        (layout.cache / ".image-deletions" / "delete-1").mkdir(parents=True)
        (layout.cache / ".image-deletions" / "delete-1" / "a.erofs").write_bytes(b"x" * 5000)
        (layout.cache / "layers" / "deep").symlink_to("/")
        (layout.cache / "layers" / "folder.lock").mkdir()
        found = of(home)

        def more(name: str) -> tuple[int, int]:
            now, then = category(found, name), category(before, name)
            return now.files - then.files, now.logical_bytes - then.logical_bytes

        assert {name: more(name) for name in CACHE if name != "folders"} == {
            **dict.fromkeys(("layer", "fsmeta", "vmdk", "metadata"), (0, 0)),
            "flat": (1, layout.artifact("flat_ref", APP.digest).stat().st_size),
            "downloads": (1, 9000),
            "staged": (1, 5000),
            "orphans": (1, 13000),
            "locks": (2, 3),
            "other": (3, 5001 + len("/")),
        }
        made = len(["staging", "leases", "flat", "flat/refs", "flat/locks", "deletions", "delete-1", "lock"])
        assert more("folders")[0] in (made, made + 1)  # downloads may have been there
        assert category(found, "layer").files == len({*APP.layers, *TOOL.layers, *BIG.layers})

    def test_of_several_names_the_artifact_counts(self, layout: Layout, home: Path) -> None:
        before = of(home)
        needed = layout.layer(BIG.layers[0].diff_id)
        for name in (
            layout.layer(digest("none")),
            layout.staging_root / "a",
            layout.cache / "a",
            f"{needed}.lock",
        ):
            Path(name).unlink(missing_ok=True)
            os.link(needed, name)
        found = of(home)
        assert category(found, "layer") == DiskCategory(
            "layer",
            *category(before, "layer").amounts[:3],
            category(before, "layer").reclaimable_bytes - taken(needed),
        )
        for name in ("orphans", "staged", "other"):
            assert category(found, name) == DiskCategory(name)
        assert row(found, "big:1").unique_bytes == row(before, "big:1").unique_bytes
        assert row(found, "big:1").reclaimable_bytes < taken(needed)

    def test_a_file_with_holes_takes_what_it_has_on_the_disk(self, layout: Layout, home: Path) -> None:
        ref = add(home, BIG.digest)
        blob = layout.artifact("flat", digest(f"blob {BIG.digest}"))
        found = of(home)
        assert row(found, "big:1").flat_allocated_bytes == taken(blob) < 1 << 20
        assert category(found, "flat").logical_bytes == (1 << 20) + ref.stat().st_size
        assert category(found, "flat").reclaimable_bytes == taken(blob, ref)
        big = row(found, "big:1")
        assert big.reclaimable_bytes == big.unique_bytes + taken(blob, ref)

    def test_a_flat_root_that_no_image_has_is_an_orphan(self, layout: Layout, home: Path) -> None:
        ref = put(layout, digest("gone"), document(digest("gone")))
        found = of(home)
        assert (category(found, "flat").files, category(found, "orphans").files) == (0, 1)
        assert found.orphans_bytes == taken(ref)

    def test_outside_the_cache(self, layout: Layout, home: Path) -> None:
        (layout.set_aside / "20260101T000000Z-1").mkdir(parents=True)
        os.link(layout.database, layout.set_aside / "20260101T000000Z-1" / "msb-cache.db")
        (layout.set_aside / "20260101T000000Z-1" / "msb-cache.db-wal").write_bytes(b"x" * 5000)
        layout.snapshots.mkdir(exist_ok=True)
        (layout.snapshots / "copy").write_bytes(b"x" * 5000)
        found = {each.name: each for each in of(home).outside}
        database = Path(layout.database)
        assert found["log"].allocated_bytes >= taken(database)
        folder = next(layout.set_aside.iterdir())
        assert found["set_aside"].allocated_bytes == taken(
            layout.set_aside, folder, folder / "msb-cache.db-wal"
        )
        assert found["reserve"].allocated_bytes == taken(layout.reserve)
        assert found["msb_database"] == DiskCategory("msb_database")

    def test_the_cache_may_be_a_link_and_nothing_in_it(
        self, layout: Layout, home: Path, tmp_path: Path
    ) -> None:
        plain = of(home)
        layout.cache.rename(tmp_path / "elsewhere")
        layout.cache.symlink_to(tmp_path / "elsewhere")
        linked = of(home)
        assert (linked.cache, linked.images) == (plain.cache, plain.images)
        (layout.cache / "vmdk").rename(tmp_path / "vmdk")
        (layout.cache / "vmdk").symlink_to(tmp_path / "vmdk")
        found = of(home)
        assert category(found, "vmdk").files == 0
        assert category(found, "other").files == 1

    def test_no_home_and_a_cache_that_is_none(self, own_home: Path) -> None:
        nothing = of(own_home)
        assert (nothing.cache_total, nothing.images, nothing.log) == (DiskCategory("total"), (), None)
        assert not own_home.exists()
        own_home.mkdir()
        (own_home / "cache").write_bytes(b"x" * 5000)
        found = of(own_home)
        assert found.cache_total.logical_bytes == 5000

    def test_folders_have_blocks_too(self) -> None:
        """On a disk, as the temporary folders of tests may be in memory."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            home = Path(folder)
            (home / "cache" / "tmp" / "a" / "b").mkdir(parents=True)
            (home / "cache" / "layers").mkdir()
            found = of(home)
            assert category(found, "folders").files == 5
            assert found.cache_total.allocated_bytes == category(found, "folders").allocated_bytes


NAMES = st.sampled_from(
    [
        f"sha256_{'ab' * 32}.erofs",
        f"sha256_{'ab' * 32}.erofs.lock",
        f"sha256_{'cd' * 32}.vmdk",
        f"{'ab' * 32}.json",
        f"{'ab' * 32}.lock",
        "x",
        ".msb-leases",
        "locks",
        "\udcff",
    ]
)
FOLDERS = st.sampled_from(
    [
        "",
        "layers",
        "fsmeta",
        "vmdk",
        "manifests",
        "flat",
        "flat/refs",
        "flat/blobs",
        "tmp",
        "tmp/downloads",
        "more",
    ]
)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            FOLDERS, NAMES, st.sampled_from(["file", "folder", "link", "hard link"]), st.integers(0, 9000)
        ),
        max_size=25,
    )
)
def test_any_tree_adds_up_to_what_du_says(made: list[tuple[str, str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files: list[Path] = []
        for where, name, kind, size in made:
            path = Path(folder, "cache", where, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            assert path.parent.resolve().is_relative_to(Path(folder).resolve())  # no link leads out of it
            if os.path.lexists(path):
                continue
            if kind == "file":
                path.write_bytes(b"x" * size)
                files.append(path)
            elif kind == "folder":
                path.mkdir()
                (path / "within").write_bytes(b"x" * size)
            elif kind == "link":
                path.symlink_to("nowhere")
            elif files:
                os.link(files[size % len(files)], path)
        of(Path(folder))


class TestScanning:
    def test_what_vanishes_meanwhile_is_left_out(
        self, layout: Layout, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        really, gone = os.listdir, layout.layer(BIG.layers[0].diff_id)

        empty = layout.cache / "empty"
        empty.mkdir()

        def listdir(folder: int) -> list[str]:
            found = really(folder)
            gone.unlink(missing_ok=True)
            if empty.exists():
                empty.rmdir()
            return found

        monkeypatch.setattr(os, "listdir", listdir)
        with ImageCache(home) as cache:
            found = cache.disk_usage()
        monkeypatch.undo()
        assert row(found, "big:1").allocated_bytes < 300_000
        assert found.notes == ()

    def test_what_cannot_be_read_is_said(
        self, layout: Layout, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        really = os.open

        def refuse(path: str, flags: int, mode: int = 0o777) -> int:
            if path == str(layout.staging_root):
                raise PermissionError(13, "Permission denied", path)
            return really(path, flags, mode)

        (layout.staging_root / "a").write_bytes(b"x" * 9000)
        monkeypatch.setattr(os, "open", refuse)
        with ImageCache(home) as cache:
            found = cache.disk_usage()
        assert found.notes == (
            f"{layout.staging_root} cannot be read, so what is in it is left out: Permission denied",
        )
        assert category(found, "staged").files == 0

    def test_nothing_is_written(self, home: Path) -> None:
        before = fingerprint(home)
        of(home)
        assert fingerprint(home) == before


class TestLog:
    @pytest.fixture
    def at(self, own_home: Path) -> Callable[[int], AbstractContextManager[ImageCache]]:
        return lambda days: ImageCache(own_home, clock=lambda: 1_800_000_000 * 10**9 + days * DAY)

    def test_growth(self, at: Callable[[int], AbstractContextManager[ImageCache]], tmp_path: Path) -> None:
        with at(0) as cache:
            cache.load(written(tmp_path / "big.tar", BIG))
            log = cache.disk_usage().log
            assert log is not None
            assert (log.events, log.counted_ns, log.bytes_per_month) == (log.counted_events, 0, None)
        before = log.events
        with at(12) as cache:
            log = cache.disk_usage().log
        assert log is not None
        assert (log.counted_events, log.counted_ns) == (before, 12 * DAY)
        assert log.bytes_per_month == log.allocated_bytes * 30 // 12
        with at(20) as cache:
            cache.use("big:1")
            cache.use("big:1")
        with at(45) as cache:
            log = cache.disk_usage().log
        assert log is not None
        assert (log.events, log.counted_events, log.counted_ns) == (before + 2, 2, 30 * DAY)
        assert log.bytes_per_month == log.allocated_bytes * 2 // log.events
        with at(-1) as cache:
            log = cache.disk_usage().log
        assert log is not None
        assert log.bytes_per_month is None


class TestOfMsb:
    @pytest.fixture
    def kept(self, own_home: Path) -> Iterator[MsbHome]:
        found = MsbHome(own_home)
        found.load("app:1", "one", "xy")
        found.load("two", "two", "xz")
        found.load("docker.io/library/two:latest", "three", "w")
        for name in "xyzw":
            found.layout.layer(digest(f"diff {name}")).write_bytes(name.encode() * 9000)
        yield found
        found.close()

    def test_a_home_of_msb(self, kept: MsbHome, own_home: Path) -> None:
        kept.now = time.time_ns()  # after the beginning of this process
        kept.create("app:1", "dev")
        kept.boot("dev", os.getpid())
        found = of(own_home)
        app = row(found, "app:1")
        assert (app.holders, app.running, app.reclaimable_bytes) == (("sandbox:dev",), 1, 0)
        assert category(found, "msb_database").allocated_bytes >= taken(Path(kept.layout.msb_database))
        assert app.shared_bytes == taken(kept.layout.layer(digest("diff x")))
        with ImageCache(own_home) as cache:
            shown = cache.preview_prune()
        paths = [
            kept.layout.artifact(each.kind, each.subject)
            for each in shown.artifacts
            if each.bytes is not None
        ]
        assert found.prune_bytes == taken(*paths) > 0

    def test_two_spellings_have_one_metadata_file(self, kept: MsbHome, own_home: Path) -> None:
        metadata = kept.layout.metadata("docker.io/library/two:latest")
        metadata.write_bytes(b"x" * 5000)
        found = of(own_home)
        one, two = row(found, "two"), row(found, "docker.io/library/two:latest")
        shared = taken(metadata, kept.layout.layer(digest("diff x")))
        assert (one.shared_bytes, two.shared_bytes) == (shared, taken(metadata))
        assert two.reclaimable_bytes == two.unique_bytes
        assert found.prune_bytes == sum(
            each.reclaimable_bytes
            for each in found.cache
            if each.name in ("layer", "fsmeta", "vmdk", "metadata")
        )

    def test_what_msb_needs_is_no_orphan(self, kept: MsbHome, own_home: Path) -> None:
        with ImageCache(own_home) as cache:
            cache.sync()
        kept.load("new:1", "new", "n")
        with ImageCache(own_home, sync=False) as cache:
            found = cache.disk_usage()
        check(found, own_home)
        assert category(found, "orphans").files == 0
        assert category(found, "layer").files == 5

    def test_whose_index_cannot_be_read(self, kept: MsbHome, own_home: Path) -> None:
        with ImageCache(own_home) as cache:
            cache.sync()
        kept.connection.execute("ALTER TABLE manifest RENAME TO other")
        kept.layout.vmdk(digest("none")).write_bytes(b"x")
        notes: list[str] = []
        with ImageCache(own_home, note=notes.append) as cache:
            found = cache.disk_usage()
        check(found, own_home)
        assert category(found, "orphans").files == 1
        assert found.orphans_bytes == 0
        assert [note.split(",")[0].split(":")[0] for note in found.notes] == [
            "what msb needs cannot be told",
            "what would come free of the orphans is not counted",
        ]
        assert len(notes) == 1
