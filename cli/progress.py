"""How far a pull, a deletion or a check is: bars on a terminal, lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msb_cache.cli import output
from msb_cache.cli.common import on_terminal

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from msb_cache.audit.data import DataProgress
    from msb_cache.engines.decision import Progress as DeletionProgress
    from msb_cache.engines.decision import Report
    from msb_cache.engines.engine import Progress
    from msb_cache.oci.registry.downloads import LayerProgress


_SHOWN_AFTER = 0.5
"""Seconds after which a deletion has a bar, if it is of fewer than ``_MANY`` files."""
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
    began = time.monotonic()
    with _bar("deleted", _count_columns) as bar:

        def show(progress: DeletionProgress) -> None:
            if progress.stopped:
                bar.stop()
            elif bar.shown or progress.total >= _MANY or time.monotonic() - began >= _SHOWN_AFTER:
                bar.show(progress.done, progress.total)  # what is over at once needs none

        yield show


@contextmanager
def reading() -> Iterator[Callable[[DataProgress], None] | None]:
    """Show on a terminal how far reading files is; what is given takes each step, None elsewhere."""
    if not on_terminal(sys.stderr):
        yield None
        return
    with _bar("data", _data_columns) as bar:
        yield lambda progress: bar.show(progress.bytes, progress.total_bytes)


class _Bar:
    """One bar on stderr, from the first step that is shown on; it goes when it is stopped."""

    def __init__(self, name: str, columns: Callable[[], Sequence[ProgressColumn]]) -> None:
        self._name, self._columns = name, columns
        self._bars: Any = None
        self._task: Any = None

    @property
    def shown(self) -> bool:
        """Whether it is there by now."""
        return self._bars is not None

    def show(self, done: int, total: int) -> None:
        """Show that so much is done of so much."""
        if self._bars is None:
            from rich.console import Console
            from rich.progress import Progress

            console = Console(stderr=True)
            self._bars = Progress(f"  {self._name}", *self._columns(), console=console, transient=True)
            self._bars.start()
            self._task = self._bars.add_task(self._name, total=total)
        self._bars.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Take it away, if it is there."""
        if self._bars is not None:
            self._bars.stop()


@contextmanager
def _bar(name: str, columns: Callable[[], Sequence[ProgressColumn]]) -> Iterator[_Bar]:
    bar = _Bar(name, columns)
    try:
        yield bar
    finally:
        bar.stop()


def _count_columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    return BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def _data_columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    return BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
