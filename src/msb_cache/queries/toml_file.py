"""A file in TOML that people write: read with a bound, and of each mistake the line and what is right.

What the keys of a file mean is for the module that reads it, and nothing here knows any of them.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from msb_cache.errors import InvalidConfigError, InvalidReferenceError
from msb_cache.oci.digest import shown

_LARGEST = 64 * 1024
_MOST_TRIED = 1 << 20
"""Characters that are read at most to find out in which lines statements begin."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")

Path = tuple[str | int, ...]
"""Where a value stands in a document: names of tables and keys, and positions in lists of tables."""


class Mistake(NamedTuple):
    """One thing that is wrong with a file: in which line, at which key, and what would be right.

    ``line`` counts from 1; None: it is about the file as a whole. ``key`` is empty where it is no key's.
    """

    line: int | None
    key: str
    problem: str

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.key}: {self.problem}" if self.key else f"{place}{self.problem}"


class Kind(NamedTuple):
    """What a key takes: a test of its value, what that is called, and an example."""

    fits: Callable[[Any], bool]
    what: str
    example: str


def is_text(value: object) -> bool:
    """Return whether a value is text."""
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """Return whether a value is an integer as TOML has them."""
    # TOML has integers of 64 bits; Python reads any, and writes not all of them.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_amount(value: object) -> bool:
    """Return whether a value is a number, or text that says one."""
    return is_text(value) or is_number(value)


def is_list(value: object) -> bool:
    """Return whether a value is a list of texts, or one text."""
    return is_text(value) or (isinstance(value, list) and all(map(is_text, value)))


def is_table(value: object) -> bool:
    """Return whether a value is a table."""
    return isinstance(value, dict)


def are_tables(value: object) -> bool:
    """Return whether a value is a list of tables."""
    return isinstance(value, list) and all(map(is_table, value))


def texts(value: str | list[str]) -> tuple[str, ...]:
    """Return the texts of a list, or the one that stands for a list of it."""
    return (value,) if isinstance(value, str) else tuple(value)


def text_of(path: str, what: str) -> str:
    """Return the text of a file of at most 64 KiB; ``what`` it should be is said of one that is longer.

    Raises:
        InvalidConfigError: it cannot be read; names the file.
    """
    return text_and_owner(path, what)[0]


def text_and_owner(path: str, what: str) -> tuple[str, int]:
    """Return the text of a file, as ``text_of``, and whose the file is: the user's number."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a pipe there is no end
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidConfigError(f"{path} is no file")
            data = file.read(_LARGEST + 1)
        text = data.decode()
    except OSError as error:
        raise InvalidConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidConfigError(f"{path}: line {line}: it is no UTF-8; save it as that") from None
    if len(data) > _LARGEST:
        raise InvalidConfigError(f"{path} is longer than {_LARGEST // 1024} KiB, so it is no {what}")
    return text, found.st_uid


def no_toml(error: Exception) -> Mistake:
    """Return the mistake of a file that ``tomllib`` cannot read: a ValueError, or a RecursionError."""
    said = str(error) if isinstance(error, ValueError) else "it is nested too deep"
    found = _AT.search(said)
    line = None if found is None or found["line"] is None else int(found["line"])
    where = f", column {found['column']}" if found is not None and found["line"] is not None else ""
    return Mistake(line, "", f"it is no TOML: {_AT.sub('', said)}{where}")


class Reader:
    """Reads one document, and collects what is wrong with it; a reader of a kind of file is made of it."""

    def __init__(self, text: str, document: Mapping[str, Any]) -> None:
        self._text = text
        self._lines: Mapping[Path, int] | None = None
        self.document = document
        self.mistakes: list[Mistake] = []

    def fields(self, table: Mapping[str, Any], kinds: Mapping[str, Kind], at: Path) -> dict[str, Any]:
        """Return what a table has, by key with ``_`` for ``-``; what it cannot have is a mistake."""
        found = {}
        for key, value in table.items():
            kind = kinds.get(key)
            if kind is None:
                near = get_close_matches(key.replace("_", "-").lower(), kinds, 1)
                meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(kinds)}"
                self.wrong((*at, key), f"there is no such key; {meant}")
            elif not kind.fits(value):
                whole = kind.fits in (is_table, are_tables)
                example = kind.example if whole else f"{key} = {kind.example}"
                self.wrong((*at, key), f"it takes {kind.what}; write {example}")
            else:
                found[key.replace("-", "_")] = value
        return found

    def check(self, at: Path, meaning: Callable[..., object], *arguments: object) -> None:
        """Take down what is wrong with a value, as what gives it its meaning says."""
        try:
            meaning(*arguments)
        except (InvalidConfigError, InvalidReferenceError) as error:
            self.wrong(at, str(error))

    def wrong(self, at: Path, problem: str) -> None:
        """Take down that something is wrong with the value that stands there."""
        key = str(at[-1]) if at and isinstance(at[-1], str) else ""
        named = key if not key or _KEY.fullmatch(key) else shown(key)
        self.mistakes.append(Mistake(self.line(at), named, problem))

    def line(self, at: Path) -> int | None:
        """Return in which line a value stands, else the table that it is in; None: not known."""
        if self._lines is None:
            self._lines = dict(lines(self._text))
        while at and at not in self._lines:
            if (*at, 0) in self._lines:  # a list of tables, which begins with the first of them
                return self._lines[*at, 0]
            at = at[:-1]
        return self._lines.get(at)


def lines(text: str) -> Iterator[tuple[Path, int]]:
    """Yield the path of each table and key of a document that is TOML, with the line in which it begins.

    A document is a sequence of statements, each of which is one by itself: so no grammar is needed.
    """
    tables: Counter[Path] = Counter()
    table: Path = ()
    first, statement, tried = 1, "", 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not statement:
            first = number
        statement += line
        if number > first and not any(end in line for end in ("]", "}", '"""', "'''")):
            continue  # it ends none that goes over several lines
        tried += len(statement)
        if tried > _MOST_TRIED:
            return
        try:
            parsed = tomllib.loads(statement)
        except ValueError:
            continue
        statement, is_header = "", line.lstrip().startswith("[") and number == first
        if is_header:
            (names,) = list(_paths(parsed))[-1:]
            table = names
            if isinstance(_at(parsed, names), list):
                table = (*names, tables[names])
                tables[names] += 1
            yield table, first
        else:
            for names in _paths(parsed):
                yield (*table, *names), first


def _paths(found: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the path of each value, those of tables before those in them."""
    for key, value in found.items():
        yield (key,)
        if isinstance(value, dict):
            for below in _paths(value):
                yield (key, *below)


def _at(found: Mapping[str, Any], names: Path) -> Any:
    value: Any = found
    for name in names:
        value = value[name]
    return value
