"""Proof against tampering, through a whole home: what the chain finds, and what only a note finds."""

from __future__ import annotations

import io
import os
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import CorruptLogError, DataRequest, ImageCache, LogError, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.audit.verify import CopyProblem, Verification
from msb_cache.eventstore import chain, merkle
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.eventstore.subtrees import SubtreeProblem
from msb_cache.home import index_cache
from msb_cache.home.ledger import Ledger
from msb_cache.oci.layer.zstd import zstd
from msb_cache.projections import FOLD_VERSION, live
from msb_cache.proof import kept
from msb_cache.proof.chain_note import ChainNote
from tests import imagebuilder
from tests.imagebuilder import BuiltImage, docker_archive, file, image
from tests.logs import digest, layer, manifest_added, new_ledger, pulled, some_events
from tests.proof.signing import checkpoint as signed_checkpoint
from tests.proof.signing import new_log_key

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


def chain_note(home: Path) -> str:
    """The note that an older release made."""
    with ImageCache(home) as cache:
        now = cache.checkpoint()
    return ChainNote(now.log_id, now.size, now.head, now.recorded_at_ns).note


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
    notes = [checkpoint(ledger), chain_note(Path(ledger.layout.home))]
    assert [verify(ledger, note).sound for note in notes] == [True, True]
    forge(ledger)
    for note in notes:
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


def root_at(home: Path, size: int) -> bytes:
    """The root over the first events, by a tree that knows no kept hash."""
    tree = merkle.Frontier()
    with closing(sqlite3.connect(home / "db" / "msb-cache.db")) as connection:
        rows = connection.execute("SELECT hash FROM events WHERE seq <= ? ORDER BY seq", (size,))
        tree.extend(merkle.leaf_hash(stored) for (stored,) in rows)
    return tree.root()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.data())
def test_after_any_appends_the_log_extends_every_note(counts: list[int], drawn: st.DataObject) -> None:
    """Of both kinds, taken at any size, and kept or not; and no note of another log."""
    key, holds = new_log_key(), some_events()[2:3]
    with TemporaryDirectory() as folder:
        home = Path(folder)
        ledger = new_ledger(home, holds)
        size, notes = 2, list[tuple[int, str]]()
        for count in counts:
            with ImageCache(home) as cache:
                notes.append((size, cache.checkpoint().note))
            notes.append((size, chain_note(home)))
            at = drawn.draw(st.integers(0, size))
            signed = signed_checkpoint(at, root_at(home, at), key)
            notes.append((at, str(signed)))
            with ledger.write("operation") as transaction:
                transaction.append(holds * count)
                if at:
                    kept.keep(transaction.connection, signed, 1)
            size += count
        ledger.close()
        with ImageCache(home) as cache:
            for at, note in notes:
                keys = [] if note.startswith("msb-cache") else [key.key]  # which no others have
                found = cache.verify(note, keys=keys)
                assert found.sound
                assert found.against is not None
                assert found.against.size == at
            assert found.subtrees == size // 256
            changed = drawn.draw(st.integers(1, size))
            forged = signed_checkpoint(changed, merkle.leaf_hash(b"%d" % changed), key)
            other = cache.verify(str(forged), keys=[key.key])
            assert other.contradiction is not None
            assert not other.sound


def test_what_was_signed_tells_that_the_log_was_rewritten(ledger: Ledger) -> None:
    """With no note from elsewhere, and no key: of one who rewrites the log and leaves that."""
    home, key = Path(ledger.layout.home), new_log_key()
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for size in (2, 3, 7):
            kept.keep(connection, signed_checkpoint(size, root_at(home, size), key), size)
    found = verify(ledger)
    assert found.sound
    assert (found.checkpoints, found.bad_checkpoints) == (3, [])
    change_and_link_again(ledger)
    found = verify(ledger)
    assert isinstance(found.chain, chain.Verified)
    assert not found.sound
    assert [(each.problem, each.size) for each in found.bad_checkpoints] == [
        ("rewritten", 3),
        ("rewritten", 7),
    ]
    with ImageCache(home) as cache:
        kinds = [(each.kind, each.subject) for each in cache.doctor()]
        assert kinds.count(("log-not-as-signed", f"{key.key.name} 3")) == 1
        assert not cache.repair().mended
        data = cache.verify(data=DataRequest()).data
    assert data is not None
    tamper(ledger, "UPDATE signed_checkpoint SET note = 'nothing' WHERE size = 2")
    with ImageCache(home) as cache:
        assert ("checkpoint-damaged", f"{key.key.name} 2") in [(x.kind, x.subject) for x in cache.doctor()]


