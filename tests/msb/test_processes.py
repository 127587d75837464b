"""What is told of another process, and what never is: its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msb_cache import Actor
from msb_cache.msb import processes
from msb_cache.msb.processes import Process, actor_of, seen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

RECORDER = Actor(user="root", uid=0, host="laptop", program="msb-cache")
SLEEP = shutil.which("sleep") or "sleep"


def program_of(program: Path | str, *arguments: str) -> Process | None:
    """Return what is seen of a process with this program and these arguments."""
    process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE)
    try:
        return seen(process.pid)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["image", "rm", "secret/name:1"], "image rm"),
        (["--debug", "image", "--force", "prune"], "image prune"),
        (["rm", "image"], "rm"),
        (["load", "-i", "/home/alice/token.tar"], "load"),
        (["snap", "restore", "x"], "snap restore"),
        (["machine", "--name", "boxy"], "machine"),
        (["--profile", "s3cret", "image", "rm"], ""),
        (["image", "s3cret"], "image"),
        (["self", "update"], ""),
        (["tok\x1b[2Jen"], ""),
        ([], ""),
    ],
)
def test_of_arguments_only_verbs_of_msb_are_told(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "read", lambda path: "\0".join(["/bin/msb", *arguments, ""]))
    assert " ".join(processes._verbs(1)) == told


def test_a_process() -> None:
    found = program_of(SLEEP, "30")
    assert found is not None
    assert found.program == os.path.basename(os.path.realpath(SLEEP))
    assert found.uids == (os.getuid(), os.geteuid(), os.getuid(), os.geteuid())
    assert found.parent == os.path.basename(os.path.realpath(sys.executable))
    assert found.cgroup == Path("/proc/self/cgroup").read_text()
    actor = actor_of(found, RECORDER)
    assert (actor.uid, actor.host, actor.program) == (os.getuid(), "laptop", found.program)
    assert (actor.observed, actor.seen_by) == (True, "root@laptop (msb-cache)")


def test_a_program_whose_file_was_replaced_has_its_name(tmp_path: Path) -> None:
    shutil.copy(os.path.realpath(SLEEP), tmp_path / "msb")
    process = subprocess.Popen([tmp_path / "msb", "30"])
    try:
        os.unlink(tmp_path / "msb")
        found = seen(process.pid)
    finally:
        process.kill()
        process.wait()
    assert found is not None
    assert found.program == "msb"  # and not its argument


def test_a_process_that_has_ended_is_not_known() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert seen(process.pid) is None  # though its number is still taken
    process.wait()
    assert seen(process.pid) is None


@pytest.mark.skipif(not Path("/proc/2").exists(), reason="a container sees no threads of the kernel")
def test_the_kernels_own_threads_are_not_named() -> None:
    assert seen(2) is None


def test_who_stands_for_whom() -> None:
    def process(uid: int, login: str = "", **others: int) -> Process:
        uids = (uid, others.get("effective", uid), uid, uid)
        return Process(uids, login, "", "msb", None)

    alice = process(1000, "1000")
    assert alice.stands_for(alice)
    assert process(0).stands_for(alice)
    assert not alice.stands_for(process(0))
    assert not process(1001, "1001").stands_for(alice)
    assert not process(1000, "1001").stands_for(alice)  # by sudo of another person
    assert not process(1000, "1000", effective=0).stands_for(alice)
