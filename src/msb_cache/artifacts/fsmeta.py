"""The merged root filesystem of an image: names and inodes only, data stays in the layer images."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msb_cache.artifacts import durable, files
from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.erofs.writer import encode, superblock
from msb_cache.artifacts.layer import LayerImage
from msb_cache.artifacts.tree import Node, implicit_directory, is_whiteout
from msb_cache.errors import InvalidImageError


def merge(layers: Iterable[Node]) -> Node:
    """The tree that a container sees, from the layers' trees bottom to top.

    By overlayfs' and the OCI image-spec's rules: an upper name wins over a lower one with all that
    is below, directories merge unless the upper is opaque, whiteouts remove. A directory that a
    layer only implies keeps the lower layer's owner, mode and time.

    The layers are left as they are. Regular files are copied, as each has to say which ``device``
    (1 for the bottom layer) holds its data; links, devices and FIFOs are shared with the layers.
    Names that are one file within a layer are one file in the result.
    """
    root = implicit_directory()
    for device, layer in enumerate(layers, start=1):
        _apply(root, layer, device)
    return root


def _apply(root: Node, layer: Node, device: int) -> None:
    copies: dict[int, Node] = {}
    _adopt(root, layer)
    stack = [(layer, root)]
    while stack:
        upper, merged = stack.pop()
        children = merged.children
        assert upper.children is not None  # noqa: S101
        assert children is not None  # noqa: S101
        for name, node in upper.children.items():
            if node.children is not None:
                below = children.get(name)
                if below is not None and below.children is None and _only_removes(node):
                    continue
                if below is None or below.children is None:
                    below = children[name] = implicit_directory()
                _adopt(below, node)
                stack.append((node, below))
            elif stat.S_ISREG(node.mode):
                copy = copies.get(id(node))
                if copy is None:
                    copy = copies[id(node)] = _on_device(node, device)
                children[name] = copy
            elif is_whiteout(node):
                children.pop(name, None)
            else:
                children[name] = node


def _only_removes(node: Node) -> bool:
    """Whether a layer says of this directory only what is gone below it: over a file that changes nothing."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node.implicit:
            pending += (node.children or {}).values()
        elif not is_whiteout(node):
            return False
    return True


def _adopt(merged: Node, upper: Node) -> None:
    """Let an upper directory have its effect on the one merged so far, its entries aside."""
    if upper.opaque:
        merged.children = {}
    if upper.implicit:
        return
    merged.mode = upper.mode
    merged.uid = upper.uid
    merged.gid = upper.gid
    merged.mtime = upper.mtime
    merged.mtime_ns = upper.mtime_ns
    merged.xattrs = upper.xattrs
    merged.implicit = False


def _on_device(node: Node, device: int) -> Node:
    return Node(
        node.mode,
        node.uid,
        node.gid,
        node.mtime,
        node.mtime_ns,
        size=node.size,
        xattrs=node.xattrs,
        device=device,
        block=node.block,
    )


def write_fsmeta(path: Path, layers: Iterable[LayerImage]) -> int:
    """Write the fsmeta of an image to ``path``, which must not exist; its size in bytes.

    ``layers`` are bottom to top, each taken when the ones below it are merged; without any the tree is an
    empty directory. Device n of the device table is layer n; where it begins when fsmeta and the layers are
    concatenated, as the VMDK does, stands there too. Not synced.
    """
    layer_blocks: list[int] = []
    root = merge(_roots(layers, layer_blocks))
    head_blocks = fmt.blocks_for(fmt.DEVICE_TABLE_OFFSET + len(layer_blocks) * fmt.DEVICE.size)
    metadata = encode(root, head_blocks)
    blocks = head_blocks + metadata.blocks
    devices = []
    mapped = blocks
    for count in layer_blocks:
        devices.append((count, mapped))
        mapped += count
    if mapped > fmt.NO_BLOCK:
        raise InvalidImageError("The image's layers together are larger than 16 TiB.")
    head = superblock(metadata, blocks, devices)
    with files.create_readable(path) as file:
        try:
            file.write(head)
            metadata.write(file)
            file.flush()
        except BaseException:
            durable.delete_unsynced(path)
            raise
    return blocks * fmt.BLOCK


def _roots(layers: Iterable[LayerImage], blocks: list[int]) -> Iterator[Node]:
    """Yield the layers' trees and note how long their images are."""
    for layer in layers:
        if len(blocks) == fmt.MAX_DEVICES:
            raise InvalidImageError(f"The image has more than {fmt.MAX_DEVICES} layers that can be merged.")
        blocks.append(layer.blocks)
        yield layer.root
