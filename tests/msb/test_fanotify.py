"""What the kernel says of a folder: who opened, wrote, closed and renamed a file, under whichever name."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.msb import fanotify
from msb_cache.msb.fanotify import CLOSE_WRITE, CREATE, DELETE, MODIFY, MOVED_TO, OPEN, Listener
from tests.msb.conftest import needs_fanotify

pytestmark = needs_fanotify


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def events(listener: Listener) -> list[tuple[int, int, str | None]]:
    found = []
    while some := listener.read():
        for event in some:
            found.append((event.mask, event.pid, event.name))
            if event.pidfd is not None:
                os.close(event.pidfd)
    return found


def run(command: str, folder: Path) -> int:
    process = subprocess.Popen(["/bin/sh", "-c", f"{command}; :"], cwd=folder)
    assert process.wait() == 0
    return process.pid


def test_who_wrote(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    listener.add_folder(tmp_path)
    assert listener.read() == []
    pid = run("echo 1 >> a", tmp_path)
    assert events(listener) == [(OPEN | MODIFY | CLOSE_WRITE, pid, "a")]
    pid = run("echo 1 > b", tmp_path)
    assert events(listener) == [(CREATE | OPEN | MODIFY | CLOSE_WRITE, pid, "b")]


def test_a_process_comes_with_a_descriptor_of_it(listener: Listener, tmp_path: Path) -> None:
    listener.add_folder(tmp_path)
    (tmp_path / "a").touch()
    found = listener.read()
    assert {event.pid for event in found} == {os.getpid()}
    for event in found:
        assert event.pidfd is not None
        assert f"Pid:\t{os.getpid()}\n" in Path(f"/proc/self/fdinfo/{event.pidfd}").read_text()
        os.close(event.pidfd)
    run("echo 1 > b", tmp_path)
    assert {event.pidfd for event in listener.read()} == {None}  # it has ended


def test_names_that_come_and_go(listener: Listener, tmp_path: Path) -> None:
    home = tmp_path / "db"
    home.mkdir()
    (tmp_path / "new").touch()
    listener.add_folder(home)
    os.rename(tmp_path / "new", home / "a")
    os.unlink(home / "a")
    assert [(mask, name) for mask, _, name in events(listener)] == [(MOVED_TO | DELETE, "a")]


def test_a_file_under_another_name(listener: Listener, tmp_path: Path) -> None:
    home = tmp_path / "db"
    home.mkdir()
    (home / "a").touch()
    listener.add_folder(home)
    os.link(home / "a", tmp_path / "b")
    run("echo 1 >> b", tmp_path)
    assert events(listener) == []
    listener.add_file(home / "a")
    pid = run("echo 1 >> b", tmp_path)
    assert [(mask, by) for mask, by, _ in events(listener)] == [(OPEN | MODIFY | CLOSE_WRITE, pid)]


def test_another_folder_of_the_same_name_is_not_listened_to(listener: Listener, tmp_path: Path) -> None:
    home = tmp_path / "db"
    home.mkdir()
    assert not listener.has(home)
    listener.add_folder(home)
    listener.add_folder(home)
    assert listener.has(home)
    shutil.rmtree(home)
    assert not listener.has(home)
    home.mkdir()
    assert not listener.has(home)
    with pytest.raises(FileNotFoundError):
        listener.add_folder(tmp_path / "none")


def test_a_system_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="not implemented") as caught:
        fanotify.Listener()
    assert caught.value.errno == errno.ENOSYS
