"""How a restore is recorded: its parts, its end, and the end that recovery gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msb_cache.engines import undoing
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from tests.logs import PYTHON, digest, new_ledger

WANTED = [
    ev.Restoring(reference=name, manifest_digest=digest(1), how="pull", place="docker.io", name=back)
    for name, back in (("python:3.12", None), ("other:1", f"other@{digest(1)}"), (None, f"x@{digest(1)}"))
]


@pytest.mark.parametrize(
    ("names", "interrupted", "outcome"),
    [
        (["a", "b"], False, "completed"),
        (["a", None], False, "partial"),
        ([None, None], False, "failed"),
        (["a", None], True, "interrupted"),
        ([None, None], True, "interrupted"),
        (["a", "b"], True, "completed"),
    ],
)
def test_outcomes(names: list[str | None], interrupted: bool, outcome: str) -> None:
    results = [undoing.result(image, name=name) for image, name in zip(WANTED, names, strict=False)]
    end = undoing.finished("prune-1", results, interrupted=interrupted)
    assert (end.outcome, end.wanted, end.restored) == (outcome, 2, 2 - names.count(None))
    assert [each.outcome for each in end.images] == sorted(each.outcome for each in results)


def test_long_lists_fit_into_events() -> None:
    long = ev.Restoring(reference="r" * 900, manifest_digest=digest(1), how="load", place="/" + "p" * 4000)
    parts = undoing.started("prune-1", [long] * 1000)
    assert [each.part for each in parts] == [*range(1, len(parts) + 1)]
    assert {each.parts for each in parts} == {len(parts)}
    assert sum(len(each.images) for each in parts) == 1000
    results = [undoing.result(long, name="x" * 900), undoing.result(long, reason="\x00" * 5000)] * 1000
    end = undoing.finished("prune-1", results)
    assert (end.outcome, end.restored, len(end.images) + end.more) == ("partial", 1000, 2000)
    assert {each.outcome for each in end.images} == {"failed"}
    import msgspec

    assert len(msgspec.json.encode(end)) < 4 << 20


def test_recovery_says_what_the_log_says(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])

    def pulled(reference: str, **fields: Any) -> NewEvent:
        source = ev.Source(kind="registry")
        data = ev.ImagePulled(manifest_digest=digest(1), changed=True, source=source, **fields)
        return NewEvent(data, reference)

    undoing.recover(ledger, "restore-1")  # there is none
    with ledger.write("restore-1") as transaction:
        transaction.append([NewEvent(each, "restore-1") for each in undoing.started("prune-1", WANTED)])
        transaction.append([pulled(PYTHON), pulled(f"docker.io/library/x@{digest(1)}")])
    undoing.recover(ledger, "restore-1")
    undoing.recover(ledger, "restore-1")  # once
    with ledger.read() as connection:
        assert connection is not None
        (event,) = ledger.store(connection).read(types=["restore.finished"])
    end = event.data
    assert isinstance(end, ev.RestoreFinished)
    assert (event.operation, event.subject) == ("restore-1", "restore-1")
    assert (end.outcome, end.restored, end.wanted, end.recovered) == ("interrupted", 2, 3, True)
    assert [(each.outcome, each.name) for each in end.images] == [
        ("untried", None),
        ("restored", "python:3.12"),
        ("restored", f"x@{digest(1)}"),
    ]
