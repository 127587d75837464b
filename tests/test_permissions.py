"""Who may read what is made, what is never written through, and homes that are read only or oddly named.

Root without its capabilities is a user like any other, so these tests mean the same whoever runs them.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.errors import BusyError, LogError
from tests.cli.support import APP, APP_NEXT, PROGRAM, TOOL, Done, execute, sentence, written
from tests.moving import settle
from tests.trees import files_below


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def modes(home: Path) -> dict[str, int]:
    return {str(path.relative_to(home)): stat.S_IMODE(path.lstat().st_mode) for path in home.rglob("*")}


@pytest.mark.parametrize("mask", [0, 0o002, 0o022, 0o077, 0o027])
def test_what_is_made_is_the_owners_whatever_the_umask(
    tmp_path: Path, umask: Callable[[int], int], mask: int
) -> None:
    archive = written(tmp_path / "app.tar", APP)
    umask(mask)
    home = tmp_path / "new" / "home"
    with ImageCache(home) as cache:
        cache.load(archive)
        cache.prune()
        cache.load(archive)
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    for name, mode in modes(home).items():
        if (home / name).is_dir():
            assert mode == 0o700, name
        elif name.endswith(".erofs"):
            assert mode & 0o133 == 0, name  # the folder keeps others out
        else:
            assert mode == 0o600, name


@pytest.mark.parametrize("mask", [0, 0o007, 0o022, 0o077])
def test_a_group_shares_a_home_that_was_made_for_it(
    tmp_path: Path, umask: Callable[[int], int], mask: int
) -> None:
    archive = written(tmp_path / "app.tar", APP)
    umask(mask)
    home = tmp_path / "shared"
    home.mkdir()
    home.chmod(0o2770)
    with ImageCache(home) as cache:
        cache.load(archive)
    for name, mode in modes(home).items():
        if (home / name).is_dir():
            assert mode == 0o2770, name
        elif name.endswith(".erofs"):
            assert mode & 0o660 == 0o660, name
        else:
            assert mode == 0o660, name


def test_folders_that_are_there_keep_their_mode(tmp_path: Path, umask: Callable[[int], int]) -> None:
    archive = written(tmp_path / "app.tar", APP)
    umask(0o022)
    home = tmp_path / "home"
    (home / "cache" / "layers").mkdir(parents=True)
    (home / "db").mkdir()
    with ImageCache(home) as cache:
        cache.load(archive)
    found = modes(home)
    assert [found[name] for name in ("cache", "cache/layers", "db")] == [0o755] * 3
    assert found["cache/fsmeta"] == found["db/operations"] == 0o700
    assert found["db/msb-cache.db"] == 0o600


# --- links ---------------------------------------------------------------------------------------

FOLDERS = (
    *("cache/layers", "cache/manifests", "cache/fsmeta", "cache/vmdk", "cache/tmp"),
    *("db", "db/operations", "db/snapshots"),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with ImageCache(tmp_path / "h") as cache:
        cache.load(written(tmp_path / "app.tar", APP))
    return tmp_path / "h"


def moved_out(home: Path, name: str) -> Path:
    """Put a link where a folder or file was, to where it is now: outside of the home."""
    outside = home.with_name("outside")
    outside.mkdir()
    if not (home / name).exists():
        (home / name).mkdir()
    (home / name).rename(outside / "moved")
    (home / name).symlink_to(outside / "moved")
    return outside


@pytest.mark.parametrize("name", [*FOLDERS, "db/msb-cache.db", "db/msb-cache.db-wal"])
def test_nothing_is_written_or_deleted_through_a_link(home: Path, tmp_path: Path, name: str) -> None:
    outside = moved_out(home, name)
    before = files_below(outside, locks=True)
    works: tuple[Callable[[ImageCache], object], ...] = (
        lambda cache: cache.load(written(tmp_path / "tool.tar", TOOL)),
        lambda cache: cache.load(written(tmp_path / "next.tar", APP_NEXT)),
        lambda cache: cache.remove("app:1"),
        lambda cache: cache.prune(),
        lambda cache: cache.hold("app:1", "sandbox:a"),
        lambda cache: cache.use("app:1"),
    )
    for work in works:
        with ImageCache(home) as cache, pytest.raises(LogError, match="is a symbolic link"):
            work(cache)
    assert files_below(outside, locks=True) == before


def test_a_home_that_is_a_link_is_what_it_leads_to(home: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(home)
    with ImageCache(link) as cache:
        cache.remove("app:1")
        assert [image.reference for image in cache.list()] == ["app:latest"]


@pytest.mark.parametrize("kind", ["metadata", "layer", "fsmeta", "vmdk"])
def test_a_link_in_an_artifacts_place_is_never_followed(home: Path, tmp_path: Path, kind: str) -> None:
    folder = Layout(home).folders[kind]  # type: ignore[index]
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for path in folder.iterdir():
        if path.suffix != ".lock":
            path.unlink()
            path.symlink_to(victim)
    with ImageCache(home) as cache:
        cache.load(tmp_path / "app.tar")
        assert not any(path.is_symlink() for path in folder.iterdir())
        for path in folder.iterdir():
            if path.suffix != ".lock":
                path.unlink()
                path.symlink_to(victim)
        cache.prune()
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("make", [lambda path, to: path.symlink_to(to), lambda path, to: path.mkdir()])
def test_a_lock_file_that_is_none(home: Path, tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    layout = Layout(home)
    lock = lock_path(layout.metadata("docker.io/library/app:1"))
    for path in (lock, layout.prune_lock):
        path.unlink(missing_ok=True)
        make(path, victim)
    with ImageCache(home) as cache:
        with pytest.raises(OSError, match="no lock file"):
            cache.load(tmp_path / "app.tar")
        with pytest.raises(OSError, match="no lock file"):
            cache.prune()
        assert len(cache.list()) == 2
    assert victim.read_bytes() == b"precious"


# --- something else where a file or folder should be ---------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_where_a_folder_should_be(home: Path, name: str) -> None:
    path = home / name
    if path.exists():
        shutil.rmtree(path)
    path.write_bytes(b"mine")
    done = execute("--home", home, "load", "-i", home.with_name("app.tar"))
    assert done.code == 1
    assert str(path) in sentence(done.err)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["metadata", "layer", "fsmeta", "vmdk", "database"])
def test_a_folder_where_a_file_should_be(home: Path, kind: str) -> None:
    layout = Layout(home)
    files = {each: path for each, _, path in layout.files()}
    found = (files | {"database": Path(layout.database)})[kind]
    found.unlink()
    (found / "mine").mkdir(parents=True)
    for command in (["load", "-i", home.with_name("app.tar")], ["prune", "--yes"], ["verify"], ["list"]):
        done = execute("--home", home, *command)
        assert "Traceback" not in done.err
        if done.code:
            assert done.code == 1
            assert command[0] == "verify" or sentence(done.err)
    assert (found / "mine").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "it's",
        "día-日本-\u202e",
        "percent%41?#x",
        b"\xff\xfe",
        "n" * 200,
    ],
)
def test_homes_with_any_name(tmp_path: Path, name: str | bytes) -> None:
    home = tmp_path / os.fsdecode(name)
    archive = written(tmp_path / "app.tar", APP)
    for command in (["load", "-i", archive], ["list"], ["verify"], ["info"], ["prune", "--yes"]):
        done = execute("--home", home, *command)
        assert done.code == 0, (command, done.err)
        assert "\u202e" not in done.out + done.err


@pytest.mark.parametrize("name", ['"quoted"', "two\nlines"])
def test_homes_that_a_disk_descriptor_cannot_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    done = execute("--home", home, "load", "-i", written(tmp_path / "app.tar", APP))
    assert done.code == 1
    assert "cannot name the path" in " ".join(done.err.split())
    assert not [*Layout(home).files()]


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    home = tmp_path / "/".join(["d" * 200] * 25)
    for command in (["list"], ["load", "-i", written(tmp_path / "app.tar", APP)]):
        done = execute("--home", home, *command)
        assert done.code == 1
        assert "too long" in sentence(done.err)


def test_a_cache_folder_that_is_gone_is_made_again(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "cache")
    with ImageCache(home) as cache:
        assert len(cache.list()) == 2
        cache.load(tmp_path / "app.tar")
        assert cache.verify().sound


# --- homes that cannot be written to -------------------------------------------------------------


READING = (
    *(
        ["list"],
        ["inspect", "app:1"],
        ["history", "app:1"],
        ["events"],
        ["verify"],
        ["info"],
        ["metrics"],
    ),
    *(
        ["holders", "app:1"],
        ["prune", "--dry-run"],
        ["why", "app:1"],
        ["list", "--as-of", "now"],
        ["checkpoint"],
    ),
)
WRITING = (
    *(["prune", "--yes"], ["remove", "app:1"], ["hold", "app:1", "sandbox:a"], ["use", "app:1"]),
    *(["load", "-i", "app.tar"], ["rebuild"]),
)


def as_a_stranger(*arguments: object) -> Done:
    """Run the program without root's right to write everywhere."""
    command = [PROGRAM, *map(str, arguments)]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    return Done(done.returncode, done.stdout, done.stderr.decode())


