"""How a person wants the command to look and what it shall say of them: ``config.toml``, and the environment.

It lies in the user's configuration, and in a home, where it is for all who use that one. msb reads
``config.json`` there, and no file of this name::

    times = "absolute"
    color = "never"
    pager = "less -RFX"

    [columns]
    list = ["reference", "size", "last_used"]

    [context]
    team = "build"

The nearer one wins: the command line, which the command itself looks at, then the environment, the home's
file, the user's own, and what is so by default. Every command asks for it, so where there is no file nothing
is imported but ``os`` and what a list needs anyhow.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from msb_cache.errors import InvalidConfigError

if TYPE_CHECKING:
    from msb_cache.queries.toml_file import Mistake, Reader

NAME = "config.toml"
DEFAULT = "default"
"""The source of what nothing and nobody says otherwise."""

TIMES = ("relative", "absolute")
COLOR = ("auto", "always", "never")

TABLES = ("list", "holders", "pins", "last-used", "prunes")
"""The commands whose tables have the columns that one wants."""

_NO_PAGER = ("", "cat")
_LONGEST = 1000
"""Characters of a pager's command."""
_MOST_COLUMNS = 50
_COLUMN = r"[a-z][a-z0-9_-]{0,39}"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Settings(msgspec.Struct, frozen=True):
    """What holds here, but for what the command line says.

    Attributes:
        times: ``relative`` (``3 days ago``, on a terminal) or ``absolute``.
        color: ``auto`` (on a terminal), ``always`` or ``never``.
        pager: the command of the pager; True: one is used on a terminal, and which is nowhere said;
            False: none.
        columns: of the commands that have some, which of their columns are shown, in order.
        context: what the log keeps of each command, as it is kept; ``MSB_CACHE_CONTEXT`` is not in it.
        sources: where values come from that are not there by default: ``FILE:LINE``, or the environment
            variable's name. Names are as here; ``columns.list`` and ``context.team`` are of the tables.
        notes: what a person should know, in one sentence each.
    """

    times: str = TIMES[0]
    color: str = COLOR[0]
    pager: bool | str = True
    columns: Mapping[str, tuple[str, ...]] = _NOTHING
    context: Mapping[str, str] = _NOTHING
    sources: Mapping[str, str] = _NOTHING
    notes: tuple[str, ...] = ()

    def source(self, name: str) -> str:
        """Return where a value comes from."""
        return self.sources.get(name, DEFAULT)


def variable(name: str) -> str:
    """Return how the source of a value is called that an environment variable says."""
    return f"environment variable {name}"


