"""Add the images of an archive: which there are, under which names, each manifest once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from msb_cache.artifacts.layout import leaving_no_folders
from msb_cache.engines.arriving import Stage, arriving, as_often_as_full, make_room
from msb_cache.engines.engine import LoadRequest, Pulled, begun, length, undone_by
from msb_cache.engines.own.add import Addition, add, pulled
from msb_cache.engines.reused import Reused
from msb_cache.errors import InvalidImageError
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation
from msb_cache.oci.archive.open import Archive, open_archive
from msb_cache.oci.image import BlobReader, SourceImage, SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.projections.images import HandleRow
from msb_cache.wording import short

if TYPE_CHECKING:
    from msb_cache.activity import Count

_LISTED = 5  # digests in an error
_WORKERS = 2  # layers are hashed and written outside of the interpreter's lock


def load(ledger: Ledger, request: LoadRequest) -> list[HandleRow]:
    """Add the images of an archive in one operation; result and errors as for ``Engine.add``."""
    with (
        leaving_no_folders(ledger.layout),
        begun(ledger.layout, request) as operation,
        _opened(ledger, request, operation) as archive,
    ):
        for sentence in archive.notes:
            if request.note is not None:
                request.note(sentence)
        additions = _wanted(archive.images, request)

        def attempt(stage: Stage) -> list[Pulled]:
            staged_all = None
            if (room := request.room) is not None:
                if stage != "known":
                    operation.begin_again()
                coming = arriving(
                    ledger.layout,
                    [each.image for each in additions],
                    [reference for each in additions for reference in each.references],
                    stage=stage,
                    spooled=archive.spooled_bytes,
                )
                staged_all = make_room(room, coming)
            layers = {layer.diff_id: layer for each in additions for layer in each.image.layers}
            with ledger.doing(
                "building layers", "bytes", sum(each.size for each in layers.values())
            ) as count:
                told = _telling(additions, count)
                return add(
                    ledger,
                    operation,
                    told,
                    pulled(ledger, told, request.origin, request.began_ns, undone_by(request)),
                    workers=_WORKERS,
                    reuse=SourceLayer.verify_only,
                    reused=Reused(ledger, request.max_age_ns, request.note),
                    staged_all=staged_all,
                    note=request.note,
                )

        return [image.row for image in as_often_as_full(request.room, attempt)]


def _opened(ledger: Ledger, request: LoadRequest, operation: Operation) -> Archive:
    with ledger.doing("reading the archive", "bytes", length(request.source)) as count:
        return open_archive(request.source, operation.staging(), request.platform, count)


def _telling(additions: Sequence[Addition], count: Count) -> list[Addition]:
    """Return the images with layers that tell how many bytes of all of them have been read."""
    lock, done = Lock(), 0

    def read(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            count(done)

    def counted(layer: SourceLayer) -> SourceLayer:
        return replace(layer, open_blob=lambda: _CountedBlob(layer.open_blob(), read))

    return [
        replace(each, image=replace(each.image, layers=tuple(map(counted, each.image.layers))))
        for each in additions
    ]


class _CountedBlob:
    """A layer's blob that is read and counted."""

    def __init__(self, blob: BlobReader, count: Callable[[int], None]) -> None:
        self._blob = blob
        self._count = count

    def read(self, size: int, /) -> bytes:
        data = self._blob.read(size)
        self._count(len(data))
        return data

    def close(self) -> None:
        self._blob.close()


def _wanted(found: Sequence[SourceImage], request: LoadRequest) -> list[Addition]:
    if request.only is None:
        return _additions(found, _name(found, request.tags))
    wanted = [image for image in found if image.manifest_digest in request.only]
    if not wanted:
        names = ", ".join(short(image.manifest_digest) for image in found[:_LISTED])
        more = f" and {len(found) - _LISTED:,} more" if len(found) > _LISTED else ""
        missing = " or ".join(sorted(request.only)[:_LISTED])
        raise InvalidImageError(f"the archive has no manifest {missing}; it has {names}{more}")
    names_of = [request.only[image.manifest_digest] or image.references for image in wanted]
    return _additions(wanted, _name(wanted, (), names_of))


def _name(
    found: Sequence[SourceImage],
    extra: Sequence[Reference],
    given: Sequence[Sequence[Reference]] | None = None,
) -> list[list[Reference]]:
    """Return each image's references, those that are given or its own.

    A name given twice belongs to the last image, as in docker.
    """
    names = [list(group) for group in given or [image.references for image in found]]
    if names:
        names[0][:0] = extra
    for index, group in enumerate(names):
        later = {name for other in names[index + 1 :] for name in other}
        if not group:
            raise InvalidImageError(
                f"the archive names no reference for {found[index].manifest_digest}; give one with --tag"
            )
        names[index] = [name for name in dict.fromkeys(group) if name not in later]
    return names


def _additions(found: Sequence[SourceImage], names: Sequence[Sequence[Reference]]) -> list[Addition]:
    merged: dict[str, tuple[SourceImage, list[Reference]]] = {}
    for image, group in zip(found, names, strict=True):
        merged.setdefault(image.manifest_digest, (image, []))[1].extend(group)
    return [Addition(image, tuple(group)) for image, group in merged.values()]
