"""The config command: what holds here, where each value comes from, and what is wrong with a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from msb_cache.cli import output, settings, tables
from msb_cache.cli.common import PATH, examples, note
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_FAILED, module_of

if TYPE_CHECKING:
    from msb_cache.queries.toml_file import Mistake

_COLUMNS = (
    tables.Column("SETTING", "word"),
    tables.Column("VALUE", "name"),
    tables.Column("SOURCE", "prose"),
)


class Value(NamedTuple):
    """A setting, what it is, and where that comes from."""

    name: str
    value: Any
    source: str


@click.group(
    invoke_without_command=True,
    short_help="Show your settings and where they come from.",
    epilog=examples("msb-cache config", "msb-cache config path", "msb-cache config check"),
)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Look at the settings: how tables look, and what the log keeps of your commands.

    They stand in `config.toml` in the home, and in `msb-cache/config.toml` in your configuration (~/.config).
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@config.command(
    short_help="Show every setting and its source.", epilog=examples("msb-cache config show --format json")
)
@shown_options("names of settings", tables=False)
@click.pass_obj
def show(home: str | None, shown: Shown) -> None:
    """Show every setting, and whether an option, the environment or a file says it."""
    found = settings.load(home)
    for sentence in found.notes:
        note(sentence)
    shown.items(
        _values(home, found),
        fields=lambda each: each._asdict(),
        name=lambda each: each.name,
        table=lambda values: tables.show(_COLUMNS, map(_row, values)),
    )


@config.command(short_help="Print where the files lie.", epilog=examples("msb-cache config path"))
@shown_options("paths", tables=False)
@click.pass_obj
def path(home: str | None, shown: Shown) -> None:
    """Print where the two files can lie: the home's, which wins, and your own."""
    found = settings.files(home)[::-1]
    shown.items(
        found,
        fields=lambda each: {"path": each.path, "home": each.in_home, "exists": each.state is not None},
        name=lambda each: each.path,
        table=lambda files: output.lines([each.path] for each in files),
    )


@config.command(short_help="Say what is wrong with them.", epilog=examples("msb-cache config check new.toml"))
@click.argument("file", metavar="[FILE]", type=PATH, required=False)
@shown_options("lines with mistakes", tables=False)
@click.pass_obj
def check(home: str | None, file: str | None, shown: Shown) -> int:
    """Say of each mistake in the settings, or in FILE, the line and what is right."""
    found = settings.files(home)[::-1]
    if file is None:
        checked = [each for each in found if each.state is not None]
    else:
        named = os.path.abspath(file)
        checked = [settings.File(named, in_home=named == found[0].path)]
    read = [(each, _mistakes(each)) for each in checked]
    shown.items(read, fields=_checked_fields, name=_wrong_lines, table=_print_checked)
    return EXIT_FAILED if any(wrong for _, wrong in read) else 0


COMMAND = config


def _row(each: Value) -> tuple[str, str, str]:
    return each.name, _shown(each.value), each.source


Checked = tuple[settings.File, "list[Mistake]"]


def _checked_fields(checked: Checked) -> dict[str, Any]:
    file, wrong = checked
    return {"file": file.path, "mistakes": [each._asdict() for each in wrong]}


def _wrong_lines(checked: Checked) -> str | None:
    file, wrong = checked
    return "\n".join(file.path if each.line is None else f"{file.path}:{each.line}" for each in wrong) or None


def _print_checked(read: Iterable[Checked]) -> None:
    found = [*read]
    for file, wrong in found:
        for mistake in wrong:
            output.error(f"{file.path}: {mistake}")
        if not wrong:
            output.line(f"{file.path} is right.")
    if not found:
        output.line(
            "There is no file of settings; `msb-cache config path` prints where it can lie.", err=True
        )


def _mistakes(file: settings.File) -> list[Any]:
    text = None if file.is_foreign else settings.text_of(file)
    if text is None:
        note(f"{file.path} is another user's, so it is not read")
        return []
    said = settings.parse(text, file)
    return sorted([*said.mistakes, *_no_columns(said)], key=lambda each: each.line or 0)


def _no_columns(said: settings.Said) -> Iterator[Mistake]:
    """Yield the columns that stand there and that the tables, which alone know theirs, do not have."""
    from msb_cache.queries.toml_file import Mistake

    for command, wanted in said.values.get("columns", {}).items():
        there = [column.name for column in import_module(module_of(command)).COLUMNS]
        for name in wanted:
            if name not in there:
                line = said.lines.get(f"columns.{command}")
                yield Mistake(line, f"columns.{command}", tables.no_column(command, name, there))


def _values(home: str | None, found: settings.Settings) -> Iterator[Value]:
    yield _home(home)
    for name in ("times", "color", "pager"):
        yield Value(name, getattr(found, name), found.source(name))
    for command, columns in found.columns.items():
        yield Value(f"columns.{command}", columns, found.source(f"columns.{command}"))
    given = click.get_current_context().find_root().params.get("context") or {}
    for name, value in {**found.context, **given}.items():
        source = _giver(name, value) if name in given else found.source(f"context.{name}")
        yield Value(f"context.{name}", value, source)


def _home(home: str | None) -> Value:
    if home is not None:
        return Value("home", os.path.abspath(os.path.expanduser(home)), "option --home")
    from msb_cache.msb.config import read_config

    found = read_config()
    if found.home:
        source = found.path
    else:
        source = settings.variable("MSB_HOME") if os.environ.get("MSB_HOME") else settings.DEFAULT
    return Value("home", os.path.abspath(found.local_home), source)


def _giver(name: str, value: str) -> str:
    from msb_cache.home.identity import VARIABLE, checked_context

    return settings.variable(VARIABLE) if checked_context().get(name) == value else "option --context"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else str(value) or "-"
