"""Real homes that are rewritten, as often as time allows: who holds a note or has cosigned one finds it.

The ways to rewrite a log, and what can be found at all, are those of ``test_forks``; here they are done to a
home's database, and what looks for them is what users have: ``verify``, the signer and a witness.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.cache import ImageCache
from msb_cache.errors import LogError
from msb_cache.eventstore.chain import Verified, raw_rows
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.subtrees import LogTree
from msb_cache.proof.tree_head import TreeHead
from tests.logs import some_events
from tests.proof import test_forks
from tests.proof.forging import events_of, write_log
from tests.proof.signing import LOG, keep_signed, sign
from tests.proof.submitting import LOG_KEY, request, witness_at
from tests.proof.test_forks import REWRITES, Event, Rewrite, answers, continued

EVENTS = 41
EACH = 16
"""Homes that are rewritten in each way."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("original") / "home"
    some = [*some_events(), *some_events()]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MSB_CACHE_NO_HEAD", "1")
        with ImageCache(home) as cache:
            for number in range(EVENTS - 1):
                with cache._session.ledger.write(uuid7()) as transaction:
                    transaction.append([some[number % len(some)]])
    return home


def hashes_in(home: Path) -> list[bytes]:
    with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection:
        return [stored for _, stored in raw_rows(connection)]


def head_at(home: Path, size: int) -> TreeHead:
    with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection:
        return TreeHead(LOG, size, LogTree(connection, size).root())


@pytest.mark.parametrize("way", REWRITES, ids=lambda way: way.__name__)
def test_a_home_that_was_rewritten_is_found(
    way: Rewrite, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_CACHE_NO_HEAD", "1")
    before, events = hashes_in(original), events_of(original)

    def like_the_true_ones(chooser: random.Random, recorded_at: int) -> Event:
        found = {**chooser.choice(events[1:]), "id": f"{chooser.getrandbits(128):032x}"}
        return {**found, "occurred_at": recorded_at, "recorded_at": recorded_at}

    monkeypatch.setattr(test_forks, "new_event", like_the_true_ones)
    finders = set()
    for seed in range(EACH):
        chooser = random.Random(f"home {way.__name__} {seed}")
        kept, noted, witnessed = (chooser.randint(1, EVENTS) for _ in range(3))
        home = tmp_path / f"home{seed}"
        shutil.copytree(original, home)
        keep_signed(home / "db/msb-cache.db", LOG_KEY, size=kept)
        note = sign(head_at(home, noted).text, LOG_KEY)
        (tmp_path / f"w{seed}").mkdir()
        with closing(witness_at(tmp_path / f"w{seed}")) as witness:
            head = head_at(home, witnessed)
            assert witness.add_checkpoint(request(0, (), sign(head.text, LOG_KEY))).status == 200

            changed = events
            while changed[: len(events)] == events:  # of two like events the exchange changes nothing
                place = chooser.randrange(1, EVENTS)
                changed = continued(way(events, place, chooser), chooser, chooser.choice([0, 0, 5, 40]))
            write_log(home, changed, forget=False)
            after = hashes_in(home)
            pairs = zip(before, after, strict=False)
            same = next((n for n, (old, new) in enumerate(pairs) if old != new), len(after))

            with ImageCache(home) as cache:
                found = cache.verify(str(note), keys=[LOG_KEY.key])
                # By itself it has no flaw, whatever was done to it.
                assert isinstance(found.chain, Verified)
                assert (found.schema, found.bad_subtrees, found.bad_copies) == ([], [], [])
                assert (found.contradiction is not None) == (noted > same)
                assert bool(found.bad_checkpoints) == (kept > same)
                assert not found.sound or max(kept, noted) <= same
                if kept > same:
                    with pytest.raises(LogError, match="Nothing is signed"):
                        cache.checkpoint(sign=LOG_KEY)
                    assert [each.size for each in cache.checkpoints()] == [kept]
                else:
                    signed = cache.checkpoint(sign=LOG_KEY)
                    assert (signed.size, signed.root) == (len(after), head_at(home, len(after)).root)

            # Who has the key signs it all the same, and sends the witness whatever they like.
            forged = sign(head_at(home, len(after)).text, LOG_KEY)
            asked = [
                request(old, tuple(path), forged)
                for old in (witnessed, 0)
                for path in answers(old, before, after, chooser)
            ]
            asked.append(request(len(after), (), forged))
            chooser.shuffle(asked)
            said = {witness.add_checkpoint(each).status for each in asked}
            assert (200 in said) == (witnessed <= same)
            assert said <= {200, 400, 409, 422}
            (known,) = witness.remembered()
            assert known.root == (head_at(home, len(after)) if witnessed <= same else head).root
        finders |= {("kept", kept > same), ("note", noted > same), ("witness", witnessed > same)}
    # Each of them was before the change once, and behind it; nothing is before that of all events.
    assert len(finders) == 6 or way is test_forks.write_anew
