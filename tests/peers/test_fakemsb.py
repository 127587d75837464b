"""The fast tests' fake msb beside the real one: the same commands give the same words, rows and files."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive, file, image, layer, oci_archive
from tests.peers.realmsb import IMAGES, short_home
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.peer

NAMELESS = image([layer([file("x", b"nameless")])])
PULLED = image([layer([file("pulled", b"p" * 5000)], "gzip")])
OTHER = image([layer([file("other", b"o" * 5000)], "gzip")], "other:1")
_SECONDS = re.compile(r" \(\d+\.\d+s\)$")
"""What msb says behind the name of an image that took long."""


class Run:
    """A program with a home, and what it did last."""

    def __init__(self, program: str, home: Path, archives: Path) -> None:
        self._program, self.home, self._archives = program, home, archives

    def __call__(self, words: Sequence[str], *, stdin: Path | None = None) -> tuple[int, list[str], Any]:
        """Run a command in the folder of the archives; return its code, its lines, and its JSON."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MSB_")}
        with (stdin or Path(os.devnull)).open("rb") as source:
            done = subprocess.run(
                [self._program, *words],
                env={**environment, "MSB_HOME": str(self.home), "MSB_BACKEND": "local", "NO_COLOR": "1"},
                cwd=self._archives,
                stdin=source,
                capture_output=True,
                text=True,
                timeout=60,
            )

        lines = [_SECONDS.sub("", line.strip()) for line in done.stderr.splitlines() if line.strip()]
        if "pull" in words:  # the address of what cannot be had is the HTTP client's to word
            lines = [line.partition(" for url")[0] for line in lines]
        reported = json.loads(done.stdout) if "--format" in words else None
        if isinstance(reported, dict):  # the artifacts of the fake are smaller
            reported["bytes_reclaimed"] = reported["bytes_reclaimed"] is not None
        return done.returncode, lines, reported

    def change(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.home / "db" / "msb.db")) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            for statement in statements:
                connection.execute(statement)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        with closing(sqlite3.connect(self.home / "db" / "msb.db")) as connection:
            return {name: connection.execute(query).fetchall() for name, query in COMPARED.items()}

    def times(self) -> dict[str, tuple[Any, ...]]:
        """Return row, creation and last use of each reference."""
        query = "SELECT reference, id, created_at, updated_at FROM image_ref"
        with closing(sqlite3.connect(self.home / "db" / "msb.db")) as connection:
            return {row[0]: row[1:] for row in connection.execute(query)}

    def files(self) -> set[str]:
        """Return the artifacts in the cache, and its folders; the digests of flat roots the fake makes up."""
        cache = self.home / "cache"
        return {
            "a flat root" if path.suffix == ".raw" else str(path.relative_to(cache))
            for path in cache.rglob("*")
            if path.suffix != ".lock" and not path.name.startswith(".")
        }

    def documents(self) -> dict[str, Any]:
        return {
            path.name: json.loads(path.read_bytes())
            for path in (self.home / "cache/manifests").glob("*.json")
        }


COMPARED = {
    "references": "SELECT reference, digest FROM image_ref JOIN manifest m ON m.id = manifest_id ORDER BY 1",
    "manifests": "SELECT digest, media_type, config_digest, architecture, os, variant, layer_count, "
    "total_size_bytes FROM manifest ORDER BY 1",
    "configs": "SELECT m.digest, c.digest, env, cmd, entrypoint, working_dir, user, labels, stop_signal "
    "FROM config c JOIN manifest m ON m.id = c.manifest_id ORDER BY 1",
    "layers": "SELECT diff_id, blob_digest, media_type, compressed_size_bytes, erofs_size_bytes FROM layer "
    "ORDER BY 1",
    "their order": "SELECT digest, diff_id, position FROM manifest_layer "
    "JOIN manifest m ON m.id = manifest_id JOIN layer l ON l.id = layer_id ORDER BY 1, 3",
    "sandboxes": "SELECT name FROM sandbox JOIN sandbox_rootfs ON sandbox.id = sandbox_id ORDER BY 1",
}


@pytest.fixture
def both(msb: str, archives: Path, tmp_path: Path) -> Iterator[tuple[Run, Run]]:
    """Yield the real msb and the fake, each with a home that is not there yet."""
    good = (archives / "next.tar").read_bytes()
    folder = tmp_path / "archives"
    folder.mkdir()
    for path in archives.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "app-oci.tar").write_bytes(oci_archive(IMAGES["app"]))
    (folder / "nameless.tar").write_bytes(docker_archive(NAMELESS))
    (folder / "empty.tar").write_bytes(b"")
    (folder / "junk.tar").write_bytes(b"junk\n")
    (folder / "cut.tar").write_bytes(good[:9000])
    with short_home() as home:
        fake = FakeMsb(tmp_path / "bin", tmp_path / "home")
        yield Run(msb, home, folder), Run(str(fake.program), fake.home, folder)


