"""The key command: keys that sign checkpoints, and what others check the signatures with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.proof.vkey import VerifierKey

_FIELDS = ("name", "key", "witness")
_SHOWN = shown_options("the verifier key", tables=False)


@click.group(
    short_help="Make a key that signs checkpoints, or show one.",
    epilog=examples(
        "msb-cache key new log.key --name ci7.example.com/msb-cache", "msb-cache key show log.key"
    ),
)
def key() -> None:
    """Make a key that signs checkpoints, or show what others check its signatures with.

    That is a verifier key, such as `ci7.example.com/msb-cache+8c2f1c26+AQ…`: it is no secret, and those who
    shall check anything get it from you. `checkpoint --sign` takes the file of a secret key; or the verifier
    key of one whose secret an ssh-agent has, or what `--sign-command` runs. No home is needed.
    """


@key.command(
    short_help="Make a key.",
    epilog=examples(
        "msb-cache key new log.key --name ci7.example.com/msb-cache",
        "msb-cache key new witness.key --name witness.example.com --witness",
    ),
)
@click.argument("file", type=PATH)
@click.option(
    "--name",
    required=True,
    metavar="NAME",
    help="Who signs, such as ci7.example.com/msb-cache: of a log, its origin.",
)
@click.option("--witness", is_flag=True, help="The key of a witness, which cosigns checkpoints of others.")
@_SHOWN
def new(file: str, name: str, witness: bool, shown: Shown) -> None:
    """Make a key, write its secret into FILE, and print the verifier key.

    FILE is new, and yours alone to read. Whoever has it can sign as NAME; a signature says most where those
    who write the home cannot read it.
    """
    from msb_cache.proof.key_file import new_key

    shown.expect(*_FIELDS)
    made = new_key(file, name, witness=witness)
    if shown.as_table:
        done("Made", file)
    _show(made, shown)


@key.command(
    short_help="Print the verifier key of one.",
    epilog=examples(
        "msb-cache key show log.key",
        "msb-cache key show ~/.ssh/id_ed25519.pub --name ci7.example.com/msb-cache",
    ),
)
@click.argument("file", type=PATH)
@click.option("--name", metavar="NAME", help="Who signs with an OpenSSH key, which says no name.")
@click.option("--witness", is_flag=True, help="An OpenSSH key is that of a witness.")
@_SHOWN
def show(file: str, name: str | None, witness: bool, shown: Shown) -> None:
    """Print the verifier key of what is in FILE: a secret key of `key new`, or an OpenSSH public key.

    Of an OpenSSH key (Ed25519), an ssh-agent has the secret.
    """
    from msb_cache.proof.key_file import key_of

    _show(key_of(file, name=name, witness=witness), shown)


COMMAND = key


def _show(found: VerifierKey, shown: Shown) -> None:
    shown.item(
        lambda: jsonable(found),
        names=lambda: [str(found)],
        table=lambda: output.line(str(found)),
        paged=False,
    )
