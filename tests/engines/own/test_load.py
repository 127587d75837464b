"""The images of an archive under their names, each manifest once."""

from __future__ import annotations

import pytest

from msb_cache import (
    ImageCache,
    InvalidConfigError,
    InvalidImageError,
)
from tests.examples import ONE, TWO, archive
from tests.imagebuilder import file, image, layer


def test_one_name_for_two_images_goes_to_the_last(cache: ImageCache) -> None:
    cache.load(archive(ONE, image(TWO.layers, "one:1", "two:1")))
    assert cache.get("one:1").manifest_digest == cache.get("two:1").manifest_digest


def test_an_archive_without_a_name_needs_a_tag(cache: ImageCache) -> None:
    unnamed = image(ONE.layers)
    with pytest.raises(InvalidImageError, match="give one with --tag"):
        cache.load(archive(unnamed))
    assert cache.load(archive(unnamed), tag="x:1")[0].reference == "x:1"


def test_only_one_manifest(cache: ImageCache) -> None:
    two = image(TWO.layers, "two:1", "two:2")
    cache.load(archive(ONE, two), digest=two.digest)
    assert {each.reference for each in cache.list()} == {"two:1", "two:2"}
    cache.load(archive(ONE, two), digest=ONE.digest, tag=["mine:1", "two:2"])
    assert {each.reference: each.manifest_digest for each in cache.list()} == {
        "two:1": two.digest,
        "two:2": ONE.digest,
        "mine:1": ONE.digest,
    }
    many = [image([layer([file(str(number), b"")])], f"many:{number}") for number in range(7)]
    with pytest.raises(
        InvalidImageError, match=rf"has no manifest {ONE.digest}; it has (.+, ){{4}}.+ and 2 more"
    ):
        cache.load(archive(*many), digest=ONE.digest)
    with pytest.raises(InvalidConfigError, match="'x' is not a digest"):
        cache.load(archive(ONE), digest="x")
