"""What doctor mends the kernel mounts as before; in a home of the real msb, msb brings every file back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from msb_cache import ImageCache, RegistryOptions
from msb_cache.artifacts.layout import Layout
from tests.artifacts.support import mounted
from tests.imagebuilder import BuiltImage, directory, docker_archive, file, hardlink, image, layer
from tests.peers.realmsb import Msb, short_home
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.peer

FAST = RegistryOptions(timeout=5, retries=1, backoff=0.01)
BASE = layer([directory("etc"), file("etc/name", b"base\n"), file("etc/gone", b"x")], "gzip")
TOP = layer([file("top", b"t" * 70_000), hardlink("same", "top"), file("etc/.wh.gone")], "gzip")
LOADED, PULLED = image([BASE, layer([file("l", b"l" * 9000)])], "loaded:1"), image([BASE, TOP])


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.fixture
def kernel(require_peer: Callable[[str], str]) -> None:
    for peer in ("root", "losetup", "mount"):
        require_peer(peer)
    if "erofs" not in Path("/proc/filesystems").read_text():
        require_peer("erofs in the kernel")


def seen(layout: Layout, built: BuiltImage, folder: Path) -> dict[str, bytes | None]:
    """What the kernel shows of an image."""
    layers = [layout.layer(each.diff_id) for each in built.layers]
    with mounted(layout.fsmeta(built.digest), layers, folder) as root:
        return {
            str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*")
        }


@pytest.mark.usefixtures("kernel")
def test_the_kernel_mounts_what_was_mended(server: RegistryServer) -> None:
    with TemporaryDirectory() as scratch, ImageCache(Path(scratch, "home")) as cache:
        layout, mounts = Layout(cache.home), Path(scratch, "mnt")
        archive = Path(scratch, "loaded.tar")
        archive.write_bytes(docker_archive(LOADED))
        cache.load(archive)
        cache.pull(server.add(PULLED), options=FAST)
        before = [seen(layout, each, mounts) for each in (LOADED, PULLED)]
        files = {path: path.read_bytes() for _, _, path in layout.files()}
        for each in (LOADED, PULLED):
            layout.fsmeta(each.digest).write_bytes(b"\0" * 8192)
            layout.vmdk(each.digest).unlink()
        for each in PULLED.layers:  # one of them the other image's as well
            layout.layer(each.diff_id).unlink()
        assert cache.repair(pull=True, options=FAST).left == ()
        assert cache.doctor() == []
        assert {path: path.read_bytes() for _, _, path in layout.files()} == files
        assert [seen(layout, each, mounts) for each in (LOADED, PULLED)] == before


KINDS = ("vmdk", "fsmeta", "layer", "metadata")


def places(home: Path, name: str) -> dict[str, Path]:
    layout = Layout(home)
    return {
        "vmdk": layout.vmdk(PULLED.digest),
        "fsmeta": layout.fsmeta(PULLED.digest),
        "layer": layout.layer(TOP.diff_id),
        "metadata": layout.metadata(name),
    }


@pytest.fixture
def pulled(msb: str, server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Msb, str]]:
    """Yield a home of msb with an image that msb has pulled, and how that was typed."""
    monkeypatch.setenv("MSB_PATH", msb)
    name = server.add(PULLED)
    with short_home() as home:
        real = Msb(msb, home, home)
        real("pull", "-q", "--insecure", name)
        yield real, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_forced_pull_of_msb_brings_it_back(pulled: tuple[Msb, str], kind: str, damage: str) -> None:
    """A plain one brings back what is missing; a damaged VMDK it takes for cached."""
    real, name = pulled
    path = places(real.home, name)[kind]
    before = path.read_bytes()
    for options in ([], ["--force"]):
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"junk" * 1024)
        real("pull", "-q", *options, "--insecure", name)
        is_back = (damage, kind, options) != ("damaged", "vmdk", [])
        assert (path.read_bytes() == before) == is_back, options


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_doctor_has_msb_bring_all_back(pulled: tuple[Msb, str], damage: str) -> None:
    real, name = pulled
    files = places(real.home, name)
    before = {kind: path.read_bytes() for kind, path in files.items()}
    with ImageCache(real.home) as cache, closing(cache.watch(interval=0.01)) as watching:
        cache.sync()
        for path in files.values():
            path.unlink() if damage == "missing" else path.write_bytes(b"junk" * 1024)
        cache.use(name)
        next(watching)  # a watch runs from now on
        found = cache.doctor()
        assert sorted(str(each.artifact) for each in found) == sorted(KINDS)
        assert all(each.needs_pull for each in found)
        assert {each.finding.kind for each in cache.repair().left} == {each.kind for each in found}
        report = cache.repair(pull=True, options=FAST)
        assert (len(report.mended), report.left) == (4, ())
        assert {kind: path.read_bytes() for kind, path in files.items()} == before
        assert cache.doctor() == []
        assert len(cache.events(types=["artifact.repaired"])) == 4
    assert real.references() == {name}


def test_what_msb_loaded_from_an_archive(msb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks a registry for another image by the same name; the archive is what is named."""
    monkeypatch.setenv("MSB_PATH", msb)
    archive = tmp_path / "loaded.tar"
    archive.write_bytes(docker_archive(LOADED))
    with short_home() as home, ImageCache(home, engine="msb") as cache:
        cache.load(archive)
        path = Layout(home).vmdk(LOADED.digest)
        before = path.read_bytes()
        path.unlink()
        (left,) = (each for each in cache.repair(pull=True).left if each.finding.artifact == "vmdk")
        assert left.finding.command == f"msb load -i {archive}"
        assert not left.finding.fixable
        Msb(msb, home, tmp_path)("load", "-q", "-i", str(archive))
        assert path.read_bytes() == before
