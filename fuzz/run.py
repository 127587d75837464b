"""Fuzz one target with atheris: ``python fuzz/run.py TARGET [CORPUS] [libFuzzer options]``.

Atheris is no dependency: ``pip install atheris`` first. ``-max_total_time=300`` ends after five minutes, and
a file in place of CORPUS is run once. What is found is written to ``crash-<hash>`` in the current folder.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["msb_cache"]):
    from targets import TARGETS

    from msb_cache.errors import MicrosandboxError


def main() -> None:
    """Run the target that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv[1]]

    def run(data: bytes) -> None:
        with suppress(MicrosandboxError):
            target(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
