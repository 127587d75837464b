"""The SDK's names: our own where no sandbox is needed, the SDK's where one is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import msb_cache
from msb_cache import sdk
from msb_cache.sdk import OF_SANDBOXES, enumeration, of_sdk


@pytest.mark.parametrize("name", sorted(OF_SANDBOXES))
def test_without_the_sdk_one_sentence_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "microsandbox", None)
    with pytest.raises(ImportError, match=f"^{name} is a part of .* pip install microsandbox$"):
        getattr(msb_cache, name)


def test_with_the_sdk_they_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = object()
    monkeypatch.setitem(sys.modules, "microsandbox", SimpleNamespace(Sandbox=theirs))
    assert msb_cache.Sandbox is theirs
    with pytest.raises(ImportError, match="has no RootDisk: upgrade it"):
        of_sdk("RootDisk")


@pytest.mark.parametrize("name", ["DiskImageFormat", "PullPolicy"])
def test_an_enumeration_is_the_sdks_where_there_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = object()
    monkeypatch.setitem(sys.modules, "microsandbox", SimpleNamespace(**{name: theirs}))
    assert enumeration(name) is theirs
    monkeypatch.setitem(sys.modules, "microsandbox", None)
    assert enumeration(name) is getattr(sdk, name)


SOURCES = """
from msb_cache import DiskImageFormat, Image, ImageSource, ImageSourceKind, RootDisk, RootDiskConfig

image = Image.oci("python:3.12", root_disk=8192)
assert isinstance(image, ImageSource)
assert image._type is ImageSourceKind.OCI
disk = RootDisk.disk("./scratch.img", format=DiskImageFormat.RAW, fstype="ext4")
image = Image.oci("python:3.12", root_disk=disk)
assert isinstance(image._root_disk, RootDiskConfig)
assert Image.disk("a.qcow2")._path == "a.qcow2"
assert Image.bind("/srv")._path == "/srv"
"""


@pytest.mark.peer
def test_image_sources_are_made_by_the_sdk_that_is_installed(sdk_python: Path) -> None:
    here = [str(Path(sdk.__file__).parent.parent), *(each for each in sys.path if "site-packages" in each)]
    subprocess.run(
        [sdk_python, "-c", SOURCES],
        env={"PYTHONPATH": os.pathsep.join(here)},
        check=True,
    )


@pytest.mark.peer
def test_our_own_say_the_same_as_the_sdks(sdk_python: Path) -> None:
    program = """
import SDK
for name in ("PullPolicy", "DiskImageFormat", "ImageArchiveFormat", "BackendKind"):
    print(name, [(each.name, each.value) for each in getattr(SDK, name)])
for name in ("IoError", "PathNotFoundError", "ImageNotFoundError", "UnsupportedError", "InvalidConfigError"):
    print(name, getattr(SDK, name).code, issubclass(getattr(SDK, name), SDK.MicrosandboxError))
info = SDK.default_backend_info()
print(str(info.kind), info.source, info.profile, info.api_url)
"""
    said = [
        subprocess.run(
            [python, "-c", program.replace("SDK", package)], capture_output=True, text=True, check=True
        ).stdout
        for python, package in (
            (sdk_python, "microsandbox"),
            (sys.executable, "msb_cache"),
        )
    ]
    assert said[0] == said[1]
