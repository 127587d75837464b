"""Work that needs much memory, done in a forked child: the process that stays keeps none of it.

What an allocator has spread over a large heap it cannot give back as a whole, and the end of a process can.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TypeVar

import msgspec

from msb_cache.wording import as_sentence

T = TypeVar("T")

Stopped = Callable[[], bool]
"""Says whether to end."""

_TURN_MS = 100


class DiedError(Exception):
    """The child ended before it said what came of its work; says how, and why if that is known."""


def in_child(work: Callable[[Stopped], T], result: type[T], stopped: Stopped) -> T:
    """Return what ``work`` returns in a child of this process, which has no other thread and no open log.

    Args:
        work: gets what says in the child whether to end.
        result: what it returns, which has to be small.
        stopped: asked ten times a second whether the child is to end, which it is then told.

    Raises:
        DiedError: it ended without a result.
    """
    _flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)  # else what it writes waits for itself, if its parent is killed
        _be_child(work, writing, stopped)
    os.close(writing)
    told, said = False, b""
    try:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        while True:
            if not told and stopped():
                os.kill(child, signal.SIGTERM)
                told = True
            if poll.poll(_TURN_MS):
                piece = os.read(reading, 65536)
                if not piece:
                    break
                said += piece
    except BaseException:
        os.kill(child, signal.SIGTERM)
        raise
    finally:
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        why = f": {said.decode()}" if said and status > 0 else ""
        raise DiedError(f"the process that did it ended with {how}{why}")
    return msgspec.json.decode(said, type=result)


def _be_child(work: Callable[[Stopped], T], writing: int, stopped: Stopped) -> None:
    """Do the work and end this process, whatever happens: it is a copy of one that goes on."""
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        said = b""
        try:
            said, ended = msgspec.json.encode(work(lambda: asked or stopped())), 0
            _flush()
        except OSError as error:  # such as of stdout, whose reader has gone: no mistake of the program
            said, ended = as_sentence(error).encode(errors="backslashreplace"), 1
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:  # the parent was killed meanwhile
            pipe.write(said)
        code = ended
    except BaseException:
        sys.excepthook(*sys.exc_info())
        _flush()
    finally:
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.flush()
