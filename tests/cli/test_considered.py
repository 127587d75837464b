"""The images that a deletion considers, as a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from msb_cache.cli.considered import print_considered
from tests.logs import digest
from tests.verdicts import DAY, verdict

LONG = "registry.example.org/a/rather/long/name/of/an/image:2027-01-15"


IMAGES = (
    verdict(goes=False, rule="held", by=("sandbox:dev",), idle_ns=None, freed_bytes=0),
    verdict(spelling="docker.io/library/python:3.12"),
    verdict(reference=LONG, idle_ns=400 * DAY),
    verdict(reference=None),
)
POLICY = {"unused_for": "14d", "grace": "1h"}


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_considered(IMAGES, POLICY, err=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [" ".join(line.split()) for line in err.splitlines()]
    assert lines == [
        "IMAGE IDLE SIZE FREES BECAUSE",
        "python:3.12 KEEP - 4.9 KiB - held by sandbox:dev",
        "docker.io/library/python:3.12 DELETE 20 days 4.9 KiB 4.0 KiB idle 20 days, over 14d",
        f"{LONG} DELETE 400 days 4.9 KiB 4.0 KiB idle 400 days, over 14d",
        f"{digest(1)} DELETE 20 days 4.9 KiB 4.0 KiB idle 20 days, over 14d",
    ]


def test_on_a_narrow_terminal_nothing_is_cut(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int | None], None]
) -> None:
    terminal(80)
    print_considered(IMAGES, POLICY)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["IMAGE", "IDLE", "SIZE", "FREES"]
    assert [" ".join(line.split()) for line in lines] == [
        "python:3.12 KEEP - 4.9 KiB -",
        "held by sandbox:dev",
        "docker.io/library/python:3.12",
        "DELETE 20 days 4.9 KiB 4.0 KiB",
        "idle 20 days, over 14d",
        LONG,
        "DELETE 400 days 4.9 KiB 4.0 KiB",
        "idle 400 days, over 14d",
        f"{digest(1)[7:19]} DELETE 20 days 4.9 KiB 4.0 KiB",
        "idle 20 days, over 14d",
    ]
    # Where there is room, each has one line.
    terminal(200)
    print_considered(IMAGES, POLICY)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(IMAGES)
