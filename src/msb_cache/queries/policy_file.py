"""The policy file of a home: where it lies, what it says, and of each mistake the line and what is right.

It is TOML, in the words of ``msb-cache prune``::

    max-delete = "50%"

    [keep]
    references = ["python", "registry.example/base/*"]
    labels = ["keep=yes"]

    [[rule]]
    name = "ci"
    filter = ["reference=ci/*"]
    unused-for = "3d"

    [[rule]]
    name = "room"
    max-size = "80GiB"

    [watermarks]
    high = "85%"
    low = "80%"
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, NamedTuple

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import InvalidConfigError, InvalidReferenceError
from msb_cache.oci.digest import shown
from msb_cache.queries.policy import limit_of, marks_of, rule_of
from msb_cache.retention.policy import WATERMARKS, CachePolicy, NamedRule, PrunePolicy, Watermarks
from msb_cache.wording import plural, quoted

_LARGEST = 64 * 1024
_MOST_RULES = 100
_MOST_TRIED = 1 << 20
"""Characters that are read at most to find out in which lines statements begin."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_LIMITS = ("unused_for", "older_than", "keep_last", "max_size", "min_free", "filter")
"""What says of a rule that less than all is meant."""

Path = tuple[str | int, ...]


class PolicyMistake(NamedTuple):
    """One thing that is wrong with a policy file: in which line, at which key, and what would be right.

    ``line`` counts from 1; None: it is about the file as a whole. ``key`` is empty where it is no key's.
    """

    line: int | None
    key: str
    problem: str

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.key}: {self.problem}" if self.key else f"{place}{self.problem}"


class _Kind(NamedTuple):
    """What a key takes: a test of its value, what that is called, and an example."""

    fits: Callable[[Any], bool]
    what: str
    example: str


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    # TOML has integers of 64 bits; Python reads any, and writes not all of them.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_amount(value: object) -> bool:
    return _is_text(value) or _is_number(value)


def _is_list(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_table, value))


_RULE = {
    "name": _Kind(_is_text, "text", '"ci"'),
    "filter": _Kind(_is_list, "a list of texts", '["reference=ci/*"]'),
    "exclude": _Kind(_is_list, "a list of texts", '["ci/base"]'),
    "unused-for": _Kind(_is_text, "a duration in quotes", '"14d"'),
    "older-than": _Kind(_is_text, "a duration in quotes", '"30d"'),
    "keep-last": _Kind(_is_number, "a number", "2"),
    "keep-last-by": _Kind(_is_text, "text", '"pulled"'),
    "max-size": _Kind(_is_amount, "a size in quotes", '"80GiB"'),
    "min-free": _Kind(_is_amount, "a size or share in quotes", '"10%"'),
    "grace": _Kind(_is_text, "a duration in quotes", '"1h"'),
}
_KEEP = {
    "references": _Kind(_is_list, "a list of texts", '["python", "base/*"]'),
    "labels": _Kind(_is_list, "a list of texts", '["keep=yes"]'),
    "digests": _Kind(_is_list, "a list of texts", '["sha256:695829d7"]'),
}
_MARKS = {
    "high": _Kind(_is_amount, "a size or share in quotes", '"85%"'),
    "low": _Kind(_is_amount, "a size or share in quotes", '"80%"'),
}
_FILE = {
    "max-delete": _Kind(_is_amount, "a number, or a share in quotes", '"50%"'),
    "keep": _Kind(_is_table, "a table", "[keep]"),
    "rule": _Kind(_are_tables, "a list of tables", "[[rule]]"),
    "watermarks": _Kind(_is_table, "a table", "[watermarks]"),
}
_FILTERS = {"references": "reference", "labels": "label", "digests": "digest"}


def find(layout: Layout) -> str | None:
    """Return the path of the policy that holds in a home: the home's own, else the user's; or None."""
    found = (path for path in places(layout) if os.path.isabs(path) and os.path.lexists(path))
    return next(found, None)  # a user without a home has no configuration: not what lies in this folder


