"""The images of an archive under their names, each manifest once."""

from __future__ import annotations

import pytest

from msb_cache import (
    ImageCache,
    InvalidImageError,
)
from tests.examples import ONE, TWO, archive
from tests.imagebuilder import image


def test_one_name_for_two_images_goes_to_the_last(cache: ImageCache) -> None:
    cache.load(archive(ONE, image(TWO.layers, "one:1", "two:1")))
    assert cache.get("one:1").manifest_digest == cache.get("two:1").manifest_digest


def test_an_archive_without_a_name_needs_a_tag(cache: ImageCache) -> None:
    unnamed = image(ONE.layers)
    with pytest.raises(InvalidImageError, match="give one with --tag"):
        cache.load(archive(unnamed))
    assert cache.load(archive(unnamed), tag="x:1")[0].reference == "x:1"
