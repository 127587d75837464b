"""To which addresses a registry may lead, how long its answers may trickle, and what is said meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry import network
from msb_cache.oci.registry.images import Registry
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.waiting import ended_by
from tests.imagebuilder import sample
from tests.registry_server import Action, Auth, Content, Handler, RegistryServer, redirect, stall

FAST = RegistryOptions(timeout=2, retries=0, insecure=True)
IMPATIENT = RegistryOptions(timeout=0.25, retries=0, insecure=True)

REAL_KIND = network.kind_of


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


def verify(
    name: str, folder: Path, options: RegistryOptions = FAST, note: Callable[[str], None] | None = None
) -> None:
    reference = Reference.parse(name)
    with Registry(reference, options, note=note) as registry:
        found = registry.image(registry.resolve(reference), partials=folder)
        for each in found.layers:
            each.verify_only()


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("loopback", ["127.0.0.1", "127.255.0.9", "::1", "0.0.0.0", "0.1.2.3", "::", "::ffff:127.0.0.1"]),
        ("loopback", ["::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"]),
        ("link-local", ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254"]),
        ("metadata", ["fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "::ffff:100.100.100.200"]),
        ("elsewhere", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "fd12::1", "100.64.0.1"]),  # private
        ("elsewhere", ["93.184.215.14", "2001:db8::1", "64:ff9b::93.184.215.14", "128.0.0.1"]),
    ],
)
def test_kinds_of_addresses(kind: str, addresses: list[str]) -> None:
    assert [network.kind_of(address) for address in addresses] == [kind] * len(addresses)


class Names:
    """What names mean: each is looked up in turn, its last address from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {}
        monkeypatch.setattr(network, "_look_up", self.look_up)

    def look_up(self, host: str, port: int) -> Any:
        found = self.known.get(host, [host])
        address = found.pop(0) if len(found) > 1 else found[0]
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Let the servers at 127.0.0.1 be elsewhere, under the name registry.test too."""
    monkeypatch.setattr(
        network, "kind_of", lambda address: "elsewhere" if address == "127.0.0.1" else REAL_KIND(address)
    )
    monkeypatch.setattr("msb_cache.oci.registry.http._schemes", lambda host, insecure: ("http",))
    names = Names(monkeypatch)
    names.known = {"registry.test": ["127.0.0.1"], "here.test": ["127.0.0.2"], "link.test": ["fe80::1"]}
    return names


@pytest.fixture
def private() -> Iterator[socket.socket]:
    """A service of this machine; nothing may connect to it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.2", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.parametrize(
    ("host", "where"),
    [
        *((host, "on this machine") for host in ("127.0.0.2", "127.2", "2130706434", "0.0.0.0", "here.test")),
        *((host, "on this machine") for host in ("[::1]", "[::ffff:127.0.0.2]", "[::]")),
        *((host, "of its network link only") for host in ("169.254.169.254", "[fe80::1]", "link.test")),
        ("100.100.100.200", "where clouds give out a machine's credentials"),
    ],
)
def test_a_registry_elsewhere_leads_to_no_service_of_this_machine(
    server: RegistryServer, names: Names, private: socket.socket, tmp_path: Path, host: str, where: str
) -> None:
    server.add(sample())
    port = private.getsockname()[1]
    server.on("/blobs/", redirect(f"http://{host}:{port}/latest/?sig=secret"), always=True)
    with pytest.raises(ImagePullFailedError, match=f", an address {where}, which is refused") as caught:
        verify(f"registry.test:{server.port}/app:1", tmp_path)
    assert str(caught.value).startswith(f"registry.test:{server.port} leads to ")
    assert "secret" not in str(caught.value)
    assert server.count("/blobs/") == 1  # it is not tried again


def test_a_registry_elsewhere_names_no_token_server_of_this_machine(
    names: Names, private: socket.socket, tmp_path: Path
) -> None:
    realm = f"http://here.test:{private.getsockname()[1]}/token"
    with RegistryServer(auth=Auth(realm=realm)) as server:
        server.add(sample())
        with pytest.raises(ImagePullFailedError, match=r"leads to here\.test, an address on this machine"):
            verify(f"registry.test:{server.port}/app:1", tmp_path)


