from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.artifacts.digests import digest_of
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.digesting import Measured, Stamp, digested, record, rewritten_by_msb, stamp
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.home import checks
from msb_cache.home.checks import Check
from msb_cache.home.ledger import Ledger
from msb_cache.projections import digests
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled

LAYER = layer(1).diff_id


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = new_ledger(
        tmp_path, [NewEvent(manifest_added([layer(1)]), digest(1)), NewEvent(pulled(digest(1)), PYTHON)]
    )
    path = made.layout.layer(LAYER)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"layer")
    yield made
    made.close()


def measured(ledger: Ledger, before: str | None = None) -> Measured:
    path = ledger.layout.layer(LAYER)
    looks = stamp(path)
    assert looks is not None
    return Measured(("layer", LAYER), path, looks, digest_of("layer", path), before)


def known(ledger: Ledger) -> tuple[str, str] | None:
    with ledger.read() as connection:
        assert connection is not None
        row = digests.digest(connection, ("layer", LAYER))
        assert (row is None) == (checks.last(connection, ("layer", LAYER)) is None)
        return None if row is None else (row.digest, row.how)


def write(ledger: Ledger, seen: Measured) -> list[tuple[str, str]]:
    with ledger.write(uuid7()) as transaction:
        return record(transaction, {}, [seen])


def test_what_is_new_is_recorded_as_seen(ledger: Ledger) -> None:
    seen = measured(ledger)
    assert write(ledger, seen) == [("layer", LAYER)]
    assert known(ledger) == (seen.digest, "seen")
    assert write(ledger, seen) == [("layer", LAYER)]  # another process was first, and says the same
    with ledger.read() as connection:
        assert connection is not None
        assert len([*ledger.store(connection).read(types=["artifact.digested"])]) == 1


@pytest.mark.parametrize("how", ["another", "longer", "gone"])
def test_a_file_that_changed_meanwhile_is_left_out(ledger: Ledger, how: str) -> None:
    seen = measured(ledger)
    if how == "another":
        other = seen.path.with_name("other")
        other.write_bytes(b"other")
        os.replace(other, seen.path)
    elif how == "longer":
        seen.path.write_bytes(b"layers")
    else:
        seen.path.unlink()
    assert write(ledger, seen) == []
    assert known(ledger) is None


def test_what_others_recorded_meanwhile_stays(ledger: Ledger) -> None:
    seen = measured(ledger)
    with ledger.write(uuid7()) as transaction:
        transaction.append([digested("layer", LAYER, digest(9), "made")])
        checks.remember(transaction.connection, {("layer", LAYER): 1}, 1)
    assert write(ledger, seen) == []
    assert known(ledger) == (digest(9), "made")
    assert write(ledger, seen._replace(before=digest(9))) == [("layer", LAYER)]
    assert known(ledger) == (seen.digest, "seen")


def test_msb_names_a_flat_root_by_its_digest(ledger: Ledger) -> None:
    path = Layout(ledger.layout.home).artifact("flat", digest(5))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"root")
    looks = stamp(path)
    assert looks is not None
    artifact = ("flat", digest(5))
    with ledger.write(uuid7()) as transaction:
        other = Measured(artifact, path, looks, digest_of("flat", path))
        assert record(transaction, {}, [other]) == []
        assert record(transaction, {}, [other._replace(digest=digest(5))]) == [artifact]


@pytest.mark.parametrize(
    ("event", "after", "is_it"),
    [
        (pulled(digest(1)), 0, True),
        (ev.ImageUsed(manifest_digest=digest(1)), 60, True),
        (ev.ImageUsed(manifest_digest=digest(1)), 3601, False),
        (ev.ImageUsed(manifest_digest=digest(1)), -2, False),
        (ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:x"), 0, False),
        (ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:x", run="run:1@1"), 0, False),
    ],
)
@pytest.mark.parametrize(
    "artifact", [("layer", LAYER), ("fsmeta", digest(1)), ("vmdk", digest(1)), ("metadata", PYTHON)]
)
def test_a_pull_of_msb_near_the_time_of_the_file(
    ledger: Ledger, event: ev.Event, after: int, is_it: bool, artifact: tuple[str, str]
) -> None:
    written = 1_900_000_000_000_000_000

    def at_time(of: tuple[str, str]) -> Measured:
        return Measured(of, Path(), Stamp(7, 1, written, written), digest(9))

    with ledger.write(uuid7()) as transaction:
        at = written + after * 10**9
        (stored,) = transaction.append([NewEvent(event, PYTHON, at)])
        found = rewritten_by_msb(transaction.connection, at_time(artifact), Check(1, 8))
        assert found == (stored.seq if is_it else None)
        others = [("layer", layer(2).diff_id), ("fsmeta", digest(2)), ("metadata", "docker.io/library/x:1")]
        assert not any(rewritten_by_msb(transaction.connection, at_time(other), None) for other in others)
        # What was changed where it is was not changed by msb.
        assert rewritten_by_msb(transaction.connection, at_time(artifact), Check(1, 7)) is None
