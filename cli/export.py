"""The export command: the log as JSON Lines, and its events in formats of others."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import PATH, done, examples, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.privacy import Told, privacy_options

if TYPE_CHECKING:
    from msb_cache.interchange.formats import ExportFormat

_FORMATS = ("cloudevents", "cloudevents-batch", "csv", "parquet")
"""What is written; the other formats say how it is told that JSON Lines were."""


@click.command(
    epilog=examples(
        "msb-cache export -o log.jsonl",
        "msb-cache export --since-seq 1200",
        "msb-cache export --format parquet --no-people -o log.parquet",
    )
)
@click.option("-o", "--output", "path", type=PATH, help="The file; without it, stdout.")
@click.option(
    "--since-seq", type=click.IntRange(0), default=0, metavar="N", help="Only events behind this position."
)
@shown_options("the file's path", tables=False, more=_FORMATS)
@privacy_options(_FORMATS)
@click.pass_obj
def export(home: str | None, path: str | None, since_seq: int, shown: Shown, told: Told) -> None:
    """Write the log as JSON Lines, CSV and others.

    JSON Lines are the log itself: one event a line, with every column and the hash, so that anybody can check
    it; `import` reads it. With table, json, jsonl or a template, --format says how to tell what was written.

    With cloudevents, cloudevents-batch, csv or parquet it says what is written: events for other programs,
    without the values of environments and labels.
    """
    if path is not None and not path:
        raise click.BadParameter("it is empty", param_hint="--output")
    written = cast("ExportFormat", shown.kind if shown.kind in _FORMATS else "jsonl")
    if written != "jsonl":
        shown = shown._replace(kind="table")
    if path is None and shown.kind != "table":
        raise click.UsageError("--format says how to tell what was written to a file; name one with -o FILE")
    if path is None and written == "parquet":
        raise click.UsageError("Parquet is written to a file; name one with -o FILE")
    shown.expect("path", "events", "bytes")
    target = _stdout(written) if path is None else path
    with open_cache(home, quiet=shown.quiet) as cache:
        count = cache.export(target, since_seq=since_seq, format=written, **told)
    if path is None:
        return
    shown.item(
        lambda: {"path": path, "events": count, "bytes": os.path.getsize(path)},
        names=lambda: [path],
        table=lambda: done("Exported", f"{path}  {output.plural(count, 'event')}"),
        paged=False,
    )


class _Terminal(io.RawIOBase):
    """Shows what is written on the terminal; what would drive it is written out."""

    def write(self, piece: bytes, /) -> int:  # type: ignore[override]
        """Show lines; each piece is whole ones."""
        output.document(piece.decode().replace("\r\n", "\n"))
        return len(piece)


def _stdout(written: str) -> BinaryIO:
    if written == "jsonl" or not look.on_terminal(sys.stdout):
        return sys.stdout.buffer
    return cast("BinaryIO", _Terminal())


COMMAND = export
