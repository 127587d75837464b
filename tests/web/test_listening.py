"""Sockets that are their user's alone, tokens in files, and a server that ends and that nobody can block."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from uvicorn.server import ServerState

from msb_cache.errors import InvalidConfigError
from msb_cache.web import listening


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9470", ("127.0.0.1", 9470)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:0", ("::1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert listening.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "9470", ":9470", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:9470"),
        *(
            "[127.0.0.1]:1",
            "example.org:80",
            "127.0.0.1:１",
            "127.1:80",
            "[::1:9470",
            "[::1%lo]:1 ",
            "a" * 5000,
        ),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="no address to listen on"):
        listening.parse_address(text)


@pytest.mark.parametrize("text", ["127.0.0.1:9470", "[::1]:80"])
def test_an_address_has_a_url(text: str) -> None:
    assert listening.url_of(*listening.parse_address(text)) == f"http://{text}/"


def test_which_addresses_are_reached_from_this_machine_only() -> None:
    assert listening.is_loopback("127.0.0.1")
    assert listening.is_loopback("::1")
    assert not listening.is_loopback("0.0.0.0")
    assert not listening.is_loopback("192.0.2.1")


def test_a_port_in_use_is_said() -> None:
    with closing(listening.listen_on("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(InvalidConfigError, match=f"127.0.0.1:{port}: another program listens there"):
            listening.listen_on("127.0.0.1", port)
    with pytest.raises(InvalidConfigError, match="no such address"):
        listening.listen_on("192.0.2.1", 0)


def test_a_socket_is_its_users_alone_from_the_beginning_and_goes_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, bound = tmp_path / "s", socket.socket.bind

    def bind(self: socket.socket, address: str) -> None:
        bound(self, address)
        assert stat.S_IMODE(os.stat(address).st_mode) == 0o600

    monkeypatch.setattr(socket.socket, "bind", bind)
    before = os.umask(0)
    try:
        with listening.listening_at(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert os.umask(0) == 0
            with (
                pytest.raises(InvalidConfigError, match="another server does"),
                listening.listening_at(str(path)),
            ):
                pass
            assert path.exists()
    finally:
        os.umask(before)
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with closing(socket.socket(socket.AF_UNIX)) as killed:
        killed.bind(path)
    with listening.listening_at(path), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(path)


def test_what_has_taken_the_place_of_the_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening.listening_at(str(path)):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("mine")
    folder.mkdir()
    link.symlink_to(file)
    for path in (file, folder, link):
        with (
            pytest.raises(InvalidConfigError, match="something else is there"),
            listening.listening_at(str(path)),
        ):
            pass
    assert file.read_text() == "mine"
    for path in (tmp_path / "no" / "s", file / "s"):
        with pytest.raises(InvalidConfigError, match="cannot listen at"), listening.listening_at(str(path)):
            pass
    with (
        pytest.raises(InvalidConfigError, match="at most 107 bytes"),
        listening.listening_at("/" + "x" * 107),
    ):
        pass


def test_a_token_is_made_once_and_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    before = os.umask(0)
    try:
        token = listening.token_in(str(path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) == 43
    assert listening.token_in(str(path)) == token
    assert listening.new_token() != listening.new_token()


def test_a_token_that_others_can_read_is_none(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 40)
    for mode in (0o640, 0o604, 0o660, 0o602):
        path.chmod(mode)
        with pytest.raises(InvalidConfigError, match="chmod 600") as raised:
            listening.token_in(str(path))
        assert "xxx" not in str(raised.value)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "link").symlink_to(path)
    for other in (tmp_path / "fifo", tmp_path, tmp_path / "link", tmp_path / "no" / "token"):
        with pytest.raises(InvalidConfigError, match="token"):
            listening.token_in(str(other))


@contextmanager
def served(app: Starlette) -> Iterator[int]:
    """Serve in a thread; give the port."""
    sock = listening.listen_on("127.0.0.1", 0)
    over = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(listening.serve(app, sock, stopped=over.is_set)))
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        over.set()
        thread.join(10)
        assert not thread.is_alive()


def _ended(sock: socket.socket) -> bytes:
    """Return what comes until the other side ends the connection."""
    received = b""
    with suppress(ConnectionError):
        while part := sock.recv(4096):
            received += part
    return received


async def _hello(request: object) -> PlainTextResponse:
    return PlainTextResponse("hello")


@pytest.fixture
def app() -> Starlette:
    return Starlette(routes=[Route("/", _hello)])


class Connection:
    """A connection whose time passes when the test says so."""

    def __init__(self, app: Starlette, state: ServerState) -> None:
        self.aborted = False
        self.timers: list[Callable[[], None]] = []
        config = listening.configured(app)
        config.load()
        self.protocol = listening.Protocol(config, state, {}, self)  # type: ignore[arg-type]
        self.protocol.connection_made(self)  # type: ignore[arg-type]

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        self.timers.append(call)
        return SimpleNamespace(cancel=lambda: self.timers.remove(call))

    def create_task(self, work: Any) -> Any:
        work.close()  # the answer takes long
        return Future()

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> Any:
        return None

    def __getattr__(self, name: str) -> Any:
        return lambda *_: False

    def pass_time(self) -> None:
        for call in [*self.timers]:
            self.timers.remove(call)
            call()


WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "aborted"),
    [([], True), ([WHOLE[:1]], True), ([WHOLE[:5], WHOLE[5:20]], True), ([WHOLE[:5], WHOLE[5:]], False)],
)
def test_who_asks_nothing_for_long_is_sent_away(app: Starlette, parts: list[bytes], aborted: bool) -> None:
    connection = Connection(app, ServerState())
    for part in parts:
        connection.protocol.data_received(part)
    connection.pass_time()
    assert connection.aborted is aborted
    connection.protocol.connection_lost(OSError())
    assert connection.timers == []


def test_a_second_request_has_to_come_as_soon(app: Starlette) -> None:
    connection = Connection(app, ServerState())
    connection.protocol.data_received(WHOLE)
    connection.protocol.cycle.response_complete = True
    connection.protocol.data_received(WHOLE[:5])
    connection.pass_time()
    assert connection.aborted


def test_there_are_so_many_connections_and_no_more(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "CONNECTIONS", 2)
    state = ServerState()
    assert [Connection(app, state).aborted for _ in range(6)] == [False] * 4 + [True] * 2


def test_what_has_no_end_is_ended_before_answers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_GRACE_SECONDS", 30)
    asked, over = threading.Event(), asyncio.Event()

    async def endless(request: object) -> PlainTextResponse:
        asked.set()
        await over.wait()
        return PlainTextResponse("over")

    sock = listening.listen_on("127.0.0.1", 0)
    app = Starlette(routes=[Route("/", endless)])
    serving = listening.serve(app, sock, stopped=asked.is_set, ending=over.set)
    thread = threading.Thread(target=lambda: asyncio.run(serving))
    port = sock.getsockname()[1]
    thread.start()
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.settimeout(10)
        client.sendall(WHOLE)
        assert _ended(client).endswith(b"over")
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_no_http_and_what_is_too_large_is_refused(app: Starlette) -> None:
    with served(app) as port:
        for text in (
            b"\x16\x03\x01\r\n\r\n",
            b"GET /" + b"a" * 70_000,
            b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000,
        ):
            with closing(socket.create_connection(("127.0.0.1", port))) as sock:
                sock.settimeout(10)
                with suppress(ConnectionError):
                    sock.sendall(text)
                assert _ended(sock).split(b"\r\n")[0] in (b"", b"HTTP/1.1 400 Bad Request")
