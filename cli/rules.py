"""Options that say which images a prune takes: the words of a policy, the same in every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from msb_cache.retention.policy import PrunePolicy

F = TypeVar("F", bound=Callable[..., Any])

_RULES = (
    click.option("--unused-for", metavar="DURATION", help="Only what was not used for as long, such as 14d."),
    click.option(
        "--older-than", metavar="DURATION", help="Only what its name has pointed at for as long, such as 30d."
    ),
    click.option(
        "--keep-last",
        type=click.IntRange(1),
        metavar="N",
        help="Keep the N most recent manifests of each repository, with all their tags.",
    ),
    click.option(
        "--keep-last-by",
        type=click.Choice(["used", "pulled"]),
        help="What is recent: the last use or the last pull.  [default: used]",
    ),
    click.option("--max-size", metavar="SIZE", help="Only until the cache takes no more than this: 20GiB."),
    click.option(
        "--min-free", metavar="SIZE|SHARE", help="Only until so much of its file system is free: 10%, 5GiB."
    ),
    click.option(
        "--filter",
        "filter_",
        multiple=True,
        metavar="KEY=VALUE",
        help="Only what is selected: reference=PATTERN, label=KEY[=VALUE], label!=KEY[=VALUE], dangling or "
        "digest=DIGEST; repeatable.",
    ),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Never these references; repeatable."),
    click.option(
        "--grace",
        metavar="DURATION",
        help="With any rule, keep what was pulled or used within this.  [default: 1h]",
    ),
)
_LIMITS = (
    click.option("--best-effort", is_flag=True, help="If a bound cannot be met, delete all that may go."),
    click.option(
        "--max-delete", metavar="N|SHARE", help="Delete nothing if more images would go: 100, or 50%."
    ),
)


def policy_options(command: F) -> F:
    """Add the options of a policy; the command gets them by keyword, for ``policy_of``."""
    for option in reversed((*_RULES, *_LIMITS)):
        command = option(command)
    return command


def rule_options(command: F) -> F:
    """Add those that say which images go, without limits of how much."""
    for option in reversed(_RULES):
        command = option(command)
    return command


def policy_of(given: dict[str, Any]) -> PrunePolicy:
    """Return the policy that those options ask for."""
    from msb_cache.retention.policy import PrunePolicy

    found = dict(given)
    found["filter"] = found.pop("filter_")
    if found["keep_last_by"] is None:
        del found["keep_last_by"]
    elif found["keep_last"] is None:
        # By itself it is no rule, and then all goes that nothing uses.
        raise click.UsageError("--keep-last-by says what --keep-last calls recent; give that with it")
    return PrunePolicy(**found)
