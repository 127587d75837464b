"""A metadata file against the index: ours to the byte, msb's as far as can be told."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.artifacts import metadata
from msb_cache.errors import CorruptArtifactError
from msb_cache.home.documents import metadata_difference, msb_metadata_difference
from msb_cache.projections.rows import ManifestLayerRow
from tests.imagebuilder import BuiltImage, file, image, layer

BUILT = image(
    [layer([file("a", b"a")]), layer([file("b", b"b")], "gzip")],
    config={"Cmd": ["/x"], "Volumes": {"/v": {}, "/a": {}}, "Labels": {"k": None}},
)
FIELDS = {**dict.fromkeys(metadata.CONFIG_KEYS), "cmd": ["/x"], "volumes": ["/v", "/a"], "labels": {"k": ""}}
ROWS = [
    ManifestLayerRow(BUILT.digest, number, each.diff_id, each.digest, each.media_type, len(each.blob))
    for number, each in enumerate(BUILT.layers)
]
CONFIG_DIGEST = f"sha256:{sha256(BUILT.config).hexdigest()}"


def document(built: BuiltImage = BUILT, **other: Any) -> metadata.Metadata:
    layers = [
        metadata.LayerMetadata(
            digest=each.digest, media_type=each.media_type, size_bytes=len(each.blob), diff_id=each.diff_id
        )
        for each in built.layers
    ]
    found = metadata.Metadata(
        manifest_digest=built.digest,
        config_digest=CONFIG_DIGEST,
        raw_manifest_json=built.manifest.decode(),
        raw_config_json=built.config.decode(),
        config=FIELDS,
        layers=layers,
    )
    return msgspec.structs.replace(found, **other)


# As `msb pull` keeps a manifest: indented in the registry, and its digest is of those bytes.
REWRITTEN = {
    "manifest_digest": f"sha256:{'9' * 64}",
    "config": FIELDS | {"env": [], "labels": {"k": ""}, "volumes": ["/a", "/v"], "exposed_ports": []},
}


def test_what_fits() -> None:
    assert metadata_difference(document(), CONFIG_DIGEST, ROWS) is None
    assert msb_metadata_difference(document(**REWRITTEN), CONFIG_DIGEST, ROWS, None) is None
    assert msb_metadata_difference(document(**REWRITTEN), None, ROWS, None) is None  # not in its database
    first_blob_seen = [*ROWS[:1], msgspec.structs.replace(ROWS[1], blob_digest="sha256:other")]
    assert msb_metadata_difference(document(**REWRITTEN), CONFIG_DIGEST, first_blob_seen, None) is None


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"config": FIELDS | {"cmd": ["/y"]}}, "its cmd is not that of its config"),
        ({"config": FIELDS | {"volumes": ["/v"]}}, "its volumes"),
        ({"config": FIELDS | {"user": 5}}, "its user"),
        ({"config": {}}, "it lacks the env"),
        ({"layers": document().layers[:1]}, "its layers"),
        ({"layers": document().layers[::-1]}, "its layers"),
        ({"raw_manifest_json": BUILT.manifest.decode().replace(CONFIG_DIGEST[9:], "0" * 62)}, "config"),
    ],
)
def test_what_differs_is_said_of_both(other: dict[str, Any], says: str) -> None:
    assert says in (msb_metadata_difference(document(**other), CONFIG_DIGEST, ROWS, None) or "")
    if "raw_manifest_json" in other:
        with pytest.raises(CorruptArtifactError, match="its manifest does not match"):
            metadata_difference(document(**other), CONFIG_DIGEST, ROWS)
    else:
        assert metadata_difference(document(**other), CONFIG_DIGEST, ROWS) is not None


def test_another_config() -> None:
    assert metadata_difference(document(), f"sha256:{'0' * 64}", ROWS) == "its config is another"
    with pytest.raises(CorruptArtifactError, match="its config does not match"):
        metadata_difference(document(raw_config_json="{}"), CONFIG_DIGEST, ROWS)


@pytest.mark.parametrize("raw", ["", "[]", json.dumps({"schemaVersion": 2}), "[" * 100_000])
def test_a_manifest_that_says_nothing(raw: str) -> None:
    with pytest.raises(CorruptArtifactError):
        msb_metadata_difference(document(raw_manifest_json=raw), CONFIG_DIGEST, ROWS, None)


@pytest.mark.parametrize("form", [{}, REWRITTEN], ids=["ours", "msb's"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_any_changed_byte_is_found_or_means_the_same(
    tmp_path: Path, form: dict[str, Any], data: st.DataObject
) -> None:
    """Wherever it is in the file; that a manifest is another's is found by its digest."""
    wrote = document(**form)
    sound = metadata.render(wrote)
    content = bytearray(sound)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.json"
    path.write_bytes(content)
    try:
        found = metadata.decode(path)
        if form:
            kept = metadata.digest_of(wrote.raw_manifest_json)
            difference = msb_metadata_difference(found, CONFIG_DIGEST, ROWS, kept)
        else:
            difference = metadata_difference(found, CONFIG_DIGEST, ROWS)
    except CorruptArtifactError:
        return
    if difference is None and found.manifest_digest == wrote.manifest_digest:
        assert json.loads(content) == json.loads(sound)


def test_a_manifest_that_msb_wrote_anew_is_as_it_was_when_it_came() -> None:
    found = document(**REWRITTEN)
    kept = metadata.digest_of(found.raw_manifest_json)
    assert msb_metadata_difference(found, CONFIG_DIGEST, ROWS, kept) is None
    changed = found.raw_manifest_json[:-1] + ',"annotations":{"a":"b"}}'
    found = msgspec.structs.replace(found, raw_manifest_json=changed)
    difference = msb_metadata_difference(found, CONFIG_DIGEST, ROWS, kept)
    assert difference == "its manifest is not as it was when it came"
    assert msb_metadata_difference(document(), CONFIG_DIGEST, ROWS, kept) is None  # loaded, and as it is
