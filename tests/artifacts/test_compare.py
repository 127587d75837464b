"""What an fsmeta says against what its layers give: any change of meaning is found, and no other."""

from __future__ import annotations

import copy
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from msb_cache.artifacts import compare
from msb_cache.artifacts.compare import difference, fsmeta_difference
from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.erofs.writer import encode, superblock
from msb_cache.artifacts.fsmeta import merge, write_fsmeta
from msb_cache.artifacts.layer import LayerImage, write_layer
from msb_cache.artifacts.tree import Node, walk
from msb_cache.errors import CorruptArtifactError
from tests.artifacts.strategies import layers as random_layers
from tests.artifacts.support import Member, directory, f, hardlink, symlink

LOWER = [
    directory(b"d", uid=5, mode=0o750),
    Member(b"d/file", data=b"x" * 9000, xattrs={b"user.a": b"1", b"security.capability": b"c" * 20}),
    hardlink(b"d/same", b"d/file"),
    f(b"d/gone"),
    f(b"one", 10),
    f(b"two", 10),
    symlink(b"link", b"d/file"),
    Member(b"null", "character", device=(1, 3)),
    Member(b"empty"),
]
UPPER = [Member(b"d/.wh.gone"), directory(b"d/below"), f(b"d/below/new", 5000)]


@pytest.fixture
def images(tmp_path: Path) -> list[LayerImage]:
    return [write_layer(LOWER, tmp_path / "lower"), write_layer(UPPER, tmp_path / "upper")]


def write(path: Path, root: Node, layers: Sequence[LayerImage], spare: int = 0) -> Path:
    """Write an fsmeta of any tree, with ``spare`` empty blocks before its inodes."""
    metadata = encode(root, 1 + spare)
    begin = 1 + spare + metadata.blocks
    devices = []
    for layer in layers:
        devices.append((layer.blocks, begin))
        begin += layer.blocks
    with path.open("wb") as file:
        file.write(superblock(metadata, 1 + spare + metadata.blocks, devices) + bytes(spare * fmt.BLOCK))
        metadata.write(file)
    return path


def found(path: Path, layers: Sequence[LayerImage]) -> str | None:
    try:
        return fsmeta_difference(path, layers)
    except CorruptArtifactError as error:
        return str(error)


def test_ours_is_what_its_layers_give(images: list[LayerImage], tmp_path: Path) -> None:
    write_fsmeta(tmp_path / "fsmeta", images)
    assert fsmeta_difference(tmp_path / "fsmeta", images) is None


def child(root: Node, path: bytes) -> Node:
    return dict(walk(root))[path]


def parent(root: Node, path: bytes) -> dict[bytes, Node]:
    children = child(root, path).children
    assert children is not None
    return children


CHANGES: dict[str, tuple[Callable[[Node], object], str]] = {
    "mode": (lambda root: setattr(child(root, b"one"), "mode", 0o100600), "'one' has the mode 0o100600"),
    "owner": (lambda root: setattr(child(root, b"d"), "uid", 6), "'d' has the uid 6, not 5"),
    "group": (lambda root: setattr(child(root, b"link"), "gid", 1), "'link' has the gid 1"),
    "time": (lambda root: setattr(child(root, b"null"), "mtime", 1), "'null' has the mtime 1,"),
    "nanoseconds": (lambda root: setattr(child(root, b""), "mtime_ns", 1), "'' has the nanoseconds 1"),
    "size": (lambda root: setattr(child(root, b"one"), "size", 11), "'one' has the size 11, not 10"),
    "device": (lambda root: setattr(child(root, b"null"), "rdev", (1, 5)), "'null' has the device number"),
    "target": (lambda root: setattr(child(root, b"link"), "target", b"one"), "'link' has another target"),
    "attribute": (lambda root: child(root, b"d/file").xattrs.clear(), "has another extended attribute"),  # type: ignore[union-attr]
    "opaque": (lambda root: setattr(child(root, b"d"), "opaque", True), "'d' hides other layers"),
    "block": (lambda root: setattr(child(root, b"one"), "block", 1), "'one' has its data in another place"),
    "layer": (lambda root: swap_layer(root), "'one' has its data in another place"),
    "name": (lambda root: swap_name(root), "'one' is not in it"),
    "gone": (lambda root: parent(root, b"d").pop(b"below"), "'d/below' is not in it"),
    "more": (
        lambda root: parent(root, b"d").update({b"gone": f_node()}),
        "'d/gone' is in it and in no layer",
    ),
    "hard link": (lambda root: unlink(root), "is linked to other names"),
    "two in one": (lambda root: parent(root, b"").update({b"two": child(root, b"one")}), "has its data in"),
}


