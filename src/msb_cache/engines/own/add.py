"""Put images into the cache: convert their layers, publish the files, and record it, all or nothing.

Everything is prepared in the operation's staging folder while the locks of all its artifacts are held,
published by renames, and named in the index by one transaction. Where a file comes from (an archive,
a registry) is decided by what makes the ``SourceImage``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from msb_cache import diagnostics
from msb_cache.artifacts import durable, files, metadata
from msb_cache.artifacts.compare import fsmeta_difference
from msb_cache.artifacts.digests import digest_of_content
from msb_cache.artifacts.footprint import Allowance, Claim
from msb_cache.artifacts.hashing import Hashing
from msb_cache.artifacts.layer import LayerImage, write_layer
from msb_cache.artifacts.layout import lock_path
from msb_cache.artifacts.locks import LockSet
from msb_cache.engines.arriving import taken
from msb_cache.engines.engine import Pulled
from msb_cache.engines.own.staging import (
    Layers,
    Sizes,
    Staged,
    Syncs,
    last_added,
    measured_anew,
    put_in_place,
    reusable,
    saying_who,
    sizes_of,
    stage_tree,
    take_back,
)
from msb_cache.engines.reused import Reused
from msb_cache.errors import BusyError, CorruptArtifactError, InvalidImageError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent, StoredEvent
from msb_cache.failpoints import reached
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.home.operation import Operation
from msb_cache.oci.image import SourceImage, SourceLayer
from msb_cache.oci.layer.tar import TarEntry
from msb_cache.oci.reference import Reference
from msb_cache.projections import images as projected
from msb_cache.projections.digests import Artifact
from msb_cache.projections.rows import DigestRow
from msb_cache.waiting import TURN_SECONDS, Note, end_if_asked

Reuse = Callable[[SourceLayer], None]
Known = Mapping[Artifact, DigestRow]
Tell = Callable[[Transaction, Layers, Sequence[Staged], Known], list[NewEvent]]
"""Says within the transaction what was added, from the layers, the files that were made, and the digests that
the log had of these before."""


@dataclass(frozen=True)
class Addition:
    """An image to add, and the canonical references that shall point at it."""

    image: SourceImage
    references: tuple[Reference, ...]


def add(
    ledger: Ledger,
    operation: Operation,
    additions: Sequence[Addition],
    tell: Tell,
    *,
    workers: int,
    reuse: Reuse | None,
    reused: Reused,
    abandon: Callable[[], None] = lambda: None,
    staged_all: Callable[[int], None] | None = None,
    note: Note | None = None,
) -> list[Pulled]:
    """Add images in one operation: all of them, or none if anything about one is wrong.

    Args:
        ledger: the home.
        operation: the running operation.
        additions: the images, each manifest and each reference once.
        tell: says what is recorded of it beside the digests.
        workers: how many layers to convert at the same time.
        reuse: called with each layer whose image the cache already has, in a worker's thread; None: no
            layer image is reused, all are made anew.
        reused: says whether what lies there has the bytes that it had.
        abandon: called as soon as one layer has failed, to end what the others still wait for.
        staged_all: called when all files are there and none is published, with how many bytes they replace;
            what it raises ends the addition.
        note: gets a sentence when another process has to be waited for.

    Returns:
        What was recorded of each reference, in the given order.

    Raises:
        InvalidImageError: a digest does not fit, a layer cannot be converted.
        BusyError: a reference that is to come back points at another image by now.
    """
    layout, added = ledger.layout, list[Pulled]()
    durable.make_folder(*layout.own_folders)
    operation.tell([reference for addition in additions for reference in addition.references])

    waiting = saying_who(layout, operation, note)
    wanted = {layer.diff_id for addition in additions for layer in addition.image.layers}
    anew = wanted if reuse is None else set[str]()
    with ExitStack() as locked:
        while True:
            repairs = _repairs(ledger, wanted, additions, anew)
            paths = _paths(ledger, additions, repairs)
            locks = locked.enter_context(LockSet((lock_path(path) for path in paths), waiting))
            reached("add.locked")
            layers = Layers()
            wrong = _read_present(ledger, layers, additions, wanted - anew, reused)
            if not wrong:
                break
            # Other images can have these layers, and what is made anew of those has to be locked as well.
            anew |= wrong
            locks.release()
        staging = operation.staging()
        with ThreadPoolExecutor(thread_name_prefix="msb-cache-sync") as pool, Hashing() as hashing:
            syncs = Syncs(pool)
            syncs.begin_folders(layout)
            staged = _stage_layers(
                ledger, additions, layers, staging, syncs, hashing, workers, reuse, abandon
            )
            staged += _stage_repairs(ledger, layers, repairs, additions, staging, syncs, reused)
            for addition in additions:
                staged += _stage_image(ledger, addition, layers, staging, syncs, reused)
            syncs.wait()
        reached("add.staged")
        if staged_all is not None:
            staged_all(sum(taken(layout.artifact(each.kind, each.subject)) for each in staged))

        def record(transaction: Transaction, known: Known) -> None:
            reused.record(transaction)
            transaction.append(measured_anew(ledger, transaction, layers, repairs))
            stored = transaction.append(tell(transaction, layers, staged, known))
            added.extend(_added(transaction, stored))

        published = put_in_place(ledger, operation, staged, staging, record)
        # What was repaired for a manifest that went meanwhile belongs to no image.
        repaired = [artifact for artifact in published if artifact.subject in repairs]
        take_back(ledger, operation, repaired, staging)
    for addition in additions:
        names = [reference.familiar for reference in addition.references]
        diagnostics.info("image.added", references=names, digest=addition.image.manifest_digest)
    return added


def _added(transaction: Transaction, stored: Sequence[StoredEvent]) -> list[Pulled]:
    """Return each reference's row as it is now, with the event that pointed it there."""
    added = []
    for event in stored:
        row = projected.handle(transaction.connection, event.subject)
        if isinstance(event.data, ev.ImagePulled) and row is not None:
            added.append(Pulled(row, event))
    return added


