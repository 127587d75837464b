"""Connections to registries that do not wait for ever, and do not go where a stranger should not send us.

A server that sends a byte now and then keeps each wait for bytes short, and the answer away. And a registry
can redirect to any address: to this machine's own services, or to the one at which a cloud gives credentials
to its machines. Names prove nothing there, so the address that was reached is looked at.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

SAY_AFTER = 1.0
"""Seconds after which a person is told that an answer is waited for."""

Place = Literal["loopback", "link-local", "metadata"]
"""Where only this machine, its nearest network, or its cloud's secrets for it can be meant."""

_WITHIN = (ipaddress.ip_network("::/96"), ipaddress.ip_network("64:ff9b::/96"))
"""IPv6 addresses that end with an IPv4 one: compatible ones, and NAT64 (RFC 4291, RFC 6052)."""

_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")))
"""Where clouds give out a machine's credentials outside of the link-local ranges (AWS, Google, Alibaba)."""


class TooSlowError(TimeoutError):
    """The bytes came, and too slowly for what they were to be."""


class Guard(Protocol):
    """What a connection asks of the transport that opened it."""

    seconds: float
    """How long an answer's status and headers may take."""

    def check(self, host: str, address: str) -> None:
        """Refuse a host that was reached at an address."""

    def say(self, host: str) -> None:
        """Tell that a host is waited for."""


def place_of(address: str) -> Place | None:
    """Return where an address, or a host's name that is one, lies; None: elsewhere, or it is a name."""
    name = urlsplit(f"//{address}").hostname or address if "[" in address else address
    if name.rstrip(".").lower() == "localhost" or name.lower().rstrip(".").endswith(".localhost"):
        return "loopback"
    try:
        found = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    if found in _METADATA:
        return "metadata"
    if isinstance(found, ipaddress.IPv6Address) and not found.is_loopback:
        within = found.ipv4_mapped or found.sixtofour
        if within is None and any(found in network for network in _WITHIN):
            within = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        found = within or found
    if found.is_loopback or found in _THIS_NETWORK:
        return "loopback"
    return "link-local" if found.is_link_local else None


class Watch:
    """Ends a wait for bytes on a connection; a context manager around the wait.

    Args:
        connection: whose socket is shut down.
        seconds: how long the wait may take.
        say: called when it has taken a second, in another thread.
    """

    def __init__(self, connection: Any, seconds: float, say: Callable[[], object] = lambda: None) -> None:
        self._connection = connection
        self._seconds = seconds
        self._say = say
        self._done = threading.Event()
        self.over = False

    def __enter__(self) -> Watch:
        threading.Thread(target=self._run, name="msb-cache-wait", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def _run(self) -> None:
        if self._done.wait(min(SAY_AFTER, self._seconds)):
            return
        self._say()
        if self._done.wait(max(0.0, self._seconds - SAY_AFTER)):
            return
        self.over = True
        connected = getattr(self._connection, "sock", None)
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def peer(connected: socket.socket) -> str:
    """Return the address that a socket is connected to."""
    return str(connected.getpeername()[0])


def guarded(pools: urllib3.PoolManager, guard: Guard) -> None:
    """Let all connections of a pool manager be guarded."""

    class Plain(HTTPConnection):
        """A connection without TLS."""

        def _new_conn(self) -> socket.socket:
            return _checked(super()._new_conn(), self, guard)

        def getresponse(self) -> Any:
            return _in_time(super().getresponse, self, guard)

    class Secure(HTTPSConnection):
        """A connection with TLS."""

        def _new_conn(self) -> socket.socket:
            return _checked(super()._new_conn(), self, guard)

        def getresponse(self) -> Any:
            return _in_time(super().getresponse, self, guard)

    class PlainPool(HTTPConnectionPool):
        """Connections without TLS to one host."""

        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        """Connections with TLS to one host."""

        ConnectionCls = Secure

    pools.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _checked(connected: socket.socket, connection: HTTPConnection, guard: Guard) -> socket.socket:
    if connection.proxy is None:  # it is the proxy that reaches what is behind it
        try:
            guard.check(connection.host, peer(connected))
        except BaseException:
            connected.close()
            raise
    return connected


def _in_time(answer: Callable[[], Any], connection: HTTPConnection, guard: Guard) -> Any:
    with Watch(connection, guard.seconds, lambda: guard.say(connection.host)) as watch:
        try:
            return answer()
        except Exception:
            if watch.over:
                raise TooSlowError from None
            raise
