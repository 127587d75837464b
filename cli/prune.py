"""The prune command: what would go and why, the question, and what went."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output, progress, tables
from msb_cache.cli.common import (
    examples,
    note,
    on_terminal,
    open_cache,
    reason_option,
)
from msb_cache.cli.considered import print_considered
from msb_cache.cli.deletions import failures, freed, operation_of
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.leftovers import print_leftovers
from msb_cache.cli.main import EXIT_BOUND
from msb_cache.cli.rules import bound_missed, policy_in, policy_of, policy_option, policy_options
from msb_cache.cli.tables import sentence
from msb_cache.queries.resolve import seen_name
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.commands.prune import Prune
    from msb_cache.engines.decision import Preview
    from msb_cache.models import ImagePruneReport


@click.command(
    short_help="Remove what nothing uses, or what rules choose.",
    epilog=examples(
        "msb-cache prune --dry-run --unused-for 14d",
        "msb-cache prune --max-size 20GiB --keep-last 2 --yes",
        "msb-cache prune --policy --dry-run",
        'msb-cache prune --yes --reason "the disk is full"',
    ),
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would go; nothing is recorded.")
@policy_options
@policy_option
@click.option("--orphans", is_flag=True, help="Also delete files that the index does not name.")
@click.option("--orphans-only", is_flag=True, help="Delete those, and no image.")
@reason_option
@shown_options("the operation's id, or with --dry-run references")
@click.pass_obj
def prune(
    home: str | None,
    /,
    yes: bool,
    dry_run: bool,
    by_policy: bool,
    orphans: bool,
    orphans_only: bool,
    reason: str | None,
    shown: Shown,
    **rules: Any,
) -> int:
    """Remove every image that nothing uses, or those that rules choose, given here or in the policy file.

    What a sandbox or a snapshot holds, what runs and what is pinned never goes. Of the rest an image goes if
    it is selected, has every age that is given, and is not protected; with --max-size or --min-free, the
    least recently used go until that holds. What was deleted, kept and why is recorded: see `msb-cache
    prunes`.
    """
    from msb_cache.models import ImagePruneReport

    if not dry_run:
        shown.expect(*ImagePruneReport.__struct_fields__)
    given = policy_of(rules)
    with open_cache(home, reason=reason, quiet=shown.quiet) as cache:
        policy = policy_in(cache, given) if by_policy else given
        asked = cache.plan_prune(policy, orphans=orphans, orphans_only=orphans_only)
        if not dry_run and not yes and not on_terminal(sys.stdin):
            raise click.UsageError(
                "nobody to ask: stdin is no terminal; use --yes, or --dry-run to look first"
            )
        said = policy.recorded()
        if dry_run:
            return show(asked, said, shown)

        def confirm(preview: Preview) -> bool:
            print_preview(
                preview, said, err=True
            )  # beside the question, out of the way of what programs read
            try:
                return click.confirm("\nDelete these?", err=True)
            except click.Abort:
                output.line(err=True)  # behind the question, and what the terminal shows of Ctrl-C
                raise

        with progress.deleting(not shown.as_table) as report:
            done = asked.run(confirm=None if yes else confirm, report=report)
        short = _say_what_is_missing(asked)
    shown.item(
        lambda: jsonable(done),
        names=lambda: operation_of(done),
        table=lambda: print_report(done, "Nothing was pruned."),
        paged=False,
    )
    return max(failures(done), default=short)


COMMAND = prune


def show(asked: Prune, policy: Mapping[str, Any], shown: Shown) -> int:
    """Show what a prune would do, and return the exit code; ``policy`` is as it was given.

    Raises:
        BoundNotKeptError: it would do nothing.
    """
    preview = asked.preview()
    plan = preview.plan
    shown.item(
        lambda: jsonable(preview),
        names=lambda: (seen_name(plan.naming, reference) for reference in plan.references),
        table=lambda: print_preview(preview, policy),
    )
    asked.check(preview)
    return _say_what_is_missing(asked)


def _say_what_is_missing(asked: Prune) -> int:
    """Say by how much a bound is not met although all goes that may, and return the exit code for it.

    It is a failure of a policy, whose bounds are to be kept; and none where best effort was asked for.
    """
    if not asked.shortfall:
        return 0
    if asked.short_of is None:
        missing = output.size(asked.shortfall)
        note(f"the bound is not met: all that may go frees {missing} too little")
        return 0
    output.error(bound_missed(asked.short_of, asked.shortfall))
    return EXIT_BOUND


def print_preview(shown: Preview, policy: Mapping[str, Any], *, err: bool = False) -> None:
    """Print each image that a deletion considers, and below them what goes in all."""
    images = shown.images()
    if images:
        print_considered(images, policy, err=err)
        output.line(err=err)
    print_leftovers(shown.leftovers, err=err)
    plan, going = shown.plan, [each for each in images if each.goes]
    if len(images) > len(going):
        output.line(f"Keeps {output.plural(len(images) - len(going), 'image')}.", err=err)
    if plan.empty and not shown.artifacts:
        output.line("Nothing to delete.", err=err)
        return
    counts = (
        (len(plan.references), "reference", None),
        (len(plan.manifests), "manifest", None),
        (len(plan.layers), "layer", None),
        (shown.orphans, "file that no image names", "files that no image names"),
        (shown.count("flat"), "flat root", None),
    )
    parts = [output.plural(count, one, many) for count, one, many in counts if count]
    sentence(f"Deletes {', '.join(parts)}: {output.size(shown.freed_bytes)} come free.", err=err)


def print_report(report: ImagePruneReport, nothing: str) -> None:
    """Print what a deletion did, in numbers; if it found nothing to do, say ``nothing``."""
    if report.operation is None:
        output.line(nothing, err=True)
        return
    pairs = (
        ("Image refs", f"{report.image_refs_removed:,}"),
        ("Manifests", f"{report.manifests_removed:,}"),
        ("Layers", f"{report.layers_removed:,}"),
        ("Fsmeta", f"{report.fsmeta_removed:,}"),
        ("VMDK", f"{report.vmdk_removed:,}"),
        *([("Orphans", f"{report.orphans_removed:,}")] if report.orphans_removed else []),
        *([("Flat roots", f"{report.flat_removed:,}")] if report.flat_removed else []),
        ("Reclaimed", freed(report.bytes_reclaimed, report.flat_removed, report.flat_bytes_reclaimed)),
        *([("Kept", f"{report.skipped_in_use:,} used meanwhile")] if report.skipped_in_use else []),
        ("Operation", report.operation),
    )
    tables.fields(pairs, name_width=12, indent=2)
