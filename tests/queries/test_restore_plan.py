"""Plans to bring back what a deletion took: by where it came from, and only what went."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.errors import ImageNotFoundError, InvalidReferenceError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.queries import deletions
from msb_cache.queries.restore_plan import LostFile, RestorePlan, chosen, restore_plan
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
    home: Path,
    before: list[NewEvent],
    *references: str,
    after: tuple[NewEvent, ...] = (),
    kept_by_msb: bool = False,
) -> RestorePlan:
    ledger = new_ledger(home, before)
    with ledger.write("prune-1") as transaction:
        transaction.append(went(*references))
    if after:
        with ledger.write("later") as transaction:
            transaction.append(after)
    return planned(ledger, kept_by_msb=kept_by_msb)


def planned(ledger: Ledger, *, kept_by_msb: bool = False) -> RestorePlan:
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        report = deletions.report(connection, store, "prune-1")
        assert report is not None
        return restore_plan(connection, store, report, kept_by_msb=kept_by_msb, home=None)


@pytest.mark.parametrize(
    ("source", "certainty", "arguments"),
    [
        (REGISTRY, "exact", ("pull", "--digest", D, "python:3.12")),
        (ev.Source(kind="archive", name="-"), "none", ()),
        (ev.Source(kind="archive", name="/none/there.tar"), "none", ()),
        (ev.Source(kind="archive", name="/dev/null"), "none", ()),
        (
            ev.Source(kind="archive", name=__file__),
            "same source",
            ("load", __file__, "--digest", D, "--tag", "python:3.12"),
        ),
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


@pytest.mark.parametrize(
    ("source", "certainty", "arguments", "note"),
    [
        (REGISTRY, "exact", ("pull", f"python@{D}"), f"it comes back as python@{D}"),
        (
            ev.Source(kind="archive", name=__file__),
            "same source",
            ("load", __file__, "--tag", "python:3.12"),
            f"{__file__} brings back all of its images, and python:3.12 must then be {D}",
        ),
    ],
    ids=["registry", "archive"],
)
def test_what_msb_can_do(
    tmp_path: Path, source: ev.Source, certainty: str, arguments: tuple[str, ...], note: str
) -> None:
    (found,) = plan_of(tmp_path, [MANIFEST, came(source)], PYTHON, kept_by_msb=True).images
    assert (found.certainty, found.arguments) == (certainty, arguments)
    assert note in found.notes


@pytest.mark.parametrize("kept_by_msb", [False, True])
@pytest.mark.parametrize(
    "source", [REGISTRY, ev.Source(kind="archive", name=__file__)], ids=lambda one: one.kind
)
def test_a_name_that_another_image_has(tmp_path: Path, source: ev.Source, kept_by_msb: bool) -> None:
    other = came(REGISTRY, manifest=digest(2))
    plan = plan_of(tmp_path, [MANIFEST, came(source)], PYTHON, after=(other,), kept_by_msb=kept_by_msb)
    (found,) = plan.images
    assert found.notes[0] == "python:3.12 points at another image now"
    if source == REGISTRY:
        assert found.arguments == ("pull", f"python@{D}")
    elif kept_by_msb:
        assert (found.certainty, found.arguments) == ("none", ())  # msb would take the name
    else:
        assert found.arguments == ("load", __file__, "--digest", D, "--tag", f"python@{D}")


def test_what_came_back_under_its_digest_is_here(tmp_path: Path) -> None:
    back = (came(REGISTRY, manifest=digest(2)), came(REGISTRY, f"docker.io/library/python@{D}"))
    (found,) = plan_of(tmp_path, [MANIFEST, came(REGISTRY)], PYTHON, after=back).images
    assert (found.certainty, found.notes[1]) == ("here", f"it is here as python@{D}")
    (found,) = plan_of(tmp_path / "free", [MANIFEST, came(REGISTRY)], PYTHON, after=back[1:]).images
    assert found.certainty == "exact"  # the name is free, and can have it again
    (found,) = plan_of(
        tmp_path / "msb", [MANIFEST, came(REGISTRY)], PYTHON, after=back[1:], kept_by_msb=True
    ).images
    assert found.certainty == "here"


def test_an_index_by_its_digest_comes_as_that(tmp_path: Path) -> None:
    name = f"python@{digest('index')}"
    plan = plan_of(
        tmp_path, [MANIFEST, came(REGISTRY, f"docker.io/library/{name}")], f"docker.io/library/{name}"
    )
    assert plan.images[0].arguments == ("pull", "--digest", D, name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("python:3.12", [0]),
        ("docker.io/library/python:3.12", [0]),
        ("python*", [0, 1]),
        ("*example.org/*", [2]),
        (D, [0, 1, 2]),
        (D[7:15], [0, 1, 2]),
        ("python:3", ImageNotFoundError),
        ("other*", ImageNotFoundError),
        (digest(2), ImageNotFoundError),
        ("A::b", InvalidReferenceError),
        ("a b*", InvalidReferenceError),
    ],
)
def test_words_for_images_mean_what_went(
    tmp_path: Path, text: str, found: list[int] | type[Exception]
) -> None:
    names = (PYTHON, "docker.io/library/python:3.13", "example.org/team/tool:2")
    plan = plan_of(tmp_path, [MANIFEST, *(came(REGISTRY, name) for name in names)], *names)
    if isinstance(found, list):
        assert chosen(plan, [text]) == [plan.images[index] for index in found]
        assert chosen(plan, []) == [*plan.images]
        return
    with pytest.raises(found):
        chosen(plan, [text])


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
