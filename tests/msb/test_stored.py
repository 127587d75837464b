"""What a metadata file tells of a manifest: only if its documents fit together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from msb_cache.artifacts import metadata
from msb_cache.msb.stored import MAX_SIGNAL, look
from tests.imagebuilder import file, image, layer, sha256

LAYER = layer([file("a", b"a")], "gzip")


def write(path: Path, signal: str | None = "SIGQUIT", **other: Any) -> metadata.Metadata:
    """Write the metadata file of an image with this stop signal, or with something else in it."""
    built = image([LAYER], config={"StopSignal": signal})
    found = metadata.Metadata(
        manifest_digest=built.digest,
        config_digest=sha256(built.config),
        raw_manifest_json=built.manifest.decode(),
        raw_config_json=built.config.decode(),
        config={**dict.fromkeys(metadata.CONFIG_KEYS), "stop_signal": signal},
        layers=[
            metadata.LayerMetadata(
                digest=LAYER.digest,
                media_type=LAYER.media_type,
                size_bytes=len(LAYER.blob),
                diff_id=LAYER.diff_id,
            )
        ],
    )
    found = msgspec.structs.replace(found, **other)
    path.write_bytes(metadata.render(found))
    return found


def test_what_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    wrote = write(path)
    os.utime(path, ns=(1, 7_000_000_001))
    found = look(path)
    assert found is not None
    assert (found.manifest_digest, found.digest) == (wrote.manifest_digest, wrote.manifest_digest)
    assert (found.config_digest, found.diff_ids) == (wrote.config_digest, (LAYER.diff_id,))
    assert (found.stop_signal, found.written_at_ns) == ("SIGQUIT", 7_000_000_001)


def test_a_manifest_that_was_written_anew_has_another_digest(tmp_path: Path) -> None:
    wrote = write(tmp_path / "a.json", manifest_digest=sha256(b"as the registry has it"))
    found = look(tmp_path / "a.json")
    assert found is not None
    assert found.manifest_digest == wrote.manifest_digest
    assert found.digest == sha256(wrote.raw_manifest_json.encode())


@pytest.mark.parametrize("signal", [None, "", "S" * (MAX_SIGNAL + 1)])
def test_no_signal(tmp_path: Path, signal: str | None) -> None:
    write(tmp_path / "a.json", signal)
    found = look(tmp_path / "a.json")
    assert found is not None
    assert found.stop_signal is None


@pytest.mark.parametrize(
    "other",
    [
        {"raw_config_json": "{}"},
        {"raw_manifest_json": "{}"},
        {"layers": []},
        {"config": {}},
        {"config_digest": sha256(b"other")},
    ],
)
def test_a_file_that_contradicts_itself_tells_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    write(tmp_path / "a.json", **other)
    assert look(tmp_path / "a.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_what_is_no_metadata_tells_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    assert look(path) is None
    path.write_bytes(content)
    assert look(path) is None
