"""Tables for people: each column says what it holds, and what happens to it where there is little room.

In a pipe or a file nothing is shortened. On a terminal no line is wider than it is, down to 60 columns:
columns of little use are left out, texts end with an ellipsis, and what identifies or measures is never
destroyed. A name without room stands on a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from msb_cache.cli import look, output
from msb_cache.cli.output import SCREENFUL, Styled, printable
from msb_cache.errors import InvalidConfigError
from msb_cache.wording import duration, size

Kind = Literal[
    "text", "name", "prose", "word", "digest", "operation", "size", "count", "time", "duration", "bar"
]
"""What a column holds.

``text`` ends with an ellipsis where there is no room. A ``name`` is whole: in the first column it stands on
a line above the others then, elsewhere it goes on in the next line; one that is a digest is shown as such.
``prose`` is whole, too, and stands below the others then: if it is the last column, that of all rows. The
others are whole: a ``word``; a ``digest``, on terminals its first twelve digits; the id of an ``operation``,
on terminals its beginning; a ``size`` in bytes, a ``count``; a ``time`` in ns since the epoch, of which date
and time of day may stand below each other, and a ``duration`` in ns; a ``bar``, see ``with_bars``. Each may
be text instead, which is shown as it is, or None, which is shown as ``-``.
"""

Cell = str | int | None | Styled
Text = str | Styled

_RIGHT = ("size", "count")
_LEAST = {"name": (32, 16, 16), "text": (16, 8, 8), "prose": (16, 8, 8), "time": (99, 99, 14)}
"""Characters that a column keeps before others are left out, and the least if that is not enough."""
_LEVELS = range(3)
_DIGITS = ("sha256:", slice(7, 19))
_PARTS = {"digest": _DIGITS, "name": _DIGITS, "operation": ("", slice(13))}
"""The part of a cell that a terminal shows, if it begins so: by it the whole can be asked for."""
_LEAST_BAR, _WIDEST_BAR, _BAR_IN_PIPES = 10, 40, 20
_NARROWEST_WITH_BARS = 60  # columns of a terminal
_INDENT = 4
_SHORT = 24  # characters of names that need no line of their own
_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
_BREAKS = ("/:@, ", "-._=")
"""Behind these a name that has no room goes on in the next line, if they are near its end."""


class Column(NamedTuple):
    """A column: its header, what it holds, and in which turn it is left out where there is no room.

    ``leave`` 0: never; of the others the greatest goes first.
    """

    header: str
    kind: Kind = "text"
    leave: int = 0

    @property
    def name(self) -> str:
        """Its name in settings: ``last_used``."""
        return self.header.lower().replace(" ", "_") or "mark"


def show(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    *,
    err: bool = False,
    of: str | None = None,
) -> None:
    """Print a table as its rows come; the first screenful gives the columns their widths.

    Args:
        columns: what there is to show.
        rows: cells in the order of the columns.
        err: on stderr.
        of: the command whose table it is, if the settings may say which columns that has.

    Raises:
        InvalidConfigError: they name a column that is none of these.
    """
    wanted = None if of is None else look.columns(of)
    if wanted is not None:
        assert of is not None  # noqa: S101
        at = _places(columns, wanted, of)
        columns = [columns[n]._replace(leave=0) for n in at]
        rows = ([row[n] for n in at] for row in rows)
    output.lines(rendered(columns, rows, err=err), err=err)


def no_column(command: str, name: str, names: Sequence[str]) -> str:
    """Return the sentence about a column that the table of a command does not have."""
    return f"{command} has no column {name!r}; there are: {', '.join(names)}"


def _places(columns: Sequence[Column], wanted: Sequence[str], command: str) -> list[int]:
    names = [column.name for column in columns]
    for name in wanted:
        if name not in names:
            raise InvalidConfigError(
                f"{look.source(f'columns.{command}')}: {no_column(command, name, names)}"
            )
    return [names.index(name) for name in wanted]


def with_bars(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    bars: Column,
    draw: Callable[[int, int], str],
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]]]:
    """Return a table with a last column of bars, where everything else has room beside them; else as it is.

    It stays as it is, too, if there is nothing in any bar. Columns that are left out in a later turn than
    the bars make room for them.

    Args:
        columns: the others.
        rows: their cells.
        bars: the column of bars; its header may be a legend.
        draw: returns the bar of the row with a number, in at most so many characters.
    """
    rows = [*rows]
    room = look.room()
    width: int | None = max(_BAR_IN_PIPES, len(bars.header))
    shown = [*range(len(columns))]
    if room is not None:
        formats = [_format(column.kind, room, err=False) for column in columns]
        natural = [
            max([len(column.header), *(_length(format(row[n])) for row in rows[:SCREENFUL])])
            for n, (column, format) in enumerate(zip(columns, formats, strict=True))
        ]
        while (width := _room_of_bars([natural[n] for n in shown], room, bars.header)) is None:
            leaving = max(shown, key=lambda n: (columns[n].leave, n))
            if columns[leaving].leave <= bars.leave:
                return columns, rows
            shown.remove(leaving)
    assert width is not None  # noqa: S101
    cells = []
    for number, row in enumerate(rows):
        bar = draw(number, width)
        cells.append([*(row[n] for n in shown), Styled(bar, {"fg": "cyan"}) if bar else ""])
    if not any(row[-1] for row in cells):
        return columns, rows
    return [*(columns[n] for n in shown), bars], cells


def _room_of_bars(others: Sequence[int], room: int, header: str) -> int | None:
    """Return how wide bars are beside columns of these widths; None: there is too little room for them."""
    least = max(_LEAST_BAR, len(header))
    if room < _NARROWEST_WITH_BARS:
        return None
    for gap in (3, 2):
        left = room - _taken(others, gap) - gap
        if left >= least:
            return min(left, max(least, _WIDEST_BAR))
    return None


def rendered(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    *,
    err: bool = False,
    header: bool = True,
    gap: int = 3,
) -> Iterator[Sequence[str | Styled]]:
    """Yield a table's lines, in their parts; a table without rows has no header either."""
    room = look.room(err=err)
    formats = [_format(column.kind, room, err=err) for column in columns]

    def formatted(row: Sequence[Cell]) -> list[Text]:
        return [format(cell) for format, cell in zip(formats, row, strict=True)]

    cells = map(formatted, rows)
    first = [*islice(cells, SCREENFUL)]
    if not first:
        return
    layout = _Layout.of(columns, first, room, gap, header=header)
    if header:
        yield layout.header()
    for row in chain(first, cells):
        yield from layout.lines(row)


