"""The save command: images into an archive."""

from __future__ import annotations

import sys

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, on_terminal, open_cache


@click.command(epilog=examples("msb-cache save app:1 -o app.tar", "msb-cache save app:1 | docker load"))
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("-o", "--output", "path", type=PATH, help="The archive; without it, stdout.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["docker", "oci"]),
    default="docker",
    show_default=True,
    help="docker-save, or an OCI image layout.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the archive's path only.")
@click.pass_obj
def save(home: str | None, references: tuple[str, ...], path: str | None, format_: str, quiet: bool) -> None:
    """Write images to an archive.

    docker, skopeo, msb and msb-cache load it. Layers are made anew from their EROFS images, so digests
    differ from the original's.
    """
    if path in (None, "-") and on_terminal(sys.stdout):
        raise click.UsageError(
            "an archive would garble the terminal: name a file with -o FILE, or pipe it on"
        )
    if path in (None, "-") and sys.stdout is None:
        raise click.UsageError("nowhere to write to: stdout is closed")
    target = sys.stdout.buffer if path is None or path == "-" else path
    with open_cache(home, quiet=quiet) as cache:
        cache.save(references, target, format=format_)
    if path is None or path == "-":
        return
    if quiet:
        output.line(path)
    else:
        done("Saved", path)


COMMAND = save
