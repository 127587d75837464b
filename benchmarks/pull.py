"""Time pulling an image into an empty home: msb-cache, and msb if it is named. The registry is on loopback.

    python benchmarks/pull.py FOLDER [--msb MSB] [--rounds N]

FOLDER keeps the image between runs. Runs alternate, so that what else the machine does falls on both.
"""

from __future__ import annotations

from pathlib import Path

import inputs
import timing


def main() -> None:
    options = timing.arguments(__doc__)
    with inputs.registry(options.folder) as reference:
        commands = {"msb-cache": [timing.MSB_CACHE, "pull", "--insecure", reference]}
        if options.msb is not None:
            commands["msb"] = [options.msb, "pull", "--insecure", "--quiet", reference]
        timing.compare(commands, options.rounds, Path(options.folder))


if __name__ == "__main__":
    main()
