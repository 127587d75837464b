"""Proof against tampering, through a whole home: what the chain finds, and what only a note finds."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from msb_cache import CorruptLogError, ImageCache, LogError, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.audit.verify import CopyProblem, Verification
from msb_cache.eventstore import chain
from msb_cache.eventstore.store import NewEvent
from msb_cache.home import index_cache
from msb_cache.home.ledger import Ledger
from msb_cache.oci.layer.zstd import zstd
from msb_cache.projections import FOLD_VERSION, live
from tests import imagebuilder
from tests.imagebuilder import BuiltImage, docker_archive, file, image
from tests.logs import digest, layer, manifest_added, new_ledger, pulled, some_events

TRIGGERS = ("events_no_update", "events_no_delete", "events_in_order")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A small log, closed."""
    ledger = new_ledger(tmp_path / "home", some_events())
    ledger.close()
    return ledger


def tamper(ledger: Ledger, *statements: str, arguments: tuple[object, ...] = ()) -> None:
    """Do what the triggers refuse."""
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(statement, arguments)


def verify(ledger: Ledger, note: str | None = None) -> Verification:
    with ImageCache(ledger.layout.home) as cache:
        return cache.verify(note)


def checkpoint(ledger: Ledger) -> str:
    with ImageCache(ledger.layout.home) as cache:
        return cache.checkpoint().note


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, int):
        return value + 1
    return bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else value + " "


def test_every_change_of_every_column_of_every_row_is_found(ledger: Ledger) -> None:
    columns = (*chain.COLUMNS[1:], "hash")
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        rows = connection.execute(f"SELECT seq, {', '.join(columns)} FROM events ORDER BY seq").fetchall()
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        found = []
        for seq, *values in rows:
            for column, value in zip(columns, values, strict=True):
                change = f"UPDATE events SET {column} = ? WHERE seq = ?"
                connection.execute(change, (other(value), seq))
                broken = chain.verify(connection)
                assert isinstance(broken, chain.Break)
                found.append((broken.seq, seq))
                connection.execute(change, (value, seq))
        assert isinstance(chain.verify(connection), chain.Verified)
    assert len(found) == len(rows) * len(columns) == 7 * 10
    assert all(where == changed for where, changed in found)


