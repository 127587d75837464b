"""Past prunes and removals: as a list, in full, and the commands that bring back what they deleted."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from tests.cli.support import APP, APP_NEXT, FAILED, NOT_FOUND, TOOL, USAGE, Call, sentence, written
from tests.imagebuilder import docker_archive
from tests.msbhome import MsbHome
from tests.registry_server import RegistryServer


class TestPrunes:
    def test_list(self, home: Path, call: Call) -> None:
        call("rm", "app:1")
        call("prune", "-y")
        done = call("prunes")
        assert done.lines[0].split() == ["ID", "WHEN", "KIND", "IMAGES", "LAYERS", "FREED", "OUTCOME", "WHO"]
        newest, oldest = (re.split(r"\s{2,}", line) for line in done.lines[1:])
        assert newest[2:5] == ["prune", "2", "3"]
        assert oldest[2:5] == ["remove", "1", "0"]
        assert newest[6] == oldest[6] == "completed"
        assert [line.split() for line in call("prunes", "-n", "1").lines] == [
            line.split() for line in done.lines[:2]
        ]

    def test_what_msb_deleted(self, msb_home: MsbHome, call: Call) -> None:
        call("sync")
        assert call("prunes").err == "Nothing was ever pruned or removed.\n"
        digest = msb_home.one(
            "SELECT m.digest FROM manifest m JOIN image_ref r ON r.manifest_id = m.id "
            "WHERE r.reference = 'example.org/two:2'"
        )
        msb_home.remove("example.org/two:2")
        (listed,) = call("prunes", "--format", "json").json
        assert (listed["kind"], listed["engine"], listed["policy"]) == ("external", "msb", {})
        assert (listed["outcome"], listed["finished_at"]) == ("completed", listed["started_at"])
        assert (listed["image_refs_removed"], listed["manifests_removed"]) == (1, 1)
        assert listed["actor"]["observed"]
        done = call("prunes")
        assert (len(done.lines), done.err) == (2, "")
        shown = call("prunes", "show", done.lines[1].split()[0])
        assert "Policy" not in shown.out
        assert re.search(r"^By: +seen by ", shown.out, re.M)
        assert re.search(f"^example.org/two:2 +{digest}", shown.out, re.M)
        full = call("prunes", "show", listed["operation"], "--format", "json").json
        assert {each["outcome"] for each in full["artifacts"]} == {"deleted"}
        assert sum(each["bytes"] or 0 for each in full["artifacts"]) == full["bytes_reclaimed"] > 0
        plan = call("prunes", "restore-plan", listed["operation"])
        assert plan.lines[0] == "# What another program deleted, and how to have it again"
        assert plan.lines[-1].endswith(f" pull example.org/two@{digest}")

    def test_the_listed_ids_work(self, home: Path, call: Call) -> None:
        """An id as the table shows it must be one that `prunes show` takes, also after quick removals."""
        for reference in ("app:1", "app:latest", "example.org/team/tool:2"):
            call("rm", reference)
        for line in call("prunes").lines[1:]:
            done = call("prunes", "show", line.split()[0])
            assert done.code == 0, done.err

    def test_show(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        report = call("prune", "-y", "--format", "json", "--reason", "space").json
        done = call("prunes", "show", report["operation"])
        assert (done.code, done.err) == (0, "")
        for expected in (
            report["operation"],
            "prune",
            "rule=unused",
            "space",
            "completed",
            TOOL.layers[1].diff_id,
        ):
            assert expected in done.out
        assert re.search(rf"^ *example.org/team/tool:2 +{TOOL.digest}", done.out, re.M)
        for name in ("app:1", "app:latest"):
            assert re.search(rf"^ *{name} +held by sandbox:dev$", done.out, re.M)
        for kind in ("metadata", "manifest", "vmdk", "fsmeta", "layer"):
            assert re.search(rf"^{kind} +deleted ", done.out, re.M)

    def test_show_json(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        report = call("prune", "-y", "--format", "json").json
        shown = call("prunes", "show", report["operation"][:18], "--format", "json").json
        for name in report.keys() & shown.keys():
            assert shown[name] == report[name]
        assert shown["images"] == [
            {"reference": "example.org/team/tool:2", "digest": TOOL.digest, "forced": False}
        ]
        freed = sum(artifact["bytes"] or 0 for artifact in shown["artifacts"])
        assert freed == report["bytes_reclaimed"]
        assert {artifact["outcome"] for artifact in shown["artifacts"]} == {"deleted"}
        assert {tuple(kept["by"]) for kept in shown["kept"]} == {("sandbox:dev",)}
        assert shown["finished_at"] > shown["started_at"]

    def test_json_list(self, home: Path, call: Call) -> None:
        call("rm", "app:1")
        [row] = call("prunes", "--format", "json").json
        assert (row["kind"], row["image_refs_removed"], row["outcome"]) == ("remove", 1, "completed")

    def test_what_could_not_be_deleted(self, home: Path, call: Call) -> None:
        path = home / "cache" / "layers" / f"{TOOL.layers[1].diff_id.replace(':', '_')}.erofs"
        path.unlink()
        path.mkdir()
        (path / "file").touch()
        done = call("rm", "example.org/team/tool:2")
        assert "Traceback" not in done.err
        [row] = call("prunes", "--format", "json").json
        assert row["outcome"] == "partial"
        shown = call("prunes", "show", row["operation"], "--format", "json").json
        [stuck] = [artifact for artifact in shown["artifacts"] if artifact["outcome"] != "deleted"]
        assert stuck["subject"] == TOOL.layers[1].diff_id
        assert "irectory" in call("prunes", "show", row["operation"]).out
        # Who removed it must be told, too.
        assert done.code == 1 or "could not" in done.err or "not deleted" in done.err

    def test_none(self, home: Path, call: Call) -> None:
        assert (call("prunes").out, call("prunes").err) == ("", "Nothing was ever pruned or removed.\n")
        assert call("prunes", "--format", "json").json == []


class TestIds:
    @pytest.mark.parametrize("operation", ["", "zz", "../x", "01a2 b", "01", "Ä" * 6])
    def test_no_operation_id(self, home: Path, call: Call, operation: str) -> None:
        done = call("prunes", "show", operation)
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "msb-cache prunes" in sentence(done.err)

    def test_unknown_operation_id(self, home: Path, call: Call) -> None:
        done = call("prunes", "show", "0190a0b0-1111-7222-8333-444444444444")
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "msb-cache prunes" in sentence(done.err)

    def test_ambiguous_operation_id(self, home: Path, call: Call) -> None:
        call("rm", "app:1")
        call("rm", "app:latest")
        first, second = (row["operation"] for row in call("prunes", "--format", "json").json)
        prefix = first[: next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)]
        assert len(prefix) >= 4
        done = call("prunes", "show", prefix)
        assert done.code in (FAILED, USAGE, NOT_FOUND)
        assert done.raw == b""
        assert "2 deletions" in sentence(done.err)


class TestRestorePlan:
    def test_what_is_printed_runs_and_brings_it_back(
        self, own_home: Path, call: Call, tmp_path: Path
    ) -> None:
        """An archive whose name needs quotes, a tag of our own, and an image from a registry."""
        archive = written(tmp_path / "it's an $archive.tar", TOOL)
        with RegistryServer() as server:
            server.add(APP, "team/app", "1")
            call("load", "-q", archive, "--tag", "mine:7")
            call("pull", "-q", f"{server.host}/team/app:1")
            before = {each["reference"]: each["digest"] for each in call("list", "--format", "json").json}
            assert call("prune", "-y").code == 0
            operation = call("prunes", "--format", "json").json[0]["operation"]
            done = call("prunes", "restore-plan", operation[:13])
            assert (done.code, done.err) == (0, "")
            commands = [shlex.split(line, comments=True) for line in done.lines]
            commands = [words for words in commands if words]
            assert sorted(words[1] for words in commands) == ["load", "load", "pull"]
            for program, *words in commands:
                assert program == "msb-cache"
                assert call(*words).code == 0
            after = {each["reference"]: each["digest"] for each in call("list", "--format", "json").json}
        assert after == before
        plan = call("prunes", "restore-plan", operation, "--format", "json").json
        told = {each["reference"]: each["certainty"] for each in plan["images"]}
        assert told == {
            "mine:7": "here",
            "example.org/team/tool:2": "here",
            f"{server.host}/team/app:1": "here",
        }
        assert plan["lost"] == []

    def test_the_home_is_in_the_command(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        operation = call("prunes", "--format", "json").json[0]["operation"]
        plan = call("--home", home, "prunes", "restore-plan", operation, "--format", "json").json
        assert all(each["command"][:3] == ["msb-cache", "--home", str(home)] for each in plan["images"])

    def test_what_cannot_be_brought_back(self, loaded: Path, call: Call, tmp_path: Path) -> None:
        with ImageCache(loaded) as cache:
            cache.load(io.BytesIO(docker_archive(APP_NEXT)))
        (tmp_path / "tool.tar").unlink()
        stray = "sha256:" + "1" * 64
        Layout(loaded).layer(stray).write_bytes(bytes(4096))
        call("prune", "-y", "--orphans")
        operation = call("prunes", "--format", "json").json[0]["operation"]
        plan = call("prunes", "restore-plan", operation, "--format", "json").json
        told = {each["reference"]: each for each in plan["images"]}
        assert told["app:1"]["certainty"] == "none"
        assert "stdin" in told["app:1"]["notes"][0]
        assert "tool.tar, which is not there any more" in told["example.org/team/tool:2"]["notes"][0]
        assert told["app:latest"]["certainty"] == "same source"
        assert plan["lost"] == [{"kind": "layer", "subject": stray}]
        done = call("prunes", "restore-plan", operation)
        assert done.out.count("it cannot be brought back") == 2
        assert f"layer {stray}" in done.out

    def test_a_manifest_whose_reference_went_before(self, home: Path, call: Call) -> None:
        call("hold", "example.org/team/tool:2", "sandbox:dev")
        call("rm", "-f", "example.org/team/tool:2")
        call("release", "sandbox:dev")
        call("prune", "-y")
        operation = call("prunes", "--format", "json").json[0]["operation"]
        plan = call("prunes", "restore-plan", operation, "--format", "json").json
        (found,) = [each for each in plan["images"] if each["reference"] is None]
        assert found["digest"] == TOOL.digest
        assert found["command"][-4:] == [
            "--digest",
            TOOL.digest,
            "--tag",
            f"example.org/team/tool@{TOOL.digest}",
        ]
        assert "it had been example.org/team/tool:2" in found["notes"][0]

    def test_what_was_seen_in_msb_is_a_guess(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        with ImageCache(own_home) as cache:
            cache.load(io.BytesIO(docker_archive(TOOL)))
            source = ev.Source(kind="microsandbox")
            pulled = ev.ImagePulled(manifest_digest=TOOL.digest, changed=True, source=source)
            with Ledger(Layout(own_home)).write("operation") as transaction:
                transaction.append([NewEvent(pulled, "example.org/team/tool:2")])
            cache.prune()
            plan = cache.restore_plan(cache.prunes()[0].operation)
        (found,) = plan.images
        assert found.certainty == "guess"
        assert found.arguments == ("pull", "--digest", TOOL.digest, "example.org/team/tool:2")
        assert "a guess" in found.notes[-1]

    def test_unknown(self, home: Path, call: Call) -> None:
        done = call("prunes", "restore-plan", "01a208e8")
        assert (done.code, done.raw) == (3, b"")
        assert "no deletion has the id" in sentence(done.err)
