"""Delivery: in order, each at least once, whatever the receiver does and whenever the sender is killed."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from msb_cache import (
    AsyncImageCache,
    BusyError,
    DeliveryError,
    ImageCache,
    InvalidConfigError,
    Posted,
    WebhookReceiver,
)
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.interchange import posting
from msb_cache.interchange.cloudevents import BATCH, JSON
from msb_cache.interchange.position import PositionFile
from tests.examples import ONE
from tests.imagebuilder import docker_archive
from tests.interchange.receiving import Receiver, answer, break_off, hang, slow, take
from tests.logs import ACTOR, PYTHON, digest, new_ledger, some_events

SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
ALL = [*range(1, 8)]
"""The positions of the log to begin with."""


class Sending:
    """A log whose events go to a receiver, and what its cache noted."""

    def __init__(self, home: Path, server: Receiver) -> None:
        self.server = server
        self.notes: list[str] = []
        self.ledger = new_ledger(home, some_events())
        self.cache = ImageCache(home, note=self.notes.append)
        self.position = home.parent / "position.json"

    def __call__(self, **given: Any) -> Posted:
        return self.cache.post_events(given.pop("receiver", self.server.url), position=self.position, **given)

    def add(self, count: int, holder: str = "sandbox:x") -> None:
        with self.ledger.write(str(uuid7())) as transaction:
            used = ev.ImageUsed(manifest_digest=digest(1), holder=holder)
            transaction.append([NewEvent(used, PYTHON)] * count)

    @contextmanager
    def following(self, **given: Any) -> Iterator[list[Posted]]:
        """Follow within the block; what is given has the result behind it."""
        ended, posted = threading.Event(), []

        def follow() -> None:
            posted.append(self(follow=True, stopped=ended.is_set, interval=0.01, **given))

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield posted
        finally:
            ended.set()
            thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sending]:
    """Return a log of seven events, and a sender that is not patient."""
    monkeypatch.setattr(posting, "FIRST_WAIT", 0.001)
    with Receiver() as server:
        sending = Sending(tmp_path / "home", server)
        with sending.cache:
            yield sending


class TestOrder:
    def test_all_is_sent_once_and_then_what_is_new(self, sending: Sending) -> None:
        signed = WebhookReceiver(sending.server.url, secrets=[SECRET])
        assert sending(receiver=signed) == Posted(7, 7, str(sending.position))
        assert sending.server.taken == ALL
        assert sending.server.connections == 1
        sending.server.check([SECRET])
        for got, event in zip(sending.server.got, sending.cache.events(), strict=True):
            assert got.headers["content-type"] == JSON
            assert got.id == event.id == json.loads(got.body)["id"]
        assert sending().events == 0
        sending.add(2)
        assert sending() == Posted(2, 9, str(sending.position))
        assert sending.server.taken == [*ALL, 8, 9]
        assert sending.notes == []

    def test_filters_choose_and_a_limit_cuts_off_the_rest(self, sending: Sending) -> None:
        assert sending(types=["image.used"], limit=1) == Posted(1, 3, str(sending.position))
        assert sending(types=["image.used", "image.removed"]).seq == 7
        assert sending.server.taken == [3, 6, 7]
        sending.add(4)
        assert sending(since="@9", limit=2).events == 2
        assert sending.server.taken == [3, 6, 7, 9, 10]

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"reverse": True}, "oldest first"),
            ({"follow": True, "until": "now"}, "has no end"),
            ({"batch": 0}, "1 to 1000 events, not 0"),
            ({"batch": 1001}, "not 1001"),
            ({"types": ["eaten"]}, "no event type"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, sending: Sending, given: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(InvalidConfigError, match=problem):
            sending(**given)
        assert not sending.position.exists()

    def test_a_home_without_a_log_has_nothing_to_send(self, sending: Sending, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "none") as cache:
            assert cache.post_events(sending.server.url, position=tmp_path / "none.json").events == 0

    def test_what_is_private_stays_here(self, sending: Sending) -> None:
        sending(people=False)
        assert ACTOR.user not in "".join(got.body.decode() for got in sending.server.got)


class TestBatches:
    def test_full_ones_and_a_rest(self, sending: Sending) -> None:
        assert sending(batch=3).events == 7
        assert [[int(event["sequence"]) for event in got.events] for got in sending.server.got] == [
            [1, 2, 3],
            [4, 5, 6],
            [7],
        ]
        first, second, last = sending.server.got
        assert {got.headers["content-type"] for got in sending.server.got} == {BATCH}
        assert first.id.startswith("batch_")
        assert "." not in first.id
        assert first.id != second.id
        assert last.id == last.events[0]["id"]
        sending.position.unlink()
        sending(batch=3)
        assert [got.id for got in sending.server.got[3:]] == [first.id, second.id, last.id]

    def test_other_events_in_a_batch_give_another_id(self, sending: Sending) -> None:
        for types in (["image.used", "log.created"], ["log.created", "image.used", "image.released"]):
            sending(batch=9, types=types)
            sending.position.unlink()
        one, other = sending.server.got
        assert (one.events[0]["id"], one.events[-1]["id"]) == (other.events[0]["id"], other.events[-1]["id"])
        assert one.id != other.id

    def test_a_batch_has_a_mebibyte_or_one_event(
        self, sending: Sending, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(posting, "MOST_BATCH_BYTES", 1500)
        sending.add(1, holder=f"sandbox:{'x' * 3000}")
        sending(batch=100)
        assert sending.server.taken == [*ALL, 8]
        sizes = [(len(got.events), len(got.body)) for got in sending.server.got]
        assert len(sizes) > 2
        assert all(size <= 1500 or count == 1 for count, size in sizes)

    def test_large_events_are_read_a_few_at_a_time(
        self, sending: Sending, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(posting, "_PAGE_BYTES", 1)
        assert sending(limit=5, batch=2).events == 5
        assert sending(batch=2).events == 2
        assert sending.server.taken == ALL

    def test_one_that_is_too_large_is_halved(self, sending: Sending) -> None:
        sending.server.on(answer(413), answer(413))
        assert sending(batch=4).events == 7
        sizes = [(len(got.events), got.taken) for got in sending.server.got]
        assert sizes == [(4, False), (2, False), (1, True), (1, True), (2, True), (3, True)]
        assert sending.server.taken == ALL


class TestRefusals:
    def test_an_event_that_is_refused_ends_it_and_can_be_left_out(self, sending: Sending) -> None:
        sending.server.on(take, take, answer(422, b"no such type"))
        with pytest.raises(
            DeliveryError,
            match=r"refuses event 3 \(422 .*: 'no such type'\); mend that, or leave it out with --since @4",
        ) as refused:
            sending()
        assert (refused.value.status, refused.value.seq) == (422, 3)
        assert "hidden" not in str(refused.value)
        assert json.loads(sending.position.read_text())["seq"] == 2
        sending(since="@4")
        assert sending.server.taken == [1, 2, 4, 5, 6, 7]

    def test_a_batch_that_is_refused_names_its_events(self, sending: Sending) -> None:
        sending.server.on(take, answer(400))
        with pytest.raises(DeliveryError, match=r"refuses one of the events 4 to 6 \(400.*--since @7"):
            sending(batch=3)
        assert json.loads(sending.position.read_text())["seq"] == 3

    def test_a_receiver_that_has_gone_gets_no_more(self, sending: Sending) -> None:
        sending.server.on(take, answer(410))
        with pytest.raises(DeliveryError, match=r"wants no more events .*event 2 was not delivered"):
            sending()
        assert len(sending.server.got) == 2

    def test_a_redirect_is_named(self, sending: Sending) -> None:
        sending.server.on(answer(308, Location="https://new.example/hidden"))
        with pytest.raises(DeliveryError, match=r"308 .* to https://new\.example, which is not followed"):
            sending()


class TestTryingAgain:
    def test_it_is_said_once_until_that_changes(self, sending: Sending) -> None:
        sending.server.on(take, answer(503), answer(503), answer(500), slow, break_off)
        assert sending().events == 7
        assert sending.server.firsts == ALL
        assert sending.server.taken == [1, 2, 3, *ALL[2:]]  # who broke off had taken it
        name = f"http://{sending.server.host}"
        waits = "and what follows wait, and are sent again until they are taken"
        assert sending.notes == [
            f"{name} answers 503 Service Unavailable; event 2 {waits}",
            f"{name} answers 500 Internal Server Error; event 2 {waits}",
            f"{name} takes events again",
            f"the connection to {name} broke off; event 3 {waits}",
            f"{name} takes events again",
        ]

    def test_waits_grow_up_to_a_bound_and_as_long_as_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(posting.random, "uniform", lambda least, most: most)
        assert [posting.wait(tries, None) for tries in (0, 1, 3, 9, 10_000)] == [1, 2, 8, 300, 300]
        assert posting.wait(0, 60.0) == 60
        assert posting.wait(0, 1e9) == 3600
        assert posting.wait(5, 0.0) == 32
        monkeypatch.setattr(posting.random, "uniform", lambda least, most: least)
        assert posting.wait(1, None) == 1

    def test_a_wait_ends_at_once(self, sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(posting, "FIRST_WAIT", 60.0)
        sending.server.on(answer(500), *[hang] * 9)
        with sending.following(since="@1") as posted:
            sending.server.wait(lambda: bool(sending.notes))
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert posted == [Posted(0, 0, str(sending.position))]


class TestFollowing:
    def test_it_begins_at_the_end_and_goes_on_where_it_was(self, sending: Sending) -> None:
        with sending.following(batch=2) as posted:
            sending.server.wait(sending.position.exists)
            sending.add(3)
            sending.server.wait(lambda: sending.server.taken == [8, 9, 10])
        assert posted == [Posted(3, 10, str(sending.position))]
        sending.add(1)
        with sending.following():
            sending.server.wait(lambda: sending.server.taken == [8, 9, 10, 11])

    def test_nothing_is_missed_that_comes_before_the_first_is_sent(self, sending: Sending) -> None:
        with sending.following():
            sending.server.wait(sending.position.exists)
        sending.add(1)
        with sending.following():
            sending.server.wait(lambda: sending.server.taken == [8])

    def test_a_beginning_is_one(self, sending: Sending) -> None:
        with sending.following(since="@6"):
            sending.server.wait(lambda: sending.server.taken == [6, 7])

    def test_a_log_is_waited_for(self, sending: Sending, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "later") as cache:
            sending.cache, first = cache, sending.cache
            with sending.following():
                sending.server.wait(sending.position.exists)
            new_ledger(tmp_path / "later", some_events())
            with sending.following(limit=7) as posted:
                sending.server.wait(lambda: bool(posted))
            first.close()
        assert sending.server.taken == ALL

    def test_a_task_that_is_cancelled_ends_what_is_waited_for(self, sending: Sending) -> None:
        sending.server.on(hang)

        async def main() -> float:
            async with AsyncImageCache(sending.cache.home) as cache:
                posting = asyncio.create_task(
                    cache.post_events(sending.server.url, position=sending.position, follow=True, after=0)
                )
                while not sending.server.got:
                    await asyncio.sleep(0.005)
                began = time.monotonic()
                posting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await posting
                return time.monotonic() - began

        assert asyncio.run(main()) < 5


class TestOneLog:
    def test_one_process_sends_from_a_position(self, sending: Sending) -> None:
        with PositionFile(sending.position), pytest.raises(BusyError):
            sending()
        assert sending.server.got == []

    def test_a_log_that_was_put_back_is_not_gone_on_with(self, sending: Sending, tmp_path: Path) -> None:
        (tmp_path / "one.tar").write_bytes(docker_archive(ONE))
        with ImageCache(tmp_path / "real") as cache:
            first, sending.cache = sending.cache, cache
            [image] = cache.load(tmp_path / "one.tar")
            cache.backup(tmp_path / "backup.db")
            for _ in range(2):
                cache.use(image.reference)
            sent = sending().seq
            cache.restore_backup(tmp_path / "backup.db", discard_events=2)
            for problem in ("it has 9 events, and event", "its event"):
                with pytest.raises(DeliveryError, match=f"the log was put back.*{problem} {sent} "):
                    sending()
                cache.use(image.reference)
            first.close()
        assert sending.server.taken == [*range(1, sent + 1)]

    def test_another_log_is_not_gone_on_with(self, sending: Sending, tmp_path: Path) -> None:
        sending()
        new_ledger(tmp_path / "other", some_events())
        with ImageCache(tmp_path / "other") as cache, pytest.raises(DeliveryError, match="of another log"):
            cache.post_events(sending.server.url, position=sending.position)


KILLED = """
import os, random, signal, sys, time
from msb_cache import ImageCache, WebhookReceiver
from msb_cache.interchange import posting
from msb_cache.interchange.cloudevents import BATCH, JSON
home, url, position, secret, batch = sys.argv[1:]
posting.FIRST_WAIT = 0.001
def send():
    with ImageCache(home) as cache:
        receiver = WebhookReceiver(url, timeout=0.1, secrets=[secret])
        return cache.post_events(receiver, position=position, batch=int(batch) or None)
