"""The load command: images from an archive."""

from __future__ import annotations

import sys

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
    quiet_option,
)


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
@quiet_option("Print nothing but errors.")
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
    quiet: bool,
) -> None:
    """Add the images of a docker-save or OCI archive.

    The archive is a tar file (plain, gzip, zstd, xz or bzip2) or an OCI layout directory. All of its
    images are added, or none if anything is wrong with one.
    """
    if archive is not None and path is not None:
        raise click.UsageError("two archives were named; load one after the other")
    path = archive if path is None else path
    if path in (None, "-") and on_terminal(sys.stdin):
        raise click.UsageError("nothing to load: name an archive, or pipe one in")
    if path in (None, "-") and sys.stdin is None:
        raise click.UsageError("nothing to load: stdin is closed")
    source = sys.stdin.buffer if path is None or path == "-" else path
    with open_cache(home, quiet=quiet) as cache:
        handles = cache.load(
            source,
            tag=tags,
            digest=digest,
            platform=platform,
            max_age_ns=max_age_ns,
            make_room=make_room,
            note=None if quiet else note,
        )
    if not quiet:
        for handle in handles:
            done("Loaded", handle.reference)


COMMAND = load
