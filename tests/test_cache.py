"""ImageCache: what each use case does to handles, holds, files and the log."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from msb_cache import (
    CorruptLogError,
    HomeOwnedByMicrosandboxError,
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    InvalidConfigError,
    InvalidImageError,
    InvalidReferenceError,
    LogError,
    OperationNotFoundError,
    failpoints,
)
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.own.delete import started
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor
from msb_cache.oci.reference import Reference
from msb_cache.queries.resolve import familiar
from tests.imagebuilder import BuiltImage, directory, docker_archive, file, image, layer, sample
from tests.logs import PYTHON, new_ledger, some_events
from tests.trees import files_below

SHARED = layer([directory("etc"), file("etc/shared", b"s" * 5000)])
CONFIG = {
    "Env": ["A=1", "B=2"],
    "Cmd": ["/bin/sh"],
    "Entrypoint": ["/init"],
    "WorkingDir": "/w",
    "User": "app",
    "Labels": {"k": "v"},
    "StopSignal": "SIGINT",
}
ONE = image([SHARED, layer([file("one", b"1")])], "one:1", config=CONFIG)
TWO = image([SHARED, layer([file("two", b"2")])], "two:1")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    actor = Actor(user="alice", uid=1, host="h", program="test")
    with ImageCache(tmp_path / "new" / "home", actor=actor) as cache:
        yield cache


def archive(*images: BuiltImage) -> io.BytesIO:
    return io.BytesIO(docker_archive(*images))


def types(cache: ImageCache) -> list[str]:
    return [event.type for event in cache.events()]


def test_load_and_look(cache: ImageCache) -> None:
    handles = cache.load(archive(ONE, TWO), tag="alias")
    assert [handle.reference for handle in handles] == ["alias:latest", "one:1", "two:1"]
    assert [handle.reference for handle in cache.list()] == ["two:1", "one:1", "alias:latest"]
    handle = cache.get("docker.io/library/one:1")
    assert handle == cache.get("one:1") == handles[1]
    assert handle.manifest_digest == cache.get("alias").manifest_digest
    assert handle.size_bytes == sum(len(each.blob) for each in ONE.layers)
    assert (handle.os, handle.architecture, handle.layer_count) == ("linux", "amd64", 2)
    assert handle.created_at == handle.last_used_at
    detail = cache.inspect("one:1")
    assert detail.handle == handle
    assert detail.config is not None
    config = detail.config
    assert (config.env, config.cmd, config.entrypoint) == (["A=1", "B=2"], ["/bin/sh"], ["/init"])
    assert (config.working_dir, config.user, config.labels) == ("/w", "app", {"k": "v"})
    assert config.stop_signal == "SIGINT"
    layout = Layout(cache.home)
    for position, (found, built) in enumerate(zip(detail.layers, ONE.layers, strict=True)):
        assert (found.position, found.diff_id, found.blob_digest) == (position, built.diff_id, built.digest)
        assert found.compressed_size_bytes == len(built.blob)
        assert found.erofs_size_bytes == layout.layer(built.diff_id).stat().st_size
    assert types(cache) == [
        "log.created",
        *["manifest.added", "image.pulled", "image.pulled"],
        "manifest.added",
        "image.pulled",
    ]
    assert cache.verify().sound


def test_every_load_is_recorded_and_reuses_what_is_there(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = files_below(cache.home / "cache")
    first = cache.get("one:1")
    cache.load(archive(ONE))
    cache.load(archive(TWO))
    assert {name: files_below(cache.home / "cache")[name] for name in before} == before
    pulls = [event.data for event in cache.events(types=["image.pulled"])]
    total = first.size_bytes
    shared = len(SHARED.blob)
    assert [(pull.changed, pull.bytes_fetched, pull.bytes_reused) for pull in pulls] == [  # type: ignore[attr-defined]
        (True, total, 0),
        (False, 0, total),
        (True, len(TWO.layers[1].blob), shared),
    ]
    again = cache.get("one:1")
    assert again.created_at_ns == first.created_at_ns
    assert again.last_used_at_ns is not None
    assert first.last_used_at_ns is not None
    assert again.last_used_at_ns > first.last_used_at_ns


def test_a_moved_reference_keeps_its_age_and_leaves_a_dangling_manifest(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = cache.get("one:1")
    moved = image(TWO.layers, "one:1")
    cache.load(archive(moved))
    after = cache.get("one:1")
    assert after.created_at_ns == before.created_at_ns
    assert after.manifest_digest != before.manifest_digest
    last = cache.history("one:1")[-1]
    assert last.data.previous_digest == before.manifest_digest  # type: ignore[attr-defined]
    report = cache.prune()
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 2, 3)
    assert cache.verify().disk == []


def test_one_name_for_two_images_goes_to_the_last(cache: ImageCache) -> None:
    cache.load(archive(ONE, image(TWO.layers, "one:1", "two:1")))
    assert cache.get("one:1").manifest_digest == cache.get("two:1").manifest_digest


def test_remove(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO), tag="alias:1")
    first = cache.remove("alias:1")
    assert (first.image_refs_removed, first.manifests_removed, first.layers_removed) == (1, 0, 0)
    second = cache.remove("one:1")
    assert (second.manifests_removed, second.layers_removed, second.fsmeta_removed, second.vmdk_removed) == (
        1,
        1,
        1,
        1,
    )
    with pytest.raises(ImageNotFoundError, match="image not found: one:1"):
        cache.remove("one:1")
    assert [handle.reference for handle in cache.list()] == ["two:1"]
    assert cache.verify().sound
    assert cache.verify().disk == []


def test_a_held_image_is_not_removed(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.hold("one:1", "sandbox:dev")
    cache.hold("one:1", "sandbox:dev")
    cache.hold("one:1", "snapshot:/var/s nap")
    before = files_below(cache.home / "cache")
    with pytest.raises(ImageInUseError, match=r"one:1 is in use by sandbox:dev, snapshot:/var/s nap"):
        cache.remove("one:1")
    assert files_below(cache.home / "cache") == before
    report = cache.remove("one:1", force=True)
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 0, 0)
    with pytest.raises(ImageNotFoundError):
        cache.get("one:1")
    assert cache.prune().operation is None
    assert cache.release("sandbox:dev") == cache.release("snapshot:/var/s nap")
    assert cache.release("sandbox:dev") == []
    report = cache.prune()
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (0, 1, 2)
    assert cache.verify().disk == []
    assert types(cache).count("image.held") == 2


def test_prune_keeps_what_is_held_and_says_why(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    cache.hold("two:1", "sandbox:dev")
    shown = cache.preview_prune()
    dry = cache.prune(dry_run=True)
    length = len(types(cache))
    report = cache.prune()
    assert dry == report.__class__(1, 1, 1, 1, 1, report.bytes_reclaimed)
    assert length == types(cache).index("deletion.started")
    assert shown.bytes == report.bytes_reclaimed
    assert [handle.reference for handle in cache.list()] == ["two:1"]
    assert report.operation is not None
    found = cache.deletion(report.operation[:13])
    assert found.actor.user == "alice"
    assert found.policy == {"rule": "unused"}
    assert [(kept.subject, kept.rule, kept.holders) for kept in found.kept] == [
        ("docker.io/library/two:1", "held", ("sandbox:dev",))
    ]
    assert {artifact.outcome for artifact in found.artifacts} == {"deleted"}
    assert sum(artifact.bytes or 0 for artifact in found.artifacts) == report.bytes_reclaimed
    assert [name for name, _ in found.images] == ["docker.io/library/one:1"]


def test_prune_can_be_declined(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = types(cache)
    asked = []
    report = cache.prune(confirm=lambda shown: bool(asked.append(shown)))
    assert report.operation is None
    assert len(asked) == 1
    assert types(cache) == before


def test_what_comes_into_use_while_asked_stays(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))

    def confirm(shown: object) -> bool:
        with ImageCache(cache.home) as other:
            other.hold("one:1", "sandbox:late")
            other.load(archive(sample("three:1")))
        return True

    report = cache.prune(confirm=confirm)
    assert report.image_refs_removed == 1
    assert report.skipped_in_use == 1
    assert sorted(handle.reference for handle in cache.list()) == ["one:1", "three:1"]
    assert cache.verify().disk == []


def test_orphans(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    layout = Layout(cache.home)
    orphans = [
        layout.layer("sha256:" + "0" * 64),
        layout.fsmeta("sha256:" + "1" * 64),
        layout.vmdk("sha256:" + "2" * 64),
        layout.metadata("docker.io/library/gone:1"),
    ]
    for path in orphans:
        path.write_bytes(b"12345")
    foreign = layout.folders["layer"] / "notes.txt"
    foreign.write_text("mine")
    assert {problem.problem for problem in cache.verify().disk} == {"extra", "foreign"}
    assert cache.prune(dry_run=True, orphans=True).bytes_reclaimed is not None
    assert cache.preview_prune(orphans=True).orphans == 4
    cache.hold("one:1", "sandbox:dev")
    report = cache.prune(orphans=True)
    assert report.bytes_reclaimed == 20
    assert (report.image_refs_removed, report.layers_removed, report.fsmeta_removed) == (0, 0, 1)
    assert not any(path.exists() for path in orphans)
    assert foreign.read_text() == "mine"
    assert cache.verify().sound
    assert cache.prune(orphans=True).operation is None


def test_use_moves_last_used_and_holds_nothing(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = cache.get("one:1")
    after = cache.use("one:1", holder="sandbox:dev")
    assert after.created_at_ns == before.created_at_ns
    assert (after.last_used_at_ns or 0) > (before.last_used_at_ns or 0)
    assert cache.holders("one:1") == []
    assert cache.history("one:1")[-1].data.holder == "sandbox:dev"  # type: ignore[attr-defined]


def test_history_spans_removal_and_reload(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.remove("one:1")
    cache.load(archive(ONE))
    events = cache.history("docker.io/library/one:1")
    assert [event.type for event in events if event.subject.endswith("one:1")] == [
        "image.pulled",
        "image.removed",
        "metadata.deleted",
        "image.pulled",
    ]
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert events[0].actor.user == "alice"
    with pytest.raises(ImageNotFoundError, match="the log knows no image"):
        cache.history("two:1")


@pytest.mark.parametrize("holder", ["", "dev", "sandbox:", "vm:dev", "sandbox:a\nb", "sandbox:" + "x" * 600])
def test_bad_holders(cache: ImageCache, holder: str) -> None:
    cache.load(archive(ONE))
    with pytest.raises(InvalidConfigError, match="is no holder"):
        cache.hold("one:1", holder)
    with pytest.raises(InvalidConfigError):
        cache.release(holder)


@pytest.mark.parametrize("operation", ["", "abc", "zzzz", "0000", "%%%%", "' OR 1=1"])
def test_unknown_deletions(cache: ImageCache, operation: str) -> None:
    cache.load(archive(ONE))
    cache.prune()
    with pytest.raises(LogError):
        cache.deletion(operation)


def test_reading_writes_nothing(cache: ImageCache) -> None:
    assert cache.list() == []
    assert cache.events() == []
    assert cache.deletions() == []
    assert cache.verify().sound
    assert cache.prune(dry_run=True).image_refs_removed == 0
    with pytest.raises(ImageNotFoundError):
        cache.get("one:1")
    with pytest.raises(InvalidReferenceError):
        cache.get("UPPER CASE")
    assert not cache.home.exists()


def test_get_list_and_inspect_append_nothing(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = types(cache)
    cache.list()
    cache.get("one:1")
    cache.inspect("one:1")
    cache.history("one:1")
    assert types(cache) == before


def test_nobody_else_can_read_the_home(cache: ImageCache) -> None:
    previous = os.umask(0)
    try:
        cache.load(archive(ONE))
    finally:
        os.umask(previous)
    for path in [cache.home, *cache.home.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix in (".json", ".db", ".lock", ".db-wal", ".db-shm"):
            assert mode & 0o077 == 0, path


def test_without_msb_a_home_of_msb_is_read_only(cache: ImageCache, no_msb: None, tmp_path: Path) -> None:
    cache.load(archive(ONE))
    (cache.home / "db/msb.db").touch()
    before = files_below(cache.home / "cache", locks=True)
    for write in (
        lambda: cache.load(archive(TWO)),
        lambda: cache.pull("one:1"),
        lambda: cache.remove("one:1"),
        cache.prune,
        lambda: cache.prune(orphans=True),
    ):
        with pytest.raises(HomeOwnedByMicrosandboxError, match="kept by msb, which is not installed"):
            write()
    assert cache.get("one:1").reference == "one:1"
    assert cache.history("one:1")
    cache.save("one:1", tmp_path / "saved.tar")
    assert files_below(cache.home / "cache", locks=True) == before


def test_what_only_the_log_knows_can_be_said_in_a_home_of_msb(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    (cache.home / "db/msb.db").touch()
    before = files_below(cache.home / "cache", locks=True)
    cache.use("one:1", holder="sandbox:dev")
    cache.hold("one:1", "sandbox:dev")
    assert cache.holders("one:1") == ["sandbox:dev"]
    assert len(cache.release("sandbox:dev")) == 1
    assert cache.rebuild() == []
    assert files_below(cache.home / "cache", locks=True) == before


def test_no_log_is_made_in_a_home_of_msb(cache: ImageCache, no_msb: None) -> None:
    (cache.home / "db").mkdir(parents=True)
    (cache.home / "db/msb.db").touch()
    with pytest.raises(HomeOwnedByMicrosandboxError):
        cache.load(archive(ONE))
    assert cache.list() == []
    assert files_below(cache.home, locks=True) == {"db/msb.db": files_below(cache.home)["db/msb.db"]}


def broken(data: bytes) -> list[bytes]:
    return [b"", b"no archive at all", data[:-12000], data[: len(data) // 2], data.replace(b"1" * 1, b"2")]


@pytest.mark.parametrize("number", range(5))
def test_a_bad_archive_leaves_the_cache_untouched(cache: ImageCache, number: int) -> None:
    cache.load(archive(TWO))
    before, log = files_below(cache.home / "cache", locks=True), types(cache)
    with pytest.raises(InvalidImageError) as caught:
        cache.load(io.BytesIO(broken(docker_archive(ONE))[number]))
    assert "\n" not in str(caught.value)
    assert files_below(cache.home / "cache", locks=True) == before
    assert types(cache) == log
    assert not list((cache.home / "cache/tmp").iterdir())


def test_an_archive_without_a_name_needs_a_tag(cache: ImageCache) -> None:
    unnamed = image(ONE.layers)
    with pytest.raises(InvalidImageError, match="give one with --tag"):
        cache.load(archive(unnamed))
    assert cache.load(archive(unnamed), tag="x:1")[0].reference == "x:1"


def test_damaged_layer_files_are_made_anew(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    layout = Layout(cache.home)
    path = layout.layer(SHARED.diff_id)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert not cache.verify().sound
    cache.load(archive(ONE))
    assert path.read_bytes() == whole
    path.unlink()
    cache.load(archive(ONE))
    assert path.read_bytes() == whole
    assert cache.verify().sound


def test_a_damaged_fsmeta_is_made_anew(cache: ImageCache) -> None:
    (handle,) = cache.load(archive(ONE))
    path = Layout(cache.home).fsmeta(handle.manifest_digest or "")
    whole = path.read_bytes()
    for damaged in (whole[:4096], bytes(len(whole))):
        path.write_bytes(damaged)
        cache.load(archive(ONE))
        assert path.read_bytes() == whole
    assert cache.verify().sound
    assert types(cache).count("manifest.added") == 1


def test_a_layer_made_anew_takes_the_trees_of_other_images_along(cache: ImageCache) -> None:
    """Another program laid the shared layer out differently; fsmeta of both images must follow."""
    cache.load(archive(ONE, TWO))
    layout = Layout(cache.home)
    path, fsmeta = layout.layer(SHARED.diff_id), layout.fsmeta(digest_of_two(cache))
    right_layer, right_fsmeta = path.read_bytes(), fsmeta.read_bytes()
    path.write_bytes(b"damaged")
    fsmeta.write_bytes(right_fsmeta.replace(b"\x01\x00\x01\x00\x00\x00", b"\x01\x00\x07\x00\x00\x00"))
    assert fsmeta.read_bytes() != right_fsmeta
    cache.load(archive(ONE))
    assert path.read_bytes() == right_layer
    assert fsmeta.read_bytes() == right_fsmeta
    assert cache.verify().sound
    assert types(cache).count("manifest.added") == 2


def digest_of_two(cache: ImageCache) -> str:
    digest = cache.get("two:1").manifest_digest
    assert digest is not None
    return digest


def test_verify_reads_what_it_finds(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    layout = Layout(cache.home)
    metadata = layout.metadata("docker.io/library/one:1")
    metadata.write_bytes(metadata.read_bytes().replace(b"Env", b"env"))
    layer_file = layout.layer(SHARED.diff_id)
    layer_file.write_bytes(bytes(layer_file.stat().st_size))
    problems = {(problem.problem, problem.kind) for problem in cache.verify().disk}
    assert problems == {("damaged", "metadata"), ("damaged", "layer")}


def test_a_cut_off_log_is_said(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.close()
    connection = sqlite3.connect(cache.home / "db/msb-cache.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_no_delete")
    connection.execute("DELETE FROM events WHERE seq > 2")
    connection.close()
    with pytest.raises(CorruptLogError, match="ends at event 2, but had 3"):
        cache.list()


def test_a_removal_that_lost_a_race_is_tried_again(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    raced = []

    def observer(step: str) -> None:
        if step == "delete.planned" and not raced:
            raced.append(step)
            with ImageCache(cache.home) as other:
                other.load(archive(image(TWO.layers, "one:1")))

    failpoints.observer = observer
    try:
        report = cache.remove("one:1")
    finally:
        failpoints.observer = None
    assert report.image_refs_removed == 1
    assert cache.list() == []


def test_long_lists_are_split_into_parts(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    for number in range(60):
        cache.hold("one:1", f"snapshot:{number}/{'x' * 400}")
    report = cache.prune()
    assert report.operation is not None
    (kept,) = cache.deletion(report.operation).kept
    assert (len(kept.holders), kept.more) == (20, 40)
    planned = [ev.PlannedArtifact(kind="layer", subject="x" * 5000) for _ in range(2000)]
    parts = started("prune", {}, planned, [])
    assert [part.part for part in parts] == [1, 2, 3, 4]
    assert all(part.parts == 4 for part in parts)
    assert [artifact for part in parts for artifact in part.artifacts] == planned


def test_odd_bytes_in_names(cache: ImageCache, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"t\xff.tar")
    path.write_bytes(docker_archive(ONE))
    cache.load(path)
    assert cache.events(types=["image.pulled"])[0].data.source.name.endswith("t\\udcff.tar")  # type: ignore[attr-defined]
    with pytest.raises(InvalidConfigError):
        cache.hold("one:1", "sandbox:\udcff")
    with pytest.raises(OperationNotFoundError):
        cache.events(operation="\udcff")


def test_a_save_writes_through_links_and_to_devices(cache: ImageCache, tmp_path: Path) -> None:
    cache.load(archive(ONE))
    link, target = tmp_path / "link.tar", tmp_path / "target.tar"
    link.symlink_to(target)
    cache.save("one:1", link)
    assert link.is_symlink()
    assert target.stat().st_size > 0
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        cache.save("one:1", pipe)
        assert read.result(30) == target.read_bytes()


def test_an_image_without_layers(cache: ImageCache) -> None:
    cache.load(archive(image([], "empty:1")))
    assert cache.inspect("empty:1").layers == []
    assert cache.verify().sound
    assert cache.prune().fsmeta_removed == 1


def test_metadata_is_what_microsandbox_writes(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    document = json.loads(Layout(cache.home).metadata("docker.io/library/one:1").read_bytes())
    assert list(document) == [
        "manifest_digest",
        "config_digest",
        "raw_manifest_json",
        "raw_config_json",
        "config",
        "layers",
    ]
    assert document["raw_config_json"].encode() == ONE.config
    assert document["config"]["stop_signal"] == "SIGINT"
    assert [each["diff_id"] for each in document["layers"]] == [each.diff_id for each in ONE.layers]


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_what_is_saved_loads_again(cache: ImageCache, tmp_path: Path, format: str) -> None:
    cache.load(archive(ONE, TWO))
    cache.save(["one:1", "two:1"], tmp_path / "saved.tar", format=format)
    with ImageCache(tmp_path / "other") as other:
        other.load(tmp_path / "saved.tar")
        assert sorted(handle.reference for handle in other.list()) == ["one:1", "two:1"]
        config, again = cache.inspect("one:1").config, other.inspect("one:1").config
        assert config is not None
        assert again is not None
        assert (config.env, config.labels, config.stop_signal) == (again.env, again.labels, again.stop_signal)
        # The second time nothing changes any more: what we write is what we read.
        other.save(["one:1", "two:1"], tmp_path / "again.tar", format=format)
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "saved.tar").read_bytes()


def test_a_failed_save_leaves_the_old_file(cache: ImageCache, tmp_path: Path) -> None:
    cache.load(archive(ONE))
    target = tmp_path / "out" / "saved.tar"
    target.parent.mkdir()
    target.write_text("old")
    Layout(cache.home).layer(ONE.layers[1].diff_id).unlink()
    with pytest.raises(Exception, match="load the image again"):
        cache.save("one:1", target)
    with pytest.raises(ImageNotFoundError):
        cache.save(["one:1", "nope:1"], target)
    with pytest.raises(InvalidConfigError):
        cache.save("one:1", target, format="zip")
    assert [path.name for path in target.parent.iterdir()] == ["saved.tar"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    "text",
    [
        "python:3.12",
        "a/b:1",
        "ghcr.io/a/b:1",
        "localhost:5000/x:1",
        "docker.io/library/a/b:1",
        "docker.io/foo.bar/x:1",
    ],
)
def test_familiar_names_parse_back(text: str) -> None:
    canonical = Reference.parse(text).canonical
    assert Reference.parse(familiar(canonical)).canonical == canonical


def test_rebuild_mends_and_reports(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    assert cache.rebuild() == []
    connection = sqlite3.connect(cache.home / "db/msb-cache.db", isolation_level=None)
    connection.execute("UPDATE image SET last_used_at = 5")
    connection.close()
    assert len(cache.verify().differences) == 1
    (difference,) = cache.rebuild()
    assert (difference.table, difference.key) == ("image", ("docker.io/library/one:1",))
    assert cache.rebuild() == []
    assert cache.verify().sound


def test_a_disk_that_cannot_be_written_to_is_named(
    cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the archive: that was read well."""
    path = tmp_path / "app.tar"
    path.write_bytes(docker_archive(ONE))

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as raised:
        cache.load(path)
    assert Path(raised.value.filename).is_relative_to(cache.home)
    monkeypatch.undo()
    assert cache.list() == []
    assert len(cache.load(path)) == 1


