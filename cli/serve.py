"""The serve command: homes shown live in a browser and by an API, read-only."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import (
    PATH,
    Stop,
    examples,
    note,
    on_terminal,
    open_cache,
    staying_logger,
    stopping,
)
from msb_cache.cli.fleet import DB, DSN
from msb_cache.cli.privacy import Told, told_options

if TYPE_CHECKING:
    import socket

    from msb_cache.cache import ImageCache
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.interchange.privacy import Privacy
    from msb_cache.web.access import Access

ADDRESS = "127.0.0.1:9470"
"""Where it listens unless something else is said."""

_GRACE_SECONDS = 0.5


@click.command(
    short_help="Show the cache live in a browser, and by an API.",
    epilog=examples(
        "msb-cache serve",
        "msb-cache serve --home ~/.microsandbox --home /srv/ci/.microsandbox",
        "msb-cache serve --socket $XDG_RUNTIME_DIR/msb-cache.sock",
        "msb-cache serve --fleet",
    ),
)
@click.option(
    "--home",
    "more",
    multiple=True,
    type=PATH,
    help="Another home to show, besides the one before the command; repeatable.",
)
@click.option(
    "--listen", metavar="HOST:PORT", help=f"Listen on this address; port 0: a free one.  [default: {ADDRESS}]"
)
@click.option("--socket", "path", metavar="PATH", type=PATH, help="Listen at a Unix socket of mode 0600.")
@click.option(
    "--token-file",
    metavar="PATH",
    type=PATH,
    help="Take the token from this file of mode 0600; one that is not there is made.",
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Answer to this name as well; repeatable.")
@click.option("--fleet", "of_fleet", is_flag=True, help="Show the hosts of a fleet instead of homes.")
@DSN
@DB
@told_options
@click.pass_obj
def serve(
    home: str | None,
    more: tuple[str, ...],
    listen: str | None,
    path: str | None,
    token_file: str | None,
    allow_host: tuple[str, ...],
    of_fleet: bool,
    dsn: str | None,
    db: str | None,
    told: Told,
) -> None:
    """Show the cache live in a browser: the page of `report`, any moment of the past, events as they come.

    The same as JSON is under /api, described by /api/openapi.json. Nothing can be changed through it. Stays
    until Ctrl-C.

    With --fleet it shows the hosts of a fleet, as `report --fleet` draws them; /api/report has it as JSON.

    Whoever asks has to show a token. It is in the address that is printed; the browser keeps it as a cookie.
    A Unix socket needs none: only its user can connect to it.
    """
    if path is not None and (listen is not None or token_file is not None):
        raise click.UsageError("a Unix socket has no address and no token; give --socket alone")
    if path is None and token_file is None and not on_terminal(sys.stdout):
        raise click.UsageError(
            "the token is printed on a terminal only; give --token-file PATH, which is made if it is not "
            "there, or --socket PATH"
        )
    if not all((*more, path != "", token_file != "")):
        raise click.UsageError("--home, --socket or --token-file is empty")
    from msb_cache.extras import require
    from msb_cache.interchange.privacy import Privacy

    require("web", "the server", "jinja2", "starlette", "uvicorn")
    if click.get_current_context().find_root().params.get("log_level"):
        staying_logger()
    if of_fleet:
        if more:
            raise click.UsageError("--fleet shows a fleet, and --home homes; give one")
        from msb_cache.fleet.fleet import Fleet

        with stopping() as stopped, ExitStack() as stack:
            fleet = stack.enter_context(Fleet(dsn, db=db))
            sock, access = _listening(stack, listen or ADDRESS, path, token_file, allow_host)
            _run_fleet(fleet, sock, access, told, stopped)
        return
    if dsn is not None or db is not None:
        raise click.UsageError("--dsn and --db belong to --fleet")
    given = [] if home is None else [home]
    named = [*dict.fromkeys(os.path.abspath(each) for each in (*given, *more))]
    homes: list[str | None] = [*named] if named else [None]
    with ExitStack() as stack:
        caches = [stack.enter_context(open_cache(each, said=_Notes().say)) for each in homes]
        # From here on a signal is an end like any other: what is told where it listens may send one at once.
        stopped = stack.enter_context(stopping())
        sock, access = _listening(stack, listen or ADDRESS, path, token_file, allow_host)
        _run(caches, sock, access, Privacy(config=told["with_config"], people=told["people"]), stopped)


COMMAND = serve


def _listening(
    stack: ExitStack, listen: str, path: str | None, token_file: str | None, allow: tuple[str, ...]
) -> tuple[socket.socket, Access]:
    """Listen, say where, and return the socket and who may ask there."""
    from msb_cache.web import listening
    from msb_cache.web.access import Access

    if path is not None:
        access = Access.of_socket(allow=allow)
        sock = stack.enter_context(listening.listening_at(path))
        output.line(path)
        return sock, access
    host, port = listening.parse_address(listen)
    token = listening.new_token() if token_file is None else listening.token_in(token_file)
    Access.of_address(host, port, token, allow=allow)  # what is wrong with these is said first
    sock = stack.enter_context(listening.listen_on(host, port))
    port = sock.getsockname()[1]
    address = listening.url_of(host, port)
    output.line(address if token_file is not None else f"{address}?token={token}")
    if not listening.is_loopback(host):
        note(
            "other machines can reach this server, and what goes to and fro is not encrypted; put a proxy "
            "with TLS before it"
        )
    return sock, Access.of_address(host, port, token, allow=allow)


def _run(
    caches: list[ImageCache], sock: socket.socket, access: Access, privacy: Privacy, stopped: Stop
) -> None:
    import asyncio

    from msb_cache.async_cache import AsyncImageCache
    from msb_cache.web.app import application
    from msb_cache.web.listening import serve
    from msb_cache.web.site import ids_of

    async def run() -> None:
        several = [AsyncImageCache.of(each) for each in caches]
        homes = dict(zip(ids_of(each.home for each in several), several, strict=True))
        app = application(homes, access, privacy)
        await serve(app, sock, stopped=stopped, ending=app.state.site.streams.close)
        # A query that goes on longer is left to the end of the process: it only reads.
        await asyncio.wait([asyncio.create_task(each.close()) for each in several], timeout=_GRACE_SECONDS)

    loop = asyncio.new_event_loop()  # asyncio.run would wait for such a query
    loop.set_exception_handler(lambda loop, context: None)
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def _run_fleet(fleet: Fleet, sock: socket.socket, access: Access, told: Told, stopped: Stop) -> None:
    import asyncio

    from msb_cache.web.fleet import application
    from msb_cache.web.listening import serve

    asyncio.run(serve(application(fleet, access, people=told["people"]), sock, stopped=stopped))


class _Notes:
    """Logs what is unusual of a home: once, and not with each request, until it is something else."""

    def __init__(self) -> None:
        self._last = ""
        # Requests are answered by other threads, which know nothing of the command's options.
        self._context = click.get_current_context()

    def say(self, sentence: str) -> None:
        if sentence != self._last:
            with self._context.scope(cleanup=False):  # made now: as a rule there is nothing to say
                staying_logger().warning("note", said=sentence)
        self._last = sentence
