"""The pull command: an image from its registry."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import (
    done,
    examples,
    fetching_options,
    make_room_option,
    max_age_option,
    note,
    on_terminal,
    open_cache,
)
from msb_cache.cli.fields import IMAGE_FIELDS
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.progress import display
from msb_cache.models import PULLED
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.shapes import jsonable

_MAX_PASSWORD = 64 * 1024


@click.command(
    epilog=examples(
        "msb-cache pull python:3.12",
        "msb-cache pull --policy always ghcr.io/acme/app:1",
        "msb-cache pull --make-room python:3.12",
        "msb-cache pull --format '{digest} {bytes_fetched:size}' python:3.12",
        'echo "$TOKEN" | msb-cache pull -u me --password-stdin ghcr.io/acme/app:1',
    )
)
@click.argument("reference", metavar="REF")
@click.option(
    "--digest",
    metavar="DIGEST",
    help="Pull this manifest, whatever REF means there now; REF points at it then.",
)
@click.option(
    "--platform", metavar="OS/ARCH", help="Which image of an index; default: linux on this machine."
)
@click.option(
    "--policy",
    type=click.Choice(["missing", "always", "never"]),
    default="missing",
    show_default=True,
    help="Ask the registry if the image is missing, always (layers are reused), or never.",
)
@click.option("-f", "--force", is_flag=True, help="Fetch everything anew, whatever is cached.")
@click.option("-u", "--username", metavar="NAME", help="The login's name; needs --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the login's password or token from stdin.")
@fetching_options
@max_age_option
@make_room_option
@shown_options("the digest", tables=False)
@click.pass_obj
def pull(
    home: str | None,
    reference: str,
    digest: str | None,
    platform: str | None,
    policy: str,
    force: bool,
    username: str | None,
    password_stdin: bool,
    insecure: bool,
    ca_certs: Path | None,
    jobs: int,
    max_age_ns: int,
    make_room: bool,
    shown: Shown,
) -> None:
    """Pull an image from its registry.

    Short names mean Docker Hub. Logins come from --username with --password-stdin, else from Docker's
    configuration file and credential helpers. Registries on this machine may speak plain HTTP.
    """
    shown.expect(*IMAGE_FIELDS, *PULLED, "operation", "seq")
    credential = _credential(username, password_stdin)
    Reference.parse(reference)  # before msb is said to pull it
    with open_cache(home, quiet=shown.quiet) as cache, display(not shown.as_table) as progress:
        if cache.kept_by_msb and digest is None and shown.as_table:
            output.line(f"  msb pulls {reference} …", err=True)
        pulled = cache.pull(
            reference,
            digest=digest,
            platform=platform,
            policy=policy,  # type: ignore[arg-type]
            force=force,
            credential=credential,
            options=RegistryOptions(insecure=insecure, ca_certs=ca_certs),
            jobs=jobs,
            progress=progress,
            max_age=timedelta(microseconds=max_age_ns // 1000),
            make_room=make_room,
            note=None if shown.quiet else note,
        )
    shown.item(
        lambda: jsonable(pulled),
        names=lambda: [str(pulled.manifest_digest)],
        table=lambda: _print_result(pulled.reference, pulled.recorded.data),
        paged=False,
    )


COMMAND = pull


def _credential(username: str | None, password_stdin: bool) -> Credential | None:
    if username is None and not password_stdin:
        return None
    if username is None or not password_stdin:
        raise click.UsageError("--username and --password-stdin belong together")
    if sys.stdin is None or on_terminal(sys.stdin):
        raise click.UsageError("--password-stdin reads a pipe, and stdin is a terminal")
    password = sys.stdin.read(_MAX_PASSWORD).rstrip("\r\n")
    if not password:
        raise click.UsageError("--password-stdin: stdin was empty")
    return Credential(username=username, password=password)


def _print_result(reference: str, pulled: Any) -> None:
    digest = look.digest(pulled.manifest_digest, err=True)
    if pulled.previous_digest is not None:
        done("Moved", f"{reference}  {look.digest(pulled.previous_digest, err=True)} → {digest}")
    elif not pulled.changed:
        done("Unchanged", f"{reference}  {digest}")
    else:
        new = f"{output.size(pulled.bytes_fetched)} new"
        reused = f", {output.size(pulled.bytes_reused)} already here" if pulled.bytes_reused else ""
        done("Pulled", f"{reference}  {digest}  {new}{reused}")
