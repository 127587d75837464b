"""The schema command: what an event of each type has, as a published JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Column, show


@click.command(
    epilog=examples(
        "msb-cache schema", "msb-cache schema image.pulled", "msb-cache schema event > event.json"
    )
)
@click.argument("type_", metavar="[TYPE]", required=False)
@click.option(
    "--event-version",
    "version",
    type=click.IntRange(1),
    metavar="N",
    help="The type's version.  [default: the newest]",
)
@shown_options("types of events", tables=False)
def schema(type_: str | None, version: int | None, shown: Shown) -> None:
    """Print the JSON Schema of a type of events.

    Of a TYPE such as image.pulled, or of any event: event. Without one, list the types and their newest
    versions. Needs no cache.
    """
    from msb_cache.eventstore.schema import event_schema, versions

    if type_ is None:
        if version is not None:
            raise click.UsageError("--event-version is of a TYPE; name one")
        shown.items(
            [*versions().items()],
            fields=lambda each: {"type": each[0], "version": each[1]},
            name=lambda each: each[0],
            table=_print,
        )
        return
    found = event_schema(type_, version)
    shown.item(lambda: found, names=lambda: [type_], table=lambda: output.json(found), paged=False)


def _print(types: Iterable[tuple[str, int]]) -> None:
    show(
        (Column("TYPE", "name"), Column("VERSION", "count")), ((name, str(number)) for name, number in types)
    )


COMMAND = schema