def _format(kind: Kind, room: int | None, *, err: bool) -> Callable[[Cell], Text]:
    """Return what makes text of a column's cells; a table can have many."""
    number: Callable[[int], str] = "{:,}".format
    if kind == "time":
        number = look.moments(err=err)
    elif kind == "size":
        number = size
    elif kind == "duration":
        number = duration
    part = _PARTS.get(kind) if room is not None else None

    def text(cell: Cell) -> Text:
        if isinstance(cell, str):  # first: most are
            if part is not None and cell.startswith(part[0]):
                cell = cell[part[1]]
            return cell if cell.isprintable() else printable(cell)
        if cell is None:
            return "-"
        if isinstance(cell, int):
            return number(cell)
        return cell._replace(text=printable(cell.text))

    return text


class _Layout:
    """Which columns of a table are shown, and how wide; a width of 0 is that of a column below the others.

    Args:
        columns: those that are shown.
        shown: which they are of a row's.
        widths: of each in characters.
        gap: what stands between two.
        room: the terminal's width; None: nothing is shortened.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        shown: Sequence[int],
        widths: Sequence[int],
        gap: str,
        room: int | None,
    ) -> None:
        self.columns, self.shown, self.widths, self.gap, self.room = columns, shown, widths, gap, room
        self.line = gap.join(
            f"{{:{'>' if column.kind in _RIGHT else '<'}{width}}}" if width else "{}"
            for column, width in zip(columns, widths, strict=True)
        )
        """What ``str.format`` makes a line of, of cells that have room and no look of their own."""

    @classmethod
    def of(
        cls,
        columns: Sequence[Column],
        rows: Sequence[Sequence[Text]],
        room: int | None,
        gap: int,
        *,
        header: bool,
    ) -> _Layout:
        """Return the layout for these rows.

        On a terminal that has no room for ``gap`` spaces between columns, it is two.
        """
        natural = [
            max([len(column.header) if header else 0, *(_length(row[n]) for row in rows)])
            for n, column in enumerate(columns)
        ]
        if room is None or _taken(natural, gap) <= room:
            return cls(columns, range(len(columns)), natural, " " * gap, room)
        if columns[-1].kind == "prose":
            natural[-1] = 0
        shown, widths = _chosen(columns, natural, room)
        if columns[0].kind == "name" and widths[0] < natural[0]:
            # Some stand above the others: then the shorter ones alone say how wide it is.
            lengths = [length for row in rows if (length := _length(row[0])) <= _SHORT]
            natural[0] = max([len(columns[0].header) if header else 0, _INDENT, *lengths])
            shown, widths = _chosen(columns, natural, room)
        return cls([columns[n] for n in shown], shown, widths, "  ", room)

    def header(self) -> Sequence[Text]:
        """Return the line of headers."""
        names = [
            column.header if width else "" for column, width in zip(self.columns, self.widths, strict=True)
        ]
        return [Styled("".join(map(str, self._joined(names))), {"bold": True})]

    def lines(self, row: Sequence[Text]) -> Iterator[Sequence[Text]]:
        """Yield the lines of a row."""
        cells = [row[n] for n in self.shown]
        if self.room is None or all(map(_fits, cells, self.widths)):
            yield self._joined(cells)
            return
        below: Text = ""
        if self.columns[0].kind == "name" and not _fits(cells[0], self.widths[0]):
            yield from ([part] for part in _wrapped(cells[0], self.room))
            cells[0] = ""
        for at, width in enumerate(self.widths):
            if self.columns[at].kind == "prose" and not _fits(cells[at], width):
                below, cells[at] = cells[at], ""
        stacks = [[*self._fitted(at, cell)] for at, cell in enumerate(cells)]
        for number in range(max(map(len, stacks))):
            parts = self._joined([stack[number] if number < len(stack) else "" for stack in stacks])
            if parts:
                yield parts
        for text in paragraph(_text(below), self.room - _INDENT) if _text(below) not in ("", "-") else ():
            yield [" " * _INDENT, _like(below, text)]

    def _fitted(self, at: int, cell: Text) -> Iterator[Text]:
        kind, width = self.columns[at].kind, self.widths[at]
        if _fits(cell, width):
            yield cell
        elif kind == "name":
            yield from _wrapped(cell, width)
        elif kind == "time":
            yield from (_like(cell, part) for part in _text(cell).split(" ", 1))
        elif kind == "text":
            yield _like(cell, _cut(_text(cell), width))
        else:
            yield cell

    def _joined(self, cells: Sequence[Text]) -> Sequence[Text]:
        if Styled not in map(type, cells):
            line = self.line.format(*cells).rstrip()
            return (line,) if line else ()
        padded = [
            _like(cell, _text(cell).rjust(width) if column.kind in _RIGHT else _text(cell).ljust(width))
            for cell, column, width in zip(cells, self.columns, self.widths, strict=True)
        ]
        last = padded[-1] if self.columns[-1].kind in _RIGHT else cells[-1]
        return [*chain.from_iterable((cell, self.gap) for cell in padded[:-1]), last]


def _text(cell: Text) -> str:
    return cell if isinstance(cell, str) else cell.text


def _length(cell: Text) -> int:
    return len(_text(cell))


def _fits(cell: Text, width: int) -> bool:
    return len(_text(cell)) <= width


def _like(cell: Text, text: str) -> Text:
    return text if isinstance(cell, str) else cell._replace(text=text)


def _chosen(columns: Sequence[Column], natural: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Return which columns have room, and how wide they are; ``natural`` is as wide as their cells."""
    is_tight = _taken(natural, 2) > room
    shown = [n for n, column in enumerate(columns) if not (is_tight and column.kind == "bar")]
    for level in _LEVELS:
        while _taken([_least(columns[n], natural[n], level) for n in shown], 2) > room:
            leaving = max(shown, key=lambda n: (columns[n].leave, n))
            if not columns[leaving].leave:
                break
            shown.remove(leaving)
        else:
            break
    widths = [_least(columns[n], natural[n], level) for n in shown]
    spare = room - _taken(widths, 2)
    # What names need comes first; a column that needs much leaves the others their part.
    for of_names in (True, False):
        group = [at for at, n in enumerate(shown) if (columns[n].kind == "name") is of_names]
        group = [at for at in group if columns[shown[at]].kind != "time" and widths[at] < natural[shown[at]]]
        group.sort(key=lambda at: natural[shown[at]] - widths[at])
        for others, at in zip(range(len(group), 0, -1), group, strict=True):
            more = min(natural[shown[at]] - widths[at], spare // others)
            widths[at] += more
            spare -= more
    return shown, widths


def _taken(widths: Sequence[int], gap: int) -> int:
    shown = [width for width in widths if width]
    return sum(shown) + gap * (len(shown) - 1)


def _least(column: Column, natural: int, level: int) -> int:
    least = _LEAST.get(column.kind)
    return natural if least is None else min(natural, max(least[level], len(column.header)))


def _cut(text: str, width: int) -> str:
    """Return the beginning of a text, with an ellipsis; a time in it is there as a whole, or not at all."""
    import re  # where all has room, nothing is cut

    end = width - 1
    for time in re.finditer(_TIME, text):
        if time.start() < end < time.end():
            end = time.start()
    return f"{text[:end].rstrip()}…"


def _wrapped(cell: Text, width: int) -> Iterator[Text]:
    return (_like(cell, part) for part in _broken(_text(cell), width))


def _broken(text: str, width: int) -> Iterator[str]:
    """Yield a name in parts of at most so many characters."""
    while len(text) > width:
        near = range(width - 1, width * 2 // 3 - 1, -1)
        end = next((at + 1 for marks in _BREAKS for at in near if text[at] in marks), width)
        yield text[:end]
        text = text[end:]
    yield text


def paragraph(text: str, width: int | None) -> Iterator[str]:
    """Yield a sentence in lines of at most so many characters; a time is one word; a longer one is broken."""
    if width is None or len(text) <= width:
        yield text
        return
    import re  # most sentences have room

    line = ""
    for word in re.findall(rf"[^ ]*?{_TIME}[^ ]*|[^ ]+|(?<= )(?= )", text):
        if line and len(line) + 1 + len(word) <= width:
            line += f" {word}"
            continue
        if line:
            yield line.rstrip()
        *parts, line = _broken(word, width)
        yield from parts
    yield line


def sentence(*parts: str | Styled, indent: int = 0, err: bool = False) -> None:
    """Print a sentence; what has no room in its line goes on in others, further in."""
    room, texts = look.room(err=err), [printable(_text(part)) for part in parts]
    whole = "".join(texts).rstrip()
    if room is None or indent + len(whole) <= room:
        output.line(" " * indent, *parts, err=err)
        return
    first, *others = paragraph(whole, room - indent - _INDENT)
    output.lines([[" " * indent, first], *([" " * (indent + _INDENT), text] for text in others)], err=err)


_DIGEST = len("sha256:") + 64


def hanging(text: str, *before: str | Styled, err: bool = False) -> None:
    """Print a sentence behind what begins its line; on a terminal it goes on below its own beginning."""
    room, indent = look.room(err=err), sum(map(_length, before))
    parts = paragraph(printable(text), None if room is None else max(room - indent, _INDENT))
    output.lines(
        ([*before, part] if not number else [" " * indent, part] for number, part in enumerate(parts)),
        err=err,
    )


def fields(pairs: Iterable[tuple[str, str | Styled]], *, name_width: int = 0, indent: int = 0) -> None:
    """Print ``Name: value`` lines, values below each other; a long one goes on below its beginning.

    Of a digest without room the first twelve digits are shown, by which it can be asked for.
    """
    found = [*pairs]
    names = [f"{name}:" if name else "" for name, _ in found]
    behind = max([name_width, *map(len, names)]) + 1
    room = look.room()
    lines: list[list[Any]] = []
    for name, (_, value) in zip(names, found, strict=True):
        cell = value if isinstance(value, Styled) else Styled(value, {})
        cell = cell._replace(text=printable(cell.text))
        left = None if room is None else room - indent - behind
        if left is not None and left < len(cell.text) == _DIGEST and cell.text.startswith("sha256:"):
            cell = cell._replace(text=cell.text[7:19])
        texts = [cell.text] if left is None else [*paragraph(cell.text, left)]
        for number, text in enumerate(texts):
            lines.append([" " * indent, (name if not number else "").ljust(behind), cell._replace(text=text)])
    output.lines(lines)
