"""What a terminal shows of long work: rows of text that fit into it, made of what was told so far.

Not how they come onto the terminal (``progress``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msb_cache.cli import output

if TYPE_CHECKING:
    from msb_cache.activity import Activity
    from msb_cache.oci.registry.downloads import DownloadEvent, LayerProgress

_UNITS = ((10 << 30, 1 << 30, "GiB"), (1 << 20, 1 << 20, "MiB"), (1 << 10, 1 << 10, "KiB"))
"""From how many bytes on a unit is used, how many it has, and its name."""

_SPEED_SECONDS = 10.0
"""The speed is that of so many last seconds."""

_WIDEST_BAR, _NARROWEST_BAR = 40, 6
_WIDE = 76
"""From so many columns on there is room for all of a digest that is shown, and for speed and time."""
_SPIN_SECONDS = 0.1


class Look(NamedTuple):
    """The characters of bars and of what turns while something goes on."""

    full: str
    empty: str
    turning: str
    more: str


UNICODE = Look("━", "─", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "…")
ASCII = Look("#", "-", "|/-\\", "...")

Row = Sequence[tuple[str, str]]
"""Parts of a line, each with its style: ``bar``, ``done``, ``rest`` or none."""


class Picture(Protocol):
    """Something that can be drawn."""

    def rows(self, width: int, height: int, look: Look) -> list[Row]:
        """Return what it looks like now, in at most so many columns and lines."""


class Amounts:
    """Writes numbers of bytes, all in the unit that fits the largest."""

    def __init__(self, largest: int) -> None:
        for least, size, name in _UNITS:
            if largest >= least:
                self._size, self.unit = size, name
                return
        self._size, self.unit = 1, "B"

    def number(self, count: int) -> str:
        """Return a number without the unit; what is not nothing is not shown as nothing."""
        if self._size == 1:
            return f"{count}"
        return f"{max(count / self._size, 0.1 if count else 0):,.1f}"

    def of(self, done: int, total: int | None) -> str:
        """Return ``3.1/12.0 MiB``, or ``3.1 MiB`` where the total is not known."""
        if total is None:
            return f"{self.number(done)} {self.unit}"
        return f"{self.number(done)}/{self.number(total)} {self.unit}"


class Speed:
    """How fast a number grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> None:
        """Take down how large it is at a time in seconds."""
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _SPEED_SECONDS:
            self._samples.popleft()

    def at(self, now: float) -> float:
        """Return by how much it grows a second; 0: that is not known yet."""
        if not self._samples:
            return 0.0
        (first, before), (_, after) = self._samples[0], self._samples[-1]
        return (after - before) / (now - first) if now - first >= 1 else 0.0


def clock(seconds: float) -> str:
    """Return seconds as ``0:07``, ``12:40``, ``1:02:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bar(part: float, width: int, look: Look) -> Row:
    """Return a bar of so many columns of which a part between 0 and 1 is full."""
    full = round(min(max(part, 0.0), 1.0) * width)
    return [(look.full * full, "bar"), (look.empty * (width - full), "rest")]


def _spinner(now: float, look: Look) -> str:
    return look.turning[int(now / _SPIN_SECONDS) % len(look.turning)]


def _speed_and_time(rate: float, left: int | None, amounts: Amounts, elapsed: float) -> list[str]:
    """Return how fast it goes, and for how long."""
    cells = [] if rate < 1 else [f"{amounts.number(round(rate))} {amounts.unit}/s"]
    return [*cells, _time(rate, left, elapsed)]


def _time(rate: float, left: int | None, elapsed: float) -> str:
    """Return how long it will take; where that is not known, how long it took."""
    return f"{clock(left / rate)} left" if left and rate >= 1 else clock(elapsed)


def _joined(first: str, part: float | None, cells: Sequence[str], width: int, look: Look) -> Row:
    """Return a line of a text, a bar, and cells, of which the last but one goes first if there is no room."""
    cells = [*cells]
    while len(cells) > 1 and len(first) + sum(len(cell) + 2 for cell in cells) > width:
        del cells[-2]
    taken = sum(len(cell) + 2 for cell in cells)
    row: list[tuple[str, str]] = [(first[: max(width - taken, width // 2)], "")]
    room = min(width - len(first) - taken - 2, _WIDEST_BAR)
    if part is not None and room >= _NARROWEST_BAR:
        row += [("  ", ""), *bar(part, room, look)]
    return [*row, *((f"  {cell}", "") for cell in cells)]


class Doing:
    """One activity: what is done, how far that is, and for how long it has gone on."""

    def __init__(self, activity: Activity, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._speed = Speed()
        self.activity = activity

    def tell(self, activity: Activity) -> None:
        """Take down how far it is."""
        self.activity = activity
        self._speed.add(self._now(), activity.done)

    def rows(self, width: int, height: int, look: Look) -> list[Row]:
        """Return its one line."""
        what, unit, done, total, _ = self.activity
        now = self._now()
        elapsed = now - self._began
        part = done / total if total else None
        rate = self._speed.at(now)
        left = None if total is None else max(0, total - done)
        if unit == "bytes":
            amounts = Amounts(max(done, total or 0))
            cells = _speed_and_time(rate, left, amounts, elapsed)
            if done or total:
                cells.insert(0, amounts.of(done, total))
        else:
            cells = [f"{done:,}"] if done and total is None else [f"{done:,} of {total:,}"] if total else []
            cells = [f"{cell} {unit}" if unit else cell for cell in cells] + [_time(rate, left, elapsed)]
        return [_joined(f"{_spinner(now, look)} {output.printable(what)}", part, cells, width, look)]


@dataclass
class _Layer:
    event: DownloadEvent
    done: int
    total: int | None
    note: str

    @property
    def here(self) -> bool:
        """Whether nothing of it is fetched any more."""
        return self.event in ("done", "exists", "fetched")

    @property
    def state(self) -> str:
        if self.event == "exists":
            return "already here"
        if self.event == "bytes" and self.done == self.total:
            return "unpacking"
        return {"resumed": "going on", "bytes": "", "started": "", "retry": ""}.get(self.event, self.event)


class Layers:
    """The layers of the image that is being pulled, and one line for all of them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._lock = threading.Lock()
        self._layers: dict[str, _Layer] = {}
        self._speed = Speed()
        self._fetched = 0

    def tell(self, progress: LayerProgress) -> None:
        """Take down how far a layer has come; from any thread."""
        with self._lock:
            known = self._layers.get(progress.layer)
            if progress.event == "queued" and all(layer.here for layer in self._layers.values()):
                self._layers.clear()  # of the image before
            if known is not None and progress.event in ("bytes", "done", "fetched"):
                self._fetched += max(0, progress.done - known.done)
            self._speed.add(self._now(), self._fetched)
            self._layers[progress.layer] = _Layer(
                progress.event, progress.done, progress.total, output.printable(progress.note)
            )

    def rows(self, width: int, height: int, look: Look) -> list[Row]:
        """Return a line for each layer for which there is room, and the line for all."""
        with self._lock:
            layers = dict(self._layers)
            now = self._now()
            rate = self._speed.at(now)
        known = all(layer.total is not None for layer in layers.values())
        total = sum(layer.total or 0 for layer in layers.values()) if known else None
        done = sum(layer.done for layer in layers.values())
        amounts = Amounts(max(done, total or 0))
        if not known:
            layers = {digest: replace(each, total=None) for digest, each in layers.items()}
        columns = _Columns(width, [amounts.of(each.done, each.total) for each in layers.values()])
        shown, left_out = _those_with_room(layers, height - 1)
        rows = [columns.layer(digest, layers[digest], amounts, look) for digest in shown]
        if left_out:
            rows.append([(f"  {look.more} and {_counted(left_out)}"[:width], "rest")])
        elapsed = now - self._began
        here = sum(layer.here for layer in layers.values())
        if here == len(layers):
            what = f"{_spinner(now, look)} putting the image together"
            return [*rows, _joined(what, None, [clock(elapsed)], width, look)]
        first = f"{_spinner(now, look)} {here}/{len(layers)} layers"
        left = None if total is None else max(0, total - done)
        cells = [amounts.of(done, total), *_speed_and_time(rate, left, amounts, elapsed)]
        return [*rows, columns.total(first, done / total if total else None, cells, look)]


