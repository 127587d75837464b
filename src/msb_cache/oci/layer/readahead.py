"""Reads a stream ahead in a thread of its own, a few chunks at most. Knows nothing of what they mean.

Fetching, hashing and inflating let go of the interpreter lock: they go on while earlier chunks are used.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Semaphore, Thread

from msb_cache.oci.layer.compression import CHUNK_BYTES, ByteSource

_CHUNKS = 3


class ReadAhead:
    """A ByteSource that raises what its source raises, in the reader's thread and after what came before.

    Nothing is read before the first read. Until :meth:`close` has returned, the source is the thread's.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._chunks: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self._free = Semaphore(_CHUNKS)
        self._thread: Thread | None = None
        self._closed = False
        self._current = b""
        self._position = 0  # in the current chunk
        self._ended = False
        self._failure: BaseException | None = None

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, and none only at the end."""
        if self._position == len(self._current) and not self._ended:
            self._next()
        data = self._current[self._position : self._position + size]
        self._position += len(data)
        return data

    def _next(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._fill, name="msb-cache-readahead", daemon=True)
            self._thread.start()
        if self._failure is None:
            found = self._chunks.get()
            self._free.release()
            if isinstance(found, bytes):
                self._current, self._position, self._ended = found, 0, not found
                return
            self._failure = found
        raise self._failure

    def close(self) -> None:
        """End the thread as soon as the read it is in returns; from then on the source is the caller's."""
        self._closed = True
        self._free.release()
        if self._thread is not None:
            self._thread.join()

    def _fill(self) -> None:
        try:
            data = b"more"
            while data:
                self._free.acquire()
                if self._closed:
                    return
                data = self._source.read(CHUNK_BYTES)
                self._chunks.put(data)
        except BaseException as error:  # whatever it is, the one who reads has to know
            self._chunks.put(error)
