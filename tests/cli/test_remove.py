"""What remove takes away, what it leaves, and its exit codes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import TOOL, Call, fingerprint, sentence


class TestRemove:
    def test_shared_layers_stay(self, home: Path, call: Call) -> None:
        done = call("remove", "app:1", "app:latest")
        assert (done.code, done.out) == (0, "")
        assert [line.split()[:3] for line in done.err.splitlines()] == [
            ["✓", "Removed", "app:1"],
            ["✓", "Removed", "app:latest"],
        ]
        layers = {path.name for path in (home / "cache" / "layers").glob("*.erofs")}
        assert layers == {f"{each.diff_id.replace(':', '_')}.erofs" for each in TOOL.layers}
        assert call("verify").code == 0

    def test_quiet(self, home: Path, call: Call) -> None:
        done = call("rm", "-q", "app:1")
        assert (done.code, done.out, done.err) == (0, "", "")

    def test_held(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        before = fingerprint(home)
        done = call("rm", "app:1")
        assert done.code == 4
        assert "sandbox:dev" in sentence(done.err)
        assert fingerprint(home) == before

    def test_force_drops_only_the_reference(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        assert call("rm", "-f", "app:1").code == 0
        assert call("inspect", "app:1").code == 3
        report = call("prune", "-y", "--format", "json").json
        assert (report["manifests_removed"], report["layers_removed"]) == (1, 1)  # the tool's
        assert call("verify").code == 0
        call("release", "sandbox:dev")
        assert call("prune", "-y", "--format", "json").json["manifests_removed"] == 1
        assert list((home / "cache" / "layers").glob("*.erofs")) == []

    def test_several_with_different_ends(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        done = call("rm", "nothing:1", "app:1", "example.org/team/tool:2")
        assert done.code == 1
        assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 2
        assert call("ls", "-q").lines == ["app:latest", "app:1"]
        assert call("rm", "nothing:1", "nothing:2").code == 3
        assert call("rm", "app:latest", "app:1").code == 4
