"""The prove command: a file by which others can check that an event is in the log that was signed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import PATH, done, examples, open_cache
from msb_cache.cli.event_lines import subject_of
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.trust import policy_option, read_policy
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.prove import EventProof

_FIELDS = ("seq", "id", "type", "subject", "origin", "size", "signed_at", "text")


@click.command(
    epilog=examples(
        "msb-cache prove @41 -o event.tlog-proof",
        "msb-cache prove app:1 --type image.removed -o removed.tlog-proof",
    )
)
@click.argument("what", metavar="SEQ|EVENT|REF")
@click.option("-o", "--output", "path", type=PATH, help="The file; without it, stdout.")
@click.option(
    "--type", "type_", metavar="TYPE", help="The newest event of this type, of a REF, digest or operation."
)
@policy_option
@click.option(
    "--size", type=click.IntRange(1), metavar="N", help="By the checkpoint of N events, not by the first."
)
@click.option("--origin", metavar="NAME", help="Only by a checkpoint of the log under this name.")
@shown_options("the event's position, such as @5", tables=False)
@click.pass_obj
def prove(
    home: str | None,
    what: str,
    path: str | None,
    type_: str | None,
    policy: str | None,
    size: int | None,
    origin: str | None,
    shown: Shown,
) -> None:
    """Prove that an event is in the log that was signed.

    The proof is one file. `check-proof` checks it, or any program that reads tlog-proof, with nothing but the
    log's key: it carries the event, and the first checkpoint signed by `checkpoint --sign` that has it.

    Of a REF it proves the newest event of the image, such as its removal; of a digest or an operation the
    newest of all.
    """
    shown.expect(*_FIELDS)
    if path is not None and not path:
        raise click.BadParameter("it is empty", param_hint="--output")
    believed = read_policy(policy)
    with open_cache(home, quiet=shown.quiet) as cache:
        found = cache.prove(what, policy=believed, size=size, origin=origin, type=type_)
    text = found.text.encode()
    if path is not None:
        from msb_cache.home import atomic  # what is shown only needs no file

        with atomic.opened(path) as out:
            out.write(text)
    shown.item(
        lambda: jsonable(found),
        names=lambda: [f"@{found.seq}"],
        table=lambda: _print_text(text) if path is None else done("Proved", f"{path}  {_said(found)}"),
        paged=False,
    )


COMMAND = prove


def _said(found: EventProof) -> str:
    subject = look.digest(subject_of(found.subject, None), err=True)
    signed = f"signed with {output.plural(found.size, 'event')} as {found.origin}"
    return f"event {found.seq}, {found.type} of {subject}, {signed}"


def _print_text(text: bytes) -> None:
    """Print a proof; to a program byte for byte, whatever the encoding of the terminal would be."""
    if look.on_terminal(sys.stdout):
        output.document(text.decode())
        return
    sys.stdout.buffer.write(text)