def f_node() -> Node:
    return Node(stat.S_IFREG | 0o644)


def swap_layer(root: Node) -> None:
    node = child(root, b"one")
    node.device, node.block = 2, 1


def swap_name(root: Node) -> None:
    children = parent(root, b"")
    children[b"won"] = children.pop(b"one")


def unlink(root: Node) -> None:
    children = parent(root, b"d")
    children[b"same"] = copy.copy(children[b"same"])


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_found_and_said(images: list[LayerImage], tmp_path: Path, name: str) -> None:
    change, says = CHANGES[name]
    root = copy.deepcopy(merge(image.root for image in images))
    change(root)
    assert says in (fsmeta_difference(write(tmp_path / "fsmeta", root, images), images) or "")


def test_other_layers(images: list[LayerImage], tmp_path: Path) -> None:
    write_fsmeta(tmp_path / "fsmeta", images)
    assert fsmeta_difference(tmp_path / "fsmeta", images[:1]) == "it is of 2 layers, not of 1"
    longer = [images[0], images[1]._replace(blocks=images[1].blocks + 1)]
    assert "its layer 2 has another length" in (fsmeta_difference(tmp_path / "fsmeta", longer) or "")


def inodes(path: Path) -> Iterator[tuple[int, int]]:
    """Yield where each inode lies, and its mode."""
    data = path.read_bytes()
    (meta,) = fmt.UNSIGNED.unpack_from(data, fmt.SUPERBLOCK_OFFSET + 40)
    stack, seen = [0], set[int]()
    while stack:
        offset = meta * fmt.BLOCK + stack.pop() * fmt.SLOT
        mode = int.from_bytes(data[offset + 4 : offset + 6], "little")
        seen.add(offset)
        yield offset, mode
        if stat.S_ISDIR(mode):
            body = data[offset + fmt.INODE.size :]
            count = int.from_bytes(body[8:10], "little") // fmt.DIRENT.size
            for number in range(count):
                nid, _, _ = fmt.DIRENT.unpack_from(body, number * fmt.DIRENT.size)
                if meta * fmt.BLOCK + nid * fmt.SLOT not in seen:
                    stack.append(nid)


@pytest.mark.parametrize(
    ("kind", "at", "says"),
    [
        (stat.S_IFREG, fmt.INODE_LINKS_OFFSET, "link count"),
        (stat.S_IFDIR, fmt.INODE_LINKS_OFFSET, "link count"),
        (stat.S_IFDIR, fmt.INODE.size + 10, "own name leads elsewhere"),
        (stat.S_IFDIR, fmt.INODE.size + 12, "own name leads elsewhere"),
        (stat.S_IFDIR, fmt.INODE.size + 2 * fmt.DIRENT.size + 10, "another type"),
    ],
)
def test_what_the_tree_does_not_have(
    images: list[LayerImage], tmp_path: Path, kind: int, at: int, says: str
) -> None:
    path = tmp_path / "fsmeta"
    write_fsmeta(path, images)
    offset = next(offset for offset, mode in inodes(path) if stat.S_IFMT(mode) == kind)
    data = bytearray(path.read_bytes())
    data[offset + at] ^= 5
    path.write_bytes(data)
    assert says in (fsmeta_difference(path, images) or "")


def test_an_attribute_of_overlayfs_is_said(images: list[LayerImage], tmp_path: Path) -> None:
    root = copy.deepcopy(merge(image.root for image in images))
    child(root, b"d").xattrs = {b"trusted.overlay.redirect": b"/etc"}
    assert "overlayfs" in (fsmeta_difference(write(tmp_path / "fsmeta", root, images), images) or "")


