"""Who waits for another process says so, and Ctrl-C ends every wait at once and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from tests.cli.support import PROGRAM
from tests.imagebuilder import docker_archive, file, image, layer, sample
from tests.logs import downgrade
from tests.registry_server import RegistryServer, stall
from tests.reliability.killing import stopped_at
from tests.reliability.scenarios import ONE, SHARED, TWO, check_whole
from tests.trees import files_below


@contextmanager
def running(*arguments: object, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program as a shell does: Ctrl-C reaches it."""
    process = subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stopped(process: subprocess.Popen[bytes]) -> str:
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5, "it did not end at once"  # a guard, not a measurement
    assert (process.returncode, out) == (130, b""), err
    said = err.decode()
    assert said.endswith("stopped\n"), said
    assert "Traceback" not in said
    return said


def archive(folder: Path, *images: object) -> Path:
    path = folder / "archive.tar"
    path.write_bytes(docker_archive(*images))  # type: ignore[arg-type]
    return path


def test_a_load_says_for_which_load_it_waits(tmp_path: Path) -> None:
    home = tmp_path / "home"
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    one.write_bytes(docker_archive(ONE))
    two.write_bytes(docker_archive(TWO))

    def observer(step: str) -> None:
        if step == "add.locked":
            failpoints.observer = None
            process = stack.enter_context(running("--home", home, "load", two))
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            (operation,) = [name for name in Layout(home).interrupted_operations() if name in line]
            name = Layout(home).layer(SHARED.diff_id).name
            assert line == f"note: waiting for operation {operation} (one:1) to be done with {name}\n"
            waiters.append(process)

    waiters: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack, ImageCache(home) as cache:
        failpoints.observer = observer
        try:
            cache.load(one)
        finally:
            failpoints.observer = None
        assert waiters[0].wait(20) == 0
        assert [handle.reference for handle in cache.list()] == ["two:1", "one:1"]
    check_whole(home)


def test_a_load_that_waits_for_another_program_says_so(tmp_path: Path) -> None:
    home, path = tmp_path / "home", archive(tmp_path, ONE)
    layer_path = Layout(home).layer(SHARED.diff_id)
    layer_path.parent.mkdir(parents=True)
    with Lock(lock_path(layer_path)) as lock:
        lock.acquire()
        with running("--home", home, "load", path) as process:
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            assert line == f"note: waiting for another program to be done with {layer_path.name}\n"
            stopped(process)
    check_whole(home)


def test_what_stands_in_a_lock_of_an_operation_is_not_believed(tmp_path: Path) -> None:
    home, path = tmp_path / "home", archive(tmp_path, ONE)
    layout = Layout(home)
    layer_path = layout.layer(SHARED.diff_id)
    for folder in (layer_path.parent, layout.operations):
        folder.mkdir(parents=True)
    other = "01a208e6-ab10-7741-a5e9-d0d4e76814bf"
    with Lock(lock_path(layer_path)) as lock, Lock(layout.operation_lock(other)) as operation:
        assert lock.acquire()
        assert operation.acquire()
        operation.write("\x1b[31mred\n" * 10_000)
        notes: list[str] = []

        def note(sentence: str) -> None:
            notes.append(sentence)
            lock.release()

        with ImageCache(home) as cache:
            cache.load(path, note=note)
        operation.release(unlink=True)
    assert notes == [f"waiting for operation {other} to be done with {layer_path.name}"]


@pytest.mark.parametrize("command", [("rm", "one:1"), ("prune", "--yes")])
def test_a_deletion_says_for_which_deletion_it_waits(tmp_path: Path, command: tuple[str, ...]) -> None:
    home = tmp_path / "home"
    with ImageCache(home) as cache:
        cache.load(archive(tmp_path, ONE))
    other = "01a208e6-ab10-7741-a5e9-d0d4e76814bf"
    with Lock(Layout(home).prune_lock) as lock:
        assert lock.acquire()
        lock.write(other)
        with running("--home", home, *command) as process, running("--home", home, *command, "-q") as quiet:
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            assert line == f"note: waiting for another deletion to end (operation {other})\n"
            assert "waiting" not in stopped(quiet)
            lock.release()
            assert process.wait(20) == 0
    check_whole(home)


