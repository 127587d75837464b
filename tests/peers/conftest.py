"""Homes that the real msb made, and Go's verifier of proofs, for the tests here."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.conftest import built_once
from tests.imagebuilder import docker_archive
from tests.peers import goverifier
from tests.peers.realmsb import IMAGES, Msb, copied, short_home

pytest.register_assert_rewrite("tests.peers.agreement")


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an archive of each image."""
    folder = tmp_path_factory.mktemp("archives")
    for name, built in IMAGES.items():
        (folder / f"{name}.tar").write_bytes(docker_archive(built))
    return folder


@pytest.fixture(scope="session")
def prepared(msb: str, archives: Path) -> Path:
    """Return a home that msb made, to be copied: a boot takes it seven seconds and more here."""
    parts = [built.manifest for built in IMAGES.values()] + [Path(msb).resolve().as_posix().encode()]
    version = subprocess.run([msb, "--version"], capture_output=True, check=True, env=os.environ).stdout
    with short_home() as place:
        length = str(len(str(place))).encode()  # of the paths in it, which no copy's may exceed
    key = hashlib.sha256(b"".join([*parts, version, length])).hexdigest()[:16]
    with built_once("msb-home") as folder:
        if not (folder / key).exists():
            shutil.rmtree(folder)
            folder.mkdir()
            with short_home() as home:
                real = Msb(msb, home, archives)
                for name in ("app", "two", "alone"):
                    real.load(name)
                real.create_and_boot("app:1", "dev")
                real.create("two", "ops")
                copied(home, folder / "unfinished")
            (folder / "unfinished").rename(folder / key)
    return folder / key


@pytest.fixture
def real(msb: str, prepared: Path, archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Msb]:
    """Yield msb with a copy of that home; msb-cache finds the same msb."""
    monkeypatch.setenv("MSB_PATH", msb)  # not passed on to msb, to which it means something else
    with short_home() as home:
        copied(prepared, home)
        yield Msb(msb, home, archives)


@pytest.fixture
def cache(real: Msb) -> Iterator[ImageCache]:
    """Yield the cache of that home."""
    with ImageCache(real.home) as found:
        yield found


@pytest.fixture(scope="module")  # it is a child process, and other modules look for those
def go(require_peer: Callable[[str], str]) -> Iterator[goverifier.GoVerifier]:
    """Yield the verifier over Go's own packages."""
    with goverifier.running(require_peer) as found:
        yield found
