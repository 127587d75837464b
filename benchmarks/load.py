"""Time loading a docker archive into an empty home: msb-cache, and msb if it is named.

    python benchmarks/load.py FOLDER [--msb MSB] [--rounds N]

FOLDER keeps the archive between runs. Runs alternate, so that what else the machine does falls on both.
"""

from __future__ import annotations

from pathlib import Path

import inputs
import timing


def main() -> None:
    options = timing.arguments(__doc__)
    source = str(inputs.archive(options.folder))
    commands = {"msb-cache": [timing.MSB_CACHE, "load", "-i", source]}
    if options.msb is not None:
        commands["msb"] = [options.msb, "load", "--quiet", "-i", source]
    timing.compare(commands, options.rounds, Path(options.folder))


if __name__ == "__main__":
    main()
