"""Make a home with a long log of mixed events, for measurements; no image files are made.

    python benchmarks/generate_log.py HOME [--events 1000000] [--images 10000] [--seed 1]

The log tells an ordinary life: images are loaded, pulled again, used, held and released; tags move; prunes
and removals decide, delete and finish. The index grows to at most ``--images`` references. The same arguments
make the same events, but for ids and times. Everything goes through the ledger, so the tables folded from the
log, and the snapshots of the fold, are there as they would be.
"""

from __future__ import annotations

import argparse
import random
import time
from hashlib import sha256

from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import Actor, NewEvent
from msb_cache.home.ledger import Ledger

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
USERS = ("ada", "grace", "barbara", "ci")
HOSTS = ("laptop", "build-1", "build-2")
BATCH = 400  # events in one transaction


def digest(*parts: object) -> str:
    return "sha256:" + sha256(" ".join(map(str, parts)).encode()).hexdigest()


class Life:
    """What happens, as batches of events of one operation each."""

    def __init__(self, images: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.most = images
        self.made = 0
        self.images: dict[str, str] = {}  # reference: manifest digest
        self.manifests: dict[str, tuple[ev.Layer, ...]] = {}
        self.holds: list[tuple[str, str]] = []

    def step(self) -> tuple[str, list[NewEvent]]:
        """Return an operation and its events."""
        operation = uuid7()
        chance = self.random.random()
        if len(self.images) < self.most and (not self.images or chance < 0.03):
            return operation, self.load(self.name())
        if len(self.images) >= self.most or chance < 0.03005:
            return operation, self.prune(operation, max(1, len(self.images) // 20))
        reference = self.random.choice(self.names)
        if chance < 0.04:
            return operation, self.load(reference)
        if chance < 0.045:
            return operation, self.prune(operation, 1)
        if chance < 0.15:
            return operation, [
                NewEvent(self.pulled(reference, self.images[reference], changed=False), reference)
            ]
        if chance < 0.25 or (self.holds and chance < 0.35):
            return operation, [self.hold_or_release(reference, release=chance >= 0.25)]
        holder = f"sandbox:{self.random.randrange(500)}" if chance < 0.7 else None
        used = ev.ImageUsed(manifest_digest=self.images[reference], holder=holder)
        return operation, [NewEvent(used, reference)]

    def name(self) -> str:
        number = self.random.randrange(self.most * 4)
        registry = self.random.choice(("docker.io/library", "ghcr.io/acme", "registry.example/team"))
        return f"{registry}/app-{number % (self.most // 4 + 1)}:{number // 7}"

    def load(self, reference: str) -> list[NewEvent]:
        self.made += 1
        manifest = digest("manifest", self.made)
        # A base that many share, and one or two layers of its own.
        layers = [self.layer("base", self.random.randrange(max(1, self.most // 50)))]
        layers += [self.layer("own", self.made, n) for n in range(self.random.randint(1, 2))]
        added = ev.ManifestAdded(
            media_type=MANIFEST_TYPE,
            config_digest=digest("config", self.made),
            architecture="amd64",
            os="linux",
            config=ev.ImageConfig(env=("PATH=/usr/bin:/bin", f"BUILD={self.made}"), cmd=("serve",)),
            layers=tuple(layers),
            total_size=sum(layer.size or 0 for layer in layers),
            fsmeta_size=8192,
            vmdk_size=684,
        )
        self.manifests[manifest] = added.layers
        event = self.pulled(reference, manifest, changed=True)
        self.images[reference] = manifest
        self.names = [*self.images]
        return [NewEvent(added, manifest), NewEvent(event, reference)]

    def layer(self, *name: object) -> ev.Layer:
        size = 1000 + int(digest("size", *name)[7:13], 16)
        return ev.Layer(
            diff_id=digest("diff", *name),
            blob_digest=digest("blob", *name),
            media_type=LAYER_TYPE,
            size=size,
            erofs_size=(size * 3 // 4096 + 1) * 4096,
        )

    def pulled(self, reference: str, manifest: str, *, changed: bool) -> ev.ImagePulled:
        previous = self.images.get(reference)
        return ev.ImagePulled(
            manifest_digest=manifest,
            previous_digest=previous if changed else None,
            changed=changed,
            source=ev.Source(kind="registry", name=reference.partition("/")[0]),
            bytes_fetched=self.random.randrange(10**8) if changed else 0,
            bytes_reused=0,
            duration_ns=self.random.randrange(10**10),
        )

    def hold_or_release(self, reference: str, *, release: bool) -> NewEvent:
        if release:
            position = self.random.randrange(len(self.holds))
            self.holds[position], self.holds[-1] = self.holds[-1], self.holds[position]
            holder, manifest = self.holds.pop()
            return NewEvent(ev.ImageReleased(holder=holder), manifest)
        manifest, holder = self.images[reference], f"sandbox:{self.random.randrange(10**6)}"
        self.holds.append((holder, manifest))
        return NewEvent(ev.ImageHeld(holder=holder, reference=reference), manifest)

    def prune(self, operation: str, count: int) -> list[NewEvent]:
        held = {manifest for _, manifest in self.holds}
        names = self.random.sample(self.names, min(len(self.names), 4 * count))
        gone = {name: self.images[name] for name in names if self.images[name] not in held}
        gone = dict([*gone.items()][:count])
        for name in gone:
            del self.images[name]
        self.names = [*self.images]
        needed = {*self.images.values(), *held}
        candidates = dict.fromkeys(gone.values()) if count == 1 else self.manifests
        manifests = [manifest for manifest in candidates if manifest not in needed]
        dropped = {layer.diff_id: layer for manifest in manifests for layer in self.manifests.pop(manifest)}
        kept = {layer.diff_id for layers in self.manifests.values() for layer in layers} if dropped else set()
        layers = [layer for diff_id, layer in dropped.items() if diff_id not in kept]
        artifacts = [ev.PlannedArtifact(kind="metadata", subject=name, bytes=2000) for name in gone]
        artifacts += [ev.PlannedArtifact(kind="manifest", subject=manifest) for manifest in manifests]
        artifacts += [
            ev.PlannedArtifact(kind="fsmeta", subject=manifest, bytes=8192) for manifest in manifests
        ]
        artifacts += [ev.PlannedArtifact(kind="vmdk", subject=manifest, bytes=684) for manifest in manifests]
        artifacts += [
            ev.PlannedArtifact(kind="layer", subject=layer.diff_id, bytes=layer.erofs_size)
            for layer in layers
        ]
        kind = "remove" if count == 1 else "prune"
        started = ev.DeletionStarted(kind=kind, policy={"rule": "unused"}, artifacts=tuple(artifacts))  # type: ignore[arg-type]
        events = [NewEvent(started, operation)]
        events += [
            NewEvent(ev.ImageRemoved(manifest_digest=manifest, cause=kind), name)  # type: ignore[arg-type]
            for name, manifest in gone.items()
        ]
        events += [NewEvent(ev.ManifestDeleted(), manifest) for manifest in manifests]
        events += [NewEvent(ev.MetadataDeleted(bytes=2000), name) for name in gone]
        events += [NewEvent(ev.FsmetaDeleted(bytes=8192), manifest) for manifest in manifests]
        events += [NewEvent(ev.VmdkDeleted(bytes=684), manifest) for manifest in manifests]
        events += [NewEvent(ev.LayerDeleted(bytes=layer.erofs_size), layer.diff_id) for layer in layers]
        return [*events, NewEvent(ev.DeletionFinished(outcome="completed"), operation)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    life, chooser = Life(arguments.images, arguments.seed), random.Random(arguments.seed)
    now: int = time.time_ns() - arguments.events * 10**9
    written, began = 1, time.monotonic()  # the log's own first event

    def clock() -> int:
        return int(now + written * 10**9)

    ledger = Ledger(Layout(arguments.home), clock=clock)
    while written < arguments.events:
        actor = Actor(user=chooser.choice(USERS), uid=1000, host=chooser.choice(HOSTS), program="msb-cache")
        ledger.actor = actor
        with ledger.write(uuid7()) as transaction:
            batch = 0
            while batch < BATCH and written < arguments.events:
                operation, events = life.step()
                transaction.append(events, operation=operation)
                batch += len(events)
                written += len(events)
    ledger.close()
    print(f"{written} events, {len(life.images)} images, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
