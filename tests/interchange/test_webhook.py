"""One request: how it is signed, what an answer means, and that no wait outlives its end."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook as Reference
from standardwebhooks import WebhookVerificationError

from msb_cache.interchange.receiver import WebhookReceiver
from msb_cache.interchange.webhook import NotTakenError, RefusedError, Webhook, signature
from msb_cache.oci.registry import network
from msb_cache.waiting import ended_by
from tests.interchange.receiving import Act, Receiver, answer, break_off, hang, slow, take
from tests.registry_server import self_signed

SECRETS = [f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2)]
JSON = "application/cloudevents+json; charset=utf-8"


def post(receiver: WebhookReceiver, body: bytes = b'{"a": 1}', note: Callable[[str], Any] = str) -> None:
    with Webhook(receiver, note) as webhook:
        webhook.post("018f-1", JSON, body)


@settings(max_examples=25)
@given(st.text("abcdef0123456789-_", min_size=1), st.text())
def test_the_reference_implementation_verifies_what_is_signed(identifier: str, body: str) -> None:
    now = int(time.time())
    key = bytes([1]) * 32
    signed = signature(key, identifier, now, body.encode())
    headers = {"webhook-id": identifier, "webhook-timestamp": str(now), "webhook-signature": signed}
    Reference(SECRETS[0]).verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Reference(SECRETS[0]).verify(f"{body} ", headers, json_parse=False)


def test_what_a_request_has() -> None:
    with Receiver() as server:
        to = WebhookReceiver(f"{server.url}#part", secrets=SECRETS, headers={"Authorization": "Bearer t"})
        post(to)
        [got] = server.got
        server.check(SECRETS)
    assert got.path == "/hook?token=hidden"
    assert got.body == b'{"a": 1}'
    assert (got.id, got.headers["content-type"]) == ("018f-1", JSON)
    assert got.headers["authorization"] == "Bearer t"
    assert got.headers["webhook-signature"].count("v1,") == 2
    with Receiver() as server:
        post(WebhookReceiver(server.url))
        assert "webhook-signature" not in server.got[0].headers


@pytest.mark.parametrize("act", [*map(answer, (200, 201, 202, 204)), slow, answer(200, b"x" * 100_000)])
def test_taken(act: Act) -> None:
    with Receiver([act]) as server:
        post(WebhookReceiver(server.url))


@pytest.mark.parametrize(
    ("act", "sentence", "wait"),
    [
        (answer(500, b"x" * 100_000), "answers 500 Internal Server Error$", None),
        (answer(503, Retry_After="7"), "answers 503 Service Unavailable$", 7),
        (answer(429, Retry_After="0"), "answers 429 Too Many Requests$", 0),
        (answer(408), "answers 408", None),
        (answer(425), "answers 425", None),
        (answer(599), "answers 599$", None),
        (break_off, "^the connection to .* broke off$", None),
        (hang, "does not answer within 0.1 seconds$", None),
    ],
)
def test_not_taken_now(act: Act, sentence: str, wait: float | None) -> None:
    with Receiver([act]) as server:
        with pytest.raises(NotTakenError, match=sentence) as failure:
            post(WebhookReceiver(server.url, timeout=0.1))
        assert server.host in str(failure.value)
        assert failure.value.wait == wait
        assert "hidden" not in str(failure.value)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (answer(400, b" no  such\n\x1b[31mfield "), r"400 Bad Request: 'no such \\x1b\[31mfield'"),
        (answer(400, b"x" * 2000), f"400 Bad Request: '{'x' * 100}'"),
        (answer(413), "413 .* Too Large"),
        (answer(415, b"<p>no", Content_Type="text/html"), "415 Unsupported Media Type"),
        (answer(401, b"bad token s3cret, Bearer s3cret"), "401 Unauthorized: 'bad token …, …'"),
        (answer(403, b"\xff\xfe"), "403 Forbidden: '��'"),
        (answer(410), "410 Gone"),
        (
            answer(308, Location="https://u:p@x.example/a"),
            "308 .*, a redirect to https://x.example, which is not followed",
        ),
        (answer(307, Location="/elsewhere"), "307 Temporary Redirect, a redirect, which is not followed"),
        (answer(302, Location="https://[bad"), "302 Found, a redirect, which is not followed"),
    ],
)
def test_refused(act: Act, sentence: str) -> None:
    with Receiver([act]) as server:
        to = WebhookReceiver(server.url, headers={"Authorization": "Bearer s3cret"})
        with pytest.raises(RefusedError, match=f"^{sentence}$") as refusal:
            post(to)
        assert len(server.got) == 1
        assert refusal.value.status < 500


def test_nobody_is_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        to = WebhookReceiver(f"http://127.0.0.1:{unused.getsockname()[1]}/hidden")
        with pytest.raises(NotTakenError, match=r"cannot be reached \(Connection refused\)$"):
            post(to)


def test_certificates_are_verified(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    certificate = self_signed(require_peer("openssl"), tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Receiver(tls=context) as server:
        with pytest.raises(NotTakenError, match=r"the certificate of https://127\S+ is not trusted"):
            post(WebhookReceiver(server.url))
        assert server.got == []
        post(WebhookReceiver(server.url, ca_certs=certificate))
        assert len(server.got) == 1
        with pytest.raises(NotTakenError, match=r"broke off|does not answer in proper HTTP"):
            post(WebhookReceiver(server.url.replace("https", "http"), timeout=1))


@contextmanager
def silent() -> Iterator[int]:
    """A port of which connections are taken, and nothing is read."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize(("scheme", "size"), [("http", 10), ("http", 20 << 20), ("https", 10)])
def test_every_wait_ends_at_once(scheme: str, size: int) -> None:
    """For an answer, for room to send in, for TLS; the kernel would go on with each after a signal."""
    ended = threading.Event()
    timer = threading.Timer(0.05, ended.set)
    with silent() as port, ended_by(ended.is_set):
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            post(WebhookReceiver(f"{scheme}://127.0.0.1:{port}/"), b"x" * size)
        assert time.monotonic() - began < 5  # and not the 30 of its timeout
    timer.join()


def test_a_slow_receiver_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SAY_AFTER", 0.05)
    said: list[str] = []
    with Receiver([hang, hang, take]) as server:
        to = WebhookReceiver(server.url, timeout=0.2)
        with Webhook(to, said.append) as webhook:
            for _ in range(2):
                with pytest.raises(NotTakenError):
                    webhook.post("1", JSON, b"{}")
            webhook.post("1", JSON, b"{}")
    assert said == [f"waiting for {server.host} to answer"]


def test_where_it_is_posted_to_is_in_no_message_also_if_the_receiver_repeats_it() -> None:
    act = answer(404, b"no /hooks/T0123456789?key=s3cret, nor T0123456789, nor key=s3cret")
    with Receiver([act]) as server:
        root = server.url.partition("://")[2].partition("/")[0]
        with pytest.raises(RefusedError) as failure:
            post(WebhookReceiver(f"http://{root}/hooks/T0123456789?key=s3cret"))
    assert str(failure.value) == "404 Not Found: 'no …, nor …, nor …'"
