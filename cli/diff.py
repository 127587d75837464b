"""The diff command: what changed in the cache between two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, examples, format_option, note, open_cache
from msb_cache.cli.fields import hold_fields

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
@format_option
@click.pass_obj
def diff(
    home: str | None, before: str | None, after: str | None, logs: tuple[str, ...], format_: str
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
        _show_layers(found, format_)
        return
    if before is None:
        raise click.UsageError("say since when: a time, or @SEQ")
    with open_cache(home) as cache:
        changes = cache.diff(before, after)
    if format_ == "json":
        output.json(_changes_fields(changes))
    else:
        _print_changes(changes)


COMMAND = diff


def _show_layers(found: LayerComparison, format_: str) -> None:
    if format_ == "json":
        output.json(
            {
                "layers": found.both,
                "differing": [
                    {
                        "diff_id": each.diff_id,
                        "here": _digest_fields(each.here),
                        "there": _digest_fields(each.there),
                    }
                    for each in found.differing
                ],
            }
        )
        return
    if found.differing:
        output.table(
            ("LAYER", "HERE", "KNOWN", "THERE", "KNOWN"),
            [
                (output.short(each.diff_id), *_digest_cells(each.here), *_digest_cells(each.there))
                for each in found.differing
            ],
        )
    layers = output.plural(found.both, "layer")
    output.line(f"{layers} in both logs, {len(found.differing)} of other bytes", err=bool(found.differing))


def _digest_cells(row: DigestRow) -> tuple[str, str]:
    return output.short(row.digest), f"as {'made' if row.how == 'made' else 'first seen'} (event {row.seq})"


def _digest_fields(row: DigestRow) -> dict[str, Any]:
    return {"digest": row.digest, "how": row.how, "since": output.rfc3339(row.since), "seq": row.seq}


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
        "pinned": changes.pinned,
        "unpinned": changes.unpinned,
        "bytes_before": changes.bytes_before,
        "bytes_after": changes.bytes_after,
        "bytes_changed": changes.bytes_changed,
    }


def _pinned(subject: str) -> str:
    return output.short(subject) if subject.startswith("sha256:") else subject


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
        *(("+", "pin", _pinned(pin), "") for pin in changes.pinned),
        *(("-", "pin", _pinned(pin), "") for pin in changes.unpinned),
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
