"""The witness command: a witness for the logs of other machines, and what it remembers of them."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, Stop, examples, note, staying_logger, stopping
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Column, show
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    import socket

    from msb_cache.proof.vkey import VerifierKey
    from msb_cache.proof.witness import Answer, Witness
    from msb_cache.proof.witness_state import RefusedCheckpoint, WitnessedLog

ADDRESS = "127.0.0.1:9471"
"""Where it listens unless something else is said."""

_LOGGED = 255
"""Characters of a log's name that are logged."""

_state_option = click.option(
    "--state",
    metavar="FILE",
    type=PATH,
    help="What it remembers.  [default: msb-cache/witness.db in $XDG_STATE_HOME, else in ~/.local/state]",
)


@click.group(
    invoke_without_command=True,
    short_help="Cosign the checkpoints of other logs.",
    epilog=examples(
        "msb-cache witness serve --key witness.key --logs-file logs.txt",
        "msb-cache witness list",
    ),
)
@click.pass_context
def witness(ctx: click.Context) -> None:
    """Be a witness, on another machine than the logs that it cosigns; without a command of its own, list.

    It cosigns a checkpoint of a log only if that goes on from the one before, so that nobody can write the
    log anew unseen. `checkpoint --witness URL` asks it, and `key new --witness` makes its key. No home is
    needed.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, format_="table", quiet=False)


@witness.command(
    short_help="Cosign, until Ctrl-C.",
    epilog=examples(
        "msb-cache witness serve --key witness.key --log $LOG_KEY",
        "msb-cache witness serve --key witness.key --logs-file logs.txt --listen 192.0.2.7:9471",
    ),
)
@click.option(
    "--key",
    metavar="KEY",
    type=PATH,
    required=True,
    help="The witness's secret key file, or its verifier key if an ssh-agent has the secret.",
)
@click.option("--log", "logs", multiple=True, metavar="VKEY", help="The key of a log to cosign; repeatable.")
@click.option(
    "--logs-file", metavar="FILE", type=PATH, help="More of them, one a line; a policy file will do."
)
@_state_option
@click.option(
    "--listen", metavar="HOST:PORT", help=f"Listen on this address; port 0: a free one.  [default: {ADDRESS}]"
)
@click.option("--socket", "path", metavar="PATH", type=PATH, help="Listen at a Unix socket of mode 0600.")
def serve(
    key: str,
    logs: tuple[str, ...],
    logs_file: str | None,
    state: str | None,
    listen: str | None,
    path: str | None,
) -> None:
    """Cosign the checkpoints of logs, until Ctrl-C.

    It prints where it listens, and the key that its cosignatures are checked with. Anybody who can connect
    may ask: only what a key of --log has signed is taken, and only if it goes on from what was cosigned
    before. Each submission is logged to stderr, and a fork as a warning.

    What it remembers is all that makes it a witness. Never put back an older copy of it.
    """
    if path is not None and listen is not None:
        raise click.UsageError("a Unix socket has no address; give --socket alone")
    if not all((key, path != "", state != "", logs_file != "")):
        raise click.UsageError("--key, --logs-file, --state or --socket is empty")
    from msb_cache.extras import require

    require("proof", "the witness", "cryptography")
    require("web", "the witness", "starlette", "uvicorn")
    from msb_cache.proof.signer import signer_of
    from msb_cache.proof.witness import Witness
    from msb_cache.proof.witness_state import usual_path

    keys = [*_keys(logs), *_keys_in(logs_file)]
    told = _Log(staying_logger()).answered
    with ExitStack() as stack:
        found = Witness(state or usual_path(), signer_of(key), keys)
        stack.callback(found.close)
        stopped = stack.enter_context(stopping())
        sock = _listening(stack, listen or ADDRESS, path)
        output.line(str(found.key))
        _run(found, sock, told, stopped)


@witness.command(
    "list",
    short_help="Show what was cosigned, and what was refused.",
    epilog=examples("msb-cache witness list", "msb-cache witness list --format json"),
)
@_state_option
@shown_options("the names of logs")
def list_(shown: Shown, state: str | None = None) -> None:
    """Show up to which event each log was cosigned, and which checkpoints were refused.

    A fork proves that the log has two histories; JSON has both of its checkpoints, with their signatures. Of
    what is not proved only the proof that came with it was wrong, or missing.
    """
    if state == "":
        raise click.UsageError("--state is empty")
    from contextlib import closing

    from msb_cache.proof.witness_state import WitnessState, usual_path

    with closing(WitnessState(state or usual_path(), make=False)) as remembered:
        found = remembered.logs()
    shown.items(found, fields=jsonable, name=lambda each: each.origin, table=lambda _: _print(found))


COMMAND = witness

_LOGS = (
    Column("LOG", "name"),
    Column("EVENTS", "count"),
    Column("ROOT", "word", leave=2),
    Column("COSIGNED", "time", leave=1),
)
_REFUSED = (
    Column("REFUSED", "name"),
    Column("EVENTS", "count"),
    Column("ROOT", "word", leave=2),
    Column("WHEN", "time", leave=1),
    Column("", "word"),
)


def _print(found: list[WitnessedLog]) -> None:
    logs = (
        (each.origin, each.size, None if each.root is None else _root(each.root), each.cosigned_at_ns)
        for each in found
    )
    show(_LOGS, nothing("Nothing was cosigned yet.", logs))
    refused = [each for log in found for each in log.refused]
    if refused:
        output.line()
        show(_REFUSED, map(_refused, refused))


def _refused(each: RefusedCheckpoint) -> tuple[str | int, ...]:
    what = "FORK" if each.is_fork else "not proved"
    return each.origin, each.size, _root(each.root), each.refused_at_ns, what


def _root(root: bytes) -> str:
    """Return a root as it stands in a checkpoint."""
    return base64.b64encode(root).decode()


def _keys(logs: Iterable[str]) -> list[VerifierKey]:
    from msb_cache.proof.vkey import VerifierKey

    return [VerifierKey.parse(each) for each in logs]


def _keys_in(path: str | None) -> list[VerifierKey]:
    if path is None:
        return []
    from msb_cache.errors import InvalidConfigError
    from msb_cache.proof.witness import MOST_OF_LOGS, logs_in
    from msb_cache.wording import reason_of

    try:
        with open(path, "rb") as file:
            data = file.read(MOST_OF_LOGS + 1)
    except OSError as error:
        raise InvalidConfigError(f"the keys of logs in {path} cannot be read: {reason_of(error)}") from None
    return logs_in(data, path)


def _listening(stack: ExitStack, listen: str, path: str | None) -> socket.socket:
    """Listen, say where, and return the socket."""
    from msb_cache.web import listening

    if path is not None:
        sock = stack.enter_context(listening.listening_at(path))
        output.line(path)
        return sock
    host, port = listening.parse_address(listen)
    sock = stack.enter_context(listening.listen_on(host, port))
    output.line(listening.url_of(host, sock.getsockname()[1]))
    if not listening.is_loopback(host):
        note(
            "other machines can reach this witness, by plain HTTP; all that goes to and fro is signed and no "
            "secret, and who wants TLS puts a proxy before it"
        )
    return sock


def _run(found: Witness, sock: socket.socket, told: Any, stopped: Stop) -> None:
    import asyncio

    from msb_cache.web.listening import serve
    from msb_cache.web.witness import application

    asyncio.run(serve(application(found, told), sock, stopped=stopped))


class _Log:
    """Logs what a witness that stays is asked, and what it answers."""

    def __init__(self, logger: Any) -> None:
        self._log = logger

    def answered(self, answer: Answer) -> None:
        """Log one submission: a fork, or a log whose checkpoint does not go on, as a warning."""
        fields: dict[str, Any] = {"status": int(answer.status)}
        if answer.head is not None:
            fields |= {"origin": answer.head.origin[:_LOGGED], "size": answer.head.size}
        if answer.status >= 400:
            fields["said"] = answer.body.decode().rstrip("\n")
        if answer.refusal is None:
            self._log.info("witness.asked", **fields)
        else:
            fields["root"] = "" if answer.head is None else _root(answer.head.root)
            self._log.warning(f"witness.{answer.refusal}", **fields)
