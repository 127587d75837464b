#!/usr/bin/env python3
"""Write the two small images of the documentation, as ``docker save`` would, into the current folder.

``hello-1.0.tar`` and ``hello-1.1.tar`` hold ``hello:1.0`` and ``hello:1.1``, which share a base layer; the
second one replaces the program and deletes a file. The bytes are the same on every machine. No tool is
needed but Python:

    python3 examples/hello.py
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

MADE = 1_700_000_000, "1700000000.123456789"  # every time in the layers, in s since the epoch


def noise(name: str, size: int) -> bytes:
    """Return bytes that do not compress and never change."""
    return hashlib.shake_256(name.encode()).digest(size)


def layer(*members: tuple[str, bytes | str | None, int]) -> bytes:
    """Return a layer of these names, each with content (bytes, a link's target, None: a folder) and mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, mode in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, MADE[0]
            info.pax_headers = {"mtime": MADE[1]}
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return out.getvalue()


BASE = layer(
    ("bin", None, 0o755),
    ("etc", None, 0o755),
    ("etc/os-release", b'NAME="Hello base"\nID=hello\nVERSION_ID=1\n', 0o644),
    ("etc/motd", b"Welcome.\n", 0o644),
    ("lib", None, 0o755),
    ("lib/libhello.so", noise("libhello", 1_400_000), 0o755),
)


def program(version: str, name: str = "hello") -> bytes:
    """Return the layer with the program; that of 1.1 deletes a file of the base."""
    noises = version if name == "hello" else f"{name}:{version}"
    members: list[tuple[str, bytes | str | None, int]] = [
        ("app", None, 0o755),
        ("app/hello", f"#!/bin/sh\necho {name} {version}\n".encode(), 0o755),
        ("app/data.bin", noise(noises, 300_000), 0o644),
        ("app/current", "hello", 0o777),
    ]
    if version == "1.1":
        members.append(("etc/.wh.motd", b"", 0o644))
    return layer(*members)


def archive(version: str, name: str = "hello") -> bytes:
    """Return the image of a version, or one like it under another name, as one archive."""
    layers = [BASE, program(version, name)]
    digests = [hashlib.sha256(each).hexdigest() for each in layers]
    config = compact(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/app:/bin", f"HELLO_VERSION={version}"],
                "Entrypoint": ["/app/hello"],
                "Cmd": ["--name", "world"],
                "WorkingDir": "/app",
                "User": "hello",
                "StopSignal": "SIGTERM",
                "Labels": {"org.opencontainers.image.version": version},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    )
    file = f"{hashlib.sha256(config).hexdigest()}.json"
    members = {file: config}
    members |= {f"{digest}/layer.tar": each for digest, each in zip(digests, layers, strict=True)}
    manifest = [{"Config": file, "RepoTags": [f"{name}:{version}"], "Layers": [*members][1:]}]
    members["manifest.json"] = compact(manifest)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def compact(document: object) -> bytes:
    """Return JSON without spaces and with sorted keys."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    for version in ("1.0", "1.1"):
        Path(f"hello-{version}.tar").write_bytes(archive(version))
    print("wrote hello-1.0.tar and hello-1.1.tar")
