"""Homes to measure in: an index of any size, with or without its files, made through the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from generate_log import LAYER_TYPE, MANIFEST_TYPE, digest

from msb_cache.artifacts.layout import Layout, lock_path, make_private
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.ledger import Ledger

_BATCH = 2000  # images in one transaction


def reference(number: int) -> str:
    return f"ghcr.io/acme/app-{number // 10}:{number % 10}"


def index(home: Path, images: int, *, uses: int = 0) -> None:
    """Make a log and index of this many images of two layers each; then so many uses of each."""
    ledger = Ledger(Layout(home))
    for first in range(0, images, _BATCH):
        with ledger.transaction(uuid7()) as transaction:
            transaction.append(
                [event for number in range(first, min(images, first + _BATCH)) for event in loaded(number)]
            )
    for _ in range(uses):
        for first in range(0, images, _BATCH):
            with ledger.transaction(uuid7()) as transaction:
                transaction.append([used(number) for number in range(first, min(images, first + _BATCH))])
    ledger.close()


def loaded(number: int) -> list[NewEvent]:
    manifest = digest("manifest", number)
    layers = tuple(
        ev.Layer(
            diff_id=digest("diff", number, position),
            blob_digest=digest("blob", number, position),
            media_type=LAYER_TYPE,
            size=1000,
            erofs_size=4096,
        )
        for position in range(2)
    )
    added = ev.ManifestAdded(
        media_type=MANIFEST_TYPE,
        config_digest=digest("config", number),
        architecture="amd64",
        os="linux",
        config=ev.ImageConfig(env=("PATH=/usr/bin:/bin",), cmd=("serve",)),
        layers=layers,
        fsmeta_size=8192,
        vmdk_size=684,
    )
    source = ev.Source(kind="archive", name="app.tar")
    pulled = ev.ImagePulled(manifest_digest=manifest, changed=True, source=source)
    return [NewEvent(added, manifest), NewEvent(pulled, reference(number))]


def used(number: int) -> NewEvent:
    return NewEvent(ev.ImageUsed(manifest_digest=digest("manifest", number)), reference(number))


def files(home: Path, images: int) -> list[str]:
    """Make the files of an index's images, each with its lock file; return all their paths."""
    layout = Layout(home)
    for folder in layout.folders.values():
        make_private(folder)
    paths = []
    for path in _artifacts(layout, images):
        for each in (path, lock_path(path)):
            descriptor = os.open(each, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            if each is path:
                os.write(descriptor, b"x" * 512)
            os.close(descriptor)
            paths.append(str(each))
    return paths


def _artifacts(layout: Layout, images: int) -> Iterator[Path]:
    for number in range(images):
        manifest = digest("manifest", number)
        yield layout.metadata(reference(number))
        yield layout.vmdk(manifest)
        yield layout.fsmeta(manifest)
        for position in range(2):
            yield layout.layer(digest("diff", number, position))
