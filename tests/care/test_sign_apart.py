"""Signing in a child of a process that stays: what comes back from it, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from msb_cache import Attested, GcRun, ImageCache, InvalidConfigError, SigningPlan
from msb_cache.audit.checkpoints import Signing
from msb_cache.care import gc
from msb_cache.care.sign_apart import StayingNotary
from msb_cache.eventstore.ids import uuid7
from msb_cache.proof.note_file import notes_in
from tests.logs import some_events
from tests.proof.signing import new_log_key

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KEY = new_log_key()


def never() -> bool:
    return False


def grow(cache: ImageCache) -> None:
    with cache._session.ledger.write(uuid7()) as transaction:
        transaction.append(some_events()[:1])


@pytest.mark.parametrize("apart", [False, True])
def test_turns_go_on_from_each_other(own_home: Path, tmp_path: Path, apart: bool) -> None:
    path, told = tmp_path / "notes", tmp_path / "told"

    def tell(found: Attested) -> None:
        with told.open("a") as file:
            file.write(f"{os.getpid() == parent} {' '.join(found.steps)} {found.again}\n")

    def signing() -> Signing:
        with (tmp_path / "read").open("a") as file:
            file.write(f"{os.getpid() == parent}\n")
        return Signing(KEY)

    parent = os.getpid()
    plan = SigningPlan(signing, 1, str(path), "false", tell)
    with ImageCache(own_home) as cache:
        notary = StayingNotary(cache._session, plan, never, apart=apart)
        for _ in range(2):
            grow(cache)
            notary.turn()
            notary.turn()  # nothing is new, and the command is not tried again yet
            assert not cache._session.is_open
        assert len(cache.checkpoints()) == 2
    assert len(notes_in(path.read_bytes())) == 2
    here = str(not apart)
    assert told.read_text() == f"{here} signed delivered False\n{here} signed delivered True\n"
    assert set((tmp_path / "read").read_text().split()) == {here}  # the key never is in this process


@pytest.mark.parametrize("apart", [False, True])
def test_a_key_that_cannot_be_used_is_said_at_the_beginning(own_home: Path, apart: bool) -> None:
    def signing() -> Signing:
        raise InvalidConfigError("no key is there")

    with ImageCache(own_home) as cache, pytest.raises(InvalidConfigError, match=r"^no key is there$"):
        StayingNotary(cache._session, SigningPlan(signing), never, apart=apart)


def test_a_child_that_dies_is_told_of_and_the_next_one_comes_later(own_home: Path) -> None:
    told: list[Attested] = []
    asked: list[int] = []

    def signing() -> Signing:
        if (own_home / "db").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return Signing(KEY)

    with ImageCache(own_home) as cache:
        notary = StayingNotary(cache._session, SigningPlan(signing, 1, told=told.append), never, apart=True)
        grow(cache)
        for _ in range(3):
            notary.turn()
            asked.append(len(told))
    assert asked == [1, 1, 1]
    assert told[0].problem == "the process that did it ended with signal 9"


@pytest.mark.parametrize("apart", [False, True])
def test_an_end_ends_what_it_does(own_home: Path, apart: bool) -> None:
    plan = SigningPlan(Signing(KEY), 1, command="sleep 600")
    until = [time.monotonic() + 3600]
    with ImageCache(own_home) as cache:
        notary = StayingNotary(cache._session, plan, lambda: time.monotonic() > until[0], apart=apart)
        grow(cache)
        began = time.monotonic()
        until[0] = began + 0.5
        notary.turn()
        assert 0.3 < time.monotonic() - began < 10
        assert len(cache.checkpoints()) == 1


@pytest.mark.parametrize("apart", [False, True])
def test_gc_signs_after_a_run_and_between_two(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    monkeypatch.setattr(gc, "_SIGN_LOOK", 0.05)
    own_home.mkdir(parents=True, exist_ok=True)
    (own_home / "cache-policy.toml").write_text('[[rule]]\nname = "old"\nunused-for = "1000d"\n')
    runs: list[GcRun] = []
    signed, path = tmp_path / "signed", tmp_path / "notes"
    deadline, grown = time.monotonic() + 20, [0]

    def count() -> int:
        return len(notes_in(path.read_bytes())) if path.exists() else 0

    def stopped() -> bool:
        if os.getpid() == parent and count() == grown[0] < 3:
            with ImageCache(own_home) as other:
                grow(other)
            grown[0] += 1
        return count() >= 3 or time.monotonic() > deadline

    parent = os.getpid()
    plan = SigningPlan(Signing(KEY), 1, str(path), told=lambda found: signed.touch())
    with ImageCache(own_home) as cache:
        assert not cache.keep_small("1h", runs.append, stopped=stopped, apart=apart, sign=plan)
    assert count() == 3
    assert signed.exists()
    assert len(runs) == (0 if apart else 1)
