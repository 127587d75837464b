"""Who may ask, and what: the check of every request before anything is read, and the headers of every answer.

A home is its user's alone (0700), while a port of the loopback is open to every user of the machine and, by
DNS rebinding, to every page in a browser there. docs/serve.md has the threat model that this carries out.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msb_cache.errors import InvalidConfigError
from msb_cache.web.problems import RefusedError, problem

MOST_HEADERS = 64
MOST_HEADER_BYTES = 16 * 1024
LONGEST_PATH = 2048
LONGEST_QUERY = 4096

SHORTEST_TOKEN = 32
"""Characters. What is generated has 43 of base64, which are 256 random bits."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9._-]{0,252}))(?::([0-9]{1,5}))?")
_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{SHORTEST_TOKEN},512}}")
_METHODS = ("GET", "HEAD")
_SAFE_SITES = (b"same-origin", b"none")
_COOKIE_FOR = b"msb-cache serve: cookie"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer has, where it has nothing of its own."""


class Host(NamedTuple):
    """What a ``Host`` header names; ``port`` is None where it names none."""

    name: str
    port: int | None


class Access(Struct, frozen=True, kw_only=True):
    """Who may ask.

    Attributes:
        token: what has to be shown, as ``?token=`` once, as the cookie that this gives, or as a bearer's;
            None: nothing, because only those can connect who may ask, as with a Unix socket of mode 0600.
        hosts: the names and addresses by which the server may be called; port None: with any.
        any_address: with these ports any literal IP address will do, too: no page can be made to have one
            that is not its own.
        cookie: the cookie's name. Cookies are not kept apart by port, so the port stands in it.

    Raises:
        InvalidConfigError: the token is too short, or has other characters than letters, digits and ``._~-``.
    """

    token: str | None
    hosts: frozenset[Host]
    any_address: frozenset[int] = frozenset()
    cookie: str = "msb-cache"

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise InvalidConfigError(
                f"a token has {SHORTEST_TOKEN} to 512 letters, digits and any of ._~- and this one has not; "
                "delete its file, and a new one is made"
            )

    @classmethod
    def of_address(cls, host: str, port: int, token: str, *, allow: Iterable[str] = ()) -> Access:
        """Return the access to a server that listens on an address.

        Args:
            host: the address that is listened on.
            port: its port.
            token: what has to be shown.
            allow: other names by which it is called, each with a port or, for any port, without.
        """
        names = {*_LOOPBACK, f"[{host}]" if ":" in host else host}
        ports = (port, None) if port == 80 else (port,)  # a browser leaves out that one
        hosts = {Host(name, each) for name in names for each in ports}
        every = ipaddress.ip_address(host).is_unspecified
        return cls(
            token=token,
            hosts=frozenset(hosts | {*map(_allowed, allow)}),
            any_address=frozenset([port]) if every else frozenset(),
            cookie=f"msb-cache-{port}",
        )

    @classmethod
    def of_socket(cls, *, allow: Iterable[str] = ()) -> Access:
        """Return the access to a server on a Unix socket, which only its user can connect to.

        A browser reaches it through a port that something forwards, whose number is not known here.
        """
        hosts = {Host(name, None) for name in _LOOPBACK}
        return cls(token=None, hosts=frozenset(hosts | {*map(_allowed, allow)}))

    def check(self, scope: Scope) -> None:
        """Refuse a request by what it is and where it comes from, whoever sends it.

        Raises:
            RefusedError: it is too large, does more than read, or comes from another page.
        """
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        _check_size(scope, headers)
        if scope["method"] not in _METHODS:
            raise RefusedError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "this server only reads: it answers GET and HEAD",
                "method-not-allowed",
                {"Allow": ", ".join(_METHODS)},
            )
        named = [*_values(headers, b"host")]
        if len(named) != 1 or not self._calls_us(named[0]):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "this server does not answer to the name that it was called by; use the address that it "
                "printed, or start it with --allow-host NAME",
                "wrong-host",
            )
        own = {b"http://" + named[0].lower(), b"https://" + named[0].lower()}
        origins, sites = _values(headers, b"origin"), _values(headers, b"sec-fetch-site")
        if any(each.lower() not in own for each in origins) or any(each not in _SAFE_SITES for each in sites):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "another page asked for this; type the address, or follow it from the terminal",
                "another-origin",
            )

    def login(self, scope: Scope) -> Response | None:
        """Return the answer to a visit with ``?token=``: the cookie, and the same page without the token.

        Raises:
            RefusedError: the token is wrong.
        """
        if self.token is None or not scope["query_string"]:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if not given:
            return None
        if len(given) > 1 or not _same(given[0], self.token):
            raise _stranger()
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        answer = RedirectResponse(f"./?{rest}" if rest else "./", HTTPStatus.SEE_OTHER)
        answer.set_cookie(
            self.cookie, self._session, httponly=True, samesite="strict", path="/", secure=_is_secure(scope)
        )
        return answer

    def admit(self, scope: Scope) -> None:
        """Refuse a request that shows no token.

        Raises:
            RefusedError: it has neither the cookie nor a bearer's token, or a wrong one.
        """
        if self.token is None:
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        for value in _values(headers, b"authorization"):
            kind, _, token = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer" and _same(token.strip(), self.token):
                return
        for value in _values(headers, b"cookie"):
            # Other servers of this machine can have set one of this name; any that is right will do.
            if any(_same(each, self._session) for each in _cookies(value, self.cookie)):
                return
        raise _stranger()

    def _calls_us(self, value: bytes) -> bool:
        found = _HOST.fullmatch(value.decode("latin-1").lower())
        if found is None:
            return False
        name, port = found[1], None if found[2] is None else int(found[2])
        if Host(name, port) in self.hosts or Host(name, None) in self.hosts:
            return True
        return port in self.any_address and _is_address(name)

    @property
    def _session(self) -> str:
        """What the cookie holds: it follows from the token, and does not tell it."""
        assert self.token is not None  # noqa: S101
        return hmac.new(self.token.encode(), _COOKIE_FOR, hashlib.sha256).hexdigest()


class Guard:
    """An application behind its access: what does not pass gets no further."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app
        try:
            self._access.check(scope)
            login = self._access.login(scope) if _is_front(scope) else None
            if login is None:
                self._access.admit(scope)
            else:
                app = login
        except RefusedError as error:
            app = problem(scope, error)
        await app(scope, receive, send_guarded)


