"""Which manifest a reference means, and images from a registry, on their good days and their bad ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msb_cache.errors import ImagePullFailedError, InvalidImageError, PlatformNotFoundError
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.documents.decode import OCI_FOREIGN
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.images import MAX_LOOKED_UP, Registry, Resolved
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import (
    OCI_INDEX,
    BuiltImage,
    compact_json,
    image,
    index,
    index_descriptor,
    layer,
    oci_directory,
    sample,
    sha256,
)
from tests.registry_server import Content, Handler, RegistryServer, answer, chunked, endless, error, html

FAST = RegistryOptions(timeout=2, retries=2, backoff=0.01)
AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.fixture
def registry(server: RegistryServer) -> Iterator[Registry]:
    with Registry(server.host, FAST) as opened:
        yield opened


def reference(text: str) -> Reference:
    return Reference.parse(text)


def paths(server: RegistryServer) -> list[str]:
    return [request.path.rpartition("/v2/")[2] for request in server.requests]


def both(server: RegistryServer, **more: Any) -> tuple[BuiltImage, BuiltImage, str]:
    """An index of an image for amd64 and one for arm64."""
    images = [sample(seed=name, architecture=name, **more) for name in ("amd64", "arm64")]
    for each in images:
        server.add(each, tag=each.architecture)
    return images[0], images[1], server.index(index([each.descriptor for each in images]), tag="both")


# --- resolving ----------------------------------------------------------------------------------


def test_a_single_manifest_costs_one_request(server: RegistryServer, registry: Registry) -> None:
    built = sample()
    name = reference(server.add(built))
    resolved = registry.resolve(name)
    assert resolved == Resolved(name, built.digest, built.digest, None, built.manifest, None)
    assert paths(server) == ["app/manifests/1"]
    accept = server.requests[0].headers["accept"]
    assert all(f"application/vnd.{kind}" in accept for kind in ("oci.image.index", "oci.image.manifest"))
    assert DOCKER_LIST in accept
    assert DOCKER_MANIFEST in accept


def test_an_index_costs_one_request(server: RegistryServer, registry: Registry) -> None:
    _, arm, text = both(server)
    resolved = registry.resolve(reference(text), ARM64)
    assert resolved.manifest_digest == arm.digest
    assert resolved.digest == sha256(server.content("/v2/app/manifests/both").data)  # type: ignore[union-attr]
    assert (resolved.platform, resolved.manifest, resolved.wanted) == (ARM64, None, ARM64)
    assert paths(server) == ["app/manifests/both"]


def test_the_default_platform_is_the_hosts(server: RegistryServer, registry: Registry) -> None:
    text = both(server)[2]
    assert registry.resolve(reference(text)).platform == Platform.host()
    assert registry.notes == []


def test_a_digest_reference_wins_over_its_tag(server: RegistryServer, registry: Registry) -> None:
    built = sample()
    name = server.add(built)
    assert registry.resolve(reference(f"{name}@{built.digest}")).manifest_digest == built.digest
    assert paths(server) == [f"app/manifests/{built.digest}"]


@pytest.mark.parametrize("kind", [DOCKER_LIST, "application/json", "", f"{OCI_INDEX}; charset=utf-8"])
def test_an_index_is_known_by_type_or_shape(server: RegistryServer, registry: Registry, kind: str) -> None:
    built = sample()
    server.add(built)
    document = compact_json({"schemaVersion": 2, "manifests": [built.descriptor]})
    text = server.index(document, tag="odd", type=kind)
    assert registry.resolve(reference(text), AMD64).manifest_digest == built.digest


def test_nested_indexes_and_missing_platforms_are_looked_up(
    server: RegistryServer, registry: Registry
) -> None:
    images = [sample(seed=name, architecture=name) for name in ("arm64", "amd64")]
    bare = []
    for each in images:
        server.add(each, tag=each.architecture)
        bare.append({key: value for key, value in each.descriptor.items() if key != "platform"})
    inner = index(bare)
    server.manifest("app", inner, OCI_INDEX)
    text = server.index(index([index_descriptor(inner)]), tag="nested")
    resolved = registry.resolve(reference(text), AMD64)
    assert resolved.manifest == images[1].manifest
    assert server.count("") == 6


def test_looking_up_has_a_limit(server: RegistryServer, registry: Registry) -> None:
    listed = []
    for number in range(MAX_LOOKED_UP):
        built = sample(seed=str(number))
        server.add(built, tag="x")
        listed.append({key: value for key, value in built.descriptor.items() if key != "platform"})
    text = server.index(index(listed), tag="many")
    with pytest.raises(InvalidImageError, match="too many manifests without platforms"):
        registry.resolve(reference(text))
    assert server.count("") <= MAX_LOOKED_UP + 2


def test_no_manifest_for_the_platform(server: RegistryServer, registry: Registry) -> None:
    text = both(server)[2]
    with pytest.raises(
        PlatformNotFoundError, match=r"no manifest for linux/s390x; it has linux/amd64, linux/arm64"
    ):
        registry.resolve(reference(text), Platform("linux", "s390x"))


def test_a_lone_image_for_another_platform_is_taken_with_a_note(
    server: RegistryServer, registry: Registry, tmp_path: Path
) -> None:
    other = "arm64" if Platform.host().architecture != "arm64" else "amd64"
    name = reference(server.add(sample(architecture=other)))
    found = registry.image(registry.resolve(name), partials=tmp_path)
    assert found.platform == Platform("linux", other)
    assert len(registry.notes) == 1
    assert f"is for linux/{other}, not for {Platform.host()}" in registry.notes[0]


def test_a_lone_image_for_another_platform_is_refused_if_one_was_asked_for(
    server: RegistryServer, registry: Registry, tmp_path: Path
) -> None:
    name = reference(server.add(sample(architecture="arm64")))
    resolved = registry.resolve(name, AMD64)
    with pytest.raises(PlatformNotFoundError, match="no manifest for linux/amd64; it has linux/arm64"):
        registry.image(resolved, partials=tmp_path)


def test_references_of_other_registries_are_a_mistake(registry: Registry, server: RegistryServer) -> None:
    with pytest.raises(ValueError, match="is not in the registry"):
        registry.resolve(reference("elsewhere.example/app:1"))
    assert server.requests == []


# --- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_image_is_the_same_noun_as_from_an_archive(
    server: RegistryServer, registry: Registry, tmp_path: Path, compression: str
) -> None:
    built = sample(compression=compression)
    name = server.add(built)
    found = registry.image(registry.resolve(reference(name)), partials=tmp_path / "partials")
    layout = oci_directory(tmp_path / "layout", replace(built, names=(name,)))
    with open_archive(layout, tmp_path) as archive:
        (expected,) = archive.images
        for mine, theirs in zip(found.layers, expected.layers, strict=True):
            with mine.open() as left, theirs.open() as right:
                for entry, other in zip(left.entries(), right.entries(), strict=True):
                    assert entry.path == other.path
                left.verify()
                right.verify()

        def plain(layers: tuple[Any, ...]) -> list[Any]:
            return [replace(each, open_blob=print) for each in layers]

        assert plain(found.layers) == plain(expected.layers)
        assert replace(found, layers=()) == replace(expected, layers=())
    assert list((tmp_path / "partials").iterdir()) == []


def test_the_chosen_image_of_an_index(server: RegistryServer, registry: Registry, tmp_path: Path) -> None:
    _, arm, text = both(server)
    found = registry.image(registry.resolve(reference(text), ARM64), partials=tmp_path)
    assert (found.manifest, found.config, found.platform) == (arm.manifest, arm.config, ARM64)
    assert found.references == (reference(text),)
    assert paths(server) == [
        "app/manifests/both",
        f"app/manifests/{arm.digest}",
        f"app/blobs/{sha256(arm.config)}",
    ]


def test_layers_are_read_in_parallel(server: RegistryServer, registry: Registry, tmp_path: Path) -> None:
    built = image([layer(f"layer {number}".encode() * 50_000 + bytes(512)) for number in range(8)])
    built = replace(built, layers=tuple(replace(each) for each in built.layers))
    found = registry.image(registry.resolve(reference(server.add(built))), partials=tmp_path)

    def blob(position: int) -> bytes:
        reader = found.layers[position].open_blob()
        data = b""
        while more := reader.read(100_000):
            data += more
        reader.close()
        return data

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(blob, range(8))) == [each.blob for each in built.layers]


def test_an_empty_layer_needs_no_request(server: RegistryServer, registry: Registry, tmp_path: Path) -> None:
    found = registry.image(registry.resolve(reference(server.add(image([layer(b"")])))), partials=tmp_path)
    before = server.count("")
    found.layers[0].verify_only()
    assert server.count("") == before
    assert list(tmp_path.glob("*.partial")) == []


# --- what registries get wrong ------------------------------------------------------------------


def not_found(handler: Handler, content: Content) -> None:
    error(404, "NAME_UNKNOWN", "repository name not known to registry")(handler, content)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (not_found, r"^127.0.0.1:\d+/app:1 is not in the registry .*NAME_UNKNOWN.*check the name$"),
        (html(), "answers with an HTML page: it is not a registry"),
        (html(403), "answers with an HTML page: it is not a registry"),
        (
            error(403, "DENIED", "no"),
            "does not exist or needs a login: check the name, or log in with 'docker lo",
        ),
        (answer(401), "asks for a login of an unknown kind"),
        (
            error(503, "UNAVAILABLE", "maintenance"),
            r"503 Service Unavailable \('UNAVAILABLE: maintenance'\); try",
        ),
        (answer(500, b"\xff\x00" * 90_000), "answers 500 Internal Server Error; try again later"),
        (answer(418, b"[[[["), "answers 418 I'm a Teapot for .*tell who runs it"),
        (answer(299), "answers 299 for"),
        (answer(429), "limits how often images are pulled; log in for more, or try again later"),
        (answer(429, Retry_After="86400"), "try again later, in 86400 seconds"),
        (endless(), "answers with more than 4194304 bytes for"),
        (answer(200, Content_Length=str(1 << 30)), "answers with more than 4194304 bytes for"),
        (answer(200, b"{"), "the manifest of .* cannot be read"),
        (answer(200, b"[]"), "the manifest of .* cannot be read"),
        (answer(200, b"{}"), "is not an image manifest of schema version 2"),
        (answer(200, b"[" * 100_000), "the manifest of .* cannot be read"),
        (answer(302), "redirects to what is no web address"),
    ],
)
def test_every_bad_answer_is_one_sentence(
    server: RegistryServer, registry: Registry, action: Any, message: str
) -> None:
    name = reference(server.add(sample()))
    server.on("/manifests/", action, always=True)
    with pytest.raises((ImagePullFailedError, InvalidImageError), match=message) as caught:
        registry.resolve(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert server.sent <= 64 << 20


def headers(name: str, value: str, times: int) -> Any:
    def act(handler: Handler, content: Content) -> None:
        handler.send_response(200)
        for number in range(times):
            handler.send_header(f"{name}-{number}", value)
        handler.end_headers()
        handler.close_connection = True

    return act


def trickle(handler: Handler, content: Content) -> None:
    handler.reply(200, None, {"Content-Length": "100000"})
    for _ in range(100):
        if handler.registry.stopping.wait(0.05):
            return
        handler.wfile.write(b" ")


def garbage(handler: Handler, content: Content) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (headers("X", "y", 5000), "broke off"),
        (headers("X", "y" * 70_000, 1), "broke off"),
        (headers("Content-Length: 5\r\nContent-Length: 6\r\nX", "y", 1), "does not answer in proper HTTP"),
        (garbage, "broke off"),
        (trickle, "answers too slowly; try again later"),
    ],
)
def test_answers_that_never_become_one(server: RegistryServer, action: Any, message: str) -> None:
    name = reference(server.add(sample()))
    server.on("/manifests/", action, always=True)
    started = time.monotonic()
    options = RegistryOptions(timeout=0.2, retries=1, backoff=0.01)
    with Registry(server.host, options) as registry, pytest.raises(ImagePullFailedError, match=message):
        registry.resolve(name)
    assert time.monotonic() - started < 5


def test_passing_failures_pass(server: RegistryServer, registry: Registry) -> None:
    built = sample()
    name = reference(server.add(built))
    server.on("/manifests/", answer(429, Retry_After="0"), answer(502))
    assert registry.resolve(name).manifest == built.manifest
    server.on("/manifests/", chunked)
    assert registry.resolve(name).manifest == built.manifest


def test_schema_1_is_refused_by_name(server: RegistryServer, registry: Registry) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    text = server.index(b'{"schemaVersion":1}', type=kind)
    with pytest.raises(InvalidImageError, match="is a Docker schema 1 manifest, which is too old"):
        registry.resolve(reference(text))
    text = server.index(b'{"schemaVersion":1,"fsLayers":[]}', type="application/json")
    with pytest.raises(InvalidImageError, match="is a Docker schema 1 manifest, which is too old"):
        registry.resolve(reference(text))


@pytest.mark.parametrize(
    ("media_type", "word"),
    [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "unknown media type"),
    ],
)
def test_layers_that_cannot_be_loaded_are_refused_before_they_are_fetched(
    server: RegistryServer, registry: Registry, media_type: str, word: str
) -> None:
    built = sample()
    name = server.add(
        replace(built, layers=tuple(replace(each, media_type=media_type) for each in built.layers))
    )
    with pytest.raises(InvalidImageError, match=word):
        registry.resolve(reference(name))
    assert server.count("") == 1


def test_a_foreign_layer_comes_from_the_registry_or_not_at_all(
    server: RegistryServer, registry: Registry, tmp_path: Path
) -> None:
    built = sample()
    foreign = replace(built, layers=tuple(replace(each, media_type=OCI_FOREIGN) for each in built.layers))
    name = server.add(foreign)
    image = registry.image(registry.resolve(reference(name)), partials=tmp_path)
    image.layers[0].verify_only()
    server.on("/blobs/", error(404, "BLOB_UNKNOWN", "none"))
    with pytest.raises(ImagePullFailedError, match=r"foreign layer sha256:.* is not in the registry"):
        image.layers[1].verify_only()


def test_a_manifest_that_is_not_what_was_asked_for(server: RegistryServer, registry: Registry) -> None:
    built, other = sample(), sample(seed="other")
    name = server.add(built)
    server.manifest("app", other.manifest, digest=built.digest)
    with pytest.raises(
        InvalidImageError, match=f"its bytes have the digest {other.digest}, not {built.digest}"
    ):
        registry.resolve(reference(f"{name}@{built.digest}"))
    server.manifest("app", built.manifest, tag="1", digest=other.digest)
    with pytest.raises(
        InvalidImageError, match=f"its bytes have the digest {built.digest}, not {other.digest}"
    ):
        registry.resolve(reference(name))


def test_a_sha512_digest_header_is_the_registrys_own_affair(
    server: RegistryServer, registry: Registry
) -> None:
    built = sample()
    name = server.add(built)
    server.manifest("app", built.manifest, tag="1", digest="sha512:" + "0" * 128)
    assert registry.resolve(reference(name)).manifest_digest == built.digest


def test_a_child_that_is_not_what_the_index_says(
    server: RegistryServer, registry: Registry, tmp_path: Path
) -> None:
    amd, arm, text = both(server)
    server.manifest("app", arm.manifest, digest=amd.digest)
    resolved = registry.resolve(reference(text), AMD64)
    with pytest.raises(InvalidImageError, match=f"manifest {amd.digest} is damaged"):
        registry.image(resolved, partials=tmp_path)


@pytest.mark.parametrize("digest", ["sha256:zz", "sha512:" + "0" * 128, "../../secret"])
def test_an_index_with_an_unusable_digest(server: RegistryServer, registry: Registry, digest: str) -> None:
    built = sample()
    text = server.index(index([{**built.descriptor, "digest": digest}]))
    with pytest.raises(InvalidImageError, match="digest"):
        registry.resolve(reference(text), AMD64)
    assert server.count("") == 1


def test_a_config_that_is_not_what_the_manifest_says(
    server: RegistryServer, registry: Registry, tmp_path: Path
) -> None:
    built = sample()
    resolved = registry.resolve(reference(server.add(built)))
    server.blob("app", built.config[:-1] + b" ", sha256(built.config))
    with pytest.raises(InvalidImageError, match=r"config sha256:\w+ is damaged"):
        registry.image(resolved, partials=tmp_path)
    server.on("/blobs/", endless())
    with pytest.raises(ImagePullFailedError, match="answers with more than 4194304 bytes for config"):
        registry.image(resolved, partials=tmp_path)


def test_a_config_that_is_too_large_is_not_fetched(
    server: RegistryServer, registry: Registry, tmp_path: Path
) -> None:
    built = sample()
    document = json.loads(built.manifest)
    document["config"]["size"] = 1 << 30
    text = server.index(compact_json(document), type=built.manifest_media_type)
    resolved = registry.resolve(reference(text))
    with pytest.raises(InvalidImageError, match="is 1073741824 bytes long; at most 4194304 are supported"):
        registry.image(resolved, partials=tmp_path)
    assert server.count("/blobs/") == 0


def test_nothing_listens() -> None:
    with RegistryServer() as server:
        pass
    with (
        Registry(server.host, RegistryOptions()) as registry,
        pytest.raises(
            ImagePullFailedError, match=r"cannot be reached \(Connection refused\); check the registry's name"
        ),
    ):
        registry.resolve(reference(f"{server.host}/app:1"))


def test_http_is_imported_only_when_a_registry_is_used() -> None:
    import subprocess
    import sys

    code = (
        "import sys, msb_cache.cli.main, msb_cache.oci.registry.credentials, msb_cache.oci.registry.options;"
        "print('urllib3' in sys.modules, 'http.client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
