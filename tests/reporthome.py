"""A home as a team has it after six weeks: for pictures, and for browsers to look at."""

from __future__ import annotations

import hashlib
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path

from msb_cache import Actor, ImageCache, PrunePolicy
from tests.imagebuilder import BuiltLayer, directory, docker_archive, file, image, layer

HOUR = 3600 * 10**9
DAY = 24 * HOUR
BEGIN = 1_792_400_000 * 10**9  # 2026-10-19, in ns since the epoch
DAYS = 41
PEOPLE = {
    "alice": Actor(user="alice", uid=1000, host="build-1", program="msb-cache"),
    "bob": Actor(user="bob", uid=1001, host="build-1", program="msb-cache"),
    "ci": Actor(user="gitlab-runner", uid=998, host="runner-7", program="msb-cache", unit="ci.service"),
    "gc": Actor(user="root", uid=0, host="build-1", program="msb-cache", unit="msb-cache-gc.service"),
}
BASES = {"debian": 900, "alpine": 160, "ubuntu": 700, "cuda": 2600}
"""Layers that images share, with their sizes in KiB."""
IMAGES = (
    ("debian:12", "debian", 30),
    ("debian:13", "debian", 60),
    ("ubuntu:24.04", "ubuntu", 20),
    ("alpine:3.20", "alpine", 10),
    ("alpine:3.22", "alpine", 12),
    ("python:3.11", "debian", 420),
    ("python:3.12", "debian", 460),
    ("python:3.13-slim", "debian", 260),
    ("node:20", "debian", 610),
    ("node:22", "debian", 640),
    ("golang:1.25", "debian", 980),
    ("rust:1.91", "debian", 1200),
    ("postgres:17", "alpine", 380),
    ("redis:8", "alpine", 130),
    ("ghcr.io/acme/agent:2026.41", "ubuntu", 820),
    ("ghcr.io/acme/agent:2026.42", "ubuntu", 830),
    ("ghcr.io/acme/agent:2026.43", "ubuntu", 850),
    ("ghcr.io/acme/agent:2026.44", "ubuntu", 860),
    ("ghcr.io/acme/agent:2026.45", "ubuntu", 860),
    ("ghcr.io/acme/agent:2026.46", "ubuntu", 880),
    ("ghcr.io/acme/browser-tools:1.8", "debian", 1500),
    ("ghcr.io/acme/browser-tools:1.9", "debian", 1600),
    ("ghcr.io/acme/train:cuda12", "cuda", 3200),
    ("ghcr.io/acme/eval:nightly", "cuda", 1400),
    ("registry.example.org/team/etl:v31", "ubuntu", 540),
    ("registry.example.org/team/etl:v32", "ubuntu", 545),
    ("registry.example.org/team/etl:v33", "ubuntu", 560),
    ("registry.example.org/ci/lint:latest", "alpine", 240),
    ("registry.example.org/ci/build:latest", "debian", 700),
)
HOSTILE = "<img src=x onerror=window.pwned=1>\u202e\x07"
"""What people may write as a reason."""


def _noise(name: str, kib: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(kib * 1024)


def _layer(name: str, kib: int) -> BuiltLayer:
    return layer([directory("data"), file(f"data/{name.replace('/', '_')}", _noise(name, kib))])


def make(home: Path, *, scale: int = 1, end_ns: int | None = None) -> None:
    """Fill a home with what four people and services did in 41 days.

    Args:
        home: a folder that need not be there.
        scale: sizes are divided by that.
        end_ns: when that ended, in ns since the epoch; None: 2026-11-29.
    """
    begin = BEGIN if end_ns is None else end_ns - DAYS * DAY - HOUR
    now = begin
    chance = random.Random(7)
    bases = {name: _layer(name, max(1, kib // scale)) for name, kib in BASES.items()}
    built = {
        name: image([bases[base], _layer(name, max(1, kib // scale))], name) for name, base, kib in IMAGES
    }
    names = [*built]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        archive = Path(folder, "images.tar")
        as_ = {
            name: stack.enter_context(ImageCache(home, actor=actor, clock=lambda: now))
            for name, actor in PEOPLE.items()
        }
        look = as_["alice"]

        def load(name: str, by: str) -> None:
            nonlocal now
            now += chance.randrange(HOUR // 4, HOUR)
            archive.write_bytes(docker_archive(built[name]))
            as_[by].load(archive)

        def here() -> list[str]:
            return [each.reference for each in look.list()]

        for day in range(DAYS):
            now = begin + day * DAY + 8 * HOUR
            for name in names[day * len(names) // 36 : (day + 1) * len(names) // 36]:
                load(name, chance.choice(("alice", "bob", "ci", "ci")))
            images = here()
            for name in chance.sample(images, min(len(images), 5)):
                now += HOUR // 3
                holder = chance.choice(("dev", "etl", "agent-1", "agent-2"))
                as_[chance.choice(("alice", "bob", "ci"))].use(name, holder=f"sandbox:{holder}")
            if day in (4, 12, 20):
                as_["alice"].hold(chance.choice(images), f"sandbox:agent-{day}")
            if day == 9:
                as_["bob"].pin("python:3.12", reason="the base of all that we build")
            if day in (15, 29, 38):
                now += 3 * HOUR
                policy = PrunePolicy(unused_for="7d" if day < 38 else "4d")
                as_["gc"].prune(policy, reason="nightly clean-up" if day != 38 else HOSTILE)
            if day == 23:
                as_["bob"].release("sandbox:agent-4")
                now += HOUR
                as_["bob"].remove([name for name in here() if "agent" in name][:1], reason="superseded")
            if day == 31:
                for name in names[5:9]:
                    load(name, "ci")
        now = begin + DAYS * DAY
        as_["ci"].use(here()[0], holder="sandbox:agent-2")
