"""HTTP to one registry: http or https, redirects, and what a broken connection means.

Not for connections themselves, for logins, for what a status means to a pull, or for trying again:
a failure that may pass is a TransientError, any other an ImagePullFailedError.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3 import exceptions as http_errors

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.errors import MAX_ERROR_BYTES, TransientError
from msb_cache.oci.registry.network import Network
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.oci.registry.pools import Pools
from msb_cache.oci.registry.proxy import is_loopback
from msb_cache.waiting import Note

MAX_REDIRECTS = 5
MAX_URL_CHARACTERS = 16 << 10
#: A document must arrive within this many timeouts, however steadily it trickles.
DOCUMENT_TIMEOUTS = 4
_CHUNK_BYTES = 128 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OTHER_PROTOCOL = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")


class Answer:
    """An answer whose status and headers have arrived; its body is read on, then it is closed.

    ``host`` is who answered; ``redirected`` says that it is not the registry.
    """

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        url: SplitResult,
        redirected: bool,
        network: Network,
        seconds: float,
    ):
        self._response = response
        self._network = network
        self._seconds = seconds
        self.host = _named(url)
        self.redirected = redirected
        self.status = response.status
        self.content_type = response.headers.get("content-type", "")

    def header(self, name: str) -> str | None:
        """A header's value; several are joined with commas."""
        return self._response.headers.get(name)

    @property
    def length(self) -> int | None:
        """How many bytes the body has, or None when the answer does not say."""
        if self.status == 204:
            return 0  # it has none, and no Content-Length either
        if "transfer-encoding" in self._response.headers:
            return None  # it ends where its chunks say so, whatever else stands there
        text = self._response.headers.get("content-length", "")
        return int(text[:19]) if text.isascii() and text.isdecimal() else None

    def read(self, size: int) -> bytes:
        """What one wait brings, at most ``size`` bytes; none at the end. Raises TransientError."""
        self._network.begin(self.host, "send more")
        try:
            return self._response.read1(size, decode_content=False)[:size]
        except (http_errors.HTTPError, OSError, ValueError) as error:
            raise _failure(error, self.host, self._seconds, answered=True) from None

    def read_all(self, limit: int) -> bytes | None:
        """The whole body, or None when it is longer than ``limit`` bytes. Raises TransientError."""
        if (self.length or 0) > limit:
            return None
        deadline = time.monotonic() + DOCUMENT_TIMEOUTS * self._seconds
        parts: list[bytes] = []
        while data := self.read(min(_CHUNK_BYTES, limit + 1)):
            parts.append(data)
            limit -= len(data)
            if limit < 0:
                return None
            if time.monotonic() > deadline:
                raise TransientError(f"{self.host} answers too slowly; try again later")
        return b"".join(parts)

    def discard(self) -> None:
        """Close an answer whose body does not matter, keeping the connection if the body is short."""
        try:
            if self.length is not None and self.length <= MAX_ERROR_BYTES:
                self.read_all(MAX_ERROR_BYTES)
        except TransientError:
            pass
        self.close()

    def close(self) -> None:
        """Give the connection back for further requests if nothing is left on it, else end it."""
        length = self.length
        if length is not None and length - self._response.tell() <= 0:
            self._response.drain_conn()
            self._response.release_conn()
        else:
            self._response.close()


