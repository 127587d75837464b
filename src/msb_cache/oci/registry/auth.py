"""Logging in to a registry: challenges, and the tokens a token server gives. Not for finding credentials.

Sources: RFC 9110 (11.6.1, WWW-Authenticate), RFC 7617 (Basic), RFC 6750 (Bearer) and the distribution
project's "Token Authentication" and "OAuth2 Token Authentication". Only what a pull needs is asked for.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlencode, urlsplit

import msgspec

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.errors import (
    MAX_ERROR_BYTES,
    TransientError,
    error_detail,
    html_problem,
    in_parentheses,
    is_html,
    retry_after,
)
from msb_cache.oci.registry.http import Answer, Transport

MAX_CHALLENGE_CHARACTERS = 16 << 10
MAX_TOKEN_BYTES = 64 << 10
#: What a token without ``expires_in`` lasts, in seconds ("Token Authentication": at least 60).
DEFAULT_TOKEN_SECONDS = 60.0
#: A token is given up this long before it expires, so that it does not expire on the way.
_MARGIN_SECONDS = 5.0

_PART = re.compile(r"""[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?""")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in that a 401 offers; scheme and parameter names are in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(header: str | None) -> list[Challenge]:
    """The challenges in a WWW-Authenticate header, in order; what cannot be read ends the list."""
    text = (header or "")[:MAX_CHALLENGE_CHARACTERS]
    found: list[Challenge] = []
    position = 0
    while match := _PART.match(text, position):
        position = match.end()
        name, quoted, plain = match.groups()
        if quoted is None and plain is None:
            found.append(Challenge(name.lower(), {}))
        elif found:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
    return found


class _TokenAnswer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class _Authorization:
    header: str
    expires: float  # of time.monotonic


class Authorizer:
    """The Authorization headers for one registry's repositories; used from several threads.

    A header is kept for each repository until it expires or the registry refuses it.
    """

    def __init__(self, transport: Transport, registry: str, credential: Credential | None) -> None:
        self._transport = transport
        self._registry = registry
        self._credential = credential or Credential()
        self._known: dict[str, _Authorization] = {}
        self._secrets: set[str] = set()
        self._lock = threading.Lock()
        self._keep_secret(self._credential.password, self._credential.identity_token)

    def header(self, repository: str) -> str | None:
        """The header to send for a repository, or None while none is known to be needed."""
        known = self._known.get(repository)
        return known.header if known is not None and time.monotonic() < known.expires else None

    def renew(self, repository: str, challenges: list[Challenge], rejected: str | None) -> str:
        """A header in place of the ``rejected`` one; raises ImagePullFailedError or TransientError."""
        with self._lock:
            current = self.header(repository)
            if current is not None and current != rejected:
                return current  # another thread was faster
            self._known.pop(repository, None)
            found = self._authorize(repository, challenges)
            if found.header == rejected:
                self.refuse(repository)
            self._known[repository] = found
            return found.header

    def refuse(self, repository: str) -> NoReturn:
        """Raise for a registry that does not let this login, or none, at a repository."""
        name = f"{self._registry}/{repository}"
        if self._user is None:
            raise ImagePullFailedError(
                f"{name} does not exist or needs a login: check the name, or log in with {self._login}"
            )
        raise ImagePullFailedError(
            f"{name} does not exist or {self._user} may not pull it: "
            f"check the name, or log in as somebody else with {self._login}"
        )

    def redact(self, text: str) -> str:
        """A registry's text without any secret that was sent to it."""
        for secret in tuple(self._secrets):
            text = text.replace(secret, "…")
        return text

    @property
    def _user(self) -> str | None:
        if self._credential.identity_token:
            return "the owner of the login"
        return shown(self._credential.username) if self._credential.password else None

    @property
    def _login(self) -> str:
        return "'docker login'" if self._registry == "docker.io" else f"'docker login {self._registry}'"

    @property
    def _basic(self) -> str | None:
        login = self._credential
        if not login.password:
            return None
        encoded = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        self._keep_secret(encoded)
        return f"Basic {encoded}"

    def _keep_secret(self, *texts: str) -> None:
        self._secrets.update(text for text in texts if text)

    def _authorize(self, repository: str, challenges: list[Challenge]) -> _Authorization:
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return self._bearer(repository, challenge.parameters)
        if not any(challenge.scheme == "basic" for challenge in challenges):
            raise ImagePullFailedError(
                f"{self._registry} asks for a login of an unknown kind; tell who runs it"
            )
        if self._basic is None:
            self.refuse(repository)
        return _Authorization(self._basic, float("inf"))

    def _bearer(self, repository: str, parameters: dict[str, str]) -> _Authorization:
        realm = self._realm(parameters["realm"])
        query = {"scope": parameters.get("scope") or f"repository:{repository}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        asked = time.monotonic()
        if self._credential.identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": "msb-cache",
                "refresh_token": self._credential.identity_token,
            }
            answer = self._transport.fetch(realm, {}, urlencode(form).encode())
        else:
            basic = self._basic
            headers = {} if basic is None else {"Authorization": basic}
            separator = "&" if urlsplit(realm).query else "?"
            answer = self._transport.fetch(f"{realm}{separator}{urlencode(query)}", headers)
        try:
            found = self._token(answer, repository)
        finally:
            answer.close()
        token = found.token or found.access_token or ""
        if not _TOKEN.fullmatch(token):
            raise ImagePullFailedError(f"{answer.host} gives no token that can be used; tell who runs it")
        self._keep_secret(token)
        seconds = DEFAULT_TOKEN_SECONDS if found.expires_in is None else found.expires_in
        return _Authorization(f"Bearer {token}", asked + seconds - _MARGIN_SECONDS)

    def _realm(self, text: str) -> str:
        try:
            realm = urlsplit(text)._replace(fragment="")
            sound = bool(realm.hostname and realm.port != 0 and "@" not in realm.netloc)
        except ValueError:
            sound = False
        if not sound or realm.scheme not in ("http", "https"):
            raise ImagePullFailedError(
                f"{self._registry} names a token server that is no web address; tell who runs it"
            )
        if realm.scheme == "http" and not self._transport.plain:
            raise ImagePullFailedError(
                f"{self._registry} names a token server without TLS, which is refused: "
                f"{shown(realm.netloc)[1:-1]}; tell who runs it"
            )
        return realm.geturl()

    def _token(self, answer: Answer, repository: str) -> _TokenAnswer:
        host, status = answer.host, answer.status
        if status != 200:
            body = answer.read_all(MAX_ERROR_BYTES) or b""
            said = in_parentheses(self.redact(error_detail(body)))
            if status in (408, 425, 429) or status >= 500:
                raise TransientError(
                    f"the token server {host} answers {status}{said}; try again later",
                    retry_after(answer.header("retry-after")),
                )
            if status in (400, 401, 403):
                if self._user is None:
                    self.refuse(repository)
                raise ImagePullFailedError(
                    f"{host} refuses the login of {self._user}{said}: log in again with {self._login}"
                )
            raise ImagePullFailedError(f"the token server {host} answers {status}{said}; tell who runs it")
        if is_html(answer.content_type):
            raise ImagePullFailedError(html_problem(host))
        data = answer.read_all(MAX_TOKEN_BYTES)
        if data is None:
            raise ImagePullFailedError(
                f"the token server {host} answers with more than {MAX_TOKEN_BYTES} bytes"
            )
        try:
            return msgspec.json.decode(data, type=_TokenAnswer)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise ImagePullFailedError(
                f"the token server {host} answers with no token; tell who runs it"
            ) from None