def required(layout: Layout) -> str:
    """Return the path of the policy file that holds in a home.

    Raises:
        InvalidConfigError: there is none.
    """
    found = find(layout)
    if found is None:
        raise missing(layout.home)
    return found


def missing(home: object) -> InvalidConfigError:
    """Return the error about a home without a policy file."""
    return InvalidConfigError(f"{home} has no policy; `msb-cache policy init` writes one to begin with")


def places(layout: Layout) -> tuple[str, str]:
    """Return where a policy file can lie: in the home, and in the user's configuration."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):  # as the specification of that variable wants it
        config = os.path.join("~", ".config")
    return (
        os.path.join(layout.home, "cache-policy.toml"),
        os.path.join(os.path.expanduser(config), "msb-cache", "policy.toml"),
    )


def read(path: str) -> CachePolicy:
    """Return what a policy file says.

    Raises:
        InvalidConfigError: it cannot be read, or has a mistake: names the file, the line and what is right.
    """
    text = text_of(path)
    policy, mistakes = parse(text, os.path.abspath(path))
    if mistakes:
        more = plural(len(mistakes) - 1, "more mistake")
        listed = f" (and {more}; `msb-cache policy check {quoted(path)}` lists them)"
        raise InvalidConfigError(f"{path}: {mistakes[0]}{listed if len(mistakes) > 1 else ''}")
    return policy


def text_of(path: str) -> str:
    """Return the text of a policy file; raises InvalidConfigError, naming the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a pipe there is no end
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidConfigError(f"{path} is no file")
            data = file.read(_LARGEST + 1)
        text = data.decode()
    except OSError as error:
        raise InvalidConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidConfigError(f"{path}: line {line}: it is no UTF-8; save it as that") from None
    if len(data) > _LARGEST:
        raise InvalidConfigError(f"{path} is longer than {_LARGEST // 1024} KiB, so it is no policy")
    return text


def parse(text: str, source: str = "") -> tuple[CachePolicy, list[PolicyMistake]]:
    """Return what a policy says, and every mistake in it: with one, nothing may go by it.

    Args:
        text: the file's text.
        source: its path, for the record.
    """
    try:
        document = tomllib.loads(text)
        reader = _Reader(text, document)
        policy = reader.policy(source, f"sha256:{sha256(text.encode()).hexdigest()}")
    except (ValueError, RecursionError) as error:
        return CachePolicy(), [_no_toml(error)]
    return policy, sorted(reader.mistakes, key=lambda each: each.line or 0)


def _no_toml(error: Exception) -> PolicyMistake:
    said = str(error) if isinstance(error, ValueError) else "it is nested too deep"
    found = _AT.search(said)
    line = None if found is None or found["line"] is None else int(found["line"])
    where = f", column {found['column']}" if found is not None and found["line"] is not None else ""
    return PolicyMistake(line, "", f"it is no TOML: {_AT.sub('', said)}{where}")


