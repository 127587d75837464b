import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.artifacts.gather import GatheringWriter

# Bytes between two pieces, bytes of a piece, and whether it is of the same object as the last one.
pieces = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 4095, 4096, 9000]), st.sampled_from([0, 1, 511, 4096, 70_000]), st.booleans()
    ),
    max_size=60,
)


@given(pieces)
def test_the_file_holds_what_was_put(steps: list[tuple[int, int, bool]]) -> None:
    expected = bytearray()
    source = os.urandom(1 << 17)
    fd = os.memfd_create("gathered")
    try:
        writer = GatheringWriter(fd)
        for gap, length, same in steps:
            if not same:
                source = os.urandom(1 << 17)
            piece = memoryview(source)[:length]
            expected += bytes(gap)
            writer.put(piece, len(expected))
            expected += piece
        writer.flush()
        found = os.pread(fd, len(expected) + 1, 0)
    finally:
        os.close(fd)
    # A gap at the end, before an empty piece, is no part of the file.
    assert found.ljust(len(expected), b"\0") == expected


def test_more_pieces_than_one_call_takes(tmp_path: Path) -> None:
    source = os.urandom(5000)
    with (tmp_path / "out").open("w+b") as out:
        writer = GatheringWriter(out.fileno())
        for at in range(5000):
            writer.put(memoryview(source)[at : at + 1], at)
        writer.flush()
        assert out.read() == source


def test_what_the_system_wrote_only_in_part_is_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        return real(fd, [b"".join(buffers)[:7]], offset)

    monkeypatch.setattr("msb_cache.artifacts.gather.os.pwritev", short)
    source = os.urandom(1000)
    with (tmp_path / "out").open("w+b") as out:
        writer = GatheringWriter(out.fileno())
        for start, end in ((0, 3), (3, 3), (3, 10), (10, 700), (700, 1000)):
            writer.put(memoryview(source)[start:end], start)
        writer.flush()
        assert out.read() == source


def test_large_holes_take_no_space_and_little_is_held_back(tmp_path: Path) -> None:
    source = bytes(range(256)) * 4096
    with (tmp_path / "out").open("w+b") as out:
        writer = GatheringWriter(out.fileno())
        for at in (0, 50 << 20, 100 << 20):
            writer.put(memoryview(source), at)
        assert os.fstat(out.fileno()).st_size == (50 << 20) + len(source)
        writer.flush()
        assert os.fstat(out.fileno()).st_blocks * 512 < 8 << 20
        out.seek(100 << 20)
        assert out.read() == source


def test_it_says_up_to_where_it_is_written(tmp_path: Path) -> None:
    ends: list[int] = []
    with (tmp_path / "out").open("w+b") as out:

        def written(end: int) -> None:
            assert os.fstat(out.fileno()).st_size == end
            ends.append(end)

        writer = GatheringWriter(out.fileno(), written)
        for at in range(0, 3 << 20, 1 << 19):
            writer.put(memoryview(os.urandom(1 << 19)), at)
        writer.flush()
    assert ends == sorted(ends)
    assert ends[-1] == 3 << 20
