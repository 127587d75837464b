"""The load command: images from an archive."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from msb_cache.cli.common import (
    PATH,
    done,
    examples,
    make_room_option,
    max_age_option,
    note,
    on_terminal,
    open_cache,
)
from msb_cache.cli.fields import IMAGE_FIELDS
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.models import ImageHandle


@click.command(
    epilog=examples(
        "msb-cache load app.tar --tag app:dev",
        "docker save app:1 | msb-cache load",
        "msb-cache load app.tar --make-room",
    )
)
@click.argument("archive", type=PATH, required=False)
@click.option("-i", "--input", "path", type=PATH, help="The archive; without one, stdin.")
@click.option(
    "-t",
    "--tag",
    "tags",
    metavar="REF",
    multiple=True,
    help="One more reference for the first image; repeatable.",
)
@click.option(
    "--digest",
    metavar="DIGEST",
    help="Add only the image with this manifest, under the names of --tag or else its own.",
)
@click.option(
    "--platform", metavar="OS/ARCH", help="Which image of an index; default: linux on this machine."
)
@max_age_option
@make_room_option
@shown_options("the digests", tables=False)
@click.pass_obj
def load(
    home: str | None,
    archive: str | None,
    path: str | None,
    tags: tuple[str, ...],
    digest: str | None,
    platform: str | None,
    max_age_ns: int,
    make_room: bool,
    shown: Shown,
) -> None:
    """Add the images of a docker-save or OCI archive.

    The archive is a tar file (plain, gzip, zstd, xz or bzip2) or an OCI layout directory. All of its
    images are added, or none if anything is wrong with one.
    """
    shown.expect(*IMAGE_FIELDS)
    if archive is not None and path is not None:
        raise click.UsageError("two archives were named; load one after the other")
    path = archive if path is None else path
    if path in (None, "-") and on_terminal(sys.stdin):
        raise click.UsageError("nothing to load: name an archive, or pipe one in")
    if path in (None, "-") and sys.stdin is None:
        raise click.UsageError("nothing to load: stdin is closed")
    source = sys.stdin.buffer if path is None or path == "-" else path
    with open_cache(home, quiet=shown.quiet) as cache:
        handles = cache.load(
            source,
            tag=tags,
            digest=digest,
            platform=platform,
            max_age=timedelta(microseconds=max_age_ns // 1000),
            make_room=make_room,
            note=None if shown.quiet else note,
        )
    first = {handle.manifest_digest: handle for handle in reversed(handles)}  # several names can mean one
    shown.items(
        handles,
        fields=jsonable,
        name=lambda handle: handle.manifest_digest if first[handle.manifest_digest] is handle else None,
        table=_print,
        paged=False,
    )


COMMAND = load


def _print(handles: Iterable[ImageHandle]) -> None:
    for handle in handles:
        done("Loaded", handle.reference)
