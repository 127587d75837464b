"""One deletion in full, from a report made by hand: what an own prune rarely shows."""

from __future__ import annotations

import re
from typing import Any

import pytest

from msb_cache.cli.deletions import failures, print_deletion
from msb_cache.eventstore import events as ev
from msb_cache.models import ImagePruneReport
from msb_cache.projections.rows import DeletionRow, UndoingRow
from msb_cache.queries.deletions import ArtifactReport, DeletionReport, DeletionSummary
from msb_cache.shapes import jsonable
from tests.logs import ACTOR, PYTHON, digest

OPERATION = "01a208de-7af1-7b41-9b6b-151e9b4ceb8a"


def report(**row: Any) -> DeletionReport:
    counters = DeletionRow(OPERATION, "remove", 7, 1_800_000_000_000_000_000, **row)
    return DeletionReport(
        operation=OPERATION,
        actor=ACTOR,
        policy={"references": ["app:1", "b:\x1b[31m"], "force": True, "rule": "Named"},
        counters=counters,
        images=[(PYTHON, ev.ImageRemoved(manifest_digest=digest(1), cause="remove", forced=True))],
        artifacts=[
            ArtifactReport("layer", digest(2), 5000, 1, outcome="deleted", bytes=5000, recovered=True),
            ArtifactReport("vmdk", digest(1), 500, 1, outcome="kept", reason="held", holders=("sandbox:a",)),
            ArtifactReport("metadata", PYTHON, 20, 1, outcome="failed", reason="Permission denied"),
            ArtifactReport("fsmeta", digest(1), None, 1),
        ],
        kept=[ev.Judged(subject=PYTHON, rule="held", holders=("sandbox:a",), more=2)],
    )


def test_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    print_deletion(report(outcome="partial", recovered=1, engine="msb", bytes_reclaimed=5000))
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[2] == "Policy:      references=app:1 b:\\x1b[31m, force=true, rule=Named"
    assert lines[3] == "Engine:      msb"
    assert lines[4] == "By:          alice@host (uid 1000), program test"
    assert "Outcome:     partial, finished by recovery" in lines
    assert "Freed:       4.9 KiB" in lines
    at = lines.index("Images removed (1)")
    assert [line.split() for line in lines[at + 1 : at + 3]] == [
        ["REFERENCE", "DIGEST", "BECAUSE"],
        ["python:3.12", digest(1), "forced"],
    ]
    table = [line.split() for line in lines[lines.index("Artifacts (4)") + 2 : lines.index("Kept (1)") - 1]]
    assert table == [
        ["layer", "deleted", "4.9", "KiB", digest(2), "found", "gone", "while", "recovering"],
        ["vmdk", "kept", "500", "B", digest(1), "held", "by", "sandbox:a"],
        ["metadata", "failed", "20", "B", "python:3.12", "Permission", "denied"],
        ["fsmeta", "unknown", "-", digest(1)],
    ]
    assert lines[-1] == "python:3.12   held by sandbox:a and 2 more"


def test_one_that_runs_or_was_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    print_deletion(report())
    out = capsys.readouterr().out
    assert "Finished:    -\nOutcome:     unfinished\nFreed:       -\n" in out
    assert "Engine" not in out


def test_what_undid_it(capsys: pytest.CaptureFixture[str]) -> None:
    undone = report(outcome="completed")
    undone.restores = [
        UndoingRow("01a2-first", OPERATION, 7, 10**18, 3, 10**18, "partial", 2),
        UndoingRow("01a2-second", OPERATION, 9, 10**18, 1),
    ]
    print_deletion(undone)
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Undone by:"))
    assert re.fullmatch(r"Undone by:   restore 01a2-first at .*, partial: 2 of 3 images asked for", first)
    assert re.fullmatch(r"Undone by:   restore 01a2-second since .*, unfinished", second)
    assert [
        (each["operation"], each["outcome"], each["finished_at"] is None, each["images_restored"])
        for each in jsonable(undone)["restores"]
    ] == [("01a2-first", "partial", False, 2), ("01a2-second", None, True, 0)]


def test_fields() -> None:
    found = jsonable(report(outcome="partial", recovered=1))
    assert found["policy"]["force"] is True
    assert (found["finished_at"], found["bytes_reclaimed"], found["recovered"]) == (None, None, True)
    assert found["images"] == [{"reference": "python:3.12", "digest": digest(1), "forced": True}]
    assert [each["outcome"] for each in found["artifacts"]] == ["deleted", "kept", "failed", None]
    assert found["kept"] == [
        {
            "subject": PYTHON,
            "spelling": None,
            "rule": "held",
            "policy_rule": None,
            "by": ["sandbox:a"],
            "more": 2,
            "idle_ns": None,
            "age_ns": None,
            "rank": None,
            "until": None,
            "because": "held by sandbox:a and 2 more",
        }
    ]
    assert found["going"] == []


def test_a_line_of_the_list_has_the_same_fields_without_the_details() -> None:
    whole = report(outcome="completed")
    line = DeletionSummary(whole.operation, whole.actor, whole.policy, whole.counters)
    details = {"images", "artifacts", "kept", "going", "restores"}
    assert jsonable(line) == {name: value for name, value in jsonable(whole).items() if name not in details}


@pytest.mark.parametrize(("failed", "said"), [(1, "1 file could"), (1200, "1,200 files could")])
def test_what_could_not_be_deleted_is_said_and_is_a_failure(
    failed: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ImagePruneReport(1, 1, 1, 1, 1, None, artifacts_failed=failed, operation=OPERATION)
    assert failures(done) == [1]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {said} not be deleted; `msb-cache prunes show {OPERATION}`")


def test_nothing_that_failed_is_nothing_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures(ImagePruneReport(1, 1, 1, 1, 1, None)) == []
    assert capsys.readouterr() == ("", "")
