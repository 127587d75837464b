"""What sync records and says in a home of msb, and that every command that reads syncs first."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli.support import Call
from tests.msbhome import MsbHome


def test_the_sync_command(msb_home: MsbHome, call: Call) -> None:
    done = call("sync")
    assert (done.code, done.out) == (0, "Adopted what msb has here: 2 references, 2 manifests, 1 hold.\n")
    assert "msb-cache events --operation" in done.err
    done = call("sync")
    assert (done.code, done.out, done.err) == (0, "", "Nothing has changed.\n")
    msb_home.remove_sandbox("dev")
    done = call("sync")
    assert (done.code, done.err) == (0, "")
    assert "image.released" in done.out
    assert "seen by" in done.out
    msb_home.remove("app:1")
    found = call("sync", "--format", "json").json
    assert [event["type"] for event in found["events"]][:2] == ["image.removed", "manifest.deleted"]
    assert found["events"][0]["operation"] == found["operation"]
    assert found["events"][0]["actor"]["observed"]
    assert (found["adopted"], found["notes"]) == (False, [])


def test_commands_sync_unless_told_not_to(msb_home: MsbHome, call: Call) -> None:
    done = call("--no-sync", "list")
    assert (done.code, done.out) == (0, "")
    assert not os.path.exists(msb_home.layout.database)
    assert "app:1" in call("list").out
    msb_home.remove_sandbox("dev")
    assert "sandbox:dev" in call("--no-sync", "inspect", "app:1").out
    assert "nobody" in call("inspect", "app:1").out


def test_a_note_on_stderr_and_the_answer_on_stdout(msb_home: MsbHome, call: Call) -> None:
    call("sync")
    msb_home.connection.execute("DROP TABLE image_ref")
    done = call("inspect", "app:1")
    assert (done.code, done.err.count("note:")) == (0, 1)
    assert "sandbox:dev" in done.out
    assert call("sync").code == 1


def test_a_home_that_msb_does_not_keep(own_home: Path, call: Call) -> None:
    done = call("sync")
    assert (done.code, done.out, done.err) == (0, "", "msb does not keep this home.\n")
    assert call("sync", "--format", "json").json == {
        "operation": None,
        "adopted": False,
        "events": [],
        "notes": [],
    }
    assert not own_home.exists()
