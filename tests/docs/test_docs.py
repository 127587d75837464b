"""Every example of the documentation is executed, and prints what the document says."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import get_args, get_type_hints

import click
import msgspec
import pytest
from sqlite_utils import Database

import msb_cache
from msb_cache.cli.main import cli, command_names
from msb_cache.eventstore.events import EVENT_TYPES
from msb_cache.eventstore.store import Actor
from msb_cache.migrations.schema import migrations
from msb_cache.projections import schema
from msb_cache.projections.views import VIEWS, View
from tests.docs.markdown import blocks, replaced
from tests.docs.normalise import HOME, masked, shown
from tests.docs.runner import run, same

ROOT = Path(__file__).resolve().parent.parent.parent
INDEXES = [ROOT / "docs" / "README.md"]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of(path: Path, require_peer: Callable[[str], str]) -> None:
    missing: set[str] = set()

    def optional(program: str) -> str | None:
        try:
            return require_peer(program)
        except pytest.skip.Exception:
            missing.add(program)
            return None

    for attempt in (1, 2):
        # Timelines show a time once for each second: a tick between two events adds one, so once more.
        compared = [
            (f"{path.name}:{block.line}\n{masked(documented)}", f"{path.name}:{block.line}\n{masked(real)}")
            for block, documented, real in run(path.read_text(), optional)
        ]
        if attempt == 2 or all(documented == real for documented, real in compared):
            break
    # One has no examples, those of the others take minutes.
    assert compared or path.name in ("architecture.md", "performance.md", "reliability.md") or path in INDEXES
    for documented, real in compared:
        assert documented == real, "python -m tests.docs.update rewrites outputs"
    if missing:
        pytest.skip(f"all but the examples that need {', '.join(sorted(missing))}, which is missing")


_OF_THE_ENGINE = (
    (re.compile(r"^note: .*\n", re.MULTILINE), ""),
    (re.compile(r"((?:vmdk|fsmeta) deleted .*  )[\d.]+ K?i?B freed"), r"\1<size> freed"),
    (re.compile(r"((?:Deletes .*: |DELETE .* {3}))[\d.]+ KiB"), r"\1<size>"),
    (re.compile(r"\(event \d+\)"), "(event <n>)"),
    (re.compile(r"\d+ events"), "<n> events"),
)
"""What the first steps print otherwise in a home of msb: who keeps it, and what its own files measure."""


@pytest.mark.slow
def test_the_first_steps_work_with_msb_installed_too(msb: str) -> None:
    readme = (ROOT / "README.md").read_text()
    steps = readme.partition("## Use it on your existing microsandbox")[0]

    def same_lines(text: str) -> list[str]:
        for pattern, instead in _OF_THE_ENGINE:
            text = pattern.sub(instead, text)
        return sorted(masked(text).splitlines())

    compared = [
        (same_lines(documented), same_lines(real))
        for _, documented, real in run(steps, lambda program: None, provided={"msb": msb})
    ]
    assert compared
    for documented, real in compared:
        assert documented == real


@pytest.mark.parametrize("path", [*DOCS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


# --- the event catalogue ------------------------------------------------------------------------


def structs_in(hint: object) -> set[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {hint}
    return {struct for part in get_args(hint) for struct in structs_in(part)}


def fields_of(struct: type[msgspec.Struct]) -> set[str]:
    """The names of a struct's fields, and of the structs in them."""
    names = set(struct.__struct_fields__)
    hints = get_type_hints(struct)
    for name in struct.__struct_fields__:
        for inner in structs_in(hints[name]):
            names |= fields_of(inner)
    return names


