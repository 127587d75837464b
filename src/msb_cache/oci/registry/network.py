"""Connections for one registry: to which addresses, how long anything may take, and what a person is told.

Not for HTTP. A registry, or who answers in its name, chooses where it redirects to and where logins are asked
for. If it is elsewhere, those are not services of this machine or of its link, such as the one at which
clouds give out a machine's credentials. Names can mean another address each time they are looked up, so it is
the address of each connection that is judged.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.digest import shown
from msb_cache.waiting import SAY_AFTER, TURN_SECONDS, Note, end_if_asked, pause

Address = tuple[int, int, int, str, tuple[Any, ...]]
"""One address as ``socket.getaddrinfo`` gives it."""

Kind = Literal["loopback", "link-local", "metadata", "elsewhere"]

SAY_AGAIN = 30.0
"""Seconds for which what is waited for is not told again of the same host."""

_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")))
"""Where clouds serve a machine's credentials outside of the link-local ranges (AWS, Google, Alibaba)."""

_EMBEDDING = (ipaddress.ip_network("::/96"), ipaddress.ip_network("64:ff9b::/96"))
"""IPv6 addresses that end with an IPv4 one: compatible ones, and those of NAT64 (RFC 4291, RFC 6052)."""

_IN_WORDS = {
    "loopback": "on this machine",
    "link-local": "of its network link only",
    "metadata": "where clouds give out a machine's credentials",
}


