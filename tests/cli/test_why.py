"""Why something is here, or gone."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.cli.output import rfc3339
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from tests.cli.support import APP, APP_NEXT, BASE, TOOL, Call, sentence, written
from tests.examples import DAY
from tests.logs import ACTOR
from tests.msbhome import SCHEMAS

SHORT = APP.digest[:19]


def append(home: Path, event: NewEvent) -> None:
    with closing(Ledger(Layout(home), actor=ACTOR)) as ledger, ledger.write("operation") as transaction:
        transaction.append([event])


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
        assert f"moved was {APP.digest}, from next.tar" in found["Moved"]
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
        assert f"Needed by:     {APP.digest}  app:1, app:latest" in done.out
        assert f"Was part of:   {TOOL.digest}  example.org/team/tool:2" in done.out
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
        assert found["Went"].endswith("  by a prune")
        assert ", program msb-cache" in found["By"]
        assert found["By"].endswith(": nightly")
        assert found["Policy"] == "rule=unused"
        assert found["Bring back"] == f"msb-cache restore {report['operation']}"
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
        removed = ev.ImageRemoved(manifest_digest=APP.digest, cause="external")
        append(home, NewEvent(removed, "docker.io/library/app:1"))
        found = lines(call("why", "app:1").out)
        assert "by another program" in found["Went"]
        assert "Policy" not in found  # msb has none
        assert found["Bring back"].startswith("msb-cache restore ")

    def test_a_pull_that_never_succeeded(self, home: Path, call: Call) -> None:
        failed = ev.ImagePullFailed(reason="no \x1b[31msuch host")
        append(home, NewEvent(failed, "docker.io/library/app:9"))
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
        assert sentence(call("why", "zzzzzzzz:7").err).startswith("the log has never seen zzzzzzzz:7; `")

    def test_digests(self, home: Path, call: Call) -> None:
        done = call("why", "sha256:" + "0" * 64)
        assert done.code == 3
        assert "never seen a manifest or layer" in sentence(done.err)

    def test_what_is_only_pinned(self, home: Path, call: Call) -> None:
        digest = "sha256:" + "7" * 64
        with ImageCache(home) as cache:
            for pinned in ("zzzzzzzz:7", digest):
                cache.pin(pinned)
        for asked, said in (("zzzzzzzz:7", "zzzzzzzz:7"), (digest, digest[:19])):
            done = call("why", asked)
            assert done.code == 3
            assert (
                sentence(done.err) == f"{said} is pinned, and was never here; `msb-cache pins` says by whom"
            )

    def test_several(self, home: Path, call: Call) -> None:
        """Digests that begin alike are made by hand: hashes rarely do."""
        for digest in ("sha256:" + "e" * 63 + last for last in "12"):
            added = ev.ManifestAdded(media_type="m", config_digest=digest, config=ev.ImageConfig(), layers=())
            append(home, NewEvent(added, digest))
        done = call("why", "sha256:eeeeeee")
        assert (done.code, done.raw) == (2, b"")
        assert "several digests begin with 'sha256:eeeeeee'" in sentence(done.err)

    def test_an_empty_home(self, own_home: Path, call: Call) -> None:
        for asked in ("app:1", "sha256:123456"):
            assert call("why", asked).code == 3
        assert not own_home.exists()


class TestInAHomeThatMsbKeeps:
    def test_a_prune_takes_what_msb_does_not_know(self, home: Path, call: Call) -> None:
        with closing(sqlite3.connect(Layout(home).msb_database)) as database:
            database.executescript(SCHEMAS["0.7"])
        assert lines(call("why", "app:1").out)["A prune now"] == "deletes it (rule: unused, nothing holds it)"
        assert "app:1" in {line.partition(" ")[0] for line in call("prune", "--dry-run").lines}

    def test_it_keeps_that_where_it_cannot_be_told_what_msb_needs(self, home: Path, call: Call) -> None:
        with closing(sqlite3.connect(Layout(home).msb_database)) as database, database:
            database.executescript(SCHEMAS["0.7"])
            database.execute("INSERT INTO manifest (digest, created_at) VALUES ('odd', '')")
        found = lines(call("why", "app:1").out)
        why = "msb does not know it, and what msb needs of it cannot be told"
        assert found["A prune now"] == f"keeps it ({why})"
        assert call("prune", "--dry-run").lines[1].endswith(f"   {why}")
        assert call("why", "app:1", "--format", "json").json["prune"] == {
            "deletes": False,
            "rule": "unknown",
            "by": [],
        }


class TestByRules:
    def test_when_it_goes(self, loaded: Path, call: Call) -> None:
        found = lines(call("why", "app:1", "--unused-for", "14d").out)
        assert found["A prune now"].startswith("deletes it")
        assert re.fullmatch(
            r"it stays \(idle under a minute, within the grace of 1h\); "
            r"it goes in 13 days unless used, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}",
            found["By rules"],
        )
        rules = call("why", "app:1", "--unused-for", "14d", "--format", "json").json["policy"]
        assert (rules["rules"], rules["deletes"], rules["rule"]) == (
            {"unused_for": "14d", "grace": "1h"},
            False,
            "grace",
        )
        used = call("why", "app:1", "--format", "json").json["used"]["occurred_at"]
        with ImageCache(loaded) as cache:
            used_ns = cache.get("app:1").last_used_at_ns
        assert used == rfc3339(used_ns)
        assert rules["goes_at"] == rfc3339((used_ns or 0) + 14 * DAY)

    def test_now(self, loaded: Path, call: Call) -> None:
        found = lines(call("why", "app:1", "--unused-for", "0s", "--grace", "0s").out)
        assert found["By rules"] == "it goes (idle under a minute, over 0s)"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("--exclude app --grace 0s", "it stays (excluded)"),
            ("--filter reference=other", "it stays: no rule selects it"),
            ("--keep-last 1 --grace 0s", "it stays (the last of app)"),
            ("--max-size 1TiB --grace 0s", "it stays (idle under a minute, and its room is not needed)"),
        ],
    )
    def test_what_has_no_time(self, loaded: Path, call: Call, words: str, said: str) -> None:
        assert lines(call("why", "app:1", *words.split()).out)["By rules"] == said
        assert call("why", "app:1", *words.split(), "--format", "json").json["policy"]["goes_at"] is None

    def test_a_pin(self, home: Path, call: Call) -> None:
        call("pin", "app:1", "--until", "2099-01-01", "--reason", "the demo")
        found = lines(call("why", "app:1", "--unused-for", "1d").out)
        assert "pinned until 2099-01-01 00:00:00" in found["Pinned"]
        assert found["Pinned"].partition(" (event")[0].endswith(": the demo")
        assert re.match(
            r"it stays \(pinned by \S+ until 2099-01-01 00:00:00 \+0000\); it goes in \d", found["By rules"]
        )
        call("pin", "app:1")
        assert re.fullmatch(
            r"it stays \(pinned by \S+\)", lines(call("why", "app:1", "--unused-for", "1d").out)["By rules"]
        )

    def test_of_what_is_gone_or_no_image_there_is_nothing_to_say(self, home: Path, call: Call) -> None:
        call("rm", "example.org/team/tool:2")
        for target in ("example.org/team/tool:2", BASE.diff_id):
            done = call("why", target, "--unused-for", "1d")
            assert (done.code, done.err) == (0, "")
            assert "By rules" not in done.out


def test_a_name_with_odd_characters_is_printed_safely(home: Path, call: Call) -> None:
    with closing(sqlite3.connect(Layout(home).database, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO hold (manifest_digest, holder, since, seq) VALUES (?, 'sandbox:\x1b[31m', 1, 2)",
            (APP.digest,),
        )
    assert "\x1b" not in call("why", "app:1").out
