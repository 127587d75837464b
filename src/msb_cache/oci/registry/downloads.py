"""Streaming one layer's blob from a registry, going on where a connection broke or a process died.

Not for checking what arrives: LayerStream does that on the way, and says through ``settle`` how it ended.
Every byte that is handed on is first in the partial file, so no byte has to be fetched twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from msb_cache.errors import ImagePullFailedError, InvalidImageError
from msb_cache.oci.documents.decode import Descriptor
from msb_cache.oci.layer.compression import CHUNK_BYTES
from msb_cache.oci.registry.errors import Backoff, TransientError, html_problem, is_html
from msb_cache.oci.registry.partials import Partial

#: Bytes that make a new try count as progress, after which as many tries are allowed as at the start.
PROGRESS_BYTES = 256 << 10
_REPORT_BYTES = 1 << 20
_REPORT_SECONDS = 0.25
_RANGE = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")

DownloadEvent = Literal["queued", "started", "resumed", "bytes", "retry", "fetched", "done", "exists"]


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """How far a layer has come: ``done`` of ``total`` bytes of its blob; None: their number is not known.

    ``queued`` comes first, for all layers at once; then ``started`` or ``resumed`` (with bytes from an
    earlier pull), ``bytes`` for each MiB and at least four times a second, ``retry`` with the reason in
    ``note``, ``done`` when everything has been checked. ``exists`` is for callers that need not download a
    layer.

    What msb pulls its folders show as it comes: ``queued`` for a layer with which it has not begun,
    ``started`` and ``bytes`` without a total, and ``fetched`` when it has the blob, which it unpacks then.
    """

    layer: str
    event: DownloadEvent
    done: int
    total: int | None
    note: str = ""


class Answer(Protocol):
    """What a download needs to know of an HTTP answer."""

    host: str
    status: int
    content_type: str

    @property
    def length(self) -> int | None:
        """Content-Length in bytes."""

    def header(self, name: str) -> str | None:
        """A header's value."""

    def read(self, size: int) -> bytes:
        """What one wait brings; none at the end. Raises TransientError."""

    def close(self) -> None:
        """Release the connection."""


class BlobDownload:
    """An open blob that comes from a registry, a BlobReader; nothing is requested before the first read.

    ``open_from`` sends one request for the bytes from an offset on; its answer may be 200, 206 or 416.
    Raises ImagePullFailedError when the registry fails for good, InvalidImageError when it lies.
    """

    def __init__(
        self,
        blob: Descriptor,
        open_from: Callable[[int], Answer],
        partials: Path,
        backoff: Backoff,
        progress: Callable[[LayerProgress], None] | None,
    ) -> None:
        self._blob = blob
        self._open_from = open_from
        self._backoff = backoff
        self._progress = progress
        self._partial = Partial.open(partials, blob.digest, blob.size)
        self._position = 0  # bytes handed on
        self._settled = self._partial.size if self._partial else 0  # bytes when tries were last counted anew
        self._reported = self._settled
        self._reported_at = 0.0
        self._begun = False
        self._answer: Answer | None = None
        self._skip = 0  # bytes of the answer that were handed on before
        self._ranges = True

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, from the partial file first; none at the end."""
        self._backoff.check()
        if not self._begun:
            self._begun = True
            self._report("resumed" if self._settled else "started")
        size = min(size, self._blob.size - self._position)
        if size <= 0:
            return b""
        data = self._partial.read(size, self._position) if self._partial else b""
        if not data:
            data = self._fetch(size)
            if self._partial:
                self._partial.write(data, self._position)
        self._position += len(data)
        if (
            self._position - self._reported >= _REPORT_BYTES
            or self._position == self._blob.size
            or time.monotonic() - self._reported_at >= _REPORT_SECONDS
        ):
            self._report("bytes")
        return data

    def settle(self, sound: bool) -> None:
        """Say how the checks ended: sound or not, the partial file has served and is deleted."""
        if self._partial:
            self._partial.discard()
        if sound:
            self._report("done")

    def close(self) -> None:
        """End the connection; a partial file that was not settled is kept for the next time."""
        self._drop()
        if self._partial:
            self._partial.close()
            self._partial = None

    def _fetch(self, size: int) -> bytes:
        """The next bytes from the registry, at least one."""
        while True:
            try:
                if self._answer is None:
                    self._answer = self._connect()
                data = self._next(self._answer, size)
            except TransientError as failure:
                self._drop()
                self._backoff.check()
                delay = self._backoff.delay(failure)
                self._report("retry", str(failure))
                self._backoff.sleep(delay)
                continue
            except BaseException:
                self._drop()
                raise
            arrived = self._position + len(data)
            if arrived - self._settled >= PROGRESS_BYTES:
                self._settled = arrived
                self._backoff.reset()
            if arrived == self._blob.size:
                self._drop()
            return data

    def _next(self, answer: Answer, size: int) -> bytes:
        while True:
            data = answer.read(min(self._skip, CHUNK_BYTES) if self._skip else size)
            if not data:
                raise TransientError(
                    f"{answer.host} ended layer {self._blob.digest} after "
                    f"{self._position - self._skip} of {self._blob.size} bytes; try again later"
                )
            if not self._skip:
                return data
            self._skip -= len(data)

    def _connect(self) -> Answer:
        offset = self._position if self._ranges else 0
        answer = self._open_from(offset)
        try:
            start = self._start(answer, offset)
        except BaseException:
            answer.close()
            raise
        self._skip = self._position - start
        return answer

    def _start(self, answer: Answer, offset: int) -> int:
        """Which byte of the blob an answer begins with; raises when it is not this blob."""
        size = self._blob.size
        if answer.status == 200:
            if answer.length is not None and answer.length != size:
                if is_html(answer.content_type):
                    raise ImagePullFailedError(html_problem(answer.host))
                raise InvalidImageError(
                    f"layer {self._blob.digest} is {answer.length} bytes long at {answer.host}, "
                    f"but should be {size}; push the image again"
                )
            return 0
        found = _RANGE.fullmatch((answer.header("content-range") or "").strip())
        if answer.status == 206 and found and answer.length in (None, int(found[2]) - int(found[1]) + 1):
            start, end = int(found[1]), int(found[2])
            if start == offset and end < size and found[3] in ("*", str(size)):
                return start
        self._ranges = False  # from here on the whole blob is asked for, and what is known skipped
        raise TransientError(
            f"{answer.host} does not give the part of layer {self._blob.digest} that was asked for; "
            "delete partial downloads and try again"
        )

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _report(self, event: DownloadEvent, note: str = "") -> None:
        self._reported_at = time.monotonic()
        self._reported = max(self._reported, self._position)  # bytes from an earlier pull count at once
        if self._progress is not None:
            self._progress(LayerProgress(self._blob.digest, event, self._reported, self._blob.size, note))
