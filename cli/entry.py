"""Where the program begins: with next to nothing, so that Ctrl-C is answered while the rest is imported."""

import os


def main() -> None:
    """Run the command line and exit."""
    try:
        from msb_cache.cli.main import main

        main()
    except KeyboardInterrupt:  # before the command or behind it, which answers its own
        try:
            os.write(2, b"\nstopped\n")
        finally:
            os._exit(130)
