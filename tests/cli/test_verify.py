"""What the log tells: history as a timeline, past prunes in full, and what verify and rebuild find."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.cli.support import APP, APP_NEXT, BASE, TOOL, fingerprint, sql, written

KINDS = "manifest|metadata|fsmeta|vmdk|layer"


def whats(call: Call, reference: str) -> list[str]:
    """What happened, line by line of the timeline."""
    known = rf"(loaded|used|held|moved|released|removed|(?:{KINDS}) deleted)"
    found = [re.search(rf"(?:^| ){known} +(?:sha256:|-)", line) for line in call("history", reference).lines]
    assert all(found)
    return [match[1] for match in found if match]


class TestHistory:
    def test_a_whole_life(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("use", "app:1", "--holder", "sandbox:dev")
        call("hold", "app:1", "sandbox:dev")
        call("load", "-q", "-i", written(tmp_path / "next.tar", APP_NEXT))
        call("release", "sandbox:dev")
        call("rm", "app:1", "app:latest", "--reason", "no longer needed")
        call("load", "-q", "-i", tmp_path / "app.tar")
        done = call("history", "app:1")
        assert (done.code, done.err) == (0, "")
        timeline = whats(call, "app:1")
        assert timeline[:5] == ["loaded", "used", "held", "moved", "released"]
        assert timeline[5] == "removed"
        assert set(timeline[6:-1]) == {
            "manifest deleted",
            "metadata deleted",
            "fsmeta deleted",
            "vmdk deleted",
            "layer deleted",
        }
        assert timeline[-1] == "loaded"
        by_hand = done.out
        assert "by sandbox:dev" in by_hand
        assert f"was {APP.digest[:19]}, from next.tar" in by_hand
        assert "no longer needed" in by_hand
        assert " freed" in by_hand
        assert re.search(r"\w+@\S+", done.lines[0])

    def test_json(self, home: Path, call: Call) -> None:
        call("rm", "app:1", "--reason", "why not")
        found = call("history", "app:1", "--format", "json").json
        assert [event["type"] for event in found][:2] == ["image.pulled", "image.removed"]
        assert [event["seq"] for event in found] == sorted(event["seq"] for event in found)
        removed = found[1]
        assert removed["subject"] == "docker.io/library/app:1"
        assert removed["actor"]["reason"] == "why not"
        assert removed["actor"]["program"] == "msb-cache"
        assert re.fullmatch("[0-9a-f]{64}", removed["hash"])

    def test_what_others_share_stays_out(self, home: Path, call: Call) -> None:
        """tool:2 goes, app:1 stays: the shared layer is not reported as deleted."""
        call("rm", "example.org/team/tool:2")
        subjects = {
            event["subject"]
            for event in call("history", "example.org/team/tool:2", "--format", "json").json
            if event["type"] == "layer.deleted"
        }
        assert subjects == {TOOL.layers[1].diff_id}
        assert not [what for what in whats(call, "app:1") if "deleted" in what]

    def test_a_layer_shared_by_what_went_together(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        shared = [
            event
            for event in call("history", "app:1", "--format", "json").json
            if event["type"] == "layer.deleted" and event["subject"] == BASE.diff_id
        ]
        assert [event["shared"] for event in shared] == [True]
        assert "shared with other images" in call("history", "app:1").out

    def test_of_an_image_long_gone(self, home: Path, call: Call) -> None:
        call("prune", "-y")
        assert call("inspect", "app:1").code == 3
        assert call("history", "app:1").code == 0
        assert "by a prune" in call("history", "library/app:1").out

    def test_reading_appends_nothing(self, home: Path, call: Call) -> None:
        before = fingerprint(home)
        for command in ("list", "inspect app:1", "history app:1", "events", "prunes", "verify", "prune -n"):
            assert call(*command.split()).code == 0
        assert fingerprint(home) == before


class TestEvents:
    def test_table(self, home: Path, call: Call) -> None:
        done = call("events")
        assert done.lines[0].split() == ["SEQ", "WHEN", "TYPE", "SUBJECT", "DETAILS", "WHO"]
        assert [int(line.split()[0]) for line in done.lines[1:]] == list(range(1, len(done.lines)))
        assert "log.created" in done.lines[1]

    def test_filters(self, home: Path, call: Call) -> None:
        def seqs(*arguments: str) -> list[int]:
            return [event["seq"] for event in call("events", "--format", "json", *arguments).json]

        everything = seqs()
        assert everything == sorted(everything)
        assert seqs("--reverse") == everything[::-1]
        assert seqs("-n", "2") == everything[:2]
        assert seqs("--reverse", "-n", "2") == everything[:-3:-1]
        pulls = call("events", "--type", "image.pulled", "--format", "json").json
        assert {event["type"] for event in pulls} == {"image.pulled"}
        assert len(pulls) == 3
        two = seqs("--type", "image.pulled", "--type", "log.created")
        assert two == [1, *(event["seq"] for event in pulls)]
        [operation] = {event["operation"] for event in pulls[:2]}
        assert set(seqs("--operation", operation)) >= {event["seq"] for event in pulls[:2]}
        assert pulls[2]["seq"] not in seqs("--operation", operation)


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


def _layer(home: Path) -> Path:
    return home / "cache" / "layers" / f"{APP.layers[1].diff_id.replace(':', '_')}.erofs"


class TestVerify:
    def test_sound(self, home: Path, call: Call) -> None:
        done = call("verify")
        assert (done.code, done.err) == (0, "")
        assert [line.split()[:2] for line in done.lines] == [["✓", "log"], ["✓", "index"], ["✓", "disk"]]
        shown = call("verify", "--format", "json").json
        assert (shown["sound"], shown["chain"]["valid"]) == (True, True)
        assert (shown["differences"], shown["disk"]) == ([], [])
        # metadata of three references, fsmeta and VMDK of two images, three layers
        assert shown["files"] == 3 + 2 * 2 + 3

    def test_missing(self, home: Path, call: Call) -> None:
        for folder in ("layers", "fsmeta", "vmdk", "manifests"):
            files = sorted((home / "cache" / folder).iterdir())
            path = next(each for each in files if each.is_file() and each.suffix != ".lock")
            path.unlink()
            done = call("verify")
            assert done.code == 1
            assert f"{path.name} is missing" in done.out
        problems = call("verify", "--format", "json").json["disk"]
        assert [problem["problem"] for problem in problems] == ["missing"] * 4
        assert {problem["kind"] for problem in problems} == {"layer", "fsmeta", "vmdk", "metadata"}

    def test_truncated(self, home: Path, call: Call) -> None:
        size = _layer(home).stat().st_size
        os.truncate(_layer(home), 4096)
        done = call("verify")
        assert done.code == 1
        assert f"{_layer(home).name} has 4,096 bytes, not {size:,}" in done.out
        [problem] = call("verify", "--format", "json").json["disk"]
        assert (problem["problem"], problem["expected_bytes"], problem["found_bytes"]) == ("size", size, 4096)

    def test_extra(self, home: Path, call: Call) -> None:
        extra = home / "cache" / "fsmeta" / f"sha256_{'0' * 64}.erofs"
        extra.write_bytes(b"x")
        foreign = home / "cache" / "layers" / "notes.txt"
        foreign.touch()
        done = call("verify")
        assert done.code == 0
        assert f"{extra.name}: no image names it" in done.out
        assert f"{foreign.name}: not a file of the cache" in done.out
        found = {each["problem"] for each in call("verify", "--format", "json").json["disk"]}
        assert found == {"extra", "foreign"}

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE events SET data = replace(data, 'archive', 'registry') WHERE seq = 3",
            "UPDATE events SET occurred_at = occurred_at + 1 WHERE seq = 2",
            "UPDATE events SET actor = json_set(actor, '$.user', 'nobody') WHERE seq = 3",
            "UPDATE events SET hash = zeroblob(32) WHERE seq = 4",
            "DELETE FROM events WHERE seq = 3",
        ],
    )
    def test_a_changed_event(self, home: Path, call: Call, change: str) -> None:
        triggers = sql(home, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'")
        sql(home, *(f'DROP TRIGGER "{name}"' for (name,) in triggers), change)
        done = call("verify", "--format", "json")
        assert done.code == 1
        assert done.json["sound"] is False
        assert done.json["chain"]["valid"] is False
        assert done.json["chain"]["broken_at"] in (2, 3, 4)
        table = call("verify")
        assert table.code == 1
        assert "✗ log" in table.out

    @pytest.mark.parametrize("change", ["UPDATE events SET version = 2", "DELETE FROM events"])
    def test_the_log_refuses_changes(self, home: Path, change: str) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            sql(home, change)

    def test_a_changed_row_and_its_mending(self, home: Path, call: Call) -> None:
        tables = {
            name
            for (name,) in sql(home, "SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith(("sqlite_", "_")) and name not in ("events", "projection_state")
        }
        good = fingerprint(home)
        changed = 0
        for table in sorted(tables):
            if not sql(home, f'SELECT count(*) FROM "{table}"')[0][0]:
                continue
            changed += 1
            sql(home, f'DELETE FROM "{table}"')
            done = call("verify")
            assert done.code == 1, table
            assert "✗ index" in done.out
            assert table in done.out
            assert "msb-cache rebuild" in done.out
            differences = call("verify", "--format", "json").json["differences"]
            assert {each["table"] for each in differences} == {table}
            assert {each["live"] for each in differences} == {None}
            mended = call("rebuild")
            assert mended.code == 1
            assert table in mended.out
            assert f"{len(differences)} row" in mended.err
            assert call("rebuild").code == 0
            assert fingerprint(home) == good
        assert changed >= 3

    def test_a_changed_value_is_shown_and_mended(self, home: Path, call: Call) -> None:
        good = call("inspect", "app:1", "--format", "json").json
        table, column = _table_with(home, "erofs_bytes")
        sql(home, f'UPDATE "{table}" SET {column} = 12345')
        assert call("inspect", "app:1", "--format", "json").json != good
        done = call("rebuild", "--format", "json")
        assert done.code == 1
        assert len(done.json) == 3
        assert all(12345 in each["live"] and 12345 not in each["folded"] for each in done.json)
        assert call("inspect", "app:1", "--format", "json").json == good
        assert call("verify").code == 0

    def test_rebuild_of_a_good_home(self, home: Path, call: Call) -> None:
        before = fingerprint(home)
        done = call("rebuild")
        assert (done.code, done.out) == (0, "The index is exactly what the log says.\n")
        assert call("rebuild", "--format", "json").json == []
        assert fingerprint(home) == before

    def test_without_a_home(self, own_home: Path, call: Call) -> None:
        done = call("verify")
        assert done.code == 0
        assert "0 events" in done.out
        assert json.loads(call("verify", "--format", "json").raw)["sound"] is True
        assert not own_home.exists()


def _table_with(home: Path, column: str) -> tuple[str, str]:
    for (table,) in sql(home, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        if column in {row[1] for row in sql(home, f'PRAGMA table_info("{table}")')}:
            return table, column
    raise AssertionError(column)
