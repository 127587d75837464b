"""Beside the real msb, on the same archives: the same answers, the same counters, files that both can use.

msb runs in a home of its own, beside ours. Where the two rightly differ stands in one table, ``RIGHTFUL``.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.fsmeta import merge
from msb_cache.artifacts.layer import read_layer
from msb_cache.cli.main import run as run_cli
from msb_cache.errors import ImageInUseError, ImageNotFoundError
from msb_cache.oci.reference import Reference
from msb_cache.projections.moment import set_moment
from msb_cache.projections.state import load as load_state
from tests.artifacts.support import fsck, mounted, scan
from tests.artifacts.test_peers import comparable, differences
from tests.imagebuilder import (
    BuiltImage,
    directory,
    docker_archive,
    file,
    hardlink,
    image,
    layer,
    oci_archive,
    symlink,
)
from tests.peers.realmsb import Msb as RealMsb

pytestmark = pytest.mark.peer

HOUR = timedelta(hours=1)
RIGHTFUL: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    # key: why it may differ, and how it may (ours, msb's)
    "created_at": (
        "each says when it loaded the image itself",
        lambda ours, theirs: abs(datetime.fromisoformat(ours) - datetime.fromisoformat(theirs)) < HOUR,
    ),
    "config.stop_signal": (
        "msb knows it (it is in its metadata file) but never fills it in",
        lambda ours, theirs: theirs is None and ours.startswith("SIG"),
    ),
    "layers.erofs_size_bytes": (
        "msb never fills it in, we say how large the file is",
        lambda ours, theirs: theirs is None and ours % 4096 == 0,
    ),
    "architecture": (
        "msb shows the host's, we show what the image says",
        lambda ours, theirs: theirs == os.uname().machine.replace("x86_64", "amd64"),
    ),
    "os": ("msb shows the host's, we show what the image says", lambda ours, theirs: theirs == "linux"),
}

CONFIG = {
    "Env": ["PATH=/bin", "A=b"],
    "Cmd": ["/bin/sh", "-c", "echo hi"],
    "Entrypoint": ["/bin/env"],
    "WorkingDir": "/w",
    "User": "1:2",
    "Labels": {"k": "v", "l": ""},
    "StopSignal": "SIGINT",
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
}
BASE = layer(
    [
        directory("etc"),
        file("etc/name", b"base\n", uid=3, gid=4, mode=0o640),
        file("etc/gone", b"x" * 5000),
        directory("bin", mode=0o1777),
        file("bin/tool", b"tool" * 9000, mode=0o4755),
        hardlink("bin/same", "bin/tool"),
        symlink("lib", "usr/lib"),
    ]
)
APP_LAYER = layer([directory("app"), file("app/run", b"app" * 7000), file("etc/.wh.gone")], "gzip")
NEXT_LAYER = layer([directory("app"), file("app/run", b"next" * 9000)], "gzip")
OTHER_LAYER = layer([file("other", b"other" * 3000)])

APP = image([BASE, APP_LAYER], "app:1", "app:latest", config=CONFIG)
APP_NEXT = image([BASE, NEXT_LAYER], "app:1", config=CONFIG)
OTHER = image(
    [BASE, OTHER_LAYER], "example.org/team/other:2", config={"Cmd": ["/other"], "Labels": {"a": "b"}}
)
ALONE = image([OTHER_LAYER], "alone:1", config={"Cmd": ["/other"], "Labels": {"a": "b"}})

PRUNE = """
import asyncio, json, os
from microsandbox import Image
async def main():
    report = await Image.prune()
    names = [name for name in dir(report) if not name.startswith("_")]
    print(json.dumps({name: getattr(report, name) for name in names}), flush=True)
    os._exit(0)  # its runtime panics while Python shuts down
asyncio.run(main())
"""
FILES = {"manifests": ".json", "layers": ".erofs", "fsmeta": ".erofs", "vmdk": ".vmdk"}


class Home:
    """A home and the files in it, whoever owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache = path / "cache"

    def files(self) -> dict[str, int]:
        """Every artifact by its path in the cache, and its size."""
        return {
            str(found.relative_to(self.cache)): found.stat().st_size
            for folder, suffix in FILES.items()
            for found in self.cache.glob(f"{folder}/*{suffix}")
        }


