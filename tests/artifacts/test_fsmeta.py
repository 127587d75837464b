"""Merging layers, against a model that knows nothing but paths; and fsmeta files."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from msb_cache.artifacts.changeset import ChangeSet
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.fsmeta import merge, write_fsmeta
from msb_cache.artifacts.layer import LayerImage, write_layer
from msb_cache.artifacts.tree import Node, walk
from tests.artifacts.strategies import layers as random_layers
from tests.artifacts.support import Member, directory, flatten, hardlink, symlink

DEFAULT_DIRECTORY = ("drwxr-xr-x", 0, 0, 0, 0)


def tree_of(*members: Member) -> Node:
    changes = ChangeSet()
    for member in members:
        changes.add(member)
    return changes.finish()


def is_whiteout(flat: tuple[Any, ...]) -> bool:
    kind, *_, rdev, _, _, _, _, _, _, _ = flat
    return bool(kind.startswith("c") and rdev == (0, 0))


def naive_merge(layers: list[list[Member]]) -> dict[bytes, Any]:
    """Path → (attributes, (layer, first name there)): one layer's paths at a time over all before."""
    merged: dict[bytes, Any] = {b"": (DEFAULT_DIRECTORY, {}, None, (0, b""))}
    for number, members in enumerate(layers, start=1):
        layer = flatten(tree_of(*members))
        for path in [path for path, value in layer.items() if value[10]]:
            inside = [each for each in layer if each == path or each.startswith(path + b"/")]
            # What the layer hides with an opaque directory above is not there any more.
            parts = path.split(b"/")
            above = [b"", *(b"/".join(parts[:end]) for end in range(1, len(parts)))]
            hidden = any(layer[top][9] for top in above if top in layer)
            over_a_file = not hidden and path in merged and not merged[path][0][0].startswith("d")
            if over_a_file and all(layer[each][10] or is_whiteout(layer[each]) for each in inside):
                for each in inside:
                    del layer[each]

        def below(top: bytes) -> list[bytes]:
            return [path for path in merged if path.startswith(top + b"/") or (not top and path)]

        for path, (kind, *_, opaque, _, _, _) in layer.items():
            was = merged.get(path)
            is_directory = kind.startswith("d")
            if opaque or not is_directory:
                for gone in below(path):
                    del merged[gone]
            if was and not (is_directory and was[0][0].startswith("d")):
                del merged[path]
        for path, value in layer.items():
            kind, uid, gid, mtime, ns, rdev, size, target, xattrs, _, implicit, same, _ = value
            if is_whiteout(value):
                continue
            if implicit:
                merged.setdefault(path, (DEFAULT_DIRECTORY, {}, None, (number, path)))
            else:
                merged[path] = ((kind, uid, gid, mtime, ns), xattrs, (rdev, size, target), (number, same))
    return merged


def as_model(root: Node, paths: dict[bytes, Any]) -> dict[bytes, Any]:
    found = {}
    for path, value in flatten(root).items():
        kind, uid, gid, mtime, ns, rdev, size, target, xattrs, opaque, _, _, _ = value
        assert not opaque
        node = None if paths[path][2] is None else (rdev, size, target)
        found[path] = ((kind, uid, gid, mtime, ns), xattrs, node, paths[path][3])
    return found


@given(layers=st.lists(random_layers(), max_size=4))
def test_merge_agrees_with_the_model(layers: list[list[Member]]) -> None:
    expected = naive_merge(layers)
    root = merge([tree_of(*members) for members in layers])
    found = flatten(root)
    assert found.keys() == expected.keys()
    assert as_model(root, expected) == expected
    # Which names are one file, and which layer holds it.
    nodes = dict(walk(root))
    plain = [path for path, value in found.items() if not value[0].startswith("d")]
    for path in plain:
        number, _ = expected[path][3]
        assert nodes[path].device == (number if found[path][0].startswith("-") else 0)
        for other in plain:
            assert (nodes[path] is nodes[other]) == (expected[path][3] == expected[other][3])


@given(layers=st.lists(random_layers(), max_size=3))
def test_merge_leaves_the_layers_alone(layers: list[list[Member]]) -> None:
    trees = [tree_of(*members) for members in layers]
    before = copy.deepcopy([flatten(tree) for tree in trees])
    merge(trees)
    assert [flatten(tree) for tree in trees] == before


@given(layers=st.lists(random_layers(), min_size=1, max_size=3))
def test_fsmeta_holds_the_merged_tree(layers: list[list[Member]]) -> None:
    with TemporaryDirectory() as scratch:
        images, data = [], {}
        for number, members in enumerate(layers, start=1):
            path = Path(scratch, str(number))
            images.append(write_layer(members, path))
            data[number] = path.read_bytes()
        fsmeta = Path(scratch, "fsmeta")
        size = write_fsmeta(fsmeta, images)
        read = read_image(fsmeta)
        assert size == fsmeta.stat().st_size == read.blocks * 4096
        mapped = read.blocks
        for image, device in zip(images, read.devices, strict=True):
            assert device == (image.blocks, mapped)
            mapped += image.blocks
        # An empty file needs no device, so it is written without one.
        data[0] = b""
        assert flatten(read.root, data) == flatten(merge([image.root for image in images]), data)


