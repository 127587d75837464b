"""Where the program begins: with next to nothing, so that Ctrl-C is answered while the rest is imported."""

import _thread
import os
import sys
import time
from signal import SIGINT


def main() -> None:
    """Run the command line and exit."""
    sys.unraisablehook = _not_lost
    try:
        if "watch" in sys.argv[1:]:
            _begin_with_an_allocator_that_gives_back()
        from msb_cache.cli.main import main

        main()
    except KeyboardInterrupt:  # before the command or behind it, which answers its own
        try:
            os.write(2, b"\nstopped\n")
        finally:
            os._exit(130)


def _begin_with_an_allocator_that_gives_back() -> None:
    """Start this program anew with the C library's allocator, if it has Python's own.

    What stays compares large indexes now and then. Of what that took, Python's allocator keeps each MiB of
    which one byte is in use; the C library's gives all whole pages back when it is asked to.
    """
    if "PYTHONMALLOC" in os.environ or not sys.executable:
        return
    os.environ["PYTHONMALLOC"] = "malloc"  # which can only be said before Python starts
    try:
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606
    except OSError:
        del os.environ["PYTHONMALLOC"]


def _not_lost(unraisable: "sys.UnraisableHookArgs") -> None:
    """Let a Ctrl-C come again that came within a callback of Python's, where it is dropped."""
    if unraisable.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(_interrupt, ())
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
    time.sleep(0.01)  # until the callback has returned
    os.kill(os.getpid(), SIGINT)