def test_a_name_that_comes_to_mean_this_machine(
    server: RegistryServer, names: Names, private: socket.socket, tmp_path: Path
) -> None:
    server.add(sample())
    names.known["registry.test"] = ["127.0.0.1", "127.0.0.2"]
    server.on("/blobs/", redirect(f"http://registry.test:{private.getsockname()[1]}/"), always=True)
    with pytest.raises(ImagePullFailedError, match=r"leads to registry\.test, an address on this machine"):
        verify(f"registry.test:{server.port}/app:1", tmp_path)


def test_a_registry_of_this_machine_leads_to_others_of_it(
    server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever name it is found."""
    names = Names(monkeypatch)
    names.known = {"registry.test": ["127.0.0.1"], "store.test": ["127.0.0.1"]}
    monkeypatch.setattr("msb_cache.oci.registry.http._schemes", lambda host, insecure: ("http",))
    built = sample()
    server.add(built)
    for digest, data in built.blobs.items():
        server.put(f"/bucket/{digest}", data)
        server.on(f"/blobs/{digest}", redirect(f"http://store.test:{server.port}/bucket/{digest}"))
    verify(f"registry.test:{server.port}/app:1", tmp_path)


def test_through_a_proxy_what_says_that_it_is_here_is_refused(
    server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{server.host}")
    monkeypatch.setattr("msb_cache.oci.registry.http._schemes", lambda host, insecure: ("http",))
    server.add(sample())
    for host in ("169.254.169.254", "here.localhost"):
        server.on("/blobs/", redirect(f"http://{host}/latest/"))
        with pytest.raises(ImagePullFailedError, match=f"registry.test leads to {host}, an address"):
            verify("registry.test/app:1", tmp_path)
    assert server.count("/latest/") == 0


def test_a_name_that_cannot_be_looked_up_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def look_up(host: str, port: int) -> Any:
        asked.append(host)
        server.stopping.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    with RegistryServer() as server:
        monkeypatch.setattr(network, "_look_up", look_up)
        with pytest.raises(ImagePullFailedError, match=r"cannot be reached \(no answer in 0\.25 s\)"):
            verify("registry.test/app:1", tmp_path, IMPATIENT)
    assert set(asked) == {"registry.test"}


# --- answers that trickle -----------------------------------------------------------------------


def trickle(*whole: bytes, then: bytes) -> Action:
    """Send something at once, and then byte after byte for ever, each soon enough for itself."""

    def act(handler: Handler, content: Content) -> None:
        handler.close_connection = True
        try:
            handler.wfile.write(b"".join(whole))
            while not handler.registry.stopping.wait(0.05):
                handler.wfile.write(then)
                handler.wfile.flush()
        except OSError:
            pass

    return act


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(trickle(then=b"H"), id="status"),
        pytest.param(trickle(b"HTTP/1.1 200 OK\r\nX-", then=b"a"), id="name"),
        pytest.param(trickle(b"HTTP/1.1 200 OK\r\n", then=b"X: y\r\n"), id="headers"),
        pytest.param(trickle(b"HTTP/1.1 100 Continue\r\n", then=b"X: y\r\n"), id="continue"),
        pytest.param(trickle(CHUNKED, then=b"0"), id="length"),
        pytest.param(trickle(CHUNKED, b"1", then=b";"), id="extension"),
        pytest.param(trickle(CHUNKED, b"1\r\na\r\n0\r\n", then=b"X: y\r\n"), id="trailers"),
    ],
)
def test_an_answer_must_come_in_time_however_steadily_it_trickles(
    server: RegistryServer, tmp_path: Path, act: Action
) -> None:
    name = server.add(sample())
    server.on("/blobs/", act, always=True)
    with pytest.raises(ImagePullFailedError, match=r"does not answer within 0\.25 seconds"):
        verify(name, tmp_path, IMPATIENT)


@pytest.mark.parametrize("act", [trickle(then=b"H"), trickle(CHUNKED, then=b"0")], ids=["status", "length"])
def test_a_token_must_come_in_time(tmp_path: Path, act: Action) -> None:
    with RegistryServer(auth=Auth()) as server:
        name = server.add(sample())
        server.on("/token", act, always=True)
        with pytest.raises(ImagePullFailedError, match=r"does not answer within 0\.25 seconds"):
            verify(name, tmp_path, IMPATIENT)


# --- what is said -------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SAY_AFTER", 0.05)


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (trickle(b"HTTP/1.1 200 OK\r\n", then=b"X: y\r\n"), "answer"),
        (stall(3), "send more"),
    ],
)
def test_what_is_waited_for_is_said_once(
    server: RegistryServer, soon: None, tmp_path: Path, act: Action, what: str
) -> None:
    name = server.add(sample())
    server.on("/blobs/", act, always=True)
    said: list[str] = []
    with pytest.raises(ImagePullFailedError):
        verify(name, tmp_path, IMPATIENT, said.append)
    assert said == [f"waiting for the registry {server.host} to {what}"]


def test_a_store_that_is_waited_for_is_named(server: RegistryServer, soon: None, tmp_path: Path) -> None:
    name = server.add(sample())
    said: list[str] = []
    with RegistryServer() as store:
        server.on("/blobs/", redirect(store.put("/bucket", bytes(10))), always=True)
        store.on("/bucket", stall(0), always=True)
        with pytest.raises(ImagePullFailedError):
            verify(name, tmp_path, IMPATIENT, said.append)
    assert said == [f"waiting for {store.host} to send more"]


def test_who_connects_is_told_for_whom_it_waits(soon: None, tmp_path: Path) -> None:
    """Its queue of one is full, so that connecting takes until the timeout."""
    said: list[str] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ImagePullFailedError, match="cannot be reached"):
            verify(f"{host}/app:1", tmp_path, IMPATIENT, said.append)
        for each in waiting:
            each.close()
    assert said == [f"waiting for the registry {host} to answer"]


def test_a_request_that_is_tried_again_later_says_why(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msb_cache.oci.registry.session.SAY_AFTER", 0.0)
    reference = Reference.parse(server.add(sample()))
    server.on("/manifests/", drop_all)
    said: list[str] = []
    options = RegistryOptions(timeout=1, retries=1, backoff=0.01)
    with Registry(reference, options, note=said.append) as registry:
        registry.resolve(reference)
    assert [sentence.partition(": ")[2] for sentence in said] == [
        f"the connection to {server.host} broke off; check the network and try again"
    ]


def drop_all(handler: Handler, content: Content) -> None:
    handler.close_connection = True


class TestConnecting:
    """A connection that does not come is given up."""

    @pytest.fixture
    def silent(self) -> Iterator[int]:
        """Return the port of a service that takes no more connections, and refuses none."""
        with socket.socket() as listening, ExitStack() as waiting:
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            for _ in range(4):
                each = waiting.enter_context(socket.socket())
                each.setblocking(False)
                each.connect_ex(listening.getsockname())
            yield listening.getsockname()[1]

    def test_after_its_time(self, silent: int) -> None:
        with pytest.raises(TimeoutError):
            network.Network("r.test", 0.1, None).connect("127.0.0.1", silent, judged=False)

    def test_when_the_thread_is_asked_to_end(self, silent: int) -> None:
        with ended_by(lambda: True), pytest.raises(KeyboardInterrupt):
            network.Network("r.test", 60, None).connect("127.0.0.1", silent, judged=False)

    def test_when_another_thread_closes(self, silent: int) -> None:
        connecting = network.Network("r.test", 60, None)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(connecting.close)
            with pytest.raises(TimeoutError):
                connecting.connect("127.0.0.1", silent, judged=False)

    def test_when_it_is_refused(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                network.Network("r.test", 60, None).connect(*bound.getsockname(), judged=False)