class Msb(Home):
    """The real one."""

    def __init__(self, program: str, sdk_python: Path, path: Path) -> None:
        super().__init__(path)
        self.program, self.sdk_python = program, sdk_python

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MSB_HOME": str(self.path)}
        return subprocess.run(
            [self.program, *map(str, arguments)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
        )

    def done(self, *arguments: object) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def load(self, archive: Path) -> None:
        self.done("load", "-q", "-i", archive)

    def list(self) -> list[dict[str, Any]]:
        return json.loads(self.done("image", "list", "--format", "json"))  # type: ignore[no-any-return]

    def inspect(self, reference: str) -> dict[str, Any]:
        return json.loads(self.done("image", "inspect", reference, "--format", "json"))  # type: ignore[no-any-return]

    def hold(self, reference: str, name: str) -> None:
        RealMsb(self.program, self.path, self.path).create(reference, name)
        assert f"{name} " in self.done("list")

    def release(self, name: str) -> None:
        self.done("rm", name)

    def remove(self, reference: str, force: bool = False) -> str:
        done = self.run("image", "rm", *(["--force"] if force else []), reference)
        if done.returncode == 0:
            return "removed"
        return (
            "in use"
            if "in use" in done.stderr
            else "not found"
            if "not found" in done.stderr
            else done.stderr
        )

    def prune(self) -> dict[str, Any]:
        environment = {**os.environ, "MSB_HOME": str(self.path)}
        done = subprocess.run(
            [self.sdk_python, "-c", PRUNE],
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def index(self) -> dict[str, Any]:
        with closing(sqlite3.connect(f"file:{self.path}/db/msb.db?mode=ro", uri=True)) as connection:
            references = connection.execute(
                "SELECT reference, digest FROM image_ref JOIN manifest ON manifest.id = manifest_id"
            )
            return {
                "references": {Reference.parse(name).canonical: digest for name, digest in references},
                "manifests": {digest for (digest,) in connection.execute("SELECT digest FROM manifest")},
                "layers": {diff_id for (diff_id,) in connection.execute("SELECT diff_id FROM layer")},
            }


class Ours(Home):
    """The cache of this project, with the interface of the other."""

    def __init__(self, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        super().__init__(path)
        self._capfd = capfd

    def json(self, *arguments: str) -> Any:
        self._capfd.readouterr()
        assert run_cli(["--home", str(self.path), *arguments, "--format", "json"]) == 0
        return json.loads(self._capfd.readouterr().out)

    def load(self, archive: Path) -> None:
        with ImageCache(self.path) as cache:
            cache.load(archive)

    def list(self) -> list[dict[str, Any]]:
        return self.json("list")  # type: ignore[no-any-return]

    def inspect(self, reference: str) -> dict[str, Any]:
        return self.json("inspect", reference)  # type: ignore[no-any-return]

    def hold(self, reference: str, name: str) -> None:
        with ImageCache(self.path) as cache:
            cache.hold(reference, f"sandbox:{name}")

    def release(self, name: str) -> None:
        with ImageCache(self.path) as cache:
            cache.release(f"sandbox:{name}")

    def remove(self, reference: str, force: bool = False) -> str:
        with ImageCache(self.path) as cache:
            try:
                cache.remove(reference, force=force)
            except ImageInUseError:
                return "in use"
            except ImageNotFoundError:
                return "not found"
        return "removed"

    def prune(self) -> dict[str, Any]:
        return self.json("prune", "-y")  # type: ignore[no-any-return]

    def index(self) -> dict[str, Any]:
        with closing(sqlite3.connect(self.path / "db" / "msb-cache.db")) as connection:
            set_moment(connection, time.time_ns)
            state = load_state(connection)
        return {
            "references": state.references,
            "manifests": set(state.manifests),
            "layers": set(state.layers),
        }

    def verify(self) -> None:
        with ImageCache(self.path) as cache:
            assert cache.verify().sound


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory whose large files do not outlive the test."""
    with TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def pair(msb: str, sdk_python: Path, scratch: Path, capfd: pytest.CaptureFixture[str]) -> tuple[Ours, Msb]:
    # Paths of one length: they stand in the VMDK descriptors, whose sizes are compared.
    return Ours(scratch / "own", capfd), Msb(msb, sdk_python, scratch / "msb")


def archive_of(path: Path, *images: BuiltImage, format: str = "docker") -> Path:
    path.write_bytes(docker_archive(*images) if format == "docker" else oci_archive(*images))
    return path


# --- list and inspect ---------------------------------------------------------------------------


def flattened(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the path of keys to it; those of a list share one path."""
    if isinstance(document, dict) and prefix != "config.labels":
        for key, value in document.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(document, list) and document and isinstance(document[0], dict):
        yield f"{prefix} count", len(document)
        for number, value in enumerate(document):
            for key, found in value.items():
                yield f"{prefix}.{key} #{number}", found
    else:
        yield prefix, document


def unexplained(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What differs in a key that msb has, and is not in the table."""
    mine, found = dict(flattened(ours)), {}
    for key, value in flattened(theirs):
        if key not in mine:
            found[key] = ("missing", value)
        elif mine[key] != value:
            _, rightful = RIGHTFUL.get(key.partition(" #")[0], ("", lambda ours, theirs: False))
            if not rightful(mine[key], value):
                found[key] = (mine[key], value)
    return found


def synthetic(name: str) -> Callable[[Any, Path], Path]:
    images = {
        "docker": lambda path: archive_of(path, APP),
        "oci": lambda path: archive_of(path, APP, format="oci"),
        "several images": lambda path: archive_of(path, APP, OTHER, ALONE),
        "several images, oci": lambda path: archive_of(path, APP, OTHER, ALONE, format="oci"),
        "nothing configured": lambda path: archive_of(path, image([BASE], "bare:1")),
        "another machine": lambda path: archive_of(
            path, image([BASE], "far:1", architecture="s390x", os="linux")
        ),
        "no layers": lambda path: archive_of(path, image([], "none:1", config=CONFIG)),
        "one layer twice": lambda path: archive_of(path, image([BASE, APP_LAYER, BASE], "twice:1")),
        "zstd": lambda path: archive_of(
            path, image([layer([file("z", b"z" * 9999)], "zstd")], "zstd:1"), format="oci"
        ),
        "names spelled in full": lambda path: archive_of(
            path, image([BASE], "docker.io/library/full:1", "localhost:5000/a/b:c", "docker.io/user/x:latest")
        ),
    }
    return lambda request, path: images[name](path)


def copied(source: str, transport: str, *more: str) -> Callable[[Any, Path], Path]:
    """An archive that skopeo makes of a real image."""

    def make(request: Any, path: Path) -> Path:
        real = request.getfixturevalue("debian_image" if "debian" in source else "python_image")
        origin = real.docker_archive if "debian" in source else real
        request.getfixturevalue("require_peer")("skopeo")
        command = ["skopeo", "copy", "-q", *more, f"docker-archive:{origin}", f"{transport}:{path}:real:1"]
        subprocess.run(command, check=True, capture_output=True)
        return path

    return make


ARCHIVES: dict[str, Callable[[Any, Path], Path]] = {
    "debian, docker": lambda request, path: request.getfixturevalue("debian_image").docker_archive,
    "debian, oci": lambda request, path: request.getfixturevalue("debian_image").oci_archive,
    "debian, oci uncompressed": copied("debian", "oci-archive", "--dest-decompress"),
    "debian, two names": copied("debian", "docker-archive", "--additional-tag", "docker.io/library/second:2"),
    "python, docker": lambda request, path: request.getfixturevalue("python_image"),
    "python, oci": copied("python", "oci-archive"),
    **{
        name: synthetic(name)
        for name in (
            *("docker", "oci", "several images", "several images, oci", "nothing configured"),
            *("another machine", "no layers", "one layer twice", "zstd", "names spelled in full"),
        )
    },
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_list_and_inspect_agree(
    kind: str, pair: tuple[Ours, Msb], scratch: Path, request: pytest.FixtureRequest
) -> None:
    archive = ARCHIVES[kind](request, scratch / "archive.tar")
    ours, msb = pair
    theirs = msb.run("load", "-q", "-i", archive)
    if theirs.returncode:
        pytest.skip(f"msb does not load it: {theirs.stderr.strip()[:200]}")
    ours.load(archive)
    listed = {entry["reference"]: entry for entry in ours.list()}
    for entry in msb.list():
        mine = listed.pop(entry["reference"])
        assert unexplained(mine, entry) == {}
        assert unexplained(ours.inspect(entry["reference"]), msb.inspect(entry["reference"])) == {}
    assert listed == {}
    assert ours.index() == msb.index()
    # The same files, under the same names; those that hold no paths of the tool's own also compare.
    assert ours.files().keys() == msb.files().keys()
    ours.verify()


def test_the_table_of_differences_is_needed(pair: tuple[Ours, Msb], scratch: Path) -> None:
    """Each line of the table is about something that does differ; else it would hide mistakes."""
    ours, msb = pair
    far = image([BASE], "docker.io/library/far:1", architecture="s390x", os="freebsd", config=CONFIG)
    archive = archive_of(scratch / "a.tar", far)
    for home in pair:
        home.load(archive)
    mine = dict(flattened(ours.inspect("far:1")))
    [theirs] = msb.list()
    differing = {
        key.partition(" #")[0]
        for key, value in flattened(msb.inspect(theirs["reference"]))
        if mine.get(key) != value
    }
    assert differing == RIGHTFUL.keys()


# --- prune and remove ---------------------------------------------------------------------------

Step = tuple[Any, ...]
SCENARIOS: dict[str, list[Step]] = {
    "nothing there": [("prune",)],
    "one image with two references": [("load", APP), ("prune",), ("prune",)],
    "shared layers": [("load", APP), ("load", OTHER), ("load", ALONE), ("prune",)],
    "one of two references removed": [("load", APP), ("remove", "app:1"), ("prune",)],
    "both references removed": [("load", APP), ("remove", "app:1"), ("remove", "app:latest"), ("prune",)],
    "removed beside one that shares a layer": [
        ("load", APP),
        ("load", OTHER),
        ("remove", "example.org/team/other:2"),
        ("prune",),
    ],
    "removed twice": [("load", ALONE), ("remove", "alone:1"), ("remove", "alone:1"), ("prune",)],
    "removed and loaded again": [("load", ALONE), ("remove", "alone:1"), ("load", ALONE), ("prune",)],
    "retag leaves a dangling manifest": [
        ("load", image([BASE, APP_LAYER], "app:1", config=CONFIG)),
        ("load", APP_NEXT),
        ("prune",),
    ],
    "retag, then removed": [
        ("load", image([BASE, APP_LAYER], "app:1", config=CONFIG)),
        ("load", APP_NEXT),
        ("remove", "app:1"),
        ("prune",),
    ],
    "retag and back": [
        ("load", image([BASE, APP_LAYER], "app:1", config=CONFIG)),
        ("load", APP_NEXT),
        ("load", image([BASE, APP_LAYER], "app:1", config=CONFIG)),
        ("prune",),
    ],
    "held": [
        ("load", APP),
        ("load", OTHER),
        ("hold", "app:1", "dev"),
        ("remove", "app:1"),
        ("remove", "app:latest"),
        ("prune",),
        ("release", "dev"),
        ("prune",),
    ],
    "held by two": [
        ("load", ALONE),
        ("hold", "alone:1", "one"),
        ("hold", "alone:1", "two"),
        ("release", "one"),
        ("remove", "alone:1"),
        ("prune",),
        ("release", "two"),
        ("remove", "alone:1"),
        ("prune",),
    ],
    "held, then moved on": [
        ("load", APP),
        ("hold", "app:1", "dev"),
        ("load", APP_NEXT),
        ("remove", "app:1"),
        ("prune",),
        ("release", "dev"),
        ("prune",),
    ],
    "held and removed by force": [
        ("load", ALONE),
        ("load", OTHER),
        ("hold", "alone:1", "dev"),
        ("remove", "alone:1", True),
        ("prune",),
        ("release", "dev"),
        ("prune",),
    ],
    "force without a hold": [("load", ALONE), ("remove", "alone:1", True), ("prune",)],
}
LEAKED_BY_FORCE = "manifests/"  # msb leaves the metadata of a reference removed by force, for good
COUNTERS = (
    "image_refs_removed",
    "manifests_removed",
    "layers_removed",
    "fsmeta_removed",
    "vmdk_removed",
    "skipped_in_use",
)


@pytest.mark.parametrize(
    "name",
    [  # making a sandbox takes msb five seconds and more
        pytest.param(name, marks=pytest.mark.slow) if any(step[0] == "hold" for step in steps) else name
        for name, steps in SCENARIOS.items()
    ],
)
def test_prune_and_remove_agree(name: str, pair: tuple[Ours, Msb], scratch: Path) -> None:
    ours, msb = pair
    for home in pair:
        home.load(archive_of(scratch / "seed.tar", ALONE))  # so that there is a home to look at
        assert home.remove("alone:1") == "removed"
    forced = False
    for number, (what, *arguments) in enumerate(SCENARIOS[name]):
        step = f"step {number}: {what}"
        if what == "load":
            arguments = [archive_of(scratch / f"{number}.tar", *arguments)]
        forced = forced or (what == "remove" and len(arguments) > 1)
        before = [home.files() for home in pair]
        mine, theirs = (getattr(home, what)(*arguments) for home in pair)
        if what == "prune":
            assert {key: mine[key] for key in COUNTERS} == {key: theirs[key] for key in COUNTERS}, step
            for each, had, report in zip(pair, before, (mine, theirs), strict=True):
                gone = [size for path, size in had.items() if path not in each.files()]
                assert report["bytes_reclaimed"] == (sum(gone) if gone else None), (step, each)
            assert mine["bytes_reclaimed"] == theirs["bytes_reclaimed"], step
        else:
            assert mine == theirs, step
        assert ours.index() == msb.index(), step
        mine, theirs = ours.files(), msb.files()
        for path in theirs.keys() - mine.keys() if forced else ():
            assert path.startswith(LEAKED_BY_FORCE), step
            del theirs[path]
        assert mine == theirs, step
        ours.verify()


# --- each other's files -------------------------------------------------------------------------


@contextmanager
def shown(home: Home, digest: str, layers: Sequence[str], at: Path) -> Iterator[Path]:
    """What the kernel mounts from a cache, whoever wrote it."""
    images = [home.cache / "layers" / f"{name.replace(':', '_')}.erofs" for name in layers]
    fsmeta = home.cache / "fsmeta" / f"{digest.replace(':', '_')}.erofs"
    fsck(fsmeta, images)
    with mounted(fsmeta, images, at) as root:
        yield root


def tree(home: Home, built: BuiltImage, at: Path) -> dict[bytes, Any]:
    layers = [each.diff_id for each in built.layers]
    roots = [read_layer(home.cache / "layers" / f"{name.replace(':', '_')}.erofs").root for name in layers]
    with shown(home, built.digest, layers, at) as root:
        return comparable(scan(root), merge(roots))


def seconds(found: dict[bytes, Any]) -> dict[bytes, Any]:
    """Without parts of seconds, which msb drops, and what it says of directories and their roots."""
    return {
        path: {
            **{key: value for key, value in entry.items() if key != "mtime_ns"},
            "mtime": None if entry["mode"].startswith("d") else entry["mtime_ns"] // 10**9,
        }
        for path, entry in found.items()
        if "mode" in entry and path
    }


@pytest.fixture
def kernel(require_peer: Callable[[str], str]) -> None:
    for peer in ("root", "losetup", "mount", "fsck.erofs"):
        require_peer(peer)
    if "erofs" not in Path("/proc/filesystems").read_text():
        require_peer("erofs in the kernel")


def layers_of(home: Home) -> dict[str, tuple[int, int, bytes]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in (home.cache / "layers").glob("*.erofs")
    }


@pytest.mark.usefixtures("kernel")
def test_msb_goes_on_with_our_cache(pair: tuple[Ours, Msb], scratch: Path) -> None:
    ours, msb = pair
    app, other = archive_of(scratch / "app.tar", APP), archive_of(scratch / "other.tar", OTHER)
    ours.load(app)
    shutil.copytree(ours.cache, msb.cache)
    before = layers_of(msb)
    msb.load(app)
    assert layers_of(msb) == before
    assert unexplained(ours.inspect("app:1"), msb.inspect("app:1")) == {}
    # A second image builds on the layer they share.
    msb.load(other)
    assert layers_of(msb).items() >= before.items()
    ours.load(other)
    for built in (APP, OTHER):
        theirs, mine = tree(msb, built, scratch / "mnt"), tree(ours, built, scratch / "mnt")
        assert differences(seconds(theirs), seconds(mine)) == {}
    # It writes them out again, and that loads here, as what it was.
    for format in ("docker", "oci"):
        saved = scratch / f"saved-{format}.tar"
        formats = [] if format == "docker" else ["--format", "oci"]
        msb.done("save", "-o", saved, *formats, "app:1", "example.org/team/other:2")
        with ImageCache(scratch / format) as cache:
            assert {handle.reference for handle in cache.load(saved)} == {"app:1", "example.org/team/other:2"}
            detail = cache.inspect("app:1")
            assert cache.verify().sound
        assert detail.config is not None
        assert (detail.config.env, detail.config.cmd) == (CONFIG["Env"], CONFIG["Cmd"])
        digest = detail.handle.manifest_digest
        assert digest is not None
        again = Home(scratch / format)
        with shown(again, digest, [each.diff_id for each in detail.layers], scratch / "mnt") as root:
            found = seconds(scan(root))
        expected = seconds(tree(msb, APP, scratch / "mnt"))
        assert differences(found, expected) == {}
    # And prunes it all.
    assert msb.prune()["layers_removed"] == 3
    assert msb.files() == {}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("what", ["layers", "everything"])
def test_we_go_on_with_the_cache_of_msb(what: str, pair: tuple[Ours, Msb], scratch: Path) -> None:
    ours, msb = pair
    app, other = archive_of(scratch / "app.tar", APP), archive_of(scratch / "other.tar", OTHER)
    msb.load(app)
    if what == "layers":
        shutil.copytree(msb.cache / "layers", ours.cache / "layers")
    else:
        shutil.copytree(msb.cache, ours.cache)
    before = layers_of(ours)
    ours.load(app)
    assert layers_of(ours) == before
    ours.load(other)
    assert layers_of(ours).items() >= before.items()
    ours.verify()
    msb.load(other)
    for built in (APP, OTHER):
        theirs, mine = tree(msb, built, scratch / "mnt"), tree(ours, built, scratch / "mnt")
        assert differences(seconds(theirs), seconds(mine)) == {}
    with ImageCache(ours.path) as cache:
        assert [problem for problem in cache.verify().disk if problem.problem != "foreign"] == []
        cache.save(["app:1"], scratch / "saved.tar")
        again = Ours(scratch / "again", ours._capfd)
        again.load(scratch / "saved.tar")
        assert cache.prune().layers_removed == 3
    assert ours.files() == {}


@pytest.mark.usefixtures("kernel")
@pytest.mark.slow
def test_msb_goes_on_with_our_debian(debian_image: Any, pair: tuple[Ours, Msb]) -> None:
    ours, msb = pair
    ours.load(debian_image.docker_archive)
    shutil.copytree(ours.cache, msb.cache)
    before = layers_of(msb)
    msb.load(debian_image.docker_archive)
    assert layers_of(msb) == before
    msb.done("save", "-q", "-o", ours.path / "saved.tar", msb.list()[0]["reference"])
    again = Ours(ours.path.parent / "again", ours._capfd)
    again.load(ours.path / "saved.tar")
    again.verify()


@pytest.mark.parametrize("writer", ["msb", "own"])
@pytest.mark.parametrize("format", ["docker", "oci"])
def test_each_loads_what_the_other_saves(
    writer: str, format: str, pair: tuple[Ours, Msb], scratch: Path
) -> None:
    ours, msb = pair
    archive = archive_of(scratch / "both.tar", APP, OTHER)
    names = ["app:1", "app:latest", "example.org/team/other:2"]
    saved = scratch / "saved.tar"
    if writer == "msb":
        msb.load(archive)
        msb.done("save", "-o", saved, "--format", format, *names)
        ours.load(saved)
        original = {name: msb.inspect(name) for name in names}
        loaded = {name: ours.inspect(name) for name in names}
    else:
        ours.load(archive)
        with ImageCache(ours.path) as cache:
            cache.save(names, saved, format=format)
        msb.load(saved)
        original = {name: ours.inspect(name) for name in names}
        loaded = {name: msb.inspect(name) for name in names}
        assert {entry["reference"] for entry in msb.list()} == set(names)
    for name in names:
        for key in ("env", "cmd", "entrypoint", "working_dir", "user", "labels"):
            assert loaded[name]["config"][key] == original[name]["config"][key]
        assert loaded[name]["layer_count"] == original[name]["layer_count"]
    assert loaded["app:1"]["digest"] == loaded["app:latest"]["digest"]