class File(NamedTuple):
    """One of the two files: where it can lie, and what was seen of it there.

    Attributes:
        path: where it can lie.
        in_home: whether it is a home's, which may be another user's home.
        state: what changes with its content; None: there is none.
        owner: the user's number.
    """

    path: str
    in_home: bool
    state: tuple[int, ...] | None = None
    owner: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether another user than root and this one could have written it."""
        return self.state is not None and self.owner not in (0, os.geteuid())


def load(home: str | None) -> Settings:
    """Return what holds in a home; None: that of the environment. A file is read once in a process.

    Raises:
        InvalidConfigError: a file has a mistake, or msb's own one does; names it, the line and what is right.
    """
    return with_environment(_read(*files(home)))


def files(home: str | None) -> tuple[File, File]:
    """Return the two files as they are now, the user's own and the home's; the second wins.

    Raises:
        InvalidConfigError: the environment's home cannot be told.
    """
    if home is None:
        from msb_cache.msb.config import home_from_environment

        home = home_from_environment()
    from msb_cache.queries.user_folder import user_folder

    return (
        _seen(os.path.join(user_folder(), NAME), in_home=False),
        _seen(os.path.join(os.path.abspath(os.path.expanduser(home)), NAME), in_home=True),
    )


def _seen(path: str, *, in_home: bool) -> File:
    if not os.path.isabs(path):  # a user without a home has no file: not what lies in this folder
        return File(path, in_home)
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return File(path, in_home)  # of a home that cannot be entered the command itself speaks
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return File(path, in_home)
        raise InvalidConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return File(path, in_home, state, found.st_uid)


@lru_cache(maxsize=1)
def _read(*found: File) -> Settings:
    values: dict[str, Any] = {"columns": {}, "context": {}}
    sources: dict[str, str] = {}
    notes = []
    for file in found:
        if file.state is None:
            continue
        text = None if file.is_foreign else text_of(file)
        if text is None:
            notes.append(f"{file.path} is another user's, so it is not read")
        else:
            _lay_over(values, sources, file, parse(text, file))
    for name in ("columns", "context"):
        values[name] = MappingProxyType(values[name])
    return Settings(**values, sources=MappingProxyType(sources), notes=tuple(notes))


def _lay_over(values: dict[str, Any], sources: dict[str, str], file: File, said: Said) -> None:
    """Put what one file says over what those say that are farther off."""
    if said.mistakes:
        from msb_cache.wording import plural

        more = plural(len(said.mistakes) - 1, "more mistake")
        listed = f" (and {more}; `msb-cache config check` lists them)" if len(said.mistakes) > 1 else ""
        raise InvalidConfigError(f"{file.path}: {said.mistakes[0]}{listed}")
    # A home says whether there is a pager; which one, its user says.
    kept = {"pager"} if said.values.get("pager") is True and isinstance(values.get("pager"), str) else set()
    for name in said.values.keys() - kept:
        value = said.values[name]
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    for name in said.lines.keys() - kept:
        line = said.lines[name]
        sources[name] = file.path if line is None else f"{file.path}:{line}"


def text_of(file: File) -> str | None:
    """Return what stands in a file; None: it is another user's now.

    Raises:
        InvalidConfigError: it cannot be read; names it.
    """
    from msb_cache.queries.toml_file import text_and_owner

    text, owner = text_and_owner(file.path, "list of settings")
    return None if file._replace(owner=owner).is_foreign else text


class Said:
    """What one file says, in which lines (None: not known), and what is wrong with it."""

    def __init__(
        self, values: dict[str, Any], lines: Mapping[str, int | None], mistakes: list[Mistake]
    ) -> None:
        self.values, self.lines, self.mistakes = values, lines, mistakes


def parse(text: str, file: File) -> Said:
    """Return what a file says; with a mistake in it nothing may go by that."""
    import tomllib

    from msb_cache.queries.toml_file import Reader, no_toml

    try:
        reader = Reader(text, tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        return Said({}, {}, [no_toml(error)])
    values, at = _fields(reader, file)
    lines = {".".join(path): reader.line(path) for path in at}
    return Said(values, lines, sorted(reader.mistakes, key=lambda each: each.line or 0))


def _fields(reader: Reader, file: File) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    from msb_cache.queries.toml_file import Kind, is_table

    kinds = {
        "times": Kind(lambda value: value in TIMES, _one_of(TIMES), '"absolute"'),
        "color": Kind(lambda value: value in COLOR, _one_of(COLOR), '"never"'),
        "pager": _home_pager() if file.in_home else _user_pager(),
        "columns": Kind(is_table, "a table", "[columns]"),
        "context": Kind(is_table, "a table", "[context]"),
    }
    values = reader.fields(reader.document, kinds, ())
    at: list[tuple[str, ...]] = [(name,) for name in values if name not in ("columns", "context")]
    for name, meaning in (("columns", _columns), ("context", _context)):
        if name in values:
            values[name] = {
                key: value
                for key, each in values[name].items()
                if (value := meaning(reader, key, each)) is not None
            }
            at += ((name, key) for key in values[name])
    return values, at


def _one_of(words: tuple[str, ...]) -> str:
    *most, last = (f'"{word}"' for word in words)
    return f"{', '.join(most)} or {last}"


def _home_pager() -> Any:
    from msb_cache.queries.toml_file import Kind

    what = f"true or false here, and a command in your own {NAME} only"
    return Kind(lambda value: isinstance(value, bool), what, "false")


def _user_pager() -> Any:
    from msb_cache.queries.toml_file import Kind

    def fits(value: object) -> bool:
        return isinstance(value, bool) or (
            isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= _LONGEST
        )

    return Kind(fits, "true, false, or a command in quotes", '"less -RFX"')


def _columns(reader: Reader, command: str, given: object) -> tuple[str, ...] | None:
    import re
    from difflib import get_close_matches

    at = ("columns", command)
    if command not in TABLES:
        near = get_close_matches(command, TABLES, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(TABLES)}"
        reader.wrong(at, f"no command of this name has columns to choose from; {meant}")
    elif not isinstance(given, list) or not 0 < len(given) <= _MOST_COLUMNS:
        reader.wrong(at, f'it takes a list of columns; write {command} = ["reference", "size"]')
    elif not all(isinstance(each, str) and re.fullmatch(_COLUMN, each) for each in given):
        reader.wrong(at, "a column's name is of small letters, as in the heading of the table")
    elif len({*given}) < len(given):
        reader.wrong(at, "a column stands there twice; name each once")
    else:
        return tuple(given)
    return None


def _context(reader: Reader, name: str, given: object) -> str | None:
    from msb_cache.home.identity import kept_value

    at = ("context", name)
    if not isinstance(given, str):
        reader.wrong(at, 'it takes text in quotes, such as ticket = "OPS-12"')
        return None
    try:
        return kept_value(name, given)
    except InvalidConfigError as error:
        reader.wrong(at, str(error))
        return None


def with_environment(found: Settings) -> Settings:
    """Return settings with what the environment says over what the files do."""
    changes: dict[str, Any] = {}
    sources = dict(found.sources)
    for name, (value, said_by) in (
        ("color", _environments_color()),
        ("pager", _environments_pager(found)),
    ):
        if said_by is not None:
            changes[name] = value
            sources[name] = variable(said_by)
    if not changes:
        return found
    return msgspec.structs.replace(found, **changes, sources=MappingProxyType(sources))


def _environments_color() -> tuple[str, str | None]:
    """Return what the environment says of colours, and the variable that does; None: it says nothing.

    ``NO_COLOR`` is stronger than all others (no-color.org), then those that want colours everywhere, then a
    terminal that knows none.
    """
    said = os.environ.get
    if said("NO_COLOR"):
        return "never", "NO_COLOR"
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        if said(name, "0") not in ("", "0"):
            return "always", name
    if said("TERM") == "dumb":
        return "never", "TERM"
    return ("never", "CLICOLOR") if said("CLICOLOR") == "0" else ("", None)


def _environments_pager(found: Settings) -> tuple[bool | str, str | None]:
    """Return what the environment says of a pager, and the variable that does; None: it says nothing.

    ``PAGER`` says which one is used by those who use one, so a file that says more than that wins over it.
    """
    names = ["MSB_CACHE_PAGER"]
    if found.pager is True:
        names.append("PAGER")
    for name in names:
        said = os.environ.get(name)
        if said is not None:
            return (False if said.strip() in _NO_PAGER else said), name
    return False, None


def with_context(found: Settings, given: Mapping[str, str] | None) -> dict[str, str]:
    """Return what the log keeps of a command: what it was given, and of the files what is not in that.

    Raises:
        InvalidConfigError: it is too much.
    """
    if not found.context:
        return dict(given or {})
    from msb_cache.home.identity import MOST_NAMES

    context = {**found.context, **(given or {})}
    if len(context) > MOST_NAMES:
        raise InvalidConfigError(f"the context has {len(context)} names; at most {MOST_NAMES} are kept")
    return context
