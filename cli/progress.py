"""How far a pull is: bars on a terminal, lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msb_cache.cli import output
from msb_cache.cli.common import on_terminal

if TYPE_CHECKING:
    from msb_cache.audit.data import DataProgress
    from msb_cache.engines.decision import Progress as DeletionProgress
    from msb_cache.engines.decision import Report
    from msb_cache.engines.engine import Progress
    from msb_cache.oci.registry.downloads import LayerProgress


_SHOWN_AFTER = 0.5
"""Seconds after which a deletion has a bar, if it is of few files."""
_MANY = 2000


@contextmanager
def display(quiet: bool) -> Iterator[Progress | None]:
    """Show the progress of what is pulled in the block; what is given takes each step, None if quiet."""
    if quiet:
        yield None
    elif on_terminal(sys.stderr):
        with _bars() as bars:
            yield bars
    else:
        yield _Lines()


class _Lines:
    """Plain lines for a log: one when a layer begins, one when it is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, progress: LayerProgress) -> None:
        name, total = output.short(progress.layer), output.size(progress.total)
        text = {
            "resumed": f"{name}  going on at {output.size(progress.done)} of {total}",
            "retry": f"{name}  trying again: {progress.note}",
            "done": f"{name}  {total} fetched",
            "exists": f"{name}  {total} already here",
        }.get(progress.event)
        if text is not None:
            with self._lock:
                output.line(f"  {text}", err=True)


@contextmanager
def _bars() -> Iterator[Progress]:
    # The help and pulls without a terminal would wait for it, too.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}", markup=False),  # a registry's words
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
        tasks: dict[str, Any] = {}

        def show(progress: LayerProgress) -> None:
            if progress.layer not in tasks:
                tasks[progress.layer] = bars.add_task(
                    output.short(progress.layer), total=progress.total, state=""
                )
            state = {
                "exists": "already here",
                "done": "done",
                "retry": output.printable(progress.note)[:60],
                "resumed": "going on",
            }.get(progress.event, "")
            bars.update(tasks[progress.layer], completed=progress.done, state=state)

        yield show


@contextmanager
def deleting(quiet: bool) -> Iterator[Report | None]:
    """Show on a terminal how far a deletion is; what is given takes each step, None elsewhere or if quiet."""
    if quiet or not on_terminal(sys.stderr):
        yield None
        return
    bars: Any = None
    task: Any = None
    began = time.monotonic()

    def show(progress: DeletionProgress) -> None:
        nonlocal bars, task
        if progress.stopped:
            if bars is not None:
                bars.stop()
            return
        if bars is None:
            if progress.total < _MANY and time.monotonic() - began < _SHOWN_AFTER:
                return  # what is over at once needs no bar
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bars = Progress("  deleted", *columns, console=Console(stderr=True), transient=True)
            bars.start()
            task = bars.add_task("deleted", total=progress.total)
        bars.update(task, completed=progress.done, total=progress.total)

    try:
        yield show
    finally:
        if bars is not None:
            bars.stop()


@contextmanager
def reading() -> Iterator[Callable[[DataProgress], None] | None]:
    """Show on a terminal how far reading files is; what is given takes each step, None elsewhere."""
    if not on_terminal(sys.stderr):
        yield None
        return
    bars: Any = None
    task: Any = None

    def show(progress: DataProgress) -> None:
        nonlocal bars, task
        if bars is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            columns = (
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            bars = Progress("  data", *columns, console=Console(stderr=True), transient=True)
            bars.start()
            task = bars.add_task("data", total=progress.total_bytes)
        bars.update(task, completed=progress.bytes, total=progress.total_bytes)

    try:
        yield show
    finally:
        if bars is not None:
            bars.stop()
