"""POST to one URL that a user gave, and what it means in words when no answer comes.

Nobody but the user says where it leads, so any address is connected to. Not for what is sent, for what an
answer means, or for trying again.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from urllib3 import exceptions as http_errors

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.errors import MAX_ERROR_BYTES, TransientError, is_html
from msb_cache.oci.registry.http import Answer
from msb_cache.oci.registry.network import Network
from msb_cache.oci.registry.pools import Pools
from msb_cache.waiting import Note, Said, end_if_asked, told_to_end

_SHOWN_CHARACTERS = 100


class NoAnswerError(Exception):
    """A request has no answer, or one that does not come to its end; the text says why."""


class Line:
    """The line to one URL, for one thread, as a context manager.

    What ends this thread's waits (see ``waiting.ended_by``) ends each of these, too: connecting, sending and
    reading.

    Args:
        url: where each request goes; without a fragment.
        name: what messages call it.
        timeout: bounds connecting, sending, and the wait for an answer, each in seconds.
        ca_certs: a PEM file of authorities that are trusted beside the system's.
        insecure: accept any certificate.
        note: told once when it has to be waited for.

    Raises:
        InvalidConfigError: ``ca_certs`` cannot be read.
    """

    def __init__(
        self, url: str, name: str, *, timeout: float, ca_certs: Path | None, insecure: bool, note: Note
    ) -> None:
        self._url, self._name, self._timeout = url, name, timeout
        said = Said()

        def say(sentence: str) -> None:
            if said.is_new(sentence):
                note(sentence)

        self._network = _Cuttable(timeout, say)
        self._pools = Pools(
            self._network, timeout=timeout, ca_certs=ca_certs, insecure=insecure, judged=False
        )
        self._open = ExitStack()

    def __enter__(self) -> Line:
        self._open.enter_context(told_to_end(self._network.cut))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pools.close()
        self._network.close()
        self._open.close()

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request, and return its answer, whose body is still to be read; the caller closes it.

        Raises:
            NoAnswerError: there is none.
            InvalidConfigError: the environment names no proper proxy.
        """
        try:
            response = self._pools.request("POST", self._url, headers, body)
        except (http_errors.HTTPError, OSError, ValueError) as error:
            end_if_asked()
            raise NoAnswerError(self._failure(error)) from None
        return Answer(response, urlsplit(self._url), False, self._network, self._timeout)

    def read(self, answer: Answer, limit: int) -> bytes | None:
        """Return the whole body of an answer; None: it has more than so many bytes.

        Raises:
            NoAnswerError: it does not come to its end.
        """
        try:
            found = answer.read_all(limit)
        except (TransientError, ImagePullFailedError):
            end_if_asked()
            raise NoAnswerError(f"the answer of {self._name} does not come to its end") from None
        end_if_asked()  # what was cut looks like the end of an answer that has no length
        return found

    def beginning(self, answer: Answer, secrets: Iterable[str] = ()) -> str:
        """Return how the text of an answer goes on in a message, shortened and without secrets."""
        if is_html(answer.content_type):
            return ""
        try:
            text = (self.read(answer, MAX_ERROR_BYTES) or b"").decode("utf-8", "replace")
        except NoAnswerError:
            return ""
        for secret in secrets:
            text = text.replace(secret, "…")
        text = " ".join(text.split())
        return f": {shown(text[:_SHOWN_CHARACTERS])}" if text else ""

    def _failure(self, error: Exception) -> str:
        """Return what a failed exchange means; urllib3's own texts are not used: they hold whole URLs."""
        name = self._name
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
            return f"{name} does not answer within {self._timeout:g} seconds"
        if isinstance(error, http_errors.ProtocolError | OSError) and not _is_improper(error):
            return f"the connection to {name} broke off"
        return f"{name} does not answer in proper HTTP"


def redirection(answer: Answer) -> str:
    """Return where an answer leads, by scheme and host: the rest may be a secret."""
    try:
        target = urlsplit(answer.header("location") or "")
        where = f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else ""
    except ValueError:
        where = ""
    leads = f" to {shown(where)[1:-1]}" if where else ""
    return f", a redirect{leads}, which is not followed"


def _is_improper(error: Exception) -> bool:
    """Return whether something was answered that is no HTTP, or has more or longer headers than any."""
    cause = error.args[-1] if error.args else None
    return isinstance(cause, http.client.HTTPException) and not isinstance(
        cause, OSError | http.client.IncompleteRead
    )


class _Cuttable(Network):
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
