"""Locks: exclusive between processes, safe against unlinked files, gone with their process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from msb_cache.artifacts.locks import HeldLocks, Lease, Lock, LockSet, is_free


def test_exclusive(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "x.lock"), Lock(tmp_path / "x.lock")
    assert first.acquire()
    assert not second.acquire()
    began = time.monotonic()
    assert not second.acquire(wait=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    first.release()
    assert second.acquire()
    second.release()
    second.release()


def test_a_waiter_gets_it(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "x.lock"), Lock(tmp_path / "x.lock")
    first.acquire()
    threading.Timer(0.1, first.release).start()
    assert second.acquire(wait=10)
    second.release()


def test_an_unlinked_lock_file_is_never_held_by_two(tmp_path: Path) -> None:
    """A waiter on a lock file that its owner unlinks must notice the new one."""
    path = tmp_path / "x.lock"
    owner, waiter, third = Lock(path), Lock(path), Lock(path)
    owner.acquire()
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(waiter.acquire(wait=None)))
    thread.start()
    time.sleep(0.1)  # the waiter now waits on the file that is about to go
    owner.release(unlink=True)
    thread.join(10)
    assert got == [True]
    assert path.exists()
    assert not third.acquire()
    waiter.release()


def test_many_processes_count_right(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = (
        "import sys; from pathlib import Path; from msb_cache.artifacts.locks import Lock\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    with Lock(folder / 'x.lock') as lock:\n"
        "        assert lock.acquire(wait=None)\n"
        "        path = folder / 'counter'\n"
        "        path.write_text(str(int(path.read_text()) + 1))\n"
        "        lock.release(unlink=True)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert counter.read_text() == "200"


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock, other = Lock(tmp_path / "x.lock"), Lock(tmp_path / "x.lock")
    lock.acquire()
    to_child, from_child = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.write(from_child[1], b"!")
        os.read(to_child[0], 1)
        os._exit(0)
    assert os.read(from_child[0], 1) == b"!"
    lock.release()
    try:
        assert other.acquire()  # although the child still lives
        other.release()
    finally:
        os.write(to_child[1], b"!")
        os.waitpid(child, 0)
        for descriptor in (*to_child, *from_child):
            os.close(descriptor)


def test_a_set_takes_all_and_tidies_locks_without_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    folder.mkdir()
    (folder / "a.erofs").touch()
    paths = [folder / "b.erofs.lock", folder / "a.erofs.lock", folder / "a.erofs.lock"]
    with LockSet(paths):
        assert not any(Lock(path).acquire() for path in paths)
    assert sorted(path.name for path in folder.iterdir()) == ["a.erofs", "a.erofs.lock"]


def test_a_link_is_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "x.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"x\.lock"):
        Lock(tmp_path / "x.lock").acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_more_locks_than_the_soft_limit_of_open_files(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from msb_cache.artifacts.locks import LockSet\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "with LockSet(Path(sys.argv[1]) / f'{n}.erofs.lock' for n in range(300)): pass\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


# -- asking whether a lock is held ------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_lock_is_free_until_it_is_taken_and_after(tmp_path: Path) -> None:
    path, lock = tmp_path / "x.lock", Lock(tmp_path / "x.lock")
    assert is_free(path)
    assert not path.exists()  # asking makes no file
    before = descriptors()
    lock.acquire()
    for _ in range(3):
        assert not is_free(path)
    lock.release()
    for _ in range(3):
        assert is_free(path)
    assert path.exists()
    assert descriptors() == before


def test_asking_takes_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    assert is_free(path)
    with Lock(path) as lock:
        assert lock.acquire()


def test_a_link_is_never_free(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "x.lock").symlink_to(tmp_path / "file")
    assert not is_free(tmp_path / "x.lock")
    with pytest.raises(NotADirectoryError):
        is_free(tmp_path / "file" / "x.lock")


# -- what stands in it ------------------------------------------------------------------------------------


def test_a_lock_file_says_only_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with Lock(path) as lock:
        lock.acquire()
        for text in ("a long sentence", "short", ""):
            lock.write(text)
            assert path.read_text() == text
        lock.write("stays")
    assert path.read_text() == "stays"
    assert is_free(path)


def test_a_lock_that_is_not_to_be_had_leaves_nothing_open(tmp_path: Path) -> None:
    with Lock(tmp_path / "x.lock") as lock:
        lock.acquire()
        before = descriptors()
        for _ in range(3):
            assert not Lock(tmp_path / "x.lock").acquire()
        assert descriptors() == before


@pytest.mark.parametrize("odd", ["link", "folder", "pipe"])
def test_what_is_no_lock_file_is_named(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "x.lock"
    if odd == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif odd == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with pytest.raises(OSError, match="it is no lock file, but a link or a folder; delete it"):
        Lock(path).acquire()


# -- sets -------------------------------------------------------------------------------------------------


def test_a_set_says_for_each_lock_that_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.waiting.SAY_AFTER", 0.05)
    paths = [tmp_path / f"{name}.lock" for name in "abcd"]
    held = [Lock(paths[1]), Lock(paths[3])]
    for lock in held:
        lock.acquire()
    told: list[Path] = []

    def waiting(path: Path) -> None:
        assert not is_free(paths[0])
        told.append(path)
        held[paths.index(path) // 2].release()

    with LockSet(paths, waiting):
        assert told == [paths[1], paths[3]]
        assert not any(is_free(path) for path in paths)
    assert all(is_free(path) for path in paths)


def test_a_set_that_cannot_take_one_keeps_none(tmp_path: Path) -> None:
    (tmp_path / "b.lock").symlink_to(tmp_path / "elsewhere")
    paths = [tmp_path / f"{name}.lock" for name in "abc"]
    with pytest.raises(OSError, match=r"b\.lock"), LockSet(paths):
        pass
    assert is_free(paths[0])
    assert not paths[2].exists()


def test_a_lease_is_shared_and_keeps_others_from_having_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    with Lease(path) as one, Lease(path) as two:
        assert one.acquire()
        assert two.acquire()
        assert not Lock(path).acquire()
        two.release()
        assert not Lock(path).acquire()
    with Lock(path) as alone:
        assert alone.acquire()
        assert not Lease(path).acquire()


def test_locks_taken_one_after_the_other_are_not_waited_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.lock" for name in "abc"]
    other = Lock(paths[1])
    other.acquire()
    with HeldLocks(unlinks=lambda path: path == paths[2]) as held:
        assert held.take([paths[0]])
        assert held.take([paths[2], paths[0], tmp_path / "no folder" / "x.lock"])
        assert not held.take(paths)
        assert not is_free(paths[0])
        assert not is_free(paths[2])
    other.release()
    assert all(map(is_free, paths))
    assert [path.exists() for path in paths] == [True, True, False]
