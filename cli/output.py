"""How values look: sizes, times, digests, tables for people, JSON for programs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

_NARROWEST = 12  # characters a column keeps, whatever the terminal
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: int | None) -> str:
    """Return bytes as people read them: ``90.0 KiB``."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def local_time(ns: int | None) -> str:
    """Return a time (ns since the epoch) in the local zone: ``2026-11-23 13:57:52``."""
    return "-" if ns is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))


def local_time_with_offset(ns: int) -> str:
    """Return a time (ns since the epoch) in the local zone with its offset: ``2026-11-23 13:57:52 +0100``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(ns // 10**9))


def rfc3339(ns: int | None) -> str | None:
    """Return a time (ns since the epoch) as RFC 3339 in UTC with nine digits."""
    if ns is None:
        return None
    seconds, fraction = divmod(ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09}+00:00"


def short(digest: str | None) -> str:
    """Return a digest with its first twelve digits, as msb shows it."""
    return "-" if digest is None else digest[:19]


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun: ``1 layer``, ``2 layers``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def printable(text: str) -> str:
    """Return text from outside without characters that would drive a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def error(sentence: str) -> None:
    """Say what went wrong, on stderr."""
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(sentence)}", err=True, color=colour)


def _fit(widths: list[int], rows: list[list[str]], gap: int) -> int:
    """Narrow the widest columns until a row fits the terminal; return the gap between columns."""
    if sys.stdout is None or not sys.stdout.isatty():
        return gap
    room = shutil.get_terminal_size().columns
    if sum(widths) + gap * (len(widths) - 1) <= room:
        return gap
    gap = 2
    while sum(widths) + gap * (len(widths) - 1) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    for row in rows:
        for column, cell in enumerate(row):
            if len(cell) > widths[column]:
                keep = widths[column] - 1
                row[column] = f"{cell[: keep - keep // 2]}…{cell[len(cell) - keep // 2 :]}"
    return gap


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns; those in ``right`` are aligned to the right."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    gap = " " * _fit(widths, lines, 3)
    text = []
    for number, line in enumerate(lines):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        joined = gap.join(cells).rstrip()
        text.append(click.style(joined, bold=True) if number == 0 else joined)
    click.echo("\n".join(text))


def columns(rows: Iterable[Sequence[str]], *, err: bool = False) -> None:
    """Print aligned columns without a header, indented."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(f"  {text}".rstrip(), err=err)


def json(value: Any) -> None:
    """Print a value as indented JSON, with keys in the order given."""
    import json as encoder

    click.echo(encoder.dumps(value, indent=2, ensure_ascii=False))
