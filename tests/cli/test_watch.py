"""watch as a program: what it shows, that it waits, what it costs, and how it ends."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from tests.cli.support import PROGRAM, execute
from tests.msbhome import MsbHome
from tests.proof.signing import new_witness_key
from tests.rawserver import RawServer


class Watching:
    """``msb-cache watch`` as a program."""

    def __init__(self, home: Path, *arguments: str) -> None:
        command = [str(PROGRAM), "--home", str(home), "watch", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[tuple[float, str]] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    def wait_for(self, text: str, seconds: float = 10) -> float:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for at, line in self.lines:
                if text in line:
                    return at
            time.sleep(0.02)
        raise AssertionError(f"{text} was not printed in {seconds} s: {self.lines}")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number: int) -> tuple[int, str]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(timeout=10)
        assert time.monotonic() - began < 5
        self.thread.join()
        err = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_watch(msb_home: MsbHome) -> None:
    watching = Watching(msb_home.layout.home, "--format", "json")
    watching.wait_for("image.held")
    began = time.monotonic()
    msb_home.load("three:3", "three", "w")
    assert watching.wait_for("three:3") - began < 2.5  # a second at most, on a machine that is not busy
    msb_home.remove_sandbox("dev")
    watching.wait_for("image.released")
    # What others append is shown as well, once.
    msb_home.touch("example.org/two:2")
    with ImageCache(msb_home.layout.home) as cache:
        cache.sync()
        time.sleep(1.2)
        before = watching.cpu_seconds()
        time.sleep(2)
        assert watching.cpu_seconds() - before < 0.1
        recorded = [event.seq for event in cache.events()]
    assert watching.end(signal.SIGTERM) == (0, "")
    found = [json.loads(line) for _, line in watching.lines]
    assert [event["seq"] for event in found] == recorded
    assert os.listdir(msb_home.layout.db).count("msb-cache.db-wal") == 0


def test_it_signs_what_it_sees(msb_home: MsbHome, tmp_path: Path) -> None:
    """Also what it records itself, while it waits for a witness that does not answer."""
    home, notes = msb_home.layout.home, tmp_path / "notes"
    key, witness = tmp_path / "log.key", new_witness_key("witness.example/w1")
    assert execute("key", "new", key, "--name", "log.example/ci").code == 0
    ended = threading.Event()
    with RawServer(lambda connection, _: ended.wait(20)) as server:
        signing = ("--sign", key, "--sign-every", "1", "--sign-every", "1h", "--checkpoint-to", notes)
        asking = ("--witness", server.url, "--witness-key", witness.key)
        watching = Watching(home, *map(str, (*signing, *asking)))
        watching.wait_for("image.held")
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        began = time.monotonic()
        msb_home.load("three:3", "three", "w")
        assert watching.wait_for("three:3") - began < 2.5
        code, said = watching.end(signal.SIGTERM)
        ended.set()
    assert (code, server.requests != []) == (0, True)
    # What was signed is kept, and what comes next delivers it.
    again = Watching(home, *map(str, signing))
    while not notes.exists() and time.monotonic() < deadline + 20:
        time.sleep(0.02)
    code, said = again.end(signal.SIGINT)
    with ImageCache(home) as cache:
        sizes = [each.size for each in reversed(cache.checkpoints())]
        assert cache.verify(notes.read_bytes()).contradiction is None
    assert code == 0
    first = json.loads(said.splitlines()[0])
    assert (first["event"], first["level"], first["origin"]) == (
        "checkpoint.signed",
        "info",
        "log.example/ci",
    )
    assert first["events"] == sizes[-1]
    assert len(sizes) >= 2


def test_watch_waits_for_msb(tmp_path: Path) -> None:
    watching = Watching(tmp_path / "late")
    time.sleep(1.0)
    assert watching.process.poll() is None
    assert not (tmp_path / "late").exists()
    late = MsbHome(tmp_path / "late")
    late.load("app:1", "one")
    watching.wait_for("image.pulled")
    code, said = watching.end(signal.SIGINT)
    assert (code, said.count("\n")) == (0, 1)
    assert json.loads(said)["said"] == f"the home {tmp_path / 'late'} does not exist: it is waited for"
    late.close()


def test_examples_name_the_command() -> None:
    examples = Path(__file__).parents[2] / "examples"
    unit = (examples / "systemd" / "msb-cache-watch.service").read_text()
    assert "ExecStart=%h/.local/bin/msb-cache watch\n" in unit
    assert (
        "AmbientCapabilities=CAP_SYS_ADMIN\n"
        in (examples / "systemd" / "msb-cache-watch@.service").read_text()
    )
    found: dict[str, Any] = plistlib.loads((examples / "dev.msb-cache.watch.plist").read_bytes())
    assert found["ProgramArguments"][-1].endswith('/msb-cache" watch')
    assert (found["Label"], found["RunAtLoad"]) == ("dev.msb-cache.watch", True)


UNITS = Path(__file__).parents[2] / "examples" / "systemd"


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.iterdir()))
def test_systemd_takes_the_units(name: str, tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    verify = require_peer("systemd-analyze")
    for path in UNITS.iterdir():  # a timer starts another of them
        unit = tmp_path / path.name.replace("@", "@root")
        unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", path.read_text()))
    done = subprocess.run(
        [verify, "verify", tmp_path / name.replace("@", "@root")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_unusual_is_logged(msb_home: MsbHome) -> None:
    """As JSON with a level where there is no terminal, and as text if that is asked for."""
    home = msb_home.layout.home
    msb_home.close()
    Path(msb_home.layout.msb_database).write_bytes(b"no database" * 1000)
    for format_, note in (("json", '"level": "warning"'), ("text", "[warning  ] note")):
        process = subprocess.Popen(
            [PROGRAM, "--home", home, "--log-format", format_, "watch"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        process.send_signal(signal.SIGTERM)
        out, rest = process.communicate(timeout=10)
        lines += rest.splitlines()
        assert (process.returncode, out) == (0, "")
        assert any(note in line and "msb.db" in line for line in lines)
        assert not any("note:" in line for line in lines)
