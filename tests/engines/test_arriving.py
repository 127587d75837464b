"""What is known of images before they are added, and how often that is tried."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.engines.arriving import Arriving, Stage, arriving, as_often_as_full
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.reference import Reference
from msb_cache.projections.state import Coming
from msb_cache.retention.coming import Blob, Sizes
from tests.imagebuilder import docker_archive, file, image, layer

FIRST, SECOND = layer([file("first", b"1" * 5000)], "gzip"), layer([file("second", b"2" * 5000)])
APP = image([FIRST, SECOND], "app:1")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A home that has the second layer, in 4 KiB."""
    layout = Layout(tmp_path / "home")
    path = layout.layer(SECOND.diff_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 4096)
    return layout


def look(layout: Layout, tmp_path: Path, *, anew: bool = False, at_once: int = 0) -> Arriving:
    path = tmp_path / "app.tar"
    path.write_bytes(docker_archive(APP))
    with open_archive(path, tmp_path) as archive:
        names = [Reference.parse("app:1")]
        return arriving(layout, archive.images, names, anew=anew, fetched_at_once=at_once)


def test_what_comes(layout: Layout, tmp_path: Path) -> None:
    found = look(layout, tmp_path)
    assert found.names == ("app:1",)
    assert found.coming.references == {"docker.io/library/app:1"}
    assert found.coming.layers == {FIRST.diff_id, SECOND.diff_id}
    assert len(found.coming.manifests) == 1
    assert found.sizes == Sizes((Blob(len(FIRST.blob), True),), images=1, here=4096)
    assert found.stage == "known"


def test_what_is_made_anew(layout: Layout, tmp_path: Path) -> None:
    blobs = (Blob(len(FIRST.blob), True), Blob(len(SECOND.blob), False))
    assert look(layout, tmp_path, anew=True).sizes == Sizes(blobs, images=1, replaced=4096)


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_what_lies_beside(layout: Layout, tmp_path: Path, at_once: int) -> None:
    sizes = sorted((len(FIRST.blob), len(SECOND.blob)), reverse=True)
    assert look(layout, tmp_path, anew=True, at_once=at_once).sizes.beside == sum(sizes[:at_once])


def test_of_what_has_arrived_no_more_comes(layout: Layout, tmp_path: Path) -> None:
    layout.downloads.mkdir(parents=True)
    (layout.downloads / f"{SECOND.digest[7:]}.partial").write_bytes(b"x" * 4096)
    left = len(SECOND.blob) - 4096
    assert look(layout, tmp_path, anew=True, at_once=2).sizes.beside == len(FIRST.blob) + left


def test_when_all_is_staged() -> None:
    before = Arriving(names=("a",), coming=Coming(), sizes=Sizes((Blob(9, True),), 1, 2, 3, 4, spooled=5))
    after = before.staged(7)
    assert (after.stage, after.sizes) == ("staged", Sizes(replaced=7, spooled=5))


@pytest.mark.parametrize(("failures", "stages"), [(0, 1), (1, 2), (4, 5)])
def test_a_full_disk_is_tried_again(failures: int, stages: int) -> None:
    seen: list[Stage] = []

    def attempt(stage: Stage) -> str:
        seen.append(stage)
        if len(seen) <= failures:
            raise FULL
        return "done"

    assert as_often_as_full(lambda arriving: None, attempt) == "done"
    assert seen == ["known", *["too-little"] * (stages - 1)]


@pytest.mark.parametrize("error", [FULL, OSError(errno.EIO, "Input/output error")])
def test_it_ends(error: OSError) -> None:
    count = 0

    def attempt(stage: Stage) -> None:
        nonlocal count
        count += 1
        raise error

    with pytest.raises(OSError, match=str(error.strerror)) as caught:
        as_often_as_full(lambda arriving: None, attempt)
    assert caught.value is error
    assert count == (5 if error is FULL else 1)
    with pytest.raises(OSError, match=str(error.strerror)):
        as_often_as_full(None, attempt)
    assert count == (6 if error is FULL else 2)
