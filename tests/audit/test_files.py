"""What is done to an image's files is found, said, and mended by loading the image again."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.compare import fsmeta_difference
from msb_cache.artifacts.fsmeta import merge
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.tree import Node, walk
from msb_cache.audit.files import DiskProblem
from tests.artifacts.test_compare import write
from tests.imagebuilder import BuiltImage, directory, docker_archive, file, hardlink, image, layer

BASE = layer([directory("etc"), file("etc/name", b"base\n"), file("etc/gone", b"x")])
CONFIG = {"Cmd": ["/a"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"k": "v"}}


def built(name: str) -> BuiltImage:
    """An image whose files are as long as those of another name of one letter."""
    top = [
        file(f"only-{name}", name.encode() * 9000, xattrs={"user.mark": name}),
        hardlink("same", f"only-{name}"),
        file("etc/.wh.gone"),
    ]
    return image([BASE, layer(top)], f"{name}:1", config=CONFIG | {"Cmd": [f"/{name}"]})


A, B = built("a"), built("b")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "home") as cache:
        for name, each in (("a", A), ("b", B)):
            (tmp_path / f"{name}.tar").write_bytes(docker_archive(each))
            cache.load(tmp_path / f"{name}.tar")
        assert cache.verify().sound
        yield cache


def files_of(cache: ImageCache, built: BuiltImage) -> dict[str, Path]:
    layout = Layout(cache.home)
    return {
        "metadata": layout.metadata(f"docker.io/library/{built.names[0]}"),
        "fsmeta": layout.fsmeta(built.digest),
        "vmdk": layout.vmdk(built.digest),
        "layer": layout.layer(built.layers[1].diff_id),
    }


def swap(kind: str) -> Callable[[ImageCache], None]:
    def change(cache: ImageCache) -> None:
        shutil.copy(files_of(cache, A)[kind], files_of(cache, B)[kind])

    return change


def edit(kind: str, old: bytes, new: bytes) -> Callable[[ImageCache], None]:
    def change(cache: ImageCache) -> None:
        path = files_of(cache, B)[kind]
        content = path.read_bytes()
        assert old in content
        assert len(old) == len(new)
        path.write_bytes(content.replace(old, new, 1))

    return change


def rewrite(change: Callable[[dict[bytes, Node]], object]) -> Callable[[ImageCache], None]:
    """Write b's fsmeta with a tree in which one thing is another."""

    def rewritten(cache: ImageCache) -> None:
        layers = [read_layer(Layout(cache.home).layer(each.diff_id)) for each in B.layers]
        root = copy.deepcopy(merge(each.root for each in layers))
        change(dict(walk(root)))
        write(files_of(cache, B)["fsmeta"], root, layers)

    return rewritten


def field(name: str, value: object) -> Callable[[dict[bytes, Node]], object]:
    return lambda nodes: setattr(nodes[b"etc/name"], name, value)


def rename(nodes: dict[bytes, Node]) -> None:
    children = nodes[b"etc"].children
    assert children is not None
    children[b"nome"] = children.pop(b"name")


def unlink(nodes: dict[bytes, Node]) -> None:
    children = nodes[b""].children
    assert children is not None
    children[b"same"] = copy.copy(children[b"same"])


