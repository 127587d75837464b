"""One request to the receiver of events, signed as Standard Webhooks, and what its answer means.

Not for what is sent, nor for trying again: a failure that may pass is a ``NotTakenError``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import TracebackType
from urllib.parse import urlsplit

from urllib3 import exceptions as http_errors

from msb_cache.interchange.receiver import WebhookReceiver
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.errors import (
    MAX_ERROR_BYTES,
    TransientError,
    is_html,
    retry_after,
    status_phrase,
)
from msb_cache.oci.registry.http import Answer
from msb_cache.oci.registry.network import Network
from msb_cache.oci.registry.pools import Pools
from msb_cache.waiting import Note, Said, end_if_asked, told_to_end

GONE = 410
TOO_LARGE = 413
_PASSING = frozenset({408, 425, 429})
_SHOWN_CHARACTERS = 100
_SHORTEST_SECRET = 8  # characters


class NotTakenError(Exception):
    """A request was not taken, and the next one may be; ``wait`` is how long the receiver asks for, in s."""

    def __init__(self, sentence: str, wait: float | None = None) -> None:
        super().__init__(sentence)
        self.wait = wait


class RefusedError(Exception):
    """A request is refused for good; the text is the status, with the beginning of what the receiver says."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def signature(key: bytes, identifier: str, timestamp: int, body: bytes) -> str:
    """Return one signature of a request, as the header ``webhook-signature`` has it."""
    signed = hmac.new(key, b"%b.%d.%b" % (identifier.encode(), timestamp, body), hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


class Webhook:
    """The line to one receiver, for one thread, as a context manager.

    What ends this thread's waits (see ``waiting.ended_by``) ends each of these, too: connecting, sending and
    reading.

    Args:
        receiver: who it is.
        note: told once when it has to be waited for.
    """

    def __init__(self, receiver: WebhookReceiver, note: Note) -> None:
        self._receiver = receiver
        self._url = urlsplit(receiver.url)._replace(fragment="")
        self._keys = receiver.keys()
        said = Said()

        def say(sentence: str) -> None:
            if said.is_new(sentence):
                note(sentence)

        self._line = _Line(receiver.timeout, say)
        self._pools = Pools(
            self._line,
            timeout=receiver.timeout,
            ca_certs=receiver.ca_certs,
            insecure=receiver.insecure,
            judged=False,  # nobody but the one who gave the URL says where it leads
        )
        self._open = ExitStack()

    def __enter__(self) -> Webhook:
        self._open.enter_context(told_to_end(self._line.cut))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pools.close()
        self._line.close()
        self._open.close()

    def post(self, identifier: str, content_type: str, body: bytes) -> None:
        """Send a request, and return when the receiver has taken it.

        Args:
            identifier: the same whenever the same is sent; without a full stop.
            content_type: of the body.
            body: what is sent.

        Raises:
            NotTakenError: it has not, and may later.
            RefusedError: it never will.
        """
        now = int(time.time())
        headers = {
            **self._receiver.headers,
            "Content-Type": content_type,
            "webhook-id": identifier,
            "webhook-timestamp": str(now),
        }
        if self._keys:
            headers["webhook-signature"] = " ".join(
                signature(key, identifier, now, body) for key in self._keys
            )
        try:
            response = self._pools.request("POST", self._url.geturl(), headers, body)
        except (http_errors.HTTPError, OSError, ValueError) as error:
            end_if_asked()
            raise NotTakenError(self._failure(error)) from None
        answer = Answer(response, self._url, False, self._line, self._receiver.timeout)
        try:
            self._judge(answer)
        finally:
            answer.close()

    def _judge(self, answer: Answer) -> None:
        name, status = self._receiver.name, answer.status
        if 200 <= status < 300:
            answer.discard()
            return
        if status in _PASSING or status >= 500:
            answer.discard()
            wait = retry_after(answer.header("retry-after"))
            raise NotTakenError(f"{name} answers {status_phrase(status)}", wait)
        said = _redirection(answer) if 300 <= status < 400 else self._beginning(answer)
        raise RefusedError(status, f"{status_phrase(status)}{said}")

    def _beginning(self, answer: Answer) -> str:
        """Return how an answer's text begins, without what was sent to get in."""
        if is_html(answer.content_type):
            return ""
        try:
            text = (answer.read_all(MAX_ERROR_BYTES) or b"").decode("utf-8", "replace")
        except TransientError:
            return ""
        for secret in self._secrets():
            text = text.replace(secret, "…")
        text = " ".join(text.split())
        return f": {shown(text[:_SHOWN_CHARACTERS])}" if text else ""

    def _secrets(self) -> Iterator[str]:
        """Yield what a receiver may repeat and messages must not: headers, and where the URL leads there."""
        for value in self._receiver.headers.values():
            yield from filter(None, (value, value.rpartition(" ")[2]))
        path, query = self._url.path, self._url.query
        yield from filter(None, (f"{path}?{query}" if query else "", path.rstrip("/"), query))
        yield from sorted(filter(_is_long, path.split("/")), key=len, reverse=True)

    def _failure(self, error: Exception) -> str:
        """Return what a failed exchange means; urllib3's own texts are not used: they hold whole URLs."""
        name = self._receiver.name
        if isinstance(error, http_errors.ProxyError):
            return f"the proxy for {name} does not let the connection through"
        if isinstance(error, http_errors.SSLError):
            cause = error.args[0] if error.args else None
            if isinstance(cause, ssl.SSLCertVerificationError):
                return f"the certificate of {name} is not trusted ({cause.verify_message})"
            return f"no secure connection to {name} comes about"
        if isinstance(error, http_errors.NameResolutionError):
            return f"the host of {name} is not known"
        if isinstance(error, http_errors.NewConnectionError):
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else None
            return f"{name} cannot be reached{f' ({reason})' if reason else ''}"
        if isinstance(error, http_errors.TimeoutError | TimeoutError):
            return f"{name} does not answer within {self._receiver.timeout:g} seconds"
        if isinstance(error, http_errors.ProtocolError | OSError):
            return f"the connection to {name} broke off"
        return f"{name} does not answer in proper HTTP"


def _is_long(part: str) -> bool:
    """Return whether a part of a path may be a secret; a short one is a word that sentences have, too."""
    return len(part) >= _SHORTEST_SECRET


def _redirection(answer: Answer) -> str:
    """Return where an answer leads, by scheme and host: the rest may be a secret."""
    try:
        target = urlsplit(answer.header("location") or "")
        where = f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else ""
    except ValueError:
        where = ""
    leads = f" to {shown(where)[1:-1]}" if where else ""
    return f", a redirect{leads}, which is not followed"


class _Line(Network):
    """A network whose last connection can be cut by another thread, whatever the first one does with it."""

    def __init__(self, seconds: float, note: Note) -> None:
        super().__init__("", seconds, note)
        self._held: socket.socket | None = None

    def connect(self, host: str, port: int, *, judged: bool) -> socket.socket:
        connection = super().connect(host, port, judged=judged)
        self._let_go()
        self._held = connection.dup()  # TLS takes the other one over
        end_if_asked()  # what ended it before had nothing to cut
        return connection

    def cut(self) -> None:
        """End what the connection is used for now."""
        held = self._held
        if held is not None:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()
