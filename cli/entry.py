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
        from msb_cache.cli.main import main

        main()
    except KeyboardInterrupt:  # before the command or behind it, which answers its own
        try:
            os.write(2, b"\nstopped\n")
        finally:
            os._exit(130)


def _not_lost(unraisable: "sys.UnraisableHookArgs") -> None:
    """Let a Ctrl-C come again that came within a callback of Python's, where it is dropped."""
    if unraisable.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(_interrupt, ())
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
    time.sleep(0.01)  # until the callback has returned
    os.kill(os.getpid(), SIGINT)