def change(ledger: Ledger, *statements: str) -> None:
    """Do what no trigger refuses."""
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_kept_hashes_are_compared_and_made_anew(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "home", [])
    with ledger.write("operation") as transaction:
        transaction.append(some_events()[2:3] * 1100)
    ledger.close()
    right = subtrees_of(ledger)
    assert [place for place, _ in right] == [(8, 0), (8, 1), (8, 2), (8, 3)]
    assert verify(ledger).subtrees == 4
    change(ledger, "DELETE FROM subtree WHERE position = 3")
    assert verify(ledger).sound  # one that is missing is made of the rows
    change(
        ledger,
        "UPDATE subtree SET hash = zeroblob(32) WHERE position = 1",
        "INSERT INTO subtree VALUES (8, 9, zeroblob(32)), (16, 0, zeroblob(32))",
    )
    found = verify(ledger)
    assert not found.sound
    wrong = [SubtreeProblem(8, 1), SubtreeProblem(8, 9), SubtreeProblem(16, 0)]
    assert found.bad_subtrees == wrong
    with ImageCache(ledger.layout.home) as cache:
        assert [each for each in cache.rebuild() if isinstance(each, SubtreeProblem)] == wrong
        assert cache.verify().sound
        assert subtrees_of(ledger) == right
        assert cache.rebuild() == []
        change(ledger, "DELETE FROM subtree WHERE position = 1")
        assert "tree-differs" not in [each.kind for each in cache.doctor()]
        cache.rebuild()
        assert subtrees_of(ledger) == right
        change(ledger, "UPDATE subtree SET hash = zeroblob(32) WHERE position = 2")
        assert "tree-differs" in [each.kind for each in cache.doctor()]
        assert "tree-differs" in [each.kind for each in cache.repair().mended]
        assert subtrees_of(ledger) == right


def subtrees_of(ledger: Ledger) -> list[tuple[tuple[int, int], bytes]]:
    with closing(sqlite3.connect(ledger.layout.database)) as connection:
        rows = connection.execute("SELECT level, position, hash FROM subtree ORDER BY 1, 2").fetchall()
    return [((level, position), found) for level, position, found in rows]


def test_without_the_tables_the_rest_is_checked(ledger: Ledger) -> None:
    note = checkpoint(ledger)
    tamper(ledger, "DROP TABLE subtree", "DROP TABLE signed_checkpoint", "DROP TABLE restored")
    found = verify(ledger, note)
    assert {problem.name for problem in found.schema} >= {"subtree", "signed_checkpoint"}
    assert found.contradiction is None
    assert (found.checkpoints, found.subtrees) == (0, 0)
    change_and_link_again(ledger)
    assert "rewritten" in str(verify(ledger, note).contradiction)


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
        pytest.raises(CorruptLogError, match=r"event 2 .*only a log that verifies is signed"),
    ):
        cache.checkpoint(sign=new_log_key())
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


def test_checkpoints_of_what_was_put_back_are_no_finding_once_that_is_confirmed(tmp_path: Path) -> None:
    key = new_log_key()
    with ImageCache(tmp_path / "home") as cache:
        for reference in ("a:1", "b:1"):
            cache.pin(reference)
        cache.backup(tmp_path / "backup.db")
        before = cache.checkpoint(sign=key)
        cache.pin("c:1")
        cache.checkpoint(sign=key)
        cache.restore_backup(tmp_path / "backup.db", discard_events=1)
        cache.pin("d:1")
        found = cache.verify()
        assert [each.problem for each in found.bad_checkpoints] == ["rewritten"]
        assert not found.sound
        assert cache.confirm_restore()
        found = cache.verify()
        assert (found.checkpoints, found.bad_checkpoints) == (2, [])
        assert [(each.size, each.problem) for each in found.put_back] == [(before.size + 1, "put-back")]
        assert found.sound
        # What is signed since under another name, and then rewritten, is no such checkpoint.
        signed = cache.checkpoint(sign=new_log_key("another.example"))
        with cache._session.ledger.write(uuid7(), owner="any") as transaction:
            transaction.connection.execute(
                "UPDATE signed_checkpoint SET note = replace(note, ?, ?) WHERE size = ?",
                (b64encode(signed.root).decode(), b64encode(before.root).decode(), signed.size),
            )
        found = cache.verify()
        assert [each.problem for each in found.bad_checkpoints] == ["rewritten"]
