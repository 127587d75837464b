"""Listening: a Unix socket that is its user's alone, or an address and a token; and serving until the end.

Only this module knows uvicorn. It configures no logging of the process: what uvicorn says goes to the
diagnostics, and it says nothing of queries.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from msb_cache import diagnostics
from msb_cache.errors import InvalidConfigError
from msb_cache.web.access import MOST_HEADER_BYTES

CONNECTIONS = 128
REQUEST_SECONDS = 10.0
"""A connection that has sent no whole request after so many is closed."""

_GRACE_SECONDS = 1
_BACKLOG = 64
_LONGEST_TOKEN_FILE = 1024
_LONGEST_SOCKET_PATH = 107  # bytes; the kernel has room for no more


def parse_address(text: str) -> tuple[str, int]:
    """Return the address and port of ``127.0.0.1:9470``, ``[::1]:9470`` or ``localhost:9470``.

    Raises:
        InvalidConfigError: it is none. Names are not looked up: what they lead to is not up to this machine.
    """
    host, colon, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
        if not colon or not port.isdecimal() or not port.isascii() or int(port) > 65535:
            raise ValueError
        if (address.version == 6) != (bare != host):
            raise ValueError
    except ValueError:
        raise InvalidConfigError(
            f"{text!r} is no address to listen on, such as 127.0.0.1:9470 or [::1]:9470; port 0 is any "
            "that is free"
        ) from None
    return str(address), int(port)


def url_of(host: str, port: int) -> str:
    """Return the URL of what listens on an address."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return ipaddress.ip_address(host).is_loopback


def listen_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        InvalidConfigError: another program listens there, or this one may not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        said = {
            errno.EADDRINUSE: "another program listens there; give another port, or 0 for any that is free",
            errno.EACCES: "ports below 1024 are the administrator's; give a larger one",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0, error.strerror)
        shown = f"[{host}]" if ":" in host else host
        raise InvalidConfigError(f"cannot listen on {shown}:{port}: {said}") from None
    return sock


@contextmanager
def listening_at(path: str) -> Iterator[socket.socket]:
    """Listen at a Unix socket that only this user can connect to, and take it away in the end.

    A socket that a killed server left is replaced; anything else that is there is not.

    Raises:
        InvalidConfigError: a server listens there, or something else is there, or nothing can be.
    """
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise InvalidConfigError(
            f"the path of a socket has at most {_LONGEST_SOCKET_PATH} bytes, and {path} has more"
        )
    _make_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # It is never there with another mode: no other user can connect before it is changed.
    before = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise InvalidConfigError(f"cannot listen at {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    own = _identity(path)
    try:
        sock.listen(_BACKLOG)
        yield sock
    finally:
        sock.close()
        if own is not None and _identity(path) == own:
            with suppress(OSError):
                os.unlink(path)


def _make_way(path: str) -> None:
    """Delete the socket of a server that was killed."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidConfigError(f"cannot listen at {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise InvalidConfigError(
            f"cannot listen at {path}: something else is there; give --socket another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # a server that answers slowly is one
    raise InvalidConfigError(f"cannot listen at {path}: another server does; end that, or give another path")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def new_token() -> str:
    """Return a token of 256 random bits."""
    return secrets.token_urlsafe(32)


def token_in(path: str) -> str:
    """Return the token in a file that only its user may read; one that is not there is made.

    Raises:
        InvalidConfigError: others can read it, or it is another user's, or no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return _made(path)
    except OSError as error:
        raise InvalidConfigError(f"the token in {path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
            raise InvalidConfigError(f"{path} is no file of yours, so no token is taken from it")
        if found.st_mode & 0o077:
            raise InvalidConfigError(f"others can read {path}, so its token is none; `chmod 600` it")
        return os.read(descriptor, _LONGEST_TOKEN_FILE).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def _made(path: str) -> str:
    token = new_token()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidConfigError(f"the token cannot be written to {path}: {error.strerror}") from None
    with open(descriptor, "w") as file:
        file.write(f"{token}\n")
    return token


async def serve(
    app: Starlette,
    sock: socket.socket,
    *,
    stopped: Callable[[], bool] = lambda: False,
    ending: Callable[[], object] = lambda: None,
) -> None:
    """Answer at a socket until SIGINT or SIGTERM; answers that are begun have a second to end.

    Args:
        app: what is asked.
        sock: a socket that listens; closed in the end.
        stopped: asked ten times a second whether to end, besides the signals.
        ending: called before that second; it ends what would go on without end, such as streams.
    """
    with _logged():
        await Server(configured(app), stopped, ending).serve(sockets=[sock])


def configured(app: Starlette) -> uvicorn.Config:
    """Return how uvicorn serves it."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


class Server(uvicorn.Server):
    """A server that ends what has no end of its own before it waits for its answers."""

    def __init__(
        self, config: uvicorn.Config, stopped: Callable[[], bool], ending: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._stopped = stopped
        self._ending = ending

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end."""
        return await super().on_tick(counter) or self._stopped()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._ending()
        await super().shutdown(sockets)


class Protocol(H11Protocol):
    """A connection that has to ask soon, among at most twice as many as are answered.

    Else every local user could keep all others away by opening connections and saying nothing.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > 2 * CONNECTIONS:
            transport.abort()
        else:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take what came; while no whole request has come, time runs on."""
        super().data_received(data)
        if self._is_answering():
            self._end_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._end_deadline()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_answering():
            self.transport.abort()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Handler(logging.Handler):
    """Hands on to the diagnostics what uvicorn says, without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        tell = diagnostics.warning if record.levelno >= logging.WARNING else diagnostics.debug
        error = record.exc_info[1] if record.exc_info else None
        fields: dict[str, Any] = {} if error is None else {"error": type(error).__name__}
        tell("server", said=record.getMessage().strip(), **fields)


@contextmanager
def _logged() -> Iterator[None]:
    """Lead what uvicorn says to the diagnostics, for the block."""
    logger, handler = logging.getLogger("uvicorn"), _Handler()
    before = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.level = before
        logger.setLevel(before[1])
