"""How values look: sizes, times, digests, tables for people, JSON for programs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import click

from msb_cache.cli import look
from msb_cache.wording import plural as plural
from msb_cache.wording import short as short
from msb_cache.wording import size as size

_NARROWEST = (10, 8)  # characters that a column of text keeps; the second where that is not enough
SCREENFUL = 100
"""Rows after which a table of any length is as wide as it will be."""


def local_time(ns: int | None) -> str:
    """Return a time (ns since the epoch) in the local zone: ``2026-11-23 13:57:52``."""
    return "-" if ns is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))


def local_time_with_offset(ns: int | None) -> str:
    """Return a time (ns since the epoch) in the local zone with its offset: ``2026-11-23 13:57:52 +0100``."""
    return "-" if ns is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(ns // 10**9))


def in_use(by: Sequence[str], since: str) -> str:
    """Return who uses an image now, and since when: ``in use by sandbox:dev and 2 more since …``."""
    more = f" and {len(by) - 1:,} more" if len(by) > 1 else ""
    return f"in use by {by[0]}{more} since {since}" if by else f"in use since {since}"


def rfc3339(ns: int | None) -> str | None:
    """Return a time (ns since the epoch) as RFC 3339 in UTC with nine digits."""
    if ns is None:
        return None
    seconds, fraction = divmod(ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09}+00:00"


def printable(text: str) -> str:
    """Return text from outside without characters that drive a terminal, turn text around or are not seen.

    They are shown as Python writes them: ``\\x1b``, ``\\u202e``.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Styled(NamedTuple):
    """A part of a line, and how it looks on a terminal: what ``click.style`` takes."""

    text: str
    look: dict[str, Any]


def styled(text: str, **look: Any) -> Styled:
    """Return a part of a line that looks like this on a terminal."""
    return Styled(text, look)


def line(*parts: str | Styled, err: bool = False) -> None:
    """Print one line. All text that people read goes this way, wherever it comes from.

    What would drive a terminal, or begin another line, is shown as what it is.
    """
    click.echo(_rendered(parts), err=err)


def _rendered(parts: Iterable[str | Styled]) -> str:
    return "".join(
        printable(part) if isinstance(part, str) else click.style(printable(part.text), **part.look)
        for part in parts
    ).rstrip()


def error(sentence: str) -> None:
    """Say what went wrong, on stderr."""
    text = _rendered([styled("error:", fg="red", bold=True), f" {sentence}"])
    click.echo(text, err=True, color=look.color())


_WHOLE = (
    (r"sha256:[0-9a-f]{12}", (slice(7, None),)),  # its digits name it, too
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?", (slice(16), slice(10))),
    (r"[0-9a-f]{8}-[0-9a-f]{4}|[a-z]+\.[a-z_]+", (slice(None),)),  # an operation, the type of an event
    (r"\d+ [a-z]+|under a minute", (slice(None),)),  # a duration
)
"""What is of no use with its middle left out, and the parts of it that will do where there is little room."""

Cut = Callable[[str], str]


