"""examples/build_image.py: what its image holds, and that skopeo, umoci and a chroot run it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "build_image.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="images are built only on Linux")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_image", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_image"] = module
    spec.loader.exec_module(module)
    return module


def build(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_the_archive_is_what_docker_save_writes(python_image: Path) -> None:
    with tarfile.open(python_image) as archive:

        def document(name: str) -> Any:
            member = archive.extractfile(name)
            assert member is not None
            return json.load(member)

        (manifest,) = document("manifest.json")
        assert manifest["RepoTags"] == ["python:3.12"]
        config = document(manifest["Config"])
        assert config["config"]["Entrypoint"] == ["/usr/local/bin/python3"]
        assert config["config"]["StopSignal"] == "SIGINT"
        assert sum("empty_layer" not in step for step in config["history"]) == 3
        names: list[set[str]] = []
        for path, diff_id in zip(manifest["Layers"], config["rootfs"]["diff_ids"], strict=True):
            layer = archive.extractfile(path)
            assert layer is not None
            assert hashlib.file_digest(layer, "sha256").hexdigest() == diff_id.removeprefix("sha256:")  # type: ignore[arg-type]
            layer.seek(0)
            with tarfile.open(fileobj=layer) as tar:
                members = tar.getmembers()
            assert {(m.uid, m.gid, m.uname) for m in members} == {(0, 0, "root")}
            assert len({m.mtime for m in members}) == 1
            assert len({m.name for m in members}) == len(members)
            names.append({m.name for m in members})
    assert len(names) == 3
    assert "etc/motd" in names[0]
    assert {"etc/.wh.motd", "usr/share/doc/base/.wh..wh..opq", "app/main.py"} <= names[2]
    assert any(name.endswith("/os.py") for name in names[1])
    assert not any("__pycache__" in name or "site-packages" in name for name in names[1])
    assert python_image.stat().st_size < 100_000_000


def test_the_same_machine_builds_the_same_bytes(python_image: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    done = build(again, "--tag", "python:3.12")
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == python_image.read_bytes()
    assert os.listdir(tmp_path) in (["again.tar"], ["home", "again.tar"], ["again.tar", "home"])


def test_mistakes_are_one_sentence(
    tmp_path: Path, builder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = build(tmp_path / "missing" / "out.tar", "--tag", "a")
    assert done.returncode == 1
    assert done.stderr.startswith("build_image: ")
    assert len(done.stderr.splitlines()) == 1
    assert build(tmp_path / "out.tar", "--tag", "a b").returncode == 2
    assert build(tmp_path / "out.tar").returncode == 2
    monkeypatch.setattr(builder.sys, "platform", "darwin")
    with pytest.raises(builder.BuildError, match="only on Linux"):
        builder.build(tmp_path / "out.tar", ["a:latest"])


def test_tags(builder: ModuleType) -> None:
    assert builder.tag("python") == "python:latest"
    assert builder.tag("localhost:5000/a") == "localhost:5000/a:latest"
    assert builder.tag("localhost:5000/a:b") == "localhost:5000/a:b"


def test_the_resolver_agrees_with_the_loader(builder: ModuleType, require_peer: Callable[[str], str]) -> None:
    ldd = require_peer("ldd")
    program = Path(os.path.realpath(sys.executable))
    listed = subprocess.run([ldd, program], capture_output=True, text=True, check=True).stdout
    expected = {
        os.path.realpath(word) for line in listed.splitlines() for word in line.split() if word[0] == "/"
    }
    found = {os.path.realpath(path) for path in builder.Libraries(program).closure([program])}
    assert found == expected


@pytest.mark.peer
@pytest.mark.slow
def test_the_image_runs(python_image: Path, tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    skopeo, umoci = require_peer("skopeo"), require_peer("umoci")
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    source = f"docker-archive:{python_image}:python:3.12"
    subprocess.run([skopeo, "copy", "--quiet", source, f"oci:{layout}:image"], check=True)
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    subprocess.run([umoci, "unpack", *rootless, "--image", f"{layout}:image", bundle], check=True)
    rootfs = bundle / "rootfs"
    assert not (rootfs / "etc" / "motd").exists()
    assert os.listdir(rootfs / "usr" / "share" / "doc" / "base") == ["LICENSE"]
    assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (rootfs / "app" / "run.py").samefile(rootfs / "app" / "main.py")
    require_peer("root")
    chroot = require_peer("chroot")
    command = [chroot, "--userspec=1000:1000", rootfs, "/usr/local/bin/python3", "/app/main.py", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arguments"] == ["hello"]
    program = "import bz2, ctypes, hashlib, lzma, sqlite3, ssl, zlib; print(sqlite3.connect(':memory:'))"
    script = [chroot, rootfs, "/bin/sh", "-c", f'ls / && python3 -c "{program}"']
    subprocess.run(script, check=True, capture_output=True, env={"PATH": "/usr/local/bin:/usr/bin:/bin"})


@pytest.mark.peer
def test_msb_loads_it(python_image: Path, msb: str) -> None:
    subprocess.run([msb, "load", "-i", python_image], check=True, capture_output=True)
    done = subprocess.run(
        [msb, "image", "inspect", "python:3.12"], capture_output=True, text=True, check=True
    )
    assert "Layers (3)" in done.stdout
