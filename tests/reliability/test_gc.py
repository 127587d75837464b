"""gc that is killed and stopped at any moment, several at once, and on a small disk that others fill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.errors import MicrosandboxError
from tests.cli.support import PROGRAM
from tests.imagebuilder import docker_archive, file, image, layer
from tests.moving import settle
from tests.reliability.scenarios import check_whole
from tests.reliability.smalldisk import ext4

HOUR = 3600 * 10**9
CUTS = int(os.environ.get("MSB_CACHE_TEST_CUTS", "2"))
SHARED = layer([file("shared", b"s" * 5000)])
HELD = ("app-3:1", "app-17:1")
POLICY = '[[rule]]\nname = "all"\nunused-for = "0s"\ngrace = "0s"\n'
LOOSE = f'max-delete = "100%"\n{POLICY}'


def load(cache: ImageCache, folder: Path, number: int, size: int = 100) -> None:
    name = f"app-{number}:1"
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive(image([SHARED, layer([file(name, os.urandom(size))])], name)))
    cache.load(archive)


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 30 images, two of them held."""
    folder = tmp_path_factory.mktemp("thirty")
    home = folder / "home"
    home.mkdir()
    with ImageCache(home) as cache:
        for number in range(30):
            load(cache, folder, number)
        for reference in HELD:
            cache.hold(reference, "sandbox:dev")
    (home / "cache-policy.toml").write_text(LOOSE)
    return home


def copied(home: Path, place: Path) -> Path:
    shutil.copytree(home, place)
    settle(place)
    return place


def gc(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, "--home", home, "gc", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    # Before our main is called, Python answers Ctrl-C by itself, wherever the console script is then.
    by_python = err.startswith("Traceback") and err.endswith("KeyboardInterrupt\n") and "main()" not in err
    assert "Traceback" not in err or by_python
    return process.returncode, out, err


def check_kept(home: Path) -> None:
    """Nothing in use is lost, and each file is there or recorded as gone."""
    layout = Layout(home)
    with ImageCache(home) as cache:
        listed = {handle.reference for handle in cache.list()}
        assert {*HELD} <= listed
        layers = {each.diff_id for name in HELD for each in cache.inspect(name).layers}
        assert all(layout.layer(diff_id).exists() for diff_id in layers)
        planned: set[tuple[str, str]] = set()
        gone: set[tuple[str, str]] = set()
        for row in cache.prunes():
            for each in cache.prune_report(row.operation).artifacts:
                planned.add((each.kind, each.subject))
                if each.outcome == "deleted":
                    gone.add((each.kind, each.subject))
        there = {(kind, subject) for kind, subject, _ in layout.files() if kind != "metadata"}
        assert not gone & there
        lost = {each for each in planned - gone - there if each[0] in ("layer", "fsmeta", "vmdk")}
        # Of a process that was killed, the next one that writes says so.
        if all(row.counters.finished_at is not None for row in cache.prunes()):
            assert lost == set()


def finish(home: Path) -> None:
    code, _, err = ended(gc(home))
    assert code == 0, err
    with ImageCache(home) as cache:
        assert sorted(handle.reference for handle in cache.list()) == sorted(HELD)
    check_kept(home)
    check_whole(home)


@contextmanager
def seconds_of_a_run(thirty: Path, tmp_path: Path) -> Iterator[float]:
    home = copied(thirty, tmp_path / "timed")
    began = time.monotonic()
    assert ended(gc(home))[0] == 0
    yield time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [(), ("--every", "1h")], ids=["once", "staying"])
def test_cut_at_any_moment_the_next_one_finishes(
    thirty: Path, tmp_path: Path, number: signal.Signals, arguments: tuple[str, ...]
) -> None:
    chance = random.Random()
    with seconds_of_a_run(thirty, tmp_path) as whole:
        for turn in range(CUTS):
            home = copied(thirty, tmp_path / f"copy-{turn}")
            process = gc(home, *arguments)
            time.sleep(chance.uniform(0, whole * 1.2))
            process.send_signal(number)
            code, _, err = ended(process)
            if number == signal.SIGKILL:
                _wait_for_children(home)
                assert code in (-9, 0)
            elif code not in (-number, 0):  # before the program takes signals, the kernel's way
                assert code in (128 + number, 130), err
            if number != signal.SIGKILL:
                with ImageCache(home) as cache:
                    for row in cache.prunes():
                        assert not any(each.recovered for each in cache.prune_report(row.operation).artifacts)
            check_kept(home)
            finish(home)