class _Reader:
    """Reads one document, and collects what is wrong with it."""

    def __init__(self, text: str, document: Mapping[str, Any]) -> None:
        self._text = text
        self._document = document
        self._lines: Mapping[Path, int] | None = None
        self.mistakes: list[PolicyMistake] = []

    def policy(self, source: str, digest: str) -> CachePolicy:
        found = self._fields(self._document, _FILE, ())
        most = found.get("max_delete")
        if most is not None:
            self._check(("max-delete",), limit_of, PrunePolicy(max_delete=most))
        tables = found.get("rule", [])
        if len(tables) > _MOST_RULES:
            self._wrong(("rule", _MOST_RULES), f"a policy has at most {_MOST_RULES} rules")
        policy = CachePolicy(
            rules=tuple(self._rule(table, number) for number, table in enumerate(tables[:_MOST_RULES])),
            keep=self._keep(found.get("keep", {})),
            watermarks=self._watermarks(found["watermarks"]) if "watermarks" in found else None,
            max_delete=most,
            source=source,
            digest=digest,
        )
        names = {WATERMARKS}
        for number, each in enumerate(policy.rules):
            if each.name in names:
                self._wrong(
                    ("rule", number, "name"), f"{each.name!r} is another rule's name; give it its own"
                )
            names.add(each.name)
        return policy

    def _rule(self, table: Mapping[str, Any], number: int) -> NamedRule:
        at: Path = ("rule", number)
        before = len(self.mistakes)
        found = self._fields(table, _RULE, at)
        name = found.pop("name", f"rule-{number + 1}")
        if not _NAME.fullmatch(name):
            self._wrong(
                (*at, "name"), f"{shown(name)} is no name; use at most 64 letters, digits, spaces and _ . -"
            )
        for field in ("filter", "exclude"):
            if field in found:
                found[field] = _texts(found[field])
        for field, value in found.items():
            if field != "keep_last_by":  # which goes with another
                self._check((*at, _key(field)), rule_of, PrunePolicy(**{field: value}), 0)
        rule = PrunePolicy(**found)
        if len(self.mistakes) == before:
            self._check((*at, "keep-last-by"), rule_of, rule, 0)
            if not any(getattr(rule, field) not in (None, ()) for field in _LIMITS):
                self._wrong(
                    at, f'rule {name!r} would take every image; give it a limit such as unused-for = "14d"'
                )
        return NamedRule(name=name, rule=rule)

    def _keep(self, table: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        for field, values in self._fields(table, _KEEP, ("keep",)).items():
            filters = [f"{_FILTERS[field]}={text}" for text in _texts(values)]
            self._check(("keep", field), rule_of, PrunePolicy(filter=tuple(filters)), 0)
            found += filters
        return tuple(found)

    def _watermarks(self, table: Mapping[str, Any]) -> Watermarks | None:
        at: Path = ("watermarks",)
        found = self._fields(table, _MARKS, at)
        if found.keys() != _MARKS.keys():
            if not self._mistaken(at):
                self._wrong(at, 'it takes both, such as high = "85%" and low = "80%"')
            return None
        marks = Watermarks(**found)
        self._check((*at, "low"), marks_of, marks)
        return marks

    def _fields(self, table: Mapping[str, Any], kinds: Mapping[str, _Kind], at: Path) -> dict[str, Any]:
        """Return what a table has, by field; what it cannot have is a mistake."""
        found = {}
        for key, value in table.items():
            kind = kinds.get(key)
            if kind is None:
                near = get_close_matches(key.replace("_", "-").lower(), kinds, 1)
                meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(kinds)}"
                self._wrong((*at, key), f"there is no such key; {meant}")
            elif not kind.fits(value):
                is_table = kind.fits in (_is_table, _are_tables)
                example = kind.example if is_table else f"{key} = {kind.example}"
                self._wrong((*at, key), f"it takes {kind.what}; write {example}")
            else:
                found[key.replace("-", "_")] = value
        return found

    def _check(self, at: Path, meaning: Callable[..., object], *arguments: object) -> None:
        """Take down what is wrong with a value, as what gives it its meaning says."""
        try:
            meaning(*arguments)
        except (InvalidConfigError, InvalidReferenceError) as error:
            self._wrong(at, str(error))

    def _wrong(self, at: Path, problem: str) -> None:
        key = str(at[-1]) if at and isinstance(at[-1], str) else ""
        named = key if not key or _NAME.fullmatch(key) else shown(key)
        self.mistakes.append(PolicyMistake(self._line(at), named, problem))

    def _mistaken(self, at: Path) -> bool:
        line = self._line(at)
        return any(line is not None and (each.line or 0) >= line for each in self.mistakes)

    def _line(self, at: Path) -> int | None:
        if self._lines is None:
            self._lines = dict(_lines(self._text))
        while at and at not in self._lines:
            if (*at, 0) in self._lines:  # a list of tables, which begins with the first of them
                return self._lines[*at, 0]
            at = at[:-1]
        return self._lines.get(at)


def _lines(text: str) -> Iterator[tuple[Path, int]]:
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
        statement, is_table = "", line.lstrip().startswith("[") and number == first
        if is_table:
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


def _texts(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _key(field: str) -> str:
    return field.replace("_", "-")
