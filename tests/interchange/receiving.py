"""A receiver of events on loopback that can be told to misbehave, request by request."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Got:
    """A request as it arrived; ``taken`` says that it was kept."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    taken: bool

    @property
    def events(self) -> list[dict[str, Any]]:
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Act(NamedTuple):
    """What is done with a request; ``taken``: it is kept, whatever the sender gets to know of that."""

    taken: bool
    do: Callable[[_Handler], object]


def answer(status: int, body: bytes = b"", **headers: str) -> Act:
    """Answer so; header names have underscores for dashes."""

    def do(handler: _Handler) -> None:
        handler.send_response(status)
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        for name, value in {**length, **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return Act(200 <= status < 300, do)


def _say_nothing(handler: _Handler) -> None:
    handler.receiver.ended.wait(10)
    handler.close_connection = True


def _answer_byte_by_byte(handler: _Handler) -> None:
    for byte in b"HTTP/1.1 204 No Content\r\nX-Slow: yes\r\n\r\n":
        handler.wfile.write(bytes([byte]))


def _break_off(handler: _Handler) -> None:
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True


take = answer(204)
hang = Act(False, _say_nothing)
slow = Act(True, _answer_byte_by_byte)
break_off = Act(True, _break_off)


@dataclass
class Receiver:
    """The server, as a context manager; ``acts`` are for the next requests, what follows is taken."""

    acts: list[Act] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    got: list[Got] = field(default_factory=list)
    connections: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Receiver:
        handler = type("Handler", (_Handler,), {"receiver": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.tls = self.tls
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.host}/hook?token=hidden"

    def on(self, *acts: Act) -> None:
        self.acts.extend(acts)

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Wait until that is so."""
        deadline = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < deadline, self.got
            time.sleep(0.002)

    @property
    def taken(self) -> list[int]:
        """The positions of the events that were taken, as they came."""
        return [int(event["sequence"]) for each in self.got if each.taken for event in each.events]

    @property
    def firsts(self) -> list[int]:
        """Those, each where it came first."""
        return [*dict.fromkeys(self.taken)]

    def check(self, secrets: Iterable[str]) -> None:
        """Let the reference implementation verify every request with each secret."""
        for each in self.got:
            for secret in secrets:
                Webhook(secret).verify(each.body, dict(each.headers))


class _Server(ThreadingHTTPServer):
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secure:
            secure.do_handshake()
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that goes away is expected."""


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10

    def setup(self) -> None:
        super().setup()
        self.receiver.connections += 1

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the sender was killed
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.receiver.lock:
            act = self.receiver.acts.pop(0) if self.receiver.acts else take
            self.receiver.got.append(Got(self.path, headers, body, act.taken))
        act.do(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""
