"""A registry on loopback that can be told to misbehave, request by request. Not for large images.

It speaks the distribution protocol with the standard library alone, so that a mistake in the client's HTTP
cannot hide here. ``on`` scripts what happens to the next requests for a path; every request is recorded.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.imagebuilder import OCI_INDEX, OCI_MANIFEST, BuiltImage, sha256


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    @property
    def offset(self) -> int:
        """Where the range that was asked for begins; 0 without one."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@dataclass
class Content:
    """What is stored under a path."""

    data: bytes
    type: str
    headers: dict[str, str] = field(default_factory=dict)


Action = Callable[["Handler", Content], None]


# --- faults -------------------------------------------------------------------------------------


def answer(status: int, body: bytes = b"", **headers: str) -> Action:
    """Another answer; header names have underscores for dashes."""

    def act(handler: Handler, content: Content) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.reply(status, body, {"Content-Type": "application/json", **named})

    return act


def error(status: int, code: str, message: str, **headers: str) -> Action:
    """The distribution spec's error document."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return answer(status, body, **headers)


def html(status: int = 200) -> Action:
    return answer(status, b"<!DOCTYPE html><title>Welcome</title>", Content_Type="text/html; charset=utf-8")


def redirect(location: str, status: int = 307) -> Action:
    return answer(status, b'<a href="elsewhere">moved</a>', Location=location)


def serve(handler: Handler, content: Content) -> None:
    """The right answer."""
    handler.serve(content)


def ignore_range(handler: Handler, content: Content) -> None:
    """The whole blob, whatever was asked for."""
    handler.reply(200, content.data, {"Content-Type": content.type})


def drop(after: int, *, resume: bool = True) -> Action:
    """The connection closes after so many bytes of the body; ``resume=False`` ignores ranges besides."""

    def act(handler: Handler, content: Content) -> None:
        if resume:
            handler.serve(content, stop=after)
        else:
            handler.reply(200, content.data, {"Content-Type": content.type}, stop=after)
        handler.close_connection = True

    return act


def slowly(seconds: float, *, wrong: bool = False) -> Action:
    """The whole answer, in pieces, over so many seconds; ``wrong``: its last byte is not the right one."""

    def act(handler: Handler, content: Content) -> None:
        data = bytearray(content.data)
        data[-1] ^= 0xFF if wrong else 0
        headers = {"Content-Type": content.type, "Content-Length": str(len(data))}
        handler.reply(200, None, headers)
        size = len(data) // 15 + 1
        for start in range(0, len(data), size):
            handler.wfile.write(data[start : start + size])
            handler.registry.stopping.wait(seconds / 15)

    return act


def stall(after: int) -> Action:
    """Nothing more comes after so many bytes, until the client goes or the server stops."""

    def act(handler: Handler, content: Content) -> None:
        handler.serve(content, stop=after)
        handler.registry.stopping.wait(10)
        handler.close_connection = True

    return act


def truncate(after: int) -> Action:
    """A body without a length that ends early as if that were all of it."""

    def act(handler: Handler, content: Content) -> None:
        handler.reply(200, None, {"Content-Type": content.type, "Connection": "close"})
        handler.wfile.write(content.data[:after])
        handler.close_connection = True

    return act


def chunked(handler: Handler, content: Content) -> None:
    """The right bytes without a length."""
    handler.reply(200, None, {"Content-Type": content.type, "Transfer-Encoding": "chunked"})
    for start in range(0, len(content.data), 1000):
        piece = content.data[start : start + 1000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def endless(prefix: bool = True) -> Action:
    """The right bytes, if ``prefix``, and then more without end."""

    def act(handler: Handler, content: Content) -> None:
        handler.reply(200, None, {"Content-Type": content.type, "Connection": "close"})
        try:
            handler.wfile.write(content.data if prefix else b"")
            for _ in range(1 << 14):
                handler.wfile.write(bytes(1 << 16))
                handler.registry.sent += 1 << 16
        except OSError:
            pass
        handler.close_connection = True

    return act


def corrupt(position: int) -> Action:
    """One byte is not what it should be."""

    def act(handler: Handler, content: Content) -> None:
        data = bytearray(content.data)
        data[position] ^= 0xFF
        handler.serve(Content(bytes(data), content.type))

    return act


def wrong_range(handler: Handler, content: Content) -> None:
    """A part, but not the one that was asked for."""
    if handler.request.offset == 0:
        return handler.serve(content)
    total = len(content.data)
    return handler.reply(206, content.data[1:], {"Content-Range": f"bytes 1-{total - 1}/{total}"})


# --- logging in ---------------------------------------------------------------------------------


@dataclass
class Auth:
    """How this registry wants its visitors; ``realm`` is filled in by the server."""

    scheme: str = "bearer"
    users: dict[str, str] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    anonymous: bool = True
    seconds: float = 60.0
    realm: str = ""
    challenge: str = ""
    issued: dict[str, tuple[str, float]] = field(default_factory=dict)

    def issue(self, scope: str) -> dict[str, Any]:
        token = f"secret-token-{len(self.issued)}"
        self.issued[token] = (scope, time.monotonic() + self.seconds)
        return {"token": token, "expires_in": self.seconds}

    def admits(self, header: str | None, repository: str) -> bool:
        kind, _, value = (header or "").partition(" ")
        if self.scheme == "basic":
            return kind == "Basic" and self.knows(value)
        scope, expires = self.issued.get(value, ("", 0.0))
        return kind == "Bearer" and scope == f"repository:{repository}:pull" and time.monotonic() < expires

    def knows(self, encoded: str) -> bool:
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user in self.users and self.users[user] == password


# --- the server ---------------------------------------------------------------------------------


class RegistryServer:
    """A registry at ``host`` (127.0.0.1 with a port); a context manager."""

    def __init__(self, *, auth: Auth | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.auth = auth
        self.requests: list[Request] = []
        self.sent = 0  # bytes of endless bodies
        self.connections = 0
        self.stopping = threading.Event()
        self._content: dict[str, Content] = {}
        self._script: list[tuple[str, list[Action], bool]] = []
        self._lock = threading.Lock()
        registry = self

        class Bound(Handler):
            pass

        Bound.registry = registry
        self._server = _Server(("127.0.0.1", 0), Bound)
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.scheme = "https" if tls else "http"
        if tls:
            self._server.tls = tls
        if auth and not auth.realm:
            auth.realm = f"{self.scheme}://{self.host}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> RegistryServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, image: BuiltImage, repository: str = "app", tag: str = "1") -> str:
        """Serve an image; returns a reference to it."""
        for digest, data in image.blobs.items():
            if digest != image.digest:
                self.blob(repository, data, digest)
        self.manifest(repository, image.manifest, image.manifest_media_type, tag)
        return f"{self.host}/{repository}:{tag}"

    def index(self, document: bytes, repository: str = "app", tag: str = "1", type: str = OCI_INDEX) -> str:
        """Serve an index; its images are added apart."""
        self.manifest(repository, document, type, tag)
        return f"{self.host}/{repository}:{tag}"

    def manifest(
        self, repository: str, data: bytes, type: str = OCI_MANIFEST, tag: str = "", digest: str = ""
    ) -> None:
        """Serve bytes as a manifest, by digest and by tag."""
        headers = {"Docker-Content-Digest": digest or sha256(data)}
        for name in filter(None, (tag, digest or sha256(data))):
            self._content[f"/v2/{repository}/manifests/{name}"] = Content(data, type, headers)

    def blob(self, repository: str, data: bytes, digest: str = "") -> None:
        """Serve bytes as a blob, under another digest if one is given."""
        path = f"/v2/{repository}/blobs/{digest or sha256(data)}"
        self._content[path] = Content(data, "application/octet-stream")

    def put(self, path: str, data: bytes, type: str = "application/octet-stream") -> str:
        """Serve bytes at any path; returns its URL."""
        self._content[path] = Content(data, type)
        return f"{self.scheme}://{self.host}{path}"

    def on(self, part: str, *actions: Action, always: bool = False) -> None:
        """Do this to the next requests whose path holds ``part``; the last one for ever if ``always``."""
        self._script.append((part, list(actions), always))

    def count(self, part: str) -> int:
        """How many requests there were whose path holds ``part``."""
        return sum(part in request.path for request in self.requests)

    def action(self, path: str) -> Action:
        """What happens to this request."""
        with self._lock:
            for part, actions, always in self._script:
                if part in path and actions:
                    return actions[0] if always and len(actions) == 1 else actions.pop(0)
        return serve

    def content(self, path: str) -> Content | None:
        """What is stored under a path."""
        return self._content.get(path)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    request_queue_size = 64
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(5)
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        try:
            super().finish_request(request, client_address)
        finally:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what half of the tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One connection; ``registry`` is set by the server that it belongs to."""

    registry: RegistryServer
    request: Request  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    timeout = 5
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.registry.connections += 1

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request = Request(self.command, self.path, headers, self.rfile.read(length))
        self.registry.requests.append(self.request)
        path = urlsplit(self.path).path
        missing = Content(b"", "application/json")
        action = self.registry.action(self.path)
        if action is not serve:
            return action(self, self.registry.content(path) or missing)
        auth = self.registry.auth
        if auth and path == "/token":
            return self._token(auth)
        if auth and path.startswith("/v2/"):
            repository = path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
            if not auth.admits(self.request.authorization, repository):
                challenge = auth.challenge or (
                    'Basic realm="the registry"'
                    if auth.scheme == "basic"
                    else f'Bearer realm="{auth.realm}",service="test",scope="repository:{repository}:pull"'
                )
                return error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)(
                    self, missing
                )
        content = self.registry.content(path)
        if content is None:
            code = "MANIFEST_UNKNOWN" if "/manifests/" in path else "BLOB_UNKNOWN"
            return error(404, code, "unknown to registry")(self, missing)
        return self.serve(content)

    def _token(self, auth: Auth) -> None:
        missing = Content(b"", "")
        if self.command == "POST":
            form = {name: values[0] for name, values in parse_qs(self.request.body.decode()).items()}
            if form.get("refresh_token") not in auth.refresh_tokens:
                return answer(401, b'{"error":"invalid_grant"}')(self, missing)
            issued = auth.issue(form["scope"])
            return answer(200, json.dumps({"access_token": issued["token"]}).encode())(self, missing)
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        kind, _, value = (self.request.authorization or "").partition(" ")
        if not auth.knows(value) if kind == "Basic" else not auth.anonymous:
            return answer(401, b'{"details":"incorrect username or password"}')(self, missing)
        return answer(200, json.dumps(auth.issue(query["scope"])).encode())(self, missing)

    def serve(self, content: Content, stop: int | None = None) -> None:
        """The content, or the range of it that was asked for; ``stop`` bytes of it only if given."""
        headers = {"Content-Type": content.type, **content.headers}
        offset, total = self.request.offset, len(content.data)
        if offset == 0:
            return self.reply(200, content.data, headers, stop)
        if offset >= total:
            return self.reply(416, b"", {"Content-Range": f"bytes */{total}"})
        headers["Content-Range"] = f"bytes {offset}-{total - 1}/{total}"
        return self.reply(206, content.data[offset:], headers, stop)

    def reply(
        self, status: int, body: bytes | None, headers: Mapping[str, str], stop: int | None = None
    ) -> None:
        """Status, headers, and the body unless it is None and the caller writes it."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is not None and "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is not None:
            self.wfile.write(body if stop is None else body[:stop])
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


def self_signed(openssl: str, folder: Path) -> Path:
    """A certificate for 127.0.0.1 and registry.test that nobody knows, with its key in one file."""
    key, certificate, both = (folder / f"{name}.pem" for name in ("key", "certificate", "both"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    names = ("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:registry.test")
    command = [openssl, "req", "-x509", *curve, "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both