class Same:
    """Runs a command with both, and compares."""

    def __init__(self, real: Run, fake: Run) -> None:
        self._both = real, fake

    def __call__(self, command: str, *, stdin: Path | None = None) -> None:
        before = [self._seen(run) for run in self._both]
        real, fake = (run(command.split(), stdin=stdin) for run in self._both)
        assert real == fake, command
        assert self._both[0].rows() == self._both[1].rows(), command
        assert self._both[0].documents() == self._both[1].documents(), command
        assert self._both[0].files() == self._both[1].files(), command
        moved = [_moved(was, run.times()) for was, run in zip(before, self._both, strict=True)]
        assert moved[0] == moved[1], command

    def change(self, *statements: str) -> None:
        for run in self._both:
            run.change(*statements)

    @contextmanager
    def leased(self, kind: str, name: str) -> Iterator[None]:
        """Have the lease of a file in both homes, as one has who uses it."""
        descriptors = []
        for run in self._both:
            lease = sha256(name.encode()).hexdigest()
            path = run.home / "cache" / kind / ".msb-leases" / f"{lease}.lock"
            descriptors.append(os.open(path, os.O_RDWR))
            fcntl.flock(descriptors[-1], fcntl.LOCK_SH)
        try:
            yield
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    @staticmethod
    def _seen(run: Run) -> dict[str, tuple[Any, ...]]:
        return run.times() if (run.home / "db" / "msb.db").exists() else {}