class TestDroppedUnclosed:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        new_ledger(tmp_path, some_events()).close()
        return tmp_path

    def warnings_of(self, drop: Callable[[], object]) -> list[str]:
        found: list[str] = []

        def note(message: Warning | str, category: type[Warning], *where: object) -> None:
            found.append(f"{category.__name__}: {message}")

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note  # a recorded warning would keep its cache
            drop()
            gc.collect()  # else a connection that was left open would warn at some later time
        return found

    def test_it_warns_once_and_closes(
        self, home: Path, open_connections: Callable[[], list[sqlite3.Connection]]
    ) -> None:
        def look() -> None:
            cache = ImageCache(home)
            assert cache.list(as_of="@3") != cache.list()  # the past has a connection of its own
            assert len(open_connections()) == 2

        assert self.warnings_of(look) == [f"ResourceWarning: unclosed image cache of {home}"]
        assert open_connections() == []

    def test_the_warning_names_the_line_that_dropped_it(self, home: Path) -> None:
        cache = ImageCache(home)
        cache.list()
        with pytest.warns(ResourceWarning, match="unclosed image cache") as caught:
            del cache
        assert caught[0].filename == __file__

    def test_nothing_is_said_where_nothing_is_open(self, home: Path, tmp_path: Path) -> None:
        def closed() -> None:
            with ImageCache(home) as cache:
                cache.list()

        def never_made() -> None:
            with pytest.raises(TypeError):
                ImageCache(5)  # type: ignore[arg-type]

        assert self.warnings_of(closed) == []
        assert self.warnings_of(never_made) == []
        assert self.warnings_of(lambda: ImageCache(home)) == []
        assert self.warnings_of(lambda: ImageCache(tmp_path / "none").list()) == []

    @pytest.mark.parametrize(
        "events",
        [
            lambda cache: cache.iter_events(),
            lambda cache: cache.iter_history(PYTHON),
            lambda cache: cache.follow(),
        ],
        ids=["events", "history", "follow"],
    )
    def test_what_reads_it_keeps_it(
        self, home: Path, events: Callable[[ImageCache], Generator[object]]
    ) -> None:
        reading = events(ImageCache(home))
        assert self.warnings_of(lambda: next(reading)) == []
        assert self.warnings_of(reading.close) == [f"ResourceWarning: unclosed image cache of {home}"]

    def test_another_thread_drops_it(self, home: Path) -> None:
        held = [ImageCache(home)]
        held[0].list()

        def drop() -> None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(held.clear).result()

        first, *more = self.warnings_of(drop)
        assert first == f"ResourceWarning: unclosed image cache of {home}"
        assert len(more) == (sys.version_info >= (3, 13))  # SQLite's own
        assert all("unclosed database" in warning for warning in more)

    @pytest.mark.parametrize("place", ["cache", "builtins.cache"])
    def test_the_interpreter_ends(self, home: Path, place: str) -> None:
        program = (
            "import builtins, sys; from msb_cache import ImageCache\n"
            f"{place} = ImageCache(sys.argv[1]); {place}.list()"
        )
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", program, str(home)], capture_output=True, text=True
        )
        assert done.returncode == 0
        said = [line.partition(": ")[2] for line in done.stderr.splitlines()]
        assert [line for line in said if "tracemalloc" not in line] == [
            f"ResourceWarning: unclosed image cache of {home}"
        ]