def _wait_for_children(home: Path) -> None:
    """A child whose parent was killed goes on to its end."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
        if not any(bytes(home) in line and b"gc" in line for line in lines):
            return
        time.sleep(0.05)
    raise AssertionError("a child of gc never ended")


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_the_brake_is_on_by_default(thirty: Path, tmp_path: Path) -> None:
    home = copied(thirty, tmp_path / "copy")
    (home / "cache-policy.toml").write_text(POLICY)
    with ImageCache(home) as cache:
        cache.release("sandbox:dev")
    code, out, err = ended(gc(home))
    assert (code, out) == (5, "")
    assert "30 of 30 images would go, and at most 90 % may" in err
    with ImageCache(home) as cache:
        assert len(cache.list()) == 30
        assert cache.prunes() == []
    assert ended(gc(home, "--max-delete", "30"))[0] == 0


def test_two_of_them_and_a_prune_at_once(thirty: Path, tmp_path: Path) -> None:
    for turn in range(max(1, CUTS // 2)):
        home = copied(thirty, tmp_path / f"copy-{turn}")
        prune = [PROGRAM, "--home", home, "prune", "--policy", "--yes", "--format", "json"]
        several = [gc(home, "--format", "json"), gc(home, "--format", "json")]
        several.append(subprocess.Popen(prune, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        done = [ended(process) for process in several]
        assert [code for code, _, _ in done] == [0, 0, 0], done
        removed = [json.loads(out)["image_refs_removed"] for _, out, _ in done]
        assert sum(removed) == 28  # each image went by one of them
        with ImageCache(home) as cache:
            assert sum(row.counters.image_refs_removed for row in cache.prunes()) == 28
        check_kept(home)
        check_whole(home)


def test_marks_hold_on_a_small_disk_that_another_writer_fills(
    own_home: Path, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    """Images come as fast as they can while gc runs every second; a file beside them grows, too."""
    require_peer("root")
    with ext4(tmp_path / "disk", 4096, mib=24) as disk:
        cache_folder = disk.folder / "cache"
        cache_folder.mkdir(mode=0o700)
        own_home.mkdir()
        (own_home / "cache").symlink_to(cache_folder)
        (own_home / "cache-policy.toml").write_text(
            'max-delete = "100%"\n[watermarks]\nhigh = "70%"\nlow = "50%"\n'
        )
        capacity = os.statvfs(disk.folder).f_blocks * os.statvfs(disk.folder).f_frsize
        process = gc(own_home, "--every", "1s")
        refused = 0
        try:
            # As if hours ago: what came within the last hour stays.
            past = ImageCache(own_home, clock=lambda: time.time_ns() - 5 * HOUR)
            with past as cache, (disk.folder / "other").open("ab") as other:
                until = time.monotonic() + 6
                number = 0
                while time.monotonic() < until:
                    number += 1
                    try:
                        load(cache, tmp_path, number, 400_000)
                        if number % 4 == 0 and other.tell() < capacity // 3:
                            other.write(os.urandom(200_000))
                            other.flush()
                    except (MicrosandboxError, OSError):
                        refused += 1  # it was faster than once a second
                        time.sleep(0.2)
                    time.sleep(0.05)
        finally:
            time.sleep(2.5)
            process.send_signal(signal.SIGTERM)
            code, _, err = ended(process)
        assert code in (0, 143), err
        lines = [json.loads(line) for line in err.splitlines()]
        assert [line for line in lines if line["level"] == "error"] == []
        assert len([line for line in lines if line["event"] == "gc.run"]) >= 2
        assert disk.free() >= capacity * 0.3
        check_whole(own_home)
