"""The two small images of the documentation, byte for byte the same on every machine.

``hello:1.0`` and ``hello:1.1`` share a base layer; the second replaces the program and deletes a file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.imagebuilder import BuiltImage, directory, docker_archive, file, image, layer, symlink

BASE = [
    directory("bin"),
    directory("etc"),
    file("etc/os-release", b'NAME="Hello base"\nID=hello\nVERSION_ID=1\n'),
    file("etc/motd", b"Welcome.\n"),
    directory("lib"),
]


def _noise(name: str, size: int) -> bytes:
    """Bytes that do not compress and never change."""
    return hashlib.shake_256(name.encode()).digest(size)


def hello(version: str) -> BuiltImage:
    """The image ``hello:<version>``; versions are 1.0 and 1.1."""
    base = [*BASE, file("lib/libhello.so", _noise("libhello", 1_400_000), mode=0o755)]
    program = [
        directory("app"),
        file("app/hello", b"#!/bin/sh\necho hello " + version.encode() + b"\n", mode=0o755),
        file("app/data.bin", _noise(version, 300_000)),
        symlink("app/current", "hello"),
    ]
    if version == "1.1":
        program.append(file("etc/.wh.motd"))
    config = {
        "Env": ["PATH=/app:/bin", f"HELLO_VERSION={version}"],
        "Entrypoint": ["/app/hello"],
        "Cmd": ["--name", "world"],
        "WorkingDir": "/app",
        "User": "hello",
        "StopSignal": "SIGTERM",
        "Labels": {"org.opencontainers.image.version": version},
    }
    return image([layer(base), layer(program)], f"hello:{version}", config=config)


def write_archives(folder: Path) -> None:
    """Write ``hello-1.0.tar`` and ``hello-1.1.tar`` as ``docker save`` would."""
    for version in ("1.0", "1.1"):
        (folder / f"hello-{version}.tar").write_bytes(docker_archive(hello(version)))
