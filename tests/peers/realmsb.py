"""The real msb with a home, for tests that run it beside msb-cache."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from tests.imagebuilder import file, image, layer
from tests.moving import settle

BASE = layer([file("etc/name", b"base\n")])
CONFIG = {
    "Env": ["PATH=/bin", "A=b"],
    "Cmd": ["/bin/sh", "-c", "echo hi"],
    "Entrypoint": ["/bin/env"],
    "WorkingDir": "/w",
    "User": "1:2",
    "Labels": {"k": "v"},
}
IMAGES = {
    "app": image([BASE, layer([file("app", b"app" * 5000)])], "app:1", config=CONFIG),
    "next": image([BASE, layer([file("app", b"next" * 5000)])], "app:1", config=CONFIG),
    "two": image([BASE, layer([file("two", b"two" * 5000)])], "example.org/team/two:2", "two:latest"),
    "alone": image([layer([file("alone", b"alone" * 5000)])], "alone:1"),
}

_SMALL = ("--memory", "64M", "--root-disk", "256M")


class Msb:
    """The real msb with a home."""

    def __init__(self, program: str, home: Path, archives: Path) -> None:
        self.program, self.home, self.archives = program, home, archives

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [self.program, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert fails or done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name != "MSB_PATH"}
        return environment | {"MSB_HOME": str(self.home), "MSB_BACKEND": "local"}

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--format", "json") or "[]")

    def load(self, name: str) -> None:
        self("load", "-q", "-i", str(self.archives / f"{name}.tar"))

    def create(self, reference: str, name: str, *options: str) -> None:
        """Make a sandbox whose boot is ended as soon as its record is there; it stays behind, stopped."""
        self.boot("create", reference, "--name", name, *(options or _SMALL), sandbox=name)

    def create_and_boot(self, reference: str, name: str) -> None:
        """Make a sandbox; here its boot fails after ten seconds of work, and it stays behind, stopped."""
        self("create", reference, "--name", name, *_SMALL, fails=True)

    def boot(self, *arguments: str, sandbox: str) -> None:
        """Run a command that boots a sandbox, and end the boot as soon as its record is there.

        It would fail here all the same, after ten seconds of work.
        """
        before = self._last_run(sandbox)
        with subprocess.Popen(
            [self.program, *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            end = time.monotonic() + 60
            while process.poll() is None:
                row, pid = self._last_run(sandbox)
                if pid is not None and row != before[0]:
                    os.kill(pid, signal.SIGKILL)
                    break
                assert time.monotonic() < end, "no boot began"
                time.sleep(0.005)
            assert process.wait(timeout=60) != 0
        self("ls")  # it notices what became of the boot

    def _last_run(self, sandbox: str) -> tuple[int, int | None]:
        query = (
            "SELECT r.id, r.pid FROM run r JOIN sandbox s ON s.id = r.sandbox_id "
            "WHERE s.name = ? AND r.terminated_at IS NULL ORDER BY r.id DESC LIMIT 1"
        )
        with closing(sqlite3.connect(f"file:{self.home}/db/msb.db?mode=ro", uri=True)) as connection:
            found: tuple[int, int | None] | None = connection.execute(query, (sandbox,)).fetchone()
        return found or (0, None)

    def references(self) -> set[str]:
        """Return what msb lists, as it was typed."""
        return {each["reference"] for each in self.json("image", "ls")}

    def hold(self, reference: str, name: str) -> None:
        """Leave the records of a sandbox, as ``create`` does, without waiting for its boot to fail."""
        with closing(sqlite3.connect(self.home / "db" / "msb.db")) as connection, connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(sandbox)") if row[1] != "id"]
            values = ", ".join("?" if column == "name" else column for column in columns)
            connection.execute(
                f"INSERT INTO sandbox ({', '.join(columns)}) SELECT {values} FROM sandbox LIMIT 1", (name,)
            )
            connection.execute(
                "INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode, created_at) "
                "SELECT s.id, r.manifest_id, 'erofs', r.updated_at FROM sandbox s, image_ref r "
                "WHERE s.name = ? AND r.reference = ?",
                (name, reference),
            )
        connection.close()


@contextmanager
def short_home() -> Iterator[Path]:
    """Yield the path of a home that is not there yet."""
    # msb makes sockets below a home, whose paths have at most 107 bytes: 59 are its own.
    place = gettempdir()
    with TemporaryDirectory(prefix="msb-", dir=place if len(place) <= 34 else "/tmp") as folder:
        yield Path(folder) / "h"


def copied(home: Path, target: Path) -> None:
    """Copy a home with everything in it; the copy's disks are of the copy's files."""
    subprocess.run(["cp", "-a", "--sparse=always", str(home), str(target)], check=True)
    settle(target)


def files_of(home: Path) -> dict[str, int]:
    """Return the artifacts in a home's cache, and their sizes in bytes."""
    return {
        str(path.relative_to(home / "cache")): path.stat().st_size
        for folder in ("manifests", "layers", "fsmeta", "vmdk")
        for path in (home / "cache" / folder).iterdir()
        if path.suffix in (".erofs", ".vmdk", ".json")
    }
