"""Deleting all images, with their files."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import floors
import homes
import timing
from setting import Setting
from table import Measured, measured
from timing import Contender, Run, timed, turns

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.retention.policy import PrunePolicy

_EVERY_RULE = PrunePolicy(
    unused_for="1s",
    older_than="1s",
    keep_last=2,
    max_size=1,
    filter=("reference=ghcr.io/acme/*", "label!=keep"),
    exclude=("ghcr.io/acme/app-7:*",),
    grace="0s",
    best_effort=True,
)
_MSB_PRUNE = ("image", "prune", "--yes", "--quiet")


def many(setting: Setting, *, images: int = 10_000, rounds: int = 5) -> Measured:
    return _in_own_home(setting, images, rounds, msb=None)


def plan(setting: Setting, *, images: int = 10_000, rounds: int = 10) -> Measured:
    """The floor reads the index's rows, and asks for what each file takes of the disk."""
    with setting.home(images) as home:
        paths = homes.files(home, images)
        connection = floors.connect(Layout(home).database)

        def floor() -> int:
            tables = ("image", "manifest", "manifest_layer", "layer")
            rows = sum(len(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables)
            return rows + sum(os.lstat(path).st_blocks for path in paths)

        with ImageCache(home) as cache:
            time.sleep(1.1)  # until each image has the ages that are asked for
            # Of every ten tags the two most recent stay, and those of one repository.
            assert len(cache.preview_prune(_EVERY_RULE).plan.references) == (images - 10) * 8 // 10
            ours = timed(lambda: cache.preview_prune(_EVERY_RULE))
            runs = turns({"ours": ours, "floor": timed(floor)}, rounds)
        connection.close()
    return measured(f"plan by every rule for {images:,} images and {5 * images:,} files", runs, 2.5)


def own(setting: Setting, *, images: int = 2_000, rounds: int = 5) -> Measured:
    return _in_own_home(setting, images, rounds, msb=setting.msb)


def through_msb(setting: Setting, *, images: int = 2_000, rounds: int = 5) -> Measured:
    """Our command has msb delete, and records what went; msb's own deletes in a copy of the home."""
    assert setting.msb is not None
    with setting.msb_home(images) as home:
        homes.files(home, images)
        contenders = {
            "ours": _in_copy(setting, home, [setting.program, "prune", "--yes"], msb=setting.msb),
            "msb": _in_copy(setting, home, [setting.msb, *_MSB_PRUNE]),
        }
        runs = turns(contenders, rounds, warm=False)
    return measured(f"prune of {images:,} images in a home of msb", runs, 1.2)


def _in_own_home(setting: Setting, images: int, rounds: int, *, msb: str | None) -> Measured:
    appended: list[floors.Rows] = []

    def ours() -> Run:
        with setting.home(images) as home:
            layout = Layout(home)
            paths = homes.files(home, images)
            connection = floors.connect(layout.database)
            (before,) = connection.execute("SELECT max(seq) FROM events").fetchone()
            os.sync()
            with ImageCache(home) as cache:
                began = time.perf_counter()
                report = cache.prune()
                run = Run(time.perf_counter() - began)
            assert not any(os.path.lexists(path) for path in paths)
            (outcomes,) = connection.execute(
                "SELECT count(*) FROM deletion_outcome WHERE operation = ? AND outcome = 'deleted'",
                (report.operation,),
            ).fetchone()
            # One outcome for each file, and for each manifest's record.
            assert outcomes == 6 * images, outcomes
            query = f"SELECT {floors.EVENT_COLUMNS} FROM events WHERE seq > ?"
            appended[:] = [connection.execute(query, (before,)).fetchall()]
            connection.close()
        return run

    def floor() -> Run:
        with setting.home(1) as home:
            paths = homes.files(home, images)
            table = floors.empty_tables(home / "floor.db", Layout(home).database, ["events"])
            os.sync()
            began = time.perf_counter()
            floors.unlink(paths)
            floors.insert_rows(table, {"events": appended[0]})
            run = Run(time.perf_counter() - began)
            table.close()
        return run

    contenders: dict[str, Contender] = {"ours": ours, "floor": floor}
    with ExitStack() as made:
        if msb is not None:
            theirs = made.enter_context(setting.msb_home(images))
            homes.files(theirs, images)
            contenders["msb"] = _in_copy(setting, theirs, [msb, *_MSB_PRUNE])
        runs = turns(contenders, rounds, warm=False)
    return measured(f"prune of {images:,} images and {5 * images:,} files", runs, 3.0)


def _in_copy(setting: Setting, template: Path, command: list[str], *, msb: str | None = None) -> Contender:
    """A contender that prunes a copy of a home of msb, in which we have seen everything before."""

    def run() -> Run:
        with setting.scratch() as folder:
            home = folder / "home"
            shutil.copytree(template, home)
            homes.settle(home)
            os.sync()
            took = timing.process(*command, home=home, msb=msb)()
            assert not [*Layout(home).folders["layer"].glob("*.erofs")]
        return took

    return run