def read_only(home: Path) -> Path:
    """Take every right to write away, and where root runs the tests, the ownership too."""
    for path in (*home.rglob("*"), home):
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
        path.chmod(0o555 if path.is_dir() else 0o444)
    return home


@pytest.fixture
def locked(home: Path, require_peer: Callable[[str], str]) -> Iterator[Path]:
    if os.geteuid() == 0:
        require_peer("setpriv")
    yield read_only(home)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_read_only_home_is_read(locked: Path, command: list[str]) -> None:
    before = files_below(locked, locks=True)
    done = as_a_stranger("--home", locked, *command)
    assert (done.code, done.err.strip()) in ((0, ""), (0, "Nobody holds it."))
    assert files_below(locked, locks=True) == before


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_a_read_only_home_is_not_written_to(locked: Path, command: list[str]) -> None:
    before = files_below(locked, locks=True)
    given = [locked.with_name("app.tar") if word == "app.tar" else word for word in command]
    done = as_a_stranger("--home", locked, *given)
    assert done.code == 1
    assert "cannot be written to by this user; use an account that may" in sentence(done.err)
    assert files_below(locked, locks=True) == before


@pytest.mark.parametrize("shared_memory", [True, False])
def test_what_is_still_in_the_write_ahead_log_is_read(
    home: Path, tmp_path: Path, require_peer: Callable[[str], str], shared_memory: bool
) -> None:
    """A home copied while it was in use has its last events in the ``-wal`` only."""
    if os.geteuid() == 0:
        require_peer("setpriv")
    copy = tmp_path / "copy"
    with ImageCache(home) as writer:
        writer.hold("app:1", "sandbox:late")
        shutil.copytree(home, copy)
    settle(copy)
    assert (copy / "db" / "msb-cache.db-wal").stat().st_size
    if not shared_memory:
        (copy / "db" / "msb-cache.db-shm").unlink()
    read_only(copy)
    done = as_a_stranger("--home", copy, "holders", "app:1", "--format", "json")
    assert done.code == 0, done.err
    assert "sandbox:late" in done.out
    assert as_a_stranger("--home", copy, "verify").code == 0


