"""How far long work is: on a terminal a few lines on stderr that go again, and nothing anywhere else.

Of a pull, a log gets lines that stay. What is shown stands in ``pictures``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from msb_cache.activity import Activity
from msb_cache.cli import output
from msb_cache.cli.pictures import ASCII, UNICODE, Doing, Layers, Picture
from msb_cache.cli.showing import shows_progress

if TYPE_CHECKING:
    from msb_cache.audit.data import DataProgress
    from msb_cache.engines.decision import Progress as DeletionProgress
    from msb_cache.engines.decision import Report
    from msb_cache.engines.engine import Progress
    from msb_cache.oci.registry.downloads import LayerProgress


_SHOWN_AFTER = 0.5
"""Seconds after which something is shown: what is over before needs no display."""
_GAP = 0.2
"""Seconds within which what begins goes on from what ended, so that many short ones are shown as well."""
_REFRESH = 0.1
_STYLES = {"bar": "cyan", "done": "green", "rest": "dim"}


@contextmanager
def display(quiet: bool) -> Iterator[Progress | None]:
    """Show the progress of what is pulled in the block; what is given takes each step, None if quiet."""
    if quiet:
        yield None
    elif shows_progress():
        with _layers() as show:
            yield show
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
def _layers() -> Iterator[Progress]:
    layers = Layers()
    shown = threading.Event()

    def show(progress: LayerProgress) -> None:
        layers.tell(progress)
        if not shown.is_set():
            shown.set()
            _screen.push(layers)

    try:
        yield show
    finally:
        _screen.pop(layers)


@contextmanager
def deleting(quiet: bool) -> Iterator[Report | None]:
    """Show on a terminal how far a deletion is; what is given takes each step, None elsewhere or if quiet."""
    if quiet or not shows_progress():
        yield None
        return
    what = Activity("deleting")

    def show(progress: DeletionProgress) -> None:
        tell(what._replace(done=progress.done, total=progress.total, over=progress.stopped))

    try:
        yield show
    finally:
        tell(what._replace(over=True))


@contextmanager
def reading() -> Iterator[Callable[[DataProgress], None] | None]:
    """Show on a terminal how far reading files is; what is given takes each step, None elsewhere."""
    if not shows_progress():
        yield None
        return
    what = Activity("reading files", "bytes")
    try:
        yield lambda progress: tell(what._replace(done=progress.bytes, total=progress.total_bytes))
    finally:
        tell(what._replace(over=True))


def tell(activity: Activity) -> None:
    """Show on stderr, which is a terminal, what goes on; and what it is a part of, when it is over."""
    _screen.tell(activity)


class _Screen:
    """The last lines of the terminal, as long as something goes on.

    They are drawn by a thread of their own, beginning ``_SHOWN_AFTER`` after the first of what goes on
    without a gap, and are gone when ``pop`` has taken the last away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: list[Picture] = []
        self._began = self._ended = 0.0
        self._drawing: _Drawing | None = None

    def tell(self, activity: Activity) -> None:
        """Show an activity, or no longer if it is over."""
        with self._lock:
            same = (
                each
                for each in reversed(self._pictures)
                if isinstance(each, Doing) and each.activity.what == activity.what
            )
            found = next(same, None)
        if activity.over:
            if found is not None:
                self.pop(found)
        elif found is None:
            self.push(Doing(activity))
        else:
            found.tell(activity)

    def push(self, picture: Picture) -> None:
        """Show a picture in place of the one before."""
        with self._lock:
            self._pictures.append(picture)
            if self._drawing is None:
                now = time.monotonic()
                if now - self._ended > _GAP:
                    self._began = now
                self._drawing = _Drawing(self._top, self._began + _SHOWN_AFTER - now)

    def pop(self, picture: Picture) -> None:
        """Show what was shown before this; nothing if it was not there."""
        ended = None
        with self._lock:
            if picture in self._pictures:
                self._pictures.remove(picture)
            if not self._pictures and self._drawing is not None:
                ended, self._drawing = self._drawing, None
                self._ended = time.monotonic()
        if ended is not None:
            ended.end()

    def _top(self) -> Picture | None:
        with self._lock:
            return self._pictures[-1] if self._pictures else None


class _Drawing:
    """Draws again and again, from some seconds on, until it is ended."""

    def __init__(self, top: Callable[[], Picture | None], after: float) -> None:
        self._top = top
        self._after = after
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="msb-cache-progress", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take away what is drawn; when this returns, it is gone."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        if self._over.wait(max(0.0, self._after)):
            return
        with suppress(OSError):  # the terminal is gone
            self._draw()

    def _draw(self) -> None:
        # What is over at once would wait for it, too.
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        # stdout is what programs read, and stays what it is.
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        with _printing_above(console), live:
            while not self._over.is_set():
                live.update(_drawn(self._top(), console), refresh=True)
                self._over.wait(_REFRESH)


@contextmanager
def _printing_above(console: Any) -> Iterator[None]:
    """Let what is printed to stderr in the block, by any thread, come above what is drawn."""
    from rich.file_proxy import FileProxy

    class Above(FileProxy):
        # Without these click writes to what is below this.
        encoding = property(lambda self: self.rich_proxied_file.encoding)
        errors = property(lambda self: self.rich_proxied_file.errors)

    below = sys.stderr
    sys.stderr = Above(console, below)
    try:
        yield
    finally:
        sys.stderr = below


def _drawn(picture: Picture | None, console: Any) -> Any:
    """Return a picture as rich draws it, nowhere wider or higher than the terminal."""
    from rich.text import Text

    # Behind the last line there is room for ``^C``, which would begin another one; below it, for the cursor.
    width, height = max(1, console.width - 3), max(1, console.height - 2)
    look = ASCII if console.options.ascii_only else UNICODE
    rows = [] if picture is None else picture.rows(width, height, look)[-height:]
    lines = []
    for row in rows:
        line = Text()
        for text, style in row:
            line.append(text, _STYLES.get(style, ""))
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    joined = Text("\n", no_wrap=True, overflow="crop").join(lines)
    joined.no_wrap = True
    return joined


_screen = _Screen()
