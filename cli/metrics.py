"""The metrics command: numbers for a monitoring system."""

from __future__ import annotations

from typing import Literal

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, examples, note, open_cache


@click.command(
    short_help="Print metrics for Prometheus.",
    epilog=examples(
        "msb-cache metrics",
        "msb-cache metrics --textfile /var/lib/prometheus/node-exporter/msb-cache.prom",
    ),
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["openmetrics", "prometheus"]),
    help="OpenMetrics, or the classic text format of Prometheus.  [default: openmetrics; a file: prometheus]",
)
@click.option(
    "--textfile",
    metavar="PATH",
    type=PATH,
    help="Write this file for node-exporter's textfile collector, and print nothing.",
)
@click.pass_obj
def metrics(
    home: str | None, format_: Literal["openmetrics", "prometheus"] | None, textfile: str | None
) -> None:
    """Print metrics of the cache for Prometheus.

    Sizes of files are those that they had when they came, as the log says: none is looked at, so that this
    may be asked every minute. `df` measures the disk.
    """
    if textfile is not None and not textfile:
        raise click.BadParameter("it is empty", param_hint="--textfile")
    if textfile is not None and format_ == "openmetrics":
        raise click.UsageError("node-exporter reads no OpenMetrics from files; leave --format out")
    from msb_cache.care.exposition import exposition, write_textfile

    with open_cache(home) as cache:
        found = cache.metrics()
    if textfile is None:
        output.document(exposition(found, format_ or "openmetrics"))
        return
    write_textfile(found, textfile)
    if not textfile.endswith(".prom"):
        note(f"node-exporter reads only files whose names end with .prom, and so not {textfile}")


COMMAND = metrics
