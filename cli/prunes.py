"""The prunes command: past prunes and removals, one of them in full, and how to undo it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, limit_option, open_cache
from msb_cache.cli.deletions import deletion_fields, print_deletion
from msb_cache.cli.describe import who
from msb_cache.wording import quoted

if TYPE_CHECKING:
    from msb_cache.projections.rows import DeletionRow
    from msb_cache.queries.restore_plan import LostFile, Restoration, RestorePlan


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "msb-cache prunes -n 10", "msb-cache prunes show 01a20ede", "msb-cache prunes restore-plan 01a20ede"
    ),
)
@limit_option
@format_option
@click.pass_context
def prunes(ctx: click.Context, limit: int | None, format_: str) -> None:
    """List past prunes and removals, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with open_cache(ctx.obj) as cache:
        reports = cache.deletions(limit=limit)
    if format_ == "json":
        output.json([deletion_fields(report) for report in reports])
        return
    rows = [
        (
            report.operation[:13],
            output.local_time_with_offset(report.counters.started_at),
            report.counters.kind,
            str(report.counters.image_refs_removed),
            str(report.counters.layers_removed),
            output.size(_freed(report.counters)),
            report.counters.outcome or "unfinished",
            who(report.actor),
        )
        for report in reports
    ]
    if rows:
        header = ("ID", "WHEN", "KIND", "IMAGES", "LAYERS", "FREED", "OUTCOME", "WHO")
        output.table(header, rows, right=(3, 4, 5))
    else:
        output.line("Nothing was ever pruned or removed.", err=True)


@prunes.command(short_help="Show what one prune or removal deleted and kept.")
@click.argument("operation", metavar="ID")
@format_option
@click.pass_obj
def show(home: str | None, operation: str, format_: str) -> None:
    """Show everything one prune or removal deleted, what it kept and why, and who ran it."""
    with open_cache(home) as cache:
        report = cache.deletion(operation)
    if format_ == "json":
        output.json(deletion_fields(report))
    else:
        print_deletion(report)


@prunes.command(
    "restore-plan",
    short_help="Print the commands that bring it back.",
    epilog=examples("msb-cache prunes restore-plan 01a20ede > again.sh"),
)
@click.argument("operation", metavar="ID")
@format_option
@click.pass_obj
def restore_plan(home: str | None, operation: str, format_: str) -> None:
    """Print the commands that bring back what one prune or removal deleted.

    A shell can run what is printed. Nothing is run or changed here: `msb-cache restore` does that.
    """
    with open_cache(home) as cache:
        plan = cache.restore_plan(operation)
    if format_ == "json":
        output.json(
            {
                "operation": plan.operation,
                "kind": plan.kind,
                "images": [image_fields(image, home) for image in plan.images],
                "lost": lost_fields(plan.lost),
            }
        )
    else:
        _print_plan(plan, home)


COMMAND = prunes


def _freed(row: DeletionRow) -> int | None:
    """Return all that came free, flat roots included."""
    return (row.bytes_reclaimed or 0) + row.flat_bytes_reclaimed if row.flat_removed else row.bytes_reclaimed


def _command(arguments: Sequence[str], home: str | None) -> list[str]:
    return ["msb-cache", *(() if home is None else ("--home", home)), *arguments]


def _print_plan(plan: RestorePlan, home: str | None) -> None:
    what = "another program" if plan.kind == "external" else f"{plan.kind} {plan.operation}"
    output.line(f"# What {what} deleted, and how to have it again")
    for image in plan.images:
        output.line()
        output.line(f"# {image.reference or 'no reference'}  {image.manifest_digest}")
        for sentence in image.notes:
            output.line(f"#   {sentence}")
        if image.arguments:
            output.line(" ".join(map(quoted, _command(image.arguments, home))))
        elif image.certainty == "none":
            output.line("#   it cannot be brought back")
    if plan.lost:
        output.line()
        output.line(
            f"# {output.plural(len(plan.lost), 'file')} that no image accounts for cannot be brought back:"
        )
    for file in plan.lost:
        output.line(f"#   {file.kind} {file.subject}")


def image_fields(image: Restoration, home: str | None) -> dict[str, Any]:
    """Return an image of a plan, and how it comes back, as fields for JSON."""
    return {
        "reference": image.reference,
        "digest": image.manifest_digest,
        "certainty": image.certainty,
        "command": _command(image.arguments, home) if image.arguments else None,
        "notes": list(image.notes),
    }


def lost_fields(lost: Sequence[LostFile]) -> list[dict[str, str]]:
    """Return files that nothing brings back as fields for JSON."""
    return [{"kind": file.kind, "subject": file.subject} for file in lost]
