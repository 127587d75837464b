"""What msb pulled from a real registry, in all forms of manifests: sizes, documents, saved archives."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from msb_cache import CorruptArtifactError, ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.oci.reference import Reference
from tests.imagebuilder import (
    OCI_CONFIG,
    OCI_INDEX,
    BuiltImage,
    BuiltLayer,
    compact_json,
    directory,
    docker_archive,
    file,
    image,
    index,
    layer,
    sha256,
)
from tests.oci.registry.test_peers import Peers
from tests.peers.realmsb import Msb, copied, short_home
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.peer

CONFIG = {
    "Env": ["A=1"],
    "Cmd": ["/bin/sh"],
    "Labels": {"k": "v"},
    "StopSignal": "SIGQUIT",
    "ExposedPorts": {"80/tcp": {}, "22/tcp": {}},
    "Volumes": {"/v": {}},
}
BOTTOM = layer([directory("etc"), file("etc/name", b"bottom\n" * 900)], "gzip")
TOP = layer([file("top", b"top" * 5000)], "gzip")
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True)
class Pushed(BuiltImage):
    """An image whose manifest is written as some tool writes it."""

    indent: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    of_layers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> bytes:
        document = json.loads(super().manifest)
        document["layers"] = [{**each, **self.of_layers} for each in document["layers"]]
        document |= self.more
        return (
            compact_json(document)
            if self.indent is None
            else json.dumps(document, indent=self.indent).encode()
        )


def pushed(*layers: BuiltLayer, config: Mapping[str, Any] | None = CONFIG, **form: Any) -> Pushed:
    built = image(layers or (BOTTOM, TOP), config=config)
    return Pushed(built.config, built.layers, **form)


def without_config() -> Pushed:
    rootfs = {"type": "layers", "diff_ids": [BOTTOM.diff_id]}
    document = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
    return Pushed(json.dumps(document, indent=2).encode(), (BOTTOM,))


ANNOTATED = {"annotations": {"org.opencontainers.image.created": "2020-01-01T00:00:00Z"}, "unknown": [1]}
IMAGES = {
    "compact": pushed(),
    "indented": pushed(indent=3),  # as docker push and BuildKit write it
    "annotated": pushed(more=ANNOTATED, of_layers={"annotations": {"a": "b"}}),
    "docker": pushed(indent=3, manifest_media_type=DOCKER, of_layers={"mediaType": DOCKER_LAYER}),
    # A layer that msb knows by then, under another compression.
    "plain": pushed(layer(BOTTOM.tar), TOP),
    "twice": pushed(BOTTOM, BOTTOM, TOP, config={}, indent=2),
    "bare": without_config(),
}


def push(host: str, name: str, built: BuiltImage) -> str:
    """Put an image into a registry as it is, behind an index; return its reference."""

    def send(method: str, address: str, data: bytes, kind: str) -> str:
        request = Request(address, data, {"Content-Type": kind}, method=method)
        with urlopen(request, timeout=10) as answer:
            return str(answer.headers.get("Location", ""))

    base = f"http://{host}/v2/{name}"
    for digest, data in built.blobs.items():
        if digest == built.digest:
            continue
        location = send("POST", f"{base}/blobs/uploads/", b"", OCI_CONFIG)
        address = f"http://{host}{urlsplit(location).path}?{urlsplit(location).query}&digest={digest}"
        send("PUT", address, data, "application/octet-stream")
    send("PUT", f"{base}/manifests/{built.digest}", built.manifest, built.manifest_media_type)
    send("PUT", f"{base}/manifests/1", index([built.descriptor]), OCI_INDEX)
    return f"{host}/{name}:1"


@dataclass(frozen=True)
class Home:
    """A home that msb filled, and the references in it by the names of the images."""

    msb: Msb
    names: Mapping[str, str]

    def metadata(self, name: str) -> Path:
        return Layout(self.msb.home).metadata(Reference.parse(self.names[name]).canonical)

    def change(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.msb.home / "db" / "msb.db")) as connection, connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(scope="module")
def filled(
    msb: str, require_peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("registry")
    peers = Peers(require_peer("docker-registry"), require_peer("skopeo"), folder)
    with short_home() as home, peers.running() as host:
        real = Msb(msb, home, home)
        names = {name: push(host, name, built) for name, built in IMAGES.items()}
        for name in names.values():
            real("pull", "-q", "--insecure", name)
        yield Home(real, names)


@pytest.fixture
def home(filled: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Yield a copy of that home."""
    monkeypatch.setenv("MSB_PATH", filled.msb.program)
    with short_home() as copy:
        copied(filled.msb.home, copy)
        yield replace(filled, msb=Msb(filled.msb.program, copy, copy))


