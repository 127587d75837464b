"""Adding an image to an empty home."""

from __future__ import annotations

import os
from pathlib import Path

import inputs
import timing
from setting import Setting
from table import Measured, measured
from timing import Contender, Run, turns


def load(setting: Setting, *, rounds: int = 30) -> Measured:
    source = inputs.archive(setting.folder)
    commands = {"ours": [setting.program, "load", "-i", str(source)]}
    if setting.msb is not None:
        commands["msb"] = [setting.msb, "load", "--quiet", "-i", str(source)]
    runs = _in_empty_homes(setting, commands, rounds)
    return measured(f"load of a docker archive of {source.stat().st_size / 1e6:.0f} MB", runs, 0.5)


def pull(setting: Setting, *, rounds: int = 30) -> Measured:
    with inputs.registry(setting.folder) as (reference, sizes):
        commands = {"ours": [setting.program, "pull", "--insecure", reference]}
        if setting.msb is not None:
            commands["msb"] = [setting.msb, "pull", "--insecure", "--quiet", reference]
        runs = _in_empty_homes(setting, commands, rounds)
    work = f"pull of {sum(sizes) / 1e6:.0f} MB in {len(sizes)} layers from loopback"
    return measured(work, runs, 1.0)


def verify_data(setting: Setting, *, rounds: int = 30) -> Measured:
    """All files of the image are read and compared; the floor is ``sha256sum`` on as many processors."""
    with setting.scratch() as home:
        source = inputs.archive(setting.folder)
        timing.process(setting.program, "load", "-i", str(source), home=home)()
        files = [str(path) for path in sorted((home / "cache").rglob("*.erofs"))]
        size = sum(os.path.getsize(path) for path in files)
        floor = ["xargs", f"--max-procs={len(os.sched_getaffinity(0))}", "--max-args=1", "sha256sum", "--"]
        names = setting.folder / "files"
        names.write_text("".join(f"{path}\n" for path in files))
        floor.insert(1, f"--arg-file={names}")
        contenders = {
            "ours": timing.process(setting.program, "verify", "--data", home=home),
            "floor": timing.process(*floor, home=home),
        }
        runs = turns(contenders, rounds)
    return measured(f"`verify --data` of {size / 1e6:.0f} MB, cold process", runs, 1 / 0.7)


def _in_empty_homes(setting: Setting, commands: dict[str, list[str]], rounds: int) -> dict[str, list[Run]]:
    def contender(command: list[str]) -> Contender:
        def run() -> Run:
            with setting.scratch() as home:
                os.sync()  # what earlier runs wrote is not waited for in this one
                took = timing.process(*command, home=home)()
                _check(home)
                return took

        return run

    return turns({name: contender(command) for name, command in commands.items()}, rounds)


def _check(home: Path) -> None:
    assert [*(home / "cache" / "vmdk").glob("*.vmdk")]
