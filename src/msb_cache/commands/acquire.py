"""Bring images into a home from archives and registries, by our own engine or, where msb keeps it, by msb."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msb_cache.artifacts.layout import leaving_no_folders
from msb_cache.engines.own.add import Addition, add
from msb_cache.errors import InvalidConfigError, InvalidImageError
from msb_cache.eventstore.events import Source
from msb_cache.home.ledger import Note, as_text
from msb_cache.home.operation import Operation
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceImage, SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.projections.images import HandleRow
from msb_cache.queries import resolve as finding
from msb_cache.session import Session

if TYPE_CHECKING:
    from msb_cache.engines.own.pull import Progress, Wanted

_LOAD_WORKERS = 2  # layers are hashed and written outside of the interpreter's lock
_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def load(
    session: Session,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    tag: str | None,
    platform: str | None,
    note: Note | None,
) -> list[HandleRow]:
    """Add the images of an archive; parameters, result and errors as for ``ImageCache.load``."""
    began = time.monotonic_ns()
    ledger, layout = session.ledger, session.layout
    extra = None if tag is None else Reference.parse(tag)
    wanted = None if platform is None else wanted_platform(platform)
    session.begin_writing()
    if isinstance(source, str | os.PathLike):
        opened: Path | BinaryIO = Path(source)
        origin = Source(kind="archive", name=as_text(os.path.abspath(os.fsdecode(source))))
    else:
        opened, origin = source, Source(kind="archive", name="-")
    if ledger.owned_by_msb:
        from msb_cache.engines.msb import add as msb_adding

        with _naming(source, layout.cache):
            return msb_adding.load(ledger, opened, origin, extra, wanted)
    from msb_cache.oci.archive.open import open_archive

    with (
        leaving_no_folders(layout),
        _naming(source, layout.cache),
        Operation(layout) as operation,
        open_archive(opened, operation.staging(), wanted) as archive,
    ):
        for sentence in archive.notes:
            if note is not None:
                note(sentence)
        names = _name(archive.images, extra)
        return add(
            ledger,
            operation,
            _additions(archive.images, names),
            origin,
            began,
            workers=_LOAD_WORKERS,
            reuse=SourceLayer.verify_only,
            note=note,
        )


def pull(session: Session, wanted: Wanted, *, progress: Progress | None, note: Note | None) -> HandleRow:
    """Pull an image from its registry; errors as for ``ImageCache.pull``."""
    if wanted.policy not in ("missing", "always", "never") or wanted.jobs < 1:
        raise InvalidConfigError("the policy is missing, always or never, and jobs is at least 1")
    session.begin_writing()
    if session.ledger.owned_by_msb:
        from msb_cache.engines.msb import add as msb_adding

        msb_adding.pull(session.ledger, wanted)
    else:
        from msb_cache.engines.own import pull as pulling

        with leaving_no_folders(session.layout), _naming(None, session.layout.cache):
            pulling.pull(session.ledger, wanted, progress=progress, note=note)
    with session.index() as connection:
        return finding.image(connection, wanted.reference.canonical)


def wanted_platform(text: str) -> Platform:
    """Return the platform that was asked for; raises InvalidConfigError."""
    try:
        return Platform.parse(text)
    except InvalidImageError as error:
        raise InvalidConfigError(str(error)) from None


@contextmanager
def _naming(source: object, target: Path) -> Iterator[None]:
    """Name the archive, or what was written to, in an error of the operating system that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_WRITING:
            error.filename = os.fspath(target)
        elif error.filename is None and isinstance(source, str | os.PathLike):
            error.filename = os.fspath(source)
        raise


def _name(found: Sequence[SourceImage], extra: Reference | None) -> list[list[Reference]]:
    """Return each image's references; a name given twice belongs to the last image, as in docker."""
    names = [list(image.references) for image in found]
    if extra is not None and names:
        names[0].insert(0, extra)
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
