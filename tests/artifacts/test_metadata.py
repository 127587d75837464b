"""Metadata files: read as they were written, or refused with a sentence."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.artifacts import metadata
from msb_cache.errors import CorruptArtifactError
from msb_cache.eventstore.events import ImageConfig

MANIFEST, CONFIG = '{"a":"é"}', "{}"
SOUND = metadata.Metadata(
    manifest_digest=f"sha256:{sha256(MANIFEST.encode()).hexdigest()}",
    config_digest=f"sha256:{sha256(CONFIG.encode()).hexdigest()}",
    raw_manifest_json=MANIFEST,
    raw_config_json=CONFIG,
    config=metadata.config_fields(ImageConfig(labels={"a": "b"})),
    layers=[metadata.LayerMetadata(digest="d", media_type=None, size_bytes=1, diff_id="i")],
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(metadata.render(SOUND))
    assert metadata.render(metadata.read(path)) == metadata.render(SOUND)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        metadata.render(SOUND).replace("é".encode(), b"\xe9"),
        metadata.render(SOUND).replace(b'"b"', b'"\xff"'),
        b'{"config":' + b"[" * 100_000,
        b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["empty", "latin", "label", "open", "deep"],
)
def test_what_is_no_metadata(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"m\.json"):
        metadata.read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(metadata.render(SOUND))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.json"
    path.write_bytes(content)
    try:
        found = metadata.read(path)
    except CorruptArtifactError:
        return
    assert (found.raw_manifest_json, found.raw_config_json) == (MANIFEST, CONFIG)


def test_labels_are_never_null() -> None:
    """msb reads no file whose labels are, and fetches the image again."""
    fields = metadata.config_fields(ImageConfig())
    assert (fields["labels"], fields["cmd"]) == ({}, None)
    assert tuple(fields) == metadata.CONFIG_KEYS
