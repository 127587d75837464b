"""What can go wrong with a registry, in sentences for a person, and how long to wait before trying again.

Not for sending anything. A sentence names hosts, digests and references, never a token, a password or a
URL's path and query: those of blob stores carry signatures.
"""

from __future__ import annotations

import email.utils
import http
import random
import re
import threading
import time

import msgspec

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.waiting import end_if_asked, pause

#: Bytes of an error's body that are read for its message.
MAX_ERROR_BYTES = 8 << 10

_STATUSES = frozenset(status.value for status in http.HTTPStatus)
_URL = re.compile(r"(https?://)(?:[^\s/@\"'<>]*@)?([^\s/?#\"'<>]*)[^\s\"'<>]*", re.IGNORECASE)


class TransientError(Exception):
    """A failure that trying again may cure; ``wait`` is how many seconds the registry asks for, if any."""

    def __init__(self, sentence: str, wait: float | None = None) -> None:
        super().__init__(sentence)
        self.wait = wait


class Backoff:
    """Counts failures in a row and waits between tries: exponentially longer, with jitter, and not forever.

    ``stop`` ends every wait at once when the registry is closed by another thread.
    """

    def __init__(self, options: RegistryOptions, stop: threading.Event) -> None:
        self._options = options
        self._stop = stop
        self._failures = 0

    def reset(self) -> None:
        """Forget the failures so far, because there was progress."""
        self._failures = 0

    def check(self) -> None:
        """Raise ImagePullFailedError if the registry was closed."""
        if self._stop.is_set():
            raise ImagePullFailedError("the pull was stopped")

    def delay(self, failure: TransientError) -> float:
        """Count a failure; how many seconds to wait before the next try.

        Raises ImagePullFailedError with the failure's sentence when it was the last try.
        """
        options = self._options
        if self._failures >= options.retries:
            raise ImagePullFailedError(str(failure))
        if failure.wait is not None and failure.wait > options.longest_wait:
            raise ImagePullFailedError(f"{failure}, in {failure.wait:.0f} seconds")
        delay = min(options.backoff * 2.0**self._failures, options.longest_wait)
        self._failures += 1
        return max(delay * random.uniform(0.5, 1.0), failure.wait or 0.0)  # noqa: S311

    def sleep(self, seconds: float) -> None:
        """Wait; raises ImagePullFailedError as soon as the registry is closed."""
        pause(seconds, self._stop.wait)
        end_if_asked()
        self.check()


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3) asks for, as a number or a date; else None."""
    if not value or len(value) > 64:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def status_phrase(status: int) -> str:
    """A status as messages name it: ``503 Service Unavailable``."""
    return f"{status} {http.HTTPStatus(status).phrase}" if status in _STATUSES else str(status)


def is_html(content_type: str) -> bool:
    """Whether an answer is a page for a browser."""
    return content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def html_problem(host: str) -> str:
    """The sentence for a page where a document should be."""
    return (
        f"{host} answers with an HTML page: it is not a registry, or a proxy or login page stands before it; "
        "check the registry's name and the network"
    )


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Errors(msgspec.Struct):
    """The distribution spec's error document ("Error Codes"), and what token servers say instead."""

    errors: list[_Error] | None = None
    details: str | None = None
    message: str | None = None
    error_description: str | None = None


def error_detail(body: bytes) -> str:
    """What an error's body says, one line without URLs' paths and queries, or nothing."""
    try:
        document = msgspec.json.decode(body, type=_Errors)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    texts = [document.error_description, document.message, document.details]
    for error in (document.errors or [])[:1]:
        texts.insert(0, ": ".join(text for text in (error.code, error.message) if text))
    found = next((text for text in texts if text), "")
    return _URL.sub(r"\1\2", " ".join(found.split()))


def in_parentheses(detail: str) -> str:
    """The registry's own words as the middle of a sentence."""
    return f" ({shown(detail)})" if detail else ""