def shown(cache: ImageCache, reference: str) -> dict[str, Any]:
    """Return what ``inspect`` tells, with the names of msb's."""
    detail = cache.inspect(reference)
    handle, config = detail.handle, detail.config
    fields = ("digest", "env", "cmd", "entrypoint", "working_dir", "user", "labels")
    return {
        "reference": handle.reference,
        "digest": handle.manifest_digest,
        "size_bytes": handle.size_bytes,
        "layer_count": handle.layer_count,
        "config": None if config is None else {name: getattr(config, name) for name in fields},
        "layers": [
            {
                name: getattr(each, name)
                for name in ("diff_id", "blob_digest", "media_type", "compressed_size_bytes", "position")
            }
            for each in detail.layers
        ],
    }


def same(cache: ImageCache, home: Home) -> None:
    """Every image is told as msb's own ``inspect`` and ``ls`` tell it."""
    theirs = home.msb.json("image", "ls")
    sizes = {each["reference"]: each["size_bytes"] for each in theirs}
    assert {handle.reference: handle.size_bytes for handle in cache.list()} == sizes
    undated = {each["reference"] for each in theirs if each["created_at"] is None}
    assert {handle.reference for handle in cache.list() if handle.created_at is None} == undated
    for reference in home.names.values():
        theirs = home.msb.json("image", "inspect", reference)
        for each in theirs["layers"]:
            each.pop("erofs_size_bytes")
        if theirs["config"] is not None:
            theirs["config"].pop("stop_signal")
        mine = shown(cache, reference)
        assert mine == {name: theirs[name] for name in mine}


def test_sizes_and_details_are_msbs(home: Home) -> None:
    with ImageCache(home.msb.home) as cache:
        same(cache, home)
        assert cache.get(home.names["plain"]).size_bytes == len(BOTTOM.tar) + len(TOP.blob)
        for name, signal in (("indented", "SIGQUIT"), ("bare", None)):
            config = cache.inspect(home.names[name]).config
            assert config is not None
            assert config.stop_signal == signal
        recorded = cache.sync(force=True)
        assert recorded.events == ()


def test_what_msbs_database_lacks_is_not_known(home: Home) -> None:
    home.change(
        "UPDATE manifest SET total_size_bytes = NULL WHERE id = 1",
        "UPDATE layer SET compressed_size_bytes = NULL, media_type = NULL WHERE id = 1",
        "DELETE FROM config WHERE manifest_id = 2",
        """UPDATE config SET labels = '[1,{"a":null}]' WHERE manifest_id = 3""",
        "UPDATE config SET labels = '-7.5' WHERE manifest_id = 4",
        "UPDATE config SET env = NULL WHERE manifest_id = 5",
        "UPDATE image_ref SET created_at = NULL WHERE id = 6",
    )
    with ImageCache(home.msb.home) as cache:
        same(cache, home)
        assert cache.get(home.names["compact"]).size_bytes is None
        assert cache.inspect(home.names["indented"]).config is None
        assert cache.sync(force=True).events == ()
        assert cache.verify().sound


ASK = """
import asyncio, json, sys
from SDK import Image

async def main():
    told = []
    for name in sys.argv[1:]:
        detail = await Image.inspect(name)
        config, layers = detail.config, detail.layers
        told.append([detail.handle.size_bytes, detail.handle.layer_count, config and config.labels])
        told.append([config and config.stop_signal, [each.erofs_size_bytes for each in layers]])
        told.append([[each.media_type, each.compressed_size_bytes] for each in layers])
    print(json.dumps(told))

asyncio.run(main())
"""


