"""What takes the disk adds up to all that lies there, whatever lies there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from msb_cache import Block, CacheReport, ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.report import blocks as room
from tests.cli.support import APP, TOOL
from tests.engines.support import refusing
from tests.flatroots import add
from tests.report.scenario import BEGIN, BIG, HOUR, lived

NOW = BEGIN + 10 * HOUR


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lived(tmp_path)


def report(home: Path) -> CacheReport:
    with ImageCache(home, clock=lambda: NOW) as cache:
        found = cache.report()
        assert found.bytes == cache.disk_usage().cache_total.allocated_bytes
    assert found.bytes == sum(each.unique_bytes + each.flat_bytes for each in found.blocks)
    assert all(each.unique_bytes >= 0 for each in found.blocks)
    return found


def of(found: CacheReport, kind: str) -> dict[str, Block]:
    return {each.name: each for each in found.blocks if each.kind == kind}


def test_what_is_shared(home: Path) -> None:
    """The base by all three names of two manifests, and the manifest that has two names by these."""
    shared = of(report(home), "shared")
    assert {(each.images, frozenset(each.names)) for each in shared.values()} == {
        (3, frozenset({"app:1", "app:latest", "example.org/team/tool:2"})),
        (2, frozenset({"app:1", "app:latest"})),
    }
    assert [name.split()[0] for name in shared] == ["manifest", f"sha256:{TOOL.layers[0].diff_id[7:19]}"]


def test_small_shared_parts_are_summed_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report(home)
    monkeypatch.setattr(room, "MOST_SHARED", 1)
    after = report(home)
    (part,) = of(after, "shared").values()
    assert part.unique_bytes == sum(each.unique_bytes for each in of(before, "shared").values())
    assert after.bytes == before.bytes


def test_leaks_flat_roots_links_and_strangers(home: Path) -> None:
    """A file that no index names, a flat root, a layer with a second name, and something else."""
    layout = Layout(home)
    leaked = layout.layer("sha256:" + "5" * 64)
    leaked.write_bytes(b"leaked" * 5000)
    os.link(layout.layer(BIG.layers[0].diff_id), layout.layer("sha256:" + "6" * 64))
    os.link(layout.layer(APP.layers[0].diff_id), layout.cache / "second")
    (layout.cache / "note.txt").write_text("x" * 9000)
    add(home, BIG.digest)
    found = report(home)
    assert of(found, "leaked")["files that no image needs"].unique_bytes == leaked.lstat().st_blocks * 512
    assert of(found, "image")["big:1"].flat_bytes > 0
    assert of(found, "other")["lock files, downloads and the like"].unique_bytes >= 9000


def test_a_manifest_without_a_name(home: Path) -> None:
    with ImageCache(home, clock=lambda: NOW) as cache:
        cache.remove("big:1", force=True)
        found, then = report(home), cache.report(as_of=cache.info().events)
    for each in (found, then):
        held = of(each, "image")[BIG.digest[:19]]
        assert (held.state, held.reclaimable_bytes, held.idle_ns) == ("held", 0, None)
        assert held.unique_bytes > 300_000


def test_what_a_deletion_had_to_leave_was_leaked_then(home: Path) -> None:
    with ImageCache(home, clock=lambda: NOW) as cache:
        cache.release("sandbox:dev")
        path = Layout(home).layer(BIG.layers[0].diff_id)
        size = path.stat().st_size
        with refusing(errno.EBUSY, Path(path)):
            cache.remove("big:1")
        found = cache.report(as_of=cache.info().events)
        (left,) = of(found, "leaked").values()
        assert size <= left.unique_bytes <= size + 4096
        assert found.bytes == found.sizes[-1].bytes + left.unique_bytes
