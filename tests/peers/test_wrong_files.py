"""Another image's file in an image's place: found in homes of both kinds, mended, and the kernel shows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layer import write_layer
from msb_cache.artifacts.layout import Layout
from tests.artifacts.support import Member, directory, make_tar, mounted, tar_entries
from tests.artifacts.test_peers import LOWER, MIDDLE, UPPER
from tests.imagebuilder import BuiltImage, docker_archive, file, hardlink, image, layer
from tests.imagebuilder import directory as folder
from tests.peers.realmsb import IMAGES, Msb, short_home

pytestmark = pytest.mark.peer

BASE = layer([folder("etc"), file("etc/name", b"base\n"), file("etc/gone", b"x")])
A, B = (
    image(
        [BASE, layer([file(name, name.encode() * 9000), hardlink("same", name), file("etc/.wh.gone")])],
        f"{name}:1",
    )
    for name in ("a", "b")
)


def kinds(home: Path, built: BuiltImage) -> dict[str, Path]:
    layout = Layout(home)
    name = f"docker.io/library/{built.names[0]}"
    return {
        "metadata": layout.metadata(name),
        "fsmeta": layout.fsmeta(built.digest),
        "vmdk": layout.vmdk(built.digest),
    }


def problems(home: Path) -> list[tuple[str, str]]:
    with ImageCache(home) as cache:
        cache.sync()
        return [(each.problem, each.kind) for each in cache.verify().disk]


@pytest.fixture
def kernel(require_peer: Callable[[str], str]) -> None:
    for peer in ("root", "losetup", "mount"):
        require_peer(peer)
    if "erofs" not in Path("/proc/filesystems").read_text():
        require_peer("erofs in the kernel")


@pytest.mark.usefixtures("kernel")
def test_the_kernel_shows_the_right_tree_again() -> None:
    with TemporaryDirectory() as scratch:
        home = Path(scratch, "home")
        layers = [Layout(home).layer(each.diff_id) for each in B.layers]
        fsmeta = kinds(home, B)["fsmeta"]

        def names() -> set[str]:
            with mounted(fsmeta, layers, Path(scratch, "mnt")) as root:
                assert (root / "etc/name").read_bytes() == b"base\n"
                return {str(path.relative_to(root)) for path in root.rglob("*")}

        with ImageCache(home) as cache:
            for name, each in (("a", A), ("b", B)):
                Path(scratch, f"{name}.tar").write_bytes(docker_archive(each))
                cache.load(Path(scratch, f"{name}.tar"))
            for kind, path in kinds(home, A).items():
                shutil.copy(path, kinds(home, B)[kind])
            assert "a" in names()
            assert problems(home) == [("other", "metadata"), ("other", "fsmeta"), ("other", "vmdk")]
            cache.load(Path(scratch, "b.tar"))
        assert problems(home) == []
        assert names() == {"b", "same", "etc", "etc/name"}


@pytest.fixture
def swapped(msb: str, tmp_path: Path) -> Iterator[Msb]:
    """Yield a home that msb keeps, with two images."""
    for name, each in (("a", A), ("b", B)):
        (tmp_path / f"{name}.tar").write_bytes(docker_archive(each))
    with short_home() as home:
        real = Msb(msb, home, tmp_path)
        real.load("a")
        real.load("b")
        yield real


@pytest.mark.parametrize("kind", ["metadata", "fsmeta", "vmdk"])
def test_in_a_home_of_msb(swapped: Msb, kind: str) -> None:
    assert problems(swapped.home) == []
    wrong = kinds(swapped.home, B)[kind]
    shutil.copy(kinds(swapped.home, A)[kind], wrong)
    assert problems(swapped.home) == [("other", kind)]
    wrong.unlink()
    swapped.load("b")
    assert problems(swapped.home) == []


def test_a_home_of_msb_that_was_moved(swapped: Msb) -> None:
    assert problems(swapped.home) == []
    moved = swapped.home.with_name("elsewhere")
    swapped.home.rename(moved)
    assert problems(moved) == [("moved", "vmdk")] * 2


def plain(members: list[Member]) -> list[Member]:
    """What msb takes: no times before 1970, no hard links to links and devices, no paths through links."""
    left_out = (b"short2", b"zero", b"lib/through")
    return [replace(each, mtime=max(each.mtime, 0)) for each in members if each.path not in left_out]


STACKS = {
    "all kinds": [plain(each) for each in (LOWER, MIDDLE, UPPER)],
    "one layer": [plain(LOWER)],
    "whiteouts of nothing": [[Member(b"d/.wh.x"), Member(b"d/y")], [Member(b"d/z"), Member(b"e/.wh.f")]],
    "chunks": [[Member(b"big", data=bytes(10 << 20)), directory(b"d")], [Member(b"d/odd", data=b"x" * 4097)]],
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("ours", [False, True], ids=["msb's layers", "our layers"])
def test_what_msb_merges_is_right(msb: str, tmp_path: Path, name: str, ours: bool) -> None:
    """Its trees of its own layers, and of ours: but where it misplaces data, which the kernel cannot read."""
    # Extended attributes of files: msb puts the indexes of their data where they are not looked for.
    stack = [[replace(each, xattrs={}) if ours else each for each in members] for members in STACKS[name]]
    tars = [make_tar(members) for members in stack]
    built = image([layer(tar) for tar in tars], "odd:1")
    (tmp_path / "odd.tar").write_bytes(docker_archive(built))
    with short_home() as home:
        if ours:
            Layout(home).folders["layer"].mkdir(parents=True)
            for tar, each in zip(tars, built.layers, strict=True):
                write_layer(tar_entries(tar), Layout(home).layer(each.diff_id))
        Msb(msb, home, tmp_path).load("odd")
        assert problems(home) == []


def test_what_msb_makes_of_the_tests_images(msb: str, archives: Path) -> None:
    with short_home() as home:
        real = Msb(msb, home, archives)
        for name in IMAGES:
            real.load(name)
        assert problems(home) == []
