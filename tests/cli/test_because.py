"""Why an image goes or stays: the times in it are those of the tables."""

from __future__ import annotations

from msb_cache.cli.because import Reason, because
from msb_cache.cli.look import absolute


def test_a_time_is_as_in_a_table() -> None:
    said = because(Reason(False, "pinned", by=("alice",), until_ns=0), {})
    assert said == f"pinned by alice until {absolute(0)}"
