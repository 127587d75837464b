"""A home whose names are long: for what must have room on every terminal. Not for tests that change it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from msb_cache import Actor, ImageCache, PrunePolicy
from tests.imagebuilder import directory, docker_archive, file, image, layer

COUNT = 48
TEAMS = ("payments", "machine-learning-platform", "observability", "web")
SERVICES = ("checkout-gateway", "feature-store-ingest-worker", "collector-with-all-exporters", "api")
HOUR = 3600 * 10**9

ACTOR = Actor(
    user="continuous-delivery",
    uid=1007,
    host="build-runner-0042.eu-central-1.internal.example.org",
    program="msb-cache",
    reason="nightly clean-up of what the release train of last week has left behind on this runner",
    login="annabel.vandermeulen",
    login_uid=1008,
    unit="nightly-image-maintenance@eu-central-1.service",
    claimed={"ci": "gitlab", "ci_job": "release-train/2026-11/build-and-scan-images", "ticket": "OPS-20481"},
)
"""By whom all was done: a name, a machine and a reason as long as they come."""


def reference(number: int) -> str:
    """The reference of one of the images: 20 to 100 characters."""
    team, service = TEAMS[number % 4], SERVICES[number // 4 % 4]
    if number % 8 == 7:
        return f"{service}-{number:02}:latest"
    tag = f"2026.11.{number:02}-rc.{number}-g{number:07x}" if number % 3 else f"v{number}"
    return f"registry.eu-central-1.example.org/{team}/{service}-{number:02}:{tag}"


def make(home: Path) -> list[str]:
    """Fill a home with 48 images that were loaded, used, held, pinned, moved, removed and pruned.

    That took ten months, and ended some minutes ago.

    Returns:
        The references that are there at the end.
    """
    base = layer([directory("etc"), file("etc/name", b"base\n" * 900)])
    names = [reference(number) for number in range(COUNT)]
    built = [
        image([base, layer([file(f"opt/{number}", bytes([number]) * 3000 * (number + 1))])], name)
        for number, name in enumerate(names)
    ]
    moved = [
        image([base, layer([file("moved", bytes([number]) * 5000)])], names[number]) for number in (1, 2)
    ]
    begin = time.time_ns() - 10 * 730 * HOUR
    now = begin

    def clock() -> int:
        return now

    with (
        tempfile.TemporaryDirectory() as folder,
        ImageCache(home, actor=ACTOR, clock=clock, note=None) as cache,
    ):

        def load(*images: object) -> None:
            path = Path(folder, "exported-images-of-the-release-train.tar")
            path.write_bytes(docker_archive(*images))  # type: ignore[arg-type]
            cache.load(path)

        for each in built:
            load(each)
            now += 140 * HOUR
        for number in range(0, COUNT, 3):
            now += 3 * HOUR
            cache.use(names[number], holder=f"sandbox:{SERVICES[number % 4]}-{number}")
        for number in (4, 5, 6):
            now += HOUR
            cache.hold(names[number], f"snapshot:{TEAMS[number % 4]}/{SERVICES[number % 4]}-before-upgrade")
            cache.hold(names[number], f"sandbox:dev-{number}", until="2 years" if number == 4 else None)
        cache.pin(
            names[7], reason="the image that the auditors asked about in their letter of the first of May"
        )
        cache.pin(names[8], until="2099-12-31")
        load(*moved)
        now += 24 * HOUR
        cache.remove(names[20:24:2])
        now += 24 * HOUR
        cache.prune(PrunePolicy(unused_for="200 days"))
        now = time.time_ns() - 10**11
        cache.use(names[COUNT - 1])
        return [handle.reference for handle in cache.list()]


def removed() -> str:
    """The reference of an image that was there, and was removed."""
    return reference(20)


if __name__ == "__main__":
    import sys

    os.environ["MSB_CACHE_NO_HEAD"] = "1"
    print(*make(Path(sys.argv[1])), sep="\n")
