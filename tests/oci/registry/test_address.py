"""What is a web address, and what is none."""

from __future__ import annotations

import pytest

from msb_cache.oci.registry.address import MOST_CHARACTERS, web_address


@pytest.mark.parametrize(
    "text", ["http://a", "https://a.example:443/b?c#d", "HTTP://[::1]:8/", "https://user:word@a/b"]
)
def test_it_is_one(text: str) -> None:
    found = web_address(text)
    assert found is not None
    assert found.geturl().lower() == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        *("", "a.example", "ftp://a", "http://", "http:///b", "http://:80/", "//a/b"),
        *("http://a:0/", "http://a:65536/", "http://a:b/", "http://[::1/", "http://[x]/"),
        *("http://ä/", "http://a/ b", "http://a/\n", "http://a/\x7f"),
        f"http://a/{'b' * MOST_CHARACTERS}",
    ],
)
def test_it_is_none(text: str) -> None:
    assert web_address(text) is None


def test_a_longer_one_is_none() -> None:
    assert web_address("http://a/", 9) is not None
    assert web_address("http://a/b", 9) is None
