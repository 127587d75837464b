import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidImageError
from msb_cache.oci.documents import decode as docs
from msb_cache.oci.documents.platform import Platform

DIGEST = "sha256:" + "a" * 64


def manifest(**changes: Any) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": docs.OCI_MANIFEST,
        "config": {"mediaType": docs.OCI_CONFIG, "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": docs.OCI_LAYER, "digest": DIGEST, "size": 3}],
    }
    document.update(changes)
    return json.dumps({k: v for k, v in document.items() if v != "absent"}).encode()


def layer(media_type: str, **changes: Any) -> list[dict[str, Any]]:
    return [{"mediaType": media_type, "digest": DIGEST, "size": 3, **changes}]


def test_manifest() -> None:
    found = docs.decode_manifest(manifest(mediaType="absent", annotations=None, unknown=[1]))
    assert found.media_type == docs.OCI_MANIFEST
    assert found.config.digest == DIGEST
    assert [each.size for each in found.layers] == [3]
    assert docs.decode_manifest(manifest(layers=None)).layers == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schemaVersion": 1}, "Docker schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, "Docker schema 1"),
        ({"fsLayers": []}, "Docker schema 1"),
        ({"schemaVersion": 3}, "schema version 2"),
        ({"schemaVersion": "absent"}, "schema version 2"),
        ({"config": "absent"}, "schema version 2"),
        ({"mediaType": docs.OCI_INDEX}, "not an image manifest"),
        ({"manifests": []}, "is an index"),
        ({"layers": layer(docs.OCI_LAYER + "+encrypted")}, "is encrypted"),
        ({"layers": layer(docs.OCI_LAYER_GZIP + "+encrypted")}, "is encrypted"),
        ({"layers": layer(docs.OCI_FOREIGN + "+encrypted")}, "is encrypted"),
        ({"layers": layer(docs.DOCKER_FOREIGN + ".xz")}, "unknown media type"),
        ({"layers": layer("text/plain\x1b")}, "unknown media type 'text/plain\\x1b'"),
        ({"layers": layer(docs.OCI_LAYER, size=-1)}, "cannot be read"),
        ({"layers": layer(docs.OCI_LAYER, size=1 << 63)}, "cannot be read"),
        ({"layers": layer(docs.OCI_LAYER, size=1.5)}, "cannot be read"),
        ({"layers": layer(docs.OCI_LAYER, digest="sha256:../../x")}, "is not a digest"),
        ({"layers": layer(docs.OCI_LAYER, digest="sha512:" + "0" * 128)}, "only sha256"),
        ({"layers": layer(docs.OCI_LAYER) * 1025}, "at most 1024"),
        ({"config": {"digest": DIGEST}}, "size"),
    ],
)
def test_refused_manifests(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        docs.decode_manifest(manifest(**changes))
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("declared", "normal"),
    [
        (docs.OCI_LAYER, docs.OCI_LAYER),
        (docs.OCI_LAYER_ZSTD, docs.OCI_LAYER_ZSTD),
        ("application/vnd.docker.image.rootfs.diff.tar", docs.OCI_LAYER),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", docs.OCI_LAYER_GZIP),
    ],
)
def test_layer_types_get_their_oci_names(declared: str, normal: str) -> None:
    assert docs.layer_media_type(declared, "x") == normal


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cannot be read"),
        (b"null", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"mediaType":"\xff"}', "cannot be read"),
        (b'{"schemaVersion":2', "cannot be read"),
        (b'{"x":' + b"[" * 100_000, "nested too deeply"),
        (b'{"schemaVersion":' + b"9" * 10_000 + b"}", "cannot be read"),
        (b'{"schemaVersion":1e999}', "cannot be read"),
        (b" " * (docs.MAX_DOCUMENT_BYTES + 1), "larger than 4 MiB"),
    ],
)
def test_hostile_json(data: bytes, problem: str) -> None:
    for decode in (docs.decode_manifest, docs.decode_index, docs.decode_config):
        with pytest.raises(InvalidImageError, match=problem):
            decode(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "config",
                        "layers",
                        "manifests",
                        "rootfs",
                        "diff_ids",
                        "schemaVersion",
                        "Env",
                        "digest",
                        "size",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_decoded_or_refused(document: Any) -> None:
    for decode in (docs.decode_manifest, docs.decode_index, docs.decode_config):
        with contextlib.suppress(InvalidImageError):
            decode(json.dumps(document).encode())


def test_index() -> None:
    entry = {
        "digest": DIGEST,
        "size": 1,
        "mediaType": docs.OCI_MANIFEST,
        "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
    }
    data = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    (found,) = docs.decode_index(data).manifests
    assert found.wanted_platform == Platform("linux", "arm64")
    assert not found.is_attestation


@pytest.mark.parametrize(
    "document",
    [
        {"manifests": []},
        {"schemaVersion": 2},
        {"schemaVersion": 2, "manifests": [], "layers": []},
        {"schemaVersion": 2, "manifests": [], "config": {}},
        {"schemaVersion": 2, "manifests": [], "mediaType": docs.OCI_MANIFEST},
    ],
)
def test_refused_indexes(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidImageError):
        docs.decode_index(json.dumps(document).encode())


def test_attestations_are_recognised() -> None:
    unknown = docs.Descriptor(DIGEST, 1, platform=docs.PlatformDocument("unknown", "unknown"))
    annotated = docs.Descriptor(DIGEST, 1, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    assert unknown.is_attestation
    assert annotated.is_attestation


def test_config_fields() -> None:
    found = docs.decode_config(
        json.dumps(
            {
                "architecture": "arm64",
                "os": "linux",
                "variant": "v8",
                "created": "2024-01-01T00:00:00Z",
                "config": {
                    "Env": ["A=b"],
                    "Cmd": "sh",
                    "Entrypoint": ["/e"],
                    "WorkingDir": "/w",
                    "User": "u",
                    "Labels": {"k": "v", "n": None},
                    "StopSignal": "SIGTERM",
                    "ExposedPorts": {"80/tcp": {}},
                    "Volumes": {"/v": {}},
                    "Healthcheck": {"x": 1},
                },
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
                "history": [{}],
            }
        ).encode()
    )
    run = found.run
    assert (run.env, run.cmd, run.entrypoint, run.working_dir, run.user) == (
        ["A=b"],
        ["sh"],
        ["/e"],
        "/w",
        "u",
    )
    assert (run.labels, run.stop_signal) == ({"k": "v", "n": ""}, "SIGTERM")
    assert (run.exposed_ports, run.volumes) == ({"80/tcp": {}}, {"/v": {}})
    assert found.diff_ids == (DIGEST,)
    assert found.platform == Platform("linux", "arm64")


@pytest.mark.parametrize("config", [None, {}, {"Env": None, "Labels": None, "Cmd": None, "Volumes": None}])
def test_configs_with_nothing_in_them(config: Any) -> None:
    found = docs.decode_config(json.dumps({"rootfs": {"diff_ids": None}, "config": config}).encode())
    assert found.run == docs.ContainerConfig()
    assert found.diff_ids == ()
    assert found.platform is None


def test_config_diff_ids_are_checked() -> None:
    with pytest.raises(InvalidImageError, match="is not a digest"):
        docs.decode_config(b'{"rootfs":{"diff_ids":["x"]}}')


def test_the_made_manifest_is_compact_and_sorted() -> None:
    found = docs.encode_manifest((DIGEST, 2), [(DIGEST, 3, docs.OCI_LAYER)])
    assert found == json.dumps(json.loads(found), sort_keys=True, separators=(",", ":")).encode()
    assert docs.decode_manifest(found).layers[0].media_type == docs.OCI_LAYER
