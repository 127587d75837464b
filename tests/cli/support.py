"""Running the command: as a program, in this process, on a terminal; and what a home holds.

Starting a program takes a fifth of a second, so tables of many cases call ``run`` in this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from tests.imagebuilder import BuiltImage, directory, docker_archive, file, image, layer, oci_archive
from tests.logs import ACTOR

PROGRAM = Path(sys.executable).with_name("msb-cache")
ESCAPE = "\x1b["
FAILED, USAGE, NOT_FOUND = 1, 2, 3  # exit codes
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\+00:00")
# What `msb image list --format json` and `msb image inspect --format json` of 0.7.11 print.
MSB_LIST_KEYS = {"architecture", "created_at", "digest", "layer_count", "os", "reference", "size_bytes"}

CONFIG = {
    "Env": ["PATH=/usr/bin:/bin", "GREETING=good day"],
    "Cmd": ["serve", "a b"],
    "Entrypoint": ["/usr/bin/env"],
    "WorkingDir": "/srv",
    "User": "1000:1000",
    "Labels": {"team": "green"},
    "StopSignal": "SIGINT",
}

BASE = layer([directory("etc"), file("etc/name", b"base\n"), directory("bin"), file("bin/sh", b"#!" * 3000)])
APP_LAYER = layer([directory("app"), file("app/run", b"app" * 4000, mode=0o755)], "gzip")
NEXT_LAYER = layer([directory("app"), file("app/run", b"next" * 5000, mode=0o755)], "gzip")
TOOL_LAYER = layer([file("tool", b"tool" * 2000)])

APP = image([BASE, APP_LAYER], "app:1", "app:latest", config=CONFIG)
APP_NEXT = image([BASE, NEXT_LAYER], "app:1", config=CONFIG)
TOOL = image([BASE, TOOL_LAYER], "example.org/team/tool:2", config={"Cmd": ["/tool"]})


@dataclass(frozen=True)
class Done:
    """How a run ended."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Call = Callable[..., Done]
"""Runs the command in this process: the fixture ``call``."""

Put = Callable[[str, str], str]
"""Writes a config.toml: the fixture ``put``."""

Ask = Callable[..., list[str]]
"""Asks what can come next on a line: the fixture ``ask``."""


def parameters(command: click.Command) -> set[tuple[str, str]]:
    """Return the parameters of a command and of those below it, each with its command's name."""
    found = {(command.name or "", parameter.name or "") for parameter in command.params}
    return found.union(*map(parameters, getattr(command, "commands", {}).values()))


def execute(*arguments: object, stdin: bytes | int | None = None, **environment: str) -> Done:
    """Run the installed program."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL if stdin is None else stdin}
    if isinstance(stdin, bytes):
        given = {"input": stdin}
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
        **given,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@dataclass
class Talk:
    """What a program said on its terminal, and how it ended."""

    code: int
    said: str
    stdout: str | None = None


def on_terminal(
    arguments: Sequence[object],
    answers: Sequence[tuple[str, bytes | Callable[[], bytes]]] = (),
    *,
    stdout_too: bool = True,
    **environment: str,
) -> Talk:
    """Run the program on a high terminal of 80 columns; each answer is typed, or got from
    a call, once its prompt was seen.

    Without ``stdout_too``, stdout is a pipe, as with ``> file``.
    """
    main, side = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "1000", **environment}
    process = subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdin=side,
        stdout=side if stdout_too else subprocess.PIPE,
        stderr=side,
        env=variables,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(side)
    said, typed, pending, deadline = b"", b"", list(answers), time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if not select.select([main], [], [], 1)[0]:
                # Python misses a Ctrl-C in the instant between its prompt and its read; people press again.
                if typed == b"\x03":
                    os.write(main, typed)
                continue
            try:
                data = os.read(main, 65536)
            except OSError:  # what Linux says when the other side has gone
                break
            if not data:
                break
            said += data
            if pending and pending[0][0].encode() in said:
                _, answer = pending.pop(0)
                typed = answer if isinstance(answer, bytes) else answer()
                os.write(main, typed)
        else:
            raise AssertionError(f"it did not end; it said {said!r}")
        stdout = None if process.stdout is None else process.stdout.read().decode()
        code = process.wait(10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        os.close(main)
    assert not pending, f"it never asked {pending[0][0]!r}; it said {said!r}"
    return Talk(code, said.decode().replace("\r\n", "\n"), stdout)


def take_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a runner in the background may ignore it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal, as in a shell


def fingerprint(home: Path) -> dict[str, Any]:
    """Everything a home holds, but for locks and SQLite's own side files: what a failure must not change."""
    found: dict[str, Any] = {}
    if not home.is_dir():
        return {"": home.read_bytes() if home.exists() else None}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_dir() or name.endswith((".lock", "-wal", "-shm")):
            continue
        if path.name == "msb-cache.db":
            with contextlib.suppress(sqlite3.DatabaseError):
                found[name] = rows(home)
                continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def rows(home: Path) -> list[str]:
    """The whole database as SQL."""
    with contextlib.closing(sqlite3.connect(home / "db" / "msb-cache.db")) as connection:
        return [*connection.iterdump()]


