"""The kinds of artifacts: each has its event, its folder, and names that are found again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from msb_cache.artifacts.kinds import KINDS, belonging_to, needed_by, needing
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from tests.logs import PYTHON, digest


def test_each_kind_has_the_event_that_says_it_is_gone() -> None:
    assert {*KINDS, "manifest"} == ev.OUTCOMES.keys() == set(ev.ArtifactKind.__args__)
    assert [event.type for event in ev.OUTCOMES.values()] == [f"{kind}.deleted" for kind in ev.OUTCOMES]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_what_is_written_is_found(kind: object, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    subject = PYTHON if kind.needed_by == "image" else digest(1)
    path = layout.artifact(kind.name, subject)
    path.parent.mkdir(parents=True)
    path.touch()
    assert path.parent == tmp_path / "cache" / kind.folder
    assert re.fullmatch(kind.pattern, path.name)
    assert [*layout.files()] == [(kind.name, path.name if kind.needed_by == "image" else subject, path)]
    assert [*layout.foreign_files()] == []


def test_every_record_needs_its_kinds() -> None:
    assert {record: needing(record) for record in ("image", "manifest", "layer")} == {
        "image": ["metadata"],
        "manifest": ["fsmeta", "vmdk"],
        "layer": ["layer"],
    }
    assert needed_by("manifest") == "manifest"
    # Not every image has a flat root, but if it has, it goes with it.
    assert belonging_to("manifest") == ["fsmeta", "vmdk", "flat_ref"]
    assert (needing("flat_ref"), belonging_to("flat_ref")) == ([], ["flat"])
