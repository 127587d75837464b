"""Exports are taken into a fleet's file: each whole or not at all, and what is new of it alone."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache import ImageCache, InvalidConfigError
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.chain import raw_rows
from msb_cache.fleet.fleet import Fleet
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import columns
from tests.carrying import USED, forged, lived_in
from tests.fleet.exports import content, exported
from tests.fleet.taking import Taking
from tests.fleet.taking import take as take_all
from tests.reliability.killing import spread

LOG = 30  # events of `lived_in`
CUTS = int(os.environ.get("MSB_CACHE_TEST_CUTS", "2"))
SEED = int(os.environ.get("MSB_CACHE_TEST_SEED", str(random.randrange(1 << 32))))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lived_in(tmp_path_factory.mktemp("lived") / "home")


@pytest.fixture(scope="module")
def log(lived: Path) -> bytes:
    return exported(lived)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(db=tmp_path / "fleet.db", clock=count(2 * 10**18).__next__)


def put(tmp_path: Path, data: bytes, name: str = "ci.jsonl") -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))
    return path


def take(fleet: Fleet, *paths: Path) -> list[tuple[str, int, int | None, bool]]:
    return [(Path(each.path).name, each.new, each.size, each.problem is None) for each in fleet.take(paths)]


def said(fleet: Fleet, path: Path) -> str:
    """With what sentence it is refused."""
    [taken] = fleet.take([path])
    assert taken.problem is not None
    assert (taken.new, taken.size, taken.host) == (0, None, None)
    return taken.problem.replace(f"{path.parent}/", "")


def test_a_log_is_taken_with_its_rows(fleet: Fleet, lived: Path, log: bytes, tmp_path: Path) -> None:
    assert take(fleet, put(tmp_path, log)) == [("ci.jsonl", LOG, LOG, True)]
    found = content(tmp_path / "fleet.db")
    with closing(sqlite3.connect(Layout(lived).database)) as connection:
        rows = [(*row, stored) for row, stored in raw_rows(connection)]
        log_id = rows[0][4]
        assert found["events"] == sorted([(log_id, *row) for row in rows], key=repr)
        for row_type in ROW_TYPES:
            at = columns(row_type).index("config") if row_type.table == "manifest" else None
            stored = connection.execute(f"SELECT {', '.join(columns(row_type))} FROM {row_type.table}")
            wanted = [tuple(None if n == at else value for n, value in enumerate(row)) for row in stored]
            assert found[row_type.table] == sorted([(log_id, *row) for row in wanted], key=repr)
    host = os.uname().nodename
    assert found["head"] == [
        (log_id, "", LOG, rows[-1][-1], rows[-1][7], 2 * 10**18, 10**18, LOG, None, None, None, None)
    ]
    [state] = found["fold_state"]
    assert state[:-1] == (log_id, LOG, rows[-1][-1], rows[-1][7], 2 * 10**18, host, None, None, None)
    assert [data for *_, data in found["told"] if "GREETING" in data] == []


def test_only_what_is_new_is_taken(fleet: Fleet, log: bytes, tmp_path: Path) -> None:
    lines = log.splitlines(keepends=True)
    older, newer = put(tmp_path, b"".join(lines[:7]), "1.jsonl"), put(tmp_path, log, "2.jsonl")
    assert take(fleet, older, newer) == [("1.jsonl", 7, 7, True), ("2.jsonl", LOG - 7, LOG, True)]
    assert take(fleet, older, newer) == [("1.jsonl", 0, LOG, True), ("2.jsonl", 0, LOG, True)]
    assert [(each.size, each.folded_seq) for each in fleet.logs()] == [(LOG, LOG)]


@given(st.lists(st.integers(1, LOG), min_size=1, max_size=4))
def test_in_parts_it_is_the_same(
    lived: Path, log: bytes, tmp_path_factory: pytest.TempPathFactory, ends: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    lines = log.splitlines(keepends=True)
    fleets = [Fleet(db=folder / name, clock=lambda: 2 * 10**18) for name in ("whole", "parts")]
    take(fleets[0], put(folder, log))
    known = 0
    for end in (*ends, LOG):
        [(_, new, size, _)] = take(fleets[1], put(folder, b"".join(lines[:end])))
        assert (new, size) == (max(0, end - known), max(known, end))
        known = max(known, end)
    assert content(folder / "whole") == content(folder / "parts")


def test_a_database_is_taken_too(fleet: Fleet, lived: Path, log: bytes, tmp_path: Path) -> None:
    database = Path(Layout(lived).database)
    assert take(fleet, database, put(tmp_path, log)) == [
        ("msb-cache.db", LOG, LOG, True),
        ("ci.jsonl", 0, LOG, True),
    ]


def test_a_folder(fleet: Fleet, lived: Path, log: bytes, tmp_path: Path) -> None:
    put(tmp_path, log, "exports/b.jsonl")
    put(tmp_path, log, "exports/README.md")
    (tmp_path / "exports/link.jsonl").symlink_to("b.jsonl")
    (tmp_path / "exports/a").symlink_to(lived)
    other = exported(lived_in(tmp_path / "other"))
    (tmp_path / "other").rename(tmp_path / "exports/ci-2")
    assert take(fleet, tmp_path / "exports") == [
        ("b.jsonl", LOG, LOG, True),
        ("msb-cache.db", LOG, LOG, True),
    ]
    assert take(fleet, put(tmp_path, other)) == [("ci.jsonl", 0, LOG, True)]
    assert len(fleet.logs()) == 2


def test_what_is_not_there(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"there is no .*/none; name exports, or folders of them"):
        take(fleet, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidConfigError, match=r"there is no export in .*/empty; of a folder are taken"):
        take(fleet, tmp_path / "empty")
    assert not (tmp_path / "fleet.db").exists()


def test_what_is_refused_leaves_the_others(fleet: Fleet, log: bytes, tmp_path: Path) -> None:
    bad = put(tmp_path, log[:-1], "bad.jsonl")
    other = put(tmp_path, exported(lived_in(tmp_path / "other")), "other.jsonl")
    assert take(fleet, bad, other) == [("bad.jsonl", 0, None, False), ("other.jsonl", LOG, LOG, True)]
    assert [each.size for each in fleet.logs()] == [LOG]


def _cut(lines: list[bytes]) -> bytes:
    return b"".join(lines)[:-1]


def _changed(lines: list[bytes]) -> bytes:
    return b"".join(lines).replace(b'"version":1', b'"version":2', 1)


def _without(lines: list[bytes]) -> bytes:
    return b"".join(lines[:4] + lines[5:])


def _headless(lines: list[bytes]) -> bytes:
    return b"".join(lines[1:])


DAMAGED = {
    _cut: f"line {LOG}, the last, is cut off: it has no line feed",
    _changed: "it does not verify: the hash of event 1 does not match its contents",
    _without: "it does not verify: event 5 is missing; the next one is event 6",
    _headless: "it does not verify: event 1 is missing; the next one is event 2",
}


@pytest.mark.parametrize("known", [0, 3, LOG])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_export_is_refused(
    fleet: Fleet, log: bytes, tmp_path: Path, damage: object, known: int
) -> None:
    lines = log.splitlines(keepends=True)
    if known:
        take(fleet, put(tmp_path, b"".join(lines[:known])))
    before = content(tmp_path / "fleet.db") if known else None
    bad = put(tmp_path, damage(lines), "bad.jsonl")  # type: ignore[operator]
    assert said(fleet, bad) == f"bad.jsonl was not taken: {DAMAGED[damage]}"  # type: ignore[index]
    assert before is None or content(tmp_path / "fleet.db") == before


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "bad.jsonl was not taken: there is no event in it, so there is no log to take"),
        (b"hello\n", "bad.jsonl was not taken: line 1 is no exported event: JSON is malformed"),
        (b"SQLite format 3\0" + bytes(4096), "bad.jsonl is damaged, or no log of msb-cache: "),
    ],
)
def test_what_is_no_log_is_refused(fleet: Fleet, tmp_path: Path, data: bytes, sentence: str) -> None:
    assert said(fleet, put(tmp_path, data, "bad.jsonl")).startswith(sentence)


def test_an_event_that_no_msb_cache_writes_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    bad = forged(tmp_path, USED, subject="../../etc/passwd")
    assert said(fleet, put(tmp_path, bad, "bad.jsonl")) == (
        "bad.jsonl was not taken: event 2 is none that msb-cache writes: "
        "its subject is no canonical reference"
    )
    newer = put(tmp_path, forged(tmp_path / "2", USED, type="image.teleported"), "bad.jsonl")
    assert "image.teleported" in said(fleet, newer)


def test_a_log_that_went_another_way_is_refused(
    fleet: Fleet, lived: Path, log: bytes, tmp_path: Path
) -> None:
    copies = []
    for name in ("one", "two"):
        shutil.copytree(lived, tmp_path / name)
        with ImageCache(tmp_path / name) as cache:
            cache.use("app:1", holder=f"sandbox:{name}")
        copies.append(put(tmp_path, exported(tmp_path / name), f"{name}.jsonl"))
    assert take(fleet, copies[0]) == [("one.jsonl", LOG + 1, LOG + 1, True)]
    before = content(tmp_path / "fleet.db")
    assert said(fleet, copies[1]) == (
        f"two.jsonl was not taken: event {LOG + 1} is another than the fleet has of this log, so two "
        "machines or backups went on from one log; `msb-cache log anew` on one of them begins a log of its "
        "own"
    )
    assert content(tmp_path / "fleet.db") == before
    assert take(fleet, put(tmp_path, log)) == [("ci.jsonl", 0, LOG + 1, True)]  # what both began with


def test_an_id_that_no_log_has_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    bad = forged(tmp_path, subject="x" * 32)
    assert "event 1 is none that msb-cache writes" in said(fleet, put(tmp_path, bad, "bad.jsonl"))


def test_a_postgres_takes_no_exports(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InvalidConfigError, match="exports are taken into a file, which --db names"):
        Fleet("postgresql://fleet.example/fleet").take([tmp_path])


@pytest.fixture(scope="module", params=["no file", "a file", "a file of another release"])
def taking(request: pytest.FixtureRequest, log: bytes, tmp_path_factory: pytest.TempPathFactory) -> Taking:
    """Two logs: of one there are more and more events, of the other all at once."""
    folder = tmp_path_factory.mktemp("taking")
    other = exported(lived_in(folder / "other"))
    lines = log.splitlines(keepends=True)
    exports = [
        put(folder, b"".join(lines[:12]), "1.jsonl"),
        put(folder, other, "2.jsonl"),
        put(folder, log, "3.jsonl"),
    ]
    before = None
    if request.param != "no file":
        before = folder / "before.db"
        take_all(before, [put(folder, b"".join(lines[:7]), "0.jsonl")])
    if request.param.endswith("release"):
        assert before is not None
        with closing(sqlite3.connect(before)) as connection:
            connection.execute("UPDATE fleet SET fold_version = 0")
            connection.execute("DROP TABLE undoing")
            connection.commit()
    (folder / "work").mkdir()
    return Taking(folder / "work", exports, before)


def test_killed_at_every_step(taking: Taking) -> None:
    steps = ("begun", "stored", "folding", "committing", "committed")
    assert {*taking.steps} == {f"take.{each}" for each in steps}
    for number, step in enumerate(taking.steps, 1):
        taking.check(taking.at_step(number), f"step {number}, {step}")


def test_killed_at_a_moment(taking: Taking) -> None:
    chance = random.Random(SEED)
    print(f"MSB_CACHE_TEST_SEED={SEED}")  # shown when a test fails
    for _ in range(2 * CUTS):
        seconds = chance.uniform(0, taking.seconds * 1.2)
        taking.check(taking.at_moment(seconds), f"{seconds:.6f} s")


def test_killed_at_a_system_call(taking: Taking, require_peer: Callable[[str], str]) -> None:
    strace = require_peer("strace")
    chance = random.Random(SEED)
    print(f"MSB_CACHE_TEST_SEED={SEED}")
    calls = taking.calls(strace)
    assert {name for name, _ in calls} >= {"pwrite64", "fdatasync", "unlink"}
    for number in spread(4 * CUTS, len(calls), chance):
        call = calls[number - 1]
        taking.check(taking.at_call(strace, *call), f"{call[0]} number {call[1]}")
