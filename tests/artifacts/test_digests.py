from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from msb_cache.artifacts.digests import digest_of, digest_of_content
from msb_cache.artifacts.kinds import KINDS
from tests.artifacts.test_verity import expected


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_algorithm(kind: str, tmp_path: Path) -> None:
    data = os.urandom(10_000)
    (tmp_path / "file").write_bytes(data)
    plain = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert digest_of(kind, tmp_path / "file") == (expected(data) if kind in ("layer", "fsmeta") else plain)
    assert digest_of_content(data) == plain


def test_behind_a_link_lies_another_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="link"):
        digest_of("layer", tmp_path / "link")
