"""Fuzz one target with atheris: ``python fuzz/run.py TARGET [CORPUS] [libFuzzer options]``.

Atheris is no dependency: ``pip install atheris`` first. ``-max_total_time=300`` ends after five minutes, and
a file in place of CORPUS is run once. What is found is written to ``crash-<hash>`` in the current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["msb_cache"]):
    from targets import TARGETS


def main() -> None:
    """Run the target that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
