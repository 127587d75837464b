"""The pins command: which images people keep."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, note, open_cache
from msb_cache.cli.fields import pin_fields, pin_name
from msb_cache.cli.filters import as_of_option


@click.command(epilog=examples("msb-cache pins", "msb-cache pins --as-of yesterday"))
@as_of_option
@format_option
@click.pass_obj
def pins(home: str | None, as_of: str | None, format_: str) -> None:
    """Show what is pinned, by whom, why and until when."""
    with open_cache(home) as cache:
        found = cache.pins(as_of=as_of)
        known = bool(found) or as_of is None or cache.knows(as_of)
    if format_ == "json":
        output.json([pin_fields(pin) for pin in found])
    elif found:
        output.table(
            ("PINNED", "DIGEST", "BY", "SINCE", "UNTIL", "REASON"),
            [
                (
                    pin_name(pin),
                    output.short(pin.manifest_digest) if pin.here else "not here",
                    pin.by,
                    output.local_time_with_offset(pin.since_ns),
                    output.local_time_with_offset(pin.until_ns),
                    pin.reason or "-",
                )
                for pin in found
            ],
        )
    elif known:
        output.line("Nothing is pinned.", err=True)
    if found and not found[0].enforced and format_ == "table":
        note("msb keeps this home, and its own `msb image prune` and `msb image rm` do not know pins")


COMMAND = pins
