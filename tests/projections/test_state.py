"""The index as a plan needs it: complete, in its orders, and refused where no fold can have made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import state
from msb_cache.projections.state import IndexState, Naming
from tests.logs import digest, layer, manifest_added, new_ledger, pulled

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
