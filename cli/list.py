"""The list command: what is cached, newest first."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, note, open_cache, quiet_option
from msb_cache.cli.filters import as_of_option
from msb_cache.queries.resolve import as_typed


@click.command(
    "list", epilog=examples("msb-cache list 'ghcr.io/acme/*'", "msb-cache list --as-of 'yesterday 14:00'")
)
@click.argument("patterns", nargs=-1, metavar="[REF]...")
@as_of_option
@format_option
@quiet_option("Print references only.")
@click.pass_obj
def list_(home: str | None, patterns: tuple[str, ...], as_of: str | None, format_: str, quiet: bool) -> None:
    """List cached images, newest first.  [alias: ls]

    Of REFs, which may have wildcards as in 'ghcr.io/acme/*', only the images that they mean.
    """
    with open_cache(home) as cache:
        handles = cache.list(*patterns, as_of=as_of)
        known = bool(handles) or as_of is None or cache.knows(as_of)
        damage = cache.damage(as_of=as_of) if handles else []
    damaged = {as_typed(each.reference, each.spelling): each.seq for each in damage}
    if quiet:
        for handle in handles:
            output.line(handle.reference)
    elif format_ == "json":
        from msb_cache.cli.fields import image_fields

        output.json([image_fields(handle) | {"damaged": handle.reference in damaged} for handle in handles])
    elif handles:
        rows = [
            (
                handle.reference,
                output.short(handle.manifest_digest),
                output.size(handle.size_bytes),
                output.local_time(handle.created_at_ns),
                output.local_time(handle.last_used_at_ns)
                if handle.in_use_since_ns is None
                else output.in_use(handle.in_use_by, output.local_time(handle.in_use_since_ns)),
            )
            for handle in handles
        ]
        output.table(("REFERENCE", "DIGEST", "SIZE", "CREATED", "LAST USED"), rows, right=(2,))
    elif known:
        output.line("No cached images.", err=True)
    for handle in handles:
        if handle.reference in damaged:
            note(
                f"{handle.reference} is damaged: another program deleted files of it (event "
                f"{damaged[handle.reference]}); `msb-cache pull {handle.reference}`, or loading it again, "
                "mends it"
            )


COMMAND = list_