def test_what_the_sdk_tells_otherwise(home: Home, sdk_python: Path) -> None:
    """The stop signal, labels that are no object, and sizes of layer images: docs/library.md says so."""
    home.change("UPDATE config SET labels = '[1]' WHERE manifest_id = 1", "DELETE FROM config WHERE id = 2")
    home.change("UPDATE layer SET compressed_size_bytes = NULL WHERE id = 1")
    names = [home.names[name] for name in ("compact", "indented", "annotated")]
    environment = {**os.environ, "MSB_HOME": str(home.msb.home), "MSB_BACKEND": "local"}

    def told(python: Path | str, sdk: str) -> Any:
        command = [str(python), "-c", ASK.replace("SDK", sdk), *names]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    mine, theirs = told(sys.executable, "msb_cache"), told(sdk_python, "microsandbox")
    (labels, signals, sizes), (their_labels, their_signals, their_sizes) = (
        ([each[0][2] for each in by], [each[1][0] for each in by], [each[1][1] for each in by])
        for by in ([found[at : at + 3] for at in (0, 3, 6)] for found in (mine, theirs))
    )
    assert (labels, their_labels) == ([[1], None, {"k": "v"}], [{}, None, {"k": "v"}])
    assert (signals, their_signals) == (["SIGQUIT", None, "SIGQUIT"], [None] * 3)
    assert all(size for each in sizes for size in each)
    assert their_sizes == [[None, None]] * 3
    assert [each[:2] for each in mine[::3]] == [each[:2] for each in theirs[::3]]
    assert mine[2::3] == theirs[2::3]


def test_what_msb_wrote_is_sound_and_a_byte_that_changes_is_found(home: Home) -> None:
    with ImageCache(home.msb.home) as cache:
        for name in IMAGES:
            found = json.loads(home.metadata(name).read_bytes())
            rewritten = sha256(found["raw_manifest_json"].encode()) != found["manifest_digest"]
            assert rewritten, f"msb keeps {name} as it came: what else could be tested with it?"
        assert (cache.verify().sound, cache.verify().disk) == (True, [])
        path = home.metadata("annotated")
        content = path.read_bytes()
        for changed in (
            content.replace(b"2020-01-01", b"2020-01-02"),
            content.replace(b'\\"a\\":\\"b\\"', b'\\"a\\":\\"c\\"'),
            content.replace(b"A=1", b"A=2"),
            content.replace(b'"SIGQUIT"', b'"SIGQUIP"'),
        ):
            assert changed != content
            path.write_bytes(changed)
            (problem,) = cache.verify().disk
            assert (problem.kind, problem.path) == ("metadata", path)
            assert problem.problem in ("other", "damaged")
            # Neither a sync nor a use takes it for what came.
            cache.sync(force=True)
            home.change("UPDATE image_ref SET updated_at = '2099-01-01 00:00:00.0' WHERE id = 3")
            cache.sync(force=True)
            assert not cache.verify().sound
        path.write_bytes(content)
        assert cache.verify().sound


def archived(content: bytes) -> list[tuple[dict[str, Any], list[list[tuple[Any, ...]]]]]:
    """Return a docker archive's images: the config but for its diff IDs, and the entries of each layer."""
    images = []
    with tarfile.open(fileobj=BytesIO(content)) as archive:

        def member(name: str) -> bytes:
            found = archive.extractfile(name)
            assert found is not None
            return found.read()

        for each in json.loads(member("manifest.json")):
            config = json.loads(member(each["Config"]))
            config["rootfs"].pop("diff_ids")
            layers = [entries(member(name)) for name in each["Layers"]]
            images.append((config | {"names": each["RepoTags"]}, layers))
    return images


def entries(content: bytes) -> list[tuple[Any, ...]]:
    with tarfile.open(fileobj=BytesIO(content)) as tar:
        found = []
        for each in tar:
            data = tar.extractfile(each)
            about = (each.name, each.mode, each.uid, each.gid, each.mtime, each.type, each.linkname)
            found.append((*about, None if data is None else data.read()))
        return sorted(found)


def saved_by_both(cache: ImageCache, home: Home, *references: str) -> None:
    for format in ("docker", "oci"):
        mine, theirs = home.msb.home / "mine.tar", home.msb.home / "theirs.tar"
        cache.save(references, mine, format=format)
        home.msb("save", *references, "-o", str(theirs), "--format", format)
        if format == "docker":
            assert archived(mine.read_bytes()) == archived(theirs.read_bytes())
            continue
        for number, archive in enumerate((mine, theirs)):
            with ImageCache(home.msb.home / f"loaded-{number}", engine="own") as loaded:
                assert [each.reference for each in loaded.load(archive)] == [*references]
                assert loaded.verify().sound


