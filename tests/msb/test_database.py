"""Reading msb's database: its schemas, its spellings, and everything that could be wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import MsbDatabaseError
from msb_cache.home import descriptors, foreign_db
from msb_cache.msb import database as msb_database
from msb_cache.msb.database import Asked, MsbState, read
from msb_cache.msb.runs import Cursor
from tests.logs import digest
from tests.msbhome import SCHEMAS, MsbHome, stamp


@pytest.fixture
def home(tmp_path: Path) -> Iterator[MsbHome]:
    found = MsbHome(tmp_path / "msb")
    yield found
    found.close()


def files(home: MsbHome) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in home.layout.db.iterdir() if not path.name.endswith("-shm")
    }


# -- schemas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_is_read(tmp_path: Path, schema: str) -> None:
    home = MsbHome(tmp_path / "msb", schema)
    config = {"env": ["A=1"], "cmd": ["sh", "-c"], "labels": {"a": "b"}, "user": "me", "working_dir": "/w"}
    one = home.load("app:1", "one", "xyz", **config)
    home.load("registry.example/two:2", "two", "x")
    state = read(home.path)
    home.close()
    assert read(home.path) == state
    assert state.notes == ()
    image = state.images["app:1"]
    assert (image.typed, image.manifest_digest) == ("app:1", one)
    manifest = state.manifests[one]
    assert [layer.diff_id for layer in manifest.layers] == [digest(f"diff {name}") for name in "xyz"]
    assert [layer.size for layer in manifest.layers] == [1000 + ord(name) for name in "xyz"]
    assert manifest.config_digest == digest("config one")
    assert (manifest.architecture, manifest.os, manifest.variant) == ("amd64", "linux", None)
    assert (manifest.config.env, manifest.config.cmd, manifest.config.entrypoint) == (
        ("A=1",),
        ("sh", "-c"),
        None,
    )
    assert (manifest.config.labels, manifest.config.user, manifest.config.working_dir) == (
        {"a": "b"},
        "me",
        "/w",
    )
    assert len(state.images) == len(state.manifests) == 2
    kinds = {"sandbox"} if "sandbox_rootfs" in SCHEMAS[schema] else set()
    kinds |= {"snapshot"} if "snapshot_index" in SCHEMAS[schema] else set()
    assert state.holder_kinds == kinds


@pytest.mark.parametrize("schema", ["0.6", "0.7", "more"])
def test_who_holds_what(tmp_path: Path, schema: str) -> None:
    home = MsbHome(tmp_path / "msb", schema)
    one = home.load("app:1", "one")
    home.create("app:1", "dev")
    home.snapshot("app:1", "ready")
    home.snapshot("app:1", None)
    state = read(home.path)
    path = home.one("SELECT artifact_path FROM snapshot_index WHERE name IS NULL")
    assert set(state.holds) == {(one, "sandbox:dev"), (one, "snapshot:ready"), (one, f"snapshot:{path}")}
    assert {hold.reference for hold in state.holds.values()} == {"docker.io/library/app:1"}
    first = state.holds[one, "sandbox:dev"].row
    home.remove_sandbox("dev")
    home.create("app:1", "dev")
    assert read(home.path).holds[one, "sandbox:dev"].row != first
    home.close()


def test_snapshots_of_a_group_have_msbs_own_name(home: MsbHome) -> None:
    one = home.load("app:1", "one")
    home.snapshot("app:1", "ready", "dev")
    home.snapshot("app:1", "ready", "ops")
    assert set(read(home.path).holds) == {(one, "snapshot:dev:ready"), (one, "snapshot:ops:ready")}


@pytest.mark.parametrize(
    "image",
    [
        '{"Oci":"app:1"}',
        '{"Oci":{"reference":"app:1","root_disk":{}}}',
        '{"oci":{"reference":"app:1"}}',
        '"app:1"',
    ],
)
def test_the_reference_in_a_sandboxs_configuration(home: MsbHome, image: str) -> None:
    one = home.load("app:1", "one")
    home.create("app:1", "dev")
    home.connection.execute("UPDATE sandbox SET config = ?", (f'{{"image":{image}}}',))
    assert read(home.path).holds[one, "sandbox:dev"].reference == "docker.io/library/app:1"


@pytest.mark.parametrize(
    "config", ["", "{", "null", "[]", '{"image":7}', '{"image":{"Bind":"/root"}}', b"\xff"]
)
def test_a_sandbox_without_a_reference_holds_all_the_same(home: MsbHome, config: object) -> None:
    one = home.load("app:1", "one")
    home.create("app:1", "dev")
    home.connection.execute("UPDATE sandbox SET config = ?", (config,))
    hold = read(home.path).holds[one, "sandbox:dev"]
    assert hold.reference is None


def test_a_sandbox_whose_root_is_no_image_holds_none(home: MsbHome) -> None:
    home.load("app:1", "one")
    home.create("app:1", "dev")
    home.connection.execute("UPDATE sandbox_rootfs SET manifest_id = NULL")
    state = read(home.path)
    assert (dict(state.holds), state.notes) == ({}, ())


# -- spellings ----------------------------------------------------------------------------------------


def test_each_spelling_is_an_image(home: MsbHome) -> None:
    one = home.load("python:3.12", "one")
    two = home.load("docker.io/library/python:3.12", "two", "z")
    images = read(home.path).images
    assert {typed: image.manifest_digest for typed, image in images.items()} == {
        "python:3.12": one,
        "docker.io/library/python:3.12": two,
    }
    assert {image.reference for image in images.values()} == {"docker.io/library/python:3.12"}
    assert len({image.row for image in images.values()}) == 2


NS = 1_790_000_000_123_456_789


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (stamp(NS), NS),
        (stamp(NS).replace(" ", "T") + "Z", NS),
        (stamp(NS) + "+00:00", NS),
        (stamp(NS) + " UTC", NS),
        (stamp(NS) + "+05:30", NS - 19_800 * 10**9),
        (stamp(NS) + "-0800", NS + 28_800 * 10**9),
        (stamp(NS)[:-3], NS // 1000 * 1000),
        (stamp(NS)[:-10], NS // 10**9 * 10**9),
        (stamp(NS) + "999", NS),
        (stamp(NS)[:16], NS // (60 * 10**9) * 60 * 10**9),
        (NS, NS),
        (NS // 1000, NS // 1000 * 1000),
        (NS // 10**6, NS // 10**6 * 10**6),
        (NS // 10**9, NS // 10**9 * 10**9),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("2026-13-01 00:00:00", None),
        ("1960-01-01 00:00:00", None),
        ("9999-12-31 23:59:59", None),
        (-1, None),
        (b"2026-01-01 00:00:00", None),
        ("9" * 19, None),
        (float("inf"), None),
        ("2026-01-01 00:00:00" + "0" * 10_000, None),
    ],
)
def test_times(home: MsbHome, value: object, expected: int | None) -> None:
    home.load("app:1", "one")
    home.connection.execute("UPDATE image_ref SET created_at = ?", (value,))
    (image,) = read(home.path).images.values()
    assert image.created_at_ns == expected


# -- what makes no sense ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE image_ref SET reference = 'NO:Reference at all' WHERE id = 1", "reference"),
        ("UPDATE image_ref SET reference = x'ff00' WHERE id = 1", "reference"),
        ("UPDATE image_ref SET reference = char(27) || '[2J' WHERE id = 1", "reference"),
        ("UPDATE image_ref SET reference = printf('%.*c', 5000, 'a') WHERE id = 1", "reference"),
        ("UPDATE image_ref SET reference = printf('%.*c', 9000000, 'a') WHERE id = 1", "too large"),
        ("UPDATE image_ref SET reference = CAST(x'ff' AS TEXT) WHERE id = 1", "no text"),
        ("UPDATE image_ref SET manifest_id = 99 WHERE id = 1", "reference"),
        ("UPDATE manifest SET digest = '../../etc/passwd' WHERE id = 1", "digest"),
        ("UPDATE manifest SET digest = 7 WHERE id = 1", "digest"),
        ("UPDATE manifest_layer SET layer_id = 99 WHERE manifest_id = 1", "layers"),
        ("UPDATE manifest_layer SET position = 'top' || id WHERE manifest_id = 1", "layers"),
        ("UPDATE layer SET diff_id = 'sha256:short' WHERE id = 1", "layers"),
    ],
)
def test_a_row_that_makes_no_sense_is_left_out(home: MsbHome, change: str, said: str) -> None:
    home.load("bad:1", "bad", "ab")
    good = home.load("good:1", "good", "cd")
    home.connection.execute("PRAGMA foreign_keys = OFF")
    home.connection.execute(change)
    state = read(home.path)
    assert list(state.images) == ["good:1"]
    assert state.images["good:1"].manifest_digest == good
    assert any(said in note for note in state.notes), state.notes
    assert not state.complete
    assert all(note.isprintable() and len(note) < 400 for note in state.notes)


@pytest.mark.parametrize(
    "value", ["{", "7", '"text"', "[1, 2]", '["' + "x" * 600_000 + '"]', b"\x00", 7, '["\\ud800"]']
)
@pytest.mark.parametrize("column", ["env", "cmd", "entrypoint"])
def test_a_configuration_that_makes_no_sense_is_left_out(home: MsbHome, column: str, value: object) -> None:
    one = home.load("app:1", "one", env=["A=1"], cmd=["sh"])
    home.connection.execute(f"UPDATE config SET {column} = ?", (value,))
    state = read(home.path)
    assert not getattr(state.manifests[one].config, column)
    assert len(state.notes) == 1
    assert state.complete  # it reaches nothing


@pytest.mark.parametrize(
    "labels", ['{"a":"b","n":null}', "{}", "[1,{}]", "7", "-1.5", "true", '"text"', "[" * 31 + "]" * 31]
)
def test_labels_are_whatever_json_msb_has(home: MsbHome, labels: str) -> None:
    one = home.load("app:1", "one")
    home.connection.execute("UPDATE config SET labels = ?", (labels,))
    state = read(home.path)
    config = state.manifests[one].config
    assert config is not None
    assert (config.labels, state.notes) == (json.loads(labels), ())


@pytest.mark.parametrize("labels", ["{", "1e999", "[" * 33 + "]" * 33, "[" * 10_000 + "]" * 10_000, b"\x00"])
def test_labels_that_are_no_json_or_too_deep_are_left_out(home: MsbHome, labels: object) -> None:
    one = home.load("app:1", "one", env=["A=1"])
    home.connection.execute("UPDATE config SET labels = ?", (labels,))
    state = read(home.path)
    config = state.manifests[one].config
    assert config is not None
    assert (config.labels, config.env, len(state.notes)) == (None, ("A=1",), 1)


def test_what_is_null_is_not_known(home: MsbHome) -> None:
    one = home.load("app:1", "one", "x")
    home.connection.execute("UPDATE layer SET compressed_size_bytes = NULL, media_type = NULL")
    home.connection.execute("DELETE FROM config")
    (found,) = read(home.path).manifests.values()
    assert (found.digest, found.total_size, found.config, found.media_type) == (one, None, None, None)
    assert [(each.size, each.media_type) for each in found.layers] == [(None, None)]


@pytest.mark.parametrize(
    ("total", "read_as"), [(0, 0), (7, 7), (-1, None), ("7", 7), ("x", None), (1.5, None)]
)
def test_the_size_is_that_of_the_manifests_record(home: MsbHome, total: object, read_as: int | None) -> None:
    home.load("app:1", "one", "xy")
    home.connection.execute("UPDATE manifest SET total_size_bytes = ?", (total,))
    (found,) = read(home.path).manifests.values()
    assert found.total_size == read_as


def test_holders_whose_names_make_no_sense_are_left_out(home: MsbHome) -> None:
    home.load("app:1", "one")
    for name in ("a\nb", "n" * 1000, ""):
        home.create("app:1", name)
    state = read(home.path)
    assert (dict(state.holds), len(state.notes)) == ({}, 3)
    assert not state.complete


def test_many_bad_rows_are_not_noted_one_by_one(home: MsbHome) -> None:
    home.load("app:1", "one")
    with home.transaction() as connection:
        connection.executemany(
            "INSERT INTO image_ref (reference, manifest_id) VALUES (?, 1)",
            [(f"BAD {n}",) for n in range(500)],
        )
    state = read(home.path)
    assert len(state.images) == 1
    assert len(state.notes) == msb_database.MAX_NOTES + 1
    assert state.notes[-1] == "480 more rows of msb.db were left out"


def test_a_view_in_place_of_a_table_is_not_read(home: MsbHome) -> None:
    home.load("app:1", "one")
    home.connection.execute("ALTER TABLE snapshot_index RENAME TO other")
    endless = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS artifact_path FROM n"
    )
    home.connection.execute(f"CREATE VIEW snapshot_index AS {endless}")
    assert read(home.path).holder_kinds == {"sandbox"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    f"{table}.{name}"
                    for table, names in msb_database._COLUMNS.items()
                    for name in names
                    if name != "id" and (table, name) not in msb_database._COMPUTED
                ]
                + ["sandbox.config", "run.sandbox_id", "run.pid", "run.started_at", "run.terminated_at"]
                + ["sandbox_labels.value", "sqlite_sequence.seq"]
            ),
            st.none()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats()
            | st.text(max_size=80)
            | st.binary(max_size=80),
        ),
        max_size=6,
    )
)
def test_no_value_is_a_crash(changes: list[tuple[str, object]]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="msb-cache-test-"))
    home = MsbHome(folder / "msb")
    home.load("app:1", "one", env=["A=1"])
    home.create("app:1", "dev", team="infra")
    home.snapshot("app:1", "ready")
    home.boot("dev")
    home.connection.execute("PRAGMA foreign_keys = OFF")
    for where, value in changes:
        table, column = where.split(".")
        try:
            home.connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        except (sqlite3.IntegrityError, UnicodeEncodeError):
            continue
    assert isinstance(read(home.path, Asked(Cursor(), ("team",))), MsbState)
    home.close()
    shutil.rmtree(folder)


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE other (x)")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database" * 100),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"x" * 5000),
        of_another_program,
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("nowhere"),
        lambda path: None,
    ],
    ids=["empty", "garbage", "header", "foreign", "folder", "pipe", "dangling", "absent"],
)
def test_what_is_no_database_of_msb_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "msb.db"
    make(path)
    with pytest.raises(MsbDatabaseError, match=r"msb\.db"):
        read(path)


def test_a_damaged_database_is_refused(home: MsbHome) -> None:
    for number in range(50):
        home.load(f"app:{number}", f"{number}", [f"a{number}"])
    home.close()
    content = bytearray(home.path.read_bytes())
    content[5000:60000] = os.urandom(55000)
    home.path.write_bytes(content)
    with pytest.raises(MsbDatabaseError, match=r"cannot read .*msb\.db"):
        read(home.path)


# -- what is left behind ------------------------------------------------------------------------------


def test_reading_changes_nothing_while_msb_has_it_open(home: MsbHome) -> None:
    home.load("app:1", "one")
    before = files(home)
    assert set(before) == {"msb.db", "msb.db-wal"}
    assert len(read(home.path).images) == 1
    assert files(home) == before
    home.load("app:2", "two", "z")
    assert len(read(home.path).images) == 2


def test_reading_leaves_nothing_behind_where_nothing_was(
    home: MsbHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.load("app:1", "one")
    home.close()
    before = files(home)
    assert set(before) == {"msb.db"}
    monkeypatch.setenv("TMPDIR", str(Path(home.layout.home, "tmp")))
    Path(home.layout.home, "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    assert len(read(home.path).images) == 1
    assert files(home) == before
    assert os.listdir(Path(home.layout.home, "tmp")) == []


def test_a_log_that_its_owner_left_is_read_and_left(home: MsbHome, tmp_path: Path) -> None:
    """msb does not close its database: a -wal stays that nobody has open, with or without its -shm."""
    home.load("app:1", "one")
    for kept in (("", "-wal", "-shm"), ("", "-wal")):
        copy = tmp_path / "-".join(kept)
        copy.mkdir()
        for suffix in kept:
            shutil.copy(f"{home.path}{suffix}", copy / f"msb.db{suffix}")
        before = {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix != ".db-shm"}
        assert len(read(copy / "msb.db").images) == 1
        assert {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix != ".db-shm"} == before
        assert len(list(copy.iterdir())) == len(kept)


def test_another_users_database_is_not_opened(home: MsbHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.load("app:1", "one")
    shm = Path(f"{home.path}-shm")
    before = (shm.read_bytes(), os.stat(shm).st_mtime_ns)
    user = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: user + 1)
    connected: list[str] = []
    begin = foreign_db._begin
    monkeypatch.setattr(foreign_db, "_begin", lambda address: connected.append(address) or begin(address))
    assert len(read(home.path).images) == 1
    assert not any(str(home.path) in address for address in connected)
    assert (shm.read_bytes(), os.stat(shm).st_mtime_ns) == before


WRITER = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
c.execute("PRAGMA wal_autocheckpoint = 7")
c.execute("CREATE TABLE IF NOT EXISTS filler (x)")
print("ready", flush=True)
n, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    n += 1
    c.execute("BEGIN IMMEDIATE")
    c.execute("UPDATE image_ref SET updated_at = ?", (n,))
    c.execute("UPDATE layer SET compressed_size_bytes = ?", (n,))
    c.execute("INSERT INTO filler VALUES (randomblob(3000))")
    c.execute("COMMIT")
    if n % 20 == 0:
        c.execute("DELETE FROM filler")
        if sys.argv[2] == "reopen":
            c.close()
            c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
            c.execute("PRAGMA wal_autocheckpoint = 7")
        time.sleep(0.03)
print(n)
"""


