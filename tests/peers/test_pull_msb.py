"""The same pull by msb and by us, from a real registry: equal inspect output."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from msb_cache.oci.registry.downloads import LayerProgress
from tests.imagebuilder import directory, file, image, layer, oci_archive
from tests.oci.registry.test_peers import Peers
from tests.registry_server import RegistryServer, slowly

pytestmark = pytest.mark.peer

CONFIG = {"Env": ["A=1"], "Cmd": ["/bin/sh"], "WorkingDir": "/w", "Labels": {"k": "v"}}
BUILT = image(
    [
        layer([directory("etc"), file("etc/name", b"n" * 9000)], "gzip"),
        layer([file("top", b"t" * 70_000)], "gzip"),
    ],
    "app:1",
    config=CONFIG,
)


@pytest.fixture
def peers(require_peer: Callable[[str], str], tmp_path: Path) -> Peers:
    require_peer("root")  # skopeo gives the files of an oci-archive their owners
    return Peers(require_peer("docker-registry"), require_peer("skopeo"), tmp_path)


def ours(cache: ImageCache, reference: str) -> dict[str, Any]:
    detail = cache.inspect(reference)
    assert detail.config is not None
    config = {name: getattr(detail.config, name) for name in ("digest", "env", "cmd", "entrypoint")}
    config |= {name: getattr(detail.config, name) for name in ("working_dir", "user", "labels")}
    layers = [
        {
            "diff_id": each.diff_id,
            "blob_digest": each.blob_digest,
            "media_type": each.media_type,
            "compressed_size_bytes": each.compressed_size_bytes,
            "position": each.position,
        }
        for each in detail.layers
    ]
    handle = detail.handle
    return {
        "reference": handle.reference,
        "digest": handle.manifest_digest,
        "size_bytes": handle.size_bytes,
        "layer_count": handle.layer_count,
        "config": config,
        "layers": layers,
    }


def test_both_pull_the_same(peers: Peers, msb: str, tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(oci_archive(BUILT))
    with peers.running() as host, ImageCache(tmp_path / "ours") as cache:
        reference = f"{host}/team/app:1"
        peers.push(f"oci-archive:{tmp_path / 'app.tar'}", reference)
        cache.pull(reference)
        environment = {"MSB_HOME": str(tmp_path / "theirs"), "HOME": str(tmp_path)}

        def run(*words: str) -> str:
            command = [msb, *words]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            return done.stdout

        run("pull", "-q", "--insecure", reference)
        theirs = json.loads(run("image", "inspect", reference, "--format", "json"))
        found = ours(cache, reference)
        for key in ("reference", "digest", "size_bytes", "layer_count"):
            assert found[key] == theirs[key], key
        assert found["config"] == {key: theirs["config"][key] for key in found["config"]}
        for mine, other in zip(found["layers"], theirs["layers"], strict=True):
            assert mine == {key: other[key] for key in mine}
        names = {path.name for path in (tmp_path / "theirs/cache/layers").glob("*.erofs")}
        assert names == {path.name for path in (cache.home / "cache/layers").glob("*.erofs")}


def test_what_msb_pulls_is_told_of_as_it_comes(
    msb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_PATH", msb)
    home = tmp_path / "theirs"
    subprocess.run([msb, "image", "ls"], env={"MSB_HOME": str(home), "HOME": str(tmp_path)}, check=True)
    built = image([layer([file("slow", os.urandom(200_000))]), layer([file("other", os.urandom(100_000))])])
    seen: list[LayerProgress] = []
    with RegistryServer() as registry, ImageCache(home) as cache:
        reference = registry.add(built)
        for each in built.layers:
            registry.on(each.digest, slowly(1.5))
        cache.pull(reference, progress=seen.append)
    sizes = {each.digest: len(each.blob) for each in built.layers}
    assert {each.layer for each in seen} == sizes.keys()
    assert {each.event for each in seen} <= {"queued", "started", "bytes", "fetched"}
    coming = [each for each in seen if each.event == "bytes"]
    assert coming
    assert all(0 < each.done <= sizes[each.layer] for each in coming)
    for each in seen:
        assert each.total == (sizes[each.layer] if each.event == "fetched" else None)