HEX = A.digest.removeprefix("sha256:").encode(), B.digest.removeprefix("sha256:").encode()
TAMPERINGS: dict[str, tuple[Callable[[ImageCache], None], str, str, str]] = {
    "metadata": (swap("metadata"), "other", "metadata", f"it is of {A.digest}, not of {B.digest}"),
    "fsmeta": (swap("fsmeta"), "other", "fsmeta", "'only-b' is not in it"),
    "vmdk": (swap("vmdk"), "other", "vmdk", "its part 1 is sha256_"),
    "digest": (edit("metadata", HEX[1], HEX[0]), "other", "metadata", "it is of sha256"),
    "command": (edit("metadata", b'"cmd":["/b"]', b'"cmd":["/a"]'), "other", "metadata", "its cmd is not"),
    "manifest": (edit("metadata", b"schemaVersion", b"schemaversion"), "damaged", "metadata", "its manifest"),
    "config": (edit("metadata", b'A=1\\"', b'A=2\\"'), "damaged", "metadata", "its config"),
    "diff ID": (edit("metadata", b'"diff_id":"sha256', b'"diff_id":"sha255'), "other", "metadata", "layers"),
    "blob": (edit("metadata", b'v1.tar","size', b'v9.tar","size'), "other", "metadata", "other blobs"),
    "extent": (edit("vmdk", b"RW 32 ", b"RW 24 "), "other", "vmdk", "its part 2 is"),
    "offset": (edit("vmdk", b'erofs" 0', b'erofs" 8'), "other", "vmdk", "from byte 4096 on"),
    "inode field": (rewrite(field("uid", 1)), "other", "fsmeta", "'etc/name' has the uid 1, not 0"),
    "chunk": (rewrite(field("block", 2)), "other", "fsmeta", "'etc/name' has its data in another place"),
    "attribute": (rewrite(field("xattrs", {b"user.x": b""})), "other", "fsmeta", "another extended"),
    "name": (rewrite(rename), "other", "fsmeta", "'etc/name' is not in it"),
    "hard link": (rewrite(unlink), "other", "fsmeta", "is linked to other names"),
    "layer": (swap("layer"), "other", "fsmeta", "'only-a' is not in it"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_is_done_to_a_file_is_found_and_mended(cache: ImageCache, tmp_path: Path, name: str) -> None:
    tamper, problem, kind, says = TAMPERINGS[name]
    before = {path: path.read_bytes() for path in files_of(cache, A).values()}
    size = files_of(cache, B)[kind].stat().st_size
    tamper(cache)
    assert files_of(cache, B)[kind].stat().st_size == size
    found = cache.verify()
    assert not found.sound
    assert [(each.problem, each.kind, each.references) for each in found.disk] == [
        (problem, kind, ("docker.io/library/b:1",))
    ]
    assert says in (found.disk[0].detail or "")
    cache.load(tmp_path / "b.tar")
    assert cache.verify().sound
    assert sees(cache, B) == {"only-b", "same", "etc", "etc/name"}
    assert {path: path.read_bytes() for path in before} == before
    document = json.loads(files_of(cache, B)["metadata"].read_bytes())
    assert (document["manifest_digest"], document["config"]["cmd"]) == (B.digest, ["/b"])


def sees(cache: ImageCache, built: BuiltImage) -> set[str]:
    """Return the names in an image's tree, and check that its fsmeta has them."""
    layers = [read_layer(Layout(cache.home).layer(each.diff_id)) for each in built.layers]
    assert fsmeta_difference(Layout(cache.home).fsmeta(built.digest), layers) is None
    return {path.decode() for path, _ in walk(merge(each.root for each in layers)) if path}


def test_the_layers_of_other_images_come_with_it(cache: ImageCache, tmp_path: Path) -> None:
    """A shared layer that is made anew leaves no fsmeta of another image behind."""
    base = Layout(cache.home).layer(BASE.diff_id)
    other = layer([directory("etc"), file("etc/name", b"evil\n", mode=0o600), file("etc/gone", b"x")])
    with ImageCache(tmp_path / "other") as elsewhere:
        (tmp_path / "o.tar").write_bytes(docker_archive(image([other], "o:1")))
        elsewhere.load(tmp_path / "o.tar")
        shutil.copy(Layout(elsewhere.home).layer(other.diff_id), base)
    assert {each.kind for each in cache.verify().disk} == {"fsmeta"}
    cache.load(tmp_path / "a.tar")
    assert cache.verify().sound
    assert b"base\n" in base.read_bytes()


def test_a_home_that_was_moved(cache: ImageCache, tmp_path: Path) -> None:
    cache.close()
    (tmp_path / "home").rename(tmp_path / "elsewhere")
    with ImageCache(tmp_path / "elsewhere") as moved:
        found = moved.verify()
        assert not found.sound
        assert [(each.problem, each.kind) for each in found.disk] == [("moved", "vmdk")] * 2
        assert {each.detail for each in found.disk} == {f"it was made for {tmp_path / 'home'}"}
        for name in ("a", "b"):
            moved.load(tmp_path / f"{name}.tar")
        assert moved.verify().sound
    (tmp_path / "home").symlink_to(tmp_path / "elsewhere")
    with ImageCache(tmp_path / "home") as linked:
        assert linked.verify().sound  # by another way to the same files


def test_a_home_of_an_older_release_is_sound(cache: ImageCache) -> None:
    """Its metadata had no other fields, its fsmeta is ours of any layout, its VMDK was cut as msb cuts."""
    rewrite(lambda nodes: None)(cache)
    path = files_of(cache, B)["metadata"]
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1, sort_keys=True))
    assert cache.verify().sound


def test_what_lies_where_no_file_can_be_read(cache: ImageCache) -> None:
    """Whatever stands there, it is one problem and no error."""
    for content in (b"", b"\xff" * 4096, b"{" * 5000, b"# Disk DescriptorFile\n"):
        for path in files_of(cache, B).values():
            path.write_bytes(content)
        found = cache.verify().disk
        assert {each.kind for each in found} == {"metadata", "fsmeta", "vmdk", "layer"}
        assert all(isinstance(each, DiskProblem) and each.problem != "missing" for each in found)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    from msb_cache.audit import files

    read: list[Path] = []

    def read_and_note(path: Path) -> object:
        read.append(path)
        return read_layer(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_layer", read_and_note)
        yield read


def test_a_shared_layer_is_read_once(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as read:
        assert cache.verify().sound
    assert sorted(read) == sorted({Layout(cache.home).layer(each.diff_id) for each in (*A.layers, *B.layers)})


def test_trees_that_take_too_much_are_read_again(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.audit.files._TREE_BYTES", 1)
    with counted(monkeypatch) as read:
        assert cache.verify().sound
    assert len(read) > 3