def test_what_msb_saves_is_saved(home: Home) -> None:
    with ImageCache(home.msb.home) as cache:
        for name in IMAGES:
            saved_by_both(cache, home, home.names[name])


def test_an_image_is_saved_without_what_a_save_does_not_need(home: Home) -> None:
    """As by msb. But one whose config is not the one that came is not: msb saves it, as if it were."""
    layout, reference = Layout(home.msb.home), home.names["indented"]
    for name in IMAGES:
        for path in (layout.fsmeta(IMAGES[name].digest), layout.vmdk(IMAGES[name].digest)):
            path.unlink()
    path = home.metadata("indented")
    content = path.read_bytes()
    document = json.loads(content)
    path.write_text(json.dumps(document | {"raw_manifest_json": "none"}))
    with ImageCache(home.msb.home) as cache:
        saved_by_both(cache, home, reference)
        path.write_bytes(content.replace(b"A=1", b"A=2"))
        home.msb("save", reference, "-o", str(home.msb.home / "theirs.tar"))
        with pytest.raises(CorruptArtifactError, match=r"cannot be saved: the config .* load"):
            cache.save(reference, home.msb.home / "mine.tar")
        # Another reference to the same image has it.
        home.change(
            "UPDATE image_ref SET manifest_id = "
            f"(SELECT manifest_id FROM image_ref WHERE reference = '{reference}') WHERE id = 1"
        )
        other = home.metadata("compact")
        other.write_bytes(content)
        cache.save(reference, home.msb.home / "mine.tar")
        path.unlink()
        cache.save(reference, home.msb.home / "mine.tar")
        other.unlink()
        with pytest.raises(CorruptArtifactError, match=r"cannot be saved: the metadata file .* is missing"):
            cache.save(reference, home.msb.home / "mine.tar")


def test_a_manifest_that_was_loaded_and_then_pulled(home: Home, tmp_path: Path) -> None:
    """msb keeps what it loads as it is, and writes anew what it pulls: two files for one manifest."""
    built = IMAGES["compact"]
    (tmp_path / "loaded.tar").write_bytes(docker_archive(replace(built, names=("loaded:1",))))
    home.msb("load", "-q", "-i", str(tmp_path / "loaded.tar"))
    with ImageCache(home.msb.home) as cache:
        assert cache.get("loaded:1").manifest_digest == built.digest
        assert cache.verify().sound
        home.msb("image", "rm", home.names["compact"])
        assert cache.verify().sound


TEXTS, LISTS = ("WorkingDir", "User", "StopSignal"), ("Env", "Cmd", "Entrypoint")
FORMS: dict[str, dict[str, Any] | None] = {
    "full": CONFIG,
    "none": None,
    "empty": {},
    "nulls": dict.fromkeys((*TEXTS, *LISTS, "Labels", "Volumes")),
    "blanks": {**dict.fromkeys(TEXTS, ""), **{key: [] for key in LISTS}, "Labels": {}},
    "labels": {"Labels": {"a": "", "é\n": "\u2028"}},
    "order": {"ExposedPorts": {"9/tcp": {}, "10/udp": {}}, "Volumes": {"/z": {}, "/a": {}}},
}


def test_msb_reads_the_cache_that_we_wrote(msb: str, tmp_path: Path) -> None:
    """It fetches nothing, and leaves our metadata as it is."""
    with RegistryServer() as registry, short_home() as home:
        real, layout = Msb(msb, home, tmp_path), Layout(home)
        names = {
            form: registry.add(pushed(BOTTOM, TOP, config=config, indent=3), form)
            for form, config in FORMS.items()
        }
        names["bare"] = registry.add(without_config(), "bare")
        with ImageCache(home, engine="own") as cache:
            wrote = {}
            for name in names.values():
                cache.pull(name)
                path = layout.metadata(Reference.parse(name).canonical)
                wrote[path] = path.read_bytes()
        asked = len(registry.requests)
        for name in names.values():
            real("pull", "-q", "--insecure", name)
        assert len(registry.requests) == asked, [each.path for each in registry.requests[asked:]]
        assert {path: path.read_bytes() for path in wrote} == wrote
        with ImageCache(home) as cache:
            assert cache.verify().sound