def _is_front(scope: Scope) -> bool:
    """Return whether it is the page that is asked for, wherever the server is mounted."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    return path.removeprefix(root) in ("", "/")


def _check_size(scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
    if (
        len(scope.get("raw_path") or scope["path"]) > LONGEST_PATH
        or len(scope["query_string"]) > LONGEST_QUERY
    ):
        raise RefusedError(
            HTTPStatus.REQUEST_URI_TOO_LONG,
            f"a path has at most {LONGEST_PATH} bytes here, and a query {LONGEST_QUERY}",
            "uri-too-long",
        )
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MOST_HEADERS or size > MOST_HEADER_BYTES:
        raise RefusedError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"a request has at most {MOST_HEADERS} headers here, and {MOST_HEADER_BYTES} bytes of them",
            "headers-too-large",
        )
    lengths = [*_values(headers, b"content-length")]
    if any(each != b"0" for each in lengths) or any(_values(headers, b"transfer-encoding")):
        raise RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a request has no body here", "body", {"Connection": "close"}
        )


def _allowed(text: str) -> Host:
    found = _HOST.fullmatch(text.lower())
    if found is None:
        raise InvalidConfigError(
            f"{text!r} is no name of a host, such as cache.example.org or 192.0.2.1:8080"
        )
    return Host(found[1], None if found[2] is None else int(found[2]))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_secure(scope: Scope) -> bool:
    """Return whether the browser came by TLS; a proxy's word will do, as only a cookie hangs on it."""
    forwarded = [*_values(scope["headers"], b"x-forwarded-proto")]
    return scope["scheme"] == "https" or forwarded == [b"https"]


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> Iterator[bytes]:
    return (value for each, value in headers if each == name)


def _cookies(header: bytes, name: str) -> Iterator[str]:
    """Yield the values of a cookie; those of others need not be well-formed."""
    for part in header.decode("latin-1").split(";"):
        each, _, value = part.strip().partition("=")
        if each == name:
            yield value


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _stranger() -> RefusedError:
    return RefusedError(
        HTTPStatus.UNAUTHORIZED,
        "this needs the token: open the address that `msb-cache serve` printed, or send it as "
        "`Authorization: Bearer TOKEN`",
        "unauthorized",
        {"WWW-Authenticate": 'Bearer realm="msb-cache"'},
    )
