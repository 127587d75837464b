"""``python -m msb_cache``: the command ``msb-cache``."""

from msb_cache.cli.entry import main

if __name__ == "__main__":
    main()
