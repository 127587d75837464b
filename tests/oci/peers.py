"""Finding the programs that peer tests compare with. Not for running them."""

from __future__ import annotations

import os
import shutil

import pytest


def need(program: str) -> str:
    """The path of a peer, else skip; with MSB_CACHE_REQUIRE_PEERS=1 its absence is a failure."""
    chosen = os.environ.get("MSB_CACHE_TEST_MSB") if program == "msb" else None
    found = shutil.which(chosen or program)
    if found is not None:
        return found
    if os.environ.get("MSB_CACHE_REQUIRE_PEERS") == "1":
        pytest.fail(f"{program} is needed but not installed")
    pytest.skip(f"{program} is not installed")
