"""The fold's cache: where copies of the index stand, how large they get; no answer depends on them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home import index_cache
from msb_cache.home.ledger import Ledger
from msb_cache.oci.layer.zstd import zstd
from msb_cache.projections import past
from msb_cache.session import Session
from tests.logs import ACTOR, digest, layer, manifest_added, new_ledger, pulled

STEP = 8


@pytest.fixture(autouse=True)
def closer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "STEP", STEP)


def life(count: int) -> list[NewEvent]:
    """Images that come, are used and held; every fifth goes again."""
    events: list[NewEvent] = []
    for number in range(count):
        name, manifest = f"docker.io/library/app:{number}", digest(number)
        events += [
            NewEvent(manifest_added([layer("base"), layer(number)]), manifest),
            NewEvent(pulled(manifest), name),
            NewEvent(ev.ImageUsed(manifest_digest=manifest), name),
            NewEvent(ev.ImageHeld(holder=f"sandbox:{number % 3}", reference=name), manifest),
        ]
        if number % 5 == 4:
            events += [
                NewEvent(ev.ImageReleased(holder=f"sandbox:{number % 3}"), manifest),
                NewEvent(ev.ImageRemoved(manifest_digest=manifest, cause="external"), name),
                NewEvent(ev.ManifestDeleted(), manifest),
            ]
    return events


def index_at(ledger: Ledger, position: int) -> bytes:
    session = Session(ledger.layout, actor=ACTOR, clock=ledger.clock, note=None, sync=False)
    with closing(session), session.index(position) as connection:
        assert connection is not None
        return past.encode_rows(connection)


def folded(ledger: Ledger, position: int) -> bytes:
    with ledger.read() as connection:
        assert connection is not None
        found = past.Past()
        found.advance(connection, ledger.store(connection), position)
        rows = past.encode_rows(found.connection)
        found.close()
    return rows


def files(ledger: Ledger) -> list[Path]:
    folder = ledger.layout.snapshots
    return (
        sorted(folder.iterdir(), key=lambda path: int(path.name.partition("-")[0])) if folder.exists() else []
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path / "home", life(40))


def head(ledger: Ledger) -> int:
    with ledger.read() as connection:
        assert connection is not None
        found = ledger.store(connection).head()
        assert found is not None
        return found.seq


def test_writers_keep_them_and_readers_use_them(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(files(ledger)) > 3
    expected = {position: folded(ledger, position) for position in range(head(ledger) + 1)}
    read: list[tuple[int, int]] = []
    advance = past.Past.advance

    def counted(self: past.Past, live: sqlite3.Connection, store: object, until: int) -> None:
        read.append((self.position, until))
        advance(self, live, store, until)  # type: ignore[arg-type]

    monkeypatch.setattr(past.Past, "advance", counted)
    for position, rows in expected.items():
        assert index_at(ledger, position) == rows
    positions = [int(path.name.partition("-")[0]) for path in files(ledger)]
    last = head(ledger)
    read.clear()
    index_at(ledger, last)
    assert read[0][0] == max(position for position in positions if position <= last)


def test_together_they_are_smaller_than_the_log(ledger: Ledger) -> None:
    index_at(ledger, head(ledger))
    sizes = [path.stat().st_size for path in files(ledger)]
    with ledger.read() as connection:
        assert connection is not None
        names = "id", "type", "subject", "operation", "actor", "data", "hash"
        (log,) = connection.execute(
            f"SELECT sum({' + '.join(f'length({name})' for name in names)} + 32) FROM events"
        ).fetchone()
    assert sum(sizes) <= log
    positions = [int(path.name.partition("-")[0]) for path in files(ledger)]
    for position, size, following in zip(positions, sizes, positions[1:], strict=False):
        assert following - position >= size // 256


def test_answers_do_not_need_them(ledger: Ledger) -> None:
    expected = {position: index_at(ledger, position) for position in range(0, head(ledger), 7)}
    shutil.rmtree(ledger.layout.snapshots)
    for position, rows in expected.items():
        assert index_at(ledger, position) == rows
        shutil.rmtree(ledger.layout.snapshots, ignore_errors=True)


def test_readers_make_those_that_are_missing(ledger: Ledger) -> None:
    shutil.rmtree(ledger.layout.snapshots)
    last = head(ledger)
    index_at(ledger, last)
    made = files(ledger)
    assert made
    index_at(ledger, last)
    assert files(ledger) == made


def damages() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "empty": lambda data: b"",
        "cut": lambda data: data[:-10],
        "a bit": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
        "its magic": lambda data: b"x" + data[1:],
        "longer": lambda data: data + b"x",
    }


@pytest.mark.parametrize("how", damages())
def test_a_damaged_one_is_ignored(ledger: Ledger, how: str) -> None:
    expected = folded(ledger, head(ledger))
    for path in files(ledger):
        path.write_bytes(damages()[how](path.read_bytes()))
    assert index_at(ledger, head(ledger)) == expected


def test_one_with_the_content_of_another_is_ignored(ledger: Ledger) -> None:
    expected = folded(ledger, head(ledger))
    found = files(ledger)
    for path in found[1:]:
        shutil.copy(found[0], path)
    assert index_at(ledger, head(ledger)) == expected


@pytest.mark.parametrize(
    "content", [b"\xc0", b"\x95\x90\x90\x90\x90\x90\x00", b"\x95\x91\x91\x01\x90\x90\x90\x90"]
)
def test_a_well_made_one_with_nonsense_in_it_is_ignored(ledger: Ledger, content: bytes) -> None:

    expected = folded(ledger, head(ledger))
    for path in files(ledger):
        data = zstd.compress(content)
        path.write_bytes(index_cache._MAGIC + index_cache._checksum(path.name, data) + data)
    assert index_at(ledger, head(ledger)) == expected


def test_one_whose_rows_contradict_each_other_is_ignored(
    ledger: Ledger, open_connections: Callable[[], list[sqlite3.Connection]]
) -> None:
    import msgspec

    expected = folded(ledger, head(ledger))
    path = files(ledger)[-1]
    start = len(index_cache._MAGIC) + 32
    tables = msgspec.msgpack.decode(zstd.decompress(path.read_bytes()[start:]))
    tables[0].append(tables[0][0])
    data = zstd.compress(msgspec.msgpack.encode(tables))
    path.write_bytes(index_cache._MAGIC + index_cache._checksum(path.name, data) + data)
    assert index_at(ledger, head(ledger)) == expected
    assert open_connections() == []


def test_an_interrupted_fold_closes_the_index(
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    open_connections: Callable[[], list[sqlite3.Connection]],
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    copies = {int(path.name.partition("-")[0]) for path in files(ledger)}
    monkeypatch.setattr(past.Past, "advance", interrupted)
    for path in files(ledger):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        index_at(ledger, max({*range(head(ledger))} - copies))
    assert open_connections() == []


def test_those_of_another_log_are_ignored_and_deleted(ledger: Ledger, tmp_path: Path) -> None:
    other = new_ledger(tmp_path / "other", life(50))
    foreign = [shutil.copy(path, ledger.layout.snapshots) for path in files(other)]
    for position in (head(ledger), 20):
        assert index_at(ledger, position) == folded(ledger, position)
    for event in life(30):
        with ledger.write("more") as transaction:
            transaction.append([event])
    assert not [path for path in foreign if os.path.exists(path)]


def test_those_of_another_fold_are_ignored(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in files(ledger):
        path.write_bytes(b"")
    monkeypatch.setattr(index_cache, "FOLD_VERSION", 99)
    before = files(ledger)
    assert index_at(ledger, head(ledger)) == folded(ledger, head(ledger))
    assert not {*before[:-1]} & {*files(ledger)}


def test_readers_write_nothing_in_a_home_that_is_not_theirs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(ledger.layout.snapshots)
    expected = folded(ledger, head(ledger))
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.stat(ledger.layout.db).st_uid + 1)
        assert index_at(ledger, head(ledger)) == expected
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert index_at(ledger, head(ledger)) == expected
    Path(ledger.layout.msb_database).touch()
    assert index_at(ledger, head(ledger)) == expected
    assert not ledger.layout.snapshots.exists()


def test_a_folder_that_cannot_be_written_to_fails_nobody(ledger: Ledger) -> None:
    shutil.rmtree(ledger.layout.snapshots)
    ledger.layout.snapshots.write_bytes(b"in the way")
    expected = folded(ledger, head(ledger))
    assert index_at(ledger, head(ledger)) == expected
    for event in life(5):
        with ledger.write("more") as transaction:
            transaction.append([event])
    assert ledger.layout.snapshots.read_bytes() == b"in the way"


def test_other_files_are_left_alone(ledger: Ledger) -> None:
    mine = ledger.layout.snapshots / "notes.txt"
    mine.write_text("mine")
    for event in life(10):
        with ledger.write("more") as transaction:
            transaction.append([event])
    index_cache.forget(ledger.layout.snapshots)
    assert [path.name for path in ledger.layout.snapshots.iterdir()] == ["notes.txt"]
