"""The line to one URL: what comes of a request in words; how it is signed or judged is for who sends it."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import pytest

from msb_cache.oci.registry.line import Line, NoAnswerError, redirection
from msb_cache.waiting import ended_by
from tests.rawserver import Act, RawServer, answer, raw


def line_to(server: RawServer, timeout: float = 5) -> Line:
    return Line(server.url, "the host", timeout=timeout, ca_certs=None, insecure=False, note=print)


def test_requests_go_over_one_connection_as_they_are_and_answers_are_read() -> None:
    with RawServer(answer(200, b"said"), answer(404, b"no")) as server, line_to(server) as line:
        for status, limit, text in ((200, 4, b"said"), (404, 1, None)):
            got = line.post({"X-Kind": "a"}, b"body")
            assert (got.status, line.read(got, limit)) == (status, text)
            got.close()
        assert server.connections == 1
        head, body = server.requests[1]
        assert head.startswith(f"POST {urlsplit(server.url).path} HTTP/1.1\r\n".encode())
        assert b"\r\nX-Kind: a" in head
        assert body == b"body"


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (raw(b""), "the connection to the host broke off"),
        (raw(b"SMTP\r\n"), "the host does not answer in proper HTTP"),
        (
            raw(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n"),
            "the host does not answer in proper HTTP",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
            "the answer of the host does not come to its end",
        ),
        (lambda *_: time.sleep(0.4), "the host does not answer within 0.1 seconds"),
    ],
)
def test_no_answer(act: Act, sentence: str) -> None:
    with RawServer(act) as server, line_to(server, 0.1) as line:
        with pytest.raises(NoAnswerError) as caught:
            line.read(line.post({}, b""), 100)
        assert str(caught.value) == sentence


def test_an_answer_that_is_cut_off_has_not_come_to_its_end() -> None:
    """One without a length ends with the connection, and a cut looks the same."""

    def trickle(connection: socket.socket, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.01)

    until = time.monotonic() + 0.3
    with RawServer(trickle) as server, ended_by(lambda: time.monotonic() > until), line_to(server) as line:
        got = line.post({}, b"")
        with pytest.raises(KeyboardInterrupt):
            line.read(got, 1 << 20)


def test_a_chunked_answer_that_names_a_length_too_is_not_read_on_when_it_is_closed() -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"

    def endless(connection: socket.socket, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(chunk)

    with RawServer(endless) as server, line_to(server, 3) as line:
        began = time.monotonic()
        got = line.post({}, b"")
        assert got.length is None
        got.close()
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("act", "beginning"),
    [
        (answer(400, b" bad\n\x1b[m  token=abc "), r": 'bad \x1b[m token=…'"),
        (answer(400, b"x" * 500), f": '{'x' * 100}'"),
        (answer(400, b"x" * 9000), ""),
        (answer(400, b"<p>", "text/html; charset=utf-8"), ""),
        (answer(400), ""),
        (raw(b"HTTP/1.1 400 X\r\nContent-Length: 9\r\n\r\nx"), ""),
    ],
)
def test_how_the_text_of_an_answer_begins(act: Act, beginning: str) -> None:
    with RawServer(act) as server, line_to(server) as line:
        assert line.beginning(line.post({}, b""), ["abc"]) == beginning


@pytest.mark.parametrize(
    ("location", "where"),
    [("https://u:p@x.example/a?b", " to https://x.example"), ("/a", ""), ("https://[", "")],
)
def test_where_a_redirect_leads(location: str, where: str) -> None:
    with RawServer(answer(307, headers=f"Location: {location}\r\n")) as server, line_to(server) as line:
        assert redirection(line.post({}, b"")) == f", a redirect{where}, which is not followed"
        assert len(server.requests) == 1
