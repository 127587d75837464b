"""Bring images into a home, from archives and from registries, by the engine that the home has."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msb_cache.engines.arriving import MakesRoom
from msb_cache.engines.engine import LoadRequest, Pulled, PullRequest
from msb_cache.errors import InvalidConfigError, InvalidImageError
from msb_cache.eventstore.events import Source
from msb_cache.oci.digest import digest_problem, shown
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.reference import Reference
from msb_cache.projections.images import HandleRow
from msb_cache.session import Session
from msb_cache.waiting import Note
from msb_cache.wording import as_text

_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def load(
    session: Session,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    tags: Sequence[str],
    digest: str | None = None,
    platform: str | None,
    max_age_ns: int,
    note: Note | None,
    room: MakesRoom | None,
) -> list[HandleRow]:
    """Add the images of an archive; parameters, result and errors as for ``ImageCache.load``."""
    began = time.monotonic_ns()
    extra = tuple(Reference.parse(tag) for tag in tags)
    only = None if digest is None else {checked_digest(digest): extra}
    wanted = None if platform is None else parse_platform(platform)
    session.begin_writing()
    if isinstance(source, str | os.PathLike):
        opened: Path | BinaryIO = Path(source)
        name = as_text(os.path.abspath(os.fsdecode(source)))
    else:
        opened, name = source, "-"
    request = LoadRequest(
        source=opened,
        origin=Source(kind="archive", name=name),
        began_ns=began,
        tags=extra if only is None else (),
        only=only,
        platform=wanted,
        max_age_ns=max_age_ns,
        note=note,
        room=room,
    )
    with naming(source, session.layout.cache), session.making_home():
        return session.engine().add(request)


def pull(session: Session, request: PullRequest) -> Pulled:
    """Pull an image from its registry; errors as for ``ImageCache.pull``."""
    if request.policy not in ("missing", "always", "never") or request.jobs < 1:
        raise InvalidConfigError("the policy is missing, always or never, and jobs is at least 1")
    if request.policy == "never" and request.room is not None:
        raise InvalidConfigError("the policy `never` fetches nothing, so there is nothing to make room for")
    session.begin_writing()
    with naming(None, session.layout.cache), session.making_home():
        return session.engine().pull(request)


def checked_digest(text: str) -> str:
    """Return the manifest's digest that was asked for; raises InvalidConfigError."""
    problem = digest_problem(text)
    if problem is not None:
        raise InvalidConfigError(f"{shown(text)} {problem}")
    return text


def parse_platform(text: str) -> Platform:
    """Return the platform that was asked for; raises InvalidConfigError."""
    try:
        return Platform.parse(text)
    except InvalidImageError as error:
        raise InvalidConfigError(str(error)) from None


@contextmanager
def naming(source: object, target: Path) -> Iterator[None]:
    """Name the archive, or what was written to, in an error of the operating system that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_WRITING:
            error.filename = os.fspath(target)
        elif error.filename is None and isinstance(source, str | os.PathLike):
            error.filename = os.fspath(source)
        raise
