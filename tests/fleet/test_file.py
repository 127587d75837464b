"""A fleet in a file: whose it is, what else can be at its path, and what another release left."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import BusyError, FleetError, InvalidConfigError, MicrosandboxError
from msb_cache.fleet import file as fleet_file
from msb_cache.fleet.file import APPLICATION_ID, FleetFile
from msb_cache.fleet.fleet import Fleet
from msb_cache.projections import FOLD_VERSION
from tests.carrying import lived_in
from tests.fleet.exports import content, exported


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one log."""
    export = tmp_path / "ci.jsonl"
    export.write_bytes(exported(lived_in(tmp_path / "home")))
    [taken] = Fleet(db=tmp_path / "fleet.db").take([export])
    assert taken.problem is None
    return tmp_path / "fleet.db"


def changed(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_it_is_one_file_of_its_user(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.glob("fleet.db*")] == ["fleet.db"]


def test_it_can_be_opened_by_itself(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM event WHERE data IS NOT NULL").fetchone()
        assert connection.execute("SELECT size FROM head").fetchall() == [(count,)]
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_a_read_writes_nothing(path: Path) -> None:
    with FleetFile(str(path)).read() as reading:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reading.rows("DELETE FROM msb_cache.head")
        assert len(reading.rows("SELECT * FROM msb_cache.head")) == 1


def test_a_read_is_of_one_moment(path: Path) -> None:
    with FleetFile(str(path)).read() as reading:
        assert [row for (row,) in reading.stream("SELECT 1")] == [1]
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("DELETE FROM head")
            with pytest.raises(sqlite3.OperationalError, match="locked"):  # it waits for the read to end
                other.commit()


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"no fleet at .*/none.db; `msb-cache fleet --db FILE take"):
        Fleet(db=tmp_path / "none.db").logs()
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "none.db").touch()  # as a `take` leaves it that was killed at once
    with pytest.raises(InvalidConfigError, match="there is no fleet at"):
        Fleet(db=tmp_path / "none.db").logs()
    with (
        pytest.raises(InvalidConfigError, match="there is no fleet at"),
        FleetFile(str(tmp_path / "none.db")).write(),
    ):
        pass
    with (
        pytest.raises(InvalidConfigError, match="no fleet can be made at"),
        FleetFile("/proc/no.db").write(make=True),
    ):
        pass


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("PRAGMA application_id = 0", "is no fleet of msb-cache; give --db another path"),
        ("PRAGMA user_version = 99", r"newer msb-cache \(schema 99, this one knows \d+\); upgrade"),
        ("DROP VIEW event", "it has other tables; delete it, and `take` the exports again"),
        ("CREATE TRIGGER t AFTER INSERT ON head BEGIN DELETE FROM events; END", "it has other tables"),
    ],
)
def test_something_else_is_refused(path: Path, statement: str, sentence: str) -> None:
    changed(path, statement)
    before = path.read_bytes()
    file = FleetFile(str(path))
    for opened in (file.read(), file.write(), file.write(make=True)):
        with pytest.raises(InvalidConfigError, match=sentence), opened:
            pass
    assert path.read_bytes() == before


def test_a_home_is_no_fleet(path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="is no fleet of msb-cache"):
        Fleet(db=path.parent / "home" / "db" / "msb-cache.db").logs()
    path.write_text("no database\n" * 100)
    with pytest.raises(InvalidConfigError, match="is no fleet of msb-cache"):
        Fleet(db=path).logs()
    with pytest.raises(InvalidConfigError, match="is no fleet of msb-cache"):
        [*Fleet(db=path).take([path.parent / "ci.jsonl"])]


def test_a_damaged_one_is_told(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FleetError, match=r"the fleet in .*fleet.db cannot be asked: "):
        Fleet(db=path).logs()


@pytest.mark.parametrize("version", [FOLD_VERSION - 1, FOLD_VERSION + 1])
def test_what_another_release_folded_is_folded_anew(path: Path, version: int) -> None:
    before = content(path)
    changed(
        path,
        f"UPDATE fleet SET fold_version = {version}",
        "DROP TABLE pin",
        "ALTER TABLE image ADD COLUMN of_later text",
        "DELETE FROM layer",
        "UPDATE told SET data = '{}'",
    )
    assert [(log.size, log.folded_seq) for log in Fleet(db=path).logs()] == [(30, 30)]
    after = content(path)
    for state in (before, after):
        state["fold_state"] = [(*row[:4], *row[5:]) for row in state["fold_state"]]  # but for when
    assert after == before


def test_another_process_has_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_file, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match=r"another process has .*fleet.db locked; try again"):
            Fleet(db=path).logs()


def test_a_failure_leaves_what_was_there(path: Path) -> None:
    before = content(path)

    def fails() -> None:
        with FleetFile(str(path)).write() as connection:
            connection.execute("DELETE FROM msb_cache.head")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert content(path) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE fold_state SET seq = 'x'",
        "UPDATE fold_state SET host = X'ff'",
        "UPDATE image SET last_used_at = 'abc'",
        "UPDATE image SET in_use_by = 'no JSON', in_use_since = 1",
    ],
)
def test_what_no_fleet_holds_is_told(path: Path, statement: str) -> None:
    changed(path, statement)
    fleet = Fleet(db=path)
    refused = 0
    for ask in (fleet.hosts, fleet.list, fleet.last_used, fleet.events):
        try:
            ask()
        except MicrosandboxError:  # any other one is a traceback for somebody
            refused += 1
    assert refused
