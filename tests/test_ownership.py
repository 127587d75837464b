"""What root makes in a user's home is the user's from the beginning, so that the user can go on.

The user has no capability but to read: the interpreter that runs the tests may lie where others may not look.
What may be written and deleted is tried.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from msb_cache import ImageCache, MsbProgramError, ownership
from msb_cache.artifacts import durable, files
from msb_cache.artifacts.layout import Layout
from msb_cache.home import index_cache
from msb_cache.msb.program import MsbProgram
from msb_cache.oci.registry.partials import Partial
from tests.cli.support import APP, TOOL, written
from tests.examples import archive
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive
from tests.reliability.scenarios import check_whole
from tests.test_shared_home import CUT_SHORT

OWNER, GROUP = 31_000, 31_001
CAPABILITY = "dac_read_search"


@pytest.fixture
def folder(require_peer: Callable[[str], str]) -> Iterator[Path]:
    """A folder of the owner's, in one that other users may enter."""
    require_peer("root")
    require_peer("setpriv")
    with TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        found = Path(above, "owner")
        found.mkdir()
        os.chown(found, OWNER, GROUP)
        yield found


@pytest.fixture
def home(folder: Path) -> Path:
    """The owner's empty home."""
    found = folder / "home"
    found.mkdir()
    os.chown(found, OWNER, GROUP)
    return found


RUN = """
import shlex, sys
from msb_cache.cli.main import run
for command in sys.argv[2:]:
    assert run(["--home", sys.argv[1], *shlex.split(command)]) == 0, command
"""


