"""Answers that come too slowly, and hosts where nothing of a stranger's may send us."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry import connections
from msb_cache.oci.registry.connections import Place, place_of
from msb_cache.oci.registry.images import Registry
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import sample
from tests.registry_server import Action, Content, Handler, RegistryServer, redirect

FAST = RegistryOptions(timeout=0.25, retries=0, backoff=0.01)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.10", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::1", "loopback"),
        ("::", "loopback"),
        ("0.1.2.3", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("100.100.100.200", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        ("a.localhost", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("10.0.0.1", None),  # where registries of companies keep their blobs
        ("192.168.1.1", None),
        ("93.184.216.34", None),
        ("2606:2800:220:1::1", None),
        ("registry.example", None),
        ("localhost.example", None),
        ("", None),
    ],
)
def test_where_an_address_lies(address: str, place: Place | None) -> None:
    assert place_of(address) == place


def trickle(pieces: bytes, pause: float, rest: bytes = b"") -> Action:
    """Bytes of an answer, one at a time."""

    def act(handler: Handler, content: Content) -> None:
        handler.close_connection = True
        try:
            for byte in pieces:
                if handler.registry.stopping.wait(pause):
                    return
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
            handler.wfile.write(rest)
        except OSError:
            pass  # the client has had enough

    return act


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK" + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 90,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 1000,
    ],
    ids=["status", "header", "headers", "length of a piece"],
)
def test_an_answer_that_trickles_ends(answer: bytes) -> None:
    said: list[str] = []
    whole = b"Transfer-Encoding: chunked\r\n\r\n" in answer
    with RegistryServer() as server:
        name = server.add(sample())
        server.on(
            "/manifests/", trickle(answer[60:] if False else answer, 0.01 if whole else 0.1), always=True
        )
        reference = Reference.parse(name)
        with (
            Registry(reference, FAST, waiting=said.append) as registry,
            pytest.raises(ImagePullFailedError, match="answers too slowly"),
        ):
            registry.resolve(reference)
    assert said in ([], ["waiting for 127.0.0.1 to answer"])


def test_who_is_waited_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SAY_AFTER", 0.02)
    said: list[str] = []

    def late(handler: Handler, content: Content) -> None:
        time.sleep(0.2)
        handler.serve(content)

    with RegistryServer() as server:
        name = server.add(sample())
        server.on("/manifests/", late, always=True)
        reference = Reference.parse(name)
        with Registry(reference, RegistryOptions(timeout=5), waiting=said.append) as registry:
            for _ in range(2):
                registry.resolve(reference)
    assert said == ["waiting for 127.0.0.1 to answer"]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[RegistryServer, str], None]:
    """Return what makes a server look as if it had another address."""
    addresses: dict[int, str] = {}
    monkeypatch.setattr(
        connections, "peer", lambda connected: addresses.get(connected.getpeername()[1], "127.0.0.1")
    )

    def move(server: RegistryServer, address: str) -> None:
        addresses[urlsplit(f"//{server.host}").port or 0] = address

    return move


@pytest.mark.parametrize(
    ("registry_at", "target_at", "refused"),
    [
        ("93.184.216.34", "127.0.0.1", "loopback"),
        ("93.184.216.34", "169.254.169.254", "link-local"),
        ("93.184.216.34", "::ffff:169.254.169.254", "link-local"),
        ("127.0.0.1", "169.254.169.254", "link-local"),
        ("93.184.216.34", "fd20:ce::254", "metadata"),
        ("93.184.216.34", "10.0.0.1", None),
        ("127.0.0.1", "127.0.0.1", None),
        ("169.254.1.1", "169.254.1.2", None),
    ],
)
def test_redirects(
    elsewhere: Callable[[RegistryServer, str], None], registry_at: str, target_at: str, refused: str | None
) -> None:
    with RegistryServer() as server, RegistryServer() as target:
        built = sample()
        name = server.add(built)
        path = f"/v2/app/manifests/{built.digest}"
        target.add(built)
        # By a name, so that only the address that is reached tells.
        server.on("/manifests/", redirect(f"http://name.test:{target.host.rpartition(':')[2]}{path}"))
        elsewhere(server, registry_at)
        elsewhere(target, target_at)
        reference = Reference.parse(name)
        with pytest.MonkeyPatch.context() as patch, Registry(reference, FAST) as registry:
            registry._session._transport._own_places.clear()  # what its name says here is not meant
            patch.setattr("urllib3.util.connection.socket.getaddrinfo", resolving(patch))
            if refused is None:
                assert registry.resolve(reference).digest == built.digest
            else:
                with pytest.raises(
                    ImagePullFailedError, match=rf"sends us to name\.test, a {refused} address"
                ):
                    registry.resolve(reference)
        assert target.count("") == (refused is None)


def resolving(patch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Return a resolver for which every name is this machine."""
    import socket

    real = socket.getaddrinfo
    return lambda host, *rest, **more: real("127.0.0.1" if host == "name.test" else host, *rest, **more)


def test_what_a_name_says_is_refused_before_anything_is_reached(
    elsewhere: Callable[[RegistryServer, str], None],
) -> None:
    with RegistryServer() as server:
        name = server.add(sample())
        elsewhere(server, "93.184.216.34")
        server.on("/manifests/", redirect("http://169.254.169.254/latest/meta-data/"), always=True)
        reference = Reference.parse(name)
        with (
            Registry(reference, FAST) as registry,
            pytest.raises(ImagePullFailedError, match=r"169\.254\.169\.254, a link-local address"),
        ):
            registry.resolve(reference)