def _paths(ledger: Ledger, additions: Sequence[Addition], repairs: Mapping[str, list[str]]) -> set[Path]:
    layout = ledger.layout
    paths: set[Path] = set()
    for digest in [*repairs, *(addition.image.manifest_digest for addition in additions)]:
        paths |= {layout.fsmeta(digest), layout.vmdk(digest)}
    for addition in additions:
        paths |= {layout.layer(layer.diff_id) for layer in addition.image.layers}
        paths |= {layout.metadata(reference.canonical) for reference in addition.references}
    return paths


def _repairs(
    ledger: Ledger, wanted: Set[str], additions: Sequence[Addition], anew: Set[str]
) -> dict[str, list[str]]:
    """Return other manifests, and their layers, that have a wanted layer which must be converted again.

    Their fsmeta holds block addresses within the damaged layer image; the new image can have others,
    if another release or another program wrote the old one.
    """
    own = {addition.image.manifest_digest for addition in additions}
    found: dict[str, list[str]] = {}
    with ledger.read() as connection:
        if connection is None:
            return found
        for diff_id in wanted:
            needing = projected.manifests_with(connection, diff_id)
            if needing and (diff_id in anew or not files.exists(ledger.layout.layer(diff_id))):
                for digest in set(needing) - own:
                    found[digest] = [layer.diff_id for layer in projected.layers(connection, digest)]
    return found


def _read_present(
    ledger: Ledger, layers: Layers, additions: Sequence[Addition], wanted: Set[str], reused: Reused
) -> set[str]:
    """Read the images of wanted layers that are there; return those that must be made anew.

    An image is what it says it is if it has the size that the index knows and the bytes that the log does,
    and the fsmeta of its manifest was made of it. If that says something else, neither is believed.
    """
    layout, wrong = ledger.layout, set[str]()
    images = {addition.image.manifest_digest: addition.image for addition in additions}
    with ledger.read() as connection:
        if connection is None:
            known, fsmeta_known = dict[str, int | None](), dict[str, int | None]()
        else:
            known = {diff_id: projected.layer_bytes(connection, diff_id) for diff_id in wanted}
            fsmeta_known = {digest: projected.fsmeta_bytes(connection, digest) for digest in images}
    for diff_id in wanted:
        path = layout.layer(diff_id)
        size = files.measure(path)
        if size is None:
            continue
        present = reusable(path) if known.get(diff_id) in (None, size) else None
        if present is None or not reused.is_as_known("layer", diff_id, path):
            wrong.add(diff_id)
        else:
            layers.put(diff_id, present, path)
    for digest, image in images.items():
        diff_ids = [layer.diff_id for layer in image.layers]
        fsmeta, size = layout.fsmeta(digest), fsmeta_known.get(digest)
        if size is None or size != files.measure(fsmeta) or not layers.sizes.keys() >= set(diff_ids):
            continue
        try:
            difference = fsmeta_difference(fsmeta, list(map(layers.read, diff_ids)))
        except CorruptArtifactError:
            continue
        if difference is None:
            layers.merged[digest] = size
        else:
            diagnostics.warning("fsmeta.other", digest=digest, difference=difference)
            wrong.update(diff_ids)
    return wrong


