"""Homes by their ids, and what of them is told."""

from __future__ import annotations

import pytest

from msb_cache.web.problems import RefusedError
from msb_cache.web.site import ids_of
from tests.web.client import Client


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["/home/alice/.microsandbox"], ["microsandbox"]),
        (["/a/.microsandbox", "/b/.microsandbox", "/c/ci"], ["microsandbox", "microsandbox-2", "ci"]),
        (["/a/x-2", "/b/x", "/c/x"], ["x-2", "x", "x-3"]),
        (["/"], ["home"]),
        (["/a/ö b<script>\x1b&x=1\udcff"], ["-b-script-x-1-"]),
        (["/a/" + "x" * 200], ["x" * 40]),
    ],
)
def test_ids_are_short_plain_and_different(paths: list[str], ids: list[str]) -> None:
    assert ids_of(paths) == ids


def test_without_an_id_the_first_home_is_meant(client: Client) -> None:
    site = client.app.state.site  # type: ignore[attr-defined]
    assert site.home(None) == site.home("home") == ("home", site.homes["home"])
    with pytest.raises(RefusedError, match="did you mean home"):
        site.home("hom")
