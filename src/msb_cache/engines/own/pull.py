"""Pull an image from its registry: decide what has to be fetched, fetch it, and record how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from msb_cache import diagnostics as logs
from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout, make_private
from msb_cache.engines.own.add import Addition, Reuse, add
from msb_cache.errors import ImageNotFoundError, InvalidImageError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.ledger import Ledger, Note
from msb_cache.home.operation import Operation
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import Credential, find_credential
from msb_cache.oci.registry.downloads import LayerProgress
from msb_cache.oci.registry.images import Registry, Resolved
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.oci.registry.partials import Partial
from msb_cache.projections import images

Policy = Literal["missing", "always", "never"]
Progress = Callable[[LayerProgress], None]

STALE_SECONDS = 7 * 24 * 3600
"""A partial download that nobody went on with for this long is deleted."""


@dataclass(frozen=True)
class Wanted:
    """What to pull, and how. ``jobs`` is how many layers are fetched at the same time."""

    reference: Reference
    platform: Platform | None = None
    policy: Policy = "missing"
    force: bool = False
    credential: Credential | None = None
    options: RegistryOptions = field(default_factory=RegistryOptions)
    jobs: int = 3


def pull(ledger: Ledger, wanted: Wanted, *, progress: Progress | None, note: Note | None) -> None:
    """Pull an image, or find it cached, and append ``image.pulled``; ``image.pull_failed`` if it fails.

    Raises:
        ImageNotFoundError: the policy is ``never`` and the image is not cached.
        ImagePullFailedError: the registry cannot or will not give it.
        InvalidImageError: what the registry gives is not what it says.
    """
    began = time.monotonic_ns()
    source = ev.Source(kind="registry", name=wanted.reference.registry)
    cached = None if wanted.force or wanted.policy == "always" else _cached(ledger, wanted)
    if cached is not None:
        record_cached(ledger, wanted.reference, cached, source, began)
        return
    if wanted.policy == "never":
        raise ImageNotFoundError(
            f"image not found: {wanted.reference.familiar}, and the policy `never` forbids to pull it"
        )
    try:
        _fetch(ledger, wanted, source, began, progress, note)
    except (MicrosandboxError, OSError) as error:
        failed = ev.ImagePullFailed(reason=str(error)[:1000], source=source)
        with ledger.transaction(uuid7()) as transaction:
            transaction.append([NewEvent(failed, wanted.reference.canonical)])
        raise


def _fetch(
    ledger: Ledger,
    wanted: Wanted,
    source: ev.Source,
    began: int,
    progress: Progress | None,
    note: Note | None,
) -> None:
    credential = find_credential(wanted.reference.registry, explicit=wanted.credential)
    resumed: set[str] = set()

    def watch(seen: LayerProgress) -> None:
        if seen.event == "resumed":
            resumed.add(seen.layer)
        if progress is not None:
            progress(seen)

    def attempt() -> None:
        with Registry(wanted.reference, wanted.options, credential) as registry:
            _fetch_from(registry, ledger, wanted, source, began, watch, note)

    _collect_stale(ledger.layout)
    try:
        attempt()
    except InvalidImageError:
        if not resumed:
            raise
        # What a killed process or a power loss left was damaged, and is deleted now.
        attempt()


def _fetch_from(
    registry: Registry,
    ledger: Ledger,
    wanted: Wanted,
    source: ev.Source,
    began: int,
    progress: Progress,
    note: Note | None,
) -> None:
    reference, layout = wanted.reference, ledger.layout
    resolved = registry.resolve(reference, wanted.platform)
    logs.info("pull.resolved", reference=reference.familiar, digest=resolved.manifest_digest)
    reached("pull.resolved")
    if not wanted.force and _complete(ledger, wanted, resolved):
        record_cached(ledger, reference, resolved.manifest_digest, source, began)
    else:
        with Operation(layout) as operation:
            make_private(layout.downloads)
            image = registry.image(resolved, partials=layout.downloads, progress=progress)
            add(
                ledger,
                operation,
                [Addition(image, (reference,))],
                source,
                began,
                workers=wanted.jobs,
                reuse=None if wanted.force else _saying_exists(progress),
                abandon=registry.close,
                note=note,
            )
    for sentence in registry.notes:
        if note is not None:
            note(sentence)


def _saying_exists(progress: Progress) -> Reuse:
    """Return what happens with a layer that is already here: it is not fetched, its digest is known."""

    def reuse(layer: SourceLayer) -> None:
        progress(LayerProgress(layer.blob_digest, "exists", layer.size, layer.size))

    return reuse


def _cached(ledger: Ledger, wanted: Wanted) -> str | None:
    """Return the digest the reference points at, if it is cached for the wanted platform."""
    with ledger.snapshot() as connection:
        row = None if connection is None else images.handle(connection, wanted.reference.canonical)
    if row is None or not _fits(row, wanted.platform) or not _files_exist(ledger, row.manifest_digest):
        return None
    return row.manifest_digest


def _fits(row: images.HandleRow, platform: Platform | None) -> bool:
    """Whether a cached image is for the platform that was asked for, if any was."""
    if platform is None:
        return True
    found = Platform.of(row.os or "linux", row.architecture or "unknown")
    return (found.os, found.architecture) == (platform.os, platform.architecture)


def _complete(ledger: Ledger, wanted: Wanted, resolved: Resolved) -> bool:
    """Whether the reference already points at the resolved manifest and all of its files are there."""
    metadata = ledger.layout.metadata(wanted.reference.canonical)
    return _cached(ledger, wanted) == resolved.manifest_digest and files.exists(metadata)


def _files_exist(ledger: Ledger, digest: str) -> bool:
    layout = ledger.layout
    with ledger.snapshot() as connection:
        layers = [] if connection is None else images.layers(connection, digest)
        fsmeta = None if connection is None else images.fsmeta_bytes(connection, digest)
    return (
        fsmeta is not None
        and files.measure(layout.fsmeta(digest)) == fsmeta
        and files.exists(layout.vmdk(digest))
        and all(files.measure(layout.layer(layer.diff_id)) == layer.erofs_bytes for layer in layers)
    )


def record_cached(ledger: Ledger, reference: Reference, digest: str, source: ev.Source, began: int) -> None:
    """Append ``image.pulled`` for an image that is here already; ``began`` is by ``time.monotonic_ns``."""
    with ledger.attest(uuid7()) as transaction:
        row = images.handle(transaction.connection, reference.canonical)
        if row is None or row.manifest_digest != digest:
            raise ImageNotFoundError(f"{reference.familiar} changed while it was pulled; try again")
        pulled = ev.ImagePulled(
            manifest_digest=digest,
            changed=False,
            source=source,
            bytes_fetched=0,
            bytes_reused=row.size_bytes,
            duration_ns=time.monotonic_ns() - began,
        )
        transaction.append([NewEvent(pulled, reference.canonical)])


def _collect_stale(layout: Layout) -> None:
    """Delete partial downloads that nobody went on with; one that is being written is locked."""
    try:
        names = os.listdir(layout.downloads)
    except FileNotFoundError:
        return
    for name in names:
        path = layout.downloads / name
        with suppress(FileNotFoundError):
            if name.endswith(".partial") and time.time() - path.lstat().st_mtime > STALE_SECONDS:
                partial = Partial.open(path.parent, f"sha256:{name.removesuffix('.partial')}", 1 << 62)
                if partial is not None:
                    partial.discard()
                    partial.close()
