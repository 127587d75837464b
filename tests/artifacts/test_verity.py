from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EINVAL, ELOOP, ENOENT
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.artifacts import verity
from msb_cache.artifacts.verity import PlainReader, Reader, Tree, digest_of

BLOCK = 4096


def expected(data: bytes) -> str:
    """The digest by the format's words, all of the tree at once."""

    def level(of: bytes) -> bytes:
        blocks = (of[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(of), BLOCK))
        return b"".join(hashlib.sha256(block).digest() for block in blocks)

    root = level(data) if data else bytes(32)
    while len(root) > 32:
        root = level(root)
    descriptor = struct.pack("<BBBBIQ", 1, 1, 12, 0, 0, len(data)) + root.ljust(64, b"\0")
    return f"sha256:{hashlib.sha256(descriptor + bytes(256 - len(descriptor))).hexdigest()}"


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("file")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


# Around the ends of blocks, and of what one block of hashes covers.
LENGTHS = [0, 1, 4095, 4096, 4097, 8192, 127 * BLOCK, 128 * BLOCK, 128 * BLOCK + 1, 129 * BLOCK, 256 * BLOCK]


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length: int) -> None:
    data = os.urandom(length)
    with opened(data) as fd:
        assert digest_of(fd) == expected(data)
        assert digest_of(fd, "sha256") == f"sha256:{hashlib.sha256(data).hexdigest()}"


# Where bytes lie in a file of holes, and up to where it is read on the way.
scattered = st.lists(st.tuples(st.integers(0, 3 << 20), st.binary(min_size=1, max_size=9000)), max_size=6)


@given(scattered, st.integers(0, 3 << 20), st.lists(st.integers(0, 4 << 20), max_size=5))
def test_holes_and_what_is_read_on_the_way(
    parts: list[tuple[int, bytes]], length: int, stops: list[int]
) -> None:
    with opened(b"") as fd:
        os.truncate(fd, length)
        for at, data in parts:
            os.pwrite(fd, data, at)
        size = os.fstat(fd).st_size
        whole = os.pread(fd, size, 0)
        for reader, digest in (
            (Reader(fd), expected(whole)),
            (PlainReader(fd), f"sha256:{hashlib.sha256(whole).hexdigest()}"),
        ):
            for stop in sorted(stops):
                reader.read_to(min(stop, size))
            assert reader.digest() == digest


@given(st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=5))
def test_zeros_are_counted_and_not_hashed(runs: list[tuple[int, bool]]) -> None:
    zeros, other = hashlib.sha256(bytes(BLOCK)).digest(), hashlib.sha256(b"x" * BLOCK).digest()
    one, all_ = Tree(), Tree()
    count = 1
    for length, is_zeros in runs:
        count += length
        all_.add((zeros if is_zeros else other) * length)
        if is_zeros:
            one.add_zeros(length)
        else:
            one.add(other * length)
    assert one.digest(other, count * BLOCK) == all_.digest(other, count * BLOCK)


def test_a_hole_costs_no_memory(tmp_path: Path) -> None:
    """Hostile archives have such: each of its blocks would be a hash of 32 bytes, 8 GiB of them."""
    with (tmp_path / "hole").open("w+b") as file:
        file.truncate(1 << 40)
        found = digest_of(file.fileno())
    tree = Tree()
    tree.add_zeros((1 << 28) - 1)
    assert found == tree.digest(hashlib.sha256(bytes(BLOCK)).digest(), 1 << 40)


@pytest.mark.parametrize("length", [0, BLOCK, 2 * BLOCK])
def test_a_file_that_became_shorter(length: int) -> None:
    with opened(os.urandom(5 * BLOCK)) as fd:
        reader = Reader(fd)
        reader.read_to(4 * BLOCK)
        os.truncate(fd, length)
        with pytest.raises(OSError, match="the file became shorter"):
            reader.digest()


@pytest.mark.peer
@pytest.mark.parametrize("length", [*LENGTHS, 128 * 128 * BLOCK, 128 * 128 * BLOCK + 5, 128 * 129 * BLOCK])
def test_as_the_program_that_linux_has_for_it(
    length: int, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(min(length, 1 << 20)))
    os.truncate(path, length)
    done = subprocess.run(
        [require_peer("fsverity"), "digest", "--compact", path], capture_output=True, text=True, check=True
    )
    with path.open("rb") as file:
        assert digest_of(file.fileno()) == f"sha256:{done.stdout.strip()}"


def test_only_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    os.close(verity.open_plain(tmp_path / "file"))
    for name, error in (("link", ELOOP), ("pipe", EINVAL), (".", EINVAL), ("nothing", ENOENT)):
        with pytest.raises(OSError, match=name) as found:
            verity.open_plain(tmp_path / name)
        assert found.value.errno == error


def served(lines: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", verity.__file__], input=lines, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_as_a_program(tmp_path: Path) -> None:
    data = os.urandom(3 * BLOCK)
    path = tmp_path / "a file"
    path.write_bytes(data)
    name, none = os.fsencode(path).hex(), os.fsencode(tmp_path / "none").hex()
    assert served(f"fs-verity {name}\nsha256 {name}\nfs-verity {none}\n") == [
        expected(data),
        f"sha256:{hashlib.sha256(data).hexdigest()}",
        "2",
    ]
    followed = f"to {name} {2 * BLOCK}\nto {none} 1\nto {none} 2\nto {name} {3 * BLOCK}\n"
    assert served(f"{followed}end {none}\nend {name}\nfs-verity {name}\n") == [
        "2",
        expected(data),
        expected(data),
    ]


def test_the_program_needs_nothing_of_the_package() -> None:
    """It begins in a moment because of that."""
    program = f"import sys; sys.argv = ['']; exec(open({verity.__file__!r}).read(), {{'__name__': 'x'}}); "
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{program} print(*sys.modules)"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not {name for name in done.stdout.split() if name.startswith("msb_cache")}
