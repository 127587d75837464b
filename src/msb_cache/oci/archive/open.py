"""Opening image archives: docker-save tars, old and new, and OCI layouts as tar or directory.

Not for writing them. A tar must be in a regular file, because its members are read in any order: a pipe, and
an archive that is compressed as a whole, is first copied to a nameless file in the spool folder, which is
gone when the archive is closed.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from msb_cache.errors import InvalidImageError
from msb_cache.oci.archive.docker import read_docker, read_legacy
from msb_cache.oci.archive.files import ArchiveFiles, DirectoryFiles, TarFiles
from msb_cache.oci.archive.layout import read_layout
from msb_cache.oci.archive.selection import Selection
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceImage
from msb_cache.oci.layer.compression import CHUNK_BYTES, ByteSource, decompressed, sniff
from msb_cache.oci.layer.headers import BLOCK, Fields, TarProblem, parse_header
from msb_cache.wording import reason_of

_ACCEPTED = "a docker save archive, an OCI layout, or one of these compressed with gzip, zstd, bzip2 or xz"


class Archive:
    """An open archive; a context manager. Its images' layers can be streamed until it is closed.

    ``kind`` is ``docker`` or ``oci``; ``notes`` are sentences about what was assumed or left out.
    """

    def __init__(self, files: ArchiveFiles, what: str, platform: Platform | None) -> None:
        self._files = files
        selection = Selection(platform)
        # What docker 25 and later save is both; msb reads its manifest.json, and so the same digests come
        # out.
        if files.size("manifest.json") is not None:
            self.kind = "docker"
            read_docker(files, selection)
        elif files.size("index.json") is not None:
            self.kind = "oci"
            read_layout(files, selection)
        elif files.size("repositories") is not None or any(n.endswith("/layer.tar") for n in files.names()):
            self.kind = "docker"
            read_legacy(files, selection)
        else:
            raise InvalidImageError(f"{what} is not {_ACCEPTED}: it has neither manifest.json nor index.json")
        self.images: tuple[SourceImage, ...] = selection.images(what)
        self.notes: tuple[str, ...] = tuple(selection.notes)

    @property
    def spooled_bytes(self) -> int:
        """What its copy in the spool folder takes of the disk until it is closed; 0: it has none."""
        return self._files.spooled_bytes

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive and drop its spooled copy."""
        self._files.close()


def open_archive(
    source: Path | BinaryIO,
    spool: Path,
    platform: Platform | None = None,
    read: Callable[[int], object] = lambda count: None,
) -> Archive:
    """Open an archive and read its documents; layers are read and verified when they are streamed.

    ``source`` is a file, a layout's directory, or a stream, which is read from its position and not closed.
    ``read`` is told how many bytes of it have been read so far, where it is copied.
    ``platform`` is the platform to load; by default this host's, and then an image that is for one other
    platform only is taken all the same, with a note. Raises InvalidImageError or its subclass
    PlatformNotFoundError.
    """
    if isinstance(source, Path):
        what = f"archive {source}"
        try:
            if source.is_dir():
                files: ArchiveFiles = DirectoryFiles(source)
            else:
                with source.open("rb", buffering=0) as file:
                    files = _tar_files(file, spool, what, read)
        except OSError as error:
            if error.filename != str(source):
                raise
            raise InvalidImageError(f"{what} cannot be opened: {reason_of(error)}") from None
    else:
        what = "the archive"
        files = _tar_files(source, spool, what, read)
    try:
        return Archive(files, what, platform)
    except BaseException:
        files.close()
        raise


def _tar_files(
    source: BinaryIO | io.FileIO, spool: Path, what: str, read: Callable[[int], object]
) -> TarFiles:
    start = _regular_position(source)
    head = b""
    while len(head) < BLOCK and (more := source.read(BLOCK - len(head))):
        head += more
    compression = sniff(head)
    if not head:
        raise InvalidImageError(f"{what} is empty")
    if compression == "none":
        _check_tar_head(head, what)
        if start is not None:
            return TarFiles(io.FileIO(os.dup(source.fileno())), start, what)
    stream = decompressed(_Joined(head, source, read), compression, what)
    file = _spooled(stream, spool)
    if compression != "none":
        try:
            _check_tar_head(os.pread(file.fileno(), BLOCK, 0), what)
        except BaseException:
            file.close()
            raise
    return TarFiles(file, 0, what)


def _regular_position(source: BinaryIO | io.FileIO) -> int | None:
    """Where the source stands if it is a regular file that can be read at any position, else None."""
    try:
        if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            return source.tell()
    except (OSError, AttributeError):  # io.UnsupportedOperation is an OSError
        pass
    return None


def _check_tar_head(head: bytes, what: str) -> None:
    if head == bytes(BLOCK):
        return
    try:
        if len(head) == BLOCK:
            parse_header(head, Fields())
            return
    except TarProblem:
        pass
    raise InvalidImageError(f"{what} is not {_ACCEPTED}")


def _spooled(stream: ByteSource, spool: Path) -> io.FileIO:
    spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=spool, buffering=0) as file:
        while data := stream.read(CHUNK_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(file.fileno(), view) :]
        return io.FileIO(os.dup(file.fileno()))


class _Joined:
    """A stream with its already read head put back; ``count`` is told how far it is."""

    def __init__(self, head: bytes, rest: BinaryIO | io.FileIO, count: Callable[[int], object]) -> None:
        self._head = head
        self._rest = rest
        self._count = count
        self._done = len(head)

    def read(self, size: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        data = self._rest.read(size) or b""
        self._done += len(data)
        self._count(self._done)
        return data
