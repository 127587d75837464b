"""A home that the real msb keeps: what it did is in our log, and our index says what msb's does."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from msb_cache import ImageCache, ImageInUseError, ImageNotFoundError, SyncReport
from msb_cache.cli.output import rfc3339
from msb_cache.eventstore import events as ev
from msb_cache.msb import database as msb_database
from msb_cache.projections import known
from tests.conftest import ArchivedImage
from tests.peers.realmsb import IMAGES, Msb, copied, short_home

pytestmark = pytest.mark.peer


def told(report: SyncReport) -> list[str]:
    """Return what a report says, without digests and times."""
    lines = []
    for event in report.events:
        subject = event.subject.removeprefix("docker.io/library/")
        holder = getattr(event.data, "holder", None)
        parts = [event.type, None if subject.startswith("sha256:") else subject, holder]
        lines.append(" ".join(part for part in parts if part))
    return lines


def _nine_digits(time: str) -> str:
    """Return a time of msb's with all digits: it leaves out the last three or six where they are zeros."""
    seconds, _, fraction = time.removesuffix("+00:00").partition(".")
    return f"{seconds}.{fraction:0<9}+00:00"


def last_boot(cache: ImageCache, name: str, digest: str | None = None, since: int | None = None) -> int:
    """Return when a sandbox was last booted from an image, as the log says; 0: never."""
    return max(
        (
            event.occurred_at_ns
            for event in cache.history(name, types=["image.used"])
            if isinstance(event.data, ev.ImageUsed)
            and event.data.run is not None
            and event.data.spelling == name
            and digest in (None, event.data.manifest_digest)
            and event.occurred_at_ns > (since or 0)
        ),
        default=0,
    )


def same(cache: ImageCache, real: Msb) -> None:
    """Every handle, detail, holder and time is what msb itself says."""
    theirs: dict[str, dict[str, Any]] = {}
    for each in sorted(real.json("image", "ls"), key=lambda each: each["created_at"], reverse=True):
        theirs[each["reference"]] = each
    handles = {handle.reference: handle for handle in cache.list()}
    assert set(handles) == set(theirs)
    assert [*handles] == sorted(handles, key=lambda name: handles[name].created_at_ns or 0, reverse=True)
    state = msb_database.read(real.home / "db" / "msb.db")
    for name, each in theirs.items():
        handle = handles[name]
        assert (handle.manifest_digest, handle.size_bytes) == (each["digest"], each["size_bytes"])
        assert (handle.architecture, handle.os) == (each["architecture"], each["os"])
        assert handle.layer_count == each["layer_count"]
        assert rfc3339(handle.created_at_ns) == _nine_digits(each["created_at"])
        updated = state.images[name].updated_at_ns
        assert handle.last_used_at_ns == max(updated or 0, last_boot(cache, name))
        _same_detail(cache, real, each["reference"])
    sandboxes = {each["name"]: each["image"] for each in real.json("ls")}
    with cache._ledger.read() as connection:
        assert connection is not None
        ours = known.load(connection)
    held = {holder for _, holder in ours.holds if holder.startswith("sandbox:")}
    assert held == {f"sandbox:{name}" for name in sandboxes}
    assert set(ours.holds) == set(state.holds)
    assert set(ours.manifests) == set(state.manifests)
    assert set(ours.layers) == {layer.diff_id for each in state.manifests.values() for layer in each.layers}
    assert cache.verify().sound
    assert not cache.verify().disk


def _same_detail(cache: ImageCache, real: Msb, reference: str) -> None:
    detail, theirs = cache.inspect(reference), real.json("image", "inspect", reference)
    assert detail.config is not None
    for name, value in theirs["config"].items():
        if name == "stop_signal":  # msb never fills it in; we read it where msb keeps the configuration
            continue
        assert getattr(detail.config, name) == value, name
    for layer_detail, each in zip(detail.layers, theirs["layers"], strict=True):
        for name, value in each.items():
            ours = getattr(layer_detail, name)
            if name == "erofs_size_bytes":  # msb never fills it in
                value = os.path.getsize(cache._layout.layer(layer_detail.diff_id))
            assert ours == value, name


