"""The image that the benchmarks add: a Debian with Python in three layers, and a registry that has it.

Everything is made once in a folder and found there the next time. Needs debootstrap, GNU tar, and for the
registry skopeo and docker-registry; all are Debian packages. Root makes the Debian layer.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "debian-python"


def archive(folder: Path) -> Path:
    """The image as a docker archive with uncompressed layers, made if it is missing."""
    path = folder / f"{NAME}.tar"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    layers = [folder / "debian.layer.tar", folder / "stdlib.layer.tar", folder / "packages.layer.tar"]
    _debian(folder / "debian", layers[0])
    stdlib, packages = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    _tar(stdlib, layers[1], "usr/local/lib/python3", "--exclude=./site-packages")
    _tar(packages, layers[2], "usr/local/lib/python3/site-packages")
    unfinished = path.with_suffix(".unfinished")
    _join(layers, unfinished)
    unfinished.rename(path)
    for layer in layers:
        layer.unlink()
    return path


@contextmanager
def registry(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A running registry that has the image; yields its reference there, and its layers' sizes in bytes."""
    source = archive(folder)
    storage = folder / "registry"
    filled = storage.exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"localhost:{probe.getsockname()[1]}"
    config = folder / "registry.json"
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"accesslog": {"disabled": True}, "level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(storage)}},
                "http": {"addr": host},
            }
        )
    )
    with (
        (folder / "registry.log").open("wb") as log,
        subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log) as process,
    ):
        try:
            _wait_for(host, process)
            address = f"docker://{host}/{NAME}"
            if not filled:
                subprocess.run(
                    ["skopeo", "copy", "--dest-tls-verify=false", f"docker-archive:{source}", address],
                    stdout=sys.stderr,
                    check=True,
                )
            inspect = ["skopeo", "inspect", "--raw", "--tls-verify=false", address]
            manifest = json.loads(subprocess.run(inspect, stdout=subprocess.PIPE, check=True).stdout)
            yield f"{host}/{NAME}", [layer["size"] for layer in manifest["layers"]]
        except BaseException:
            if not filled:
                shutil.rmtree(storage, ignore_errors=True)
            raise
        finally:
            process.terminate()


def _wait_for(host: str, process: subprocess.Popen[bytes]) -> None:
    name, _, port = host.partition(":")
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((name, int(port)), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _debian(root: Path, layer: Path) -> None:
    if layer.exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], stdout=sys.stderr, check=True)
    _tar(root, layer, ".", "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*")
    shutil.rmtree(root)


def _tar(source: Path, layer: Path, prefix: str, *options: str) -> None:
    """A layer as today's builders write it: PAX, with fractions of seconds where the files have them."""
    unfinished = layer.with_suffix(".unfinished")
    times = "--pax-option=delete=atime,delete=ctime"
    subprocess.run(
        [
            *(
                "tar",
                "--create",
                "--format=posix",
                times,
                "--sort=name",
                "--numeric-owner",
                "--one-file-system",
            ),
            *(*options, f"--transform=flags=r;s,^\\.,{prefix},", f"--file={unfinished}"),
            *("--directory", source, "."),
        ],
        check=True,
    )
    unfinished.rename(layer)


def _join(layers: list[Path], path: Path) -> None:
    digests = []
    for layer in layers:
        with layer.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = json.dumps(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    names = [f"{digest}/layer.tar" for digest in digests]
    manifest = json.dumps([{"Config": name, "RepoTags": [f"{NAME}:latest"], "Layers": names}]).encode()
    with tarfile.open(path, "w") as out:
        for document, data in ((name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(document)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        for layer, member in zip(layers, names, strict=True):
            out.add(layer, member)
