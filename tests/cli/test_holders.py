"""Who holds what, also by a digest that no reference points to any more."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import APP, Call


def test_holders(home: Path, call: Call, tmp_path: Path) -> None:
    call("hold", "-q", "app:1", "sandbox:dev")
    call("hold", "-q", "example.org/team/tool:2", "snapshot:/a b")
    call("rm", "-q", "-f", "app:1", "app:latest")
    table = call("holders")
    assert table.lines[0].split() == ["HOLDER", "DIGEST", "REFERENCE", "SINCE"]
    assert [line.split("  ")[0] for line in table.lines[1:]] == ["sandbox:dev", "snapshot:/a b"]
    assert "app:1" in table.lines[1]
    # By its digest, though no reference points there any more.
    for text in (APP.digest, APP.digest[7:], APP.digest[:12], APP.digest[7:11]):
        (hold,) = call("holders", text, "--format", "json").json
        assert (hold["holder"], hold["digest"], hold["reference"]) == ("sandbox:dev", APP.digest, "app:1")
    call("release", "-q", "sandbox:dev")
    assert call("holders", APP.digest).err == "Nobody holds it.\n"
