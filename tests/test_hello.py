"""The example writes the images of the documentation, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.docs.images import write_archives


def test_it_writes_what_the_documents_load(tmp_path: Path) -> None:
    for name in ("example", "documents"):
        (tmp_path / name).mkdir()
    write_archives(tmp_path / "documents")
    script = ROOT / "examples" / "hello.py"
    subprocess.run([sys.executable, "-I", script], cwd=tmp_path / "example", check=True, capture_output=True)
    for version in ("1.0", "1.1"):
        archive = f"hello-{version}.tar"
        assert (tmp_path / "example" / archive).read_bytes() == (
            tmp_path / "documents" / archive
        ).read_bytes()
