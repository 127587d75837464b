"""What remove takes away, what it leaves, and its exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.support import APP, FAILED, NOT_FOUND, TOOL, USAGE, Call, fingerprint, sentence


class TestRemove:
    def test_shared_layers_stay(self, home: Path, call: Call) -> None:
        done = call("remove", "app:1", "app:latest")
        assert (done.code, done.out) == (0, "")
        *removed, total = done.err.splitlines()
        assert [line.split()[:3] for line in removed] == [
            ["✓", "Removed", "app:1"],
            ["✓", "Removed", "app:latest"],
        ]
        assert re.fullmatch(r"  2 images, [\d.]+ KiB freed", total)
        layers = {path.name for path in (home / "cache" / "layers").glob("*.erofs")}
        assert layers == {f"{each.diff_id.replace(':', '_')}.erofs" for each in TOOL.layers}
        assert call("verify").code == 0

    def test_quiet(self, home: Path, call: Call) -> None:
        done = call("rm", "-q", "app:1")
        (last,) = call("prunes", "-n", "1", "--format", "json").json
        assert (done.code, done.lines, done.err) == (0, [last["operation"]], "")

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


class TestSeveral:
    """Patterns, digests and names go as one operation; what is refused is said, and the rest goes."""

    def test_a_pattern(self, home: Path, call: Call) -> None:
        shown = call("rm", "-n", "app:*")
        assert (shown.code, shown.err) == (0, "")
        assert [line.strip() for line in shown.lines[:-1]] == ["app:1", "app:latest"]
        assert re.fullmatch(r"Removes 2 images, 1 manifest, 1 layer: [\d.]+ KiB come free\.", shown.lines[-1])
        done = call("rm", "app:*")
        assert [line.split()[:3] for line in done.err.splitlines()[:2]] == [
            ["✓", "Removed", "app:1"],
            ["✓", "Removed", "app:latest"],
        ]
        assert call("list", "-q").lines == ["example.org/team/tool:2"]
        (told,) = call("prunes", "--format", "json").json
        assert told["policy"] == {
            "references": ["docker.io/library/app:1", "docker.io/library/app:latest"],
            "force": False,
        }

    def test_the_dry_run_appends_nothing_and_equals_the_run(self, home: Path, call: Call) -> None:
        before = fingerprint(home)
        plan = call("rm", "-n", "app*", "*tool:2", "--format", "json").json
        assert fingerprint(home) == before
        assert plan["dry_run"] is True
        report = call("rm", "app*", "*tool:2", "--format", "json")
        assert report.err == ""
        assert report.json["image_refs_removed"] == len(plan["images"]) == 3
        assert report.json["manifests_removed"] == len(plan["manifests"]) == 2
        assert report.json["layers_removed"] == len(plan["layers"]) == 3
        assert report.json["bytes_reclaimed"] == plan["bytes_reclaimable"]
        assert call("rm", "-n", "-q", "app*").code == NOT_FOUND

    def test_quiet(self, home: Path, call: Call) -> None:
        done = call("rm", "-n", "-q", "app*")
        assert (done.lines, done.err) == (["app:1", "app:latest"], "")
        done = call("rm", "-q", "app*")
        assert (len(done.lines), done.err) == (1, "")

    @pytest.mark.parametrize("dry", [True, False])
    def test_refusals_and_how_it_ends(self, home: Path, call: Call, dry: bool) -> None:
        call("hold", "app:1", "sandbox:dev")
        call("pin", "example.org/team/tool:2")
        flags = ["-n"] if dry else []
        for arguments, code in (
            (["app*"], 4),
            (["*"], 4),
            (["none*"], NOT_FOUND),
            (["none*", "none:1"], NOT_FOUND),
            (["none*", "*"], FAILED),
            (["Bad:1", "*?bad|"], USAGE),
        ):
            done = call("rm", *flags, *arguments)
            assert (done.code, done.out) == (code, "Nothing to remove.\n" if dry else "")
            assert all(line.startswith("error: ") for line in done.err.splitlines()), done.err
        assert len(call("list", "-q").lines) == 3
        call("release", "sandbox:dev")
        done = call("rm", *flags, "*", "none:1")
        assert done.code == FAILED
        assert ("tool:2 is pinned" in done.err, "image not found: none:1" in done.err) == (True, True)
        assert len(call("list", "-q").lines) == (3 if dry else 1)
        assert call("rm", *flags, "-f", "*").code == 0
        assert len(call("list", "-q").lines) == (3 if dry else 0)
        assert len(call("pins", "--format", "json").json) == 1

    def test_a_manifest_without_a_reference(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        call("rm", "-f", "app:1", "app:latest")
        prefix = APP.digest[7:15]
        held = call("rm", "-f", prefix)
        assert held.code == 4
        assert sentence(held.err) == (
            f"{APP.digest[:19]} is in use by sandbox:dev; `msb-cache release HOLDER` ends a hold"
        )
        call("release", "sandbox:dev")
        shown = call("rm", "-n", prefix)
        assert shown.lines[0] == f"  {APP.digest}"
        done = call("rm", prefix, "--reason", "it was left")
        assert done.code == 0
        assert done.err.startswith(f"  ✓ Removed    {APP.digest}\n")
        assert call("rm", prefix).code == NOT_FOUND
        assert call("why", prefix).lines[0].endswith("is gone.")
        assert call("verify").code == 0

    def test_a_digest_of_several_references(self, home: Path, call: Call) -> None:
        done = call("rm", APP.digest)
        assert done.code == USAGE
        assert "is the digest of several references, app:latest, app:1; name one" in sentence(done.err)
        assert call("rm", TOOL.digest[7:15]).code == 0
        assert call("rm", "-f", APP.digest).code == 0
        assert call("list", "-q").lines == []

    def test_without_a_home(self, own_home: Path, call: Call) -> None:
        for arguments in (["a:1"], ["*"], ["-n", "a:1"], ["-n", "*"], ["abcd1234"], ["a", "b"]):
            done = call("rm", *arguments)
            assert done.code == NOT_FOUND
            assert "Traceback" not in done.err
        assert not own_home.exists()