def test_every_changed_position_and_missing_row_is_found(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        for seq in range(1, 7):
            for change in ("UPDATE events SET seq = 100 WHERE seq = ?", "DELETE FROM events WHERE seq = ?"):
                connection.execute("BEGIN")
                connection.execute(change, (seq,))
                broken = chain.verify(connection)
                assert isinstance(broken, chain.Break)
                assert (broken.seq, broken.kind) == (seq, "missing")
                connection.execute("ROLLBACK")


@pytest.mark.parametrize("length", range(1, 7))
def test_a_log_whose_end_is_gone_is_found_by_the_index(ledger: Ledger, length: int) -> None:
    note = checkpoint(ledger)
    tamper(ledger, f"DELETE FROM events WHERE seq > {length}")
    with ImageCache(ledger.layout.home) as cache, pytest.raises(CorruptLogError, match="its end is gone"):
        cache.list()
    before = Path(ledger.layout.database).read_bytes()
    found = verify(ledger, note)
    assert isinstance(found.chain, chain.Break)
    assert (found.chain.seq, found.chain.kind) == (length + 1, "truncated")
    assert f"ends at event {length}, and the index has had 7" in found.chain.problem
    assert not found.sound
    assert found.contradiction == f"the log has only {length} events, and the note is of 7"
    assert Path(ledger.layout.database).read_bytes() == before


def test_of_a_log_without_its_end_the_rest_is_checked(ledger: Ledger) -> None:
    tamper(ledger, "DELETE FROM events WHERE seq > 5", "UPDATE events SET subject = 'somebody' WHERE seq = 3")
    found = verify(ledger)
    assert isinstance(found.chain, chain.Break)
    assert (found.chain.seq, found.chain.kind) == (3, "changed")


def cut_with_the_index(ledger: Ledger) -> None:
    tamper(ledger, "DELETE FROM events WHERE seq > 5", "DELETE FROM projection_state")


def change_and_link_again(ledger: Ledger) -> None:
    tamper(ledger, "UPDATE events SET subject = 'docker.io/library/other:1' WHERE seq = 3")
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        previous = chain.GENESIS
        for row, _ in list(chain.raw_rows(connection)):
            previous = chain.link(previous, row)
            connection.execute("UPDATE events SET hash = ? WHERE seq = ?", (previous, row[0]))
        connection.execute("DELETE FROM projection_state")


@pytest.mark.parametrize(
    ("forge", "says"),
    [(cut_with_the_index, "has only 5 events, and the note is of 7"), (change_and_link_again, "rewritten")],
)
def test_what_only_a_note_finds(ledger: Ledger, forge: Any, says: str) -> None:
    note = checkpoint(ledger)
    assert verify(ledger, note).sound
    forge(ledger)
    found = verify(ledger, note)
    assert isinstance(found.chain, chain.Verified)
    assert found.differences == []
    assert not found.sound
    assert says in str(found.contradiction)


def test_every_later_log_extends_a_note(tmp_path: Path) -> None:
    notes = []
    home = tmp_path / "home"
    new_ledger(home, some_events()).close()
    with ImageCache(home) as cache:
        for _ in range(3):
            notes.append(cache.checkpoint().note)
            with closing(Ledger(cache._layout)) as ledger, ledger.write("operation") as transaction:
                transaction.append(some_events())
        for note in notes:
            found = cache.verify(note)
            assert found.sound
            assert found.contradiction is None


def test_the_end_of_a_whole_home_is_compared_with_its_index(tmp_path: Path) -> None:
    """Rows of the index that the rest of the log does not explain are differences."""
    home = tmp_path / "home"
    ledger = new_ledger(home, [])
    with ledger.write("operation") as transaction:
        transaction.append([NewEvent(manifest_added([layer(1)]), digest(1))])
        transaction.append([NewEvent(pulled(digest(1)), "docker.io/library/app:1")])
    ledger.close()
    tamper(ledger, "DELETE FROM events WHERE seq = 3")
    found = verify(ledger)
    assert {difference.table for difference in found.differences} == {"image", "manifest", "pointed_at"}
    assert all(isinstance(difference, live.Difference) for difference in found.differences)


def test_no_checkpoint_of_what_does_not_verify(ledger: Ledger, tmp_path: Path) -> None:
    tamper(ledger, "UPDATE events SET actor = '{}' WHERE seq = 2")
    with (
        ImageCache(ledger.layout.home) as cache,
        pytest.raises(CorruptLogError, match=r"event 2 .*a checkpoint is only made of a log that verifies"),
    ):
        cache.checkpoint()
    with ImageCache(tmp_path / "empty") as cache:
        with pytest.raises(LogError, match="has no log yet"):
            cache.checkpoint()
        assert not (tmp_path / "empty").exists()


# -- copies of the index ------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A log with copies of its index, closed."""
    monkeypatch.setattr(index_cache, "STEP", 4)
    image = [NewEvent(manifest_added([layer(1)]), digest(1)), *some_events()[:3]]
    ledger = new_ledger(tmp_path / "home", [*image, *some_events()[1:2] * 60])
    ledger.close()
    assert len(copies(ledger)) > 2
    return ledger


def copies(ledger: Ledger) -> list[Path]:
    folder = ledger.layout.snapshots
    return sorted(folder.iterdir(), key=lambda path: int(path.name.partition("-")[0]))


def forge(path: Path) -> None:
    """Let a copy name another manifest, with a fresh checksum."""
    start = len(index_cache._MAGIC) + 32
    content = zstd.decompress(path.read_bytes()[start:])
    data = zstd.compress(content.replace(digest(1).encode(), digest(2).encode()))
    path.write_bytes(index_cache._MAGIC + index_cache._checksum(path.name, data) + data)


def test_a_forged_copy_of_the_index_is_found_and_discarded(copied: Ledger) -> None:
    path = copies(copied)[1]
    position = int(path.name.partition("-")[0])
    forge(path)
    with ImageCache(copied.layout.home) as cache:
        (lie,) = cache.list(as_of=position)
        assert lie.manifest_digest == digest(2)  # so fast an answer is not proof
        found = cache.verify()
        assert found.bad_copies == [CopyProblem("wrong", position, path)]
        assert (found.copies, found.schema, found.differences) == (len(copies(copied)), [], [])
        assert not found.sound
        assert cache.rebuild() == []
        (image,) = cache.list(as_of=position)
        assert image.manifest_digest == digest(1)
        assert cache.verify().bad_copies == []


def test_every_copy_is_discarded_by_rebuild(copied: Ledger) -> None:
    assert verify(copied).bad_copies == []
    with ImageCache(copied.layout.home) as cache:
        assert cache.rebuild() == []
    assert copies(copied) == []


@pytest.mark.parametrize("how", ["empty", "cut", "a pipe", "expands"])
def test_an_unreadable_copy_of_the_index_is_found(
    copied: Ledger, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = copies(copied)[-1]
    data = path.read_bytes()
    path.unlink()
    if how == "a pipe":
        os.mkfifo(path)
    elif how == "expands":
        monkeypatch.setattr(index_cache, "_LARGEST", 1 << 20)
        large = zstd.compress(bytes(1 << 21))
        path.write_bytes(index_cache._MAGIC + index_cache._checksum(path.name, large) + large)
    else:
        path.write_bytes(b"" if how == "empty" else data[:-5])
    found = verify(copied)
    assert [(each.problem, each.path) for each in found.bad_copies] == [("unreadable", path)]
    assert not found.sound


def test_copies_of_another_log_or_fold_are_nobodys(copied: Ledger) -> None:
    first, second, *_ = copies(copied)
    forge(first)
    first.rename(first.with_name(first.name.replace(first.name[-10:-5], "00000")))
    second.rename(second.with_name(second.name.replace(f"-{FOLD_VERSION}-", f"-{FOLD_VERSION + 1}-")))
    found = verify(copied)
    assert found.bad_copies == []
    assert found.copies == len(copies(copied)) - 2


# -- beside others ----------------------------------------------------------------------------------------

ONE = image([imagebuilder.layer([file("one", b"1" * 5000)])], "one:1")
TWO = image([imagebuilder.layer([file("two", b"2")])], "two:1")


def load(home: Path, built: BuiltImage) -> None:
    with ImageCache(home) as cache:
        cache.load(io.BytesIO(docker_archive(built)))


def prune(home: Path) -> None:
    with ImageCache(home) as cache:
        cache.prune()


def meanwhile(home: Path, *actions: Callable[[Path], None]) -> Verification:
    """Verify while others work: before each look at the disk, the next of these is done."""
    left = [*actions]

    def observer(step: str) -> None:
        if step == "verify.read" and left:
            left.pop(0)(home)

    failpoints.observer = observer
    try:
        with ImageCache(home) as cache:
            found = cache.verify()
    finally:
        failpoints.observer = None
    assert len(left) < len(actions)
    return found


@pytest.mark.parametrize(
    "actions",
    [
        (prune,),
        (partial(load, built=TWO),),
        (prune, partial(load, built=ONE)),
        (prune, partial(load, built=ONE), prune, partial(load, built=TWO), prune),
    ],
    ids=["prune", "load", "both", "again and again"],
)
def test_what_others_change_meanwhile_is_no_damage(
    tmp_path: Path, actions: tuple[Callable[[Path], None], ...]
) -> None:
    load(tmp_path, ONE)
    found = meanwhile(tmp_path, *actions)
    assert (found.sound, found.disk) == (True, [])


def test_damage_is_found_beside_others(tmp_path: Path) -> None:
    load(tmp_path, ONE)
    Layout(tmp_path).vmdk(ONE.digest).unlink()
    found = meanwhile(tmp_path, partial(load, built=TWO))
    assert [(problem.problem, problem.kind) for problem in found.disk] == [("missing", "vmdk")]


def test_what_others_work_with_is_judged_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is needed is missing however long its lock is held; one that is not is theirs."""
    load(tmp_path, ONE)
    monkeypatch.setattr("msb_cache.audit.verify._PAUSE", 0.0)
    layout = Layout(tmp_path)
    missing, extra = layout.vmdk(ONE.digest), layout.vmdk(digest(1))
    missing.unlink()
    extra.touch()
    with Lock(lock_path(missing)) as one, Lock(lock_path(extra)) as other, ImageCache(tmp_path) as cache:
        assert one.acquire()
        assert other.acquire()
        assert [problem.path for problem in cache.verify().disk] == [missing]
        other.release()
        assert {problem.path for problem in cache.verify().disk} == {missing, extra}
