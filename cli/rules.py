"""Options that say which images a prune takes: the words of a policy, the same in every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from msb_cache.cli import output
from msb_cache.cli.common import note
from msb_cache.errors import InvalidConfigError

if TYPE_CHECKING:
    from msb_cache.cache import ImageCache
    from msb_cache.retention.policy import CachePolicy, PrunePolicy

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


def bound_missed(rule: str | None, missing_bytes: int) -> str:
    """Return the sentence about a bound of the policy file that cannot be kept."""
    lacking = f"all that may go frees {output.size(missing_bytes)} too little"
    return f"the bound of {rule!r} in the policy cannot be kept: {lacking}"


def policy_option(command: F) -> F:
    """Add ``--policy``, which the command gets as ``by_policy``."""
    return click.option("--policy", "by_policy", is_flag=True, help="The rules of the policy file.")(command)


def policy_if_readable(cache: ImageCache) -> CachePolicy | None:
    """Return the policy of a home's file, None without one; that one has a mistake is said, and no more."""
    try:
        return cache.policy()
    except InvalidConfigError as error:
        note(f"the policy is left out: {error}")
        return None


def policy_in(cache: ImageCache, given: PrunePolicy | None = None, path: str | None = None) -> CachePolicy:
    """Return the policy of a home's file, or another; of what is given only a limit of how much goes with it.

    Raises:
        InvalidConfigError: there is none, or it has a mistake.
    """
    from msgspec.structs import replace

    from msb_cache.queries.policy_file import missing
    from msb_cache.retention.policy import PrunePolicy

    most = None if given is None else given.max_delete
    if given is not None and replace(given, max_delete=None) != PrunePolicy():
        raise click.UsageError("--policy has its rules in the file; give only --max-delete with it")
    found = cache.policy(path)
    if found is None:
        raise missing(cache.home)
    return found if most is None else replace(found, max_delete=most)
