"""Requests to one registry: logging in, what statuses mean, and trying again. Not for what is in a body."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.registry.auth import Authorizer, parse_challenges
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.errors import (
    MAX_ERROR_BYTES,
    Backoff,
    TransientError,
    error_detail,
    html_problem,
    in_parentheses,
    is_html,
    retry_after,
    status_phrase,
)
from msb_cache.oci.registry.http import Answer, Transport
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.waiting import SAY_AFTER, Note

DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"
_PASSING = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it arrived; ``digest`` is what the registry says it is, unchecked."""

    data: bytes
    content_type: str
    digest: str | None


class Session:
    """The connection to the registry that references name as ``registry``; used from several threads."""

    def __init__(
        self,
        registry: str,
        options: RegistryOptions,
        credential: Credential | None,
        note: Note | None = None,
    ) -> None:
        self.registry = registry
        self._options = options
        self._note: Note = note or (lambda sentence: None)
        host = _DOCKER_HUB_HOST if registry == DOCKER_HUB else registry
        self._transport = Transport(host, options, note)
        self._authorizer = Authorizer(self._transport, registry, credential)
        self._stop = threading.Event()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every wait in other threads, and close idle connections."""
        self._stop.set()
        self._transport.close()

    def backoff(self) -> Backoff:
        """A fresh count of failures."""
        return Backoff(self._options, self._stop)

    def document(self, repository: str, path: str, what: str, limit: int, accept: str = "*/*") -> Document:
        """GET a document of at most ``limit`` bytes, trying again where that can help.

        ``what`` names it in messages; ``path`` is below the repository. Raises ImagePullFailedError.
        """
        backoff = self.backoff()
        while True:
            backoff.check()
            try:
                return self._document(repository, path, what, limit, accept)
            except TransientError as failure:
                delay = backoff.delay(failure)
                if delay >= SAY_AFTER:
                    self._note(f"trying again in {delay:.0f} s: {failure}")
                backoff.sleep(delay)

    def _document(self, repository: str, path: str, what: str, limit: int, accept: str) -> Document:
        answer = self.open(repository, path, what, {"Accept": accept})
        try:
            if is_html(answer.content_type):
                raise ImagePullFailedError(html_problem(answer.host))
            data = answer.read_all(limit)
            if data is None:
                raise ImagePullFailedError(
                    f"{answer.host} answers with more than {limit} bytes for {what}; it is not a usable image"
                )
            return Document(data, answer.content_type, answer.header("docker-content-digest"))
        finally:
            answer.close()

    def open(
        self,
        repository: str,
        path: str,
        what: str,
        headers: Mapping[str, str],
        accepted: frozenset[int] = frozenset({200}),
    ) -> Answer:
        """GET once, logging in if asked to; the answer's status is one of ``accepted``.

        Raises TransientError when trying again can help, else ImagePullFailedError.
        """
        url = f"/v2/{repository}/{path}"
        authorization = self._authorizer.header(repository)
        answer = self._transport.get(url, _with(headers, authorization))
        if answer.status == 401 and not answer.redirected:
            challenges = parse_challenges(answer.header("www-authenticate"))
            answer.discard()
            authorization = self._authorizer.renew(repository, challenges, authorization)
            answer = self._transport.get(url, _with(headers, authorization))
        if answer.status in accepted:
            return answer
        try:
            raise self._refusal(answer, repository, what)
        finally:
            answer.close()

    def _refusal(self, answer: Answer, repository: str, what: str) -> Exception:
        host, status = answer.host, answer.status
        page = is_html(answer.content_type)
        body = b"" if page else answer.read_all(MAX_ERROR_BYTES) or b""
        said = in_parentheses(self._authorizer.redact(error_detail(body)))
        wait = retry_after(answer.header("retry-after"))
        if status == 429:
            return TransientError(
                f"{host} limits how often images are pulled{said}; log in for more, or try again later",
                wait,
            )
        phrase = status_phrase(status)
        if status in _PASSING or status >= 500:
            return TransientError(f"{host} answers {phrase}{said}; try again later", wait)
        if answer.redirected:  # a signed address that has expired, say; the registry gives a fresh one
            return TransientError(
                f"{host}, where {self.registry} keeps {what}, answers {phrase}; try again later"
            )
        if page:
            return ImagePullFailedError(html_problem(host))
        if status in (401, 403):
            try:
                self._authorizer.refuse(repository)
            except ImagePullFailedError as refused:
                return refused
        if status == 404:
            return ImagePullFailedError(
                f"{what} is not in the registry {self.registry}{said}; check the name"
            )
        return ImagePullFailedError(f"{host} answers {phrase}{said} for {what}; tell who runs it")


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)
