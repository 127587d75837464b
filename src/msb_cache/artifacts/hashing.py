"""A process that takes digests, beside this one.

Blocks are hashed one by one, and here each of them would wait for the interpreter's lock while other threads
convert layers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from errno import ECANCELED
from threading import Lock
from typing import IO, TYPE_CHECKING

from msb_cache.artifacts import verity

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_WORTH = 8 << 20
"""A file of so many bytes is worth a process; a shorter one is hashed before that would have begun."""
_STEP = 4 << 20
"""Of a file that is being written, so many bytes are hashed at a time."""


class Hashing:
    """Takes the digests of files while they are written, and of those that are there.

    The process is started for the first file that is worth it. Where it cannot be, or ends, this one does the
    work. Made for several threads; a context manager, at whose end the process ends, and what waits for it.

    Args:
        worth: how many bytes make a file worth a process.
    """

    def __init__(self, worth: int = _WORTH) -> None:
        self._lock = Lock()
        self._worth = worth
        self._closed = False
        self._process: subprocess.Popen[str] | None = None
        self._ended = False
        self._told: dict[Path, int] = {}

    def __enter__(self) -> Hashing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._end()

    def written(self, path: Path, end: int) -> None:
        """Take note that what a file has from block 1 on up to byte ``end`` does not change any more."""
        if end - self._told.get(path, 0) < (_STEP if path in self._told else self._worth):
            return
        # While another file's digest is awaited this goes on: the next time says it for both.
        if self._lock.acquire(blocking=False):
            try:
                self._told[path] = end
                self._say(f"to {_named(path)} {end}")
            finally:
                self._lock.release()

    def finish(self, path: Path) -> str:
        """Return the fs-verity digest of a file that is written, all of it; raises OSError."""
        if self._told.pop(path, None) is None:
            return self.digest("fs-verity", path)
        return self._asked(f"end {_named(path)}") or self.digest("fs-verity", path)

    def digest(self, algorithm: str, path: Path) -> str:
        """Return a file's digest; raises OSError."""
        if os.lstat(path).st_size >= self._worth:
            found = self._asked(f"{algorithm} {_named(path)}")
            if found is not None:
                return found
        return verity.digest_of_file(path, algorithm, self._check_open)

    def _asked(self, line: str) -> str | None:
        """Return the answer to a line; None: there is none, or it is an error that shows here as well."""
        with self._lock:
            pipe = self._say(line)
            answer = "" if pipe is None else pipe.readline().rstrip()
            if not answer:
                self._end()
        self._check_open()
        return answer if answer.startswith("sha256:") else None

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(ECANCELED, "it is not waited for any more")

    def _say(self, line: str) -> IO[str] | None:
        if self._process is None and not self._ended:
            self._process = _start()
            self._ended = self._process is None
        if self._closed:  # meanwhile, by another thread
            self._end()
        process = self._process
        if process is None or process.stdin is None:
            return None
        try:
            print(line, file=process.stdin, flush=True)
        except OSError:
            self._end()
            return None
        return process.stdout

    def _end(self) -> None:
        self._ended = True
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _named(path: Path) -> str:
    return os.fsencode(path).hex()


def _start() -> subprocess.Popen[str] | None:
    program = verity.__file__
    # A program that brings its interpreter along is that program, and starting it would do what it does.
    if not sys.executable or getattr(sys, "frozen", False) or not os.path.isfile(program):
        return None
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
    except OSError:
        return None
