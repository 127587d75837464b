"""Where events are posted to, with what that needs: secrets, headers, authorities. Not for sending anything.

What is secret comes from a file that nobody else can read, or from the environment, and is in no message.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msb_cache.errors import InvalidConfigError
from msb_cache.oci.registry.address import web_address
from msb_cache.oci.registry.proxy import is_loopback
from msb_cache.ownership import is_readable_by_others
from msb_cache.wording import reason_of

SECRET_VARIABLE = "MSB_CACHE_POST_SECRET"  # noqa: S105
"""The environment variable that has the secrets, one a line."""

LEAST_KEY_BYTES = 24
"""What Standard Webhooks asks for at least."""

_PREFIX = "whsec_"
_MOST_SECRETS = 4
_MOST_FILE_BYTES = 16 << 10
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OWN_HEADERS = frozenset(
    {
        *("connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    }
)


@dataclass(frozen=True, slots=True)
class WebhookReceiver:
    """Who gets events, and how it is reached. Nothing but ``name`` is shown of it, also by ``repr``.

    Attributes:
        url: where each request goes: ``https``, or ``http`` on this machine. A login has no place in it.
        secrets: each request is signed with all of them, so that one can be replaced by another in peace:
            ``whsec_`` and base64, or any text, of at least 24 bytes.
        headers: sent with each request, such as ``Authorization``.
        ca_certs: a PEM file of authorities that are trusted beside the system's.
        insecure: accept any certificate, and plain HTTP to any machine.
        timeout: bounds connecting, sending, and the wait for an answer, each in seconds.
        name: the URL's scheme and host, as messages have it.

    Raises:
        InvalidConfigError: the URL, a secret or a header cannot be used; the message shows none of them.
    """

    url: str = field(repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_certs: Path | None = None
    insecure: bool = False
    timeout: float = 30.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _name_of(self.url, insecure=self.insecure))
        if self.timeout <= 0:
            raise InvalidConfigError(f"a timeout is more than 0 seconds, not {self.timeout:g}")
        if isinstance(self.secrets, str):
            raise TypeError("secrets is a sequence of texts, not one text")
        self.keys()
        for name, value in self.headers.items():
            _check_header(name, value)

    def keys(self) -> list[bytes]:
        """Return what the secrets stand for."""
        if len(self.secrets) > _MOST_SECRETS:
            raise InvalidConfigError(
                f"at most {_MOST_SECRETS} secrets sign a request, not {len(self.secrets)}; "
                "leave those out that the receiver does not need any more"
            )
        return [_key(secret) for secret in self.secrets]


def read_secrets(path: str | os.PathLike[str] | None) -> list[str]:
    """Return the secrets of a file, or without one those of the environment: one a line.

    Raises:
        InvalidConfigError: the file cannot be read, has none, or others can read it.
    """
    text = os.environ.get(SECRET_VARIABLE, "") if path is None else _private_text(path)
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if path is not None and not found:
        raise InvalidConfigError(f"{os.fspath(path)} has no secret; write one into it, a line for each")
    return found


def read_headers(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the headers of a file, ``Name: value`` in each line.

    Raises:
        InvalidConfigError: the file cannot be read, has another line, or others can read it.
    """
    found = {}
    for number, line in enumerate(_private_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise InvalidConfigError(f"{os.fspath(path)}:{number}: a header is written as `Name: value`")
        _check_header(name.strip(), value.strip())
        found[name.strip()] = value.strip()
    return found


def _name_of(url: str, *, insecure: bool) -> str:
    """Return what messages call a URL; raises InvalidConfigError for one that is not posted to."""
    parts = web_address(url)
    if parts is None:
        raise InvalidConfigError(
            "the receiver's URL is no web address in ASCII; write it as https://hooks.example/events"
        )
    if "@" in parts.netloc:
        raise InvalidConfigError(
            "the receiver's URL has a login in it, which other users see; write `Authorization: …` into a "
            "file and name that with --post-header-file"
        )
    name = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme == "http" and not insecure and not is_loopback(parts.netloc):
        raise InvalidConfigError(
            f"{name} would get the events unencrypted; use https, or allow insecure connections if you "
            "trust the network"
        )
    return name


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret[len(_PREFIX) :], validate=True)
        except (binascii.Error, ValueError):
            raise InvalidConfigError(
                f"a secret that begins with {_PREFIX} goes on in base64, and one does not; "
                "copy it again as a whole"
            ) from None
    else:
        key = secret.encode("utf-8", "surrogateescape")
    if len(key) < LEAST_KEY_BYTES:
        raise InvalidConfigError(
            f"a secret has at least {LEAST_KEY_BYTES} bytes, and one has {len(key)}; "
            "`openssl rand -base64 32` makes a good one"
        )
    return key


def _check_header(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidConfigError("a header's name is of letters, digits and hyphens, and one is not")
    if name.lower() in _OWN_HEADERS:
        raise InvalidConfigError(f"the header {name} is msb-cache's own; leave it out")
    if not (value.isascii() and value.isprintable()):
        raise InvalidConfigError(f"the value of the header {name} is not printable ASCII; correct it")


def _private_text(path: str | os.PathLike[str]) -> str:
    """Return what stands in a file that only its owner can read."""
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidConfigError(f"{name} is no regular file; write what is secret into one")
            if is_readable_by_others(name, found.st_mode):
                raise InvalidConfigError(f"other users can read {name}; `chmod 600` it")
            data = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidConfigError(f"{name} cannot be read: {reason_of(error)}") from None
    if len(data) > _MOST_FILE_BYTES:
        raise InvalidConfigError(f"{name} has more than {_MOST_FILE_BYTES >> 10} KiB; check the path")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidConfigError(f"{name} is no text in UTF-8; check the path") from None
