"""The diff command: what changed in the cache between two moments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import PATH, examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Cell, Column, rendered, sentence, show
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.layers import LayerComparison
    from msb_cache.projections.rows import DigestRow
    from msb_cache.queries.as_of import Changes


@click.command(
    short_help="Show what changed in the cache between two moments.",
    epilog=examples(
        "msb-cache diff yesterday", "msb-cache diff @120 @150", "msb-cache diff --log other-host.jsonl"
    ),
)
@click.argument("before", metavar="TIME|@SEQ", required=False)
@click.argument("after", metavar="[TIME|@SEQ]", required=False)
@click.option(
    "--log",
    "logs",
    type=PATH,
    metavar="FILE",
    multiple=True,
    help="Compare layers with another host's log, or those of two: exports or databases.",
)
@shown_options("the references that changed, with --log the layers that differ")
@click.pass_obj
def diff(
    home: str | None, before: str | None, after: str | None, logs: tuple[str, ...], shown: Shown
) -> None:
    """Show what changed in the cache between two moments, or since one.

    That is images that came (+), went (-) or moved to another digest (~), holds and pins that came and went,
    and by how many bytes the cache grew or shrank. The second moment is now, unless it is given.

    With --log layers are shown whose bytes are others than in another host's log. msb-cache makes the same
    bytes of a layer everywhere.
    """
    if logs:
        if before is not None or len(logs) > 2:
            raise click.UsageError("--log compares two logs: this home's with a file's, or two files'")
        with open_cache(home) as cache:
            *here, there = logs
            found = cache.compare_layers(there, log=here[0] if here else None, note=note)
        shown.item(
            lambda: jsonable(found),
            names=lambda: (each.diff_id for each in found.differing),
            table=lambda: _print_layers(found),
        )
        return
    if before is None:
        raise click.UsageError("say since when: a time, or @SEQ")
    with open_cache(home) as cache:
        changes = cache.diff(before, after)
    shown.item(
        lambda: jsonable(changes),
        names=lambda: changed(changes),
        table=lambda: print_changes(changes, f"@{changes.from_position}", f"@{changes.to_position}"),
    )


COMMAND = diff


_LAYERS = (
    Column("LAYER", "digest"),
    Column("HERE", "digest"),
    Column("KNOWN", leave=2),
    Column("THERE", "digest"),
    Column("KNOWN", leave=1),
)


def _print_layers(found: LayerComparison) -> None:
    show(
        _LAYERS,
        ((each.diff_id, *_digest_cells(each.here), *_digest_cells(each.there)) for each in found.differing),
    )
    layers = output.plural(found.both, "layer")
    output.line(f"{layers} in both logs, {len(found.differing)} of other bytes", err=bool(found.differing))


def _digest_cells(row: DigestRow) -> tuple[str, str]:
    return row.digest, f"as {'made' if row.how == 'made' else 'first seen'} (event {row.seq})"


def changed(changes: Changes) -> Iterator[str]:
    """Yield the references that changed."""
    for reference, _ in (*changes.added, *changes.removed):
        yield reference
    for moved in changes.moved:
        yield moved.reference


_CHANGES = (Column("", "word"), Column("", "word"), Column("", "name"), Column("", "prose"))
_COLOURS = {"+": "green", "-": "red", "~": "yellow"}


def _change_rows(changes: Changes) -> Iterator[tuple[str, str, str, str]]:
    digest = look.digest
    for name, of in changes.added:
        yield "+", "image", name, digest(of)
    for name, of in changes.removed:
        yield "-", "image", name, digest(of)
    for each in changes.moved:
        yield "~", "image", each.reference, f"{digest(each.previous_digest)} → {digest(each.manifest_digest)}"
    for mark, holds in (("+", changes.held), ("-", changes.released)):
        for hold in holds:
            yield mark, "hold", hold.holder, digest(hold.manifest_digest)
    for mark, pins in (("+", changes.pinned), ("-", changes.unpinned)):
        for pin in pins:
            yield mark, "pin", pin, ""


def print_changes(
    changes: Changes, before: str, after: str, *, nothing: str = "Nothing has changed."
) -> None:
    """Print what differs.

    Args:
        changes: that.
        before: names the one.
        after: names the other.
        nothing: the sentence if they are the same.
    """
    rows: list[tuple[Cell, ...]] = [
        (output.styled(mark, fg=_COLOURS[mark]), *others) for mark, *others in _change_rows(changes)
    ]
    if rows:
        output.lines(rendered(_CHANGES, rows, header=False, gap=2))
    else:
        output.line(nothing, err=True)
    change = changes.bytes_changed
    sentence(
        f"From {before} to {after}: {output.size(changes.bytes_before)} before, "
        f"{output.size(changes.bytes_after)} after ({'-' if change < 0 else '+'}{output.size(abs(change))})"
    )
