"""What a cache takes of the disk. The floor is `du -s` of it, a whole process that only adds up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import homes
import timing
from setting import Setting
from table import Measured, measured
from timing import Contender, timed, turns

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout


def usage(setting: Setting, *, images: int = 5000, rounds: int = 30) -> Measured:
    with _home(setting, images) as (home, floor, size), ImageCache(home) as cache:
        assert cache.disk_usage().cache_total.allocated_bytes == size
        runs = turns({"ours": timed(cache.disk_usage), "floor": floor}, rounds)
    return measured(f"`disk_usage` of {images:,} images and {images * 10:,} files / `du -s`", runs, 2.0)


def df(setting: Setting, *, images: int = 5000, rounds: int = 30) -> Measured:
    with _home(setting, images) as (home, floor, _):
        ours = timing.process(setting.program, "df", home=home)
        runs = turns({"ours": ours, "floor": floor}, rounds)
    return measured(f"`df` of {images:,} images and {images * 10:,} files, cold process", runs, 4.0)


@contextmanager
def _home(setting: Setting, images: int) -> Iterator[tuple[Path, Contender, int]]:
    """A home, `du -s` of its cache, and what that says."""
    with setting.home(images) as home:
        homes.files(home, images)
        command = ("du", "-s", "-B1", str(Layout(home).cache))
        yield home, timing.process(*command, home=home), int(timing.output(command, home).split()[0])
