"""A server on loopback that answers requests with bytes, as wrong as they may be.

Not for what is answered: each request is given to an act, which has the connection.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

Act = Callable[[socket.socket, bytes], object]
"""What is done with one request, of which it gets the body. An OSError in it ends the connection."""

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Closing(OSError):
    """Ends the connection when an act raises it."""


def raw(answer: bytes) -> Act:
    """Answer with these bytes, and close the connection."""

    def act(connection: socket.socket, body: bytes) -> None:
        connection.sendall(answer)
        raise Closing

    return act


def message(status: int, body: bytes, content_type: str = "text/plain", headers: str = "") -> bytes:
    """Return an answer; headers end with CR LF each."""
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode("latin-1") + body


def answer(status: int, body: bytes = b"", content_type: str = "text/plain", headers: str = "") -> Act:
    """Answer so, and keep the connection for another request."""
    return lambda connection, _: connection.sendall(message(status, body, content_type, headers))


class RawServer:
    """The server, as a context manager.

    Args:
        acts: for the requests, one after another; the last is for all that come then, too.
        tls: whom connections are secured by; None: they are not.

    Attributes:
        requests: the heads and bodies of the requests that came.
        connections: how many there were.
        host: where it listens, with the port.
        ended: set when the server is closed; an act that waits, waits for this.
    """

    def __init__(self, *acts: Act, tls: ssl.SSLContext | None = None) -> None:
        self._acts, self._tls = [*acts], tls
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve)]

    def __enter__(self) -> RawServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listening.close()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.host}/w1"

    def _serve(self) -> None:
        while not self.ended.is_set():
            with suppress(OSError):
                connection, _ = self._listening.accept()
                self.connections += 1
                thread = threading.Thread(target=self._talk, args=(connection,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(10)
            if self._tls is None:
                self._converse(connection)
                return
            with self._tls.wrap_socket(connection, server_side=True) as secure:
                self._converse(secure)

    def _converse(self, connection: socket.socket) -> None:
        while request := self._request(connection):
            with self._lock:
                self.requests.append(request)
                act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
            act(connection, request[1])

    def _request(self, connection: socket.socket) -> tuple[bytes, bytes] | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := self._received(connection)):
                return None
            data += more
        connection.settimeout(10)
        head, _, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head + b"\r\n")
        assert found is not None
        while len(body) < int(found[1]):
            body += connection.recv(65536) or _gone()
        return head, body

    def _received(self, connection: socket.socket) -> bytes:
        """Receive what comes, unless the server ends before."""
        connection.settimeout(0.05)
        while not self.ended.is_set():
            try:
                return connection.recv(65536)
            except TimeoutError:
                continue
        return b""


def _gone() -> bytes:
    raise Closing