def sections(markdown: str) -> dict[str, str]:
    """Text by the event type in its heading."""
    parts = re.split(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
    return {heading.strip("` "): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("event", EVENT_TYPES, ids=lambda event: str(event.type))
def test_the_catalogue_names_every_field_of(event: type[msgspec.Struct]) -> None:
    found = sections((ROOT / "docs" / "event-log.md").read_text())
    body = found[event.type]  # type: ignore[attr-defined]
    assert f"version {event.version}" in body  # type: ignore[attr-defined]
    assert "Subject:" in body
    assert {name for name in fields_of(event) if f"`{name}`" not in body} == set()


def test_the_catalogue_names_nothing_else() -> None:
    headings = sections((ROOT / "docs" / "event-log.md").read_text())
    types = {heading for heading in headings if re.fullmatch(r"[a-z_]+\.[a-z_]+", heading)}
    assert types == {event.type for event in EVENT_TYPES}


def test_the_actor_is_described() -> None:
    body = sections((ROOT / "docs" / "event-log.md").read_text())["The columns"]
    assert all(f"`{name}`" in body for name in Actor.__struct_fields__)


def columns_of_the_database() -> dict[str, list[str]]:
    """The columns of every table and view that a new database has."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.apply(Database(connection))
        schema.create(connection)
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        ).fetchall()
        return {
            name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for (name,) in names
        }


COLUMNS = columns_of_the_database()


def rows_of_the_table_in(body: str) -> dict[str, str]:
    """What a table of two columns says, by each of the names in the first."""
    found = re.findall(r"^\| (`[^|]+) \| (.+) \|$", body, re.MULTILINE)
    return {name: text for cell, text in found for name in re.findall("`([^`]+)`", cell)}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_is_described_of(name: str) -> None:
    found = sections((ROOT / "docs" / "event-log.md").read_text())
    described = rows_of_the_table_in(
        found["The columns" if name == "events" else name].partition("The fields")[0]
    )
    assert [*described] == COLUMNS[name]
    assert all(described.values())


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_is_described_as_it_describes_itself(view: View) -> None:
    described = rows_of_the_table_in(sections((ROOT / "docs" / "event-log.md").read_text())[view.name])
    assert {c.name: c.meaning for c in view.columns if c.meaning not in described[c.name]} == {}


# --- the library ----------------------------------------------------------------------------------

LIBRARY = (ROOT / "docs" / "library.md").read_text()


@pytest.mark.parametrize("name", msb_cache.__all__)
def test_the_library_page_names(name: str) -> None:
    assert re.search(rf"\b{name}\b", LIBRARY)


@pytest.mark.parametrize("name", [name for name in msb_cache.__all__ if name.endswith("Error")])
def test_the_library_page_has_the_code_of(name: str) -> None:
    code = getattr(msb_cache, name).code
    assert re.search(rf"^\| `{name}` \| `{code}` \|", LIBRARY, re.MULTILINE)


# --- the command line -------------------------------------------------------------------------------


def test_the_command_page_shows_every_command_and_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    headings = {
        word.lower() for line in re.findall(r"^## (.+)$", page, re.MULTILINE) for word in line.split()
    }
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert name in {heading.strip(",") for heading in headings}, name
        for parameter in command.params:
            if (
                isinstance(parameter, click.Option)
                and not parameter.hidden
                and "--help" not in parameter.opts
            ):
                assert any(re.search(rf"(?<![\w-]){option}\b", page) for option in parameter.opts), (
                    parameter.opts
                )


def test_the_command_page_begins_with_where_each_command_is() -> None:
    contents = (ROOT / "docs" / "cli.md").read_text().partition("## Contents\n")[2].partition("\n## ")[0]
    linked = re.findall(r"\[([^\]]+)\]\(#", contents)
    assert [name for name in command_names() if name not in linked] == []


# --- the machinery itself: a document that lies must fail -----------------------------------------

LIE = """
```console
$ echo one; echo two
one
three
```
"""


def nobody(program: str) -> str | None:
    raise AssertionError(program)


def test_a_lying_document_is_found() -> None:
    ((_, documented, real),) = run(LIE, nobody)
    assert not same(documented, real)
    ((_, documented, real),) = run(LIE.replace("three", "two"), nobody)
    assert same(documented, real)


def test_what_a_line_exports_goes_on_to_the_next_commands_and_what_a_command_exports_does_not() -> None:
    document = """
```console
$ export WHERE="$HOME/a b"
$ test "$WHERE" = ~/"a b" && echo kept
kept
$ export ONCE=1
> echo "$ONCE of ${TWICE-none}"
1 of none
$ export TWICE=2
> echo $TWICE
2
$ echo ${TWICE-none}
none
```
"""
    ((_, documented, real),) = run(document, nobody)
    assert same(documented, real)


def test_a_python_block_that_prints_needs_its_output() -> None:
    ((_, documented, real),) = run("```python\nprint(1)\n```\n", nobody)
    assert not same(documented, real)
    ((_, documented, real),) = run("```python\nprint(1)\n```\n\n```text\n1\n```\n", nobody)
    assert same(documented, real)


def test_a_block_that_is_not_run_must_say_why() -> None:
    with pytest.raises(ValueError, match="neither run nor says why not"):
        list(run("```sh\nreboot\n```\n", nobody))
    assert list(run("<!-- docs: not run: it would end the test -->\n\n```sh\nreboot\n```\n", nobody)) == []
    with pytest.raises(ValueError, match="marker"):
        list(run("<!-- docs: not run -->\n```sh\nreboot\n```\n", nobody))


def test_a_block_that_needs_what_is_missing_is_left_out() -> None:
    document = (
        "<!-- docs: needs nothing-like-this -->\n\n```python\nprint(1)\n```\n\n```text\n2\n```\n\n"
        "```console\n$ echo one\none\n```\n"
    )
    ((block, documented, real),) = run(document, lambda program: None)
    assert block.language == "console"
    assert same(documented, real)


def test_ids_stand_for_those_really_made() -> None:
    made = "uuid=$(cat /proc/sys/kernel/random/uuid); echo $uuid >made; echo $uuid"
    document = (
        f"```console\n$ {made}\n01936b1e-7d1c-7000-8000-000000000001\n"
        "$ grep 01936b1e-7d1c-7000-8000-000000000001 made\n01936b1e-7d1c-7000-8000-000000000001\n```\n"
    )
    first, second = document.split("$ grep")
    document = f"{first}```\n\n```console\n$ grep{second}"
    assert [same(documented, real) for _, documented, real in run(document, nobody)] == [True, True]


def test_only_what_differs_from_run_to_run_is_masked(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    for text in (digest, digest[:19], "1.4 MiB", "12 events", "a" * 64 + ".json", "10:00", "file 1700000000"):
        assert masked(text) == text
    assert masked("2026-11-23 14:00:00  head 0123456789ab") == "0000-00-00 00:00:00  head <hash>"
    shapes = (
        "2026-11-23 14:00:00",
        "2026-11-23 14:00:00 +0000",
        "2026-11-23T14:00:00.5Z",
        "2026-11-23T14:00:00.500Z",
    )
    assert len({*map(masked, shapes)}) == len(shapes)
    assert masked("app:1   just now       x") == masked("app:1   1 minute ago   x") != masked("app:1  x")
    assert shown(f"{tmp_path}/x \x1b[1mb\x1b[0m", tmp_path) == f"{HOME}/x b"


def test_replacing_keeps_the_rest() -> None:
    text = "a\n\n```console\n$ x\nold\n```\nb\n\n```text\nc\n```\n"
    first, _ = blocks(text)
    assert replaced(text, {first.line: "$ x\nnew\nlines\n"}) == text.replace("old", "new\nlines")
    assert replaced(text, {}) == text


POINTERS = [
    tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
    for line in (ROOT / "CONTRIBUTING.md")
    .read_text()
    .partition("## Where is")[2]
    .partition("## ")[0]
    .splitlines()
    if line.count("`") == 4
]


@pytest.mark.parametrize(("rule", "file", "name"), POINTERS, ids=lambda cell: cell.replace("/", "."))
def test_a_rule_is_where_contributing_says(rule: str, file: str, name: str) -> None:
    text = (ROOT / file).read_text()
    assert re.search(rf"(def|class|TRIGGER) {name}\b", text), f"{name} is not in {file}"


def test_contributing_says_where_twenty_rules_are() -> None:
    assert len(POINTERS) >= 20
