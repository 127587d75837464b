"""Sniffing and streaming decompression with bounded memory and bounded output. Not for compressing.

Memory stays at a few chunks however hostile the input: no call decompresses more than CHUNK_BYTES, zstd
windows are limited, and so is what a stream may expand to.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable
from typing import Any, Protocol

from msb_cache.errors import InvalidImageError
from msb_cache.oci.layer.zstd import zstd

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
_FIRST_PIECE_BYTES = 4 << 10

#: Bytes that one stream may expand to. The largest layers in use (models, disk images) are tens of GB.
MAX_OUTPUT_BYTES = 512 << 30
#: Below this any ratio is accepted: ten gigabytes of zeros are an ordinary file to zstd (30,000:1).
FREE_OUTPUT_BYTES = 8 << 30
#: Above it, bytes out for each byte in. Deflate cannot exceed 1,032:1, so no gzip layer is ever refused.
MAX_RATIO = 2048
#: zstd --ultra --long=27 and RFC 8878's recommendation for general decoders (8 MiB) lie below.
MAX_ZSTD_WINDOW_LOG = 27  # 128 MiB
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
        stream = _Whole(counted, _new_zstd, what)
    elif compression == "bzip2":
        stream = _Whole(counted, bz2.BZ2Decompressor, what)
    elif compression == "xz":
        stream = _Xz(counted, _new_xz, what)
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
        except (deflate.error, zstd.ZstdError, lzma.LZMAError, EOFError, OSError, MemoryError) as error:
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


class _Decoder(Protocol):
    """One stream's decoder, as the standard library has them for bzip2, xz and zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def _new_zstd() -> _Decoder:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG})


def _new_xz() -> _Decoder:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY_BYTES)


class _Pieces:
    """What decoders are given of a source: little at the beginning of each stream, then more and more.

    A decoder copies what it is given beyond the end of its stream. There may be thousands of tiny ones.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._data = b""
        self._position = 0
        self._next = _FIRST_PIECE_BYTES

    def take(self) -> bytes:
        """Return some bytes, and none only at the end."""
        if self._position == len(self._data):
            self._data, self._position = self._source.read(_INPUT_BYTES), 0
        piece = self._data[self._position : self._position + self._next]
        self._position += len(piece)
        self._next = min(2 * self._next, _INPUT_BYTES)
        return piece

    def back(self, count: int) -> None:
        """Take back so many bytes of the last piece: they belong to the next stream."""
        self._position -= count
        self._next = _FIRST_PIECE_BYTES


class _Whole:
    """Streams of bzip2 or xz, or frames of zstd, one after another."""

    def __init__(self, source: ByteSource, new: Callable[[], _Decoder], what: str) -> None:
        self._pieces = _Pieces(source)
        self._new = new
        self._what = what
        self._decoder = new()

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder.eof:
                self._pieces.back(len(self._decoder.unused_data))
                data = self._following()
                if not data:
                    return b""
                self._decoder = self._new()
            else:
                data = self._pieces.take() if self._decoder.needs_input else b""
                if not data and self._decoder.needs_input:
                    raise InvalidImageError(f"{self._what} is truncated")
            if produced := self._decoder.decompress(data, size):
                return produced

    def _following(self) -> bytes:
        """Return the beginning of the next stream; no bytes: there is none."""
        return self._pieces.take()


class _Xz(_Whole):
    """Streams of xz, behind each of which zeros may stand."""

    def _following(self) -> bytes:
        while data := self._pieces.take():
            if rest := data.lstrip(b"\0"):
                return rest
        return b""
