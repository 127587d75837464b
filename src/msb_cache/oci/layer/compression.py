"""Sniffing and streaming decompression with bounded memory and bounded output. Not for compressing.

Memory stays at a few chunks however hostile the input: no call decompresses more than CHUNK_BYTES, zstd
windows are limited, and so is what a stream may expand to.
"""

from __future__ import annotations

import bz2
import lzma
from typing import IO, Any, Protocol, cast

import zstandard

from msb_cache.errors import InvalidImageError

deflate: Any  # isal's stubs call its exception an instance
try:  # inflating is most of a pull's work, and ISA-L does it in less than half of zlib's time
    from isal import isal_zlib

    deflate = isal_zlib
except ImportError:  # a processor it is not made for; the same interface, and the same bytes
    import zlib

    deflate = zlib

CHUNK_BYTES = 1 << 20
#: With less, threads take turns more often, and each turn is a wait for the interpreter lock.
_INPUT_BYTES = 512 << 10

#: Bytes that one stream may expand to. The largest layers in use (models, disk images) are tens of GB.
MAX_OUTPUT_BYTES = 512 << 30
#: Below this any ratio is accepted: ten gigabytes of zeros are an ordinary file to zstd (30,000:1).
FREE_OUTPUT_BYTES = 8 << 30
#: Above it, bytes out for each byte in. Deflate cannot exceed 1,032:1, so no gzip layer is ever refused.
MAX_RATIO = 2048
#: zstd --ultra --long=27 and RFC 8878's recommendation for general decoders (8 MiB) lie below.
MAX_ZSTD_WINDOW_BYTES = 128 << 20
#: xz -9 needs 65 MiB.
MAX_XZ_MEMORY_BYTES = 256 << 20

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
MAGIC_BYTES = 6
LAYER_COMPRESSIONS = frozenset({"none", "gzip", "zstd"})


class ByteSource(Protocol):
    """Anything that yields bytes once, in order."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, and none only at the end."""


def sniff(head: bytes) -> str:
    """The compression that a stream's first MAGIC_BYTES bytes show: one of the names below, else ``none``.

    ``gzip``, ``zstd``, ``bzip2``, ``xz``. A zstd stream may also begin with a skippable frame (RFC 8878,
    3.1.2).
    """
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return name
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return "none"


def decompressed(
    source: ByteSource, compression: str, what: str, *, limit: int = MAX_OUTPUT_BYTES
) -> ByteSource:
    """A stream of what ``source`` holds compressed; reading it raises InvalidImageError naming ``what``.

    ``limit`` is in bytes of output. Concatenated gzip members and zstd frames are one stream; zero bytes may
    follow gzip, any other trailing bytes are refused.
    """
    if compression == "none":
        return source
    counted = _Counted(source)
    stream: ByteSource
    if compression == "gzip":
        stream = _Gzip(counted, what)
    elif compression == "zstd":
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        frames = cast("IO[bytes]", _ZstdFrames(counted, what))  # only its read is used
        stream = decoder.stream_reader(frames, read_size=_INPUT_BYTES, read_across_frames=True)
    elif compression in ("bzip2", "xz"):
        stream = _Whole(counted, compression, what)
    else:
        raise ValueError(compression)
    return _Limited(stream, counted, what, limit)