def _stage_repairs(
    ledger: Ledger,
    layers: Layers,
    repairs: Mapping[str, list[str]],
    additions: Sequence[Addition],
    staging: Path,
    syncs: Syncs,
    reused: Reused,
) -> list[Staged]:
    added = {addition.image.manifest_digest for addition in additions}
    staged: list[Staged] = []
    with ledger.read() as connection:
        if connection is None:
            return staged
        for diff_id in layers.converted:
            if not set(projected.manifests_with(connection, diff_id)) <= {*repairs, *added}:
                raise BusyError("the cache changed while an image was added to it; try again")
    for digest, diff_ids in repairs.items():
        for diff_id in diff_ids:
            path = ledger.layout.layer(diff_id)
            if diff_id not in layers.sizes and (present := reusable(path)):
                layers.put(diff_id, present, path)
        if layers.converted.intersection(diff_ids) and layers.sizes.keys() >= set(diff_ids):
            staged += stage_tree(ledger, digest, diff_ids, layers, staging, syncs, reused)
    return staged


def _stage_layers(
    ledger: Ledger,
    additions: Sequence[Addition],
    layers: Layers,
    staging: Path,
    syncs: Syncs,
    hashing: Hashing,
    workers: int,
    reuse: Reuse | None,
    abandon: Callable[[], None],
) -> list[Staged]:
    wanted = {layer.diff_id: layer for addition in additions for layer in addition.image.layers}
    claims = _claims(additions)
    stop = Event()
    failures: list[BaseException] = []

    def give_up(cause: BaseException) -> None:
        failures.append(cause)  # before the others fail because of it
        stop.set()  # they end at their next entry
        abandon()

    def stage(layer: SourceLayer) -> Staged | None:
        if reuse is not None and layer.diff_id in layers.sizes:
            claims[layer.diff_id](layers.footprints[layer.diff_id])
            reuse(layer)
            diagnostics.debug("layer.reused", diff_id=layer.diff_id)
            return None
        target = staging / ledger.layout.layer(layer.diff_id).name
        written = _convert(layer, target, claims[layer.diff_id], hashing, stop, give_up)
        syncs.begin(target)
        digest = hashing.finish(target)  # while the disk writes
        layers.put(layer.diff_id, written, target)
        layers.converted.add(layer.diff_id)
        diagnostics.info("layer.converted", diff_id=layer.diff_id, bytes=written.size_bytes)
        reached("add.layer")
        return Staged("layer", layer.diff_id, target, digest)

    with ThreadPoolExecutor(workers, thread_name_prefix="msb-cache-layer") as pool:
        futures: list[Future[Staged | None]] = []
        try:  # from the first on: leaving the block waits for all that were begun
            futures.extend(pool.submit(stage, layer) for layer in wanted.values())
            ledger.prepare()
            _await(futures)
        except BaseException as error:
            give_up(error)
            for future in futures:
                future.cancel()
            raise failures[0] from None
    return [staged for future in futures if (staged := future.result()) is not None]


def _await(futures: Sequence[Future[Any]]) -> None:
    """Wait until all are done; raises what the first one that failed did, or because it is asked to end."""
    pending = {*futures}
    while pending:
        done, pending = wait(pending, TURN_SECONDS, FIRST_EXCEPTION)
        for future in done:
            future.result()
        end_if_asked()


def _claims(additions: Sequence[Addition]) -> dict[str, Claim]:
    """Return for each layer how it asks for memory: of each image that has it, as often as that has it."""
    allowances: dict[str, list[Allowance]] = {}
    for addition in additions:
        allowance = Allowance()
        for layer in addition.image.layers:
            allowances.setdefault(layer.diff_id, []).append(allowance)

    def claim(shared: Sequence[Allowance], size: int) -> None:
        for allowance in shared:
            allowance.claim(size)

    return {diff_id: partial(claim, shared) for diff_id, shared in allowances.items()}


def _convert(
    layer: SourceLayer,
    target: Path,
    claim: Claim,
    hashing: Hashing,
    stop: Event,
    give_up: Callable[[BaseException], None],
) -> LayerImage:
    with layer.open() as stream:
        try:
            written = write_layer(
                _until(stop, stream.entries()), target, claim, partial(hashing.written, target)
            )
            stream.verify()
        except BaseException as error:
            give_up(error)  # now, for leaving the stream waits until its last read has returned
            raise
    return written


def _until(stop: Event, entries: Iterator[TarEntry]) -> Iterator[TarEntry]:
    for entry in entries:
        if stop.is_set():
            raise _StoppedError
        yield entry


class _StoppedError(Exception):
    """Another layer failed, so this one is not needed any more."""


def _stage_image(
    ledger: Ledger, addition: Addition, layers: Layers, staging: Path, syncs: Syncs, reused: Reused
) -> list[Staged]:
    layout, image = ledger.layout, addition.image
    own = [layer.diff_id for layer in image.layers]
    staged = stage_tree(ledger, image.manifest_digest, own, layers, staging, syncs, reused)
    document = metadata.render(_metadata(image))
    for reference in addition.references:
        target = staging / layout.metadata(reference.canonical).name
        files.write(target, document)
        staged.append(Staged("metadata", reference.canonical, target, digest_of_content(document)))
    return staged


