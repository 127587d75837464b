"""A witness over HTTP: what is asked is bounded, and what is wrong is one line of text."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from msb_cache import diagnostics
from msb_cache.errors import BusyError
from msb_cache.proof import note as notes
from msb_cache.proof.submission import MAX_REQUEST
from msb_cache.proof.witness import Answer, Witness
from msb_cache.web import listening
from msb_cache.web import witness as web
from tests.proof.submitting import EARLY, HONEST, LOG_HASH, LOG_KEY, WITNESS, witness_at
from tests.web.client import Client

ADD = "/add-checkpoint"


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with closing(witness_at(tmp_path)) as found:
        yield found


@pytest.fixture
def told() -> list[Answer]:
    return []


@pytest.fixture
def client(witness: Witness, told: list[Answer]) -> Client:
    return Client(web.application(witness, told.append), "http://witness", {})


def post(client: Client, body: object, **given: Any) -> httpx.Response:
    return client.request("POST", ADD, content=body, **given)


def is_line(answer: httpx.Response) -> bool:
    return answer.headers["content-type"] == "text/plain; charset=utf-8" and answer.text.count("\n") == 1


def test_it_cosigns_and_serves_what_it_cosigned(client: Client, told: list[Answer]) -> None:
    path = f"/{LOG_HASH}/checkpoint"
    assert client.get(path).status_code == 404
    answer = post(client, HONEST.request(0, 7))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    found = client.get(path)
    assert (found.status_code, found.text) == (200, f"{HONEST.note(7)}{answer.text}")
    note = notes.parse(found.content)
    assert note.signed_by([LOG_KEY.key, WITNESS.key]) == [LOG_KEY.key, WITNESS.key]
    assert [(int(each.status), each.head) for each in told] == [(200, HONEST.head(7))]
    assert client.request("HEAD", path).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the request is empty\n"),
        (EARLY.request(7, 7), 422, None),
        (HONEST.request(9, 8), 400, None),
        (HONEST.request(0, 9), 409, "7\n"),
        (HONEST.request(7, 9).replace(b"log.example", b"log.invalid"), 404, None),
        (HONEST.request(7, 9).replace(b"\n9\n", b"\n8\n"), 403, None),
    ],
)
def test_each_status_has_its_type(client: Client, body: bytes, status: int, said: str | None) -> None:
    assert post(client, HONEST.request(0, 7)).status_code == 200
    answer = post(client, body)
    assert answer.status_code == status
    assert said in (None, answer.text)
    if status == 409:
        assert answer.headers["content-type"] == "text/x.tlog.size"
    else:
        assert is_line(answer)


def test_a_body_is_bounded_by_what_it_says_and_by_what_comes(client: Client, told: list[Answer]) -> None:
    async def parts(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 4096

    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 4096
            yield b"x" * 4096

    for answer in (
        post(client, b"x" * (MAX_REQUEST + 1)),
        post(client, b"x", headers={"Content-Length": str(4 << 30)}),
        post(client, b"x", headers={"Content-Length": "9" * 5000}),
        post(client, parts(MAX_REQUEST // 4096 + 1)),
    ):
        assert (answer.status_code, is_line(answer), answer.headers["connection"]) == (413, True, "close")
    assert told == []
    assert post(client, parts(MAX_REQUEST // 4096)).status_code == 400
    assert [int(each.status) for each in told] == [400]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", ADD, 405),
        ("PUT", ADD, 405),
        ("POST", f"/{LOG_HASH}/checkpoint", 405),
        ("DELETE", f"/{LOG_HASH}/checkpoint", 405),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", f"{ADD}/", 404),
        ("GET", f"/{LOG_HASH}", 404),
        ("GET", f"/{LOG_HASH}/checkpoint/", 404),
        ("GET", f"/{LOG_HASH.upper()}/checkpoint", 404),
        ("GET", f"/{'0' * 64}/checkpoint", 404),
        ("GET", f"/{'0' * 6000}/checkpoint", 404),
        ("GET", "/%00%ff/checkpoint", 404),
        ("POST", "/sign-subtree", 404),
        ("OPTIONS", ADD, 405),
    ],
)
def test_what_is_not_there(client: Client, method: str, path: str, status: int) -> None:
    post(client, HONEST.request(0, 7))
    answer = client.request(method, path)
    assert (answer.status_code, is_line(answer)) == (status, True)
    assert ("allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BusyError("locked"), 503),
        (sqlite3.OperationalError("database or disk is full"), 500),
        (RuntimeError("a secret path"), 500),
    ],
)
def test_what_is_the_matter_here_is_logged_and_not_told(
    client: Client, witness: Witness, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    class Logger:
        def __init__(self) -> None:
            self.said: list[str] = []

        def warning(self, event: str, **fields: Any) -> None:
            self.said.append(fields["said"])

        debug = info = warning

    def fail(*_: object) -> None:
        raise error

    logger = Logger()
    monkeypatch.setattr(diagnostics, "_logger", logger)
    monkeypatch.setattr(witness, "add_checkpoint", fail)
    monkeypatch.setattr(witness, "checkpoint", fail)
    for answer in (post(client, HONEST.request(0, 7)), client.get(f"/{LOG_HASH}/checkpoint")):
        assert (answer.status_code, is_line(answer), str(error) in answer.text) == (status, True, False)
    assert logger.said == ([] if status == 503 else [str(error)] * 2)


# --- through a socket ---------------------------------------------------------------------------


@pytest.fixture
def port(witness: Witness) -> Iterator[int]:
    """Serve in a thread; give the port."""
    sock, over = listening.listen_on("127.0.0.1", 0), threading.Event()
    served = listening.serve(web.application(witness), sock, stopped=over.is_set)
    thread = threading.Thread(target=lambda: asyncio.run(served))
    thread.start()
    yield sock.getsockname()[1]
    over.set()
    thread.join(10)
    assert not thread.is_alive()


def said(port: int, *parts: bytes) -> bytes:
    """Return all that comes back for bytes, until the other side ends."""
    found = b""
    with closing(socket.create_connection(("127.0.0.1", port))) as sock:
        sock.settimeout(10)
        with suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
            while more := sock.recv(4096):
                found += more
    return found


def test_a_connection_serves_several_requests(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        statuses = [
            client.post(ADD, content=HONEST.request(old, old + 5)).status_code for old in range(0, 30, 5)
        ]
        statuses += [client.get("/nothing").status_code, client.get(f"/{LOG_HASH}/checkpoint").status_code]
        assert statuses == [200] * 6 + [404, 200]
        pool: Any = client._transport
        assert len(pool._pool.connections) == 1


def test_a_body_that_does_not_end_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_SECONDS", 0.1)
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 100\r\n\r\n"
    assert said(port, head, b"old 0\n").startswith(b"HTTP/1.1 408 ")
    chunked = head.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
    assert said(port, chunked, b"6\r\nold 0\n\r\n").startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 4294967296", b"413"),
        (b"POST /nothing HTTP/1.1\r\nContent-Length: 4294967296", b"404"),
        (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: -1", b"400"),
        (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", b"400"),
        (b"POST /add-checkpoint HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\nzz", b"400"),
    ],
)
def test_what_is_hostile_is_ended(port: int, request_: bytes, status: bytes) -> None:
    answer = said(port, request_.replace(b" HTTP/1.1", b" HTTP/1.1\r\nHost: w") + b"\r\n\r\n")
    assert answer.split(b" ")[1] == status
    assert b"Traceback" not in answer
    assert httpx.post(f"http://127.0.0.1:{port}{ADD}", content=HONEST.request(0, 7)).status_code == 200


def test_who_goes_away_leaves_it_as_it_was(port: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port))) as sock:
        sock.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 100\r\n\r\nold 0\n")
    assert httpx.post(f"http://127.0.0.1:{port}{ADD}", content=HONEST.request(0, 7)).status_code == 200