class Transport:
    """Sends requests to one registry and to where it points; used from several threads.

    A registry on loopback is tried in plain HTTP first and with verified TLS then, any other with TLS; with
    ``insecure``, TLS is not verified and plain HTTP is tried where there is none. What answers first stays.
    """

    def __init__(self, host: str, options: RegistryOptions, note: Note | None = None) -> None:
        self._host = host
        self._options = options
        self._network = Network(host, options.timeout, note)
        self._scheme: str | None = None
        self._schemes = _schemes(host, options.insecure)
        self._pools = Pools(
            self._network,
            timeout=options.timeout,
            ca_certs=options.ca_certs,
            insecure=options.insecure,
            judged=True,
        )
        self._answered: set[str] = set()

    @property
    def plain(self) -> bool:
        """Whether the registry is reached without TLS."""
        return self._scheme == "http"

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """GET a path of the registry, following redirects."""
        if self._scheme is not None:
            return self._follow(f"{self._scheme}://{self._host}{path}", headers)
        first: TransientError | ImagePullFailedError | None = None
        for scheme in self._schemes:
            try:
                answer = self._follow(f"{scheme}://{self._host}{path}", headers)
            except (TransientError, _Unreachable) as error:
                first = first or error
                continue
            # Servers that expect TLS answer a plain request so; a registry never answers a GET with 400.
            if scheme == "http" and answer.status == 400 and first is None and len(self._schemes) > 1:
                answer.discard()
                first = ImagePullFailedError(f"{self._host} refuses plain HTTP; check the registry's name")
                continue
            self._scheme = scheme
            return answer
        raise first or AssertionError()

    def fetch(self, url: str, headers: Mapping[str, str], form: bytes | None = None) -> Answer:
        """GET any URL, following redirects, or POST a form to it, following none."""
        if form is None:
            return self._follow(url, headers)
        return self._send(url, {**headers, "Content-Type": "application/x-www-form-urlencoded"}, False, form)

    def close(self) -> None:
        """Close idle connections, and end what other threads wait for."""
        self._network.close()
        self._pools.close()

    def _follow(self, url: str, headers: Mapping[str, str]) -> Answer:
        seen = {url}
        redirected = False
        while True:
            answer = self._send(url, headers, redirected, None)
            if answer.status not in _REDIRECTS:
                return answer
            answer.discard()
            target = self._target(url, answer.header("location"))
            if target in seen:
                raise ImagePullFailedError(f"{answer.host} redirects in a circle; tell who runs {self._host}")
            if len(seen) > MAX_REDIRECTS:
                raise ImagePullFailedError(
                    f"{self._host} redirects more than {MAX_REDIRECTS} times; tell who runs it"
                )
            seen.add(target)
            if _origin(target) != _origin(url):
                # The login is for the registry. It is not taken up again if the way leads back.
                headers = {name: text for name, text in headers.items() if name != "Authorization"}
                redirected = True
            url = target

    def _target(self, url: str, location: str | None) -> str:
        here, host = urlsplit(url), _named(urlsplit(url))
        try:
            target = urlsplit(urljoin(url, location or ""))._replace(fragment="")
            sound = bool(location and target.hostname and target.port != 0 and "@" not in target.netloc)
        except ValueError:
            sound = False
        if not sound or len(location or "") > MAX_URL_CHARACTERS or target.scheme not in ("http", "https"):
            raise ImagePullFailedError(f"{host} redirects to what is no web address; tell who runs it")
        if here.scheme == "https" and target.scheme == "http" and not self._options.insecure:
            raise ImagePullFailedError(
                f"{host} redirects to plain HTTP at {_named(target)}, which is refused; "
                "allow insecure connections if you trust the network"
            )
        return target.geturl()

    def _send(self, url: str, headers: Mapping[str, str], redirected: bool, form: bytes | None) -> Answer:
        parts = urlsplit(url)
        method = "GET" if form is None else "POST"
        try:
            response = self._pools.request(method, url, headers, form)
        except (http_errors.HTTPError, OSError, ValueError) as error:
            answered = redirected or parts.netloc in self._answered
            raise _failure(error, _named(parts), self._options.timeout, answered) from None
        self._answered.add(parts.netloc)
        return Answer(response, parts, redirected, self._network, self._options.timeout)


class _Unreachable(ImagePullFailedError):
    """Nothing that speaks this protocol answers there; another scheme may be answered."""


def _schemes(host: str, insecure: bool) -> tuple[str, ...]:
    if is_loopback(host):
        return ("http", "https")
    return ("https", "http") if insecure else ("https",)


def _named(url: SplitResult) -> str:
    """A host as a message shows it: a redirect may lead to any text."""
    return shown(url.netloc)[1:-1]


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443}.get(parts.scheme, 80)


def _failure(error: Exception, host: str, seconds: float, answered: bool) -> Exception:
    """What a failed exchange means; urllib3's own texts are not used, for they can hold whole URLs."""
    if isinstance(error, http_errors.ProxyError):
        return TransientError(f"the proxy for {host} does not let the connection through; check HTTPS_PROXY")
    if isinstance(error, http_errors.SSLError):
        return _tls_failure(error.args[0] if error.args else None, host)
    if isinstance(error, http_errors.NameResolutionError):
        problem = f"the host {host} is not known; check the registry's name and the network"
        return TransientError(problem) if answered else _Unreachable(problem)
    if isinstance(error, http_errors.NewConnectionError | http_errors.ConnectTimeoutError):
        cause = error.__cause__
        reason = (cause.strerror if isinstance(cause, OSError) else None) or f"no answer in {seconds:g} s"
        problem = f"{host} cannot be reached ({reason}); check the registry's name and that it runs"
        return TransientError(problem) if answered else _Unreachable(problem)
    if isinstance(error, http_errors.TimeoutError | TimeoutError):
        return TransientError(
            f"{host} does not answer within {seconds:g} seconds; check the network and try again"
        )
    if isinstance(error, http_errors.ProtocolError | OSError):
        return TransientError(f"the connection to {host} broke off; check the network and try again")
    return ImagePullFailedError(f"{host} does not answer in proper HTTP; check the registry's name")


def _tls_failure(error: object, host: str) -> Exception:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ImagePullFailedError(
            f"the certificate of {host} is not trusted ({error.verify_message}); "
            "name the authority that signed it, or allow insecure connections if you trust the network"
        )
    if isinstance(error, ssl.SSLError) and error.reason in _OTHER_PROTOCOL:
        return _Unreachable(f"{host} does not speak TLS; allow insecure connections if plain HTTP is meant")
    return TransientError(f"no secure connection to {host} comes about; check the network and try again")
