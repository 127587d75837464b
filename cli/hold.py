"""The hold command: an image that stays until its holder releases it."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, format_option, note, open_cache, quiet_option


@click.command(
    epilog=examples("msb-cache hold app:1 sandbox:dev", "msb-cache hold app:1 snapshot:base --until friday")
)
@click.argument("reference", metavar="REF")
@click.argument("holder", metavar="HOLDER")
@click.option("--until", metavar="TIME", help='When it ends, such as 2027-01-31, friday or "2 weeks".')
@format_option
@quiet_option("Print nothing but errors.")
@click.pass_obj
def hold(home: str | None, reference: str, holder: str, until: str | None, format_: str, quiet: bool) -> None:
    """Keep an image until its holder releases it.

    HOLDER is sandbox:NAME or snapshot:NAME (or its path).
    """
    with open_cache(home, quiet=quiet) as cache:
        handle = cache.hold(reference, holder, until=until)
    if format_ == "json":
        output.json(
            {
                "reference": handle.reference,
                "digest": handle.manifest_digest,
                "holder": handle.holder,
                "until": output.rfc3339(handle.until_ns),
                "enforced": handle.enforced,
            }
        )
    elif not quiet:
        ends = "" if handle.until_ns is None else f" until {output.local_time_with_offset(handle.until_ns)}"
        done("Held", f"{handle.reference} ({output.short(handle.manifest_digest)}) by {holder}{ends}")
    if not (handle.enforced or quiet):
        note(
            "msb keeps this home, and its own `msb image prune` and `msb image rm` do not know this hold: "
            "use those of msb-cache"
        )


COMMAND = hold