@st.composite
def changed(draw: st.DrawFn, root: Node) -> Node:
    """A tree in which one thing is another."""
    root = copy.deepcopy(root)
    path, node = draw(st.sampled_from(list(walk(root))))
    options = ["mode", "uid", "gid", "mtime", "mtime_ns", "xattrs"]
    options += ["size"] * (stat.S_ISREG(node.mode)) + ["target"] * (stat.S_ISLNK(node.mode))
    options += ["rdev"] * (stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode))
    options += ["block", "device"] * bool(node.size) + ["name", "gone"] * bool(path)
    options += ["more"] * (node.children is not None)
    what = draw(st.sampled_from(options))
    if what in ("name", "gone"):
        head, _, name = path.rpartition(b"/")
        taken = parent(root, head).pop(name)
        if what == "name":
            parent(root, head)[b"renamed"] = taken
    elif what == "more":
        parent(root, path)[b"added"] = draw(st.sampled_from([f_node(), Node(0o40755, children={})]))
    elif what == "xattrs":
        node.xattrs = {**(node.xattrs or {}), b"user.added": b""}
    elif what == "rdev":
        node.rdev = (node.rdev[0] ^ 1, node.rdev[1])
    elif what == "target":
        node.target = b"elsewhere"
    elif what == "mode":
        node.mode ^= draw(st.sampled_from([0o1, 0o20, 0o400, 0o4000, 0o1000]))
    else:
        setattr(node, what, getattr(node, what) + 1)
    return root


@given(layers=st.lists(random_layers(), min_size=1, max_size=3), data=st.data())
def test_any_change_is_found_and_another_layout_is_none(
    layers: list[list[Member]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as scratch:
        images = [write_layer(members, Path(scratch, str(number))) for number, members in enumerate(layers)]
        root = merge(image.root for image in images)
        spare = data.draw(st.integers(0, 3))
        same = write(Path(scratch, "same"), shuffled(root, data.draw(st.randoms())), images, spare)
        assert fsmeta_difference(same, images) is None
        other = data.draw(changed(root))
        assume(difference(other, compare._merge_as_msb(image.root for image in images)) is not None)
        assert found(write(Path(scratch, "other"), other, images, spare), images) is not None


def shuffled(root: Node, random: object) -> Node:
    """The same tree, made in another order, with attributes in another."""
    root = copy.deepcopy(root)
    for _, node in list(walk(root)):
        for field in ("children", "xattrs"):
            entries = list((getattr(node, field) or {}).items())
            random.shuffle(entries)  # type: ignore[attr-defined]
            if entries:
                setattr(node, field, dict(entries))
    return root


def test_chunks_of_any_size_are_one_file(images: list[LayerImage], tmp_path: Path) -> None:
    """Cut into single blocks, as microsandbox does: the same tree."""
    path = tmp_path / "fsmeta"
    write_fsmeta(path, images)
    whole = read_image(path)
    data = bytearray(path.read_bytes())
    # The last inode has room behind it, up to the end of the block: that of "new", two blocks.
    offset = max(offset for offset, mode in inodes(path) if data[offset] == fmt.EXTENDED_CHUNKED)
    count = fmt.blocks_for(int.from_bytes(data[offset + 8 : offset + 16], "little"))
    area = int.from_bytes(data[offset + 2 : offset + 4], "little")
    body = offset + fmt.INODE.size + (12 + 4 * (area - 1) if area else 0) + 7 & ~7
    _, device, block = fmt.CHUNK_INDEX.unpack_from(data, body)
    assert count > 1
    assert not any(data[body + fmt.CHUNK_INDEX.size : body + count * fmt.CHUNK_INDEX.size])
    for number in range(count):
        fmt.CHUNK_INDEX.pack_into(data, body + number * fmt.CHUNK_INDEX.size, 0, device, block + number)
    fmt.UNSIGNED.pack_into(data, offset + fmt.INODE_UNION_OFFSET, fmt.CHUNK_INDEXES)
    path.write_bytes(data)
    assert difference(read_image(path).root, whole.root) is None
    assert fsmeta_difference(path, images) is None
