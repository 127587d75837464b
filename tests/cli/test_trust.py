"""Reading what is believed: no more of a file than anything of its kind has."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.cli.trust import read_at_most, read_policy
from msb_cache.errors import InvalidConfigError
from msb_cache.proof.policy import MAX_POLICY, Policy


def test_a_policy(tmp_path: Path) -> None:
    assert read_policy(None) is None
    (tmp_path / "policy").write_text("quorum none\n")
    assert read_policy(str(tmp_path / "policy")) == b"quorum none\n"


def test_no_more_is_read_than_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"#" * (2 * MAX_POLICY))
    assert len(read_at_most(str(path), 10)) == 10
    with pytest.raises(InvalidConfigError, match="has more than 65,536 bytes"):
        Policy.parse(read_policy(str(path)) or b"")
    assert len(read_at_most("/dev/zero", 100)) == 100
