"""Named files of an archive, be it a tar or a directory, opened safely and independently.

Knows no image format.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
from pathlib import Path
from typing import Protocol

from msb_cache.errors import InvalidImageError
from msb_cache.oci.digest import shown
from msb_cache.oci.image import BlobReader
from msb_cache.oci.layer.tar import TarReader

#: Members of one archive: some thousand images with all their blobs, and a bound on the index's memory.
MAX_MEMBERS = 200_000
#: Bytes of their names and links together.
MAX_NAME_BYTES = 64 << 20
#: Links from member to member; archives of docker use one.
MAX_LINKS = 8
_NO_LINKS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class ArchiveFiles(Protocol):
    """The files of an archive by their names, ``/``-separated and relative."""

    @property
    def spooled_bytes(self) -> int:
        """What a nameless copy of the archive takes of the disk; 0: it is read where it lies."""

    def names(self) -> tuple[str, ...]:
        """The names of all files, where they can be listed."""

    def size(self, name: str) -> int | None:
        """The file's bytes, or None when there is no such file."""

    def open(self, name: str) -> BlobReader:
        """An independent reader of the file; raises InvalidImageError when there is none."""

    def close(self) -> None:
        """Release what the archive holds; readers still open end with it."""


def read_file(files: ArchiveFiles, name: str, limit: int, what: str) -> bytes:
    """A whole small file.

    Raises InvalidImageError naming ``what`` when it is missing or above ``limit`` bytes.
    """
    size = files.size(name)
    if size is None:
        raise InvalidImageError(f"{what} is missing from the archive")
    if size > limit:
        raise InvalidImageError(f"{what} is {size} bytes long; at most {limit} are accepted")
    reader = files.open(name)
    try:
        data = b""
        while len(data) <= limit and (more := reader.read(limit + 1 - len(data))):
            data += more
    finally:
        reader.close()
    return data


class TarFiles:
    """The members of a tar in a regular file, found in one pass over its headers.

    Of members with the same name the last counts, as when the archive is unpacked. Takes over ``file``.
    """

    def __init__(self, file: io.FileIO, start: int, what: str) -> None:
        self._file = file
        self._start = start
        try:
            self._members, self._links = index_members(file, start, what)
        except BaseException:
            file.close()
            raise

    @property
    def spooled_bytes(self) -> int:
        """What the file takes of the disk if it has no name."""
        found = os.fstat(self._file.fileno())
        return 0 if found.st_nlink else found.st_blocks * 512

    def names(self) -> tuple[str, ...]:
        """The names of all members, links included."""
        return (*self._members, *self._links)

    def size(self, name: str) -> int | None:
        """The member's bytes, links followed, or None."""
        found = self._find(name)
        return None if found is None else found[1]

    def open(self, name: str) -> BlobReader:
        """A reader with its own position; the file is shared, so it is not closed with the reader."""
        found = self._find(name)
        if found is None:
            raise InvalidImageError(f"{shown(name)} is missing from the archive")
        return _Slice(self._file, self._start + found[0], found[1])

    def close(self) -> None:
        """Close the archive's file."""
        self._file.close()

    def _find(self, name: str) -> tuple[int, int] | None:
        asked = name
        name = _normal(name)
        for _ in range(MAX_LINKS + 1):
            if name in self._members:
                return self._members[name]
            if name not in self._links:
                return None
            name = self._links[name]
        raise InvalidImageError(f"{shown(asked)} in the archive is a link that leads nowhere")


def index_members(
    file: io.FileIO, start: int, what: str
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Index the tar at byte ``start`` of ``file``: its regular members and its links.

    Members are name to (offset from ``start``, size), in bytes; links name to name. Raises InvalidImageError.
    """
    members: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    end = os.fstat(file.fileno()).st_size
    reader = TarReader(_Slice(file, start, max(0, end - start)), what)
    name_bytes = 0
    for count, entry in enumerate(reader):
        if count >= MAX_MEMBERS:
            raise InvalidImageError(f"{what} has more than {MAX_MEMBERS} members")
        name_bytes += len(entry.path) + len(entry.link)
        if name_bytes > MAX_NAME_BYTES:
            raise InvalidImageError(f"{what} has members with more than {MAX_NAME_BYTES >> 20} MiB of names")
        name = _normal(_text(entry.path))
        members.pop(name, None)
        links.pop(name, None)
        if entry.type == "file":
            if entry.sparse:
                raise InvalidImageError(
                    f"{what} stores {shown(name)} as a sparse file, which is not supported"
                )
            members[name] = reader.position, entry.size
        elif entry.type == "symlink":
            links[name] = _normal(posixpath.join(posixpath.dirname(name), _text(entry.link)))
        elif entry.type == "hardlink":
            links[name] = _normal(_text(entry.link))
    return members, links


def _normal(name: str) -> str:
    """One spelling for each name; what climbs out of the archive finds no member, for none is named so."""
    return posixpath.normpath("/" + name).lstrip("/")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class DirectoryFiles:
    """The files below a directory.

    No symbolic link is followed: in a foreign layout it could name any file.
    """

    def __init__(self, path: Path) -> None:
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.spooled_bytes = 0

    def names(self) -> tuple[str, ...]:
        """Nothing: only formats that come as a tar are recognised by their names."""
        return ()

    def size(self, name: str) -> int | None:
        """The file's bytes, or None."""
        file = self._open(name)
        if file is None:
            return None
        with file:
            return os.fstat(file.fileno()).st_size

    def open(self, name: str) -> BlobReader:
        """A reader that owns its file."""
        file = self._open(name)
        if file is None:
            raise InvalidImageError(f"{shown(name)} is missing from the image layout")
        return _Slice(file, 0, os.fstat(file.fileno()).st_size, owned=True)

    def close(self) -> None:
        """Close the directory."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _open(self, name: str) -> io.FileIO | None:
        *folders, last = name.split("/")
        if not all((*folders, last)) or {".", ".."} & {*folders, last} or "\0" in name:
            return None
        folder = os.dup(self._root)
        try:
            for part in folders:
                inner = os.open(part, _NO_LINKS | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            # Without O_NONBLOCK opening a FIFO would wait for a writer.
            fd = os.open(last, _NO_LINKS | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENAMETOOLONG):
                raise  # the disk's: the others are links, sockets and impossible names
            raise InvalidImageError(
                f"{shown(name)} in the image layout is not a plain file; links are not followed"
            ) from None
        finally:
            os.close(folder)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return io.FileIO(fd)
        os.close(fd)
        raise InvalidImageError(f"{shown(name)} in the image layout is not a plain file")


class _Slice:
    """A range of a file with a position of its own, so that several can be read at once from one file."""

    def __init__(self, file: io.FileIO, offset: int, size: int, owned: bool = False) -> None:
        self._file = file
        self._at = offset
        self._end = offset + size
        self._owned = owned

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._file.fileno(), min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over up to ``size`` bytes and say how many there were."""
        step = min(size, self._end - self._at)
        self._at += step
        return step

    def close(self) -> None:
        if self._owned:
            self._file.close()
