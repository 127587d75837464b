"""The last-used command: how long each image has lain idle, and the event that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import duration_ns, examples, format_option, open_cache
from msb_cache.cli.describe import describe, fields, who
from msb_cache.wording import duration

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent
    from msb_cache.queries.last_used import IdleImage


@click.command("last-used", epilog=examples('msb-cache last-used --idle-for "30 days"'))
@click.option(
    "--idle-for",
    "idle_for",
    metavar="DURATION",
    help='Only those idle for as long, such as "30 days", "12 hours" or "3 months".',
)
@format_option
@click.pass_obj
def last_used(home: str | None, idle_for: str | None, format_: str) -> None:
    """List images by how long they lay idle, longest first.

    With the event that says so: a load or pull, a use, or what was seen of msb. An image that sandboxes run
    from is not idle; one that they ran from, since the last of them ended.
    """
    least = 0
    if idle_for is not None:
        least = duration_ns(idle_for)
    with open_cache(home) as cache:
        found = cache.idle(at_least_ns=least)
    if format_ == "json":
        output.json([_idle_fields(image) for image in found])
    elif found:
        output.table(
            ("REFERENCE", "DIGEST", "IDLE", "LAST USED", "BECAUSE", "WHO"),
            [_idle_row(image) for image in found],
        )
    else:
        output.line("No such images." if idle_for else "No images are cached.", err=True)


COMMAND = last_used


def _because(event: StoredEvent) -> str:
    line = describe(event)
    return f"{line.what} {line.details}".rstrip()


def _idle_row(image: IdleImage) -> tuple[str, ...]:
    event = image.event
    told = ("-", "-") if event is None else (_because(event), who(event.actor))
    when = output.local_time_with_offset(image.last_used_ns)
    if image.in_use_since_ns is not None:
        when = output.in_use(image.in_use_by, output.local_time_with_offset(image.in_use_since_ns))
    return (
        image.reference,
        output.short(image.manifest_digest),
        "-" if image.idle_since_ns is None else duration(image.idle_ns),
        when,
        *told,
    )


def _idle_fields(image: IdleImage) -> dict[str, Any]:
    return {
        "reference": image.reference,
        "digest": image.manifest_digest,
        "last_used_at": output.rfc3339(image.last_used_ns),
        "idle_ns": image.idle_ns,
        "idle_since": output.rfc3339(image.idle_since_ns),
        "in_use_by": list(image.in_use_by),
        "in_use_since": output.rfc3339(image.in_use_since_ns),
        "event": None if image.event is None else fields(image.event),
    }
