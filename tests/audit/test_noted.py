"""What was noted of a log, against the log: each way in which it can be another, and no other way."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.audit.noted import NoteCheck, Notes, wanted
from msb_cache.errors import InvalidConfigError, InvalidProofError, LogError
from msb_cache.eventstore import chain, merkle
from msb_cache.eventstore.chain import Break, Verified
from msb_cache.eventstore.subtrees import Recomputed
from msb_cache.proof import kept
from msb_cache.proof.chain_note import ChainNote
from msb_cache.proof.note import Note
from msb_cache.proof.tree_head import TreeHead
from tests.logs import new_ledger, some_events
from tests.proof.signing import checkpoint, cosign, new_log_key, new_witness_key

KEY = new_log_key()
WITNESS = new_witness_key("witness.example/one")
EVENTS = 7


@pytest.fixture
def log(tmp_path: Path) -> sqlite3.Connection:
    """A log of seven events, in which everything can be changed."""
    ledger = new_ledger(tmp_path, some_events())
    connection = sqlite3.connect(ledger.layout.database, isolation_level=None)
    for trigger in ("events_no_update", "events_no_delete"):
        connection.execute(f"DROP TRIGGER {trigger}")
    return connection


@pytest.fixture(autouse=True)
def _closed(log: sqlite3.Connection):  # type: ignore[no-untyped-def]
    with closing(log):
        yield


def root(log: sqlite3.Connection, size: int) -> bytes:
    found = merkle.Frontier()
    rows = log.execute("SELECT hash FROM events WHERE seq <= ? ORDER BY seq", (size,))
    found.extend(merkle.leaf_hash(stored) for (stored,) in rows.fetchall())
    return found.root()


def note(log: sqlite3.Connection, size: int) -> Note:
    return checkpoint(size, root(log, size), KEY)


def log_id(log: sqlite3.Connection) -> str:
    return str(log.execute("SELECT subject FROM events WHERE seq = 1").fetchone()[0])


def compared(
    log: sqlite3.Connection | None, against: object, *, keys: Sequence[str] = (), cut: bool = False
) -> NoteCheck:
    """Compare a log with a note; ``cut``: the index has been further than the log is."""
    asked = wanted(None if against is None else str(against), keys, None)
    notes = Notes(log, asked)
    tree = Recomputed(notes.sizes())
    found: Verified | Break = Verified(0, chain.GENESIS, None)
    if log is not None:
        found = chain.verify(log, tree.following)
    if cut:
        found = Break(tree.size + 1, "its end is gone", "truncated")
    result = notes.check(found, tree)
    assert result is not None
    return result


def of_home(log: sqlite3.Connection) -> list[tuple[str, int, str] | None]:
    """What is wrong with each signed checkpoint that the home keeps."""
    notes = Notes(log, None)
    tree = Recomputed(notes.sizes())
    found = notes.of_home(chain.verify(log, tree.following), tree)
    return [None if each is None else (each.problem, each.size, each.detail) for each in found]


def rewrite(log: sqlite3.Connection, seq: int) -> None:
    """Write another event at a position, and the chain behind it anew."""
    log.execute("UPDATE events SET operation = 'another' WHERE seq = ?", (seq,))
    previous = chain.GENESIS
    for row, _ in list(chain.raw_rows(log)):
        previous = chain.link(previous, row)
        log.execute("UPDATE events SET hash = ? WHERE seq = ?", (previous, row[0]))


def test_a_log_begins_with_what_was_noted_of_it(log: sqlite3.Connection) -> None:
    for size in range(EVENTS + 1):
        found = compared(log, note(log, size))
        assert found == NoteCheck("checkpoint", KEY.key.name, size, None, None, True)
        unsigned = TreeHead(KEY.key.name, size, root(log, size)).text
        assert compared(log, unsigned) == NoteCheck("checkpoint", KEY.key.name, size, None)


@pytest.mark.parametrize("changed", range(1, EVENTS + 1))
def test_what_was_rewritten_contradicts_each_note_that_has_it(log: sqlite3.Connection, changed: int) -> None:
    notes = [note(log, size) for size in range(EVENTS + 1)]
    rewrite(log, changed)
    for size, each in enumerate(notes):
        problem = compared(log, each).problem
        assert (problem is None) == (size < changed)
        if problem is not None:
            assert f"the first {size} event" in problem
            assert problem.endswith("the log was rewritten, or the note is of another log")


def test_what_is_known_of_its_name_is_said(log: sqlite3.Connection) -> None:
    """A note that is of this log for sure, by its id or by what the home has signed, is of no other."""
    named = f"msb-cache/{log_id(log)}"
    other = f"msb-cache/{'0' * 32}"
    for origin, says in [
        (named, "the log was rewritten"),
        (other, f"this is another log: its id is {log_id(log)}, the note's {'0' * 32}"),
    ]:
        problem = compared(log, TreeHead(origin, 3, bytes(32)).text).problem
        assert problem is not None
        assert problem.endswith(says)
    assert "cut off" in str(compared(log, TreeHead(named, 9, bytes(32)).text).problem)
    kept.keep(log, note(log, 2), 1)
    problem = compared(log, checkpoint(5, bytes(32), KEY)).problem
    assert problem == "the first 5 events are not those of the note: the log was rewritten"


def test_a_log_that_is_shorter(log: sqlite3.Connection) -> None:
    long = note(log, EVENTS)
    old = ChainNote(log_id(log), EVENTS, bytes(32), 1).note
    log.execute("DELETE FROM events WHERE seq > 4")
    problem = compared(log, long).problem
    assert problem == (
        "the log has only 4 events, and the note is of 7: its end was cut off, or the note is of another log"
    )
    assert "its end was cut off" in str(compared(log, old).problem)
    for each in (long, old):
        cut = compared(log, each, cut=True).problem
        assert cut == "the log has only 4 events, and the note is of 7"
    for each in (long, old):
        assert compared(None, each).problem == "there is no log, and the note is of 7 events"


def test_notes_before_a_break_are_proved(log: sqlite3.Connection) -> None:
    notes = [note(log, size) for size in range(EVENTS + 1)]
    log.execute("UPDATE events SET subject = 'somebody' WHERE seq = 5")
    for size, each in enumerate(notes):
        problem = compared(log, each).problem
        assert problem == (
            None if size < 5 else f"the log is not sound at event 5, and the note is of {size}"
        )
    forged = checkpoint(3, bytes(32), KEY)
    assert "rewritten" in str(compared(log, forged).problem)


def test_a_note_of_nothing(log: sqlite3.Connection) -> None:
    empty = checkpoint(0, merkle.EMPTY_ROOT, KEY)
    assert compared(log, empty).problem is None
    assert compared(None, empty).problem is None
    assert "of no events" in str(compared(log, checkpoint(0, bytes(32), KEY)).problem)


def test_kept_hashes_prove_nothing(log: sqlite3.Connection) -> None:
    """Roots are made of rows: a forged table of subtrees makes no forged note true."""
    forged = checkpoint(EVENTS, bytes(32), KEY)
    log.execute("INSERT INTO subtree VALUES (8, 0, zeroblob(32))")
    assert compared(log, forged).problem is not None
    assert compared(log, note(log, EVENTS)).problem is None


def test_who_signed(log: sqlite3.Connection) -> None:
    signed, other = note(log, 5), new_log_key(KEY.key.name, "another seed")
    found = compared(log, signed, keys=[str(KEY.key)])
    assert found.problem is None
    assert found.to_dict()["signed_by"] == KEY.key.name
    assert found.to_dict()["cosigned_by"] == []
    problem = compared(log, signed, keys=[str(other.key)]).problem
    assert "is not signed by the key of that log" in str(problem)
    both = [str(KEY.key), str(WITNESS.key)]
    assert "has not cosigned" in str(compared(log, signed, keys=both).problem)
    shape = compared(log, cosign(signed, WITNESS), keys=both).to_dict()
    assert (shape["problem"], [each["name"] for each in shape["cosigned_by"]]) == (None, [WITNESS.key.name])
    altered = Note(signed.text, checkpoint(6, bytes(32), KEY).signatures)
    assert compared(log, altered).problem is None  # the rows are those, whoever signed
    found = compared(log, altered, keys=[str(KEY.key)])
    assert (found.contradiction, found.to_dict()["extended"]) == (None, True)
    assert "is not of that key over this text" in str(found.problem)
    old = ChainNote(log_id(log), 1, *log.execute("SELECT hash, recorded_at FROM events").fetchone())
    assert compared(log, old.note).problem is None
    assert "older release" in str(compared(log, old.note, keys=[str(KEY.key)]).problem)


def test_without_a_note_the_newest_that_the_home_keeps(log: sqlite3.Connection) -> None:
    keys = [str(KEY.key)]
    found = compared(log, None, keys=keys)
    assert (found.size, found.problem) == (0, "this home keeps no signed checkpoint to be checked")
    for size in (2, 6, 4):
        kept.keep(log, note(log, size), size)
    found = compared(log, None, keys=keys)
    assert (found.size, found.problem) == (6, None)
    assert "not signed" in str(
        compared(log, None, keys=[str(new_log_key(KEY.key.name, "other").key)]).problem
    )
    other = new_log_key("other.example/cache")
    kept.keep(log, checkpoint(EVENTS, root(log, EVENTS), other), EVENTS)
    found = compared(log, None, keys=keys)  # a later one of another name hides it not
    assert (found.size, found.problem) == (6, None)
    assert compared(log, None, keys=[str(other.key)]).size == EVENTS
    assert wanted(None, (), None) is None


def test_each_signed_checkpoint_that_the_home_keeps(log: sqlite3.Connection) -> None:
    for size in range(1, EVENTS + 1):
        kept.keep(log, note(log, size), size)
    assert of_home(log) == [None] * EVENTS
    rewrite(log, 6)
    log.execute("DELETE FROM events WHERE seq = 7")
    found = of_home(log)
    assert found[:5] == [None] * 5
    assert [each and each[:2] for each in found[5:]] == [("rewritten", 6), ("cut-off", 7)]
    assert [each and each[2] for each in found[5:]] == [
        f"6 events were signed as {KEY.key.name}, and they are not those of the log: "
        "it was rewritten after that",
        f"7 events were signed as {KEY.key.name}, and the log has only 6 events: "
        "its end was cut off, or it was put back",
    ]
    log.execute("UPDATE events SET subject = 'somebody' WHERE seq = 3")
    assert of_home(log) == [None] * 2  # what lies behind the break tells nothing more


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("note = ''", "is empty"),
        ("note = 'hello'", "cut off"),
        ("note = replace(note, char(10), char(13) || char(10))", "line ends of Windows"),
        ("note = CAST(x'ff0a' AS TEXT)", "no UTF-8"),
        ("note = CAST(zeroblob(1000000) AS TEXT)", "65,536"),
        ("note = replace(note, '3', '4')", "damaged"),
        ("size = 4", "damaged: it is of 3 events"),
        ("size = 'many'", "damaged: it is of 3 events"),
        ("origin = 'log.example/other'", "damaged: it is of 3 events of log.example/cache"),
        ("origin = CAST(x'ff' AS TEXT)", "damaged: it is of 3 events of log.example/cache"),
        ("signed_at = 'never'", "damaged: it does not say when it was signed"),
        ("note = substr(note, 1, instr(note, char(10) || char(10)))", "damaged: it has no signature"),
    ],
)
def test_a_damaged_one(log: sqlite3.Connection, change: str, says: str) -> None:
    kept.keep(log, note(log, 3), 1)
    kept.keep(log, note(log, 5), 1)
    log.execute(f"UPDATE signed_checkpoint SET {change} WHERE size = 3")
    found = of_home(log)
    assert len(found) == 2
    (damaged,) = [each for each in found if each is not None]
    assert damaged[0] == "damaged"
    assert says in damaged[2]


@pytest.mark.parametrize(
    ("against", "says"),
    [
        (b"", "empty"),
        (b"\xff\n", "UTF-8"),
        (b"msb-cache checkpoint 2\n", "version"),
        (b"msb-cache checkpoint 1\r\n", "version|first line"),
        (b"a\nb\nc\n", "no number of events"),
        (b"a\n1\n" + b"A" * 44 + b"\n", "no root"),
        (b"\xe2\x80\x94" * 70_000, "65,536"),
        ("\udcff\n", "UTF-8"),
    ],
)
def test_what_is_no_note(against: str | bytes, says: str) -> None:
    with pytest.raises(LogError, match=says):
        wanted(against, (), None)


def test_what_is_no_key_or_policy() -> None:
    for keys, policy in [
        (["x"], None),
        ([str(WITNESS.key)], None),
        ([], b"nothing\n"),
        ([], b"quorum none\n"),
    ]:
        with pytest.raises(InvalidConfigError):
            wanted(None, keys, policy)
    with pytest.raises(InvalidProofError):
        wanted("no note", [str(KEY.key)], b"quorum none\n")
