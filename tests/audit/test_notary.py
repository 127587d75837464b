"""Signing by itself: when that is due, what is tried again and when, and what reaches whom."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import Attested, ImageCache, SigningPlan, failpoints
from msb_cache.audit import notary as notary_module
from msb_cache.audit.checkpoints import Signing
from msb_cache.audit.notary import FIRST_PAUSE, LONGEST_PAUSE, Every, Interval, Notary
from msb_cache.errors import InvalidConfigError, LogError, SigningError
from msb_cache.eventstore.ids import uuid7
from msb_cache.proof.note_file import notes_in
from msb_cache.proof.tree_head import head_of
from msb_cache.proof.vkey import VerifierKey
from msb_cache.proof.witness import Witness
from msb_cache.waiting import ended_by
from tests.logs import some_events
from tests.proof.signing import SigningKey, new_log_key
from tests.proof.submitting import WITNESS, witness_at
from tests.rawserver import Act, RawServer, message

SECOND = 10**9
START = 1_800_000_000 * SECOND
KEY = new_log_key("ci7.example.com/msb-cache")
SIGNING = Signing(KEY)


class Clock:
    """The time, which a test moves: of the log in ns, and of pauses in s."""

    def __init__(self) -> None:
        self.ns = START

    def __call__(self) -> int:
        return self.ns

    def seconds(self) -> float:
        return self.ns / SECOND

    def go_on(self, seconds: float) -> None:
        self.ns += int(seconds * SECOND)


class Signed:
    """A home that is signed by itself."""

    def __init__(self, home: Path, clock: Clock) -> None:
        self.home, self.clock = home, clock
        self.cache = ImageCache(home, clock=clock)
        self.told: list[Attested] = []
        self._event = next(each for each in some_events() if each.event.type == "image.used")

    def grow(self, count: int = 1) -> None:
        with self.cache._session.ledger.write(uuid7()) as transaction:
            transaction.append([self._event] * count)

    def notary(
        self,
        *every: Interval,
        signing: Signing | Callable[[], Signing] = SIGNING,
        file: str | None = None,
        command: str | None = None,
    ) -> Notary:
        plan = SigningPlan(signing, every or (1,), file, command, self.told.append)
        return Notary(self.cache._session, plan, clock=self.clock.seconds)

    def sizes(self) -> list[int]:
        return [each.size for each in reversed(self.cache.checkpoints())]

    @property
    def size(self) -> int:
        return self.cache.events()[-1].seq

    def last(self) -> Attested:
        return self.told[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signed(tmp_path: Path, clock: Clock) -> Iterator[Signed]:
    found = Signed(tmp_path / "home", clock)
    yield found
    failpoints.observer = None
    found.cache.close()


@pytest.mark.parametrize(
    ("intervals", "events", "ns"),
    [
        (["15m"], None, 900 * SECOND),
        (["1000"], 1000, None),
        (["1000 events"], 1000, None),
        ([" 1 event "], 1, None),
        ([7], 7, None),
        (["15m", "1000"], 1000, 900 * SECOND),
        (["1000", "15m", 10, "1h"], 10, 900 * SECOND),
        ([timedelta(seconds=90)], None, 90 * SECOND),
    ],
)
def test_intervals_as_people_say_them(intervals: list[Interval], events: int | None, ns: int | None) -> None:
    assert Every.of(intervals, START) == Every(events, ns)


@pytest.mark.parametrize(
    ("intervals", "says"),
    [
        (["soon"], "'soon' is no number of events and no duration; write 1000 or 15m"),
        (["1000 things"], "no number of events and no duration"),
        ([""], "no number of events and no duration"),
        (["0"], "after an event or a second at least"),
        ([-5], "after an event or a second at least"),
        (["0s"], "after an event or a second at least"),
        (["1h", timedelta(milliseconds=5)], "after an event or a second at least"),
        ([], "say when the log is to be signed again"),
    ],
)
def test_what_is_no_interval(intervals: list[Interval], says: str) -> None:
    with pytest.raises(InvalidConfigError, match=says):
        Every.of(intervals, START)


HOUR = 3600 * SECOND


@pytest.mark.parametrize(
    ("every", "new", "since", "due"),
    [
        (Every(10, None), 9, HOUR, False),
        (Every(10, None), 10, 0, True),
        (Every(10, None), 9, None, False),
        (Every(None, HOUR), 1, HOUR - 1, False),
        (Every(None, HOUR), 1, HOUR, True),
        (Every(None, HOUR), 1, None, True),
        (Every(None, HOUR), 1, -1, True),  # the clock was put back
        (Every(10, HOUR), 1, HOUR, True),
        (Every(10, HOUR), 10, 1, True),
        (Every(10, HOUR), 9, HOUR - 1, False),
        (Every(1, 1), 0, HOUR, False),  # a log that is quiet
        (Every(1, 1), 0, None, False),
        (Every(10**6, HOUR), -1, 0, True),  # a log that was put back, which is said
    ],
)
def test_when_it_is_due(every: Every, new: int, since: int | None, due: bool) -> None:
    assert every.is_due(new, since) is due


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=40),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(1, 200),
)
def test_how_often_it_is_due(steps: list[tuple[int, int]], events: int | None, seconds: int) -> None:
    """However events come: between two signatures one of the intervals has passed, and none is missed."""
    every = Every(events, seconds * SECOND)
    size = now = at = signed_size = 0
    is_signed = False
    for come, passes in steps:
        size, now = size + come, now + passes
        due = every.is_due(size - signed_size, now * SECOND - at * SECOND if is_signed else None)
        passed = not is_signed or now - at >= seconds or (events is not None and size - signed_size >= events)
        assert due == (size > signed_size and passed)
        if due:
            signed_size, at, is_signed = size, now, True
    assert signed_size <= size


class TestSigning:
    def test_a_home_without_a_log_is_waited_for(self, signed: Signed) -> None:
        notary = signed.notary()
        for _ in range(3):
            assert notary.turn() is None
        assert not (signed.home / "db").exists()
        signed.grow(3)
        found = notary.turn()
        assert found is not None
        assert (found.steps, found.problem, found.again) == (("signed",), None, False)
        assert found.checkpoint is not None
        assert found.checkpoint.size == signed.size
        assert signed.told == [found]

    def test_by_events_and_by_time_and_not_of_a_quiet_log(self, signed: Signed, clock: Clock) -> None:
        notary = signed.notary("10m", "4")
        signed.grow(2)
        notary.turn()  # the first one: nothing was ever signed
        first = signed.size
        for events, seconds, due in (
            (0, 3600, False),
            (1, 0, True),  # more than ten minutes after the last one
            (1, 599, False),
            (2, 0, False),
            (1, 0, True),  # the fourth
            (3, 300, False),
            (0, 300, True),
            (0, 10**6, False),
        ):
            clock.go_on(seconds)
            if events:
                signed.grow(events)
            found = notary.turn()
            assert (found is not None and "signed" in found.steps) == due, (events, seconds)
        assert signed.sizes() == [first, first + 1, first + 5, first + 8]

    def test_another_process_goes_on_from_what_the_home_keeps(self, signed: Signed, clock: Clock) -> None:
        signed.grow()
        signed.notary("1h").turn()
        clock.go_on(1800)
        signed.grow()
        assert signed.notary("1h").turn() is None
        clock.go_on(1800)
        assert signed.notary("1h").turn() is not None
        assert len(signed.sizes()) == 2

    @settings(max_examples=10, deadline=None)
    @given(steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 90)), min_size=1, max_size=12))
    def test_any_arrival(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
    ) -> None:
        """A home is signed as often as the rule says, in whichever process."""
        clock = Clock()
        signed = Signed(tmp_path_factory.mktemp("any") / "home", clock)
        with closing(signed.cache):
            signed.grow()
            notary = signed.notary("1m", 5)
            notary.turn()
            wanted, size, at = [signed.size], signed.size, clock.ns
            for number, (come, passes) in enumerate(steps):
                clock.go_on(passes)
                if come:
                    signed.grow(come)
                size += come
                if size > wanted[-1] and (size - wanted[-1] >= 5 or clock.ns - at >= 60 * SECOND):
                    wanted.append(size)
                    at = clock.ns
                if number % 3 == 2:
                    notary = signed.notary("1m", 5)
                notary.turn()
            assert signed.sizes() == wanted

    def test_a_key_that_signs_no_log_is_refused_at_once(self, signed: Signed) -> None:
        with pytest.raises(InvalidConfigError, match="is a witness's, which signs no log"):
            signed.notary(signing=Signing(WITNESS)).check()
        with pytest.raises(InvalidConfigError, match="the command that is to keep checkpoints is empty"):
            signed.notary(command=" ")

    def test_one_who_does_not_sign_is_asked_again_after_growing_pauses(
        self, signed: Signed, clock: Clock
    ) -> None:
        class Refusing(SigningKey):
            def sign(self, message: bytes) -> bytes:
                raise SigningError("no card is in the reader")

        signed.grow()
        refusing = Refusing(KEY.secret, KEY.key)
        who = [refusing]
        notary = signed.notary(signing=lambda: Signing(who[0]))
        begun, tries = clock.ns, []
        while clock.ns - begun < 3000 * SECOND:
            if notary.turn() is not None:
                tries.append((clock.ns - begun) // SECOND)
            clock.go_on(1)
        assert tries == [0, 30, 90, 210, 450, 930, 1530, 2130, 2730]
        assert {each.problem for each in signed.told} == {"no card is in the reader"}
        assert [each.again for each in signed.told] == [False, *[True] * 8]
        who[0] = KEY  # type: ignore[assignment]
        clock.go_on(LONGEST_PAUSE)
        found = notary.turn()
        assert found is not None
        assert (found.steps, found.problem) == (("signed",), None)

    @pytest.mark.parametrize("change", ["put-back", "rewritten"])
    def test_a_log_that_is_another_is_a_warning_and_nothing_ends(
        self, signed: Signed, clock: Clock, change: str
    ) -> None:
        signed.grow(5)
        notary = signed.notary(2)
        notary.turn()
        signed.cache.close()
        database = signed.home / "db/msb-cache.db"
        whole = database.read_bytes()
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("DROP TRIGGER events_no_delete")
            connection.execute("DROP TRIGGER events_no_update")
            if change == "put-back":
                connection.execute("DELETE FROM events WHERE seq > 3")
            else:
                connection.execute("UPDATE events SET hash = zeroblob(32) WHERE seq = 6")
                connection.execute("DELETE FROM subtree")
            connection.commit()
        if change == "rewritten":
            with suppress(LogError):
                signed.grow(4)
        notary.turn()
        found = signed.last()
        assert found.problem is not None
        assert "signed" not in found.steps
        told = len(signed.told)
        clock.go_on(LONGEST_PAUSE - 1)
        notary.turn()
        assert len(signed.told) == told
        signed.cache.close()
        database.write_bytes(whole)
        signed.grow(2)
        clock.go_on(1)
        notary.turn()
        assert (signed.last().steps, signed.last().problem) == (("signed",), None)

    def test_what_is_in_the_way_is_noted_where_nobody_is_told(self, tmp_path: Path) -> None:
        noted: list[str] = []
        with ImageCache(tmp_path / "home", note=noted.append) as cache:
            with cache._session.ledger.write(uuid7()) as transaction:
                transaction.append(some_events()[:1])
            plan = SigningPlan(Signing(KEY), 1, command="false")
            found = cache.attest(plan)
        assert found is not None
        assert found.problem == "false, which is to keep checkpoints, failed with exit code 1"
        assert noted[-1] == f"checkpoints of the log: {found.problem}"


class TestDelivered:
    def test_to_a_file_and_a_command_in_order(self, signed: Signed, tmp_path: Path) -> None:
        got = tmp_path / "got"
        notary = signed.notary(
            file=f"{tmp_path}/notes", command=f"sh -c 'cat >>{got}; echo noise; echo more >&2'"
        )
        for _ in range(3):
            signed.grow()
            notary.turn()
            notary.turn()
        notes = [each.note for each in reversed(signed.cache.checkpoints())]
        assert (tmp_path / "notes").read_text() == "\n".join(notes)
        assert got.read_text() == "".join(notes)
        assert [each.steps for each in signed.told] == [("signed", "delivered", "delivered")] * 3

    def test_each_is_tried_again_by_itself(self, signed: Signed, clock: Clock, tmp_path: Path) -> None:
        path = tmp_path / "mount" / "notes"
        notary = signed.notary(file=str(path), command=f"sh -c 'cat >>{tmp_path}/got; test -e {tmp_path}/ok'")
        signed.grow()
        notary.turn()
        problem = signed.last().problem
        assert problem is not None
        assert f"no checkpoint can be appended to {path}: No such file" in problem
        assert "; sh, which is to keep checkpoints, failed with exit code 1" in problem
        assert "test -e" not in problem  # its words may be secret
        path.parent.mkdir()
        clock.go_on(FIRST_PAUSE - 1)
        assert notary.turn() is None  # a quiet log, and it is not time yet
        clock.go_on(1)
        notary.turn()
        assert signed.last().steps == ("delivered",)
        assert signed.last().problem == "sh, which is to keep checkpoints, failed with exit code 1"
        (tmp_path / "ok").touch()
        clock.go_on(2 * FIRST_PAUSE)
        notary.turn()
        assert (signed.last().steps, signed.last().problem) == (("delivered",), None)
        assert len(notes_in(path.read_bytes())) == 1
        clock.go_on(LONGEST_PAUSE)
        assert notary.turn() is None

    def test_a_pause_holds_up_no_signature(self, signed: Signed, clock: Clock, tmp_path: Path) -> None:
        notary = signed.notary(file=f"{tmp_path}/notes", command="false")
        for _ in range(3):
            signed.grow()
            notary.turn()
            clock.go_on(1)
        assert [head_of(each).size for each in notes_in((tmp_path / "notes").read_bytes())] == signed.sizes()
        assert len(signed.sizes()) == 3
        assert len([each for each in signed.told if not each.again]) == 1

    def test_a_command_ends_with_what_it_is_part_of(self, signed: Signed) -> None:
        signed.grow()
        notary = signed.notary(command="sleep 600")
        began = time.monotonic()
        with ended_by(lambda: time.monotonic() - began > 0.3), pytest.raises(KeyboardInterrupt):
            notary.turn()
        assert time.monotonic() - began < 10
        assert len(signed.sizes()) == 1  # what was signed is kept, and is delivered by what comes next

    def test_a_command_may_not_take_for_ever(self, signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notary_module, "COMMAND_SECONDS", 0.6)
        signed.grow()
        signed.notary(command="sleep 600").turn()
        assert signed.last().problem == "sleep, which is to keep checkpoints, did not end within 1 seconds"

    @pytest.mark.parametrize("step", ["checkpoint.signed", "checkpoint.delivering", "checkpoint.delivered"])
    def test_after_a_crash_the_last_one_is_delivered(self, signed: Signed, tmp_path: Path, step: str) -> None:
        """At least once: twice, if it was delivered and the process ended before it knew."""
        signed.grow()

        class Crash(BaseException):
            pass

        def crash(reached: str) -> None:
            if reached == step:
                raise Crash

        failpoints.observer = crash
        with pytest.raises(Crash):
            signed.notary(file=f"{tmp_path}/notes").turn()
        failpoints.observer = None
        signed.notary(file=f"{tmp_path}/notes").turn()
        found = notes_in((tmp_path / "notes").read_bytes())
        assert [head_of(each).size for each in found] == [signed.size] * (
            1 + (step == "checkpoint.delivered")
        )
        assert signed.sizes() == [signed.size]

    def test_one_that_was_cut_is_followed_by_a_whole_one(self, signed: Signed, tmp_path: Path) -> None:
        path = tmp_path / "notes"
        notary = signed.notary(file=str(path))
        sizes = []
        for cut in (30, 1, 90, 0):
            signed.grow()
            notary.turn()
            os.truncate(path, path.stat().st_size - cut)
            sizes += [] if cut > 1 else [signed.size]
        (tmp_path / "cut").write_bytes(path.read_bytes())
        assert [head_of(each).size for each in notes_in(path.read_bytes())] == sizes


def served(witness: Witness) -> Act:
    def act(connection: socket.socket, body: bytes) -> None:
        found = witness.add_checkpoint(body)
        connection.sendall(message(found.status, found.body, found.content_type))

    return act


class TestWitnesses:
    @pytest.fixture
    def witness(self, tmp_path: Path) -> Iterator[Witness]:
        with closing(witness_at(tmp_path, KEY.key)) as found:
            yield found

    def signing(self, url: str, *, policy: bool = False) -> Signing:
        text = f"log {KEY.key}\nwitness one {WITNESS.key} {url}\nquorum one\n" if policy else None
        urls: list[str] = [] if policy else [url]
        keys: list[VerifierKey] = [] if policy else [WITNESS.key]
        return Signing.of(KEY, urls=urls, keys=keys, policy=None if text is None else text.encode())

    @pytest.mark.parametrize("policy", [False, True])
    def test_it_is_cosigned_and_then_delivered(
        self, signed: Signed, witness: Witness, tmp_path: Path, policy: bool
    ) -> None:
        with RawServer(served(witness)) as server:
            notary = signed.notary(signing=self.signing(server.url, policy=policy), file=f"{tmp_path}/notes")
            for _ in range(2):
                signed.grow(2)
                notary.turn()
                notary.turn()
            assert len(server.requests) == 2
        assert [each.steps for each in signed.told] == [("signed", "cosigned", "delivered")] * 2
        checkpoint = signed.last().checkpoint
        assert checkpoint is not None
        assert [each.name for each in checkpoint.cosigned] == [WITNESS.key.name]
        for note in notes_in((tmp_path / "notes").read_bytes()):
            assert note.signed_by([KEY.key, WITNESS.key]) == [KEY.key, WITNESS.key]

    @pytest.mark.parametrize("policy", [False, True])
    def test_one_that_is_down_is_asked_again_though_the_log_is_quiet(
        self, signed: Signed, witness: Witness, clock: Clock, tmp_path: Path, policy: bool
    ) -> None:
        down: Act = lambda connection, _: connection.sendall(message(503, b""))  # noqa: E731
        with RawServer(down, down, served(witness)) as server:
            notary = signed.notary(signing=self.signing(server.url, policy=policy), file=f"{tmp_path}/notes")
            signed.grow()
            for seconds, requests in (
                (0, 1),
                (FIRST_PAUSE, 2),
                (FIRST_PAUSE, 2),
                (FIRST_PAUSE, 3),
                (10**4, 3),
            ):
                clock.go_on(seconds)
                notary.turn()
                assert len(server.requests) == requests
        assert [each.problem is None for each in signed.told] == [False, False, True]
        assert [each.steps for each in signed.told] == [
            ("signed", "delivered"),  # at once, and again when it is cosigned
            (),
            ("cosigned", "delivered"),
        ]
        assert signed.sizes() == [signed.size]
        first, last = notes_in((tmp_path / "notes").read_bytes())
        assert (len(first.signatures), len(last.signatures)) == (1, 2)

    def test_the_next_process_asks_it(self, signed: Signed, witness: Witness) -> None:
        signed.grow()
        failed = signed.notary(signing=self.signing("http://127.0.0.1:9/", policy=True)).turn()
        assert failed is not None
        assert failed.problem is not None
        with RawServer(served(witness)) as server:
            found = signed.notary(signing=self.signing(server.url, policy=True)).turn()
            assert found is not None
            assert (found.steps, found.problem) == (("cosigned",), None)
            again = signed.notary(signing=self.signing(server.url, policy=True)).turn()
            assert again is None
            assert len(server.requests) == 1


class TestBeside:
    def test_nothing_waits_for_a_witness(self, signed: Signed) -> None:
        """Items come while it is slow, and the end ends what it does."""
        signed.grow()
        ended = threading.Event()
        slow: Act = lambda connection, _: ended.wait(30)  # noqa: E731
        with RawServer(slow) as server:
            signing = Signing.of(KEY, urls=[server.url], keys=[WITNESS.key])
            notary = signed.notary(signing=signing)
            items = notary.iterated(itertools.count())
            began = time.monotonic()
            assert [next(items) for _ in range(3)] == [0, 1, 2]
            while not server.requests:
                time.sleep(0.01)
            items.close()  # type: ignore[attr-defined]
            assert time.monotonic() - began < 10
            ended.set()
        assert signed.sizes() == [signed.size]

    def test_of_watch(self, signed: Signed, tmp_path: Path) -> None:
        signed.grow()
        over = threading.Event()
        plan = SigningPlan(Signing(KEY), 1, f"{tmp_path}/notes", told=signed.told.append)
        events = signed.cache.watch(stopped=over.is_set, interval=0.05, sign=plan)

        def end() -> None:
            deadline = time.monotonic() + 10
            while len(signed.told) < 2 and time.monotonic() < deadline:
                if len(signed.told) == 1 and signed.size == 2:
                    signed.grow()
                time.sleep(0.02)
            over.set()

        ending = threading.Thread(target=end)
        ending.start()
        seen = [each.seq for each in events]
        ending.join()
        sizes = signed.sizes()
        assert seen == [3]
        assert sizes == [2, 3]
        assert [head_of(each).size for each in notes_in((tmp_path / "notes").read_bytes())] == sizes

    def test_a_key_that_cannot_be_used_is_said_before_anything(self, signed: Signed) -> None:
        def refuse() -> Signing:
            raise InvalidConfigError("no key is there")

        with pytest.raises(InvalidConfigError, match="no key is there"):
            signed.cache.watch(sign=SigningPlan(refuse))


def test_what_is_told_is_json(signed: Signed) -> None:
    signed.grow()
    signed.notary().turn()
    found = json.loads(signed.last().to_json())
    assert (found["steps"], found["problem"], found["again"]) == (["signed"], None, False)
    assert found["checkpoint"]["size"] == signed.size