class _Columns:
    """How wide the columns of layers are: digest, bar, amount and state."""

    def __init__(self, width: int, amounts: Sequence[str]) -> None:
        self._width = width
        self._name = 19 if width >= _WIDE else 12
        self._amount = max(map(len, amounts), default=0)
        state = 22 if width >= _WIDE else 12
        room = width - 2 - self._name - 2 - 2 - self._amount - 2 - state
        self._bar = min(room, _WIDEST_BAR) if room >= _NARROWEST_BAR else 0

    def layer(self, digest: str, layer: _Layer, amounts: Amounts, look: Look) -> Row:
        """Return the line of a layer."""
        name = output.short(digest)[-self._name :].ljust(self._name)
        if layer.event == "retry":
            text = f"  {name}  trying again: {layer.note}"
            return [(text if len(text) <= self._width else text[: self._width - 3] + look.more, "")]
        row: list[tuple[str, str]] = [(f"  {name}", "")]
        if self._bar and layer.total is not None:
            part = layer.done / layer.total if layer.total else 1
            row += [("  ", ""), *bar(part, self._bar, look)]
        amount = amounts.of(layer.done, layer.total) if layer.done or layer.total is not None else ""
        style = "done" if layer.here else ""
        return [*row, (f"  {amount.rjust(self._amount)}", ""), (f"  {layer.state}".rstrip(), style)]

    def total(self, first: str, part: float | None, cells: Sequence[str], look: Look) -> Row:
        """Return the line of all layers, below those of each where there is room for that."""
        named = first.ljust(self._name + 2)
        amount, *rest = cells
        row: list[tuple[str, str]] = [(named, "")]
        if self._bar and part is not None and self._name > 12:
            row += [("  ", ""), *bar(part, self._bar, look)]
            return [
                *row,
                (f"  {amount.rjust(self._amount)}", ""),
                ("".join(f"  {each}" for each in rest), ""),
            ]
        return _joined(named, part, cells, self._width, look)


def _those_with_room(layers: dict[str, _Layer], most: int) -> tuple[list[str], list[_Layer]]:
    """Return the layers that are shown, in their order, and those that are not: what is here goes first."""
    if len(layers) <= most:
        return [*layers], []
    order = sorted(layers, key=lambda digest: (layers[digest].here, layers[digest].event == "queued"))
    shown = set(order[: max(0, most - 1)])
    return [each for each in layers if each in shown], [layers[each] for each in layers if each not in shown]


def _counted(layers: Sequence[_Layer]) -> str:
    here = sum(layer.here for layer in layers)
    queued = sum(layer.event == "queued" for layer in layers)
    parts = [f"{here:,} here"] * bool(here) + [f"{queued:,} queued"] * bool(queued)
    parts += [f"{rest:,} coming" for rest in [len(layers) - here - queued] if rest]
    return f"{output.plural(len(layers), 'more layer')}: {', '.join(parts)}"
