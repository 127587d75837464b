"""The policy command: the file by which a cache is kept small, shown, checked, begun, and tried out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import look, output
from msb_cache.cli.because import because_of
from msb_cache.cli.common import PATH, examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_FAILED
from msb_cache.cli.rules import policy_in
from msb_cache.cli.tables import Column, fields, paragraph, sentence
from msb_cache.cli.tables import show as show_table
from msb_cache.retention.because import shown_repository
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msb_cache.retention.policy import CachePolicy
    from msb_cache.retention.rules import RuleVerdict


@click.group(
    invoke_without_command=True,
    short_help="Show, check or begin the policy file.",
    epilog=examples(
        "msb-cache policy init",
        "msb-cache policy check",
        "msb-cache policy test app:1",
        "msb-cache policy show",
    ),
)
@click.pass_context
def policy(ctx: click.Context) -> None:
    """Look at the policy file, by which `prune --policy` and `gc` choose what goes.

    It is `cache-policy.toml` in the home, else `msb-cache/policy.toml` in your configuration (~/.config).
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, format_="table", quiet=False)


@policy.command(
    short_help="Show what the policy says.", epilog=examples("msb-cache policy show --format json")
)
@shown_options("the rules' names", tables=False)
@click.pass_obj
def show(home: str | None, shown: Shown) -> None:
    """Show what the policy of this home says, and in which file."""
    with open_cache(home) as cache:
        found = policy_in(cache)
    shown.item(
        lambda: dict(found.recorded()),
        names=lambda: (each["name"] for each in found.recorded()["rules"]),
        table=lambda: _print(found),
    )


@policy.command(short_help="Say what is wrong with it.", epilog=examples("msb-cache policy check new.toml"))
@click.argument("path", metavar="[FILE]", type=PATH, required=False)
@shown_options("the lines with a mistake", tables=False)
@click.pass_obj
def check(home: str | None, path: str | None, shown: Shown) -> int:
    """Say of each mistake in the policy, or in FILE, the line and what is right."""
    with open_cache(home) as cache:
        checked, mistakes = cache.check_policy(path)

    def table() -> None:
        for each in mistakes:
            output.error(f"{checked}: {each}")
        if not mistakes:
            output.lines([text] for text in paragraph(f"{checked} is right.", look.room()))

    shown.item(
        lambda: {"file": checked, "mistakes": [each._asdict() for each in mistakes]},
        names=lambda: (str(each.line) for each in mistakes if each.line is not None),
        table=table,
        paged=False,
    )
    return EXIT_FAILED if mistakes else 0


@policy.command(short_help="Write a policy to begin with.", epilog=examples("msb-cache policy init --user"))
@click.option("--user", is_flag=True, help="In your configuration, for all homes without one of their own.")
@shown_options("the file's path", tables=False)
@click.pass_obj
def init(home: str | None, user: bool, shown: Shown) -> None:
    """Write a policy to begin with, for you to change; one that is there stays.

    It deletes what was not used for 30 days, keeps the last image of each repository, and makes room when
    the file system is nearly full.
    """
    with open_cache(home) as cache:
        new = not os.path.lexists(cache.home)
        path = os.fspath(cache.begin_policy(user=user))
        if new and os.path.lexists(cache.home) and not shown.quiet:
            note(f"{cache.home} is new; the first pull or load settles who keeps it")
    shown.item(lambda: {"file": path}, names=lambda: [path], table=lambda: output.line(path), paged=False)


@policy.command(short_help="Try it on one image.", epilog=examples("msb-cache policy test app:1"))
@click.argument("reference", metavar="REF")
@shown_options("the reference, if it goes", tables=False)
@click.pass_obj
def test(home: str | None, reference: str, shown: Shown) -> None:
    """Say what each rule makes of one image, in order, and what becomes of it; nothing is changed."""
    with open_cache(home) as cache:
        found = policy_in(cache)
        verdicts = cache.test_policy(reference, found)
    said = found.recorded()
    goes = next((each.rule for each in verdicts if each.goes), None)

    def as_fields() -> dict[str, Any]:
        rules = jsonable(verdicts)
        return {"reference": reference, "deletes": goes is not None, "rule": goes, "rules": rules}

    def table() -> None:
        rows = [(each.rule, "DELETE" if each.goes else "KEEP", _because(each, said)) for each in verdicts]
        show_table(_VERDICTS, rows)
        if rows:
            output.line()
        sentence(f"{reference} stays." if goes is None else f"{reference} goes, by the rule {goes!r}.")

    shown.item(as_fields, names=lambda: [] if goes is None else [reference], table=table)


COMMAND = policy

_VERDICTS = (Column("RULE", "name"), Column("", "word"), Column("BECAUSE", "prose"))


def _because(each: RuleVerdict, policy: Mapping[str, Any]) -> str:
    if each.verdict is None:
        return "it is not selected"
    is_digest = each.verdict.subject.startswith("sha256:")
    return because_of(
        each.verdict,
        policy,
        goes=each.goes,
        by=each.verdict.by,
        repository=None if is_digest else shown_repository(each.verdict.subject),
        named=False,
    )


def _print(found: CachePolicy) -> None:
    fields(_lines(found), name_width=_BEHIND)
    if not found.rules and found.watermarks is None:
        output.line("It has no rule, so it deletes nothing.", err=True)


_BEHIND = 12  # columns: where values begin


def _lines(found: CachePolicy) -> Iterator[tuple[str, str]]:
    yield "File", str(found.source)
    said = found.recorded()
    by_default = "" if found.max_delete is not None else " (of ten images or more)"
    yield "Deletes", f"at most {said['max_delete']} of the images at once{by_default}"
    if found.keep:
        yield "Keeps", ", ".join(found.keep)
    for each in said["rules"]:
        words = [f"{key.replace('_', '-')} {_value(value)}" for key, value in each.items() if key != "name"]
        yield f"Rule {each['name']}", ", ".join(words)
    if found.watermarks is not None:
        yield "Watermarks", f"from {found.watermarks.high} down to {found.watermarks.low}"


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
