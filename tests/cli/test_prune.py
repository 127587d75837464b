"""What prune deletes and keeps, its report, its question on a terminal, and what happens meanwhile."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from msb_cache.artifacts.locks import Lock
from msb_cache.wording import size
from tests.cli.support import (
    APP,
    APP_NEXT,
    TOOL,
    Call,
    Done,
    execute,
    fingerprint,
    on_terminal,
    sentence,
    written,
)
from tests.flatroots import MIB, add


class TestPrune:
    def test_report(self, home: Path, call: Call) -> None:
        done = call("prune", "-y")
        assert done.code == 0
        text = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.lines)}
        operation = text.pop("Operation")
        assert re.fullmatch(r"[\d.]+ KiB", text.pop("Reclaimed"))
        assert text == {"Image refs": "3", "Manifests": "2", "Layers": "3", "Fsmeta": "2", "VMDK": "2"}
        assert call("prunes", "show", operation).code == 0

    def test_json_and_what_was_there(self, home: Path, call: Call) -> None:
        sizes = sum(path.stat().st_size for path in (home / "cache").rglob("*") if path.is_file())
        report = call("prune", "--yes", "--format", "json").json
        assert report["bytes_reclaimed"] == sizes
        assert report["skipped_in_use"] == 0
        assert [path for path in (home / "cache").rglob("*") if path.is_file()] == []

    def test_quiet(self, home: Path, call: Call) -> None:
        for _ in range(2):
            done = call("prune", "-y", "-q")
            assert (done.code, done.out, done.err) == (0, "", "")

    def test_nothing_to_prune(self, own_home: Path, call: Call) -> None:
        assert call("prune", "-y").err == "Nothing was pruned.\n"
        done = call("prune", "-y", "--format", "json")
        assert done.json["operation"] is None
        assert done.json["bytes_reclaimed"] is None

    def test_dry_run_appends_nothing(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        before = fingerprint(home)
        shown = call("prune", "--dry-run")
        assert shown.code == 0
        assert "example.org/team/tool:2" in shown.out
        kept = shown.out.partition("Keeps")[2]
        assert re.search(r"^ +app:1 +held by sandbox:dev$", kept, re.M)
        assert re.search(r"^ +app:latest +held by sandbox:dev$", kept, re.M)
        plan = call("prune", "-n", "--format", "json").json
        assert [entry["reference"] for entry in plan["images"]] == ["example.org/team/tool:2"]
        assert plan["layers"] == [TOOL.layers[1].diff_id]
        assert {entry["subject"] for entry in plan["kept"]} == {
            "docker.io/library/app:1",
            "docker.io/library/app:latest",
        }
        assert fingerprint(home) == before
        done = call("prune", "-y", "--format", "json").json
        assert done["bytes_reclaimed"] == plan["bytes_reclaimable"]

    def test_dry_run_without_a_home_makes_none(self, own_home: Path, call: Call) -> None:
        assert call("prune", "-n").out.startswith("Nothing to ")
        assert not own_home.exists()

    def test_nobody_to_ask(self, home: Path) -> None:
        before = fingerprint(home)
        done = execute("prune")
        assert (done.code, done.out) == (2, "")
        assert "--yes" in sentence(done.err)
        assert fingerprint(home) == before

    def test_orphans(self, home: Path, call: Call) -> None:
        stray = home / "cache" / "layers" / f"sha256_{'ab' * 32}.erofs"
        stray.write_bytes(bytes(5000))
        own = home / "cache" / "layers" / "notes.txt"
        own.write_text("not a file of the cache")
        call("hold", "app:1", "sandbox:dev")
        call("hold", "example.org/team/tool:2", "sandbox:dev")
        assert call("prune", "-n").out.startswith("Nothing to ")
        assert call("prune", "-y").err == "Nothing was pruned.\n"
        assert stray.exists()
        assert "1 file that no image names" in call("prune", "-n", "--orphans").out
        report = call("prune", "-y", "--orphans", "--format", "json").json
        assert report["bytes_reclaimed"] == 5000
        assert not stray.exists()
        assert own.exists()
        assert call("verify").code == 0

    def test_the_reason_is_kept(self, home: Path, call: Call) -> None:
        call("prune", "-y", "--reason", "disk full on Monday")
        [row] = call("prunes", "--format", "json").json
        assert row["actor"]["reason"] == "disk full on Monday"
        assert "disk full on Monday" in call("prunes").out


ASKED = "Delete these? [y/N]: "


class TestPruneAsks:
    def test_yes(self, home: Path, call: Call) -> None:
        talk = on_terminal(["prune"], [(ASKED, b"y\n")])
        assert talk.code == 0
        shown, _, report = talk.said.partition(ASKED)
        assert "example.org/team/tool:2" in shown
        assert "3 references, 2 manifests, 3 layers" in shown
        assert "Image refs:  3" in report
        assert call("list", "--format", "json").json == []

    @pytest.mark.parametrize("answer", [b"n\n", b"\n", b"no\n"])
    def test_no(self, home: Path, answer: bytes) -> None:
        before = fingerprint(home)
        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert talk.code in (0, 1)
        assert "Nothing was pruned." in talk.said
        assert fingerprint(home) == before

    def test_asks_again(self, home: Path) -> None:
        talk = on_terminal(["prune"], [(ASKED, b"perhaps\n"), ("invalid input", b"n\n")])
        assert "Nothing was pruned." in talk.said

    @pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
    def test_stopped(self, home: Path, call: Call, key: bytes) -> None:
        before = fingerprint(home)
        talk = on_terminal(["prune"], [(ASKED, key)])
        assert talk.code == 130
        assert "Traceback" not in talk.said
        assert talk.said.splitlines()[-1] == "stopped"
        assert fingerprint(home) == before
        # Nothing stays locked behind it.
        assert call("prune", "-y").code == 0

    def test_nothing_to_ask_about(self, own_home: Path) -> None:
        talk = on_terminal(["prune"])
        assert talk.code == 0
        assert ASKED not in talk.said

    def test_yes_does_not_ask(self, home: Path) -> None:
        assert ASKED not in on_terminal(["prune", "-y"]).said

    def test_the_json_of_a_confirmed_prune_is_only_json(self, home: Path) -> None:
        talk = on_terminal(["prune", "--format", "json"], [(ASKED, b"y\n")], stdout_too=False)
        assert talk.stdout is not None
        assert json.loads(talk.stdout)["image_refs_removed"] == 3
        # What is asked about must be where the question is, not in the file.
        assert "example.org/team/tool:2" in talk.said

    def test_what_is_held_meanwhile_stays(self, home: Path, call: Call) -> None:
        """The answer is to what was shown; what somebody holds since then is dropped from it."""

        def answer() -> bytes:
            assert call("hold", "app:1", "sandbox:dev").code == 0
            return b"y\n"

        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert "Image refs:  1" in talk.said
        assert call("list", "-q").lines == ["app:latest", "app:1"]
        assert call("verify").code == 0

    def test_what_is_added_meanwhile_stays(self, home: Path, call: Call, tmp_path: Path) -> None:
        def answer() -> bytes:
            assert call("load", "-q", "-i", written(tmp_path / "next.tar", APP_NEXT), "-t", "new:1").code == 0
            return b"y\n"

        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert talk.code == 0
        # app:1 points at another image than was shown.
        assert sorted(call("list", "-q").lines) == ["app:1", "new:1"]
        assert call("verify").code == 0

    def test_a_question_keeps_nobody_from_deleting(self, home: Path, call: Call) -> None:
        second: list[Done] = []

        def answer() -> bytes:
            second.append(call("rm", "app:1"))
            return b"y\n"

        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert second[0].code == 0
        assert talk.code == 0
        assert call("rm", "app:1").code == 3

    def test_only_one_deletion_at_a_time(
        self, home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("msb_cache.engines.decision._PRUNE_WAIT", 0.1)
        with Lock(home / "db" / "prune.lock") as lock:
            lock.acquire()
            lock.write("01a208de-7af1-7b41-9b6b-151e9b4ceb8a")
            refused = call("rm", "-q", "app:1")
        assert refused.code == 1
        assert "another deletion runs" in sentence(refused.err)
        assert "01a208de-7af1-7b41-9b6b-151e9b4ceb8a" in sentence(refused.err)
        assert call("rm", "app:1").code == 0


def _taken(home: Path) -> int:
    """Return what the one flat root there is takes of the disk."""
    (blob,) = (home / "cache" / "flat" / "blobs").iterdir()
    return blob.stat().st_blocks * 512


class TestFlatRoots:
    def test_they_are_shown_and_counted_apart(self, home: Path, call: Call) -> None:
        add(home, APP.digest)
        taken = _taken(home)
        on_disk = f"1.0 MiB, {size(taken)} on disk"
        roots = f" KiB and {size(taken)} of 1 flat root"
        shown = call("inspect", "app:1").out
        assert re.search(rf"^Flat root: +sha256:[0-9a-f]{{12}}, {on_disk}$", shown, re.M)
        detail = call("inspect", "app:1", "--format", "json").json["flat"]
        assert (detail["virtual_size_bytes"], detail["allocated_bytes"]) == (MIB, taken)
        assert re.search(rf"^Flat roots: +1, {on_disk}$", call("info").out, re.M)
        info = call("info", "--format", "json").json
        assert (info["flat_roots"], info["flat_bytes"], info["flat_allocated_bytes"]) == (1, MIB, taken)

        text = call("prune", "--dry-run").lines[0]
        assert re.fullmatch(rf"Deletes 3 references, .*, 1 flat root: [0-9.]+{roots}", text)
        plan = call("prune", "--dry-run", "--format", "json").json
        assert plan["flat_bytes_reclaimable"] == taken
        (root,) = (each for each in plan["artifacts"] if each["kind"] == "flat")
        assert (root["bytes"], root["manifest_digest"]) == (taken, APP.digest)

        text = call("prune", "-y").out
        assert re.search(r"^ +Flat roots: +1$", text, re.M)
        assert re.search(rf"^ +Reclaimed: .*{roots}$", text, re.M)
        (told,) = call("prunes", "--format", "json").json
        assert (told["flat_removed"], told["flat_bytes_reclaimed"]) == (1, taken)
        assert told["bytes_reclaimed"] == plan["bytes_reclaimable"]
        text = call("prunes", "show", told["operation"]).out
        assert re.search(rf"^Freed: .*{roots}$", text, re.M)
        assert re.search(rf"^flat +deleted +{size(taken)}", text, re.M)
        assert size(told["bytes_reclaimed"] + taken) in call("prunes").out

    def test_removed(self, home: Path, call: Call) -> None:
        add(home, TOOL.digest)
        taken = size(_taken(home))
        assert f" KiB and {taken} of 1 flat root freed" in call("rm", "example.org/team/tool:2").err
        text = call("history", "example.org/team/tool:2").out
        assert "flat root deleted" in text
        assert "flat ref deleted" in text

    def test_none_is_spoken_of_where_there_is_none(self, home: Path, call: Call) -> None:
        assert "flat" not in call("prune", "--dry-run").out
        assert "Flat" not in call("prune", "-y").out
