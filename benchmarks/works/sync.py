"""Looking at what msb did, in a home that it keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import floors
import homes
from setting import Setting
from table import Measured, measured
from timing import Run, timed, turns

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout


def unchanged(setting: Setting, *, images: int = 10_000, rounds: int = 200) -> Measured:
    """Every command that reads opens the cache and looks; the floor reads what there is to compare."""
    with setting.msb_home(images) as home:
        path = Layout(home).msb_database
        floors.read_tables(path, homes.MSB_TABLES)  # the first reader makes the write-ahead log anew
        homes.settle(home)

        def ours() -> None:
            with ImageCache(home) as cache:
                assert not cache.sync().events

        contenders = {
            "ours": timed(ours),
            "floor": timed(lambda: floors.read_tables(path, homes.MSB_TABLES)),
        }
        runs = turns(contenders, rounds)
    return measured(f"`sync` of an unchanged home of {images:,} images", runs, 0.1)


_WRITTEN = ("events", "image", "manifest", "manifest_layer", "layer", "pointed_at")


def first(setting: Setting, *, images: int = 10_000, rounds: int = 30) -> Measured:
    with setting.msb_home(images) as home:
        layout = Layout(home)
        homes.files(home, images)
        measured_folders = [str(layout.folders[kind]) for kind in ("layer", "fsmeta", "vmdk")]
        written: dict[str, floors.Rows] = {}

        def ours() -> Run:
            _forget(layout)
            os.sync()
            began = time.perf_counter()
            with ImageCache(home) as cache:
                report = cache.sync()
            run = Run(time.perf_counter() - began)
            assert report.adopted
            assert len(report.events) == 2 * images
            if not written:
                connection = floors.connect(layout.database)
                written.update(
                    {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in _WRITTEN}
                )
                connection.close()
            return run

        def floor() -> Run:
            assert written  # ours comes first
            path = layout.db / "floor.db"
            tables = floors.empty_tables(path, layout.database, _WRITTEN)
            os.sync()
            began = time.perf_counter()
            floors.read_tables(layout.msb_database, homes.MSB_TABLES)
            floors.sizes(measured_folders)
            floors.insert_rows(tables, written)
            run = Run(time.perf_counter() - began)
            tables.close()
            path.unlink()
            return run

        runs = turns({"ours": ours, "floor": floor}, rounds)
    return measured(f"first `sync` of {images:,} images", runs, 3.0)


def boots(
    setting: Setting, *, images: int = 100, before: int = 100_000, new: int = 3, rounds: int = 30
) -> Measured:
    """What new boots cost, beside what they cost in a home that has no others."""
    with setting.msb_home(images) as many, setting.msb_home(images) as none:
        opened = []
        for home, count in ((many, before), (none, 0)):
            homes.boots(home, count)
            homes.settle(home)
            # As a sandbox that runs has it; of a database that no process has open, a copy is read.
            opened.append(floors.connect(Layout(home).msb_database))
            opened[-1].execute("SELECT count(*) FROM image_ref").fetchone()

        def of(home: Path) -> Callable[[], Run]:
            def run() -> Run:
                homes.boots(home, new)
                with ImageCache(home, sync=False) as cache:
                    cache.events(limit=1)  # the database is open
                    began = time.perf_counter()
                    report = cache.sync(force=True)
                    found = Run(time.perf_counter() - began)
                assert len(report.events) == 2 * new
                return found

            return run

        runs = turns({"ours": of(many), "floor": of(none)}, rounds)
        for connection in opened:
            connection.close()
    return measured(f"`sync` of {new} new boots, in a home of {before:,} / of none", runs, 1.3)


def _forget(layout: Layout) -> None:
    """Take everything of ours away from msb's home."""
    for path in layout.db.iterdir():
        if path.is_file() and not path.name.startswith("msb.db"):
            path.unlink()
    for folder in (layout.operations, layout.snapshots):
        for path in folder.glob("*"):
            path.unlink()
