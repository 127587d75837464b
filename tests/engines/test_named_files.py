"""Which files an index names."""

from __future__ import annotations

from pathlib import Path

from msb_cache.artifacts.layout import Layout
from msb_cache.engines.named_files import NamedFiles
from msb_cache.projections.state import IndexState
from tests.logs import PYTHON, digest

OTHER = "docker.io/library/other:1"


def named(tmp_path: Path) -> NamedFiles:
    manifests = {digest(1): [digest("a"), digest("b")], digest(2): [digest("b")]}
    state = IndexState({PYTHON: digest(1)}, manifests, [digest("b"), digest("c")], {})
    return NamedFiles.of(Layout(tmp_path), state)


def test_each_artifact_is_named_once(tmp_path: Path) -> None:
    found = [*named(tmp_path)]
    assert len(found) == len(set(found))
    assert set(found) == {
        ("metadata", PYTHON),
        *((kind, digest(number)) for kind in ("fsmeta", "vmdk") for number in (1, 2)),
        *(("layer", digest(name)) for name in "abc"),  # of manifests, and with a record alone
    }


def test_a_metadata_file_is_known_by_its_bare_name(tmp_path: Path) -> None:
    layout, files = Layout(tmp_path), named(tmp_path)
    assert files.has("metadata", layout.metadata(PYTHON).name)
    assert not files.has("metadata", layout.metadata(OTHER).name)
    assert files.has("fsmeta", digest(2))
    assert not files.has("fsmeta", digest("a"))
    assert files.has("layer", digest("c"))
    assert not files.has("layer", digest(1))
