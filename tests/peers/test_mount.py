"""What the kernel mounts from a loaded image is what umoci unpacks of it; what is saved is the image again.

The whole way, through the command: archive → home → kernel, and home → archive → skopeo and umoci.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.fsmeta import merge
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.tree import Node
from tests.artifacts.support import fsck, make_tar, mounted, run, scan
from tests.artifacts.test_peers import LOWER, MIDDLE, UPPER, comparable, differences, oci_layout
from tests.cli.support import execute

pytestmark = [pytest.mark.peer, pytest.mark.slow]

IMAGES = ("debian", "python", "odd")


@dataclass(frozen=True)
class Loaded:
    """A real image in a home: its files, and what umoci unpacked of the archive it was loaded from."""

    home: Path
    reference: str
    fsmeta: Path
    vmdk: Path
    layers: list[Path]
    merged: Node
    unpacked: dict[bytes, Any]
    scratch: Path

    def seen(self, root: Path) -> dict[bytes, Any]:
        """What a directory shows, in the form of ``unpacked``."""
        return comparable(scan(root), self.merged)


def unpack(transport: str, archive: Path, scratch: Path) -> Path:
    """The root filesystem of the only image in an archive, by skopeo and umoci."""
    layout, bundle = scratch / "layout", scratch / "bundle"
    run("skopeo", "copy", "--quiet", f"{transport}:{archive}", f"oci:{layout}:t")
    run("umoci", "unpack", "--image", f"{layout}:t", bundle)
    shutil.rmtree(layout)
    return bundle / "rootfs"


@pytest.fixture(scope="module", params=IMAGES)
def loaded(request: pytest.FixtureRequest, require_peer: Callable[[str], str]) -> Iterator[Loaded]:
    """Each image once, loaded by the command into a home outside of pytest's folders, which stay.

    The odd one has, in a few files, whatever a tar can say: times before 1970 and to the nanosecond, all
    types, extended attributes, holes, whiteouts and opaque directories.
    """
    for peer in ("root", "losetup", "mount", "fsck.erofs", "skopeo", "umoci"):
        require_peer(peer)
    if "erofs" not in Path("/proc/filesystems").read_text():
        require_peer("erofs in the kernel")
    with TemporaryDirectory() as name:
        scratch = Path(name)
        if request.param == "debian":
            image = request.getfixturevalue("debian_image")
            transport, archive, reference = "docker-archive", image.docker_archive, image.reference
        elif request.param == "python":
            archive = request.getfixturevalue("python_image")
            transport, reference = "docker-archive", "python:3.12"
        else:
            transport, archive, reference = "oci", scratch / "odd", "odd:1"
            oci_layout([make_tar(layer) for layer in (LOWER, MIDDLE, UPPER)], archive)
        home = scratch / "home"
        done = execute("--home", home, "load", "-i", archive, "-t", reference)
        assert done.code == 0, done.err
        detail = execute("--home", home, "inspect", reference, "--format", "json").json
        cache = home / "cache"
        digest = detail["digest"].replace(":", "_")
        layers = [
            cache / "layers" / f"{layer['diff_id'].replace(':', '_')}.erofs" for layer in detail["layers"]
        ]
        merged = merge([read_layer(path).root for path in layers])
        rootfs = unpack(transport, archive, scratch)
        yield Loaded(
            home,
            reference,
            cache / "fsmeta" / f"{digest}.erofs",
            cache / "vmdk" / f"{digest}.vmdk",
            layers,
            merged,
            comparable(scan(rootfs), merged),
            scratch,
        )


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory whose large files do not outlive the test."""
    with TemporaryDirectory() as path:
        yield Path(path)


def test_there_is_something_to_compare(loaded: Loaded) -> None:
    """Else equal trees would prove little."""
    kinds = {entry.get("mode", "d")[0] for entry in loaded.unpacked.values()}
    assert kinds >= {"d", "-", "l"}
    entries = loaded.unpacked.values()
    assert len(entries) > 500
    assert sum("mode" in entry for entry in entries) > 0.85 * len(entries)
    if loaded.reference != "python:3.12":
        assert any(name != entry["same as"] for name, entry in loaded.unpacked.items())
        assert {entry["owner"][1] for entry in entries} > {0}
    if loaded.reference == "odd:1":
        assert kinds == {"d", "-", "l", "c", "b", "p"}
        assert any(entry["mtime_ns"] % 10**9 for entry in entries if "mtime_ns" in entry)
        assert any(entry["xattrs"] for entry in entries)


def test_the_kernel_shows_what_umoci_unpacks(loaded: Loaded, scratch: Path) -> None:
    with mounted(loaded.fsmeta, loaded.layers, scratch / "mnt") as root:
        assert differences(loaded.seen(root), loaded.unpacked) == {}