@pytest.mark.parametrize("manner", ["stay", "reopen"])
@pytest.mark.parametrize("way", ["copied", "shared"])
def test_every_reading_is_one_moment(
    home: MsbHome, manner: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer updates two tables in each transaction, checkpoints all the time, and is not held up."""
    for number in range(30):
        home.load(f"app:{number}", f"{number}", [f"l{number}"])
    home.connection.execute("UPDATE image_ref SET updated_at = 0")
    home.connection.execute("UPDATE layer SET compressed_size_bytes = 0")
    home.close()
    if way == "copied":
        monkeypatch.setattr(foreign_db, "_shared", lambda path: False)
    seen: list[int] = []
    refused: list[str] = []
    command = [sys.executable, "-c", WRITER, str(home.path), manner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while writer.poll() is None:
            try:
                state = read(home.path)
            except MsbDatabaseError as error:
                refused.append(str(error))  # allowed, but a mixture is not
                continue
            (updated,) = {image.updated_at_ns for image in state.images.values()}
            (size,) = {layer.size for manifest in state.manifests.values() for layer in manifest.layers}
            assert size is not None
            assert updated == size * 10**9
            seen.append(size)
        written = int(writer.stdout.read())
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert all("changes faster" in sentence for sentence in refused)
    assert len(refused) < len(seen)
    assert written > 50


@pytest.mark.parametrize("interference", ["grow", "checkpoint", "begin anew", "close", "close for good"])
@pytest.mark.parametrize("open_before", [True, False])
def test_a_copy_is_one_moment(
    home: MsbHome, interference: str, open_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the log and that of the database, msb writes, checkpoints or closes."""
    for number in range(30):
        home.load(f"app:{number}", f"{number}", [f"l{number}"])
    home.close()
    other = sqlite3.connect(home.path, isolation_level=None)

    def write(number: int) -> None:
        other.execute("BEGIN")
        other.execute("UPDATE image_ref SET updated_at = ?", (number,))
        other.execute("UPDATE layer SET compressed_size_bytes = ?", (number,))
        other.execute("COMMIT")

    write(1)
    if not open_before:
        other.close()
    copied: list[int] = []
    chunks = descriptors.chunks

    def interfere(path: str | Path) -> Iterator[bytes]:
        nonlocal other
        if str(path) != str(home.path):
            yield from chunks(path)
            return
        copied.append(1)
        if len(copied) == 1:
            if not open_before:
                other = sqlite3.connect(home.path, isolation_level=None)
            write(2)
            if interference != "grow":
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if interference == "begin anew":
                other.execute("UPDATE layer SET blob_digest = 'x'")
                write(3)
            if interference.startswith("close"):
                other.close()
            if interference == "close":
                other = sqlite3.connect(home.path, isolation_level=None)
                write(3)
        yield from chunks(path)

    monkeypatch.setattr(descriptors, "chunks", interfere)
    monkeypatch.setattr(foreign_db, "_shared", lambda path: False)
    state = read(home.path)
    (updated,) = {image.updated_at_ns for image in state.images.values()}
    (size,) = {layer.size for manifest in state.manifests.values() for layer in manifest.layers}
    assert updated == (size or 0) * 10**9
    assert size == 3 or interference in ("grow", "checkpoint", "close for good")
    assert len(copied) > 1 or interference == "grow"
    other.close()


def test_reading_does_not_keep_anybody_from_writing(home: MsbHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.load("app:1", "one")
    rows = msb_database._rows
    written: list[str] = []

    def slowly(connection: sqlite3.Connection, table: str, *rest: object) -> object:
        if table == "layer":  # in the middle of the reading
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(timeout=10)
            assert not thread.is_alive()
        return rows(connection, table, *rest)  # type: ignore[arg-type]

    def other() -> None:
        connection = sqlite3.connect(home.path, timeout=0.1)
        connection.execute("UPDATE image_ref SET updated_at = 'later'")
        connection.commit()
        connection.close()
        written.append("yes")

    monkeypatch.setattr(msb_database, "_rows", slowly)
    state = read(home.path)
    assert written == ["yes"]
    assert [image.updated_at_ns for image in state.images.values()] != [None]


@pytest.mark.parametrize("kept_open", [True, False], ids=["msb has it open", "no process has it open"])
def test_what_nobody_changed_is_not_read_again(
    tmp_path: Path, kept_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = MsbHome(tmp_path / "msb")
    home.load("one:1", "one", "a")
    path = home.path
    with closing(home.connection):
        if not kept_open:
            home.connection.close()
            os.utime(path, ns=(0, time.time_ns() - 10**9))  # long ago, so that its time tells
        reads: list[object] = []
        state = msb_database._state
        monkeypatch.setattr(msb_database, "_state", lambda *found: reads.append(found) or state(*found))
        with msb_database.Reader(path) as reader:
            first = reader.read()
            assert reader.read() is first
            assert len(reads) == 1
            with closing(sqlite3.connect(path)) as other:
                for table in ("image_ref", "manifest_layer"):
                    other.execute(f"DELETE FROM {table}")
                    other.commit()
                    assert reader.read() is not first
            assert (len(first.images), len(reader.read().images)) == (1, 0)
            path.rename(f"{path}.old")
            with pytest.raises(MsbDatabaseError):
                reader.read()
