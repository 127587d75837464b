"""Signed checkpoints are kept by name and size, with all signatures that came; a damaged one is told of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

import pytest
from sqlite_utils import Database

from msb_cache.errors import InvalidProofError
from msb_cache.migrations.schema import migrations
from msb_cache.proof import kept
from msb_cache.proof.note import MOST_SIGNATURES, Note
from msb_cache.proof.tree_head import TreeHead
from tests.proof.signing import checkpoint, cosign, new_log_key, new_witness_key, sign

LOG, OTHER = new_log_key("log.example"), new_log_key("other.example")
FIRST, SECOND = new_witness_key("w1.example"), new_witness_key("w2.example")


@pytest.fixture
def home() -> Iterator[sqlite3.Connection]:
    with closing(Database(memory=True)) as database:
        migrations.apply(database)
        yield database.conn


def note_of(size: int, text: str = "root") -> Note:
    return checkpoint(size, sha256(text.encode()).digest(), LOG)


def sizes(home: sqlite3.Connection, origin: str | None = None, **which: int) -> list[int]:
    return [each.head.size for each in kept.of(home, origin, **which)]


def test_nothing_is_kept_of_a_home_that_signed_nothing(home: sqlite3.Connection) -> None:
    assert kept.last(home) is None
    assert kept.at(home, "log.example", 3) is None
    assert sizes(home) == []


def test_what_is_kept(home: sqlite3.Connection) -> None:
    kept.keep(home, note_of(3), 1000)
    found = kept.at(home, "log.example", 3)
    assert found == kept.KeptCheckpoint(
        TreeHead("log.example", 3, sha256(b"root").digest()), note_of(3), 1000
    )
    assert found.note.signed_by([LOG.key]) == [LOG.key]
    assert kept.last(home) == kept.last(home, "log.example") == found
    assert kept.at(home, "log.example", 4) is kept.at(home, "other.example", 3) is None
    assert kept.last(home, "other.example") is None


def test_the_order_is_that_of_the_log(home: sqlite3.Connection) -> None:
    for number, size in enumerate((100, 9, 1000, 0)):
        kept.keep(home, note_of(size), number)
    kept.keep(home, checkpoint(50, bytes(32), OTHER), 9)
    kept.keep(home, checkpoint(1000, bytes(32), OTHER), 1)
    assert sizes(home) == [0, 9, 50, 100, 1000, 1000]
    assert sizes(home, "log.example") == [0, 9, 100, 1000]
    assert sizes(home, "log.example", least=9) == [9, 100, 1000]
    assert sizes(home, "log.example", least=10, reverse=True) == [1000, 100]
    assert sizes(home, "nobody.example") == []
    # Of two of one size the one that was signed later.
    last = kept.last(home)
    assert last is not None
    assert (last.head.origin, last.head.size) == ("log.example", 1000)


def test_signatures_that_come_later(home: sqlite3.Connection) -> None:
    kept.keep(home, note_of(3), 1000)
    before = kept.last(home)
    assert before is not None
    cosigned = cosign(note_of(3), FIRST)
    assert kept.add_signatures(home, before, cosigned.signatures[1:]) == cosigned
    # Another witness's comes to what is kept by now, not to what was read before.
    both = kept.add_signatures(home, before, cosign(Note(note_of(3).text), SECOND).signatures)
    assert both.signed_by([LOG.key, FIRST.key, SECOND.key]) == [LOG.key, FIRST.key, SECOND.key]
    # A newer one of the same witness takes the place of the older one.
    newer = cosign(Note(note_of(3).text), FIRST, 1_800_000_000)
    kept.add_signatures(home, before, newer.signatures)
    found = kept.last(home)
    assert found is not None
    assert [each.witnessed_at for each in found.note.signatures] == [
        None,
        1_800_000_000,
        both.signatures[2].witnessed_at,
    ]
    assert found.signed_at_ns == 1000


def test_what_is_kept_once_more_brings_only_its_signatures(home: sqlite3.Connection) -> None:
    kept.keep(home, cosign(note_of(3), FIRST), 1000)
    kept.keep(home, note_of(3), 2000)
    kept.keep(home, cosign(note_of(3), SECOND), 3000)
    (found,) = kept.of(home)
    assert found.note == cosign(cosign(note_of(3), FIRST), SECOND)
    assert found.signed_at_ns == 1000


def test_another_of_the_same_size_does_not_take_its_place(home: sqlite3.Connection) -> None:
    """The two prove that the log was rewritten, so the first must not go."""
    kept.keep(home, note_of(3), 1000)
    with pytest.raises(InvalidProofError, match="another signed checkpoint of 3 events"):
        kept.keep(home, note_of(3, "rewritten"), 2000)
    with pytest.raises(InvalidProofError, match="another signed checkpoint"):
        kept.keep(home, sign(f"{note_of(3).text}more\n", LOG), 2000)
    assert [each.note for each in kept.of(home)] == [note_of(3)]


def test_what_is_no_checkpoint_is_not_kept(home: sqlite3.Connection) -> None:
    with pytest.raises(InvalidProofError, match="no checkpoint"):
        kept.keep(home, sign("a text\n", LOG), 1000)
    assert sizes(home) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("note = ''", "is empty"),
        ("note = 5", "cut off"),
        ("note = substr(note, 1, 20)", "cut off"),
        ("note = x'ff0a'", "no UTF-8 text"),
        ("note = CAST(x'ff0a' AS TEXT)", "no UTF-8 text"),
        ("note = CAST(x'edb3bf0a' AS TEXT)", "no UTF-8 text"),
        ("note = 'text' || char(10)", "no checkpoint"),
        ("note = replace(note, char(10), char(13, 10))", "line ends of Windows"),
        ("note = replace(note, substr(note, instr(note, char(10, 10)) + 1), '')", "has no signature"),
        ("note = note || zeroblob(100000)", "more than 65,536 bytes"),
        ("size = 4", "is damaged: it is of 3 events of log"),
        ("size = 'many'", "is damaged: it is of 3 events of log"),
        ("size = x'ff'", "is damaged: it is of 3 events of log"),
        ("origin = 'other.example'", "is damaged: it is of 3 events of log"),
        ("origin = CAST(x'ff' AS TEXT)", "is damaged: it is of 3 events of log"),
        ("signed_at = 'yesterday'", "does not say when it was signed"),
    ],
)
def test_a_damaged_one_is_said_to_be(home: sqlite3.Connection, changed: str, said: str) -> None:
    kept.keep(home, note_of(3), 1000)
    home.execute(f"UPDATE signed_checkpoint SET {changed}")
    with pytest.raises(
        InvalidProofError,
        match=f"the signed checkpoint of .* that this home keeps .*{said}.*; `msb-cache che",
    ):
        [*kept.of(home)]
    (damaged,) = kept.each(home)
    assert isinstance(damaged, kept.DamagedCheckpoint)
    assert said in damaged.problem


def test_every_one_is_looked_at_whatever_is_wrong_with_others(home: sqlite3.Connection) -> None:
    for size in (9, 3, 5):
        kept.keep(home, note_of(size), 1000)
    home.execute("UPDATE signed_checkpoint SET note = 'x', signed_at = 'yesterday' WHERE size = 5")
    first, damaged, third = kept.each(home)
    assert [first, third] == [kept.at(home, LOG.key.name, 3), kept.at(home, LOG.key.name, 9)]
    assert damaged == kept.DamagedCheckpoint(LOG.key.name, 5, damaged.problem)  # type: ignore[union-attr]
    assert sorted(kept.sizes(home)) == [3, 5, 9]


def test_what_could_not_be_read_again_is_not_kept(home: sqlite3.Connection) -> None:
    """Such as with so many signatures that somebody put there."""
    crowd = note_of(3)
    for number in range(MOST_SIGNATURES - 1):
        crowd = cosign(crowd, new_witness_key(f"w{number}.example"))
    kept.keep(home, crowd, 1000)
    with pytest.raises(InvalidProofError, match="of 3 events with what came for it has more than 100"):
        kept.keep(home, cosign(note_of(3), new_witness_key("one.more.example")), 2000)
    assert [each.note for each in kept.of(home)] == [crowd]
