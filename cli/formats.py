"""What a command prints: a table for people, JSON or lines of it for programs, a template, or names only.

Each command that prints has the same options for it, and one shape of JSON that they all are made of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from msb_cache.cli import look, output

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Fields = Mapping[str, Any]

_KINDS = ("table", "json", "jsonl")


class Shown(NamedTuple):
    """How a command shall show what it has."""

    kind: str
    """``table``, ``json``, ``jsonl`` or ``template``."""
    template: Template | None
    quiet: bool
    """Without a format only names are printed, one a line; with any, nothing but errors is said beside it."""

    @property
    def as_table(self) -> bool:
        """Whether people read it."""
        return self.kind == "table" and not self.quiet

    @property
    def names_only(self) -> bool:
        """Whether nothing but names is printed."""
        return self.kind == "table" and self.quiet

    def expect(self, *fields: str) -> None:
        """Refuse a template with another field than these, before the command changes anything.

        Raises:
            click.UsageError: it has one.
        """
        for name in () if self.template is None else self.template.names:
            if name not in fields:
                raise _no_field(name, fields)

    def items(
        self,
        found: Iterable[T],
        *,
        fields: Callable[[T], Fields],
        name: Callable[[T], str | None],
        table: Callable[[Iterable[T]], None],
        paged: bool = True,
    ) -> None:
        """Show what there are several of, as they come.

        Args:
            found: the things.
            fields: what JSON has of one.
            name: what identifies one; None: it has no name to print.
            table: prints them for people.
            paged: they may be many; not so what a command says that it did.
        """
        if self.as_table:
            with paging(paged):
                table(found)
        elif self.names_only:
            named = (name(each) for each in found)
            output.lines([text] for text in named if text is not None)
        elif self.kind == "json":
            output.json_array(map(fields, found))
        else:
            self._lines(map(fields, found))

    def item(
        self,
        fields: Callable[[], Fields],
        *,
        names: Callable[[], Iterable[str]],
        table: Callable[[], None],
        paged: bool = True,
    ) -> None:
        """Show one thing, or what was done.

        Args:
            fields: what JSON has of it.
            names: what identifies it, or what it is about.
            table: prints it for people.
            paged: it may be long; not so what a command says that it did.
        """
        if self.as_table:
            with paging(paged):
                table()
        elif self.names_only:
            output.lines([text] for text in names())
        elif self.kind == "json":
            output.json(fields())
        else:
            self._lines([fields()])

    def as_they_come(
        self,
        found: Iterable[T],
        *,
        fields: Callable[[T], Fields],
        name: Callable[[T], str | None],
        line: Callable[[T], None],
    ) -> None:
        """Show each thing at once: a line of text, its name, a line of JSON, or one by the template."""
        for each in found:
            if self.as_table:
                line(each)
            elif self.names_only:
                output.lines([text] for text in (name(each),) if text is not None)
            elif self.template is not None:
                output.written([self.template.of(fields(each))])
            else:
                output.json_lines([fields(each)])

    def _lines(self, found: Iterable[Fields]) -> None:
        if self.template is not None:
            output.written(map(self.template.of, found))
            return
        fields = iter(found)
        while screenful := [*islice(fields, output.SCREENFUL)]:
            output.json_lines(screenful)


def paging(wanted: bool) -> AbstractContextManager[None]:
    """Show what is printed in the block with a pager, if it is wanted and a person reads it."""
    if not wanted or not look.on_terminal(sys.stdout):
        return nullcontext()
    from msb_cache.cli import pager  # for a program, nothing is paged

    return pager.paging()


class Template:
    """A line for each thing, such as ``{reference}\\t{size_bytes:size}``.

    Args:
        parts: text, the path of the field behind it (none at the end), and how that looks.
    """

    def __init__(self, parts: tuple[tuple[str, tuple[str, ...], str], ...]) -> None:
        self.parts = parts

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template; raises ValueError if it is none.

        ``{field}`` and ``{field.inner}`` are fields of the JSON, ``{{`` is a brace, ``\\t`` and ``\\n`` are a
        tab and a new line. Behind a colon stands ``size`` for bytes as people read them, or how wide:
        ``{reference:<40}``.
        """
        from string import Formatter

        parts = []
        for literal, name, spec, conversion in Formatter().parse(
            text.replace("\\t", "\t").replace("\\n", "\n")
        ):
            if conversion or (name is not None and not all(name.split("."))):
                raise ValueError(f"{{{name}}} is no field")
            if spec and spec != "size" and not _is_width(spec):
                raise ValueError(f"{spec!r} is no width, nor size")
            parts.append((literal, () if name is None else tuple(name.split(".")), spec or ""))
        return cls(tuple(parts))

    @property
    def names(self) -> list[str]:
        """The fields of the thing itself that are asked for."""
        return [path[0] for _, path, _ in self.parts if path]

    def of(self, fields: Fields) -> str:
        """Return the line of a thing; in its values, what would drive a terminal is shown as what it is.

        Raises:
            click.UsageError: it has no such field.
        """
        return "".join(f"{literal}{_said(fields, path, spec)}" for literal, path, spec in self.parts)


