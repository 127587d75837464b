"""Lines for people and JSON for programs: all that is printed goes this way. Tables are in tables.py."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import click

from msb_cache.cli import look
from msb_cache.shapes import rfc3339 as rfc3339
from msb_cache.wording import plural as plural
from msb_cache.wording import printable as printable
from msb_cache.wording import short as short
from msb_cache.wording import size as size

SCREENFUL = 100
"""Rows after which a table of any length is as wide as it will be."""


def in_use(by: Sequence[str], since: str) -> str:
    """Return who uses an image now, and since when: ``in use by sandbox:dev and 2 more since …``."""
    more = f" and {len(by) - 1:,} more" if len(by) > 1 else ""
    return f"in use by {by[0]}{more} since {since}" if by else f"in use since {since}"


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


def lines(found: Iterable[Sequence[str | Styled]], *, err: bool = False) -> None:
    """Print lines, each of its parts, as they come, a screenful at a time."""
    texts = map(_rendered, found)
    while screenful := [*islice(texts, SCREENFUL)]:
        click.echo("\n".join(screenful), err=err)


def written(texts: Iterable[str]) -> None:
    """Print texts that are printable already, or as their writer wants them, a screenful at a time."""
    texts = iter(texts)
    while screenful := [*islice(texts, SCREENFUL)]:
        click.echo("\n".join(screenful))


def json(value: Any) -> None:
    """Print a value as indented JSON, with keys in the order given."""
    import json as encoder

    click.echo(_escaped(encoder.dumps(value, indent=2, ensure_ascii=False)))


def json_lines(values: Iterable[Any]) -> None:
    """Print values as one line of JSON each."""
    from msgspec.json import encode

    click.echo(_escaped("\n".join(encode(value).decode() for value in values)))


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


def csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print values as CSV as they come; None is empty. A program gets text from outside as it is."""
    from csv import writer

    def cell(value: Any) -> Any:
        return printable(value) if shown and isinstance(value, str) else value

    shown = look.on_terminal(sys.stdout)
    lines = ([*map(cell, row)] for row in chain([header], rows))
    while screenful := [*islice(lines, SCREENFUL)]:
        text = io.StringIO(newline="")
        writer(text, lineterminator="\n").writerows(screenful)
        click.echo(text.getvalue(), nl=False)
