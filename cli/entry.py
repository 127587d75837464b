"""Where the program begins: with next to nothing, so that Ctrl-C is answered while the rest is imported."""

import os
import signal


def stop(number: int, frame: object) -> None:
    """End at once, with the words of a command that is stopped: an exception could land in any import."""
    try:
        os.write(2, b"\nstopped\n")
    finally:
        os._exit(130)


def main() -> None:
    """Run the command line and exit."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, stop)
    from msb_cache.cli.main import main

    main()
