"""The sql command: what a home's database answers to a query, and the views that it can ask."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import duration_ns, examples, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Column, show

if TYPE_CHECKING:
    from msb_cache.queries.sql import SqlRow, SqlValue

_LONGEST = 1 << 20
_MOST_DIGITS = 18
"""Of a number: with more it may be no integer of SQLite's."""


def _named(
    ctx: click.Context, parameter: click.Parameter, given: tuple[tuple[str, str], ...]
) -> dict[str, SqlValue]:
    return {name.lstrip(":@$"): _value(text) for name, text in given}


def _value(text: str) -> SqlValue:
    """Return a number for text that is just how SQLite would write an integer: in SQL, 5 is not '5'."""
    digits = text.removeprefix("-")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS
    return int(text) if is_number and str(int(text)) == text else text


def _seconds(ctx: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    return None if text is None else duration_ns(text) / 1e9


@click.command(
    short_help="Ask the database itself, in SQL.",
    epilog=examples(
        "msb-cache sql 'select image, size_bytes from v_images order by 2 desc limit 5'",
        'msb-cache sql "select * from v_events where type = :type" -p type image.removed --format csv',
    ),
)
@click.argument("query", metavar="[QUERY]", required=False)
@click.option(
    "-p",
    "--param",
    "parameters",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    callback=_named,
    help="The value for :NAME in the query; repeatable.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=_seconds,
    help="How long the database may work on it.  [default: 10 seconds]",
)
@shown_options("the first column", more=("csv",))
@click.pass_obj
def sql(
    home: str | None,
    query: str | None,
    parameters: dict[str, SqlValue],
    timeout: float | None,
    shown: Shown,
) -> None:
    """Ask the home's database in SQL; nothing can be changed that way.

    The views v_images, v_events, v_prunes, v_holders and v_layers are made for people; without a QUERY, they
    are listed with their columns. QUERY `-` is read from standard input.
    """
    if query is None:
        _print(_columns(), shown)
        return
    bounds = {} if timeout is None else {"timeout": timeout}
    with open_cache(home) as cache:
        _print(cache.iter_sql(_read() if query == "-" else query, parameters, **bounds), shown)


COMMAND = sql


def _read() -> str:
    return sys.stdin.read(_LONGEST + 1)  # one too long is refused


def _columns() -> Iterator[SqlRow]:
    from msb_cache.projections.views import VIEWS

    for view in VIEWS:
        for column in view.columns:
            yield {"view": view.name, "column": column.name, "meaning": column.meaning}


def _print(rows: Iterator[SqlRow], shown: Shown) -> None:
    plain = ({name: _plain(value) for name, value in row.items()} for row in rows)
    if shown.kind != "csv":
        shown.items(plain, fields=lambda row: row, name=_first, table=_print_table)
    elif (first := next(plain, None)) is not None:
        output.csv([*first], (row.values() for row in chain([first], plain)))


def _first(row: dict[str, Any]) -> str:
    return _text(next(iter(row.values())))


def _text(value: SqlValue) -> str:
    return "-" if value is None else str(value)


def _print_table(rows: Iterable[dict[str, Any]]) -> None:
    found = iter(rows)
    if (first := next(found, None)) is None:
        output.line("No rows.", err=True)
        return
    # A column of numbers is as wide as they are, one of text goes on below.
    columns = [
        Column(name, "count" if isinstance(value, int | float) else "name") for name, value in first.items()
    ]
    show(columns, ([*map(_text, row.values())] for row in chain([first], found)))


def _plain(value: SqlValue) -> SqlValue:
    """Return a value as JSON can have it: bytes in hexadecimal, and no number that is infinite."""
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and abs(value) == float("inf") else value