def test_a_home_nobody_else_may_look_into(home: Path, require_peer: Callable[[str], str]) -> None:
    if os.geteuid() == 0:
        require_peer("setpriv")
        os.chown(home, 12345, 12345)
    home.chmod(0)
    for command in (["list"], ["load", "-i", home.with_name("app.tar")]):
        done = as_a_stranger("--home", home, *command)
        assert done.code in (1, 2)
        assert re.search("is not readable|ermission denied", sentence(done.err))
    home.chmod(0o700)


def test_a_change_while_it_is_read_is_noticed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite keeps no watch, because it was told that nobody writes."""
    from msb_cache.home.ledger import Ledger
    from msb_cache.home.readonly import connect

    path = home / "db" / "msb-cache.db"
    monkeypatch.setattr("msb_cache.home.ledger.open_to_read", lambda layout, note: connect(path))
    reader = Ledger(Layout(home))
    with reader.read() as connection:
        assert connection is not None
        (before,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    with ImageCache(home) as writer:
        writer.use("app:1")
    with reader.read() as connection:
        assert connection is not None
        assert connection.execute("SELECT max(seq) FROM events").fetchone() == (before + 1,)
    with pytest.raises(BusyError, match="while it was read"), reader.read(), ImageCache(home) as writer:
        writer.use("app:1")
    reader.close()
