"""One request to the receiver of events, signed as Standard Webhooks, and what its answer means.

Not for what is sent, nor for trying again: a failure that may pass is a ``NotTakenError``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import urlsplit

from msb_cache.interchange.receiver import WebhookReceiver
from msb_cache.oci.registry.errors import retry_after, status_phrase
from msb_cache.oci.registry.http import Answer
from msb_cache.oci.registry.line import Line, NoAnswerError, redirection
from msb_cache.waiting import Note

GONE = 410
TOO_LARGE = 413
_PASSING = frozenset({408, 425, 429})
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
        self._line = Line(
            self._url.geturl(),
            receiver.name,
            timeout=receiver.timeout,
            ca_certs=receiver.ca_certs,
            insecure=receiver.insecure,
            note=note,
        )

    def __enter__(self) -> Webhook:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

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
            answer = self._line.post(headers, body)
        except NoAnswerError as failure:
            raise NotTakenError(str(failure)) from None
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
        said = redirection(answer) if 300 <= status < 400 else self._line.beginning(answer, self._secrets())
        raise RefusedError(status, f"{status_phrase(status)}{said}")

    def _secrets(self) -> Iterator[str]:
        """Yield what a receiver may repeat and messages must not: headers, and where the URL leads there."""
        for value in self._receiver.headers.values():
            yield from filter(None, (value, value.rpartition(" ")[2]))
        path, query = self._url.path, self._url.query
        yield from filter(None, (f"{path}?{query}" if query else "", path.rstrip("/"), query))
        yield from sorted(filter(_is_long, path.split("/")), key=len, reverse=True)


def _is_long(part: str) -> bool:
    """Return whether a part of a path may be a secret; a short one is a word that sentences have, too."""
    return len(part) >= _SHORTEST_SECRET
