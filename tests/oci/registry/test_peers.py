"""Pulls from Debian's docker-registry, filled by skopeo: plain, with htpasswd, and with a token server."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceImage
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.downloads import LayerProgress
from msb_cache.oci.registry.images import Registry
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import BuiltImage, compact_json, index, oci_archive, oci_directory, sample, sha256
from tests.registry_server import Content, Handler, RegistryServer, answer

pytestmark = pytest.mark.peer

FAST = RegistryOptions(timeout=5, retries=1, backoff=0.01)
# bcrypt's own test vector: nothing in Python's standard library makes one.
USER, PASSWORD = "alice", "U*U"
HTPASSWD = f"{USER}:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Peers:
    """Starts docker-registry and fills it with skopeo."""

    def __init__(self, registry: str, skopeo: str, folder: Path) -> None:
        self.registry = registry
        self.skopeo = skopeo
        self.folder = folder

    @contextmanager
    def running(self, auth: dict[str, Any] | None = None) -> Iterator[str]:
        host = f"127.0.0.1:{free_port()}"
        config = {
            "version": 0.1,
            "log": {"accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}},
            "http": {"addr": host},
            **({"auth": auth} if auth else {}),
        }
        path = self.folder / "config.yml"
        path.write_text(json.dumps(config))
        with (
            (self.folder / "log").open("wb") as log,
            subprocess.Popen([self.registry, "serve", path], stdout=log, stderr=log) as process,
        ):
            try:
                deadline = time.monotonic() + 10
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", int(host.partition(":")[2])), 1).close()
                        break
                    except OSError:
                        assert process.poll() is None, (self.folder / "log").read_text()
                        assert time.monotonic() < deadline
                        time.sleep(0.02)
                yield host
            finally:
                process.terminate()

    def push(self, source: str, name: str, *more: str) -> None:
        done = subprocess.run(
            [
                self.skopeo,
                "--insecure-policy",
                "copy",
                "--dest-tls-verify=false",
                *more,
                source,
                f"docker://{name}",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def archive(self, built: BuiltImage) -> str:
        path = self.folder / f"{built.digest[7:19]}.tar"
        path.write_bytes(oci_archive(built))
        return f"oci-archive:{path}"


@pytest.fixture
def peers(require_peer: Callable[[str], str], tmp_path: Path) -> Peers:
    require_peer("root")  # skopeo gives the files of an oci-archive their owners
    return Peers(require_peer("docker-registry"), require_peer("skopeo"), tmp_path)


def pull(
    name: str, folder: Path, login: Credential | None = None, platform: Platform | None = None
) -> SourceImage:
    reference = Reference.parse(name)
    with Registry(reference, FAST, login) as registry:
        found = registry.image(registry.resolve(reference, platform), partials=folder / "partials")
        for each in found.layers:
            each.verify_only()
    assert list((folder / "partials").iterdir()) == []
    return found


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_skopeo_pushed(peers: Peers, tmp_path: Path, compression: str) -> None:
    built = sample(compression=compression)
    with peers.running() as host:
        name = f"{host}/deep/er/app:1"
        peers.push(peers.archive(built), name)
        found = pull(name, tmp_path)
        assert (found.manifest, found.config) == (built.manifest, built.config)
        assert pull(f"{host}/deep/er/app@{built.digest}", tmp_path).manifest == built.manifest
        with pytest.raises(
            ImagePullFailedError, match=r"is not in the registry .*MANIFEST_UNKNOWN.*; check the name"
        ):
            pull(f"{host}/deep/er/app:2", tmp_path)


def test_docker_manifests(peers: Peers, tmp_path: Path) -> None:
    built = sample(compression="gzip")
    with peers.running() as host:
        peers.push(peers.archive(built), f"{host}/app:1", "--format=v2s2")
        found = pull(f"{host}/app:1", tmp_path)
        assert found.manifest_media_type == "application/vnd.docker.distribution.manifest.v2+json"
        assert [each.blob_digest for each in found.layers] == [each.digest for each in built.layers]


def test_several_platforms(peers: Peers, tmp_path: Path) -> None:
    images = [sample(architecture=name, seed=name, compression="gzip") for name in ("amd64", "arm64")]
    document = index([each.descriptor for each in images])
    listed = {
        "mediaType": json.loads(document)["mediaType"],
        "digest": sha256(document),
        "size": len(document),
    }
    layout = oci_directory(
        tmp_path / "layout", *images, manifests=[listed], blobs={sha256(document): document}
    )
    with peers.running() as host:
        peers.push(f"oci:{layout}", f"{host}/app:1", "--all")
        for each in images:
            found = pull(f"{host}/app:1", tmp_path, platform=Platform("linux", each.architecture))
            assert found.manifest_digest == each.digest


def test_a_broken_download_goes_on(peers: Peers, tmp_path: Path) -> None:
    built = sample(compression="gzip")
    layer = built.layers[0]
    events: list[LayerProgress] = []
    with peers.running() as host:
        peers.push(peers.archive(built), f"{host}/app:1")
        folder = tmp_path / "partials"
        folder.mkdir()
        (folder / f"{layer.digest[7:]}.partial").write_bytes(layer.blob[:100])
        reference = Reference.parse(f"{host}/app:1")
        with Registry(reference, FAST) as registry:
            found = registry.image(registry.resolve(reference), partials=folder, progress=events.append)
            found.layers[0].verify_only()
        assert [(each.event, each.done) for each in events] == [
            ("resumed", 100),
            ("bytes", len(layer.blob)),
            ("done", len(layer.blob)),
        ]
        assert list(folder.iterdir()) == []


def test_htpasswd(peers: Peers, tmp_path: Path) -> None:
    built = sample(compression="gzip")
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with peers.running({"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}) as host:
        peers.push(peers.archive(built), f"{host}/app:1", f"--dest-creds={USER}:{PASSWORD}")
        assert pull(f"{host}/app:1", tmp_path, Credential(USER, PASSWORD)).manifest == built.manifest
        with pytest.raises(ImagePullFailedError, match="does not exist or needs a login"):
            pull(f"{host}/app:1", tmp_path)
        with pytest.raises(ImagePullFailedError, match="'alice' may not pull it"):
            pull(f"{host}/app:1", tmp_path, Credential(USER, "wrong"))


def test_signed_tokens(peers: Peers, tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    openssl = require_peer("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    der = "".join(certificate.read_text().split("-----")[2].split())

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    def token(handler: Handler, content: Content) -> None:
        scope = parse_qs(urlsplit(handler.path).query).get("scope", ["::"])[0]
        kind, name, actions = scope.split(":")
        trusted = (handler.request.authorization or "").startswith("Basic ")
        allowed = [each for each in actions.split(",") if trusted or (name == "open" and each == "pull")]
        now = int(time.time())
        claims = {
            "iss": "test",
            "sub": "",
            "aud": "test",
            "jti": str(time.monotonic_ns()),
            "exp": now + 60,
            "nbf": now - 60,
            "iat": now,
            "access": [{"type": kind, "name": name, "actions": allowed}] if kind else [],
        }
        signed = encoded(compact_json({"typ": "JWT", "alg": "RS256", "x5c": [der]})) + b"."
        signed += encoded(compact_json(claims))
        signature = subprocess.run(
            [openssl, "dgst", "-sha256", "-sign", key], input=signed, check=True, capture_output=True
        ).stdout
        issued = (signed + b"." + encoded(signature)).decode()
        answer(200, json.dumps({"token": issued, "expires_in": 60}).encode())(handler, content)

    built = sample(compression="gzip")
    with RegistryServer() as tokens:
        tokens.on("/token", token, always=True)
        auth = {
            "token": {
                "realm": f"http://{tokens.host}/token",
                "service": "test",
                "issuer": "test",
                "rootcertbundle": str(certificate),
            }
        }
        with peers.running(auth) as host:
            for name in ("open", "closed"):
                peers.push(peers.archive(built), f"{host}/{name}:1", f"--dest-creds={USER}:{PASSWORD}")
            assert pull(f"{host}/open:1", tmp_path).manifest == built.manifest
            assert pull(f"{host}/closed:1", tmp_path, Credential(USER, PASSWORD)).manifest == built.manifest
            with pytest.raises(ImagePullFailedError, match="closed does not exist or needs a login"):
                pull(f"{host}/closed:1", tmp_path)


@pytest.mark.slow
def test_a_real_debian(peers: Peers, tmp_path: Path, debian_image: Any) -> None:
    with peers.running() as host, open_archive(debian_image.oci_archive, tmp_path) as archive:
        peers.push(f"oci-archive:{debian_image.oci_archive}", f"{host}/debian:bookworm")
        found = pull(f"{host}/debian:bookworm", tmp_path)
        (expected,) = archive.images
        assert (found.manifest, found.config) == (expected.manifest, expected.config)
