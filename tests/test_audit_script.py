"""A whole audit by a shell script, from JSON and jq."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.examples import ONE, TWO, archive

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "audit.sh"


@pytest.mark.peer
def test_an_audit_from_json(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    require_peer("jq")
    home = tmp_path / "home"
    with ImageCache(home) as cache:
        cache.load(archive(ONE))
        cache.load(archive(TWO))
        kept, gone = cache.list()
        cache.hold(kept.reference, "sandbox:dev")
        cache.prune()
    done = subprocess.run(
        ["sh", SCRIPT],
        env={
            **os.environ,
            "HOME_OF_CACHE": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout
    assert f"- {kept.reference} " in said
    assert ", used by sandbox:dev\n" in said
    assert f"{gone.reference} (prune)" in said.replace("docker.io/library/", "")
    assert " prune by " in said
    assert "- sound: true, " in said
