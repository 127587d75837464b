"""A streaming reader of layer tars: one pass, bounded memory, exact names and times.

Not for writing or seeking. Why not ``tarfile``: a layer's tree needs nanosecond times (tarfile makes them
floats), names as bytes, sparse files written as holes, and headers that a hostile layer cannot make
arbitrarily large. What real images contain was written by Go's ``archive/tar``, and docker and containerd
read it with that, so where POSIX (pax, "ustar Interchange Format" and "pax Interchange Format"), GNU tar and
Go differ, Go's reader is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msb_cache.errors import InvalidImageError
from msb_cache.oci.layer.compression import CHUNK_BYTES, ByteSource
from msb_cache.oci.layer.headers import (
    BLOCK,
    HEADER_ONLY,
    TYPES,
    Extension,
    Fields,
    Segments,
    TarProblem,
    check_segments,
    old_sparse_segments,
    parse_header,
    parse_pax,
    sparse_map_segments,
)

#: Bytes of one extension header's data, as in Go since 1.25.2.
MAX_EXTENSION_BYTES = 1 << 20
#: Bytes of a GNU long name; Linux's PATH_MAX is 4,096.
MAX_NAME_BYTES = 64 << 10
_MAX_SPARSE_BLOCKS = MAX_EXTENSION_BYTES // BLOCK
_ZEROS = bytes(BLOCK)


class TarEntry(Fields):
    """One member of a tar; its content can be taken until the reader moves on.

    ``path`` and ``link`` are bytes as stored; ``type`` is ``file``, ``directory``, ``symlink``, ``hardlink``,
    ``character``, ``block`` or ``fifo``; ``mode`` holds the permission bits (07777); ``mtime`` is whole
    seconds since the epoch, rounded down, and ``mtime_ns`` the 0–999,999,999 ns after it; ``size`` is the
    content's length in bytes, holes included; ``device`` is (major, minor); ``xattrs`` are raw names and
    values.
    """

    __slots__ = (
        "_reader",
        "_rest",
        "_segments",
        "_serial",
        "type",
    )

    type: str

    def __init__(self, reader: TarReader, serial: int) -> None:
        self._reader = reader
        self._serial = serial
        self._segments: Segments | None = None
        self._rest: tuple[Iterator[bytes], bytearray] | None = None

    @property
    def sparse(self) -> bool:
        """Whether the content is stored in pieces, with holes between them."""
        return self._segments is not None

    def copy_to(self, put: Callable[[memoryview, int], None], offset: int) -> None:
        """Hand the content to ``put`` piece by piece, each with its place, where the first is ``offset``.

        Holes of a sparse file are left out. The pieces are of immutable bytes.
        """
        self._take()
        if self._segments is None and (whole := self._reader._whole(self.size)) is not None:
            put(whole, offset)
            return
        for at, length in self._data_segments():
            position = offset + at
            for piece in self._reader._take(length):
                put(piece, position)
                position += len(piece)

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of at most CHUNK_BYTES, holes as zeros."""
        self._take()
        at = 0
        for start, length in [*self._data_segments(), (self.size, 0)]:
            while at < start:
                step = min(CHUNK_BYTES, start - at)
                yield bytes(step)
                at += step
            for chunk in self._reader._take(length):
                yield bytes(chunk)
            at += length

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes of the content, or all that is left.

        For small files, it is built in memory.
        """
        if self._rest is None:
            self._rest = self.chunks(), bytearray()
        source, held = self._rest
        while size < 0 or len(held) < size:
            chunk = next(source, None)
            if chunk is None:
                break
            held += chunk
        found = bytes(held if size < 0 else held[:size])
        del held[: len(found)]
        return found

    def _take(self) -> None:
        if self._serial != self._reader._serial:
            raise RuntimeError("the tar reader has moved on from this entry")
        if self._reader._taken:
            raise RuntimeError("this entry's content was already taken")
        self._reader._taken = True

    def _data_segments(self) -> Segments:
        return self._segments if self._segments is not None else [(0, self.size)]

    def __repr__(self) -> str:
        return f"<TarEntry {self.type} {self.path!r} {self.size} bytes>"


class TarReader:
    """Iterates over the entries of a tar stream; errors are InvalidImageError and name ``what``.

    The stream ends at two blocks of zeros or where it stops after a member's content. Bytes behind that are
    not read: who verifies a digest drains the source. PAX global headers are ignored, as docker and
    containerd do. A source that has a method ``skip(size)``, which passes over bytes and returns how many
    there were, is asked to skip content.
    """

    def __init__(self, source: ByteSource, what: str = "the tar") -> None:
        self._source = source
        self._what = what
        self._buffer = b""
        self._view = memoryview(b"")  # of the buffer
        self._start = 0  # of the unread part of the buffer
        self._fetched = 0
        self._source_skip = getattr(source, "skip", None)
        self._serial = 0
        self._left = 0  # bytes of the current member's content still unread
        self._padding = 0
        self._taken = False
        self._ended = False  # at blocks of zeros, not where the stream stops

    def __iter__(self) -> Iterator[TarEntry]:
        try:
            while (found := self._next()) is not None:
                yield found
        except TarProblem as problem:
            raise InvalidImageError(f"{self._what} {problem}") from None

    @property
    def position(self) -> int:
        """Bytes of the stream consumed so far: after an entry is yielded, where its stored content begins."""
        return self._fetched - len(self._buffer) + self._start

    def _next(self) -> TarEntry | None:
        self._serial += 1
        entry = TarEntry(self, self._serial)
        extension: Extension | None = None
        while (block := self._next_block()) is not None:
            parse_header(block, entry)
            flag = entry.flag
            if flag in b"xgLK":
                extension = self._read_extension(entry, extension)
                continue
            if extension is not None:
                extension.apply(entry)
            # Before POSIX a directory was a file whose name ends with a slash.
            if flag == 0 and entry.path.endswith(b"/"):
                flag = entry.flag = ord("5")
            kind = TYPES.get(flag)
            if kind is None:
                shown = chr(flag) if 32 < flag < 127 else f"\\x{flag:02x}"
                raise TarProblem(f"has a member of the unsupported type '{shown}'")
            entry.type = kind
            if flag in HEADER_ONLY:
                entry.size = 0
            else:
                self._left = entry.size
                self._padding = -entry.size % BLOCK
            if flag == ord("S") or (extension is not None and extension.sparse is not None):
                entry._segments = self._segments(block, entry, extension)
            self._taken = False
            return entry
        if extension is not None and not self._ended:
            raise TarProblem("is truncated")
        return None  # what extension headers say of no member is nothing

    def _read_extension(self, fields: Fields, extension: Extension | None) -> Extension | None:
        """What is known of the next member, with what this header's data adds."""
        limit = MAX_NAME_BYTES if fields.flag in b"LK" else MAX_EXTENSION_BYTES
        if fields.size > limit:
            raise TarProblem(f"has an extension header of {fields.size} bytes; at most {limit} are accepted")
        data = self._exactly(fields.size)
        self._padding = -fields.size % BLOCK
        if fields.flag == ord("g"):
            parse_pax(data)
            return extension
        extension = extension or Extension()
        if fields.flag == ord("x"):
            extension.pax = parse_pax(data)
        elif fields.flag == ord("L"):
            extension.path = data.partition(b"\0")[0]
        else:
            extension.link = data.partition(b"\0")[0]
        return extension

    def _segments(self, block: bytes, fields: Fields, extension: Extension | None) -> Segments | None:
        """Where a sparse file's data lies, as (offset, length), or None.

        Sets ``fields.size`` to the file's.
        """
        if fields.flag == ord("S"):
            table = [block[386:482]]
            extended = block[482]
            while extended:
                if len(table) > _MAX_SPARSE_BLOCKS:
                    raise TarProblem("has a sparse file with too many pieces")
                more = self._exactly(BLOCK)
                table.append(more[:504])
                extended = more[504]
            segments, fields.size = old_sparse_segments(table, block)
        elif extension is not None and extension.sparse is not None and fields.flag not in HEADER_ONLY:
            version, fields.size, inline = extension.sparse
            segments = sparse_map_segments(inline if version == 0 else self._sparse_map())
        else:
            return None
        return check_segments(segments, fields.size, self._left)

    def _sparse_map(self) -> list[int]:
        """The numbers before a GNU 1.0 sparse file's data: a count, then pairs, padded to a block."""
        text = b""
        lines = 0
        wanted = 1
        while lines < wanted:
            if len(text) >= MAX_EXTENSION_BYTES or self._left < BLOCK:
                raise TarProblem("has a sparse file with a damaged map")
            piece = self._exactly(BLOCK)
            self._left -= BLOCK
            text += piece
            lines += piece.count(b"\n")
            if wanted == 1 and lines:
                count = text.partition(b"\n")[0]
                if not count.isdigit() or len(count) > 6:
                    raise TarProblem("has a sparse file with a damaged map")
                wanted = 1 + 2 * int(count)
        numbers = text.split(b"\n")[1:wanted]
        if not all(number.isdigit() and len(number) < 20 for number in numbers):
            raise TarProblem("has a sparse file with a damaged map")
        return [int(number) for number in numbers]

    def _fill(self) -> bool:
        self._buffer = self._source.read(CHUNK_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._fetched += len(self._buffer)
        return bool(self._buffer)

    def _next_block(self) -> bytes | None:
        """The header block behind what is left of the current member, or None at the archive's end."""
        end = self._start + self._left + self._padding + BLOCK
        if end <= len(self._buffer):
            self._start = end - BLOCK
        else:
            self._skip(self._left)
            if not self._skip_padding():
                return None
        self._left = self._padding = 0
        return self._block()

    def _block(self) -> bytes | None:
        """The next header block, or None at the archive's end."""
        block = self._header_block()
        if block is None or block != _ZEROS:
            return block
        self._ended = True
        second = self._header_block()
        if second is not None and second != _ZEROS:
            raise TarProblem("has a damaged member header (a lone block of zeros)")
        return None

    def _header_block(self) -> bytes | None:
        start = self._start
        end = start + BLOCK
        if end <= len(self._buffer):
            self._start = end
            return self._buffer[start:end]
        if start == len(self._buffer) and not self._fill():
            return None
        return self._exactly(BLOCK)

    def _exactly(self, size: int) -> bytes:
        start = self._start
        if start + size <= len(self._buffer):
            self._start = start + size
            return self._buffer[start : start + size]
        return b"".join(bytes(chunk) for chunk in self._pieces(size))

    def _whole(self, size: int) -> memoryview | None:
        """All of the current member's content, if the buffer has it."""
        start, end = self._start, self._start + size
        if end > len(self._buffer):
            return None
        self._start = end
        self._left = 0
        return self._view[start:end]

    def _take(self, size: int) -> Iterator[memoryview]:
        """The next ``size`` bytes of the current member's content."""
        serial = self._serial
        for piece in self._pieces(size):
            self._left -= len(piece)
            yield piece
            if serial != self._serial:
                raise RuntimeError("the tar reader has moved on from this entry")

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            if self._start == len(self._buffer) and not self._fill():
                # Reached from copy_to and chunks too, outside the iterator that turns problems into errors.
                raise InvalidImageError(f"{self._what} is truncated")
            step = min(size, len(self._buffer) - self._start)
            piece = self._view[self._start : self._start + step]
            self._start += step
            size -= step
            yield piece

    def _skip_padding(self) -> bool:
        """Pass over what fills the last block; False where the stream ends in it.

        Writers that were never closed leave it out after the last member (umoci insert), and Go reads that.
        """
        left = self._padding
        while left:
            if self._start == len(self._buffer) and not self._fill():
                return False
            step = min(left, len(self._buffer) - self._start)
            self._start += step
            left -= step
        return True

    def _skip(self, size: int) -> None:
        rest = len(self._buffer) - self._start
        if size <= rest:
            self._start += size
            return
        if self._source_skip is None:
            for _ in self._pieces(size):
                pass
            return
        self._start = len(self._buffer)
        skipped = self._source_skip(size - rest)
        self._fetched += skipped
        if skipped != size - rest:
            raise TarProblem("is truncated")
