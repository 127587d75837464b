"""Flat refs: read strictly, from files of any content, and the locks of those who make flat roots."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.artifacts import files
from msb_cache.artifacts.flat import MAX_BYTES, FlatRefs, locks, read_ref
from msb_cache.artifacts.layout import Layout, lease_path, lock_path
from msb_cache.errors import CorruptArtifactError
from tests.flatroots import BLOB, ONE, TWO, document, put
from tests.logs import digest


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_a_ref_is_read(layout: Layout) -> None:
    found = read_ref(put(layout, ONE))
    assert (found.manifest_digest, found.artifact_digest, found.virtual_size_bytes) == (ONE, BLOB, 1 << 20)
    assert read_ref(put(layout, ONE, {**document(), "more": {"of": "it"}})) == found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"uuid":"\xff"}',
        document(TWO),
        document(schema=2),
        document(schema=True),
        document(artifact_digest="../../../etc/passwd"),
        document(artifact_digest=f"{BLOB}\n"),
        document(derivation_digest=BLOB.upper()),
        document(virtual_size_bytes=-1),
        document(virtual_size_bytes=2**60),
        document(virtual_size_bytes="1"),
        document(uuid=None),
        {key: value for key, value in document().items() if key != "inode_count"},
        json.dumps(document()).encode().ljust(MAX_BYTES + 1),
    ],
    ids=repr,
)
def test_what_is_no_ref(layout: Layout, content: dict[str, Any] | bytes) -> None:
    path = put(layout, ONE, content)
    with pytest.raises(CorruptArtifactError, match=path.name):
        read_ref(path)
    refs = FlatRefs(layout)
    assert (refs.by_manifest, refs.unreadable, refs.naming(BLOB)) == ({}, {ONE}, set())


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file(layout: Layout, make: Callable[[Path], None]) -> None:
    path = put(layout, ONE)
    path.unlink()
    make(path)
    with pytest.raises(CorruptArtifactError):
        read_ref(path)


@given(st.binary(max_size=300))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes(layout: Layout, content: bytes) -> None:
    put(layout, ONE, content)
    assert FlatRefs(layout).unreadable == {ONE}


def test_refs_are_read_again_where_they_changed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    put(layout, ONE)
    put(layout, TWO, b"junk")
    put(layout, digest("other"), document(digest("other"), artifact_digest=digest("its")))
    (layout.folders["flat_ref"] / "README").write_text("not one")
    before = FlatRefs(layout)
    assert (before.by_manifest.keys(), before.unreadable) == ({ONE, digest("other")}, {TWO})
    assert before.naming(BLOB) == {ONE}
    put(layout, TWO)
    layout.artifact("flat_ref", digest("other")).unlink()
    read: list[str] = []

    def watched(path: str) -> object:
        read.append(os.path.basename(path))
        return read_ref(path)

    monkeypatch.setattr("msb_cache.artifacts.flat.read_ref", watched)
    after = FlatRefs(layout, before)
    assert (after.naming(BLOB), after.naming(digest("its")), after.unreadable) == ({ONE, TWO}, set(), set())
    assert read == [layout.artifact("flat_ref", TWO).name]


def test_there_are_none(layout: Layout) -> None:
    refs = FlatRefs(layout)
    assert (refs.by_manifest, refs.unreadable, refs.naming(BLOB)) == ({}, set(), set())
    with pytest.raises(FileNotFoundError):
        read_ref(layout.artifact("flat_ref", ONE))
    assert not any("flat" in path.parts for path in locks(layout, refs, [ONE], []))


def test_the_locks_are_those_of_the_manifest_its_layers_and_the_derivation(layout: Layout) -> None:
    put(layout, ONE)
    put(layout, TWO, b"junk")
    derivations = [layout.flat_lock(digest(f"derivation {each}")) for each in (ONE, TWO, "other")]
    layout.flat_locks.mkdir()
    for path in derivations:
        path.touch()
    (layout.flat_locks / "README").touch()
    artifacts = [layout.fsmeta(ONE), layout.vmdk(ONE), layout.layer(digest("layer"))]
    of_image = {*map(lease_path, artifacts), *map(lock_path, artifacts)}
    refs = FlatRefs(layout)
    assert {*locks(layout, refs, [ONE], [digest("layer")])} == of_image | {derivations[0]}
    # Which derivation it is of cannot be told: those of all.
    assert {*locks(layout, refs, [ONE, TWO], [])} >= {*derivations, lease_path(layout.vmdk(TWO))}
    assert {*locks(layout, refs, [], [])} == {*derivations}


def test_what_a_root_with_holes_takes(layout: Layout) -> None:
    path = layout.artifact("flat", BLOB)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 30)
    taken = files.measure_artifact("flat", path)
    assert taken is not None
    assert 4096 <= taken < 1 << 20
    assert files.measure_artifact("layer", path) == 1 << 30
    assert files.measure_artifact("flat", path.with_name("none")) is None
    path.with_name("link").symlink_to(path)
    assert files.measure_artifact("flat", path.with_name("link")) is None
