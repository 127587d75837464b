"""The prunes command: past prunes and removals, one of them in full, and how to undo it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import examples, limit_option, open_cache
from msb_cache.cli.deletions import print_deletion
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Cell, Column, paragraph, show
from msb_cache.queries.resolve import as_typed
from msb_cache.queries.told import who
from msb_cache.shapes import jsonable
from msb_cache.wording import quoted

if TYPE_CHECKING:
    from msb_cache.projections.rows import DeletionRow
    from msb_cache.queries.deletions import DeletionSummary
    from msb_cache.queries.restore_plan import RestorePlan


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "msb-cache prunes -n 10", "msb-cache prunes show 01a20ede", "msb-cache prunes restore-plan 01a20ede"
    ),
)
@limit_option
@shown_options("the operations' ids")
@click.pass_context
def prunes(ctx: click.Context, limit: int | None, shown: Shown) -> None:
    """List past prunes and removals, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with open_cache(ctx.obj) as cache:
        reports = cache.prunes(limit=limit)
    shown.items(reports, fields=jsonable, name=lambda report: report.operation, table=_print)


COLUMNS = (
    Column("ID", "operation"),
    Column("WHEN", "time"),
    Column("KIND", "word"),
    Column("IMAGES", "count"),
    Column("LAYERS", "count", leave=2),
    Column("FREED", "size"),
    Column("OUTCOME", "word", leave=1),
    Column("WHO", "prose"),
)


def _print(reports: Iterable[DeletionSummary]) -> None:
    show(COLUMNS, map(row, nothing("Nothing was ever pruned or removed.", reports)), of="prunes")


def row(report: DeletionSummary) -> tuple[Cell, ...]:
    """Return a deletion's cells in the table."""
    return (
        report.operation,
        report.counters.started_at,
        report.counters.kind,
        report.counters.image_refs_removed,
        report.counters.layers_removed,
        _freed(report.counters),
        report.counters.outcome or "unfinished",
        who(report.actor),
    )


@prunes.command(
    "show",
    short_help="Show what one prune or removal deleted and kept.",
    epilog=examples("msb-cache prunes show 01a20ede"),
)
@click.argument("operation", metavar="ID")
@shown_options("the references that it removed")
@click.pass_obj
def show_one(home: str | None, operation: str, shown: Shown) -> None:
    """Show everything one prune or removal deleted, what it kept and why, and who ran it."""
    with open_cache(home) as cache:
        report = cache.prune_report(operation)
    shown.item(
        lambda: jsonable(report),
        names=lambda: (as_typed(reference, data.spelling) for reference, data in report.images),
        table=lambda: print_deletion(report),
    )


@prunes.command(
    "restore-plan",
    short_help="Print the commands that bring it back.",
    epilog=examples("msb-cache prunes restore-plan 01a20ede > again.sh"),
)
@click.argument("operation", metavar="ID")
@shown_options("the references that come back")
@click.pass_obj
def restore_plan(home: str | None, operation: str, shown: Shown) -> None:
    """Print the commands that bring back what one prune or removal deleted.

    A shell can run what is printed. Nothing is run or changed here: `msb-cache restore` does that.
    """
    with open_cache(home) as cache:
        plan = cache.restore_plan(operation)
    shown.item(
        lambda: jsonable(plan),
        names=lambda: (image.reference for image in plan.images if image.reference and image.arguments),
        table=lambda: _print_plan(plan, home),
    )


COMMAND = prunes


def _freed(row: DeletionRow) -> int | None:
    """Return all that came free, flat roots included."""
    return (row.bytes_reclaimed or 0) + row.flat_bytes_reclaimed if row.flat_removed else row.bytes_reclaimed


def _print_plan(plan: RestorePlan, home: str | None) -> None:
    what = "another program" if plan.kind == "external" else f"{plan.kind} {plan.operation}"
    _comment(f"What {what} deleted, and how to have it again")
    for image in plan.images:
        output.line()
        _comment(f"{image.reference or 'no reference'}  {look.digest(image.manifest_digest)}")
        for note in image.notes:
            _comment(note, indent=2)
        if image.arguments:
            output.line(" ".join(map(quoted, image.command or ())))
        elif image.certainty == "none":
            _comment("it cannot be brought back", indent=2)
    if plan.lost:
        output.line()
        _comment(
            f"{output.plural(len(plan.lost), 'file')} that no image accounts for cannot be brought back:"
        )
    for file in plan.lost:
        _comment(f"{file.kind} {look.digest(file.subject)}", indent=2)


def _comment(text: str, *, indent: int = 0) -> None:
    """Print a comment of a shell script; each of the lines that a terminal needs for it is one."""
    room, before = look.room(), f"# {' ' * indent}"
    for part in paragraph(text, None if room is None else room - len(before)):
        output.line(before, part)