@pytest.mark.parametrize("command", [("use", "one:1"), ("rm", "one:1"), ("prune", "--yes")])
def test_who_waits_for_a_transaction_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    home, database = tmp_path / "home", Layout(tmp_path / "home").database
    with ImageCache(home) as cache:
        cache.load(archive(tmp_path, ONE))
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with running("--home", home, *command) as process:
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            assert line == f"note: waiting for another process that is writing to {database}\n"
            writer.execute("ROLLBACK")
            assert process.wait(20) == 0
    check_whole(home)


# -- stopped processes ------------------------------------------------------------------------------------


COMMANDS = [
    *(("list",), ("verify",), ("events", "--follow"), ("watch",)),
    *(("hold", "one:1", "sandbox:a"), ("prune", "--yes"), ("rebuild",)),
]


def each_says_and_stops(home: Path, commands: Sequence[tuple[str, ...]]) -> set[str]:
    """What the commands, all at once, say of a wait; each ends at Ctrl-C."""
    said = set()
    with ExitStack() as stack:
        processes = [stack.enter_context(running("--home", home, *command)) for command in commands]
        for process in processes:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, b"")
            said.add(next(line.decode() for line in lines if b"waiting" in line))
            stopped(process)
    return said


def test_beside_a_process_that_stands_still_while_it_migrates(tmp_path: Path) -> None:
    home, layout = tmp_path / "home", Layout(tmp_path / "home")
    with ImageCache(home) as cache:
        cache.load(archive(tmp_path, ONE))
    downgrade(Path(layout.database), "m0002_projections")
    with Lock(layout.migrate_lock) as lock:
        assert lock.acquire()
        waiting = f"waiting for another process that migrates or restores {layout.database}"
        said = each_says_and_stops(home, COMMANDS)
    assert {json.loads(line)["said"] if line.startswith("{") else line for line in said} == {
        waiting,  # watch logs
        f"note: {waiting}\n",
    }
    check_whole(home)


def test_beside_a_process_that_stands_still_while_it_makes_the_database(tmp_path: Path) -> None:
    home, layout, path = tmp_path / "home", Layout(tmp_path / "home"), archive(tmp_path, ONE)
    (home / "db").mkdir(parents=True)
    with Lock(layout.migrate_lock) as lock:
        assert lock.acquire()
        waiting = f"note: waiting for another process that makes {layout.database}\n"
        assert each_says_and_stops(home, [("load", str(path))]) == {waiting}
        Path(layout.database).touch()
        waiting = f"note: waiting for another process that migrates or restores {layout.database}\n"
        assert each_says_and_stops(home, [("list",), ("use", "one:1")]) == {waiting}
        Path(layout.database).unlink()
    check_whole(home)


