"""Removing references and pruning: what goes, what is refused, and the report."""

from __future__ import annotations

import pytest

from msb_cache import (
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    failpoints,
)
from msb_cache.artifacts.layout import Layout
from tests.examples import ONE, TWO, archive, types
from tests.imagebuilder import image, sample
from tests.trees import files_below


def test_remove(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO), tag="alias:1")
    first = cache.remove("alias:1")
    assert (first.image_refs_removed, first.manifests_removed, first.layers_removed) == (1, 0, 0)
    second = cache.remove("one:1")
    assert (second.manifests_removed, second.layers_removed, second.fsmeta_removed, second.vmdk_removed) == (
        1,
        1,
        1,
        1,
    )
    with pytest.raises(ImageNotFoundError, match="image not found: one:1"):
        cache.remove("one:1")
    assert [handle.reference for handle in cache.list()] == ["two:1"]
    assert cache.verify().sound
    assert cache.verify().disk == []


def test_a_held_image_is_not_removed(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.hold("one:1", "sandbox:dev")
    cache.hold("one:1", "sandbox:dev")
    cache.hold("one:1", "snapshot:/var/s nap")
    before = files_below(cache.home / "cache")
    with pytest.raises(ImageInUseError, match=r"one:1 is in use by sandbox:dev, snapshot:/var/s nap"):
        cache.remove("one:1")
    assert files_below(cache.home / "cache") == before
    report = cache.remove("one:1", force=True)
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 0, 0)
    with pytest.raises(ImageNotFoundError):
        cache.get("one:1")
    assert cache.prune().operation is None
    assert cache.release("sandbox:dev") == cache.release("snapshot:/var/s nap")
    assert cache.release("sandbox:dev") == []
    report = cache.prune()
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (0, 1, 2)
    assert cache.verify().disk == []
    assert types(cache).count("image.held") == 2


def test_prune_keeps_what_is_held_and_says_why(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    cache.hold("two:1", "sandbox:dev")
    shown = cache.preview_prune()
    dry = cache.prune(dry_run=True)
    length = len(types(cache))
    report = cache.prune()
    assert dry == report.__class__(1, 1, 1, 1, 1, report.bytes_reclaimed)
    assert length == types(cache).index("deletion.started")
    assert shown.bytes == report.bytes_reclaimed
    assert [handle.reference for handle in cache.list()] == ["two:1"]
    assert report.operation is not None
    found = cache.prune_report(report.operation[:13])
    assert found.actor.user == "alice"
    assert found.policy == {"rule": "unused"}
    assert [(kept.subject, kept.rule, kept.holders) for kept in found.kept] == [
        ("docker.io/library/two:1", "held", ("sandbox:dev",))
    ]
    assert {artifact.outcome for artifact in found.artifacts} == {"deleted"}
    assert sum(artifact.bytes or 0 for artifact in found.artifacts) == report.bytes_reclaimed
    assert [name for name, _ in found.images] == ["docker.io/library/one:1"]


def test_prune_can_be_declined(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = types(cache)
    asked = []
    report = cache.prune(confirm=lambda shown: bool(asked.append(shown)))
    assert report.operation is None
    assert len(asked) == 1
    assert types(cache) == before


def test_what_comes_into_use_while_asked_stays(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))

    def confirm(shown: object) -> bool:
        with ImageCache(cache.home) as other:
            other.hold("one:1", "sandbox:late")
            other.load(archive(sample("three:1")))
        return True

    report = cache.prune(confirm=confirm)
    assert report.image_refs_removed == 1
    assert report.skipped_in_use == 1
    assert sorted(handle.reference for handle in cache.list()) == ["one:1", "three:1"]
    assert cache.verify().disk == []


def test_orphans(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    layout = Layout(cache.home)
    orphans = [
        layout.layer("sha256:" + "0" * 64),
        layout.fsmeta("sha256:" + "1" * 64),
        layout.vmdk("sha256:" + "2" * 64),
        layout.metadata("docker.io/library/gone:1"),
    ]
    for path in orphans:
        path.write_bytes(b"12345")
    foreign = layout.folders["layer"] / "notes.txt"
    foreign.write_text("mine")
    assert {problem.problem for problem in cache.verify().disk} == {"extra", "foreign"}
    assert cache.prune(dry_run=True, orphans=True).bytes_reclaimed is not None
    assert cache.preview_prune(orphans=True).orphans == 4
    cache.hold("one:1", "sandbox:dev")
    report = cache.prune(orphans=True)
    assert report.bytes_reclaimed == 20
    assert (report.image_refs_removed, report.layers_removed, report.fsmeta_removed) == (0, 0, 1)
    assert not any(path.exists() for path in orphans)
    assert foreign.read_text() == "mine"
    assert cache.verify().sound
    assert cache.prune(orphans=True).operation is None


def test_a_removal_that_lost_a_race_is_tried_again(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    raced = []

    def observer(step: str) -> None:
        if step == "delete.planned" and not raced:
            raced.append(step)
            with ImageCache(cache.home) as other:
                other.load(archive(image(TWO.layers, "one:1")))

    failpoints.observer = observer
    try:
        report = cache.remove("one:1")
    finally:
        failpoints.observer = None
    assert report.image_refs_removed == 1
    assert cache.list() == []