def fingerprint(home: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(home.rglob("*")):
        if path.is_file() and path.name.startswith("msb.db") and not path.name.endswith("-shm"):
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
    return found


def test_first_contact(real: Msb, cache: ImageCache) -> None:
    before = fingerprint(real.home)
    report = cache.sync()
    assert fingerprint(real.home) == before
    assert report.adopted
    assert report.notes == ()
    counts = {kind: told(report).count(kind) for kind in {*told(report)}}
    assert counts["manifest.added"] == 3
    # Of msb's names two are one reference: "two" and "two:latest".
    assert len(real.json("image", "ls")) == 5
    assert len([line for line in told(report) if line.startswith("image.pulled")]) == 5
    assert {line for line in told(report) if line.startswith("image.held")} == {
        *("image.held sandbox:dev", "image.held sandbox:ops")
    }
    assert {line for line in told(report) if line.startswith("image.used")} == {
        *("image.used app:1 sandbox:dev", "image.used two:latest sandbox:ops")
    }
    assert counts["image.use_ended app:1 sandbox:dev"] == 1
    same(cache, real)
    assert cache.holders("app:1") == ["sandbox:dev"]
    assert cache.holders("two") == cache.holders("example.org/team/two:2") == ["sandbox:ops"]
    assert cache.sync(force=True) == SyncReport()


def test_first_contact_with_real_images(
    msb: str,
    debian_image: ArchivedImage,
    python_image: Path,
    archives: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MSB_PATH", msb)
    with short_home() as home, ImageCache(home) as cache:
        real = Msb(msb, home, archives)
        real.load("two")
        for archive in (python_image, debian_image.oci_archive):
            real("load", "-q", "-i", str(archive))
        real.create("python:3.12", "py")
        assert cache.sync().adopted
        same(cache, real)
        assert cache.holders("python:3.12") == ["sandbox:py"]
        report = cache.prune()
        assert not report.artifacts_failed
        assert real.references() == {"python:3.12"}
        real("rm", "py")
        real("image", "rm", "python:3.12")
        assert [event.type for event in cache.history("python:3.12")][:4] == [
            *("image.pulled", "image.held", "image.used", "image.use_ended")
        ]
        same(cache, real)


def test_the_history_tells_exactly_what_msb_did(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    real("rm", "dev")
    assert told(cache.sync()) == ["image.released sandbox:dev"]
    real.load("next")  # moves app:1
    assert told(cache.sync()) == ["manifest.added", "image.pulled app:1"]
    real("image", "rm", "app:1")
    gone = told(cache.sync())
    assert gone == [
        *("image.removed app:1", "manifest.deleted"),
        *("vmdk.deleted", "fsmeta.deleted", "layer.deleted"),
    ]
    real.load("app")
    assert told(cache.sync()) == ["image.pulled app:1"]  # its manifest had stayed when app:1 moved
    history = cache.history("app:1")
    assert [event.type for event in history] == [
        *("image.pulled", "image.held", "image.used", "image.use_ended", "image.released"),
        *("image.pulled", "image.removed"),
        *("manifest.deleted", "vmdk.deleted", "fsmeta.deleted", "layer.deleted", "image.pulled"),
    ]
    assert all(event.actor.observed for event in history)
    moved = history[5].data
    assert isinstance(moved, ev.ImagePulled)
    assert moved.previous_digest == history[0].data.manifest_digest  # type: ignore[attr-defined]
    sizes = [event.data.bytes for event in history if isinstance(event.data, ev.ArtifactDeleted)]
    assert sizes[0] is None  # of a manifest
    assert all(sizes[1:])
    same(cache, real)


def test_an_adopted_name_is_not_dated_with_a_manifest_that_came_later(
    msb: str, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_PATH", msb)
    with short_home() as home, ImageCache(home) as cache:
        real = Msb(msb, home, archives)
        real.load("app")
        real.load("alone")
        long_ago = "2026-01-01 10:00:00.123456789"
        with closing(sqlite3.connect(home / "db" / "msb.db")) as connection, connection:
            for table in ("manifest", "image_ref"):
                connection.execute(f"UPDATE {table} SET created_at = ?", (long_ago,))
            connection.execute("UPDATE image_ref SET updated_at = ?", (long_ago,))
        real.load("next")  # as app:1
        real.load("alone")
        assert cache.sync().adopted
        app, alone = (cache.history(name) for name in ("app:1", "alone:1"))
        newest = cache.get("app:1").last_used_at_ns
        assert [(event.type, event.occurred_at_ns) for event in app] == [("image.pulled", newest)]
        assert [event.type for event in alone] == ["image.pulled", "image.used"]
        for events, named, since in ((app, True, None), (alone, False, alone[1].occurred_at_ns)):
            first = events[0].data
            assert isinstance(first, ev.ImagePulled)
            assert (first.named_at_ns is not None, first.observed_since_ns) == (named, since)
        for name in ("app:1", "alone:1"):
            assert rfc3339(cache.get(name).created_at_ns) == "2026-01-01T10:00:00.123456789+00:00"
        same(cache, real)


def test_removed_and_pulled_again_between_two_syncs(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    real("image", "rm", "alone:1")
    real.load("alone")
    real("rm", "dev")
    real.create("app:1", "dev")
    assert told(cache.sync()) == [
        *("image.released sandbox:dev", "image.removed alone:1", "manifest.deleted", "manifest.added"),
        *("image.pulled alone:1", "image.held sandbox:dev", "image.used app:1 sandbox:dev"),
        "image.use_ended app:1 sandbox:dev",
    ]
    same(cache, real)


def test_a_real_snapshot_holds(real: Msb, cache: ImageCache) -> None:
    real("rm", "dev")
    real.create_and_boot("app:1", "dev")  # a sandbox remembers where its home was when it was made
    cache.sync()
    real("snapshot", "create", "ready", "--sandbox", "dev")
    real("rm", "dev")
    assert told(cache.sync()) == ["image.released sandbox:dev", "image.held snapshot:dev:ready"]
    assert cache.holders("app:1") == ["snapshot:dev:ready"]
    (found,) = real.json("snapshot", "ls")
    real("snapshot", "rm", found["reference"])
    assert told(cache.sync()) == ["image.released snapshot:dev:ready"]


def test_a_prune_by_msb(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    files = {
        path: path.stat().st_size
        for path in (real.home / "cache").rglob("*")
        if path.suffix in (".erofs", ".vmdk")
    }
    real("rm", "dev")
    real("image", "prune", "--yes", fails=True)
    report = cache.sync()
    gone = sum(size for path, size in files.items() if not path.exists())
    assert gone > 0
    assert sum(e.data.bytes or 0 for e in report.events if isinstance(e.data, ev.ArtifactDeleted)) == gone
    same(cache, real)


def test_msb_works_as_before(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    before = real.json("image", "ls")
    for _ in range(3):
        cache.list()
        cache.sync(force=True)
    assert real.json("image", "ls") == before
    real.load("next")
    real.create("app:1", "third")
    assert cache.holders("app:1") == ["sandbox:third"]
    real("rm", "third")
    real("image", "rm", "app:1")
    same(cache, real)


def test_nothing_is_left_beside_a_database_at_rest(real: Msb) -> None:
    """Where msb's -wal and -shm are gone, we make none."""
    import sqlite3

    connection = sqlite3.connect(real.home / "db" / "msb.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    names = {path.name for path in (real.home / "db").iterdir()}
    assert not {"msb.db-wal", "msb.db-shm"} & names
    with ImageCache(real.home) as cache:
        assert cache.sync().adopted
        cache.list()
    left = {path.name for path in (real.home / "db").iterdir()} - names
    assert {name for name in left if not name.startswith("msb-cache.db")} <= {"migrate.lock", "reserve"}
    with ImageCache(real.home) as cache:
        same(cache, real)


OPERATIONS = st.one_of(
    st.tuples(st.just("load"), st.sampled_from([*IMAGES])),
    st.tuples(st.just("remove"), st.sampled_from(["app:1", "two", "example.org/team/two:2", "alone:1"])),
    st.tuples(st.just("drop"), st.sampled_from(["dev", "ops"])),
    st.tuples(st.just("prune")),
    st.tuples(st.just("our load"), st.sampled_from([*IMAGES])),
    st.tuples(
        st.just("our remove"), st.sampled_from(["app:1", "two", "alone:1"]), st.sampled_from(["", "force"])
    ),
    st.tuples(st.just("our prune"), st.sampled_from(["whole", "confirmed"])),
    st.tuples(st.just("sync")),
    st.tuples(st.just("list")),
)
CREATION = st.tuples(
    st.just("create"), st.sampled_from(["app:1", "two", "alone:1"]), st.sampled_from(["dev", "new"])
)


@settings(
    max_examples=3,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    before=st.lists(OPERATIONS, min_size=4, max_size=8),
    creation=CREATION,
    after=st.lists(OPERATIONS, min_size=4, max_size=8),
)
def test_any_operations_end_with_both_indexes_alike(
    real: Msb,
    prepared: Path,
    before: list[tuple[str, ...]],
    creation: tuple[str, ...],
    after: list[tuple[str, ...]],
) -> None:
    home = real.home
    operations = [*before, creation, *after]
    shutil.rmtree(home)
    copied(prepared, home)
    actions: dict[str, Callable[..., object]] = {
        "load": real.load,
        "remove": lambda name: real("image", "rm", name, fails=True),
        "create": lambda name, sandbox: _create(real, name, sandbox),
        "drop": lambda sandbox: real("rm", sandbox, fails=True),
        "prune": lambda: real("image", "prune", "--yes", fails=True),
    }
    with ImageCache(home) as cache:
        actions |= {
            "our load": lambda name: cache.load(real.archives / f"{name}.tar"),
            "our remove": lambda name, force: _remove(cache, name, force=force == "force"),
            "our prune": lambda way: cache.prune(confirm=None if way == "whole" else lambda shown: True),
        }
        for name, *arguments in operations:
            note(f"{name} {' '.join(arguments)}")
            if name in ("sync", "list"):
                cache.sync() if name == "sync" else cache.list()
            else:
                actions[name](*arguments)
        cache.sync()
        assert cache.sync(force=True) == SyncReport()
        _alike(cache, home)


def _create(real: Msb, reference: str, name: str) -> None:
    images = {each["reference"] for each in real.json("image", "ls")}
    sandboxes = {each["name"] for each in real.json("ls")}
    if reference in images and name not in sandboxes:  # else it would be pulled
        real.create(reference, name)


def _remove(cache: ImageCache, name: str, *, force: bool) -> None:
    with suppress(ImageNotFoundError, ImageInUseError):
        cache.remove(name, force=force)


def _alike(cache: ImageCache, home: Path) -> None:
    state = msb_database.read(home / "db" / "msb.db")
    handles = {handle.reference: handle for handle in cache.list()}
    assert {
        name: (
            each.manifest_digest,
            each.created_at_ns,
            max(each.updated_at_ns or 0, last_boot(cache, name, each.manifest_digest, each.created_at_ns)),
        )
        for name, each in state.images.items()
    } == {
        name: (handle.manifest_digest, handle.created_at_ns, handle.last_used_at_ns)
        for name, handle in handles.items()
    }
    with cache._ledger.read() as connection:
        assert connection is not None
        ours = known.load(connection)
    assert set(ours.manifests) == set(state.manifests)
    assert set(ours.holds) == set(state.holds)
    found = cache.verify()
    assert found.sound
    # msb leaves files of its own; what an image needs is there.
    assert not [problem for problem in found.disk if problem.problem in ("missing", "size")]


def test_times_are_those_of_msb(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    (before,) = [each for each in real.json("image", "ls") if each["reference"] == "app:1"]
    pulled = cache.history("app:1")[0]
    assert pulled.occurred_at == datetime.fromisoformat(before["created_at"])
    assert pulled.recorded_at > pulled.occurred_at
    created = {each["name"]: each["created_at"] for each in real.json("ls")}
    (held,) = [event for event in cache.history("app:1") if event.type == "image.held"]
    assert abs((held.occurred_at - datetime.fromisoformat(created["dev"])).total_seconds()) < 1
