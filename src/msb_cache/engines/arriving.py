"""What is about to be added to a cache, as the engine that adds it knows it before it does.

Not how much room that needs (``retention.coming``), and not how room is made (``care.make_room``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from heapq import nlargest
from typing import Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from msb_cache import diagnostics
from msb_cache.artifacts.files import BLOCK, is_full
from msb_cache.artifacts.layout import Layout
from msb_cache.oci.image import SourceImage, SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.partials import path_of
from msb_cache.projections.state import Coming
from msb_cache.retention.coming import Blob, Sizes

_Result = TypeVar("_Result")

_ATTEMPTS = 5
"""How often something is begun for which the disk turns out to be too full; each time with twice the room."""

Stage = Literal["known", "too-little", "staged"]


class Arriving(Struct, frozen=True, kw_only=True):
    """Images that are about to be added.

    Attributes:
        names: the references that they get, as people see them.
        coming: what is needed for them.
        sizes: what is known of their sizes.
        stage: ``known``: nothing is fetched or made yet. ``too-little``: the disk was full before they were
            made, and they are to be made once more. ``staged``: all of their files are there, and not
            published.
    """

    names: tuple[str, ...]
    coming: Coming
    sizes: Sizes
    stage: Stage = "known"

    def staged(self, replaced: int) -> Arriving:
        """Return it as it is when all files are there, which replace so many bytes."""
        sizes = Sizes(replaced=replaced, spooled=self.sizes.spooled)
        return replace(self, stage="staged", sizes=sizes)


MakesRoom = Callable[[Arriving], None]
"""Makes room for images, before they are fetched, and once more when their files are there.

It raises BoundNotKeptError where that cannot be done, and then nothing is to be added.
"""


def arriving(
    layout: Layout,
    images: Sequence[SourceImage],
    references: Iterable[Reference],
    *,
    stage: Stage = "known",
    anew: bool = False,
    fetched_at_once: int = 0,
    spooled: int = 0,
) -> Arriving:
    """Return what is about to be added.

    Args:
        layout: the home.
        images: the images.
        references: what they are to be called.
        stage: as for ``Arriving``.
        anew: their layers are made anew, also those that are here.
        fetched_at_once: of how many layers the blob lies in the cache while its image is made.
        spooled: bytes of a copy of the archive, which no folder shows.
    """
    layers = {layer.diff_id: layer for image in images for layer in image.layers}
    there = {diff_id: taken(layout.layer(diff_id)) for diff_id in layers}
    made = [layer for diff_id, layer in layers.items() if anew or not there[diff_id]]
    to_come = (layer.size - taken(path_of(layout.downloads, layer.blob_digest)) for layer in made)
    names = [*references]
    return Arriving(
        names=tuple(each.familiar for each in names),
        coming=Coming(
            frozenset(each.canonical for each in names),
            frozenset(image.manifest_digest for image in images),
            frozenset(layers),
        ),
        sizes=Sizes(
            tuple(map(_blob, made)),
            images=len(images),
            here=0 if anew else sum(there.values()),
            replaced=sum(there.values()) if anew else 0,
            beside=sum(nlargest(fetched_at_once, to_come)),
            spooled=spooled,
        ),
        stage=stage,
    )


def _blob(layer: SourceLayer) -> Blob:
    return Blob(layer.size, compressed=layer.media_type.rpartition("+")[1] == "+")


def taken(path: str | os.PathLike[str]) -> int:
    """Return what a file takes of the disk, in bytes; 0 if it is not there."""
    try:
        return os.lstat(path).st_blocks * BLOCK
    except OSError:
        return 0


def make_room(room: MakesRoom, coming: Arriving) -> Callable[[int], None]:
    """Make room; return what looks at it again when all files are there, which replace so many bytes."""
    room(coming)
    return lambda replaced: room(coming.staged(replaced))


def as_often_as_full(room: MakesRoom | None, attempt: Callable[[Stage], _Result]) -> _Result:
    """Add something, and some times more if the disk turns out to be too full for it and room can be made.

    ``attempt`` makes the room first, and more of it each time: that ends by an error if no more may go. Other
    programs may take what comes free, so it ends after some attempts, too.
    """
    stage: Stage = "known"
    for left in reversed(range(_ATTEMPTS)):
        try:
            return attempt(stage)
        except OSError as error:
            if room is None or not is_full(error) or not left:
                raise
            diagnostics.warning("add.full", problem=str(error))
        stage = "too-little"
    raise AssertionError("unreachable")
