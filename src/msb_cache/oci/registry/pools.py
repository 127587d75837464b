"""Requests over connections that are kept for the next one: TLS, proxies, and every wait bounded and told of.

The only module that opens connections with urllib3. Not for what an answer or a failure means.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3 import connection as http_connections
from urllib3 import exceptions as http_errors

from msb_cache.errors import InvalidConfigError
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.network import Network
from msb_cache.oci.registry.proxy import proxy_for

_CONNECTIONS = 32
_MOST_CERTIFICATE_BYTES = 16 * 1024 * 1024
_USER_AGENT = "msb-cache"


class Pools:
    """Connections to hosts and proxies, by how they are reached; used from several threads.

    Args:
        network: connects, and waits for what comes.
        timeout: bounds connecting to one address, and each wait, in seconds.
        ca_certs: a PEM file trusted in addition to the system's authorities.
        insecure: accept any certificate.
        judged: whether the network refuses addresses of a kind that the first one was not of.

    Raises:
        InvalidConfigError: ``ca_certs`` cannot be read.
    """

    def __init__(
        self,
        network: Network,
        *,
        timeout: float,
        ca_certs: Path | None,
        insecure: bool,
        judged: bool,
    ) -> None:
        self._network = network
        self._timeout = urllib3.Timeout(connect=timeout, read=timeout)
        self._judged = judged
        # Reading the system's authorities takes 50 ms, which plain HTTP need not pay for.
        self._tls = functools.cache(lambda: _context(ca_certs, insecure))
        if ca_certs is not None:
            self._tls()
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, through the proxy that the environment names for it; no redirect is followed.

        Its status and headers have arrived then, its body not.

        Raises:
            urllib3.exceptions.HTTPError, OSError, ValueError: there is no answer.
            ImagePullFailedError: the network refuses the address.
        """
        parts = urlsplit(url)
        proxy = proxy_for(parts)
        if proxy and self._judged:
            self._network.check_literal(parts.hostname or "")
        pool = self._pool_for(proxy, parts.scheme == "https")
        # Layers are compressed already, and their bytes are what the digests are of.
        headers = {"Accept-Encoding": "identity", "User-Agent": _USER_AGENT, **headers}
        return pool.request(method, url, headers=headers, body=body, redirect=False, preload_content=False)

    def close(self) -> None:
        """Close idle connections."""
        for pool in list(self._pools.values()):
            pool.clear()

    def _pool(self, proxy: str, secure: bool) -> urllib3.PoolManager:
        context = self._tls() if secure else None
        if not proxy:
            manager = urllib3.PoolManager(
                maxsize=_CONNECTIONS, retries=False, timeout=self._timeout, ssl_context=context
            )
            manager.pool_classes_by_scheme = _pool_classes(self._network, judged=self._judged)
            return manager
        parts = urlsplit(proxy)
        login = None
        if parts.username is not None:
            name = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            login = urllib3.make_headers(proxy_basic_auth=name)
        manager = urllib3.ProxyManager(
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
            proxy_headers=login,
            maxsize=_CONNECTIONS,
            retries=False,
            timeout=self._timeout,
            ssl_context=context,
        )
        manager.pool_classes_by_scheme = _pool_classes(self._network, judged=False)
        return manager

    def _pool_for(self, proxy: str, secure: bool) -> urllib3.PoolManager:
        key = proxy, secure
        return self._pools.get(key) or self._pools.setdefault(key, self._pool(*key))


class _Bounded(http_connections.HTTPConnection):
    """A connection of urllib3 whose every wait is bounded as a whole, and told of."""

    network: ClassVar[Network]
    judged: ClassVar[bool]

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.response_class = functools.partial(_Response, self.network)  # type: ignore[assignment]

    def connect(self) -> None:
        self.network.begin(self._who, "answer")
        with self.network.watched(self._who, "answer"):
            super().connect()

    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override]
        self.network.begin(self._who, "answer")
        return super().getresponse()

    @property
    def _who(self) -> str:
        host = self._tunnel_host or self.host
        port = self._tunnel_port if self._tunnel_host else self.port
        return shown(host if port in (80, 443) else f"{host}:{port}")[1:-1]

    def _new_conn(self) -> socket.socket:
        try:
            connection = self.network.connect(self.host.strip("[]"), self.port, judged=self.judged)
        except socket.gaierror as error:
            raise http_errors.NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise http_errors.ConnectTimeoutError(self, str(error)) from error
        except OSError as error:
            raise http_errors.NewConnectionError(self, str(error)) from error
        for option in self.socket_options or ():
            connection.setsockopt(*option)
        return connection


class _Response(http.client.HTTPResponse):
    """Reads through ``Network.receive``, so that neither a header nor a chunk's length can trickle."""

    def __init__(self, network: Network, connection: socket.socket, **named: Any) -> None:
        super().__init__(connection, **named)
        self.fp = io.BufferedReader(_Receiver(network, connection, self.fp))


class _Receiver(io.RawIOBase):
    """What a connection receives; ``held`` keeps it open until this is closed."""

    def __init__(self, network: Network, connection: socket.socket, held: io.IOBase) -> None:
        self._network, self._connection, self._held = network, connection, held

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._network.receive(self._connection, buffer)

    def close(self) -> None:
        self._held.close()
        super().close()


def _pool_classes(network: Network, *, judged: bool) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return urllib3's pools with connections that use a network."""
    classes: dict[str, type[urllib3.HTTPConnectionPool]] = {}
    for scheme, pool, connection in (
        ("http", urllib3.HTTPConnectionPool, http_connections.HTTPConnection),
        ("https", urllib3.HTTPSConnectionPool, http_connections.HTTPSConnection),
    ):
        own = type("Connection", (_Bounded, connection), {"network": network, "judged": judged})
        classes[scheme] = type("Pool", (pool,), {"ConnectionCls": own})
    return classes


def _context(ca_certs: Path | None, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_certs is not None:
        problem = None
        try:
            # Not by its name: of a file without certificates, ssl raises whatever error the thread met last.
            with open(ca_certs, "rb") as file:
                text = file.read(_MOST_CERTIFICATE_BYTES).decode("ascii", "ignore")
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            problem = "holds no PEM certificate"
        except OSError as error:
            problem = error.strerror
        if problem is not None:
            raise InvalidConfigError(f"the certificates in {ca_certs} cannot be read: {problem}")
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        urllib3.disable_warnings(http_errors.InsecureRequestWarning)  # it was asked for
    return context