def shape(*layers: list[Member]) -> dict[bytes, Any]:
    merged = merge([tree_of(*members) for members in layers])
    return {path: (node.mode & 0o777, node.uid) for path, node in walk(merged) if path}


BASE = [directory(b"d", mode=0o700, uid=7), Member(b"d/old", mode=0o600)]


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        ([Member(b"d/new")], {b"d": (0o700, 7), b"d/old": (0o600, 0), b"d/new": (0o644, 0)}),
        ([directory(b"d", uid=8)], {b"d": (0o755, 8), b"d/old": (0o600, 0)}),
        ([Member(b".wh.d")], {}),
        ([Member(b"d/.wh.old")], {b"d": (0o700, 7)}),
        ([Member(b"d/.wh.none")], {b"d": (0o700, 7), b"d/old": (0o600, 0)}),
        ([Member(b"d/.wh..wh..opq")], {b"d": (0o700, 7)}),
        ([Member(b".wh.d"), Member(b"d/new")], {b"d": (0o755, 0), b"d/new": (0o644, 0)}),
        ([Member(b".wh..wh..opq"), Member(b"e")], {b"e": (0o644, 0)}),
        ([Member(b"d")], {b"d": (0o644, 0)}),
        ([symlink(b"d", b"e")], {b"d": (0o777, 0)}),
        ([directory(b"d/old")], {b"d": (0o700, 7), b"d/old": (0o755, 0)}),
        ([Member(b"d/old/.wh.none")], {b"d": (0o700, 7), b"d/old": (0o600, 0)}),
        ([Member(b"d/old/a/.wh.none")], {b"d": (0o700, 7), b"d/old": (0o600, 0)}),
        ([Member(b"d/old/.wh..wh..opq")], {b"d": (0o700, 7), b"d/old": (0o600, 0)}),
        ([Member(b"d/old/" + b"a/" * 1000 + b".wh.none")], {b"d": (0o700, 7), b"d/old": (0o600, 0)}),
        (
            [Member(b"d/old/.wh.none"), Member(b"d/old/new")],
            {b"d": (0o700, 7), b"d/old": (0o755, 0), b"d/old/new": (0o644, 0)},
        ),
        ([directory(b"d/old"), Member(b"d/old/.wh.none")], {b"d": (0o700, 7), b"d/old": (0o755, 0)}),
        ([Member(b"d/old/new")], {b"d": (0o700, 7), b"d/old": (0o755, 0), b"d/old/new": (0o644, 0)}),
    ],
)
def test_two_layers(upper: list[Member], expected: dict[bytes, Any]) -> None:
    assert shape(BASE, upper) == expected


def test_a_hidden_name_may_come_back() -> None:
    assert shape(BASE, [Member(b".wh.d")], [directory(b"d/x")]) == {b"d": (0o755, 0), b"d/x": (0o755, 0)}


def test_an_upper_layer_breaks_a_hard_link() -> None:
    lower = [Member(b"a", data=b"1"), hardlink(b"b", b"a")]
    root = merge([tree_of(*lower), tree_of(Member(b"b", data=b"22"))])
    assert {path: (node.device, node.size) for path, node in walk(root) if path} == {
        b"a": (1, 1),
        b"b": (2, 2),
    }


@pytest.mark.parametrize("count", [1, 23, 24, 200])
def test_the_device_table_grows_past_the_first_block(count: int, tmp_path: Path) -> None:
    layers = [
        write_layer([Member(b"f%d" % number, data=b"x")], tmp_path / str(number)) for number in range(count)
    ]
    write_fsmeta(tmp_path / "fsmeta", layers)
    image = read_image(tmp_path / "fsmeta")
    assert len(image.devices) == count
    assert {node.device for path, node in walk(image.root) if path} == set(range(1, count + 1))


def test_large_files_are_one_chunk(tmp_path: Path) -> None:
    sizes = {b"%d" % bits: (1 << bits) + extra for bits in (12, 13, 31, 32, 38) for extra in (-1, 0, 1)}
    root = Node(0o40755, children={name: Node(0o100644, size=size, block=1) for name, size in sizes.items()})
    size = write_fsmeta(tmp_path / "fsmeta", [LayerImage(root, 0, 1 << 27)])
    assert size == 8192
    found = dict(walk(read_image(tmp_path / "fsmeta").root))
    assert {name: found[name].size for name in sizes} == sizes


def test_without_layers_there_is_an_empty_root(tmp_path: Path) -> None:
    assert write_fsmeta(tmp_path / "fsmeta", []) == 8192
    found = read_image(tmp_path / "fsmeta")
    assert found.root.children == {}
    assert found.devices == ()
