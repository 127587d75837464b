import bz2
import gzip
import io
import lzma
import os
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.errors import InvalidImageError
from msb_cache.oci.layer import compression
from msb_cache.oci.layer.compression import decompressed, sniff
from msb_cache.oci.layer.zstd import zstd

SAMPLE = random.Random(1).randbytes(200_000) + bytes(300_000) + b"text " * 10_000
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


class Dribble(io.RawIOBase):
    """Yields at most ``step`` bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, step: int) -> None:
        self._source, self._step = io.BytesIO(data), step

    def read(self, size: int = -1) -> bytes:
        return self._source.read(min(size, self._step))


def drain(data: bytes, name: str, *, step: int = 1 << 30, limit: int = 1 << 30) -> bytes:
    stream = decompressed(Dribble(data, step), name, "the blob", limit=limit)
    found = b""
    while chunk := stream.read(1 << 20):
        assert len(chunk) <= 1 << 20
        found += chunk
    assert stream.read(1) == b""
    return found


@pytest.mark.parametrize("name", COMPRESSORS)
def test_round_trip(name: str) -> None:
    data = COMPRESSORS[name](SAMPLE)
    assert sniff(data[: compression.MAGIC_BYTES]) == name
    assert drain(data, name) == SAMPLE
    assert drain(data, name, step=7) == SAMPLE
    assert drain(COMPRESSORS[name](b""), name) == b""


def test_plain_is_passed_through() -> None:
    assert sniff(b"") == sniff(b"hello/") == "none"
    assert drain(b"hello", "none") == b"hello"


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("step", [1 << 30, 1])
def test_concatenated_streams_are_one(name: str, step: int) -> None:
    compress = COMPRESSORS[name]
    data = compress(b"one ") + compress(b"") + compress(b"two") + compress(b"")
    assert drain(data, name, step=step) == b"one two"


@pytest.mark.parametrize("name", COMPRESSORS)
def test_small_streams_follow_a_large_one(name: str) -> None:
    compress = COMPRESSORS[name]
    large = random.Random(2).randbytes(1_200_000)
    small = [bytes([number % 256]) * (number % 3) for number in range(300)]
    data = compress(large) + b"".join(compress(content) for content in small) + compress(large)
    assert drain(data, name) == large + b"".join(small) + large


@pytest.mark.parametrize("padding", [4, 4096, 1 << 20])
def test_xz_may_be_padded_with_zeros(padding: int) -> None:
    data = lzma.compress(b"one ") + bytes(padding) + lzma.compress(b"two") + bytes(padding)
    for step in (3, 1 << 20):
        assert drain(data, "xz", step=step) == b"one two"


@pytest.mark.parametrize("name", COMPRESSORS)
def test_truncated_anywhere(name: str) -> None:
    data = COMPRESSORS[name](b"some content " * 20)
    for end in range(1, len(data)):
        with pytest.raises(InvalidImageError, match="the blob is truncated"):
            drain(data[:end], name)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_damaged(name: str) -> None:
    data = bytearray(COMPRESSORS[name](SAMPLE))
    for position in range(len(data) // 3, len(data), len(data) // 7):
        damaged = data.copy()
        damaged[position] ^= 0x55
        with pytest.raises(InvalidImageError, match="the blob is"):
            drain(bytes(damaged), name)


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("garbage", [b"garbage", b"x", b"\x1f", b"(", b"\0\0\0x"])
def test_garbage_at_the_end(name: str, garbage: bytes) -> None:
    with pytest.raises(InvalidImageError):
        drain(COMPRESSORS[name](b"content") + garbage, name)


def test_gzip_may_be_padded_with_zeros() -> None:
    assert drain(gzip.compress(b"content") + bytes(1000), "gzip", step=100) == b"content"
    with pytest.raises(InvalidImageError, match="unknown bytes after its end"):
        drain(gzip.compress(b"a") + bytes(1000) + gzip.compress(b"b"), "gzip")


def test_zstd_frames_of_every_kind() -> None:
    compressor = zstd.ZstdCompressor()
    streamed = b"".join(
        compressor.compress(SAMPLE[start : start + 10_000], mode=compressor.FLUSH_BLOCK)
        for start in range(0, len(SAMPLE), 10_000)
    )
    streamed += compressor.flush()
    skippable = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00hello"
    incompressible = os.urandom(300_000)
    data = skippable + streamed + skippable + COMPRESSORS["zstd"](incompressible) + skippable
    assert sniff(data[:6]) == "zstd"
    for step in (5, 1 << 20):
        assert drain(data, "zstd", step=step) == SAMPLE + incompressible


@pytest.mark.parametrize(("window_log", "accepted"), [(27, True), (28, False), (41, False)])
def test_zstd_windows_are_bounded(window_log: int, accepted: bool) -> None:
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    frame += (1 | 5 << 3).to_bytes(3, "little") + b"hello"
    if accepted:
        assert drain(frame, "zstd") == b"hello"
        return
    with pytest.raises(InvalidImageError, match="damaged"):
        drain(frame, "zstd")


@pytest.mark.parametrize("name", COMPRESSORS)
def test_output_is_limited(name: str) -> None:
    data = COMPRESSORS[name](bytes(50_000_000))
    with pytest.raises(InvalidImageError, match="expands to more than 10000000 bytes"):
        drain(data, name, limit=10_000_000)


def test_ratio_is_limited_only_beyond_the_free_part(monkeypatch: pytest.MonkeyPatch) -> None:
    data = COMPRESSORS["zstd"](bytes(50_000_000))
    assert len(drain(data, "zstd")) == 50_000_000
    monkeypatch.setattr(compression, "FREE_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(InvalidImageError, match="expands more than 2048 times"):
        drain(data, "zstd")
    # Deflate's best is 1,032:1, so the ratio never refuses gzip.
    assert len(drain(gzip.compress(bytes(50_000_000), 9), "gzip")) == 50_000_000


@settings(max_examples=50)
@given(st.sampled_from(sorted(COMPRESSORS)), st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_read_or_refused(name: str, tail: bytes, step: int) -> None:
    heads = {
        "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
        "zstd": b"\x28\xb5\x2f\xfd",
        "bzip2": b"BZh9",
        "xz": b"\xfd7zXZ\0",
    }
    for data in (heads[name] + tail, COMPRESSORS[name](b"x" * 100)[:-3] + tail):
        try:
            drain(data, name, step=step, limit=1 << 24)
        except InvalidImageError:
            pass


def test_errors_of_the_source_are_not_hidden() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    for name in COMPRESSORS:
        with pytest.raises(OSError, match="Input/output error"):
            decompressed(Broken(), name, "the blob").read(10)


def test_deflate_is_really_bounded_by_the_ratio() -> None:
    assert 50_000_000 / len(zlib.compress(bytes(50_000_000), 9)) < 1033
