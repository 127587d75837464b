"""Plans to bring back what a deletion took: by where it came from, and only what went."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import deletions
from msb_cache.queries.restore_plan import LostFile, RestorePlan, restore_plan
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger

D = digest(1)
REGISTRY = ev.Source(kind="registry", name="docker.io")
MANIFEST = NewEvent(manifest_added([layer("x")]), D)


def came(source: ev.Source, reference: str = PYTHON, manifest: str = D) -> NewEvent:
    return NewEvent(ev.ImagePulled(manifest_digest=manifest, changed=True, source=source), reference)


def went(*references: str) -> list[NewEvent]:
    kinds: list[tuple[ev.ArtifactKind, str]] = [("manifest", D), ("layer", layer("x").diff_id)]
    planned = tuple(ev.PlannedArtifact(kind=kind, subject=subject) for kind, subject in kinds)
    return [
        NewEvent(ev.DeletionStarted(kind="prune", policy={}, artifacts=planned), "prune-1"),
        *(NewEvent(ev.ImageRemoved(manifest_digest=D, cause="prune"), name) for name in references),
        NewEvent(ev.ManifestDeleted(), D),
        NewEvent(ev.LayerDeleted(bytes=1), layer("x").diff_id),
        NewEvent(ev.DeletionFinished(outcome="completed"), "prune-1"),
    ]


def plan_of(
    home: Path, before: list[NewEvent], *references: str, after: tuple[NewEvent, ...] = ()
) -> RestorePlan:
    ledger = new_ledger(home, before)
    with ledger.write("prune-1") as transaction:
        transaction.append(went(*references))
    if after:
        with ledger.write("later") as transaction:
            transaction.append(after)
    return planned(ledger)


def planned(ledger: Ledger) -> RestorePlan:
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        report = deletions.report(connection, store, "prune-1")
        assert report is not None
        return restore_plan(connection, store, report)


@pytest.mark.parametrize(
    ("source", "certainty", "arguments"),
    [
        (REGISTRY, "exact", ("pull", f"python@{D}")),
        (ev.Source(kind="archive", name="-"), "none", ()),
        (ev.Source(kind="archive", name="/none/there.tar"), "none", ()),
        (ev.Source(kind="archive", name=__file__), "same source", ("load", __file__, "--tag", "python:3.12")),
    ],
    ids=lambda value: value.name if isinstance(value, ev.Source) else "",
)
def test_the_way_back_is_the_way_it_came(
    tmp_path: Path, source: ev.Source, certainty: str, arguments: tuple[str, ...]
) -> None:
    plan = plan_of(tmp_path, [MANIFEST, came(source)], PYTHON)
    (found,) = plan.images
    assert (found.reference, found.certainty, found.arguments) == ("python:3.12", certainty, arguments)
    assert plan.lost == ()


def test_the_last_source_of_this_manifest_counts(tmp_path: Path) -> None:
    other = digest(2)
    sources = [
        came(ev.Source(kind="archive", name="-")),
        came(REGISTRY),
        came(ev.Source(kind="archive", name="x"), manifest=other),
    ]
    plan = plan_of(tmp_path, [MANIFEST, *sources], PYTHON, after=(came(ev.Source(kind="archive", name="-")),))
    assert [(found.certainty, found.notes) for found in plan.images] == [
        ("here", ("it is in the cache again",))
    ]
    plan = plan_of(tmp_path / "other", [MANIFEST, *sources], PYTHON)
    assert plan.images[0].certainty == "exact"


def test_a_manifest_without_a_name_comes_by_its_last_one(tmp_path: Path) -> None:
    gone = NewEvent(ev.ImageRemoved(manifest_digest=D, cause="external"), PYTHON)
    (found,) = plan_of(tmp_path, [MANIFEST, came(REGISTRY), gone]).images
    assert (found.reference, found.certainty, found.arguments) == (None, "exact", ("pull", f"python@{D}"))
    (never,) = plan_of(tmp_path / "other", [MANIFEST]).images
    assert (never.certainty, never.notes) == ("none", ("no reference ever pointed at it",))


def test_files_of_no_image_are_lost(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])
    with ledger.write("prune-1") as transaction:
        artifact = ev.PlannedArtifact(kind="layer", subject=digest("x"))
        transaction.append(
            [
                NewEvent(ev.DeletionStarted(kind="prune", policy={}, artifacts=(artifact,)), "prune-1"),
                NewEvent(ev.LayerDeleted(bytes=1), digest("x")),
            ]
        )
    plan = planned(ledger)
    assert (plan.images, plan.lost) == ((), (LostFile("layer", digest("x")),))