def _is_width(spec: str) -> bool:
    import re

    return re.fullmatch(r"[<>^]?[0-9]{1,3}", spec) is not None


def _said(fields: Fields, path: tuple[str, ...], spec: str) -> str:
    if not path:
        return ""
    value: Any = fields
    for step in path:
        if isinstance(value, list) and _is_place(step, value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        elif value is None:
            break
        else:
            raise _no_field(".".join(path), value if isinstance(value, Mapping) else ())
    if spec == "size":
        return output.size(value) if isinstance(value, int) else ""
    return f"{output.printable(_text(value)):{spec}}"


def _is_place(step: str, values: Sequence[Any]) -> bool:
    # Other digits than these, and too many, are none that int() takes.
    return step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(values)


def _no_field(name: str, known: Iterable[str]) -> click.UsageError:
    there = ", ".join(known)
    return click.UsageError(f"--format: no field {name!r}{f'; there are: {there}' if there else ''}")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | Mapping):
        import json

        return json.dumps(value, ensure_ascii=False)
    return str(value)


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any, Any]
else:
    _ParamType = click.ParamType  # no generic class before click 8.4


class FormatType(_ParamType):
    """What ``--format`` takes."""

    name = "format"

    def __init__(self, kinds: Sequence[str] = _KINDS) -> None:
        super().__init__()
        self._kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the kind of format, or a template."""
        if isinstance(value, Template) or value in self._kinds:
            return value
        if "{" not in value:
            self.fail(
                f"{value!r} is no format; use {', '.join(self._kinds)}, or a template such as "
                "'{reference}'",
                param,
                ctx,
            )
        try:
            return Template.parse(value)
        except ValueError as error:
            self.fail(f"{value!r} is no template: {error}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        """Return the formats that begin so."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(kind) for kind in self._kinds if kind.startswith(incomplete)]


def shown_options(names: str, *, tables: bool = True, more: Sequence[str] = ()) -> Callable[[F], F]:
    """Add ``--format`` and ``-q``, and with ``tables`` ``--absolute`` and ``--no-trunc``.

    The command gets them as ``shown``, a ``Shown``.

    Args:
        names: what ``-q`` prints, as its help says it: ``references``.
        tables: the command prints tables, or times.
        more: formats that it has beside the usual ones, and prints itself.
    """
    options = [
        click.option(
            "--format",
            "format_",
            type=FormatType((*_KINDS, *more)),
            metavar="FORMAT",
            default="table",
            show_default=True,
            help=f"table for people; {', '.join((*_KINDS[1:], *more))} or a '{{template}}' for programs.",
        ),
        click.option("-q", "--quiet", is_flag=True, help=f"Print only {names}."),
    ]
    if tables:
        options += [
            click.option("--absolute", is_flag=True, help="Show times, not how long ago they are."),
            click.option("--no-trunc", is_flag=True, help="Shorten nothing, also on a terminal."),
        ]

    def decorated(command: F) -> F:
        @wraps(command)
        def called(
            *arguments: Any,
            format_: str | Template,
            quiet: bool,
            absolute: bool = False,
            no_trunc: bool = False,
            **given: Any,
        ) -> Any:
            look.choose(absolute=absolute, no_trunc=no_trunc)
            template = format_ if isinstance(format_, Template) else None
            kind = "template" if isinstance(format_, Template) else format_
            return command(*arguments, shown=Shown(kind, template, quiet), **given)

        wrapped: Any = called
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorated


def nothing(sentence: str, found: Iterable[T]) -> Iterator[T]:
    """Yield what was found; if there is nothing, say so on stderr."""
    empty = True
    for each in found:
        empty = False
        yield each
    if empty:
        output.line(sentence, err=True)