class _Counted:
    """Counts the compressed bytes taken from a source."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.count = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        return data


class _Limited:
    """The outermost stream: turns every decoder's errors into ours and stops bombs."""

    def __init__(self, stream: ByteSource, counted: _Counted, what: str, limit: int) -> None:
        self._stream = stream
        self._counted = counted
        self._what = what
        self._limit = limit
        self._total = 0

    def read(self, size: int, /) -> bytes:
        try:
            data = self._stream.read(min(size, CHUNK_BYTES))
        except (deflate.error, zstandard.ZstdError, lzma.LZMAError, EOFError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, not the decoder's
            raise InvalidImageError(f"{self._what} is damaged: {error}") from None
        self._total += len(data)
        if self._total > self._limit:
            raise InvalidImageError(f"{self._what} expands to more than {self._limit} bytes")
        if self._total > FREE_OUTPUT_BYTES and self._total > MAX_RATIO * self._counted.count:
            raise InvalidImageError(
                f"{self._what} expands more than {MAX_RATIO} times, beyond {FREE_OUTPUT_BYTES >> 30} GiB"
            )
        return data


class _Gzip:
    """Members of RFC 1952, one after another."""

    def __init__(self, source: ByteSource, what: str) -> None:
        self._source = source
        self._what = what
        self._decoder = deflate.decompressobj(wbits=31)
        self._pending = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder.eof and not self._next_member():
                return b""
            data = self._pending or self._source.read(_INPUT_BYTES)
            if not data:
                raise InvalidImageError(f"{self._what} is truncated")
            produced: bytes = self._decoder.decompress(data, size)
            self._pending = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            if produced:
                return produced

    def _next_member(self) -> bool:
        while not self._pending:
            self._pending = self._source.read(_INPUT_BYTES)
            if not self._pending:
                return False
        if self._pending[0] == 0:  # tape blocking and gzip -S pad with zeros to the end, as GNU gzip accepts
            while self._pending:
                if self._pending.strip(b"\0"):
                    raise InvalidImageError(f"{self._what} has unknown bytes after its end")
                self._pending = self._source.read(_INPUT_BYTES)
            return False
        head = self._pending[:2] if len(self._pending) > 1 else self._pending + self._source.read(1)
        if head != b"\x1f\x8b":
            raise InvalidImageError(f"{self._what} has unknown bytes after its end")
        self._pending = head + self._pending[2:]
        self._decoder = deflate.decompressobj(wbits=31)
        return True


class _Whole:
    """bzip2 and xz streams, one after another; docker load accepts both around a whole archive."""

    def __init__(self, source: ByteSource, compression: str, what: str) -> None:
        self._source = source
        self._xz = compression == "xz"
        self._what = what
        self._decoder = self._new()
        self._pending = b""

    def _new(self) -> bz2.BZ2Decompressor | lzma.LZMADecompressor:
        if self._xz:
            return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY_BYTES)
        return bz2.BZ2Decompressor()

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._source.read(_INPUT_BYTES)
                while self._xz and rest and not rest.strip(b"\0"):  # stream padding
                    rest = self._source.read(_INPUT_BYTES)
                if not rest:
                    return b""
                self._decoder = self._new()
                self._pending = rest.lstrip(b"\0") if self._xz else rest
            data, self._pending = self._pending, b""
            if not data and self._decoder.needs_input:
                data = self._source.read(_INPUT_BYTES)
                if not data:
                    raise InvalidImageError(f"{self._what} is truncated")
            produced = self._decoder.decompress(data, size)
            if produced:
                return produced


class _ZstdFrames:
    """Passes zstd frames through and follows their block structure (RFC 8878, 3.1).

    The library's streaming reader, the one way to bound its output, ends silently where the input does. So
    the frame and block headers are walked here: an end inside a frame is a truncation, and unknown bytes
    between frames are refused.
    """

    def __init__(self, source: ByteSource, what: str) -> None:
        self._source = source
        self._what = what
        self._head = bytearray()  # an unfinished header
        self._skip = 0  # bytes until the next header
        self._state = "magic"
        self._checksum = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(_INPUT_BYTES if size < 0 else size)
        if data:
            self._follow(data)
        elif self._state != "magic" or self._head or self._skip:
            raise InvalidImageError(f"{self._what} is truncated")
        return data

    def _follow(self, data: bytes) -> None:
        position, end = 0, len(data)
        while True:
            step = min(self._skip, end - position)
            self._skip -= step
            position += step
            if self._skip or position == end:
                return
            wanted = self._wanted()
            taken = data[position : position + wanted - len(self._head)]
            self._head += taken
            position += len(taken)
            if len(self._head) == self._wanted():
                self._header(bytes(self._head))

    def _wanted(self) -> int:
        """Length of the header being collected; a frame's is known from its descriptor byte on."""
        if self._state == "magic":
            skippable = len(self._head) >= 4 and self._head[1:4] == b"\x2a\x4d\x18"
            return 8 if skippable else 5
        return 3

    def _header(self, head: bytes) -> None:
        self._head.clear()
        if self._state == "magic":
            self._frame_header(head)
            return
        value = int.from_bytes(head, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        self._skip = 1 if kind == 1 else size  # a run-length block stores one byte
        if last:
            self._skip += self._checksum
            self._state = "magic"

    def _frame_header(self, head: bytes) -> None:
        if len(head) == 8 and head[0] & 0xF0 == 0x50:
            self._skip = int.from_bytes(head[4:], "little")
            return
        if head[:4] != b"\x28\xb5\x2f\xfd":
            raise InvalidImageError(f"{self._what} has unknown bytes after its end")
        descriptor = head[4]
        single = descriptor >> 5 & 1
        content_size = (single, 2, 4, 8)[descriptor >> 6]
        self._skip = (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + content_size
        self._checksum = 4 if descriptor & 4 else 0
        self._state = "block"
