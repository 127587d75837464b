"""The way to a registry: redirects, TLS, plain HTTP and proxies."""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from msb_cache.errors import ImagePullFailedError, InvalidConfigError
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.images import Registry
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import BuiltImage, sample
from tests.registry_server import (
    Auth,
    Content,
    Handler,
    RegistryServer,
    answer,
    redirect,
    self_signed,
)

FAST = RegistryOptions(timeout=1, retries=1, backoff=0.01)
INSECURE = RegistryOptions(insecure=True, timeout=1, retries=1, backoff=0.01)
ALICE = Credential("alice", "password")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer(auth=Auth("basic", {"alice": "password"})) as running:
        yield running


@pytest.fixture
def store() -> Iterator[RegistryServer]:
    """Another host, where a registry keeps its blobs."""
    with RegistryServer() as running:
        yield running


def verify(
    name: str, folder: Path, options: RegistryOptions = FAST, login: Credential | None = ALICE
) -> None:
    reference = Reference.parse(name)
    with Registry(reference, options, login) as registry:
        found = registry.image(registry.resolve(reference), partials=folder)
        for each in found.layers:
            each.verify_only()


def stored(built: BuiltImage, server: RegistryServer, store: RegistryServer, query: str = "") -> None:
    """Send every request for a blob to the store."""
    for digest, data in built.blobs.items():
        url = store.put(f"/bucket/{digest}", data)
        server.on(f"/blobs/{digest}", redirect(url + query), always=True)


# --- redirects ----------------------------------------------------------------------------------


def test_a_redirect_to_another_host_carries_no_login(
    server: RegistryServer, store: RegistryServer, tmp_path: Path
) -> None:
    built = sample()
    name = server.add(built)
    stored(built, server, store, "?X-Amz-Signature=secret")
    verify(name, tmp_path)
    assert len(store.requests) == 3
    assert {each.authorization for each in store.requests} == {None}
    assert all("X-Amz-Signature=secret" in each.path for each in store.requests)
    assert all(each.authorization for each in server.requests[1:])


def test_a_redirect_on_the_same_host_carries_the_login(server: RegistryServer, tmp_path: Path) -> None:
    built = sample()
    name = server.add(built)
    server.on("/manifests/1", redirect(f"/v2/app/manifests/{built.digest}", 301), always=True)
    verify(name, tmp_path)
    assert server.count(f"/manifests/{built.digest}") == 2


def test_the_login_is_not_taken_up_again_on_the_way_back(
    server: RegistryServer, store: RegistryServer
) -> None:
    reference = Reference.parse(server.add(sample()))
    with Registry(reference, FAST, ALICE) as registry:
        registry.resolve(reference)
        server.on("/manifests/1", redirect(f"http://{store.host}/back"), always=True)
        server.on("/spy", answer(404), always=True)
        store.on("/back", redirect(f"http://{server.host}/spy"), always=True)
        with pytest.raises(ImagePullFailedError, match="answers 404 Not Found; try again later"):
            registry.resolve(reference)
    assert {each.authorization for each in server.requests if each.path == "/spy"} == {None}
    assert server.requests[-2].authorization is not None


def test_what_a_store_answers_is_shown_without_its_query(
    server: RegistryServer, store: RegistryServer, tmp_path: Path
) -> None:
    built = sample()
    name = server.add(built)
    stored(built, server, store, "?X-Amz-Signature=secret")
    store.on("/bucket/", answer(403, b"<Error>secret</Error>"), always=True)
    with pytest.raises(ImagePullFailedError) as caught:
        verify(name, tmp_path)
    assert f"{store.host}, where {server.host} keeps config" in str(caught.value)
    assert "answers 403 Forbidden; try again later" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert store.count("/bucket/") == 2  # a signed address that has expired is replaced


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/v2/app/manifests/1", "redirects in a circle"),
        ("", "redirects to what is no web address"),
        ("file:///etc/passwd", "redirects to what is no web address"),
        ("http://u:p@127.0.0.1/", "redirects to what is no web address"),
        ("http://127.0.0.1:99999/", "redirects to what is no web address"),
        ("http://" + "a" * 20_000, "redirects to what is no web address"),
        ("http://[::1\x1b[31m]/?sig=secret", "no web address|proper HTTP"),
        ("http://127.0.0.1:1/?sig=secret", r"127.0.0.1:1 cannot be reached \(Connection refused\)"),
    ],
)
def test_redirects_that_lead_nowhere(
    server: RegistryServer, tmp_path: Path, location: str, message: str
) -> None:
    name = server.add(sample())
    server.on("/manifests/", redirect(location), always=True)
    with pytest.raises(ImagePullFailedError, match=message) as caught:
        verify(name, tmp_path)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(server.requests) <= 4


def test_endless_redirects(server: RegistryServer, tmp_path: Path) -> None:
    name = server.add(sample())

    def onwards(handler: Handler, content: Content) -> None:
        redirect(f"/v2/app/manifests/{100 + len(server.requests)}")(handler, content)

    server.on("/manifests/", onwards, always=True)
    with pytest.raises(ImagePullFailedError, match="redirects more than 5 times"):
        verify(name, tmp_path)
    assert len(server.requests) == 6


