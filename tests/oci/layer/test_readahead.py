import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.oci.layer.readahead import ReadAhead


class Source:
    """Yields its chunks, then raises, if it has something to raise; counts the reads."""

    def __init__(self, chunks: list[bytes], failure: Exception | None = None) -> None:
        self.chunks, self.failure = list(chunks), failure
        self.reads = 0

    def read(self, size: int, /) -> bytes:
        self.reads += 1
        if self.chunks:
            return self.chunks.pop(0)
        if self.failure is not None:
            raise self.failure
        return b""


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.integers(1, 50))
def test_the_same_bytes_in_pieces_of_the_size_asked_for(chunks: list[bytes], size: int) -> None:
    ahead = ReadAhead(Source(chunks))
    try:
        found = []
        while piece := ahead.read(size):
            assert len(piece) <= size
            found.append(piece)
        assert ahead.read(size) == b""
    finally:
        ahead.close()
    assert b"".join(found) == b"".join(chunks)


def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    ahead = ReadAhead(Source([b"a", b"b"], OSError(5, "broken")))
    try:
        assert ahead.read(9) + ahead.read(9) == b"ab"
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                ahead.read(9)
    finally:
        ahead.close()


def test_it_reads_only_a_little_ahead_and_ends_its_thread() -> None:
    source = Source([b"x"] * 1000)
    before = threading.active_count()
    ahead = ReadAhead(source)
    assert (source.reads, threading.active_count()) == (0, before)
    assert ahead.read(1) == b"x"
    ahead.close()
    assert threading.active_count() == before
    assert 1 <= source.reads <= 6
    ahead.close()


def test_closing_waits_for_the_read_under_way() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        ended = False

        def read(self, size: int, /) -> bytes:
            begun.set()
            go_on.wait(10)
            self.ended = True
            return b"x"

    slow = Slow()
    ahead = ReadAhead(slow)
    reader = threading.Thread(target=ahead.read, args=(1,))
    reader.start()
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    ahead.close()
    assert slow.ended
    reader.join(10)
