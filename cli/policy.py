"""The policy command: the file by which a cache is kept small, shown, checked, begun, and tried out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.because import because_of
from msb_cache.cli.common import PATH, examples, format_option, open_cache
from msb_cache.cli.considered import shown_repository
from msb_cache.cli.main import EXIT_FAILED
from msb_cache.cli.rules import policy_in

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
        ctx.invoke(show, format_="table")


@policy.command(
    short_help="Show what the policy says.", epilog=examples("msb-cache policy show --format json")
)
@format_option
@click.pass_obj
def show(home: str | None, format_: str) -> None:
    """Show what the policy of this home says, and in which file."""
    with open_cache(home) as cache:
        found = policy_in(cache)
    if format_ == "json":
        output.json(found.recorded())
    else:
        _print(found)


@policy.command(short_help="Say what is wrong with it.", epilog=examples("msb-cache policy check new.toml"))
@click.argument("path", metavar="[FILE]", type=PATH, required=False)
@format_option
@click.pass_obj
def check(home: str | None, path: str | None, format_: str) -> int:
    """Say of each mistake in the policy, or in FILE, the line and what is right."""
    with open_cache(home) as cache:
        checked, mistakes = cache.check_policy(path)
    if format_ == "json":
        output.json({"file": checked, "mistakes": [each._asdict() for each in mistakes]})
    elif mistakes:
        for each in mistakes:
            output.error(f"{checked}: {each}")
    else:
        output.line(f"{checked} is right.")
    return EXIT_FAILED if mistakes else 0


@policy.command(short_help="Write a policy to begin with.", epilog=examples("msb-cache policy init --user"))
@click.option("--user", is_flag=True, help="In your configuration, for all homes without one of their own.")
@click.pass_obj
def init(home: str | None, user: bool) -> None:
    """Write a policy to begin with, for you to change; one that is there stays.

    It deletes what was not used for 30 days, keeps the last image of each repository, and makes room when
    the file system is nearly full.
    """
    with open_cache(home) as cache:
        output.line(os.fspath(cache.begin_policy(user=user)))


@policy.command(short_help="Try it on one image.", epilog=examples("msb-cache policy test app:1"))
@click.argument("reference", metavar="REF")
@format_option
@click.pass_obj
def test(home: str | None, reference: str, format_: str) -> None:
    """Say what each rule makes of one image, in order, and what becomes of it; nothing is changed."""
    with open_cache(home) as cache:
        found = policy_in(cache)
        verdicts = cache.test_policy(reference, found)
    said = found.recorded()
    goes = next((each.rule for each in verdicts if each.goes), None)
    if format_ == "json":
        rules = [_fields(each, _because(each, said)) for each in verdicts]
        output.json({"reference": reference, "deletes": goes is not None, "rule": goes, "rules": rules})
        return
    rows = [(each.rule or "-", "DELETE" if each.goes else "KEEP", _because(each, said)) for each in verdicts]
    if rows:
        output.whole_table(("RULE", "", "BECAUSE"), rows)
        output.line()
    output.line(f"{reference} stays." if goes is None else f"{reference} goes, by the rule {goes!r}.")


COMMAND = policy


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


def _fields(each: RuleVerdict, because: str) -> dict[str, Any]:
    rule = None if each.verdict is None else each.verdict.rule
    return {"name": each.rule, "deletes": each.goes, "rule": rule, "because": because}


def _print(found: CachePolicy) -> None:
    output.line(f"File:        {found.source}")
    said = found.recorded()
    limit = said["max_delete"]
    by_default = "" if found.max_delete is not None else " (of ten images or more)"
    output.line(f"Deletes:     at most {limit} of the images at once{by_default}")
    if found.keep:
        output.line(f"Keeps:       {', '.join(found.keep)}")
    for each in said["rules"]:
        words = [f"{key.replace('_', '-')} {_value(value)}" for key, value in each.items() if key != "name"]
        output.line(f"Rule {each['name']}: ".ljust(13) + ", ".join(words))
    if found.watermarks is not None:
        output.line(f"Watermarks:  from {found.watermarks.high} down to {found.watermarks.low}")
    if not found.rules and found.watermarks is None:
        output.line("It has no rule, so it deletes nothing.", err=True)


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