def kind_of(address: str) -> Kind:
    """Return whether an IP address is this machine's own, its link's, or elsewhere; private ones are that.

    Blob stores of a private registry have private addresses, and so have public names within a company.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if found in _METADATA:
        return "metadata"
    if isinstance(found, ipaddress.IPv6Address):
        if found.is_loopback or found.is_unspecified:
            return "loopback"
        embedded = found.ipv4_mapped or found.sixtofour
        if embedded is None and any(found in network for network in _EMBEDDING):
            embedded = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if embedded is not None:
            return kind_of(str(embedded))
    elif found in ipaddress.IPv4Network("0.0.0.0/8"):
        return "loopback"  # Linux connects 0.0.0.0 to itself
    if found.is_loopback:
        return "loopback"
    return "link-local" if found.is_link_local else "elsewhere"


class Network:
    """Connects for one registry, and waits for what comes; used from several threads.

    The first connection is the registry's. What kind of address that has, others may have too.

    Args:
        registry: its host, with its port if one was given.
        seconds: bounds connecting to one address, and each wait.
        note: told when one takes longer than a second; None: nobody is.
    """

    def __init__(self, registry: str, seconds: float, note: Note | None) -> None:
        self._registry = registry
        self._seconds = seconds
        self._note = note
        self._home: Kind | None = None
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        self._wait = _Wait()
        self._closed = threading.Event()

    def close(self) -> None:
        """End what other threads wait for: nothing is received any more."""
        self._closed.set()

    def begin(self, host: str, what: str) -> None:
        """Begin a wait of this thread: all that it receives from now on must come in time.

        Args:
            host: who is waited for, with its port, as a message shows it.
            what: what for, such as ``answer``.
        """
        now = time.monotonic()
        self._wait.until, self._wait.say_at = now + self._seconds, now + SAY_AFTER
        self._wait.host, self._wait.what = host, what

    def receive(self, connection: socket.socket, buffer: Any) -> int:
        """Receive what is there or comes; raises TimeoutError when the wait that was begun is over.

        That is at the latest ``TURN_SECONDS`` after ``close``: a thread that receives gets no signals. What
        ends this thread's waits ends this as soon, with KeyboardInterrupt.
        """
        wait = self._wait
        while True:
            end_if_asked()
            now = time.monotonic()
            if now >= wait.say_at:
                wait.say_at = float("inf")
                self._say(wait.host, wait.what)
            if now >= wait.until or self._closed.is_set():
                raise TimeoutError("timed out")
            connection.settimeout(min(wait.until - now, wait.say_at - now, TURN_SECONDS))
            try:
                return connection.recv_into(buffer)
            except TimeoutError:
                continue

    @contextmanager
    def watched(self, host: str, what: str) -> Iterator[None]:
        """Say what is waited for if the block takes longer than a second, wherever it waits."""
        timer = threading.Timer(SAY_AFTER, self._say, (host, what))
        timer.daemon = True
        if self._note is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def connect(self, host: str, port: int, *, judged: bool) -> socket.socket:
        """Connect to the first address of a host that can be reached.

        Args:
            host: a name or an IP address.
            port: the TCP port.
            judged: refuse addresses of a kind that the registry does not have.

        Raises:
            ImagePullFailedError: it has no other address.
            OSError: it has none (``gaierror``), or cannot be reached.
        """
        problem: Exception | None = None
        for family, _, protocol, _, address in self._addresses(host, port):
            if judged and (refusal := self._refusal(host, kind_of(str(address[0])))):
                problem = problem or refusal
                continue
            connection = socket.socket(family, socket.SOCK_STREAM, protocol)
            try:
                self._connect(connection, address)
                connection.settimeout(self._seconds)
            except BaseException as error:
                connection.close()
                if not isinstance(error, OSError):
                    raise
                problem = error
                continue
            if judged:
                self._found(kind_of(str(address[0])))
            return connection
        raise problem or OSError("it has no address")

    def _connect(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Connect a socket; raises OSError, TimeoutError if it takes too long or ``close`` ended it."""
        connection.setblocking(False)
        problem = connection.connect_ex(address)
        if problem == errno.EINPROGRESS:
            ready = select.poll()
            ready.register(connection, select.POLLOUT)
            pause(self._seconds, lambda seconds: ready.poll(seconds * 1000) or self._closed.is_set())
            end_if_asked()
            if not ready.poll(0):
                raise TimeoutError("timed out")
            problem = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))

    def check_literal(self, host: str) -> None:
        """Refuse a host that says itself that it is an address of a kind which the registry does not have.

        For what a proxy connects to: what a name means is for the proxy to know.

        Raises:
            ImagePullFailedError: it does.
        """
        try:
            kind = kind_of(host)
        except ValueError:
            kind = "loopback" if f".{host.rstrip('.').lower()}".endswith(".localhost") else "elsewhere"
        refusal = self._refusal(host, kind)
        if refusal is not None:
            raise refusal
        self._found(kind)

    def _refusal(self, host: str, kind: Kind) -> ImagePullFailedError | None:
        if kind == "elsewhere" or self._home in (None, kind):
            return None
        return ImagePullFailedError(
            f"{self._registry} leads to {shown(host)[1:-1]}, an address {_IN_WORDS[kind]}, which is refused "
            "because the registry is not there; tell who runs it"
        )

    def _found(self, kind: Kind) -> None:
        if self._home is None:
            self._home = kind

    def _addresses(self, host: str, port: int) -> list[Address]:
        """Look a host up; in a thread, because the system's resolver looks at no signals."""
        found: list[list[Address]] = []
        failed: list[OSError] = []

        def look_up() -> None:
            try:
                found.append(_look_up(host, port))
            except OSError as error:
                failed.append(error)
            except UnicodeError:  # it has a label that no name can have
                failed.append(socket.gaierror(socket.EAI_NONAME, "no name"))

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()

        def over(seconds: float) -> bool:
            thread.join(seconds)
            return not thread.is_alive()

        pause(self._seconds, over)
        end_if_asked()
        if failed:
            raise failed[0]
        if not found:
            raise TimeoutError("timed out")
        return found[0]

    def _say(self, host: str, what: str) -> None:
        now = time.monotonic()
        with self._lock:
            if self._note is None or now - self._said.get(host, -SAY_AGAIN) < SAY_AGAIN:
                return
            self._said[host] = now
        who = f"the registry {host}" if host == self._registry else host
        self._note(f"waiting for {who} to {what}")


class _Wait(threading.local):
    """What a thread waits for; times are of ``time.monotonic``."""

    until = 0.0
    say_at = float("inf")
    host = ""
    what = ""


def _look_up(host: str, port: int) -> list[Address]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
