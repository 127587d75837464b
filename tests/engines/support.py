"""What tests of both engines share: files that cannot be deleted, and what is said of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache import ImageCache


@contextmanager
def refusing(code: int, *paths: Path) -> Iterator[None]:
    """Have the operating system refuse to delete these files."""
    really, refused = os.unlink, {str(path) for path in paths}

    def unlink(path: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
        if os.fspath(path) in refused:
            raise OSError(code, os.strerror(code), path)
        really(path, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        yield


def left(cache: ImageCache) -> list[tuple[str, str, str]]:
    """What info says is left over, which verify says as well, of the last deletion."""
    found = cache.info().leftovers
    assert {each.operation for each in found} <= {cache.prunes()[0].operation}
    seen = {problem.leftover for problem in cache.verify().disk if problem.problem == "leftover"}
    assert seen == set(found)
    return sorted((each.kind, each.subject, each.reason) for each in found)