def test_nobody_reads_later_because_another_process_stands_still_while_it_writes(
    tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    home = tmp_path / "home"
    with ImageCache(home) as cache:
        cache.load(archive(tmp_path, ONE))
    database = Layout(home).database
    with stopped_at(require_peer("strace"), "fdatasync", 1, program(home, "use", "one:1")):
        with ImageCache(home, note=pytest.fail) as cache:
            assert [handle.reference for handle in cache.list()] == ["one:1"]
            assert cache.verify().sound
        said = each_says_and_stops(home, [("use", "one:1"), ("prune", "--yes")])
        assert said == {f"note: waiting for another process that is writing to {database}\n"}
    check_whole(home)


CLOSING = [("fdatasync", 5), ("unlink", 2)]
"""Calls of ``use`` at which it has the database to itself, emptying the write-ahead log and deleting it."""


@pytest.mark.parametrize(("call", "number"), CLOSING)
def test_beside_a_process_that_stands_still_while_it_closes(
    tmp_path: Path, require_peer: Callable[[str], str], call: str, number: int
) -> None:
    home, database = tmp_path / "home", Layout(tmp_path / "home").database
    with ImageCache(home) as cache:
        cache.load(archive(tmp_path, ONE))
    with stopped_at(require_peer("strace"), call, number, program(home, "use", "one:1")):
        assert not is_free(database)
        said: list[str] = []
        with ImageCache(home, note=said.append) as cache:
            assert [event.type for event in cache.events()][-1] == "image.used"
            assert cache.verify().sound
        copy = f"another process has {database} to itself, so what is read is a copy"
        assert said == [copy]
        waiting = f"note: waiting for another process that has {database} locked\n"
        assert each_says_and_stops(home, [("rm", "one:1"), ("rebuild",)]) == {waiting}
    check_whole(home)


def is_free(database: str) -> bool:
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("SELECT 1 FROM events").fetchone()
        except sqlite3.OperationalError:
            return False
    return True


def test_beside_a_process_that_stands_still_while_it_opens(
    tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    """SQLite's own wait for that looks at no signals."""
    home, database = tmp_path / "home", Layout(tmp_path / "home").database
    with ImageCache(home) as cache:
        cache.load(archive(tmp_path, ONE))
    with stopped_at(require_peer("strace"), "ftruncate", 1, program(home, "list")):
        said: list[str] = []
        with ImageCache(home, note=said.append) as cache:
            assert [handle.reference for handle in cache.list()] == ["one:1"]
        assert said[0].endswith("to itself, so what is read is a copy")
        waiting = f"note: waiting for another process that has {database} locked\n"
        assert each_says_and_stops(home, [("rebuild",), ("use", "one:1")]) == {waiting}
    check_whole(home)


def program(home: Path, *command: str) -> list[str]:
    return [str(PROGRAM), "--home", str(home), *command]


# -- Ctrl-C -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [("use", "one:1"), ("hold", "one:1", "sandbox:a"), ("rm", "one:1"), ("prune", "--yes"), ("load",)],
)
def test_stopped_while_another_process_writes(tmp_path: Path, command: tuple[str, ...]) -> None:
    home, path = tmp_path / "home", archive(tmp_path, ONE)
    with ImageCache(home) as cache:
        cache.load(path)
    before = files_below(home / "cache")
    with closing(sqlite3.connect(Layout(home).database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        last = str(archive(tmp_path, TWO)) if command == ("load",) else "--"
        with running("--home", home, *command, last) as process:
            # Which of its files it has open tells that it has come so far.
            until(lambda: f"{Layout(home).database}-wal" in opened(process))
            time.sleep(0.3)
            stopped(process)
        writer.execute("ROLLBACK")
    assert files_below(home / "cache") == before
    check_whole(home)


def opened(process: subprocess.Popen[bytes]) -> set[str]:
    found = set()
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            found.add(os.readlink(path))
        except OSError:
            continue
    return found


def test_stopped_while_converting(tmp_path: Path) -> None:
    """One large file is one entry of a layer: a thread that converts it must not be waited for."""
    home = tmp_path / "home"
    large = image([layer([file("large", bytes(1 << 20) * 200)])], "large:1")
    path = archive(tmp_path, large)
    with running("--home", home, "load", path) as process:
        until(lambda: [*(home / "cache/tmp").glob("*/sha256_*.erofs")])
        stopped(process)
    check_whole(home)
    assert [*home.rglob("*.erofs")] == []


def test_stopped_while_reading_a_pipe(tmp_path: Path) -> None:
    home = tmp_path / "home"
    reading, writing = os.pipe()
    with running("--home", home, "load", stdin=reading) as process:
        os.write(writing, docker_archive(ONE)[:5000])
        until(lambda: Layout(home).interrupted_operations())
        time.sleep(0.2)
        stopped(process)
    os.close(reading)
    os.close(writing)
    check_whole(home)


def test_stopped_while_a_registry_says_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with RegistryServer() as registry:
        built = sample("app:1")
        reference = registry.add(built)
        registry.on("/blobs/", stall(10), always=True)
        with running("--home", home, "pull", reference) as process:
            assert process.stderr is not None
            waiting = f"note: waiting for the registry {registry.host} to send more\n"
            assert process.stderr.readline().decode() == waiting
            stopped(process)
    check_whole(home)


def test_stopped_while_a_layer_does_not_come(tmp_path: Path) -> None:
    """A thread reads it, which gets no signal; wherever the others are then."""
    for number in range(8):
        home = tmp_path / f"home{number}"
        with RegistryServer() as registry:
            built = sample("app:1")
            reference = registry.add(built)
            registry.on(f"/blobs/{built.layers[0].descriptor['digest']}", stall(10), always=True)
            with running("--home", home, "pull", reference) as process:
                until(lambda: registry.count("/blobs/"))
                time.sleep(number * 0.01)
                said = stopped(process)
        assert "trying again" not in said
        if home.exists():  # a pull that is stopped early has not made it
            check_whole(home)


def test_stopped_while_following(tmp_path: Path) -> None:
    home, path = tmp_path / "home", archive(tmp_path, ONE)
    with ImageCache(home) as cache:
        cache.load(path)
    with running("--home", home, "events", "--follow") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode in (0, 130)
    check_whole(home)
