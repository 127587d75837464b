"""The fs-verity digest, against the definition of its tree and against Debian's fsverity."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from msb_cache.artifacts import verity

SIZES = (0, 1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 129 * 4096, 128 * 128 * 4096 + 5)


def measured(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return verity.digest_of(descriptor)
    finally:
        os.close(descriptor)


def written(path: Path, size: int, *, sparse: bool) -> Path:
    """Write random bytes, and between them holes of several blocks if it is to be sparse."""
    numbers = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        step = 300_000 if sparse else 100_000
        for offset in range(0, size, step):
            file.seek(offset)
            file.write(numbers.randbytes(min(100_000, size - offset)))
    return path


def hashes(data: bytes) -> list[bytes]:
    return [sha256(data[at : at + 4096].ljust(4096, b"\0")).digest() for at in range(0, len(data), 4096)]


@pytest.mark.parametrize("size", SIZES)
def test_the_tree(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "file", size, sparse=False)
    data = path.read_bytes()
    level = hashes(data)
    while len(level) > 1:
        level = hashes(b"".join(level))
    root = level[0] if level else bytes(32)
    descriptor = bytes([1, 1, 12, 0, 0, 0, 0, 0]) + size.to_bytes(8, "little") + root + bytes(32 + 32 + 144)
    assert len(descriptor) == 256
    assert measured(path) == f"sha256:{sha256(descriptor).hexdigest()}"


@pytest.mark.parametrize("size", SIZES)
def test_holes_are_zeros(tmp_path: Path, size: int) -> None:
    sparse = written(tmp_path / "sparse", size, sparse=True)
    (tmp_path / "dense").write_bytes(sparse.read_bytes())
    assert measured(sparse) == measured(tmp_path / "dense")


def test_progress_tells_every_block(tmp_path: Path) -> None:
    told: list[int] = []
    path = written(tmp_path / "file", 5_000_000, sparse=True)
    descriptor = os.open(path, os.O_RDONLY)
    verity.digest_of(descriptor, told.append)
    os.close(descriptor)
    assert 0 <= sum(told) - 5_000_000 < verity.BLOCK


def test_every_byte_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "file", 9_000, sparse=False)
    before = measured(path)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 1
        path.write_bytes(data)
        assert measured(path) != before
        data[at] ^= 1
    path.write_bytes(bytes(data) + b"\0")
    assert measured(path) != before  # a zero more is the same last block, and another size


@pytest.mark.parametrize("size", SIZES)
def test_as_fsverity_says(tmp_path: Path, require_peer: Callable[[str], str], size: int) -> None:
    path = written(tmp_path / "file", size, sparse=True)
    done = subprocess.run(
        [require_peer("fsverity"), "digest", "--compact", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert measured(path) == f"sha256:{done.stdout.strip()}"
