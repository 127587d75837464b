"""Whether an fsmeta says what its layers give: trees compared by what they mean, not by their bytes.

The order of inodes, how a file's data is cut into chunks, what lies between: none of it is compared, for
microsandbox writes the same tree in another way. Names, every field of an inode, attributes, which names are
one file, and where its data lies are.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path

from msb_cache.artifacts.erofs.reader import Image, read_image
from msb_cache.artifacts.fsmeta import merge
from msb_cache.artifacts.layer import LayerImage
from msb_cache.artifacts.tree import Node, implicit_directory, is_whiteout, quoted

_FIELDS = ("mode", "uid", "gid", "mtime", "mtime_ns", "size", "rdev", "target", "xattrs", "opaque")
_fields = attrgetter(*_FIELDS)
_WORDS = {"mtime_ns": "nanoseconds", "rdev": "device number", "xattrs": "attributes"}


def fsmeta_difference(path: Path, layers: Sequence[LayerImage]) -> str | None:
    """Return in what an fsmeta differs from the merge of its layers, bottom to top; None if in nothing.

    It may be merged as we do it or as microsandbox does.

    Raises:
        CorruptArtifactError: it is no sound EROFS image.
        OSError: it cannot be read.
    """
    image = read_image(path)
    return _of_devices(image, layers) or image.contradiction or _of_trees(image.root, layers)


def _of_devices(image: Image, layers: Sequence[LayerImage]) -> str | None:
    if len(image.devices) != len(layers):
        return f"it is of {len(image.devices)} layers, not of {len(layers)}"
    begin = image.blocks
    for number, (device, layer) in enumerate(zip(image.devices, layers, strict=True), start=1):
        if device != (layer.blocks, begin):
            return f"its layer {number} has another length or another place"
        begin += layer.blocks
    return None


def _of_trees(root: Node, layers: Sequence[LayerImage]) -> str | None:
    found = difference(root, merge(layer.root for layer in layers))
    if found is None or difference(root, _merge_as_msb(layer.root for layer in layers)) is None:
        return None
    return found


def _merge_as_msb(layers: Iterable[Node]) -> Node:
    """The tree that microsandbox 0.7.11 makes of layer images, its own or ours.

    It takes nothing from a layer's root, and directories that no layer mentions for mentioned ones. One that
    hides what is below, or meets nothing there, is put in as it is, whiteouts included. Hard links are kept
    of files alone, attributes of files and directories.
    """
    root = implicit_directory()
    for device, layer in enumerate(layers, start=1):
        copies: dict[int, Node] = {}
        stack = [(layer, root, True)]
        while stack:
            upper, merged, meets = stack.pop()
            children = merged.children
            assert upper.children is not None  # noqa: S101
            assert children is not None  # noqa: S101
            for name, node in upper.children.items():
                if meets and is_whiteout(node):
                    children.pop(name, None)
                    continue
                below = children.get(name)
                copy = copies.get(id(node)) or _copied(node)
                children[name] = copy
                if node.children is not None:
                    both = below is not None and below.children is not None and not node.opaque
                    copy.children = below.children if below is not None and both else {}
                    stack.append((node, copy, both))
                elif stat.S_ISREG(node.mode):
                    copies[id(node)] = copy
                    copy.device = device
                    copy.xattrs = node.xattrs
    return root


def _copied(node: Node) -> Node:
    return Node(
        *(node.mode, node.uid, node.gid, node.mtime, node.mtime_ns),
        rdev=node.rdev,
        size=node.size,
        target=node.target,
        block=node.block,
        xattrs=node.xattrs if node.children is not None else None,
    )


def difference(found: Node, expected: Node) -> str | None:
    """Return the first difference between two trees, with the path; None if they say the same.

    Where an empty file's data lies says nothing; nor does a directory's being implicit, of a merged tree.
    """
    one: dict[int, Node] = {}  # id of a node found → the node that it must be
    names: dict[int, Node] = {}
    stack = [(b"", found, expected)]
    while stack:
        path, here, there = stack.pop()
        if _fields(here) != _fields(there):
            return _described(path, here, there)
        if there.children is None:
            if here.size and (here.device, here.block) != (there.device, there.block):
                return f"{quoted(path)} has its data in another place"
            if one.setdefault(id(here), there) is not there or names.setdefault(id(there), here) is not here:
                return f"{quoted(path)} is linked to other names"
            continue
        assert here.children is not None  # noqa: S101
        if here.children.keys() != there.children.keys():
            return _of_names(path, here.children.keys(), there.children.keys())
        prefix = path + b"/" if path else b""
        stack.extend((prefix + name, here.children[name], node) for name, node in there.children.items())
    return None


def _of_names(path: bytes, found: Iterable[bytes], expected: Iterable[bytes]) -> str:
    prefix = path + b"/" if path else b""
    missing = set(expected) - set(found)
    if missing:
        return f"{quoted(prefix + min(missing))} is not in it"
    return f"{quoted(prefix + min(set(found) - set(expected)))} is in it and in no layer"


def _described(path: bytes, found: Node, expected: Node) -> str:
    field = next(field for field in _FIELDS if getattr(found, field) != getattr(expected, field))
    if field == "opaque":
        return f"{quoted(path)} hides other layers"
    if field in ("target", "xattrs"):
        return f"{quoted(path)} has another {field.removesuffix('s')}".replace("xattr", "extended attribute")
    shown = (
        (oct(found.mode), oct(expected.mode))
        if field == "mode"
        else (getattr(found, field), getattr(expected, field))
    )
    return f"{quoted(path)} has the {_WORDS.get(field, field)} {shown[0]}, not {shown[1]}"