def test_the_disk_of_the_vmdk_shows_it_too(loaded: Loaded, scratch: Path) -> None:
    """One device, put together as the descriptor's extents say."""
    extents = re.findall(r'^RW (\d+) FLAT "(.+)" (\d+)$', loaded.vmdk.read_text(), re.M)
    assert [Path(name) for _, name, offset in extents if offset == "0"] == [loaded.fsmeta, *loaded.layers]
    flat = scratch / "flat"
    with flat.open("wb") as out:
        for sectors, name, offset in extents:
            with open(name, "rb") as extent:
                extent.seek(int(offset) * 512)
                left = int(sectors) * 512
                while left:
                    data = extent.read(min(left, 1 << 20))
                    assert data, f"{name} is shorter than its extents"
                    out.write(data)
                    left -= len(data)
    assert flat.stat().st_size == sum(path.stat().st_size for path in (loaded.fsmeta, *loaded.layers))
    with mounted(flat, [], scratch / "mnt") as root:
        assert differences(loaded.seen(root), loaded.unpacked) == {}


def test_every_layer_mounts_by_itself(loaded: Loaded, scratch: Path) -> None:
    for path in loaded.layers:
        with mounted(path, [], scratch / "mnt") as root:
            assert list(root.iterdir())


def test_fsck_accepts_every_artifact(loaded: Loaded) -> None:
    for path in sorted((loaded.home / "cache" / "layers").glob("*.erofs")):
        fsck(path)
    for path in sorted((loaded.home / "cache" / "fsmeta").glob("*.erofs")):
        fsck(path, loaded.layers)
    with ImageCache(loaded.home) as cache:
        assert cache.verify().sound


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_what_is_saved_is_the_image_again(loaded: Loaded, scratch: Path, format: str) -> None:
    archive = scratch / "saved.tar"
    saved = execute("--home", loaded.home, "save", loaded.reference, "--format", format, "-o", archive)
    assert saved.code == 0, saved.err
    transport = f"{format}-archive"
    shown = json.loads(run("skopeo", "inspect", f"{transport}:{archive}").stdout)
    assert len(shown["Layers"]) == len(loaded.layers)
    config = json.loads(run("skopeo", "inspect", "--config", f"{transport}:{archive}").stdout)
    detail = execute("--home", loaded.home, "inspect", loaded.reference, "--format", "json").json
    assert (config["architecture"], config["os"]) == (detail["architecture"], detail["os"])
    for key, name in (
        ("env", "Env"),
        ("cmd", "Cmd"),
        ("entrypoint", "Entrypoint"),
        ("working_dir", "WorkingDir"),
        ("user", "User"),
        ("labels", "Labels"),
        ("stop_signal", "StopSignal"),
    ):
        assert (config["config"].get(name) or None) == (detail["config"][key] or None)
    found = comparable(scan(unpack(transport, archive, scratch)), loaded.merged)
    assert differences(found, loaded.unpacked) == {}


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_skopeo_finds_the_saved_names(loaded: Loaded, scratch: Path, format: str) -> None:
    archive = scratch / "saved.tar"
    assert (
        execute("--home", loaded.home, "save", loaded.reference, "--format", format, "-o", archive).code == 0
    )
    if format == "docker":
        tags = json.loads(run("skopeo", "list-tags", f"docker-archive:{archive}").stdout)["Tags"]
        assert loaded.reference in tags
        run("skopeo", "inspect", f"docker-archive:{archive}:{loaded.reference}")
    else:
        with tarfile.open(archive) as tar:
            listed = tar.extractfile("index.json")
            assert listed is not None
            [descriptor] = json.load(listed)["manifests"]
        name = descriptor["annotations"]["org.opencontainers.image.ref.name"]
        run("skopeo", "inspect", f"oci-archive:{archive}:{name}")


def test_saved_and_loaded_again_the_kernel_shows_the_same(loaded: Loaded, scratch: Path) -> None:
    home = scratch / "again"
    archive = execute("--home", loaded.home, "save", loaded.reference)
    assert execute("--home", home, "load", "-q", stdin=archive.raw).code == 0
    detail = execute("--home", home, "inspect", loaded.reference, "--format", "json").json
    cache = home / "cache"
    layers = [cache / "layers" / f"{layer['diff_id'].replace(':', '_')}.erofs" for layer in detail["layers"]]
    fsmeta = cache / "fsmeta" / f"{detail['digest'].replace(':', '_')}.erofs"
    with mounted(fsmeta, layers, scratch / "mnt") as root:
        assert differences(loaded.seen(root), loaded.unpacked) == {}


def test_nothing_stays_mounted(loaded: Loaded, scratch: Path) -> None:
    def stop(root: Path) -> None:
        assert list(root.iterdir())
        raise InterruptedError

    with pytest.raises(InterruptedError), mounted(loaded.fsmeta, loaded.layers, scratch / "mnt") as root:
        stop(root)
    assert str(loaded.home) not in run("losetup", "-a").stdout
    assert str(scratch) not in Path("/proc/self/mounts").read_text()