# --- TLS and plain HTTP -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, require_peer: Callable[[str], str]) -> Path:
    """A certificate for 127.0.0.1 that nobody knows, with its key in one file."""
    return self_signed(require_peer("openssl"), tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate: Path) -> Iterator[RegistryServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with RegistryServer(tls=context, auth=Auth(users={"alice": "password"})) as running:
        yield running


def test_loopback_is_plain_first_and_then_verified(
    secure: RegistryServer, certificate: Path, tmp_path: Path
) -> None:
    name = secure.add(sample())
    with pytest.raises(
        ImagePullFailedError, match=r"the certificate of 127.0.0.1:\d+ is not trusted \(self.signed"
    ):
        verify(name, tmp_path)
    trusting = RegistryOptions(ca_certs=certificate, timeout=1, retries=0)
    verify(name, tmp_path, trusting)
    verify(name, tmp_path, INSECURE)


def test_certificates_must_be_readable(certificate: Path, tmp_path: Path) -> None:
    for problem, path in (("No such file", tmp_path / "none"), ("holds no PEM certificate", Path(__file__))):
        with pytest.raises(InvalidConfigError, match=problem):
            Registry("127.0.0.1:1", RegistryOptions(ca_certs=path))


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loopback pass for another machine."""
    monkeypatch.setattr("msb_cache.oci.registry.http.is_loopback", lambda host: False)


def test_other_hosts_are_never_plain(
    server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    name = server.add(sample())
    with pytest.raises(
        ImagePullFailedError, match="does not speak TLS; allow insecure connections if plain HTTP"
    ):
        verify(name, tmp_path)
    assert server.requests == []
    verify(name, tmp_path, INSECURE)


def test_other_hosts_certificates_are_checked(
    secure: RegistryServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    name = secure.add(sample())
    with pytest.raises(ImagePullFailedError, match="name the authority that signed it, or allow insecure"):
        verify(name, tmp_path)
    assert secure.requests == []
    verify(name, tmp_path, INSECURE)
    secure.auth.realm = "http://127.0.0.1:1/token"  # type: ignore[union-attr]
    with pytest.raises(
        ImagePullFailedError, match=r"token server without TLS, which is refused: 127.0.0.1:1"
    ):
        verify(name, tmp_path, RegistryOptions(ca_certs=certificate))


def test_a_redirect_to_plain_http_is_refused(
    secure: RegistryServer, store: RegistryServer, certificate: Path, tmp_path: Path
) -> None:
    built = sample()
    name = secure.add(built)
    secure.auth = None
    secure.on("/blobs/", redirect(store.put("/blob", built.config) + "?sig=secret"), always=True)
    trusting = RegistryOptions(ca_certs=certificate, timeout=1, retries=0)
    with pytest.raises(
        ImagePullFailedError, match=f"redirects to plain HTTP at {store.host}, which is refused"
    ):
        verify(name, tmp_path, trusting)
    assert store.requests == []


# --- proxies ------------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[RegistryServer]:
    """A server that is asked for whole URLs, as a proxy is, and knows the answers itself."""
    with RegistryServer() as running:
        yield running


def test_a_proxy_is_asked_with_its_own_login(
    proxy: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://bob:s%40crt@{proxy.host}")
    monkeypatch.setattr("msb_cache.oci.registry.http._schemes", lambda host, insecure: ("http",))
    built = sample()
    proxy.add(built)
    verify("registry.test/app:1", tmp_path, INSECURE)
    assert all(each.path.startswith("http://registry.test/v2/app/") for each in proxy.requests)
    assert {each.headers["proxy-authorization"] for each in proxy.requests} == {"Basic Ym9iOnNAY3J0"}
    assert {each.headers["host"] for each in proxy.requests} == {"registry.test"}


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy's CONNECT, which leads to ``target`` whatever was asked for."""

    target: tuple[str, int]
    asked: ClassVar[list[str]] = []

    def handle(self) -> None:
        lines = []
        while line := self.rfile.readline().strip():
            lines.append(line.decode())
        self.asked.append("|".join(lines))
        with socket.create_connection(self.target) as far:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pairs = {self.connection: far, far: self.connection}
            while ready := select.select(list(pairs), [], [], 5)[0]:
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    pairs[one].sendall(data)


def test_tls_goes_through_a_proxy(
    secure: RegistryServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tunnel.target = ("127.0.0.1", secure.port)
    Tunnel.asked.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://bob:s%40crt@127.0.0.1:{proxy.server_address[1]}")
        secure.auth = None
        secure.add(sample())
        verify("registry.test/app:1", tmp_path, RegistryOptions(ca_certs=certificate, timeout=1, retries=0))
        proxy.shutdown()
    assert all(each.startswith("CONNECT registry.test:443 HTTP/1") for each in Tunnel.asked)
    assert all("Basic Ym9iOnNAY3J0" in each for each in Tunnel.asked)
    assert all("proxy-authorization" not in each.headers for each in secure.requests)


def test_a_proxy_that_is_not_there_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://bob:s%40crt@127.0.0.1:1")
    with pytest.raises(ImagePullFailedError, match=r"the proxy for registry.test does not let") as caught:
        verify("registry.test/app:1", tmp_path)
    assert "crt" not in str(caught.value)


def test_nobody_waits_for_a_host_that_never_answered(tmp_path: Path) -> None:
    """Its queue of one is full, so that connecting takes until the timeout."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        options = RegistryOptions(timeout=0.3, retries=5, backoff=10)
        with pytest.raises(ImagePullFailedError, match=r"cannot be reached \(no answer in 0.3 s\); check"):
            verify(f"127.0.0.1:{address[1]}/app:1", tmp_path, options)
        for each in waiting:
            each.close()
