"""Commands, from the start of the process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
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

_IMPORTS = "import click, sqlite3"
"""What a program with a command line and a database cannot do without."""


def list_(setting: Setting, *, images: int = 5, rounds: int = 30) -> Measured:
    return measured("`list`, cold process", _whole(setting, ["list"], images, rounds), 1.3)


def inspect(setting: Setting, *, images: int = 5, rounds: int = 30) -> Measured:
    runs = _whole(setting, ["inspect", homes.reference(1)], images, rounds)
    return measured("`inspect REF`, cold process", runs, 1.3)


def history(setting: Setting, *, images: int = 5, rounds: int = 30) -> Measured:
    runs = _whole(setting, ["history", homes.reference(1)], images, rounds, has_msb=False)
    return measured("`history REF`, cold process", runs, 1.3)


def list_many(setting: Setting, *, images: int = 10_000, rounds: int = 30) -> Measured:
    runs = _whole(setting, ["list"], images, rounds, floor=floors.PRINT_IMAGES)
    return measured(f"`list` of {images:,} images, cold process", runs, 3.0)


def sql(setting: Setting, *, images: int = 10_000, rounds: int = 30) -> Measured:
    runs = _whole(setting, ["sql", floors.SQL], images, rounds, floor=floors.PRINT_SQL, has_msb=False)
    return measured(f"`sql` of 50 of {images:,} images, cold process", runs, 1.5)


def metrics(setting: Setting, *, images: int = 10_000, rounds: int = 30) -> Measured:
    runs = _whole(setting, ["metrics"], images, rounds, floor=floors.PRINT_METRICS, has_msb=False)
    return measured(f"`metrics` of {images:,} images, cold process", runs, 1.8)


def complete(setting: Setting, *, images: int = 10_000, rounds: int = 30) -> Measured:
    """What a shell runs when a person presses Tab behind the beginning of a reference."""
    line = "msb-cache inspect ghcr.io/acme/app-1"
    asked = ["env", "_MSB_CACHE_COMPLETE=bash", f"_MSB_CACHE_LINE={line}", setting.program]
    with setting.home(images) as home:
        commands = {
            "ours": asked,
            "floor": [setting.python, "-c", floors.COMPLETE, str(Layout(home).database)],
        }
        for command in commands.values():
            assert timing.output(command, home).count("ghcr.io/acme/app-1") >= min(images // 10, 100)
        contenders = {name: timing.process(*command, home=home) for name, command in commands.items()}
        runs = turns(contenders, rounds)
    return measured(f"complete a reference among {images:,} images, cold process", runs, 1.8)


def _whole(
    setting: Setting,
    arguments: Sequence[str],
    images: int,
    rounds: int,
    *,
    floor: str = _IMPORTS,
    has_msb: bool = True,
) -> dict[str, list[Run]]:
    """Time a command to its end; the floor is Python source, and gets the database's path."""
    with ExitStack() as made:
        home = made.enter_context(setting.home(images))
        database = str(Layout(home).database)
        commands = {
            "ours": (home, [setting.program, *arguments]),
            "floor": (home, [setting.python, "-c", floor, database]),
        }
        if has_msb and setting.msb is not None:
            theirs = made.enter_context(setting.msb_home(images))
            commands["msb"] = (theirs, [setting.msb, "image", *arguments])
        least = images if arguments == ["list"] else 1
        for name, (where, command) in commands.items():
            assert name == "floor" or timing.output(command, where).count("\n") >= least, name
        contenders = {
            name: timing.process(*command, home=where) for name, (where, command) in commands.items()
        }
        return turns(contenders, rounds)


def first_of_history(setting: Setting, *, rounds: int = 30) -> Measured:
    def arguments(home: Path) -> list[str]:
        with ImageCache(home) as cache:
            return ["history", cache.list()[-1].reference]

    runs = _first_line(setting, arguments, rounds)
    return measured("first line of `history REF`, 1,000,000 / 1,000 events", runs, 1.5)


def first_of_events(setting: Setting, *, rounds: int = 30) -> Measured:
    runs = _first_line(setting, lambda _: ["events", "--since", "2000-01-01"], rounds)
    return measured("first line of `events --since`, 1,000,000 / 1,000 events", runs, 1.5)


def _first_line(
    setting: Setting, arguments: Callable[[Path], Sequence[str]], rounds: int
) -> dict[str, list[Run]]:
    """From the start of the command to its first line of output; the floor is that in a short log."""

    def contender(home: Path) -> Contender:
        command = [setting.program, *arguments(home)]
        environment = timing.environment(home)

        def run() -> None:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline()
                process.kill()

        return timed(run)

    with setting.home(100, uses=8) as short:
        return turns({"ours": contender(setting.long_log), "floor": contender(short)}, rounds)
