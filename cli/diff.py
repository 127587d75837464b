"""The diff command: what changed in the cache between two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, open_cache
from msb_cache.cli.fields import hold_fields

if TYPE_CHECKING:
    from msb_cache.queries.as_of import Changes


@click.command(
    short_help="Show what changed in the cache between two moments.",
    epilog=examples("msb-cache diff yesterday", "msb-cache diff @120 @150"),
)
@click.argument("before", metavar="TIME|@SEQ")
@click.argument("after", metavar="[TIME|@SEQ]", required=False)
@format_option
@click.pass_obj
def diff(home: str | None, before: str, after: str | None, format_: str) -> None:
    """Show what changed in the cache between two moments, or since one.

    That is images that came (+), went (-) or moved to another digest (~), holds that came and went, and by
    how many bytes the cache grew or shrank. The second moment is now, unless it is given.
    """
    with open_cache(home) as cache:
        changes = cache.diff(before, after)
    if format_ == "json":
        output.json(_changes_fields(changes))
    else:
        _print_changes(changes)


COMMAND = diff


def _changes_fields(changes: Changes) -> dict[str, Any]:
    return {
        "from_seq": changes.from_position,
        "to_seq": changes.to_position,
        "added": [{"reference": name, "digest": digest} for name, digest in changes.added],
        "removed": [{"reference": name, "digest": digest} for name, digest in changes.removed],
        "moved": [
            {
                "reference": moved.reference,
                "previous_digest": moved.previous_digest,
                "digest": moved.manifest_digest,
            }
            for moved in changes.moved
        ],
        "held": [hold_fields(hold) for hold in changes.held],
        "released": [hold_fields(hold) for hold in changes.released],
        "bytes_before": changes.bytes_before,
        "bytes_after": changes.bytes_after,
        "bytes_changed": changes.bytes_changed,
    }


def _print_changes(changes: Changes) -> None:
    short = output.short
    rows = [
        *(("+", "image", name, short(digest)) for name, digest in changes.added),
        *(("-", "image", name, short(digest)) for name, digest in changes.removed),
        *(
            ("~", "image", each.reference, f"{short(each.previous_digest)} → {short(each.manifest_digest)}")
            for each in changes.moved
        ),
        *(("+", "hold", hold.holder, short(hold.manifest_digest)) for hold in changes.held),
        *(("-", "hold", hold.holder, short(hold.manifest_digest)) for hold in changes.released),
    ]
    if rows:
        output.columns(rows)
    else:
        output.line("Nothing has changed.", err=True)
    change, before, after = changes.bytes_changed, changes.bytes_before, changes.bytes_after
    output.line(
        f"From @{changes.from_position} to @{changes.to_position}: {output.size(before)} before, "
        f"{output.size(after)} after ({'-' if change < 0 else '+'}{output.size(abs(change))})"
    )
