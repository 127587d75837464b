"""How values look: sizes, times, digests, tables for people, JSON for programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import click

_NARROWEST = 12  # characters a column keeps, whatever the terminal
SCREENFUL = 100
"""Rows after which a table of any length is as wide as it will be."""
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


def local_time_with_offset(ns: int | None) -> str:
    """Return a time (ns since the epoch) in the local zone with its offset: ``2026-11-23 13:57:52 +0100``."""
    return "-" if ns is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(ns // 10**9))


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


def _fit(widths: list[int], gap: int) -> int:
    """Narrow the widest columns until a row fits the terminal; return the gap between columns."""
    if not _on_terminal():
        return gap
    import shutil  # its archive formats load six modules

    room = shutil.get_terminal_size().columns
    if sum(widths) + gap * (len(widths) - 1) <= room:
        return gap
    gap = 2
    while sum(widths) + gap * (len(widths) - 1) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return gap


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _shortened(cell: str, width: int) -> str:
    if len(cell) <= width:
        return cell
    keep = width - 1
    return f"{cell[: keep - keep // 2]}…{cell[len(cell) - keep // 2 :]}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns; those in ``right`` are aligned to the right."""
    lines = [[printable(cell) for cell in row] for row in rows]
    _print_rows(header, lines, (), right)


def long_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table of any length as its rows come; the first screenful gives the columns their widths."""
    lines = ([printable(cell) for cell in row] for row in rows)
    _print_rows(header, [*islice(lines, SCREENFUL)], lines, right)


def _print_rows(
    header: Sequence[str], first: list[list[str]], rest: Iterable[list[str]], right: Sequence[int]
) -> None:
    widths = [max(len(line[column]) for line in (header, *first)) for column in range(len(header))]
    gap = " " * _fit(widths, 3)
    narrow = _on_terminal()

    def joined(line: Sequence[str]) -> str:
        cells = []
        for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
            shown = _shortened(cell, width) if narrow else cell
            cells.append(shown.rjust(width) if column in right else shown.ljust(width))
        return gap.join(cells).rstrip()

    click.echo("\n".join([click.style(joined(header), bold=True), *map(joined, first)]))
    lines(joined(line) for line in rest)


def lines(texts: Iterable[str]) -> None:
    """Print lines as they come, a screenful at a time."""
    texts = iter(texts)
    while screenful := [*islice(texts, SCREENFUL)]:
        click.echo("\n".join(screenful))


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


def json_array(values: Iterable[Any]) -> None:
    """Print values as one indented JSON array, as they come."""
    from msgspec.json import encode, format

    before = "[\n"
    values = iter(values)
    while screenful := [*islice(values, SCREENFUL)]:
        texts = [format(encode(value), indent=2).decode() for value in screenful]
        # Within strings a newline is escaped, so every one here is between lines.
        indented = ["  " + text.replace("\n", "\n  ") for text in texts]
        click.echo(before + ",\n".join(indented), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")