chance, killed = random.Random(batch), 0
while killed < 20:
    child = os.fork()
    if not child:
        try:
            send()
        finally:
            os._exit(0)
    time.sleep(chance.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        sys.exit("it was never killed")
    killed += 1
print(send().seq)
"""


@pytest.mark.parametrize("batch", [0, 5])
def test_whatever_the_receiver_does_and_whenever_the_sender_is_killed(
    sending: Sending, tmp_path: Path, batch: int
) -> None:
    count = 250 * (batch or 1)
    sending.add(count)
    chance = random.Random(20)
    acts = [take, answer(500), answer(429, Retry_After="0"), break_off, slow, answer(503)]
    sending.server.on(*chance.choices(acts, weights=[80, 3, 3, 3, 3, 3], k=300))
    sending.server.acts[10] = sending.server.acts[60] = hang
    given = (tmp_path / "home", sending.server.url, sending.position, SECRET, batch)
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, given)], capture_output=True, timeout=60)
    assert done.stdout.split() == [str(count + 7).encode()], done.stderr
    assert sending.server.firsts == [*range(1, count + 8)]
    sending.server.check([SECRET])
    bodies = defaultdict(set)
    for got in sending.server.got:
        bodies[got.id].add(got.body)
    assert {len(each) for each in bodies.values()} == {1}
    assert len(sending.server.taken) < 3 * count
    assert [path.name for path in tmp_path.iterdir() if "position" in path.name] == ["position.json"]
