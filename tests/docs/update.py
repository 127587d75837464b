"""Rewrites the outputs in README.md and docs/*.md with what commands print: ``python -m tests.docs.update``.

An output that differs only in what differs from run to run is left as it is. Names of documents may be given.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.docs.markdown import replaced
from tests.docs.runner import run, same
from tests.fleet.postgres import programs

ROOT = Path(__file__).resolve().parent.parent.parent


def _require(program: str) -> str:
    known = {"msb": os.environ.get("MSB_CACHE_TEST_MSB"), "postgresql": programs()}
    found = known.get(program) or shutil.which(program)
    if found is None:
        sys.exit(f"{program} is missing, and a document needs it")
    return str(found)


def update(path: Path) -> int:
    """Rewrite one document; the number of blocks that changed."""
    markdown = path.read_text()
    texts = {}
    for block, documented, real in run(markdown, _require):
        if same(documented, real):
            continue
        if block.language == "python":
            print(f"{path.name}:{block.line}: prints, but no text block follows:\n{real}")
            continue
        texts[block.line] = real
    path.write_text(replaced(markdown, texts))
    return len(texts)


def main() -> None:
    """Update the named documents, or all."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    paths = [Path(name) for name in sys.argv[1:]] or every
    for path in paths:
        print(f"{path.name}: {update(path)} blocks changed")


if __name__ == "__main__":
    main()