def _moved(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> dict[str, list[bool]]:
    """Return which of row, creation and last use are others than before, for each reference."""
    new = ("", "", "")
    return {
        name: [old != found for old, found in zip(before.get(name, new), row, strict=True)]
        for name, row in after.items()
    }


@pytest.fixture
def same(both: tuple[Run, Run]) -> Same:
    return Same(*both)


def hold(reference: str, name: str) -> tuple[str, str]:
    return (
        f"INSERT INTO sandbox (name, config, status) VALUES ('{name}', '{{}}', 'Stopped')",
        "INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) SELECT s.id, manifest_id, 'erofs' "
        f"FROM sandbox s, image_ref WHERE s.name = '{name}' AND reference = '{reference}'",
    )


@pytest.mark.parametrize(
    "first", ["ls", "image rm nothing:1", "image prune --yes --quiet", "load -i app.tar"]
)
def test_any_command_makes_the_database(same: Same, first: str) -> None:
    same(first)


def test_version(both: tuple[Run, Run], msb: str) -> None:
    assert [run(["--version"]) for run in both] == [(0, [], None)] * 2


def test_load(same: Same, tmp_path: Path) -> None:
    for command in (
        "load --input app.tar",
        "load --input app.tar",
        "load --input next.tar --tag newer",
        "load --input app-oci.tar",
        "load -q -i two.tar",
        "load -i alone.tar --tag docker.io/library/alone:1",
        f"load -i alone.tar --tag {'d' * 64}",
        "load -i nameless.tar",
        "load -i nameless.tar --tag x:1 --tag y:2",
        "load -i nothing.tar",
        "load -i junk.tar",
        "load -i empty.tar",
        "load -i cut.tar",
        "load -i app.tar --tag BAD::x",
    ):
        same(command)
    same("load", stdin=tmp_path / "archives" / "next.tar")
    same("load", stdin=tmp_path / "archives" / "empty.tar")


def test_remove(same: Same) -> None:
    for command in (
        "load -q -i app.tar",
        "load -q -i next.tar --tag newer",
        "load -q -i two.tar",
        "load -q -i alone.tar --tag docker.io/library/alone:1",
        "image rm alone",
        "image rm -- alone:1",
        "image remove -- nothing:1 newer",
        "image rm two:latest",
        "image rm -- alone:1 docker.io/library/alone:1",
        "image rm -- example.org/team/two:2 example.org/team/two:2",
        "load -q -i alone.tar --tag docker.io/library/alone:1",
        "image rm -- alone:1 docker.io/library/alone:1",
        "load -q -i next.tar --tag docker.io/library/app:1",
        "load -q -i app.tar",
        "image prune --yes --format json",
    ):
        same(command)


def test_held(same: Same) -> None:
    for command in ("load -q -i app.tar", "load -q -i two.tar", "load -q -i alone.tar"):
        same(command)
    same.change(*hold("app:1", "dev"), *hold("two:latest", "ops"))
    for command in (
        "image remove -- app:1 alone:1 nothing:1",
        "image prune --yes --format json",
        "load -q -i alone.tar",
        "image prune --yes --format json",
        "load -q -i next.tar",
        "image rm app:1",
        "image prune --yes --format json",
        "image remove --force -- two:latest",
        "image remove -f -- example.org/team/two:2",
        "image prune --yes --quiet",
    ):
        same(command)
    same.change("DELETE FROM sandbox")
    same("image prune --yes --format json")
    same("image prune --yes --format json")


def test_leased(same: Same) -> None:
    alone = IMAGES["alone"]
    manifest, shared = (each.replace(":", "_") for each in (alone.digest, IMAGES["app"].layers[0].diff_id))
    metadata = sha256(b"docker.io/library/alone:1").hexdigest() + ".json"
    for kind, name in (
        ("layers", f"{shared}.erofs"),
        ("fsmeta", f"{manifest}.erofs"),
        ("vmdk", f"{manifest}.vmdk"),
        ("manifests", metadata),
    ):
        for command in ("load -q -i app.tar", "load -q -i alone.tar"):
            same(command)
        with same.leased(kind, name):
            for command in ("image rm -- alone:1", "image rm -- app:1", "image prune --yes --format json"):
                same(command)
        same("image prune --yes --format json")


def test_pull(both: tuple[Run, Run], same: Same, tmp_path: Path) -> None:
    same("load -q -i app.tar")
    same("pull --quiet -- app:1")
    same("pull --quiet -- docker.io/library/app:1")
    same("pull --quiet -- 127.0.0.1:1/x:1")
    same("pull --quiet --force -- 127.0.0.1:1/x:1")
    with RegistryServer() as server:
        reference = server.add(PULLED)
        # A folder of images is the fake's registry.
        name = sha256(reference.encode()).hexdigest()
        (tmp_path / "bin" / "registry" / f"{name}.tar").write_bytes(oci_archive(PULLED))
        same(f"pull --quiet --insecure -- {reference}")
        same(f"pull --quiet --insecure -- {reference}")
        same(f"pull --quiet --force --insecure -- {reference}")
    same(f"image rm {reference}")


def test_pull_of_flat_roots(both: tuple[Run, Run], same: Same, tmp_path: Path) -> None:
    with RegistryServer() as server:
        references = [server.add(PULLED), server.add(OTHER, "other")]
        for reference, built in zip(references, (PULLED, OTHER), strict=True):
            name = sha256(reference.encode()).hexdigest()
            (tmp_path / "bin" / "registry" / f"{name}.tar").write_bytes(oci_archive(built))
        for how in ("flat", "flat", "layered", "all"):
            same(f"pull --quiet --insecure --materialize {how} -- {references[0]}")
        same(f"pull --quiet --insecure --materialize all -- {references[1]}")
        assert all(len(_flat_roots(run)) == 2 for run in both)
        real, fake = map(_flat_roots, both)
        assert [(ref, said.keys()) for ref, _, said in real] == [(ref, said.keys()) for ref, _, said in fake]
        assert [modes for _, modes, _ in real] == [modes for _, modes, _ in fake]
        for run in both:
            next((run.home / "cache/flat/refs").iterdir()).unlink()
        same(f"pull --quiet --insecure --materialize flat -- {references[0]}")
        same(f"pull --quiet --insecure --materialize flat -- {references[1]}")
    same(f"image rm {references[0]}")
    same("image prune --yes --format json")
    assert all(len(_flat_roots(run)) == 2 for run in both)


def _flat_roots(run: Run) -> list[tuple[str, dict[str, int], dict[str, Any]]]:
    """Return of each flat root the manifest, the modes of its files, and what its ref says."""
    flat = run.home / "cache" / "flat"
    found = []
    for path in sorted((flat / "refs").glob("*.json")):
        said = json.loads(path.read_bytes())
        blob = flat / "blobs" / f"{said['artifact_digest'].replace(':', '_')}.raw"
        lock = flat / "locks" / f"{said['derivation_digest'].replace(':', '_')}.lock"
        assert blob.stat().st_size == said["virtual_size_bytes"] == 256 << 20
        assert blob.stat().st_blocks * 512 < 4 << 20
        # That is of version 4, variant 1: of the derivation's digits but for those that say so.
        assert said["uuid"][:12] == said["derivation_digest"][7:19]
        modes = {"ref": path.stat().st_mode, "blob": blob.stat().st_mode, "folder": flat.stat().st_mode}
        found.append((said["manifest_digest"], modes, said))
        assert lock.read_bytes() == b""
    return found


@pytest.mark.parametrize("name", ["app", "alone"])
def test_pull_of_what_msb_cache_has_loaded(
    both: tuple[Run, Run], same: Same, archives: Path, name: str
) -> None:
    for run in both:
        with ImageCache(run.home) as cache:
            cache.load(archives / f"{name}.tar", tag=f"127.0.0.1:1/{name}:1")
    same("ls")
    same(f"pull --quiet -- 127.0.0.1:1/{name}:1")
