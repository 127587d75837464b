"""How much what comes is expected to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.retention.coming import TELLING, Blob, Seen, Sizes, at_least, expected, staged
from msb_cache.retention.rules import Takes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("blobs", "compressed", "uncompressed", "cache"),
    [
        pytest.param([Blob(10 * MIB, True)], Seen(), Seen(), 30 * MIB, id="a home without layers"),
        pytest.param([Blob(10 * MIB, False)], Seen(), Seen(), 11 * MIB, id="of an uncompressed layer"),
        pytest.param(
            [Blob(10 * MIB, True)], Seen(TELLING - 1, 9 * TELLING), Seen(), 30 * MIB, id="too few to tell"
        ),
        pytest.param(
            [Blob(10 * MIB, True)], Seen(TELLING, 2 * TELLING), Seen(), 20 * MIB, id="enough to tell"
        ),
        pytest.param(
            [Blob(10 * MIB, True), Blob(10 * MIB, False)],
            Seen(TELLING, 2 * TELLING),
            Seen(TELLING, TELLING),
            30 * MIB,
            id="each kind by its own",
        ),
    ],
)
def test_layers(blobs: list[Blob], compressed: Seen, uncompressed: Seen, cache: int) -> None:
    found = expected(Sizes(tuple(blobs)), compressed, uncompressed)
    assert found == Takes(cache + cache // 100, cache + cache // 100, cache + cache // 100)


# What examples/build_image.py and debootstrap made here: bytes of the blobs, of the layers' images, and of
# what is merged of them.
REAL = {
    "python, uncompressed": (63_252_480, 64_434_176, 114_688, False),
    "python, gzip": (23_667_615, 64_434_176, 114_688, True),
    "python, zstd": (22_973_764, 64_434_176, 114_688, True),
    "debian, uncompressed": (122_545_152, 131_411_968, 753_664, False),
    "debian, gzip": (51_108_447, 131_411_968, 753_664, True),
    "debian, zstd": (39_803_626, 131_411_968, 753_664, True),
    "debian and python, uncompressed": (519_260_160, 542_662_656, 2_826_240, False),
}


@pytest.mark.parametrize("name", REAL)
def test_real_images_take_about_what_is_expected_in_a_home_without_layers(name: str) -> None:
    blobs, layers, merged, compressed = REAL[name]
    found = expected(Sizes((Blob(blobs, compressed),), images=1), Seen(), Seen()).cache
    assert 0.9 < found / (layers + merged) < 1.2


def test_what_is_there_beside() -> None:
    sizes = Sizes((Blob(100, True),), images=1, here=1000, replaced=50, beside=70, spooled=20)
    found = expected(sizes, Seen(), Seen())
    made = 300 + 1300 // 100 + 64 * 1024
    assert found == Takes(cache=made - 50, disk=made - 70, peak=made + 70)
    assert staged(sizes) == Takes(cache=-50, disk=-70, peak=0)


@given(st.integers(0, 100), st.integers(0, 100))
def test_what_was_too_little_is_at_least_doubled(first: int, free: int) -> None:
    found = at_least(Takes(first, first, first), free)
    assert found.peak >= 2 * free
    assert found.peak >= first
    assert found.cache == found.disk == found.peak
