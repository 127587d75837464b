"""Add the images of an archive: which there are, under which names, each manifest once."""

from __future__ import annotations

from collections.abc import Sequence

from msb_cache.artifacts.layout import leaving_no_folders
from msb_cache.engines.engine import LoadRequest
from msb_cache.engines.own.add import Addition, add, pulled
from msb_cache.engines.reused import Reused
from msb_cache.errors import InvalidImageError
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.image import SourceImage, SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.projections.images import HandleRow

_WORKERS = 2  # layers are hashed and written outside of the interpreter's lock


def load(ledger: Ledger, request: LoadRequest) -> list[HandleRow]:
    """Add the images of an archive in one operation; result and errors as for ``Engine.add``."""
    with (
        leaving_no_folders(ledger.layout),
        Operation(ledger.layout) as operation,
        open_archive(request.source, operation.staging(), request.platform) as archive,
    ):
        for sentence in archive.notes:
            if request.note is not None:
                request.note(sentence)
        names = _name(archive.images, request.tags)
        additions = _additions(archive.images, names)
        added = add(
            ledger,
            operation,
            additions,
            pulled(ledger, additions, request.origin, request.began_ns),
            workers=_WORKERS,
            reuse=SourceLayer.verify_only,
            reused=Reused(ledger, request.max_age_ns, request.note),
            note=request.note,
        )
        return [image.row for image in added]


def _name(found: Sequence[SourceImage], extra: Sequence[Reference]) -> list[list[Reference]]:
    """Return each image's references; a name given twice belongs to the last image, as in docker."""
    names = [list(image.references) for image in found]
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
