"""What a witness remembers: in a file that is private and whole, that never goes back, and is bounded."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from msb_cache.errors import BusyError, InvalidConfigError, InvalidProofError, MicrosandboxError
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.witness_state import (
    MOST_REFUSED,
    RefusedCheckpoint,
    Witnessed,
    WitnessState,
    usual_path,
)
from tests.proof.signing import LOG
from tests.proof.submitting import EARLY, HONEST, LATE, SubmittingLog


def witnessed(log: SubmittingLog, size: int, at: int = 1) -> Witnessed:
    return Witnessed(log.head(size), log.note(size), at)


def advance(state: WitnessState, new: Witnessed) -> None:
    with state.changing():
        state.advance(new)


def refused(size: int, *, is_fork: bool, of: SubmittingLog = EARLY) -> RefusedCheckpoint:
    head = of.head(size)
    return RefusedCheckpoint(head.origin, size, head.root, str(of.note(size)), is_fork, None, size)


def keep(state: WitnessState, *several: RefusedCheckpoint) -> None:
    with state.changing():
        for each in several:
            state.keep_refused(each)


def kept(state: WitnessState) -> list[tuple[int, bool]]:
    return [(each.size, each.is_fork) for log in state.logs() for each in log.refused]


def test_it_is_its_users_alone_and_remembers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "w.db"
    before = os.umask(0)
    try:
        with closing(WitnessState(path)) as state:
            assert state.logs() == []
            advance(state, witnessed(HONEST, 7, 5))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parents[1].stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["w.db"]
    with closing(WitnessState(path, make=False)) as state:
        assert state.latest(LOG) == witnessed(HONEST, 7, 5)
        assert state.latest("another") is None
        (log,) = state.logs()
    assert log.to_dict()["cosigned_at"].timestamp() == 5
    head = HONEST.head(7)
    assert (log.origin, log.size, log.root, log.note) == (LOG, 7, head.root, str(HONEST.note(7)))


def test_a_commit_is_on_the_disk_with_its_folder(tmp_path: Path) -> None:
    """EXTRA: a journal that a power loss brings back would take back what was cosigned."""
    with closing(WitnessState(tmp_path / "w.db")) as state:
        connection = state._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize(
    "new", [witnessed(HONEST, 6, 9), witnessed(EARLY, 7, 9), witnessed(HONEST, 7, 4), witnessed(HONEST, 9, 4)]
)
def test_the_database_itself_does_not_go_back(tmp_path: Path, new: Witnessed) -> None:
    with closing(WitnessState(tmp_path / "w.db")) as state:
        advance(state, witnessed(HONEST, 7, 5))
        with pytest.raises(sqlite3.IntegrityError, match="does not go back"):
            advance(state, new)
        with pytest.raises(sqlite3.IntegrityError, match="does not forget"), state.changing():
            state._connection.execute("DELETE FROM witnessed")
        assert state.latest(LOG) == witnessed(HONEST, 7, 5)
        advance(state, witnessed(HONEST, 7, 6))
        advance(state, witnessed(HONEST, 8, 6))


def test_what_fails_on_the_way_changes_nothing(tmp_path: Path) -> None:
    with closing(WitnessState(tmp_path / "w.db")) as state:
        with suppress(RuntimeError), state.changing():
            state.advance(witnessed(HONEST, 7))
            raise RuntimeError
        assert state.logs() == []
        advance(state, witnessed(HONEST, 3))


class TestRefused:
    def test_only_so_many_are_kept_and_nothing_pushes_out_a_fork(self, tmp_path: Path) -> None:
        with closing(WitnessState(tmp_path / "w.db")) as state:
            keep(state, refused(6, is_fork=True))
            keep(state, *(refused(size, is_fork=False) for size in range(7, 30)))
            assert kept(state) == [(6, True), *((size, False) for size in range(30 - MOST_REFUSED + 1, 30))]
            keep(state, *(refused(size, is_fork=True) for size in range(6, 22)))
            forks = [(size, True) for size in range(6, 22)]
            assert sorted(kept(state)) == forks
            keep(state, refused(30, is_fork=True), refused(31, is_fork=False))
            assert sorted(kept(state)) == forks
            other = SubmittingLog(LATE.leaves)
            keep(state, refused(25, is_fork=False, of=other))
            assert sorted(kept(state)) == forks

    def test_each_is_kept_once_and_as_what_it_proves(self, tmp_path: Path) -> None:
        with closing(WitnessState(tmp_path / "w.db")) as state:
            keep(state, refused(7, is_fork=False), refused(7, is_fork=False))
            assert kept(state) == [(7, False)]
            keep(state, refused(7, is_fork=True), refused(7, is_fork=False))
            assert kept(state) == [(7, True)]
            (log,) = state.logs()
            assert (log.size, log.note) == (None, None)

    def test_what_is_cosigned_later_was_no_fork(self, tmp_path: Path) -> None:
        with closing(WitnessState(tmp_path / "w.db")) as state:
            same = refused(9, is_fork=False, of=HONEST)
            keep(state, refused(8, is_fork=False), refused(9, is_fork=False), same)
            advance(state, witnessed(HONEST, 9))
            assert kept(state) == [(8, False), (9, True)]
            (log,) = state.logs()
            assert [each.against for each in log.refused] == [None, str(HONEST.note(9))]


def test_its_shape_has_roots_as_checkpoints_have_them(tmp_path: Path) -> None:
    with closing(WitnessState(tmp_path / "w.db")) as state:
        advance(state, witnessed(HONEST, 7))
        keep(state, refused(7, is_fork=True))
        (log,) = state.logs()
    shape = log.to_dict()
    assert f"{LOG}\n{shape['size']}\n{shape['root']}\n" == HONEST.head(7).text
    (fork,) = shape["refused"]
    assert f"{LOG}\n{fork['size']}\n{fork['root']}\n" == EARLY.head(7).text
    assert fork.keys() == {"size", "root", "is_fork", "refused_at", "note", "against"}


def test_who_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.proof.witness_state.BUSY_SECONDS", 0.05)
    with closing(WitnessState(tmp_path / "w.db")) as state, closing(WitnessState(tmp_path / "w.db")) as other:
        with state.changing(), pytest.raises(BusyError, match="another process"):
            advance(other, witnessed(HONEST, 7))
        with closing(sqlite3.connect(tmp_path / "w.db")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM witnessed").fetchall()
            with pytest.raises(BusyError):
                advance(state, witnessed(HONEST, 7))
        advance(state, witnessed(HONEST, 3))
        assert other.latest(LOG) == witnessed(HONEST, 3)


# --- what is no state -----------------------------------------------------------------------------


def sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return change


def another(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE mine (a)")(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (another, InvalidConfigError, "not the state of a witness"),
        (folder, InvalidConfigError, "is no file"),
        (lambda path: path.write_bytes(b"no database " * 1000), InvalidProofError, "is damaged, or no state"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9000]), InvalidProofError, "damaged"),
        (lambda path: path.chmod(0o620), InvalidConfigError, "others can change"),
        (lambda path: path.chmod(0o602), InvalidConfigError, "chmod 600"),
        (sql("PRAGMA user_version = 2"), InvalidConfigError, "a newer release"),
        (sql("PRAGMA application_id = 1"), InvalidConfigError, "not the state of a witness"),
        (sql("DROP TRIGGER witnessed_forward"), InvalidProofError, "it has other tables"),
        (sql("DROP TABLE refused"), InvalidProofError, "it has other tables"),
        (
            sql(
                "CREATE TRIGGER evil AFTER INSERT ON refused BEGIN "
                "INSERT INTO witnessed VALUES ('x', 1, zeroblob(32), '', 1); END"
            ),
            InvalidProofError,
            "it has other tables",
        ),
        (sql("ALTER TABLE refused ADD COLUMN more"), InvalidProofError, "it has other tables"),
    ],
)
def test_what_is_no_state_is_a_sentence(
    tmp_path: Path, change: Callable[[Path], object], kind: type[MicrosandboxError], said: str
) -> None:
    path = tmp_path / "w.db"
    with closing(WitnessState(path)) as state:
        advance(state, witnessed(HONEST, 7))
    change(path)
    with pytest.raises(kind, match=said):
        WitnessState(path)


def test_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfigError, match="no state of a witness can be made"):
        WitnessState(tmp_path / "file" / "w.db")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(InvalidConfigError, match="is no file"):
        WitnessState(tmp_path / "fifo")
    with pytest.raises(InvalidConfigError, match="there is no state of a witness at"):
        WitnessState(tmp_path / "w.db", make=False)
    assert not (tmp_path / "w.db").exists()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE witnessed SET note = 'x'",
        "UPDATE witnessed SET note = x'ff'",
        "UPDATE witnessed SET note = replace(note, char(10) || '7' || char(10), char(10) || '8' || char(10))",
        "UPDATE witnessed SET size = 8",
        "UPDATE refused SET root = 'x'",
        "UPDATE refused SET refused_at = 'x'",
    ],
)
def test_what_is_damaged_in_it_is_a_sentence(tmp_path: Path, change: str) -> None:
    path = tmp_path / "w.db"
    with closing(WitnessState(path)) as state:
        advance(state, witnessed(HONEST, 7))
        keep(state, refused(9, is_fork=False))
    sql(change)(path)
    with closing(WitnessState(path)) as state, pytest.raises(InvalidProofError, match="damaged"):
        state.logs()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_was_exchanged_is_not_gone_on_with(tmp_path: Path, replaced: bool) -> None:
    path, old = tmp_path / "w.db", tmp_path / "old.db"
    with closing(WitnessState(path)) as state:
        advance(state, witnessed(HONEST, 7))
        old.write_bytes(path.read_bytes())
        old.chmod(0o600)
        advance(state, witnessed(HONEST, 9))
        if replaced:
            old.replace(path)
        else:
            path.unlink()
        with pytest.raises(InvalidConfigError, match=r"another file|there is no state"):
            advance(state, witnessed(HONEST, 10))


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/lib")
    assert usual_path() == "/var/lib/msb-cache/witness.db"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert usual_path() == "/home/ada/.local/state/msb-cache/witness.db"
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    with pytest.raises(InvalidConfigError, match="--state"):
        usual_path()


def test_a_log_may_have_no_events(tmp_path: Path) -> None:
    with closing(WitnessState(tmp_path / "w.db")) as state:
        advance(state, witnessed(HONEST, 0))
        assert state.latest(LOG) == witnessed(HONEST, 0)
        assert TreeHead(LOG, 0, state.logs()[0].root or b"") == HONEST.head(0)
