"""Checkpoints: their roots, what is signed and what is not, and what the home keeps of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from msb_cache import failpoints
from msb_cache.audit import checkpoints
from msb_cache.cache import ImageCache
from msb_cache.errors import CorruptLogError, LogError, SigningError
from msb_cache.eventstore import merkle
from msb_cache.eventstore.chain import link, raw_rows
from msb_cache.eventstore.ids import uuid7
from msb_cache.proof.note import Signature, cosigned, parse
from msb_cache.proof.policy import LAST_YEAR
from msb_cache.proof.tree_head import head_of
from msb_cache.proof.vkey import VerifierKey
from msb_cache.shapes import jsonable
from tests.logs import some_events
from tests.msbhome import MsbHome

ORIGIN = "ci7.example.com/msb-cache"


class TestSigner:
    """A key of a test."""

    __test__ = False

    def __init__(self, name: str = ORIGIN, seed: int = 1) -> None:
        self._secret = Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32))
        self.key = VerifierKey(name, 1, self._secret.public_key().public_bytes_raw())
        self.asked = 0

    def sign(self, message: bytes) -> bytes:
        self.asked += 1
        return self._secret.sign(message)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with ImageCache(tmp_path / "home") as cache:
        for event in some_events():
            with cache._session.ledger.write(uuid7()) as transaction:
                transaction.append([event])
    return tmp_path / "home"


@pytest.fixture
def cache(home: Path) -> Iterator[ImageCache]:
    with ImageCache(home) as opened:
        yield opened


def hashes_in(home: Path) -> list[bytes]:
    with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection:
        return [stored for (stored,) in connection.execute("SELECT hash FROM events ORDER BY seq")]


def root_of(hashes: list[bytes]) -> bytes:
    frontier = merkle.Frontier()
    frontier.extend(map(merkle.leaf_hash, hashes))
    return frontier.root()


def grow(cache: ImageCache, count: int = 1) -> None:
    used = next(each for each in some_events() if each.event.type == "image.used")
    with cache._session.ledger.write(uuid7()) as transaction:
        transaction.append([used] * count)


def rewrite(home: Path, seq: int, *, chained: bool = True) -> None:
    """Change an event, and make the hashes behind it anew, as the owner of the file can."""
    with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        change = "UPDATE events SET occurred_at = occurred_at + 1 WHERE seq = ?"
        assert connection.execute(change, (seq,)).rowcount == 1
        before = connection.execute("SELECT hash FROM events WHERE seq = ?", (seq - 1,)).fetchone()
        head = before[0] if before else bytes(32)
        for row, _ in list(raw_rows(connection, seq - 1)) if chained else []:
            head = link(head, row)
            connection.execute("UPDATE events SET hash = ? WHERE seq = ?", (head, row[0]))
        connection.execute(
            "CREATE TRIGGER events_no_update BEFORE UPDATE ON events\n"
            "BEGIN SELECT RAISE(ABORT, 'events are only ever appended, never changed'); END"
        )
        connection.commit()


class TestTake:
    def test_it_is_a_checkpoint_of_the_log(self, home: Path, cache: ImageCache) -> None:
        found = cache.checkpoint()
        hashes = hashes_in(home)
        head = head_of(parse(found.note.encode()))
        assert (head.origin, head.size, head.root) == (
            f"msb-cache/{found.log_id}",
            len(hashes),
            root_of(hashes),
        )
        assert (found.size, found.root, found.head) == (head.size, head.root, hashes[-1])
        assert (found.signed_by, found.signed_at_ns, found.cosigned) == (None, None, ())
        assert cache.checkpoint(origin=ORIGIN).note.startswith(f"{ORIGIN}\n")
        assert cache.checkpoints() == []

    def test_no_log(self, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "none") as cache, pytest.raises(LogError, match="no log yet"):
            cache.checkpoint()
        assert not (tmp_path / "none").exists()

    def test_what_is_kept_is_filled_once(self, home: Path, cache: ImageCache) -> None:
        grow(cache, 300)
        with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection, connection:
            assert connection.execute("DELETE FROM subtree").rowcount == 1
        assert cache.checkpoint().root == root_of(hashes_in(home))
        with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection:
            assert connection.execute("SELECT count(*) FROM subtree").fetchone() == (1,)


class TestSign:
    def test_it_is_signed_and_kept_and_the_log_stays_as_it_is(self, home: Path, cache: ImageCache) -> None:
        signer, before = TestSigner(), hashes_in(home)
        found = cache.checkpoint(sign=signer)
        note = parse(found.note.encode())
        assert note.signed_by([signer.key]) == [signer.key]
        assert head_of(note).root == root_of(before)
        assert (found.origin, found.signed_by) == (ORIGIN, ORIGIN)
        assert hashes_in(home) == before
        assert cache.checkpoints() == [found]
        assert cache.checkpoint(sign=signer) == found  # it is the same log still
        grow(cache)
        later = cache.checkpoint(sign=signer)
        assert later.size == found.size + 1
        assert cache.checkpoints() == [later, found]
        assert cache.checkpoints(origin="another") == []

    def test_only_what_came_since_is_read(self, home: Path, cache: ImageCache) -> None:
        signer = TestSigner()
        grow(cache, 600)
        cache.checkpoint(sign=signer)
        grow(cache, 10)
        with cache._session.ledger.read() as connection:
            assert connection is not None
            seen: list[str] = []
            connection.set_trace_callback(seen.append)
        found = cache.checkpoint(sign=signer)
        rows = [text for text in seen if text.startswith("SELECT seq, id")]
        first = found.size - 10
        assert all(f"seq > {first} " in text for text in rows)
        assert rows
        assert found.root == root_of(hashes_in(home))

    @pytest.mark.parametrize("seq", [1, 3])
    def test_a_log_that_was_rewritten_is_not_signed(self, home: Path, cache: ImageCache, seq: int) -> None:
        signer = TestSigner()
        cache.checkpoint(sign=signer)
        grow(cache, 3)
        cache.close()
        rewrite(home, seq)
        with pytest.raises(CorruptLogError, match="it was rewritten"):
            cache.checkpoint(sign=signer)
        assert signer.asked == 1
        other = TestSigner("another.example.com/log", 2)  # which has signed nothing yet
        assert cache.checkpoint(sign=other).signed_by == other.key.name

    def test_a_log_that_does_not_verify_is_not_signed(self, home: Path, cache: ImageCache) -> None:
        signer = TestSigner()
        grow(cache, 3)
        cache.close()
        rewrite(home, 5, chained=False)
        with pytest.raises(CorruptLogError, match="event 5"):
            cache.checkpoint(sign=signer)
        assert signer.asked == 0

    def test_a_log_that_was_put_back_is_not_signed(
        self, home: Path, cache: ImageCache, tmp_path: Path
    ) -> None:
        signer = TestSigner()
        cache.backup(tmp_path / "backup.db")
        grow(cache, 3)
        cache.checkpoint(sign=signer)
        cache.restore_backup(tmp_path / "backup.db", discard_events=3)
        with pytest.raises(LogError, match="cut off, or it was put back"):
            cache.checkpoint(sign=signer)
        grow(cache, 10)
        with pytest.raises(CorruptLogError, match="it was rewritten"):
            cache.checkpoint(sign=signer)
        assert signer.asked == 1

    def test_wrong_kept_hashes_are_not_believed(self, home: Path) -> None:
        said: list[str] = []
        signer = TestSigner()
        with ImageCache(home, note=said.append) as cache:
            grow(cache, 300)
            cache.checkpoint(sign=signer)
            grow(cache, 300)
        with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection, connection:
            connection.execute("UPDATE subtree SET hash = zeroblob(32)")
        with ImageCache(home, note=said.append) as cache:
            found = cache.checkpoint(sign=signer)
            assert found.root == root_of(hashes_in(home))
            assert "rebuild" in said[-1]
            with pytest.raises(CorruptLogError, match="rebuild"):
                checkpoints.consistency_path(cache._session, found, 300)

    def test_a_kept_checkpoint_of_another_key_of_that_name_is_compared(
        self, home: Path, cache: ImageCache
    ) -> None:
        old, new = TestSigner(seed=1), TestSigner(seed=2)
        first = cache.checkpoint(sign=old)
        both = cache.checkpoint(sign=new)
        assert parse(both.note.encode()).signed_by([new.key]) == [new.key]
        grow(cache)
        assert cache.checkpoint(sign=new).size == first.size + 1
        cache.close()
        rewrite(home, 2)
        with pytest.raises(CorruptLogError, match="of another log, and that this key has not signed"):
            cache.checkpoint(sign=TestSigner(seed=3))

    @pytest.mark.parametrize("is_rewritten", [False, True])
    def test_another_process_signs_meanwhile(
        self, home: Path, cache: ImageCache, monkeypatch: pytest.MonkeyPatch, is_rewritten: bool
    ) -> None:
        """And maybe the log is rewritten then, before this one has read it."""
        signer, proved = TestSigner(), checkpoints._proved

        def meanwhile(*of: Any) -> Any:
            monkeypatch.setattr(checkpoints, "_proved", proved)
            with ImageCache(home) as other:
                other.checkpoint(sign=signer)
            if is_rewritten:
                rewrite(home, 2)
            grow(cache)
            return proved(*of)

        monkeypatch.setattr(checkpoints, "_proved", meanwhile)
        if is_rewritten:
            with pytest.raises(CorruptLogError, match="it was rewritten"):
                cache.checkpoint(sign=signer)
        else:
            assert cache.checkpoint(sign=signer).size == 8
        assert [each.size for each in cache.checkpoints()] == ([7] if is_rewritten else [8, 7])

    def test_who_signs_with_another_key_signs_nothing(self, cache: ImageCache) -> None:
        signer = TestSigner()
        signer.key = TestSigner(seed=2).key
        with pytest.raises(SigningError, match="has another key, so nothing is signed"):
            cache.checkpoint(sign=signer)
        assert cache.checkpoints() == []

    def test_a_log_that_is_put_back_meanwhile(self, home: Path, cache: ImageCache, tmp_path: Path) -> None:
        cache.backup(tmp_path / "backup.db")
        grow(cache, 2)

        def put_back(step: str) -> None:
            if step == "checkpoint.signed":
                failpoints.observer = None
                with ImageCache(home) as other:
                    other.restore_backup(tmp_path / "backup.db", discard_events=2)
                    grow(other, 2)

        failpoints.observer = put_back
        try:
            with pytest.raises(LogError, match="put back while it was signed"):
                cache.checkpoint(sign=TestSigner())
        finally:
            failpoints.observer = None
        assert cache.checkpoints() == []


class TestConsistency:
    def test_every_signed_checkpoint_goes_on_from_those_before(self, cache: ImageCache) -> None:
        signer = TestSigner()
        taken = []
        for count in (0, 1, 5, 255, 40):
            grow(cache, count)
            taken.append(cache.checkpoint(sign=signer))
        for old in taken:
            for new in taken[taken.index(old) :]:
                path = checkpoints.consistency_path(cache._session, new, old.size)
                assert merkle.is_consistent(old.size, new.size, old.root, new.root, path)
        assert checkpoints.consistency_path(cache._session, taken[-1], 0) == []


def test_cosignatures_stand_beside_the_note(cache: ImageCache) -> None:
    signer, witness = TestSigner(), TestSigner("witness.example.com", 9)
    key = VerifierKey("witness.example.com", 4, witness.key.public)
    found = cache.checkpoint(sign=signer)
    text = parse(found.note.encode()).text

    def cosign(time: int) -> Signature:
        return Signature(key.name, key.key_id, time.to_bytes(8, "big") + witness.sign(cosigned(text, time)))

    for time in (1_800_000_000, 1_800_000_001):
        added = checkpoints.add_cosignatures(cache._session, found, [cosign(time)])
        assert [(each.name, each.at_ns) for each in added.cosigned] == [(key.name, time * 10**9)]
        note = parse(added.note.encode())
        assert note.signed_by([signer.key, key]) == [signer.key, key]
        assert cache.checkpoints() == [added]
    assert checkpoints.add_cosignatures(cache._session, added, []) == added


def test_in_a_home_of_msb(tmp_path: Path) -> None:
    theirs = MsbHome(tmp_path / "home")
    theirs.load("app:1", "one", "xy")
    signer = TestSigner()
    with closing(theirs), ImageCache(theirs.layout.home) as cache:
        first = cache.checkpoint(sign=signer)
        theirs.load("two:2", "two", "xz")
        later = cache.checkpoint(sign=signer)  # what msb did since is in the log, and signed
        assert later.size > first.size
        assert cache.verify(later.note, keys=[signer.key]).contradiction is None
        assert cache.prove("two:2").seq > first.size


@pytest.mark.parametrize("time", [0, LAST_YEAR, 2**63, 2**64 - 1])
def test_a_time_that_is_none_was_put_there(home: Path, cache: ImageCache, time: int) -> None:
    found = cache.checkpoint(sign=TestSigner())
    line = Signature("witness.example.com", b"none", time.to_bytes(8, "big") + bytes(64))
    checkpoints.add_cosignatures(cache._session, found, [line])
    (listed,) = cache.checkpoints()
    assert listed.cosigned == ()
    assert json.loads(msgspec.json.encode(jsonable(listed)))["note"].endswith(line.line)