def sql(home: Path, *statements: str) -> list[Any]:
    """Run statements behind the program's back; the rows of the last."""
    with contextlib.closing(
        sqlite3.connect(home / "db" / "msb-cache.db", isolation_level=None)
    ) as connection:
        found: list[Any] = []
        for statement in statements:
            found = connection.execute(statement).fetchall()
    return found


def sentence(err: str) -> str:
    """The one sentence of an error; a usage error may say before it how the command is used."""
    assert "Traceback" not in err
    err = re.sub(r"\x1b\[[\d;]*m", "", err)
    lines = [line for line in err.splitlines() if not line.startswith(("Usage: ", "Try '")) and line]
    assert len(lines) == 1, err
    assert lines[0].lower().startswith("error: "), err
    return lines[0][7:]


def written(path: Path, *images: BuiltImage, format: str = "docker") -> Path:
    """An archive of images as a file."""
    path.write_bytes(docker_archive(*images) if format == "docker" else oci_archive(*images))
    return path


def stored(data: ev.Event, subject: str, *, seq: int = 2) -> StoredEvent:
    """An event as the log gives it back, of 2027-01-15 08:00 UTC and 7 ns."""
    return StoredEvent(
        seq=seq,
        id="01a208de-7af1-7b41-9b6b-000000000000",
        type=type(data).type,
        version=type(data).version,
        subject=subject,
        operation="01a208de-7af1-7b41-9b6b-151e9b4ceb8a",
        occurred_at_ns=1_800_000_000_000_000_007,
        recorded_at_ns=1_800_000_000_000_000_008,
        actor=ACTOR,
        data=data,
        hash=bytes.fromhex("ab" * 32),
    )


def every(call: Call, *arguments: object) -> list[dict[str, Any]]:
    done = call(*arguments, "--format", "json")
    assert (done.code, done.err) == (0, "")
    return done.json  # type: ignore[no-any-return]


def seqs(call: Call, *arguments: object) -> list[int]:
    return [event["seq"] for event in every(call, *arguments)]


class Following:
    """``--follow`` as a program."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [PROGRAM, "--home", str(home), *arguments, "--follow"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + 20
        while sum(text in line for line in [*self.lines]) < count:
            assert time.monotonic() < deadline, (text, self.lines)
            time.sleep(0.02)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        code = self.process.wait(10)
        self._reader.join()
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        said = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, said


class Server:
    """A command that serves, as a program; ``said`` is the first line that it printed."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().rstrip("\n")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it, within a second or so; return the exit code and what it said on stderr."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=10)
        assert time.monotonic() - began < 5
        return self.process.returncode, err


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[Server]:
    server = Server(*arguments, **environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def answer(done: Done) -> tuple[int, bytes, str]:
    return done.code, done.raw, done.err


def check_privileges(text: str, unit: Path, analyze: str, most: int = 20) -> None:
    """Check that systemd, whose program is given, finds that a unit of this text may do little (of 100)."""
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text))
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={most}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
