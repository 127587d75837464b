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
    USAGE,
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
        done = call("prune", "-y", "-q")
        (last,) = call("prunes", "-n", "1", "--format", "json").json
        assert (done.code, done.lines, done.err) == (0, [last["operation"]], "")
        again = call("prune", "-y", "-q")
        assert (again.code, again.out, again.err) == (0, "", "")

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
        assert re.search(r"^app:1 +KEEP .* held by sandbox:dev$", shown.out, re.M)
        assert re.search(r"^app:latest +KEEP .* held by sandbox:dev$", shown.out, re.M)
        assert shown.lines[-2] == "Keeps 2 images."
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
        assert call("prune", "-n").out == "Nothing to delete.\n"
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
        assert call("prune", "-n").lines[-2:] == ["Keeps 3 images.", "Nothing to delete."]
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


class TestPolicy:
    """What is printed of it; what its rules mean is in tests/commands/test_prune.py."""

    def test_json(self, home: Path, call: Call) -> None:
        words = ("--max-delete", "50%", "--filter", "reference=app", "--grace", "0s")
        shown = call("prune", "-n", "--format", "json", *words)
        plan = shown.json
        assert shown.code == BOUND
        assert "2 of 3 images would go, and at most 50 % may: app:" in sentence(shown.err)
        assert plan["dry_run"] is True
        assert plan["policy"] == {"filter": ["reference=app"], "grace": "0s", "max_delete": "50%"}
        assert {each["reference"]: each["deletes"] for each in plan["considered"]} == {
            "app:1": True,
            "app:latest": True,
        }
        assert sum(each["freed_bytes"] for each in plan["considered"]) == plan["bytes_freed"] > 0
        assert plan["bytes_missing"] == 0
        refused = call("prune", "-y", "--format", "json", *words)
        assert (refused.code, refused.out) == (BOUND, "")
        assert sentence(refused.err) == sentence(shown.err)
        assert len(call("list", "-q").lines) == 3

    def test_too_little(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        before = fingerprint(home)
        words = ("--max-size", "1", "--grace", "0s")
        shown = call("prune", "-n", *words)
        assert shown.code == BOUND
        assert re.search(r"^example.org/team/tool:2 +KEEP .* the bound is not met$", shown.out, re.M)
        said = sentence(shown.err)
        assert re.fullmatch(
            r"all that may go frees [\d.]+ KiB too little, so nothing was deleted; "
            "`--best-effort` deletes it all the same",
            said,
        )
        assert call("prune", "-n", "--format", "json", *words).json["bytes_missing"] > 0
        done = call("prune", "-y", *words)
        assert (done.code, done.out, sentence(done.err)) == (BOUND, "", said)
        assert fingerprint(home) == before
        assert call("prune", "-y", "--best-effort", *words).code == 0
        assert sorted(call("list", "-q").lines) == ["app:1", "app:latest"]

    def test_quiet(self, home: Path, call: Call) -> None:
        call("pin", "app:1")
        done = call("prune", "-n", "-q", "--grace", "0s")
        assert (done.code, sorted(done.lines), done.err) == (0, ["app:latest", "example.org/team/tool:2"], "")

    def test_by_the_policy_file(self, loaded: Path, call: Call) -> None:
        without = call("prune", "-n", "--policy")
        assert (without.code, "has no policy" in sentence(without.err)) == (USAGE, True)
        path = loaded / "cache-policy.toml"
        path.write_text(
            '[keep]\nreferences = ["app:latest"]\n[[rule]]\nname = "ours"\nfilter = "reference=app"\n'
            'grace = "0s"\n[[rule]]\nname = "old"\nunused-for = "3d"\n'
        )
        shown = call("prune", "-n", "--policy")
        assert shown.code == 0
        rows = {line.split()[0]: line.partition(" KiB   ")[2] for line in shown.lines[1:4]}
        assert rows["app:latest"].endswith("kept by the policy")
        assert rows["app:1"].endswith("ours: idle under a minute")
        assert rows["example.org/team/tool:2"].endswith("old: idle under a minute, within the grace of 1h")
        mixed = call("prune", "-n", "--policy", "--keep-last", "1")
        assert (mixed.code, "give only --max-delete" in sentence(mixed.err)) == (USAGE, True)
        limited = call("prune", "-y", "--policy", "--max-delete", "0")
        assert (limited.code, len(call("list", "-q").lines)) == (BOUND, 3)
        assert sentence(limited.err).startswith("1 of 3 images would go, and at most 0 may: app:1")
        report = call("prune", "-y", "--policy", "--format", "json").json
        assert sorted(call("list", "-q").lines) == ["app:latest", "example.org/team/tool:2"]
        told = call("prunes", "show", report["operation"])
        assert f"Policy:      rule=policy, file={path}, rules=ours old, keep=reference=app:latest" in told.out
        assert "ours: idle under a minute" in told.out
        assert "Because:       ours: idle under a minute" in call("why", "app:1").out
        assert (
            "By policy:     it stays (old: idle under a minute, within the grace of 1h); it goes in"
            in call("why", "example.org/team/tool:2").out
        )

    def test_a_bound_of_the_policy_takes_all_that_may_go(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        (home / "cache-policy.toml").write_text('[[rule]]\nname = "size"\nmax-size = 1\ngrace = "0s"\n')
        done = call("prune", "-y", "-q", "--policy")
        assert (done.code, len(done.lines)) == (BOUND, 1)
        assert sentence(done.err).startswith("the bound of 'size' in the policy cannot be kept: all that may")
        assert sorted(call("list", "-q").lines) == ["app:1", "app:latest"]
        assert call("prune", "-n", "--policy").code == BOUND

    def test_orphans_only(self, home: Path, call: Call) -> None:
        stray = home / "cache" / "layers" / f"sha256_{'ab' * 32}.erofs"
        stray.write_bytes(bytes(5000))
        shown = call("prune", "-n", "--orphans-only")
        assert shown.lines == [f"Deletes 1 file that no image names: {size(8192)} come free."]
        refused = call("prune", "-n", "--orphans-only", "--unused-for", "1d")
        assert refused.code == USAGE
        assert "orphans-only takes no image" in sentence(refused.err)
        assert call("prune", "-y", "--orphans-only", "--format", "json").json["orphans_removed"] == 1
        assert not stray.exists()
        assert len(call("list", "-q").lines) == 3
        done = call("prune", "-y", "--orphans-only")
        assert (done.code, done.out, done.err) == (0, "", "Nothing was pruned.\n")

    def test_the_decision_is_told_later(self, loaded: Path, call: Call) -> None:
        call("pin", "app:1", "--until", "2099-01-01")
        report = call("prune", "-y", "--unused-for", "0s", "--grace", "0s", "--format", "json").json
        shown = call("prunes", "show", report["operation"])
        assert "Policy:      rule=policy, unused_for=0s, grace=0s" in shown.lines
        assert re.search(r"^app:latest +sha256:\S{64}   idle under a minute, over 0s$", shown.out, re.M)
        assert re.search(r"^app:1 +pinned by \S+ until 2099-01-01 00:00:00 [+]\d{4}$", shown.out, re.M)
        told = call("prunes", "show", report["operation"], "--format", "json").json
        assert {each["subject"]: (each["rule"], each["because"]) for each in told["going"]} == {
            "docker.io/library/app:latest": ("due", "idle under a minute, over 0s"),
            "example.org/team/tool:2": ("due", "idle under a minute, over 0s"),
        }
        (kept,) = told["kept"]
        assert (kept["subject"], kept["rule"]) == ("docker.io/library/app:1", "pinned")
        assert kept["until"] is not None
        gone = call("why", "example.org/team/tool:2")
        assert "  Because:       idle under a minute, over 0s" in gone.lines
        assert "  Policy:        rule=policy, unused_for=0s, grace=0s" in gone.lines
        found = call("why", "app:latest", "--format", "json").json
        assert found["gone"]["because"] == "idle under a minute, over 0s"

    def test_as_the_installed_program(self, home: Path) -> None:
        shown = execute("prune", "-n", "--unused-for", "1h")
        assert (shown.code, shown.lines[-1], shown.err) == (0, "Nothing to delete.", "")
        assert "\x1b" not in shown.out
        assert execute("prune", "-y", "--max-delete", "1").code == BOUND
        assert execute("prune", "-y", "--max-size", "1").code == BOUND
        done = execute("prune", "-y", "--filter", "reference=app", "--grace", "0s")
        assert (done.code, done.lines[0].split()) == (0, ["Image", "refs:", "2"])
        assert execute("list", "-q").lines == ["example.org/team/tool:2"]
        assert execute("verify").code == 0


class TestOnATerminal:
    """With 80 columns: what is asked about stands there whole, and its sum right above the question."""

    def test_names_and_reasons_are_whole(self, loaded: Path, call: Call, tmp_path: Path) -> None:
        long = "registry.example.org/a/rather/long/name/of/a/team/and/its/image:2027-01-15"
        call("load", "-q", "-i", tmp_path / "tool.tar", "-t", long)
        holders = [f"sandbox:with-a-name-{number}" for number in range(5)]
        for holder in holders:
            call("hold", "app:1", holder)
        words = ["prune", "--unused-for", "0s", "--grace", "0s", "--max-delete", "9"]
        said = on_terminal(words, [(ASKED, b"n\n")], NO_COLOR="1").said
        assert "\x1b" not in said
        shown = said.partition(ASKED)[0]
        for whole in (long, "example.org/team/tool:2"):
            assert whole in shown
        assert f"held by {', '.join(holders)}" in " ".join(shown.split())
        assert all(len(line) <= 80 for line in shown.splitlines())
        assert shown.count("idle under a minute, over 0s") == 2
        total, empty, before = shown.splitlines()[-1], *shown.splitlines()[-3:-1]
        assert re.fullmatch(r"Deletes 2 references, .*: [\d.]+ KiB come free\.", total or before), shown
        assert empty == "" or total == ""

    def test_the_dry_run_shows_the_same(self, home: Path, call: Call) -> None:
        words = ["--filter", "reference=app", "--grace", "0s"]
        asked = on_terminal(["prune", *words], [(ASKED, b"n\n")], NO_COLOR="1").said.partition(ASKED)[0]
        shown = on_terminal(["prune", "-n", *words], NO_COLOR="1").said
        assert asked == f"{shown}\n"
        assert all(len(line) <= 80 for line in shown.splitlines())
        piped = on_terminal(["prune", "-n", *words], stdout_too=False)
        assert piped.stdout == call("prune", "-n", *words).out
        assert "\x1b" not in piped.said + (piped.stdout or "")

    def test_a_bound_that_is_not_met_asks_nothing(self, home: Path) -> None:
        talk = on_terminal(["prune", "--max-size", "1"])
        assert talk.code == BOUND
        assert ASKED not in talk.said


ASKED = "Delete these? [y/N]: "
BOUND = 5


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
        assert re.search(rf"^Flat root: +sha256:[0-9a-f]{{64}}, {on_disk}$", shown, re.M)
        detail = call("inspect", "app:1", "--format", "json").json["flat"]
        assert (detail["virtual_size_bytes"], detail["allocated_bytes"]) == (MIB, taken)
        assert re.search(rf"^Flat roots: +1, {on_disk}$", call("info").out, re.M)
        info = call("info", "--format", "json").json
        assert (info["flat_roots"], info["flat_bytes"], info["flat_allocated_bytes"]) == (1, MIB, taken)

        plan = call("prune", "--dry-run", "--format", "json").json
        text = call("prune", "--dry-run").lines[-1]
        freed = size(plan["bytes_freed"])
        assert re.fullmatch(rf"Deletes 3 references, .*, 1 flat root: {freed} come free.", text)
        assert plan["bytes_freed"] == sum(each["freed_bytes"] for each in plan["considered"])
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
