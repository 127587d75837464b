"""Why something is here or gone, what lies idle, and the commands that bring back what a prune deleted."""

from __future__ import annotations

import io
import json
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from tests.cli.conftest import Call
from tests.cli.support import APP, APP_NEXT, BASE, TOOL, fingerprint, sentence, written
from tests.imagebuilder import docker_archive
from tests.logs import ACTOR
from tests.msbhome import SCHEMAS
from tests.registry_server import RegistryServer

SHORT = APP.digest[:19]
DAY = 86400 * 10**9


def lines(text: str) -> dict[str, str]:
    """The answer's lines by their names; the first stands under ''."""
    first, *rest = text.splitlines()
    found = {"": first}
    for line in rest:
        name, _, value = line.strip().partition(":")
        found[name] = value.strip()
    return found


class TestWhyHere:
    def test_an_image(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("use", "app:1", "--holder", "sandbox:dev")
        call("hold", "app:1", "sandbox:dev")
        done = call("why", "app:1")
        assert (done.code, done.err) == (0, "")
        found = lines(done.out)
        assert found[""] == "app:1 is here."
        assert found["Manifest"] == APP.digest
        assert "loaded from app.tar" in found["Came"]
        assert "used by sandbox:dev" in found["Last used"]
        assert "held by sandbox:dev" in found["Held"]
        assert "@" in found["Held"]
        assert found["Shares with"] == "app:latest (2 of 2 layers), example.org/team/tool:2 (1 of 2 layers)"
        assert found["A prune now"] == "keeps it (held by sandbox:dev)"

    def test_what_a_prune_would_delete(self, home: Path, call: Call) -> None:
        found = call("why", "docker.io/library/app:1", "--format", "json").json
        assert found["prune"] == {"deletes": True, "rule": "unused", "by": []}
        assert (found["kind"], found["reference"], found["here"]) == ("image", "app:1", True)
        assert found["used"]["seq"] == found["arrived"]["seq"]
        assert found["arrived"]["data"]["source"]["name"].endswith("app.tar")
        assert found["gone"] is None
        assert "deletes it" in call("why", "app:1").out

    def test_the_fate_is_what_a_prune_does(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        names = ("app:1", "app:latest", "example.org/team/tool:2", APP.digest, TOOL.digest)
        names += tuple(layer.diff_id for layer in (*APP.layers, TOOL.layers[1]))
        told = {name: call("why", name, "--format", "json").json["prune"]["deletes"] for name in names}
        call("prune", "-y")
        done = {name: not call("why", name, "--format", "json").json["here"] for name in names}
        assert told == done
        assert set(told.values()) == {True, False}

    def test_a_moved_reference(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("load", "-q", written(tmp_path / "next.tar", APP_NEXT))
        found = lines(call("why", "app:1").out)
        assert found["Manifest"] == APP_NEXT.digest
        assert "loaded from app.tar" in found["Came"]
        assert f"moved was {SHORT}, from next.tar" in found["Moved"]
        assert lines(call("why", f"app@{APP_NEXT.digest}").out)[""] == "app:1 is here."

    def test_a_manifest(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("load", "-q", written(tmp_path / "next.tar", APP_NEXT))
        found = lines(call("why", SHORT).out)
        assert found[""] == f"The manifest {APP.digest} is here."
        assert (found["References"], found["Earlier"]) == ("app:latest", "app:1")
        call("hold", "app:latest", "snapshot:x")
        call("rm", "-f", "app:latest")
        found = lines(call("why", APP.digest).out)
        assert found["Earlier"] == "app:1, app:latest"
        assert found["A prune now"] == "keeps it (held by snapshot:x)"

    @pytest.mark.parametrize(
        "name", [BASE.diff_id, BASE.digest, BASE.diff_id[:13], BASE.digest[:11], BASE.digest[7:19]]
    )
    def test_a_layer(self, home: Path, call: Call, name: str) -> None:
        call("hold", "app:1", "sandbox:dev")
        call("rm", "example.org/team/tool:2")
        done = call("why", name)
        assert done.out.startswith(f"The layer {BASE.diff_id} is here.\n")
        assert f"Needed by:     {SHORT}  app:1, app:latest" in done.out
        assert f"Was part of:   {TOOL.digest[:19]}  example.org/team/tool:2" in done.out
        assert lines(done.out)["A prune now"] == f"keeps it (needed by {SHORT})"
        found = call("why", name, "--format", "json").json
        assert {each["digest"]: each["here"] for each in found["manifests"]} == {
            APP.digest: True,
            TOOL.digest: False,
        }


class TestWhyGone:
    def test_an_image(self, home: Path, call: Call) -> None:
        call("prune", "-y", "--reason", "nightly")
        report = call("prunes", "--format", "json").json[0]
        found = lines(call("why", "example.org/team/tool:2").out)
        assert found[""] == "example.org/team/tool:2 is gone."
        assert found["Was"] == TOOL.digest
        assert "loaded from tool.tar" in found["Came"]
        assert "by a prune, " in found["Went"]
        assert found["Went"].endswith(": nightly")
        assert found["Policy"] == "rule=unused"
        assert found["Bring back"] == f"msb-cache prunes restore-plan {report['operation'][:13]}"
        gone = call("why", "example.org/team/tool:2", "--format", "json").json["gone"]
        assert gone["operation"] == report["operation"]
        assert gone["policy"] == {"rule": "unused"}
        assert gone["actor"]["reason"] == "nightly"
        shown = call("prunes", "show", report["operation"], "--format", "json").json
        mine = {TOOL.digest, "example.org/team/tool:2", *(layer.diff_id for layer in TOOL.layers)}
        assert gone["bytes_freed"] == sum(
            each["bytes"] or 0 for each in shown["artifacts"] if each["subject"] in mine
        )
        assert gone["layers_kept"] == 0

    def test_one_of_two_references(self, home: Path, call: Call) -> None:
        call("rm", "app:latest")
        gone = call("why", "app:latest", "--format", "json").json["gone"]
        assert (gone["kind"], gone["layers_kept"]) == ("remove", 2)
        found = lines(call("why", "app:latest").out)
        assert found["Freed"].endswith("; 2 layers stayed")
        assert found["Policy"] == "references=app:latest, force=false"

    def test_it_came_and_went_before(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("rm", "example.org/team/tool:2")
        call("load", "-q", tmp_path / "tool.tar")
        call("use", "example.org/team/tool:2")
        call("rm", "example.org/team/tool:2")
        found = call("why", "example.org/team/tool:2", "--format", "json").json
        pulls = call("events", "--type", "image.pulled", "--format", "json").json
        assert found["arrived"]["seq"] == pulls[-1]["seq"]
        removed = call("events", "--type", "image.removed", "--format", "json").json
        assert found["gone"]["event"]["seq"] == removed[-1]["seq"]

    def test_digests(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        for digest in (APP.digest, BASE.diff_id, TOOL.layers[1].digest):
            done = call("why", digest)
            assert "is gone." in done.lines[0]
            assert "by a prune" in lines(done.out)["Went"]

    def test_by_another_program(self, home: Path, call: Call) -> None:
        with Ledger(Layout(home), actor=ACTOR).write("operation") as transaction:
            removed = ev.ImageRemoved(manifest_digest=APP.digest, cause="external")
            transaction.append([NewEvent(removed, "docker.io/library/app:1")])
        found = lines(call("why", "app:1").out)
        assert "by another program" in found["Went"]
        assert "Bring back" not in found

    def test_a_pull_that_never_succeeded(self, home: Path, call: Call) -> None:
        failed = ev.ImagePullFailed(reason="no \x1b[31msuch host")
        with Ledger(Layout(home), actor=ACTOR).write("operation") as transaction:
            transaction.append([NewEvent(failed, "docker.io/library/app:9")])
        done = call("why", "app:9")
        assert "app:9 was never here" in done.lines[0]
        assert "such host" in done.out
        assert "\x1b" not in done.out
        assert call("why", "app:9", "--format", "json").json["pull_failed"]["data"]["reason"] == failed.reason


class TestWhyUnknown:
    @pytest.mark.parametrize(
        ("asked", "offered"),
        [
            ("ap:1", "app:1"),
            ("app:2", "app:1"),
            ("example.org/team/tol:2", "example.org/team/tool:2"),
            ("tool:1", "example.org/team/tool:2"),
        ],
    )
    def test_names_like_it(self, home: Path, call: Call, asked: str, offered: str) -> None:
        call("prune", "-y")  # names of what is gone are offered as well
        done = call("why", asked)
        assert (done.code, done.raw) == (3, b"")
        assert f"never seen {asked}; did you mean {offered}" in sentence(done.err)

    def test_nothing_like_it(self, home: Path, call: Call) -> None:
        assert sentence(call("why", "zzzzzzzz:7").err) == "the log has never seen zzzzzzzz:7"

    def test_digests(self, home: Path, call: Call) -> None:
        done = call("why", "sha256:" + "0" * 64)
        assert done.code == 3
        assert "never seen a manifest or layer" in sentence(done.err)

    def test_several(self, home: Path, call: Call) -> None:
        """Digests that begin alike are made by hand: hashes rarely do."""
        with Ledger(Layout(home), actor=ACTOR).write("operation") as transaction:
            for last in "12":
                digest = "sha256:" + "e" * 63 + last
                added = ev.ManifestAdded(
                    media_type="m", config_digest=digest, config=ev.ImageConfig(), layers=()
                )
                transaction.append([NewEvent(added, digest)])
        done = call("why", "sha256:eeeeeee")
        assert (done.code, done.raw) == (2, b"")
        assert "several digests begin with 'sha256:eeeeeee'" in sentence(done.err)

    def test_an_empty_home(self, own_home: Path, call: Call) -> None:
        for asked in ("app:1", "sha256:123456"):
            assert call("why", asked).code == 3
        assert not own_home.exists()


class TestInAHomeThatMsbKeeps:
    def test_a_prune_keeps_what_msb_does_not_know(self, home: Path, call: Call) -> None:
        with closing(sqlite3.connect(Layout(home).msb_database)) as database:
            database.executescript(SCHEMAS["0.7"])
        found = lines(call("why", "app:1").out)
        assert found["A prune now"] == "keeps it (msb does not know it)"
        dry_run = call("prune", "--dry-run").out
        assert any(
            line.split() == ["app:1", *["msb", "does", "not", "know", "it"]] for line in dry_run.splitlines()
        )
        assert call("why", "app:1", "--format", "json").json["prune"] == {
            "deletes": False,
            "rule": "unknown",
            "by": [],
        }


class TestLastUsed:
    @pytest.fixture
    def aged(self, own_home: Path, tmp_path: Path) -> Path:
        """app:1 and app:latest loaded 40 days ago, tool:2 35 days ago; app:1 used 10 days ago."""
        import time

        now = time.time_ns()

        def at(days: int) -> ImageCache:
            return ImageCache(own_home, clock=lambda: now - days * DAY - 10**9)

        with at(40) as cache:
            cache.load(io.BytesIO(docker_archive(APP)))
        with at(35) as cache:
            cache.load(written(tmp_path / "tool.tar", TOOL))
        with at(10) as cache:
            cache.use("app:1", holder="sandbox:dev")
        return own_home

    def test_longest_first(self, aged: Path, call: Call) -> None:
        done = call("last-used")
        assert [line.split()[0] for line in done.lines[1:]] == [
            "app:latest",
            "example.org/team/tool:2",
            "app:1",
        ]
        assert ["40 days" in done.lines[1], "35 days" in done.lines[2], "10 days" in done.lines[3]] == [
            True
        ] * 3
        assert "loaded from stdin" in done.lines[1]
        assert "used by sandbox:dev" in done.lines[3]

    @pytest.mark.parametrize(
        ("length", "count"),
        [
            ("30 days", 2),
            ("36days", 1),
            ("6 weeks", 0),
            ("1 Week", 3),
            ("1 month", 2),
            ("500 hours", 2),
            ("0 seconds", 3),
        ],
    )
    def test_only_what_is_idle(self, aged: Path, call: Call, length: str, count: int) -> None:
        found = call("last-used", "--idle-for", length, "--format", "json").json
        assert len(found) == count
        assert all(each["event"]["type"] in ("image.pulled", "image.used") for each in found)
        assert [each["idle_ns"] for each in found] == sorted(
            (each["idle_ns"] for each in found), reverse=True
        )

    def test_the_event_is_the_one_that_list_shows(self, aged: Path, call: Call) -> None:
        told = {each["reference"]: each for each in call("last-used", "--format", "json").json}
        for image in call("list", "--format", "json").json:
            assert told[image["reference"]]["event"]["occurred_at"] == image["last_used_at"]

    def test_nothing(self, own_home: Path, call: Call) -> None:
        done = call("last-used")
        assert (done.code, done.raw, done.err) == (0, b"", "No images are cached.\n")
        assert call("last-used", "--format", "json").json == []


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
        by_digest = f"{server.host}/team/app@{APP.digest}"
        assert after == {
            "mine:7": TOOL.digest,
            "example.org/team/tool:2": TOOL.digest,
            by_digest: before[f"{server.host}/team/app:1"],
        }
        plan = call("prunes", "restore-plan", operation, "--format", "json").json
        told = {each["reference"]: each["certainty"] for each in plan["images"]}
        assert told == {
            "mine:7": "here",
            "example.org/team/tool:2": "here",
            f"{server.host}/team/app:1": "exact",
        }
        assert plan["lost"] == []

    def test_the_home_is_in_the_command(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        operation = call("prunes", "--format", "json").json[0]["operation"]
        plan = call("--home", home, "prunes", "restore-plan", operation, "--format", "json").json
        assert all(each["command"][:3] == ["msb-cache", "--home", str(home)] for each in plan["images"])

    def test_what_cannot_be_brought_back(self, home: Path, call: Call, tmp_path: Path) -> None:
        with ImageCache(home) as cache:
            cache.load(io.BytesIO(docker_archive(APP_NEXT)))
        (tmp_path / "tool.tar").unlink()
        stray = "sha256:" + "1" * 64
        Layout(home).layer(stray).write_bytes(bytes(4096))
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
        assert found["command"][-2:] == ["--tag", "example.org/team/tool:2"]
        assert "it had been example.org/team/tool:2" in found["notes"][0]

    def test_what_was_seen_in_msb_is_a_guess(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        with ImageCache(own_home) as cache:
            cache.load(io.BytesIO(docker_archive(TOOL)))
            source = ev.Source(kind="microsandbox")
            pulled = ev.ImagePulled(manifest_digest=TOOL.digest, changed=True, source=source)
            with Ledger(Layout(own_home)).write("operation") as transaction:
                transaction.append([NewEvent(pulled, "example.org/team/tool:2")])
            cache.prune()
            plan = cache.restore_plan(cache.deletions()[0].operation)
        (found,) = plan.images
        assert found.certainty == "guess"
        assert found.arguments == ("pull", f"example.org/team/tool@{TOOL.digest}")
        assert "a guess" in found.notes[-1]

    def test_unknown(self, home: Path, call: Call) -> None:
        done = call("prunes", "restore-plan", "01a208e8")
        assert (done.code, done.raw) == (3, b"")
        assert "no deletion has the id" in sentence(done.err)


def test_asking_changes_nothing(home: Path, call: Call) -> None:
    call("rm", "app:latest")
    before = fingerprint(home)
    operation = call("prunes", "--format", "json").json[0]["operation"]
    for words in (
        ["why", "app:1"],
        ["why", APP.digest],
        ["last-used"],
        ["prunes", "restore-plan", operation],
    ):
        assert call(*words).code == 0
        assert json.loads(call(*words, "--format", "json").raw) is not None
    assert fingerprint(home) == before


def test_a_name_with_odd_characters_is_printed_safely(home: Path, call: Call) -> None:
    with closing(sqlite3.connect(Layout(home).database, isolation_level=None)) as connection:
        connection.execute("INSERT INTO hold VALUES (?, 'sandbox:\x1b[31m', NULL, 1, 2, NULL)", (APP.digest,))
    assert "\x1b" not in call("why", "app:1").out
