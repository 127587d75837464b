"""How much what is about to be added takes of the disk, estimated before it is fetched; pure.

A layer's blob says how long it is, and not how long its image becomes. Images of uncompressed blobs are
hardly longer than these; of compressed ones, as much longer as those that this home has, on the average. Two
real images had, compressed by gzip, 2.5 to 3.3 times their blobs' bytes, by zstd 2.5 to 3.3 times too, and
uncompressed 1.00 to 1.07 times.

The estimate leaves out what the log grows by, and what a layer has to do with the average: one of text or
zeros becomes many times its blob. So room is looked at again when the files are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msb_cache.retention.rules import Takes

COMPRESSED, UNCOMPRESSED = 3.0, 1.1
"""How many bytes of a layer's image are expected for a byte of its blob, as long as a home has few layers."""

TELLING = 64 << 20
"""Bytes of blobs from which on a home says that itself."""

_MERGED = 100
"""Of how many bytes of layers fsmeta takes one at most, in real images: of 173 to 560."""

_SMALL = 64 << 10
"""Bytes for the VMDK, the metadata and the blocks that files do not fill, of an image."""


class Seen(NamedTuple):
    """What a home has of layers: the bytes of their blobs, and those of the images made of them."""

    blob_bytes: int = 0
    image_bytes: int = 0

    def ratio(self, otherwise: float) -> float:
        """Return how many bytes of an image one of a blob becomes."""
        return self.image_bytes / self.blob_bytes if self.blob_bytes >= TELLING else otherwise


class Blob(NamedTuple):
    """A layer that is to be made: how long its blob is, in bytes, and whether that is compressed."""

    size: int
    compressed: bool


class Sizes(NamedTuple):
    """What is known of the sizes of what comes, in bytes.

    Attributes:
        blobs: the layers that are to be made.
        images: how many images come.
        here: what layers that are used as they are take.
        replaced: what is there now and goes when the new one is there.
        beside: what lies in the cache beside until the end.
        spooled: what takes room of the file system until the end, and no folder shows it.
    """

    blobs: tuple[Blob, ...] = ()
    images: int = 0
    here: int = 0
    replaced: int = 0
    beside: int = 0
    spooled: int = 0


def expected(sizes: Sizes, compressed: Seen, uncompressed: Seen) -> Takes:
    """Return what is expected to be taken of the disk.

    Args:
        sizes: what comes.
        compressed: what the home has of layers with a compressed blob.
        uncompressed: what it has of the others.
    """
    made = _images_of(sizes.blobs, compressed, uncompressed)
    merged = (made + sizes.here) // _MERGED + _SMALL * sizes.images
    return Takes(
        cache=made + merged - sizes.replaced,
        disk=made + merged - sizes.replaced - sizes.spooled,
        peak=made + merged + sizes.beside,
    )


def _images_of(blobs: Iterable[Blob], compressed: Seen, uncompressed: Seen) -> int:
    ratios = {True: compressed.ratio(COMPRESSED), False: uncompressed.ratio(UNCOMPRESSED)}
    return int(sum(blob.size * ratios[blob.compressed] for blob in blobs))


def staged(sizes: Sizes) -> Takes:
    """Return what is taken yet when all files lie in the cache, and only their names change."""
    return Takes(cache=-sizes.replaced, disk=-sizes.replaced - sizes.spooled, peak=0)


def at_least(takes: Takes, more_than: int) -> Takes:
    """Return what is taken when it was seen to be more than so many bytes: twice as much, or more."""
    lacking = max(0, 2 * more_than - takes.peak)
    return Takes(takes.cache + lacking, takes.disk + lacking, takes.peak + lacking)