def pulled(
    ledger: Ledger,
    additions: Sequence[Addition],
    source: ev.Source,
    began_ns: int,
    undoes: str | None = None,
) -> Tell:
    """Return what says that references point at these images now.

    Args:
        ledger: the home.
        additions: the images.
        source: where they come from, for the record.
        began_ns: when the work began, by ``time.monotonic_ns``.
        undoes: the deletion that they were taken by and that is undone by this, which takes no reference from
            another image; None: none.
    """

    def tell(
        transaction: Transaction, layers: Layers, staged: Sequence[Staged], known: Known
    ) -> list[NewEvent]:
        return _events(*(ledger, transaction, additions, layers, source, began_ns, undoes))

    return tell


def _events(
    ledger: Ledger,
    transaction: Transaction,
    additions: Sequence[Addition],
    layers: Layers,
    source: ev.Source,
    began_ns: int,
    undoes: str | None,
) -> list[NewEvent]:
    events: list[NewEvent] = []
    uncounted = set(layers.converted)
    for addition in additions:
        image = addition.image
        digest = image.manifest_digest
        manifest = _manifest_added(image, sizes_of(ledger, digest, layers.sizes))
        if manifest != last_added(ledger, transaction, digest):
            events.append(NewEvent(manifest, digest))
        own = {layer.diff_id: layer.size for layer in image.layers}
        fetched = sum(size for diff_id, size in own.items() if diff_id in uncounted)
        uncounted -= own.keys()  # what two images of one archive share came with the first
        for reference in addition.references:
            canonical = reference.canonical
            row = projected.handle(transaction.connection, canonical)
            before = None if row is None else row.manifest_digest
            if undoes is not None and before not in (None, digest):
                raise BusyError(f"{reference} points at another image since a moment ago; try again")
            pulled = ev.ImagePulled(
                manifest_digest=digest,
                previous_digest=before if before != digest else None,
                changed=before != digest,
                source=source,
                spelling=reference.spelling,
                bytes_fetched=fetched,
                bytes_reused=sum(own.values()) - fetched,
                duration_ns=time.monotonic_ns() - began_ns,
                undoes=undoes,
            )
            events.append(NewEvent(pulled, canonical))
    return events


def _manifest_added(image: SourceImage, sizes: Sizes) -> ev.ManifestAdded:
    return ev.ManifestAdded(
        media_type=image.manifest_media_type,
        config_digest=image.config_digest,
        architecture=_known(image.platform.architecture),
        os=_known(image.platform.os),
        variant=image.platform.variant,
        config=_config(image),
        layers=tuple(
            ev.Layer(
                diff_id=layer.diff_id,
                blob_digest=layer.blob_digest,
                media_type=layer.media_type,
                size=layer.size,
                erofs_size=sizes.layers[layer.diff_id],
            )
            for layer in image.layers
        ),
        total_size=sum(layer.size for layer in image.layers),
        fsmeta_size=sizes.fsmeta,
        vmdk_size=sizes.vmdk,
    )


def _config(image: SourceImage) -> ev.ImageConfig:
    config = image.config_document.run
    return ev.ImageConfig(
        env=tuple(config.env or ()),
        cmd=_words(config.cmd),
        entrypoint=_words(config.entrypoint),
        working_dir=config.working_dir or None,
        user=config.user or None,
        labels=None if config.labels is None else {key: text or "" for key, text in config.labels.items()},
        stop_signal=config.stop_signal,
        exposed_ports=tuple(sorted(config.exposed_ports or ())),
        volumes=tuple(sorted(config.volumes or ())),
    )


def _words(command: Sequence[str] | str | None) -> tuple[str, ...] | None:
    if command is None:
        return None
    return (command,) if isinstance(command, str) else tuple(command)


def _known(name: str) -> str | None:
    return None if name == "unknown" else name


def _metadata(image: SourceImage) -> metadata.Metadata:
    try:
        raw_manifest, raw_config = image.manifest.decode(), image.config.decode()
    except UnicodeDecodeError:
        raise InvalidImageError(f"the manifest or config of {image.manifest_digest} is not UTF-8") from None
    return metadata.Metadata(
        manifest_digest=image.manifest_digest,
        config_digest=image.config_digest,
        raw_manifest_json=raw_manifest,
        raw_config_json=raw_config,
        config=metadata.config_fields(_config(image)),
        layers=[
            metadata.LayerMetadata(
                digest=layer.blob_digest,
                media_type=layer.media_type,
                size_bytes=layer.size,
                diff_id=layer.diff_id,
            )
            for layer in image.layers
        ],
    )