def owner(home: Path, *commands: str, **environment: str) -> list[str]:
    """Run commands as the owner, who succeeds; return the lines of their output."""
    done = subprocess.run(
        [
            *("setpriv", f"--reuid={OWNER}", f"--regid={GROUP}", "--clear-groups"),
            *(f"--inh-caps=-all,+{CAPABILITY}", f"--ambient-caps=-all,+{CAPABILITY}"),
            *(f"--bounding-set=-all,+{CAPABILITY}", sys.executable, "-c", RUN, str(home), *commands),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    check_owned(home)
    return done.stdout.splitlines()


def check_owned(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (OWNER, GROUP), path


def test_root_works_in_a_users_home_and_the_user_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "STEP", 4)
    with ImageCache(home) as cache:
        cache.load(archive(APP, TOOL))
        check_owned(home)  # the database's -wal and -shm too, while it is open
        cache.hold("app:1", "sandbox:dev")
        cache.remove("example.org/team/tool:2")
        cache.load(io.BytesIO(docker_archive(TOOL)))
        check_owned(home)
    assert any((home / "db" / "snapshots").iterdir())
    assert (home / "db" / "reserve").stat().st_uid == OWNER
    mine = ("hold example.org/team/tool:2 sandbox:mine", "release sandbox:dev", "prune --yes --quiet")
    assert len(owner(home, "list -q", *mine, "list -q")) == 3 + 1 + 1  # the operation, too
    with ImageCache(home) as cache:
        cache.release("sandbox:mine")
        cache.prune()
    check_owned(home)
    check_whole(home)


def test_root_restores_a_backup_and_the_user_goes_on(home: Path, tmp_path: Path) -> None:
    with ImageCache(home) as cache:
        cache.load(archive(APP))
        head = cache.events()[-1].seq
        cache.backup(tmp_path / "backup")
        cache.remove("app:latest")
        cache.restore_backup(tmp_path / "backup", discard_events=cache.events()[-1].seq - head)
    check_owned(home)
    Path(Layout(home).database).write_bytes(b"damaged" * 1000)
    with ImageCache(home) as cache:
        cache.restore_backup(tmp_path / "backup")
    check_owned(home)
    assert len(list((home / "db").rglob("msb-cache.db"))) > 1  # what was set aside
    assert "app:1" in owner(home, "use app:1", "list -q")


def test_a_backup_that_root_makes_in_a_users_folder_is_roots(home: Path, folder: Path) -> None:
    with ImageCache(home) as cache:
        cache.load(archive(APP))
        cache.backup(folder / "backup")
    assert (folder / "backup").stat().st_uid == 0


def test_a_new_home_is_the_owners_of_the_folder_in_which_it_is_made(folder: Path, tmp_path: Path) -> None:
    home = folder / "new" / "home"
    with ImageCache(home) as cache:
        cache.load(archive(APP))
    check_owned(folder / "new")
    owner(home, "prune --yes")
    with ImageCache(tmp_path / "own") as cache:
        cache.load(archive(APP))
    assert {path.lstat().st_uid for path in (tmp_path / "own").rglob("*")} == {0}


def test_the_note_in_a_users_home_directory_is_the_users(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")  # there is no note of a home in a temporary folder
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    with ImageCache(home) as cache:
        cache.load(archive(APP))
    assert [*(folder / "state").rglob("heads/*")]
    check_owned(folder)


def test_root_syncs_first_in_a_home_of_msb_and_the_user_goes_on(home: Path, folder: Path) -> None:
    msb = FakeMsb(folder / "msb", home)
    msb.load(APP)
    for path in folder.rglob("*"):
        os.chown(path, OWNER, GROUP)
    with ImageCache(home) as cache:
        assert cache.sync().events
        check_owned(home)
        cache.hold("app:1", "sandbox:roots")
        cache.release("sandbox:roots")
    check_owned(home)
    mine = ("hold app:1 sandbox:mine", "release sandbox:mine", "prune --yes --quiet")
    assert len(owner(home, "list -q", *mine, "list -q", MSB_PATH=str(msb.program))) == 2 + 1 + 0


@pytest.mark.parametrize(
    ("command", "step"), [("load -i app.tar", "add.published"), ("prune --yes", "delete.decided")]
)
def test_what_root_was_killed_at_the_user_recovers(home: Path, command: str, step: str) -> None:
    with ImageCache(home) as cache:
        cache.load(archive(TOOL))
    written(home.with_name("app.tar"), APP)
    words = [sys.executable, "-c", CUT_SHORT, step, "4096", "--home", str(home), *command.split()]
    assert subprocess.run(words, cwd=home.parent, capture_output=True, timeout=60).returncode == -9
    check_owned(home)
    owner(home, "load --quiet -i app.tar".replace("app", str(home.with_name("app"))), "prune --yes --quiet")
    check_whole(home)


# --- before it has its name --------------------------------------------------------------------------------


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were given, each to what was the owner's already."""
    given: list[str] = []
    link, rename = os.link, os.rename

    def checked_link(source: str, place: str, **options: object) -> None:
        assert os.stat(source).st_uid == OWNER
        link(source, place, **options)  # type: ignore[arg-type]
        given.append(place)

    def checked_rename(source: str, place: str) -> None:
        assert os.stat(source).st_uid == OWNER
        rename(source, place)
        given.append(place)

    monkeypatch.setattr(os, "link", checked_link)
    monkeypatch.setattr(os, "rename", checked_rename)
    return given


def test_what_is_made_is_the_owners_before_it_has_its_name(home: Path, named: list[str]) -> None:
    durable.make_folder(home / "a" / "b")
    files.write(home / "a" / "file", b"x")
    os.close(files.open_private(home / "lock", os.O_RDWR))
    partial = Partial.open(home / "a", f"sha256:{'0' * 64}", 10)
    assert partial is not None
    partial.close()
    names = ("a", "a/b", "a/file", "lock", f"a/{'0' * 64}.partial")
    assert named == [str(home / name) for name in names]
    check_owned(home)
    assert stat.S_IMODE((home / "lock").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "a").stat().st_mode) == 0o700
    assert (home / "a" / "file").read_bytes() == b"x"
    before = (home / "lock").stat().st_ino
    os.close(files.open_private(home / "lock", os.O_RDWR))
    assert (home / "lock").stat().st_ino == before
    for make in (lambda: files.create(home / "lock"), lambda: ownership.make_folder(home / "a", 0o700)):
        with pytest.raises(FileExistsError):
            make()
    assert sorted(path.name for path in home.iterdir()) == ["a", "lock"]


@pytest.mark.parametrize("refused", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_nameless_files(
    home: Path, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(refused, os.strerror(refused), path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", without)
    files.write(home / "file", b"x")
    os.close(files.open_private(home / "lock", os.O_RDWR))
    with pytest.raises(FileExistsError):
        files.create(home / "file")
    check_owned(home)


def test_a_root_that_may_not_give_away_keeps_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchown", refuse)
    durable.make_folder(home / "a")
    files.write(home / "a" / "file", b"x")
    assert (home / "a" / "file").stat().st_uid == (home / "a").stat().st_uid == 0


def test_a_link_in_a_folders_place_gives_nothing_away(home: Path, tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    (home / "a").symlink_to(tmp_path / "roots")
    (home / "dangling").symlink_to(tmp_path / "none")
    for name in ("a", "dangling"):
        with pytest.raises(FileExistsError):
            ownership.make_folder(home / name, 0o700)
        with pytest.raises(OSError, match=r"symbolic links|is a directory"):
            files.open_private(home / name, os.O_RDWR)
        with pytest.raises(FileExistsError):
            files.create(home / name)
    assert (tmp_path / "roots").stat().st_uid == 0
    assert not (tmp_path / "none").exists()


def test_a_folder_that_another_process_makes_at_the_same_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def late(source: str, place: str) -> None:
        os.mkdir(place)
        Path(place, "file").touch()
        rename(source, place)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(FileExistsError):
        ownership.make_folder(home / "a", 0o700)
    assert [path.name for path in home.rglob("*")] == ["a", "file"]


def test_a_shared_home_stays_shared(home: Path) -> None:
    home.chmod(0o2770)
    before = os.umask(0o077)
    try:
        with ImageCache(home) as cache:
            cache.load(archive(APP))
    finally:
        os.umask(before)
    check_owned(home)
    for path in home.rglob("*"):
        wanted = 0o2770 if path.is_dir() else 0o660
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path


# --- msb ---------------------------------------------------------------------------------------------------


def test_msb_runs_as_the_owner(home: Path, folder: Path) -> None:
    program = folder / "msb"
    program.write_text('#!/bin/sh\nid -u; id -g; echo "$HOME"; touch "$MSB_HOME/made"\n')
    program.chmod(0o755)
    assert MsbProgram(program, str(home)).run("image", "ls").output.split() == [str(OWNER), str(GROUP), "/"]
    check_owned(home)
    program.chmod(0o700)
    with pytest.raises(MsbProgramError, match=f"user {OWNER}, to whom .* belongs, cannot run"):
        MsbProgram(program, str(home)).run("image", "ls")
