"""The index as a plan needs it: complete, in its orders, and refused where no fold can have made it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import state
from msb_cache.projections.state import ImageFacts, IndexState, Naming, Pin
from tests.logs import ACTOR, digest, layer, manifest_added, new_ledger, pulled

A, B = "docker.io/library/a:1", "docker.io/library/b:1"
X, Y, Z = (layer(name).diff_id for name in "xyz")
EVENTS = [
    NewEvent(manifest_added([layer("x"), layer("y"), layer("x")]), digest(1)),
    NewEvent(manifest_added([layer("z"), layer("y")]), digest(2)),
    NewEvent(pulled(digest(1)), A),
    NewEvent(pulled(digest(2)), B),
    NewEvent(ev.ImageHeld(holder="sandbox:b"), digest(1)),
    NewEvent(ev.ImageHeld(holder="sandbox:a"), digest(1)),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path, EVENTS)


def test_all_of_it(ledger: Ledger) -> None:
    with ledger.read() as connection:
        assert connection is not None
        found = state.load(connection)
    assert [*found.references.items()] == [(B, digest(2)), (A, digest(1))]  # newest first
    assert found.manifests == {digest(1): (X, Y, X), digest(2): (Z, Y)}
    assert found.layers == sorted([X, Y, Z])
    assert found.sharing_counts == {Y: 2}  # twice in one manifest is not in two
    assert found.holders == {digest(1): ["sandbox:a", "sandbox:b"]}
    assert found.named_layers() == {X, Y, Z}


def test_what_msb_never_had_is_not_its_to_delete(ledger: Ledger) -> None:
    with ledger.write("observe") as transaction:
        transaction.connection.execute("UPDATE image SET msb_row = '1' WHERE reference = ?", (A,))
        transaction.connection.execute("UPDATE manifest SET msb_row = '1' WHERE digest = ?", (digest(1),))
        found = state.load_observed(transaction.connection)
    assert found.unknown_to_msb == {B, digest(2)}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE image SET manifest_digest = x'00'",
        "UPDATE manifest_layer SET diff_id = x'00'",
        "INSERT INTO layer VALUES (x'00', 1, 1)",
        "UPDATE hold SET holder = x'00' WHERE holder = 'sandbox:a'",
    ],
)
def test_rows_that_no_fold_makes_are_refused(ledger: Ledger, damage: str) -> None:
    with ledger.write("damage") as transaction:
        transaction.connection.execute(damage)
        with pytest.raises(CorruptLogError, match="msb-cache rebuild"):
            state.load(transaction.connection)


def test_each_spelling_has_holders_of_its_own() -> None:
    held = {digest(1): ["sandbox:a"], digest(2): ["sandbox:b", "sandbox:a"]}
    spelled = IndexState({A: digest(1), "a": digest(2)}, {}, (), held, naming=Naming({"a": A}, {"a": "a"}))
    assert spelled.holders_of(A) == ("sandbox:a",)
    assert spelled.holders_of("a") == ("sandbox:b", "sandbox:a")
    assert (set(spelled.canonical()), spelled.digests(A)) == ({A}, {digest(1), digest(2)})
    assert sorted(spelled.names(A)) == sorted([A, "a"])


# -- what rules ask of it -----------------------------------------------------------------------------------


M, N = digest(1), digest(2)
START = 1_800_000_000_000_000_000


class Home:
    """A log whose clock says what a test says, and its index as a deletion asks for it. Times from START."""

    def __init__(self, path: Path) -> None:
        self.now = 0
        self.ledger = Ledger(Layout(path), actor=ACTOR, clock=lambda: START + self.now)

    def at(self, now: int, *events: tuple[ev.Event, str], **actor: Any) -> None:
        self.now = now
        with self.ledger.write(f"operation-{now}", actor=replace(ACTOR, **actor)) as transaction:
            transaction.append([NewEvent(event, subject) for event, subject in events])

    def judged(self, now: int, *, facts: bool = True, labels: bool = False) -> IndexState:
        self.now = now
        with self.ledger.read() as connection:
            assert connection is not None
            return state.load_to_judge(connection, facts=facts, labels=labels)

    def facts(self, now: int) -> dict[str, tuple[int | None, int, int]]:
        """Since when each is idle, since when it is what it is, and when it was pulled."""
        return {
            name: (
                None if found.idle_since is None else found.idle_since - START,
                found.since - START,
                found.pulled_at - START,
            )
            for name, found in self.judged(now).facts.items()
        }


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path)
    yield found
    found.ledger.close()


def held(until: int | None = None, holder: str = "sandbox:a") -> tuple[ev.Event, str]:
    return ev.ImageHeld(holder=holder, until_ns=None if until is None else START + until), M


RELEASED = ev.ImageReleased(holder="sandbox:a"), M
BOOTED = ev.ImageUsed(manifest_digest=M, holder="sandbox:a", run="run:1@1")
ENDED = ev.ImageUseEnded(manifest_digest=M, holder="sandbox:a", run="run:1@1", how="ended")


def test_without_being_asked_no_facts_and_no_labels(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (pulled(M), A))
    found = home.judged(20, facts=False)
    assert (found.now_ns, found.facts, found.labels) == (START + 20, {}, {})
    assert (found.references, found.pins, found.running, found.kept_by_msb) == ({A: M}, {}, {}, False)


def test_an_image_is_idle_since_its_last_pull_or_use(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (pulled(M), A), (pulled(M), B))
    assert home.facts(90) == {A: (10, 10, 10), B: (10, 10, 10)}
    home.at(20, (ev.ImageUsed(manifest_digest=M), A))
    assert home.facts(90) == {A: (20, 10, 10), B: (10, 10, 10)}
    home.at(30, (pulled(M), A))
    assert home.facts(90) == {A: (30, 10, 30), B: (10, 10, 10)}


def test_an_image_is_idle_since_its_last_boot_ended_and_never_during_one(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (manifest_added([]), N), (pulled(M), A), (pulled(N), B))
    home.at(20, (BOOTED, A))
    assert home.facts(90) == {A: (None, 10, 10), B: (10, 10, 10)}
    assert home.judged(90).running == {M: ["sandbox:a"]}
    home.at(30, (ENDED, A))
    assert home.facts(90)[A] == (30, 10, 10)
    assert home.judged(90).running == {}


def test_a_boot_by_nobody_known_is_one_of_a_sandbox(home: Home) -> None:
    home.at(20, (replace(BOOTED, holder=None), A), (replace(BOOTED, run="run:2@1"), A))
    assert home.judged(90).running == {M: ["a sandbox", "sandbox:a"]}


def test_an_image_is_idle_since_it_was_released(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (pulled(M), A))
    home.at(20, held())
    assert home.facts(90)[A] == (10, 10, 10)
    assert home.judged(90).holders == {M: ["sandbox:a"]}
    home.at(30, RELEASED)
    assert home.facts(90)[A] == (30, 10, 10)


def test_an_image_is_idle_since_its_last_hold_ended(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (pulled(M), A))
    home.at(20, held(until=50), held(until=40, holder="sandbox:b"))
    assert home.judged(39).holders == {M: ["sandbox:a", "sandbox:b"]}
    assert home.judged(49).holders == {M: ["sandbox:a"]}
    assert home.facts(49)[A] == (40, 10, 10)
    assert home.judged(50).holders == {}
    assert home.facts(50)[A] == (50, 10, 10)
    home.at(60, (ev.ImageUsed(manifest_digest=M), A))
    assert home.facts(90)[A] == (60, 10, 10)


def test_what_a_name_pointed_at_before_is_idle_since_then(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (manifest_added([]), N), (pulled(M), A), (pulled(N), B))
    home.at(20, (pulled(N, previous=M), A))
    assert home.facts(90) == {A: (20, 20, 20), B: (10, 10, 10), M: (20, 20, 20)}
    home.at(30, held(until=50))
    assert home.facts(40)[M] == (20, 20, 20)
    assert home.facts(60)[M] == (50, 50, 50)
    home.at(70, (BOOTED, A))
    assert home.facts(75).keys() == {A, B, M}
    assert home.judged(75).running == {M: ["sandbox:a"]}
    home.at(80, (ENDED, A))
    assert home.facts(90)[M] == (80, 80, 80)
    home.at(85, (pulled(M, previous=N), A))
    assert home.facts(90) == {A: (85, 85, 85), B: (10, 10, 10)}


def test_pins_say_who_as_logged_in_and_end(home: Home) -> None:
    home.at(10, (ev.ImagePinned(), A), login="carol")
    home.at(20, (ev.ImagePinned(until_ns=START + 50), M))
    home.at(30, (ev.ImagePinned(until_ns=START + 60), B), login="dave")
    assert home.judged(49).pins == {
        A: Pin("carol"),
        M: Pin("alice", START + 50),
        B: Pin("dave", START + 60),
    }
    assert home.judged(50).pins.keys() == {A, B}
    home.at(60, (ev.ImageUnpinned(), A))
    assert home.judged(60).pins == {}


def test_the_pin_that_lasts_longer_counts() -> None:
    def pinned(**pins: Pin) -> Pin | None:
        by = {{"name": A, "digest": M}[key]: pin for key, pin in pins.items()}
        found = IndexState({"a": M}, {}, (), {}, naming=Naming({"a": A}), pins=by)
        assert found.kept(M) == ("digest" in pins)
        return found.pin_of("a", M)

    assert pinned() is None
    assert pinned(name=Pin("x", 5)) == Pin("x", 5)
    assert pinned(name=Pin("x", 5), digest=Pin("y", 6)) == Pin("y", 6)
    assert pinned(name=Pin("x", 7), digest=Pin("y", 6)) == Pin("x", 7)
    assert pinned(name=Pin("x"), digest=Pin("y", 6)) == Pin("x")
    assert pinned(name=Pin("x", 7), digest=Pin("y")) == Pin("y")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a": "1", "b": ""}, {"a": "1", "b": ""}),
        ({"a": 1, "b": 2.5, "": "x", "=": "="}, {"a": "1", "b": "2.5", "": "x", "=": "="}),
        ({"a": ["b"], "c": {"d": "e"}}, {"a": "['b']", "c": "{'d': 'e'}"}),
        ({}, {}),
        (None, None),
        (["a", "b"], None),
        ("a=b", None),
        (7, None),
        (True, None),
    ],
    ids=repr,
)
def test_labels_are_an_object_of_texts_or_whatever_a_database_has(
    home: Home, labels: object, expected: dict[str, str] | None
) -> None:
    added = manifest_added([])
    home.at(10, (replace(added, config=ev.ImageConfig(labels=labels)), M), (replace(added, config=None), N))
    found = home.judged(20, labels=True)
    assert found.labels == ({} if expected is None else {M: expected})


def test_in_a_home_of_msb_what_it_never_had_is_said_beside(home: Home) -> None:
    home.at(10, (manifest_added([]), M), (pulled(M), A))
    with home.ledger.read() as connection:
        assert connection is not None
        judged = state.load_to_judge(connection, facts=True)
        found = state.load_observed(connection, judged)
    assert (found.unknown_to_msb, found.kept_by_msb) == ({A, M}, True)
    assert found.facts == judged.facts == {A: ImageFacts(START + 10, START + 10, START + 10)}
