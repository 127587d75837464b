"""The list command: what is cached, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from msb_cache.cli import output
from msb_cache.cli.common import NOTHING_CACHED, examples, note, open_cache
from msb_cache.cli.filters import as_of_option
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Column, show
from msb_cache.queries.resolve import as_typed
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.cache import ImageCache
    from msb_cache.models import ImageHandle

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    Column("REFERENCE", "name"),
    Column("DIGEST", "digest", leave=3),
    Column("SIZE", "size"),
    Column("IN USE", "name", leave=1),
    Column("CREATED", "time", leave=2),
    Column("LAST USED", "time"),
)

_LEAST = -(2**63)  # what is not known comes last
ORDERS: dict[str, tuple[Callable[[ImageHandle], Any], bool]] = {
    "size": (lambda handle: -1 if handle.size_bytes is None else handle.size_bytes, True),
    "created": (lambda handle: _LEAST if handle.created_at_ns is None else handle.created_at_ns, True),
    "used": (lambda handle: _last_used(handle), True),
    "name": (lambda handle: handle.reference, False),
}
"""By the words of ``--sort``: what images are ordered by, and whether the greatest comes first."""


def sort_option(command: F) -> F:
    """Add ``--sort`` of what lists images: the words of ``ORDERS``."""
    return click.option(
        "--sort",
        type=click.Choice([*ORDERS]),
        default="created",
        show_default=True,
        help="Largest, newest, last used or by name first.",
    )(command)


@click.command(
    "list",
    epilog=examples(
        "msb-cache list 'ghcr.io/acme/*'",
        "msb-cache list --sort size -n 10",
        "msb-cache list --filter label=team=web --format '{reference} {size_bytes:size}'",
        "msb-cache list --as-of 'yesterday 14:00'",
    ),
)
@click.argument("patterns", nargs=-1, metavar="[REF]...")
@sort_option
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only what prune's --filter selects: reference=PATTERN, label=KEY[=VALUE], label!=KEY[=VALUE], "
    "dangling or digest=DIGEST; repeatable.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Only the first N: the newest, or as --sort says.",
)
@as_of_option
@shown_options("references")
@click.pass_obj
def list_(
    home: str | None,
    patterns: tuple[str, ...],
    sort: str,
    filters: tuple[str, ...],
    limit: int | None,
    as_of: str | None,
    shown: Shown,
) -> None:
    """List cached images, newest first.  [alias: ls]

    Of REFs, which may have wildcards as in 'ghcr.io/acme/*', only the images that they mean.
    """
    key, descending = ORDERS[sort]
    with open_cache(home) as cache:
        found = cache.list(*patterns, filter=filters, as_of=as_of)
        handles = sorted(found, key=key, reverse=descending)[:limit]
        damaged = _damaged(cache, handles, as_of)
        known = bool(handles) or as_of is None or cache.knows(as_of)

    def fields(handle: ImageHandle) -> dict[str, Any]:
        return {**jsonable(handle), "damaged": handle.reference in damaged}

    def table(_: Iterable[ImageHandle]) -> None:
        if handles:
            show(COLUMNS, map(row, handles), of="list")
        elif known:
            all_of_now = as_of is None and not patterns and not filters
            output.line(NOTHING_CACHED if all_of_now else "No cached images.", err=True)

    shown.items(handles, fields=fields, name=lambda handle: handle.reference, table=table)
    for handle in handles:
        if handle.reference in damaged:
            note(
                f"{handle.reference} is damaged: another program deleted files of it (event "
                f"{damaged[handle.reference]}); `msb-cache pull {handle.reference}`, or loading it again, "
                "mends it"
            )


COMMAND = list_


def _last_used(handle: ImageHandle) -> int:
    if handle.in_use_since_ns is not None:
        return 2**63 - 1
    return _LEAST if handle.last_used_at_ns is None else handle.last_used_at_ns


def _damaged(cache: ImageCache, handles: Sequence[ImageHandle], as_of: str | None) -> dict[str, int]:
    damage = cache.damage(as_of=as_of) if handles else []
    return {as_typed(each.reference, each.spelling): each.seq for each in damage}


def row(handle: ImageHandle) -> tuple[str | int | None, ...]:
    """Return an image's cells in the table."""
    return (
        handle.reference,
        handle.manifest_digest,
        handle.size_bytes,
        _used_by(handle),
        handle.created_at_ns,
        handle.last_used_at_ns if handle.in_use_since_ns is None else "now",
    )


def _used_by(handle: ImageHandle) -> str | None:
    """Return who runs from an image or holds it: ``sandbox:dev +2``."""
    by = [*dict.fromkeys((*handle.in_use_by, *handle.held_by))]
    if not by:
        return None if handle.in_use_since_ns is None else "yes"
    return f"{by[0]} +{len(by) - 1:,}" if len(by) > 1 else by[0]