def _fit(
    header: Sequence[str], rows: Sequence[Sequence[str]], gap: int
) -> tuple[list[int], list[Cut] | None, int]:
    """Return each column's width, how its cells are cut (None: not at all), and the gap between columns.

    On a terminal that has no room for ``gap`` spaces between them, it is two.
    """
    columns = [*zip(header, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    room = look.room()
    if room is None:
        return widths, None, gap
    if sum(widths) + gap * (len(widths) - 1) <= room:
        return widths, None, gap
    for level, narrowest in enumerate(_NARROWEST):
        parts = [_part(column[1:], level) for column in columns]
        widths = [
            max([len(name), *(len(part(cell) if part else cell) for cell in cells)])
            for part, (name, *cells) in zip(parts, columns, strict=True)
        ]
        texts = [index for index, part in enumerate(parts) if part is None]
        over = sum(widths) + 2 * (len(widths) - 1) - room
        while over > 0 and texts:
            widest = max(texts, key=widths.__getitem__)
            if widths[widest] <= narrowest:
                break
            widths[widest] -= 1
            over -= 1
        if over <= 0:
            break
    return widths, [part or _middle_out(width) for part, width in zip(parts, widths, strict=True)], 2


def _part(cells: Sequence[str], level: int) -> Cut | None:
    """Return what takes of each cell the part that will do; None if the cells are text."""
    known = [cell for cell in cells if cell not in ("", "-")]
    for pattern, parts in _WHOLE if known else ():
        if all(re.fullmatch(pattern, cell) for cell in known):
            part = parts[min(level, len(parts) - 1)]
            return lambda cell: cell[part] if re.fullmatch(pattern, cell) else cell
    return None


def _middle_out(width: int) -> Cut:
    def cut(cell: str) -> str:
        if len(cell) <= width:
            return cell
        if cell.startswith("sha256:"):
            return cell[7 : 7 + width]  # by its beginning it can be asked for
        keep = width - 1
        return f"{cell[: keep - keep // 2]}…{cell[len(cell) - keep // 2 :]}"

    return cut


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns; those in ``right`` are aligned to the right."""
    _print_rows(header, [[printable(cell) for cell in row] for row in rows], (), right)


def whole_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), err: bool = False
) -> None:
    """Print aligned columns of which nothing is cut.

    A terminal without room for that has the last one on a line of its own, below the others.
    """
    cells = [[*header], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = look.room(err=err)
    fits = room is None or sum(widths) + 3 * (len(widths) - 1) <= room

    def rendered() -> Iterator[Sequence[str | Styled]]:
        for number, row in enumerate(cells):
            padded = _padded(row, widths, right)
            shown = ["   ".join(padded)] if fits else ["  ".join(padded[:-1]), f"    {row[-1]}"]
            for text in map(str.rstrip, shown):
                if text:
                    yield [text] if number else [styled(text, bold=True)]

    lines(rendered(), err=err)


def long_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table of any length as its rows come; the first screenful gives the columns their widths."""
    lines = ([printable(cell) for cell in row] for row in rows)
    _print_rows(header, [*islice(lines, SCREENFUL)], lines, right)


def _print_rows(
    header: Sequence[str], first: list[list[str]], rest: Iterable[list[str]], right: Sequence[int]
) -> None:
    widths, cuts, space = _fit(header, first, 3)
    gap = " " * space

    def joined(cells: Sequence[str]) -> str:
        return gap.join(_padded(cells, widths, right)).rstrip()

    def row(cells: Sequence[str]) -> tuple[str]:
        return (joined(_cut(cells, cuts)),)

    lines(chain([[styled(joined(header), bold=True)]], map(row, first)))
    lines(map(row, rest))


def _cut(line: Sequence[str], cuts: list[Cut] | None) -> Sequence[str]:
    return line if cuts is None else [cut(cell) for cut, cell in zip(cuts, line, strict=True)]


def _padded(line: Sequence[str], widths: Sequence[int], right: Sequence[int] = ()) -> list[str]:
    return [
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def fitted(rows: Sequence[Sequence[str]]) -> Callable[[Sequence[str]], list[str]]:
    """Return what cuts and pads the cells of these rows, and of later ones, for columns two spaces apart."""
    lines = [[*map(printable, row)] for row in rows]
    widths, cuts, _ = _fit([""] * len(lines[0]), lines, 2)
    return lambda row: _padded(_cut([*map(printable, row)], cuts), widths)


def lines(found: Iterable[Sequence[str | Styled]], *, err: bool = False) -> None:
    """Print lines, each of its parts, as they come, a screenful at a time."""
    texts = map(_rendered, found)
    while screenful := [*islice(texts, SCREENFUL)]:
        click.echo("\n".join(screenful), err=err)


def columns(rows: Iterable[Sequence[str]], *, err: bool = False) -> None:
    """Print aligned columns without a header, indented."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for cells in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        line(f"  {text}", err=err)


def json(value: Any) -> None:
    """Print a value as indented JSON, with keys in the order given."""
    import json as encoder

    click.echo(_escaped(encoder.dumps(value, indent=2, ensure_ascii=False)))


def json_lines(values: Iterable[Any]) -> None:
    """Print values as one line of JSON each."""
    from msgspec.json import encode

    click.echo(_escaped("\n".join(encode(value).decode() for value in values)))


def json_line(value: Any) -> None:
    """Print a value as one line of JSON."""
    import json as encoder

    click.echo(_escaped(encoder.dumps(value, ensure_ascii=False)))


def document(text: str, *, err: bool = False) -> None:
    """Print a document of several lines as it is, but for what would drive a terminal."""
    click.echo("\n".join(map(printable, text.split("\n"))), nl=False, err=err)


def _escaped(text: str) -> str:
    """Return JSON text with what would drive a terminal written as JSON can: the value stays the same.

    JSON itself escapes only what is below a space.
    """
    if text.isascii() and "\x7f" not in text:
        return text
    return re.sub(r"[^ -~\n]", _escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def json_array(values: Iterable[Any]) -> None:
    """Print values as one indented JSON array, as they come."""
    from msgspec.json import encode, format

    before = "[\n"
    values = iter(values)
    while screenful := [*islice(values, SCREENFUL)]:
        texts = [_escaped(format(encode(value), indent=2).decode()) for value in screenful]
        # Within strings a newline is escaped, so every one here is between lines.
        indented = ["  " + text.replace("\n", "\n  ") for text in texts]
        click.echo(before + ",\n".join(indented), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")
