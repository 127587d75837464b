"""A log that is written anew has no flaw inside. Whoever holds a note of it, or has cosigned one, finds it.

1,000 logs are rewritten here, by someone who can do everything: hash all rows anew, and answer a witness
with whatever they like. What is found is all that can be: what lies behind every note is nobody's to know.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.eventstore import merkle
from msb_cache.eventstore.chain import BEGINNING, GENESIS, Checker, Rows, link
from msb_cache.eventstore.row import COLUMNS

CASES = 125
"""Of each of the eight ways to rewrite a log."""

Event = dict[str, Any]
"""The columns of an event but its position, which is where it stands."""


# --- logs ----------------------------------------------------------------------------------------


def new_event(chooser: random.Random, recorded_at: int) -> Event:
    return {
        "id": f"{chooser.getrandbits(128):032x}",
        "type": chooser.choice(["image.pulled", "image.used", "image.removed", "deletion.started"]),
        "version": chooser.randint(1, 3),
        "subject": f"docker.io/library/app:{chooser.randrange(9)}",
        "operation": f"{chooser.getrandbits(128):032x}",
        "occurred_at": recorded_at - chooser.randrange(1000),
        "recorded_at": recorded_at,
        "actor": '{"user":"alice"}',
        "data": f'{{"bytes":{chooser.randrange(10**9)}}}',
    }


def continued(events: list[Event], chooser: random.Random, count: int) -> list[Event]:
    """Return a log with so many events more."""
    found = [*events]
    for _ in range(count):
        found.append(new_event(chooser, found[-1]["recorded_at"] + chooser.randrange(3)))
    return found


def new_log(chooser: random.Random) -> list[Event]:
    first = {**new_event(chooser, 10**18), "type": BEGINNING, "subject": "the-id-of-this-log"}
    return continued([first], chooser, chooser.randint(3, 40))


def rows_of(events: list[Event]) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """Yield the rows of a log: its events where they stand, hashed one after the other."""
    head = GENESIS
    for seq, event in enumerate(events, 1):
        row = (seq, *(event[column] for column in COLUMNS[1:]))
        head = link(head, row)
        yield row, head


def hashes_of(rows: Rows) -> list[bytes]:
    """Return the hashes of a log in which its own check finds nothing."""
    checker, found = Checker(), []
    for row, stored in rows:
        assert checker.check(row, stored) is None
        found.append(stored)
    assert checker.log_id == "the-id-of-this-log"
    return found


# --- who rewrites --------------------------------------------------------------------------------


def change_a_column(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    """The times stay in order, as in every sound log."""
    column = chooser.choice([name for name in COLUMNS[1:] if name != "recorded_at"])
    before = events[place][column]
    after = before + chooser.choice([-1, 1]) if isinstance(before, int) else f"{before} "
    return [*events[:place], {**events[place], column: after}, *events[place + 1 :]]


def change_a_time(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    """All that follows was later by as much."""
    later = chooser.randint(1, 1000)
    return [
        *events[:place],
        *({**each, "recorded_at": each["recorded_at"] + later} for each in events[place:]),
    ]


def drop(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    return [*events[:place], *events[place + chooser.randint(1, 3) :]]


def insert(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    return [*events[:place], new_event(chooser, events[place]["recorded_at"]), *events[place:]]


def exchange(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    """Two events, each at the time of the other."""
    found, other = [*events], chooser.randrange(1, len(events))
    for here, there in ((place, other), (other, place)):
        found[here] = {**events[there], "recorded_at": events[here]["recorded_at"]}
    return found


def cut_off(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    return events[:place]


def go_another_way(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    """A fork: the log as it was, and from there on another, shorter or longer."""
    return continued(events[:place], chooser, chooser.randint(1, 50))


def write_anew(events: list[Event], place: int, chooser: random.Random) -> list[Event]:
    """Another log of the same id and the same times: of what was nothing is left but its first event."""
    return [events[0], *(new_event(chooser, each["recorded_at"]) for each in events[1:])]


Rewrite = Callable[[list[Event], int, random.Random], list[Event]]
REWRITES: list[Rewrite] = [
    change_a_column,
    change_a_time,
    drop,
    insert,
    exchange,
    cut_off,
    go_another_way,
    write_anew,
]


# --- who finds it --------------------------------------------------------------------------------


def roots_of(hashes: list[bytes], sizes: set[int]) -> dict[int, bytes]:
    """Return the roots at those sizes that a log has."""
    tree, found = merkle.Frontier(), {0: merkle.EMPTY_ROOT}
    for each in hashes:
        tree.append(merkle.leaf_hash(each))
        if tree.size in sizes:
            found[tree.size] = tree.root()
    return found


def subtree_of(hashes: list[bytes]) -> merkle.Subtree:
    leaves = [merkle.leaf_hash(each) for each in hashes]
    return lambda level, index: merkle.combined(leaves[index << level : (index + 1) << level])


@dataclass
class Witness:
    """It knows nothing of a log but the last head that it cosigned."""

    size: int = 0
    root: bytes = field(default=merkle.EMPTY_ROOT)

    def cosigns(self, size: int, root: bytes, path: list[bytes]) -> bool:
        if size < self.size or not merkle.is_consistent(self.size, size, self.root, root, path):
            return False
        self.size, self.root = size, root
        return True


def answers(
    old: int, before: list[bytes], after: list[bytes], chooser: random.Random
) -> Iterator[list[bytes]]:
    """Yield what whoever rewrote a log may send as the path: the right one first, if there is one."""
    if 0 < old <= len(after):
        honest = merkle.consistency_path(old, len(after), subtree_of(after))
        yield honest
        for place in range(len(honest)):
            yield [*honest[:place], chooser.randbytes(32), *honest[place + 1 :]]
    yield []
    yield [merkle.root(len(before), subtree_of(before))]
    if old:
        for size in {len(before), min(len(before), max(old, len(after)))}:
            yield merkle.consistency_path(old, size, subtree_of(before))


def judge(before: list[bytes], after: list[bytes], sizes: set[int], chooser: random.Random) -> set[int]:
    """Return at which of these sizes whoever has a note or has cosigned one finds a log to be another."""
    held, shown = roots_of(before, sizes), roots_of(after, sizes)
    root = merkle.root(len(after), subtree_of(after))
    found = set()
    for size in sizes:
        refused = not any(
            Witness(size, held[size]).cosigns(len(after), root, path)
            for path in answers(size, before, after, chooser)
        )
        assert refused == (shown.get(size) != held[size])
        if refused:
            found.add(size)
    return found


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.__name__)
def test_a_log_that_was_rewritten_is_found(rewrite: Rewrite) -> None:
    notes_before = 0
    for seed in range(CASES):
        chooser = random.Random(f"{rewrite.__name__} {seed}")
        events = new_log(chooser)
        before = hashes_of(rows_of(events))
        after = before
        while after[: len(before)] == before:  # of two like events the exchange changes nothing
            rewritten = rewrite(events, chooser.randrange(1, len(events)), chooser)
            # What was rewritten may have gone on since, and look longer than what it was.
            rewritten = continued(rewritten, chooser, chooser.choice([0, 0, 5, 40]))
            after = hashes_of(rows_of(rewritten))
        pairs = zip(before, after, strict=False)
        same = next((n for n, (old, new) in enumerate(pairs) if old != new), len(after))
        sizes = {len(before), *(chooser.randint(0, len(before)) for _ in range(4))}
        found = judge(before, after, sizes, chooser)
        # All that can know do. Where nobody has a note of what was changed, nobody finds it.
        assert found == {size for size in sizes if size > same}
        assert found
        notes_before += len(sizes - found)
    assert notes_before > 0


def test_1000_logs_are_rewritten() -> None:
    assert CASES * len(REWRITES) == 1000


def test_a_log_that_only_grows_alarms_nobody() -> None:
    for seed in range(CASES):
        chooser = random.Random(seed)
        events = new_log(chooser)
        grown = hashes_of(rows_of(continued(events, chooser, chooser.choice([0, 1, 2, 30]))))
        before = hashes_of(rows_of(events))
        assert judge(before, grown, {*range(len(before) + 1)}, chooser) == set()


@given(st.integers(0, 2**32))
def test_a_witness_goes_on_with_one_of_two_forks(seed: int) -> None:
    """Whichever it sees first; with the other its owner can go on nowhere."""
    chooser = random.Random(seed)
    events = new_log(chooser)
    place = chooser.randrange(1, len(events))
    forks = [
        hashes_of(rows_of(each)) for each in (events, continued(events[:place], chooser, len(events) - place))
    ]
    chooser.shuffle(forks)
    witness = Witness()
    for size in range(1, len(events) + 1):
        for number, fork in enumerate(forks):
            subtree = subtree_of(fork)
            path = merkle.consistency_path(witness.size, size, subtree) if witness.size else []
            cosigned = witness.cosigns(size, merkle.root(size, subtree), path)
            assert cosigned == (number == 0 or size <= place)
