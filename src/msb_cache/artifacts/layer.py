"""Layer images: one layer of an image as an uncompressed EROFS file, written in one pass.

Data comes first: block 0 is the superblock, then every file's data in the order of the archive,
straight from its stream, each on a block of its own; directories and inodes follow at the end and
the superblock says where. microsandbox writes its inodes first, Linux and msb read either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from msb_cache.artifacts import durable, files
from msb_cache.artifacts.changeset import ChangeSet, Entry
from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.erofs.writer import encode, superblock
from msb_cache.artifacts.footprint import Claim
from msb_cache.artifacts.gather import GatheringWriter
from msb_cache.artifacts.tree import Node, quoted
from msb_cache.errors import CorruptArtifactError, InvalidImageError

__all__ = ["Entry", "LayerImage", "read_layer", "write_layer"]


class LayerImage(NamedTuple):
    """A layer's tree, what it takes of the memory, and how long its image is in blocks of 4096 bytes."""

    root: Node
    footprint: int
    blocks: int

    @property
    def size_bytes(self) -> int:
        """How long its image is in bytes."""
        return self.blocks * fmt.BLOCK


def write_layer(
    entries: Iterable[Entry],
    path: Path,
    claim: Claim | None = None,
    written: Callable[[int], None] = lambda end: None,
) -> LayerImage:
    """Write the image of a layer to ``path``, which must not exist yet.

    The same entries give the same bytes. The file is sparse where the archive was and at the end of
    blocks. It is not synced: the addition that publishes it does that. On any error it is gone again.

    The memory that the tree takes is asked for with ``claim``; without one it is what an image may take.
    ``written`` is told now and then up to which byte all but the first block is written.

    Raises :class:`InvalidImageError` for a layer that no file system could hold, that tries to leave its
    root, or whose tree is too large.
    """
    with files.create_readable(path) as file:
        try:
            return _write(entries, file, claim, written)
        except BaseException:
            durable.delete_unsynced(path)
            raise


def _write(
    entries: Iterable[Entry], file: BinaryIO, claim: Claim | None, written: Callable[[int], None]
) -> LayerImage:
    data = GatheringWriter(file.fileno(), written)
    changes = ChangeSet(claim)
    block = 1
    for entry in entries:
        node = changes.add(entry)
        if node is None or not node.size:
            continue
        count = fmt.blocks_for(node.size)
        if block + count > fmt.MAX_BLOCKS:
            raise InvalidImageError(
                f"The layer is larger than {fmt.MAX_BLOCKS * fmt.BLOCK} bytes (at {quoted(entry.path)})."
            )
        node.block = block
        entry.copy_to(data.put, block * fmt.BLOCK)
        block += count
    data.flush()
    root = changes.finish()
    metadata = encode(root, block)
    blocks = block + metadata.blocks
    if blocks > fmt.MAX_BLOCKS:
        raise InvalidImageError(f"The layer is larger than {fmt.MAX_BLOCKS * fmt.BLOCK} bytes.")
    file.seek(block * fmt.BLOCK)
    metadata.write(file)
    head = superblock(metadata, blocks)
    # The rest of the block is zeros, which the file has already without taking space.
    file.seek(fmt.SUPERBLOCK_OFFSET)
    file.write(head[fmt.SUPERBLOCK_OFFSET : fmt.SUPERBLOCK_OFFSET + fmt.SUPERBLOCK.size])
    file.flush()
    file.truncate(blocks * fmt.BLOCK)
    return LayerImage(root, changes.footprint, blocks)


def read_layer(path: Path) -> LayerImage:
    """Read a layer image, ours or microsandbox's (which mentions its root even if the layer does not).

    Raises :class:`CorruptArtifactError`, or OSError if the file cannot be opened.
    """
    image = read_image(path)
    if image.devices:
        raise CorruptArtifactError(f"{path.name} is not a layer image: its data is in other files.")
    return LayerImage(image.root, image.footprint, image.blocks)
