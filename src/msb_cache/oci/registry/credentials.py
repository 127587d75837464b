"""Finding a person's login for a registry where Docker and Podman keep it. Not for using or storing one.

Sources: docker/cli's ``config.json`` (``auths``, ``credHelpers``, ``credsStore``), the protocol of
docker-credential-helpers, and containers-auth.json(5). Nothing here puts a secret into a message.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from msb_cache.errors import InvalidConfigError
from msb_cache.oci.digest import shown
from msb_cache.waiting import SAY_AFTER, Note

#: Docker Hub's name in every configuration file, for historical reasons.
DOCKER_HUB_KEY = "https://index.docker.io/v1/"
HELPER_SECONDS = 60.0
MAX_HELPER_BYTES = 64 << 10
MAX_FILE_BYTES = 4 << 20

_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HUB_HOSTS = ("index.docker.io", "docker.io", "registry-1.docker.io")
_Entry = TypeVar("_Entry")
_IDENTITY_USER = "<token>"
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True, slots=True)
class Credential:
    """A login: a user name with a password, or an identity token (OAuth2 refresh token) instead of one."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class _Login(msgspec.Struct, rename={"identity_token": "identitytoken"}):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identity_token: str | None = None


class _LoginFile(msgspec.Struct, rename="camel"):
    auths: dict[str, _Login | None] | None = None
    cred_helpers: dict[str, str] | None = None
    creds_store: str | None = None


class _Helped(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


def find_credential(
    registry: str,
    *,
    explicit: Credential | None = None,
    environ: Mapping[str, str] = os.environ,
    note: Note | None = None,
) -> Credential | None:
    """The login for a registry (``docker.io``, ``registry.example:5000``), or None to go without one.

    ``explicit`` wins; then the file that REGISTRY_AUTH_FILE names, then ``config.json`` in DOCKER_CONFIG or
    ``~/.docker``. In each file a credential helper comes before what is written in it. ``note`` is told when
    one takes longer than a second. Raises
    InvalidConfigError when a file or helper that should answer for the registry cannot.
    """
    if explicit is not None:
        return explicit
    keys = _keys(registry)
    for path in _files(environ):
        document = _read(path)
        if document is None:
            continue
        helper = _match(document.cred_helpers or {}, keys) or document.creds_store
        found = _ask(helper, keys[0], path, environ, note) if helper else None
        login = _match(document.auths or {}, keys)
        if found is None and login is not None:
            found = _decoded(login, registry, path)
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("REGISTRY_AUTH_FILE"):
        yield Path(environ["REGISTRY_AUTH_FILE"])
    if environ.get("DOCKER_CONFIG"):
        yield Path(environ["DOCKER_CONFIG"]) / "config.json"
    elif environ.get("HOME"):
        yield Path(environ["HOME"]) / ".docker" / "config.json"


def _keys(registry: str) -> tuple[str, ...]:
    """The registry's names in a file; the first is the one helpers are asked for."""
    if registry in _HUB_HOSTS:
        return (DOCKER_HUB_KEY, *_HUB_HOSTS)
    return (registry,)


def _match(entries: Mapping[str, _Entry], keys: tuple[str, ...]) -> _Entry | None:
    """The entry of a key as it stands, else of one that is the same host, as in ``https://host/v1/``."""
    for key in keys:
        if key in entries:
            return entries[key]
    hosts = {re.sub(r"^https?://", "", key).partition("/")[0].lower() for key in keys}
    for name, entry in entries.items():
        host, slash, path = re.sub(r"^https?://", "", name).partition("/")
        # A path other than the API's is Podman's entry for one namespace, which says nothing of the others.
        if host.lower() in hosts and (not slash or path in ("", "v1", "v1/", "v2", "v2/")):
            return entry
    return None


def _read(path: Path) -> _LoginFile | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidConfigError(
            f"the logins in {path} cannot be read ({error.strerror}): make it readable or remove it"
        ) from None
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError
        return msgspec.json.decode(data, type=_LoginFile) if data.strip() else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidConfigError(
            f"the logins in {path} cannot be read: it is not the JSON that 'docker login' writes"
        ) from None


def _decoded(login: _Login, registry: str, path: Path) -> Credential | None:
    username, password = login.username or "", login.password or ""
    if login.auth:
        try:
            text = base64.b64decode(login.auth, validate=True).decode()
        except (binascii.Error, ValueError):
            text = ""
        username, colon, password = text.partition(":")
        if not colon:
            raise InvalidConfigError(
                f"the login for {registry} in {path} is damaged: run 'docker login {registry}' again"
            )
        password = password.rstrip("\0")
    if login.identity_token:
        return Credential(username, "", login.identity_token)
    return Credential(username, password) if username and password else None


def _ask(
    helper: str, key: str, path: Path, environ: Mapping[str, str], note: Note | None
) -> Credential | None:
    """Run ``docker-credential-<helper> get``; None when it knows no login for the key."""
    if not _HELPER_NAME.fullmatch(helper):
        raise InvalidConfigError(
            f"{path} names the credential helper {shown(helper)}, which is not a helper's name: correct it"
        )
    name = f"docker-credential-{helper}"
    program = shutil.which(name, path=environ.get("PATH", os.defpath))
    if program is None:
        raise InvalidConfigError(
            f"{path} asks for {name}, which is not installed: install it or remove the entry"
        )
    timer = threading.Timer(SAY_AFTER, note or str, (f"waiting for {name}, which {path} asks for",))
    timer.daemon = True
    timer.start()
    try:
        status, output = _run(program, key, environ, f"{name}, which {path} asks for,")
    finally:
        timer.cancel()
    if status != 0:
        if _NOT_FOUND in output.decode("utf-8", "replace"):
            return None
        raise InvalidConfigError(f"{name}, which {path} asks for, failed: run it, or remove the entry")
    try:
        found = msgspec.json.decode(output, type=_Helped)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidConfigError(
            f"{name}, which {path} asks for, answers no login: update or remove it"
        ) from None
    if found.username == _IDENTITY_USER:
        return Credential("", "", found.secret)
    return Credential(found.username, found.secret) if found.secret else None


def _run(program: str, text: str, environ: Mapping[str, str], what: str) -> tuple[int, bytes]:
    """Exit status and standard output of a helper that is given ``text``, within bounds."""
    deadline = time.monotonic() + HELPER_SECONDS
    output = b""
    with subprocess.Popen(
        [program, "get"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=dict(environ),
    ) as process:
        if process.stdin is None or process.stdout is None:  # never: both are pipes
            raise AssertionError
        try:
            try:
                process.stdin.write(text.encode())
                process.stdin.close()
            except BrokenPipeError:
                pass
            ready = select.poll()
            ready.register(process.stdout, select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not ready.poll(left * 1000):
                    raise InvalidConfigError(f"{what} did not answer within {HELPER_SECONDS:.0f} seconds")
                data = process.stdout.read(MAX_HELPER_BYTES)
                if not data:
                    break
                output += data
                if len(output) > MAX_HELPER_BYTES:
                    raise InvalidConfigError(f"{what} answers more than a login: update or remove it")
            return process.wait(max(deadline - time.monotonic(), 0.1)), output
        except subprocess.TimeoutExpired:
            raise InvalidConfigError(f"{what} did not end within {HELPER_SECONDS:.0f} seconds") from None
        finally:
            process.kill()
