"""What restore says, on stdout and stderr, and its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import (
    APP,
    APP_NEXT,
    FAILED,
    NOT_FOUND,
    PROGRAM,
    TOOL,
    USAGE,
    Call,
    fingerprint,
    sentence,
    written,
)
from tests.registry_server import RegistryServer, stall


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.fixture
def operation(own_home: Path, call: Call, server: RegistryServer, tmp_path: Path) -> str:
    """A prune of an image from an archive and one from a registry."""
    call("load", "-q", written(tmp_path / "tool.tar", TOOL))
    call("pull", "-q", server.add(APP, "team/app", "1"))
    assert call("prune", "-y").code == 0
    found: str = call("prunes", "--format", "json").json[0]["operation"]
    return found


def listed(call: Call) -> dict[str, str]:
    return {each["reference"]: each["digest"] for each in call("list", "--format", "json").json}


def test_all_of_it(own_home: Path, call: Call, server: RegistryServer, operation: str) -> None:
    remote = f"{server.host}/team/app:1"
    plan = call("restore", operation[:13], "--dry-run")
    assert (plan.code, plan.err) == (0, "")
    assert [line.split()[:1] for line in plan.lines] == [["REFERENCE"], [remote], ["example.org/team/tool:2"]]
    assert plan.out.count("comes back") == 2
    done = call("restore", operation[:13], "--reason", "needed still")
    assert done.code == 0
    assert f"  ✓ Restored   {remote}  {APP.digest}\n" in done.err
    assert [line.split()[-1] for line in done.lines[1:3]] == ["restored", "restored"]
    assert listed(call) == {remote: APP.digest, "example.org/team/tool:2": TOOL.digest}
    restore = done.lines[-1].split()[-1]
    shown = call("prunes", "show", operation)
    assert f"Undone by:   restore {restore} at " in shown.out
    assert ", completed: 2 of 2 images asked for\n" in shown.out
    (told,) = call("prunes", "show", operation, "--format", "json").json["restores"]
    assert (told["operation"], told["outcome"], told["images_restored"]) == (restore, "completed", 2)
    history = call("history", remote).out
    said = f"after deletion {operation}, from {server.host}"
    assert f"restored          {APP.digest}  {said}" in history
    assert f"restored {said}" in call("why", remote).out
    events = call("events", "--operation", restore).out
    assert "restore.started" in events
    assert f"completed, 2 of 2 images, undoes {operation}" in events
    assert events.count("needed still") == len(events.splitlines()) - 1
    before = fingerprint(own_home)
    again = call("restore", operation[:13])
    assert (again.code, again.err) == (0, "")
    assert [line.split()[4] for line in again.lines[1:]] == ["here", "here"]
    assert fingerprint(own_home) == before


def test_json_and_quiet(tmp_path: Path, call: Call, server: RegistryServer, operation: str) -> None:
    plan = call("restore", operation, "--dry-run", "--format", "json").json
    assert (plan["operation"], plan["undoes"], plan["complete"]) == (None, operation, False)
    assert [each["outcome"] for each in plan["images"]] == ["planned", "planned"]
    done = call("restore", operation, "example*", "--format", "json")
    assert (done.code, done.err) == (0, "")
    (image,) = done.json["images"]
    assert (image["reference"], image["outcome"], image["certainty"], image["restored_as"]) == (
        "example.org/team/tool:2",
        "restored",
        "same source",
        "example.org/team/tool:2",
    )
    assert image["command"][1:3] == ["load", str(tmp_path / "tool.tar")]
    quiet = call("restore", "-q", operation)
    (last,) = call("events", "--type", "restore.finished", "--reverse", "-n", "1", "--format", "json").json
    assert (quiet.code, quiet.lines, quiet.err) == (0, [last["operation"]], "")
    assert len(listed(call)) == 2


def test_what_does_not_come_back(
    own_home: Path, call: Call, server: RegistryServer, operation: str, tmp_path: Path
) -> None:
    (tmp_path / "tool.tar").unlink()
    server.on("manifests", lambda handler, content: handler.reply(404, b"{}", {}), always=True)
    done = call("restore", operation)
    assert done.code == FAILED
    assert f"✗ Failed     {server.host}/team/app:1: " in done.err
    assert done.err.endswith("error: 2 of 2 images did not come back\n")
    assert "tool.tar, which is not there any more" in done.out
    quiet = call("restore", operation, "-q", "example*")
    assert (quiet.code, quiet.raw) == (FAILED, b"")
    assert sentence(quiet.err) == "1 of 1 image did not come back"


def test_what_it_cannot_do(own_home: Path, call: Call, operation: str) -> None:
    before = fingerprint(own_home)
    for code, arguments in (
        (NOT_FOUND, ["01a2ffff"]),
        (NOT_FOUND, ["zz"]),
        (NOT_FOUND, [operation, "nope:1"]),
        (NOT_FOUND, [operation, "example*", "nope:1"]),
        (USAGE, [operation, "A::b"]),
    ):
        done = call("restore", *arguments)
        assert (done.code, done.raw) == (code, b"")
        sentence(done.err)
    assert fingerprint(own_home) == before


def test_ctrl_c(own_home: Path, call: Call, server: RegistryServer, operation: str) -> None:
    server.on(f"blobs/{APP.layers[0].descriptor['digest']}", stall(0), always=True)
    before = server.count("blobs/")
    process = subprocess.Popen(
        [PROGRAM, "restore", operation],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while server.count("blobs/") == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert err.endswith(b"stopped\n")
    (end,) = call("events", "--type", "restore.finished", "--format", "json").json
    assert end["data"]["outcome"] == "interrupted"
    assert "interrupted: 0 of 2 images asked for" in call("prunes", "show", operation).out


def test_a_pull_by_digest(own_home: Path, call: Call, server: RegistryServer) -> None:
    name = server.add(APP, "team/app", "1")
    server.add(APP_NEXT, "team/app", "1")
    assert call("pull", "-q", "--digest", APP.digest, name).code == 0
    assert listed(call) == {name: APP.digest}


def test_a_load_by_digest(own_home: Path, call: Call, tmp_path: Path) -> None:
    archive = written(tmp_path / "two.tar", APP, TOOL)
    assert call("load", "-q", archive, "--digest", TOOL.digest, "--tag", "mine:7").code == 0
    assert listed(call) == {"mine:7": TOOL.digest}
    assert call("load", "-q", archive, "--digest", APP.digest).code == 0
    assert listed(call).keys() == {"mine:7", "app:1", "app:latest"}
    done = call("load", archive, "--digest", APP_NEXT.digest)
    assert done.code == FAILED
    assert f"has no manifest {APP_NEXT.digest}" in sentence(done.err)
