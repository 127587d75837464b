"""Pull an image from its registry: decide what has to be fetched, fetch it, and record how it ended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from msb_cache import diagnostics
from msb_cache.artifacts import files, metadata, vmdk
from msb_cache.artifacts.compare import fsmeta_difference
from msb_cache.artifacts.durable import make_folder
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.layout import leaving_no_folders
from msb_cache.engines.arriving import Stage, arriving, as_often_as_full, make_room
from msb_cache.engines.cached import not_cached, record_cached
from msb_cache.engines.engine import Progress, Pulled, PullRequest, begun, operation_of, undone_by
from msb_cache.engines.own.add import Addition, Reuse, Tell, add, pulled
from msb_cache.engines.own.downloads import collect_stale
from msb_cache.engines.reused import Reused
from msb_cache.errors import CorruptArtifactError, InvalidImageError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.documents import metadata_difference
from msb_cache.home.ledger import Ledger
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import find_credential
from msb_cache.oci.registry.downloads import LayerProgress
from msb_cache.oci.registry.images import Registry, Resolved
from msb_cache.projections import images

_Result = TypeVar("_Result")


def pull(ledger: Ledger, request: PullRequest) -> Pulled:
    """Pull an image, or find it cached, and append ``image.pulled``; ``image.pull_failed`` if it fails.

    Raises:
        ImageNotFoundError: the policy is ``never`` and the image is not cached.
        ImagePullFailedError: the registry cannot or will not give it.
        InvalidImageError: what the registry gives is not what it says.
    """
    reused = Reused(ledger, request.max_age_ns, request.note)
    with leaving_no_folders(ledger.layout):
        cached = None if request.force or request.policy == "always" else _cached(ledger, request)
        if cached is not None and _is_as_known(ledger, cached, reused):
            return record_cached(ledger, request, request.reference.canonical, cached, reused)
        if cached is not None and request.policy == "never":
            raise CorruptArtifactError(
                f"layers of {request.reference.familiar} are not what they were, and the policy `never` "
                "forbids to pull them anew"
            )
        if request.policy == "never":
            raise not_cached(request.reference)
        try:
            return _fetch(ledger, request, partial(_pull, ledger, request, reused))
        except (MicrosandboxError, OSError) as error:
            failed = ev.ImagePullFailed(
                reason=str(error)[:1000],
                spelling=request.reference.spelling,
                source=request.source,
                undoes=undone_by(request),
            )
            with ledger.write(operation_of(request)) as transaction:
                transaction.append([NewEvent(failed, request.reference.canonical)])
            raise


def fetch_again(ledger: Ledger, request: PullRequest, references: tuple[Reference, ...], tell: Tell) -> None:
    """Fetch of an image what is not here as the log has it, and put it in its place.

    Args:
        ledger: the home.
        request: the image, by its digest.
        references: those that point at it; they have its metadata anew, and point at it as before.
        tell: says what is recorded of it beside the digests.

    Raises:
        ImagePullFailedError, InvalidImageError: as for ``pull``; nothing is recorded of it.
    """
    reused = Reused(ledger, request.max_age_ns, request.note)

    def add_again(registry: Registry, resolved: Resolved, progress: Progress, stage: Stage) -> None:
        _add(*(registry, ledger, request, progress, reused, resolved, stage), references, lambda _: tell)

    with leaving_no_folders(ledger.layout):
        _fetch(ledger, request, add_again)


_Use = Callable[[Registry, Resolved, Progress, Stage], _Result]


def _fetch(ledger: Ledger, request: PullRequest, use: _Use[_Result]) -> _Result:
    """Ask the registry what to fetch, and have it used; once more, if a part from before was damaged."""
    credential = find_credential(request.reference.registry, explicit=request.credential, note=request.note)
    resumed: set[str] = set()

    def watch(seen: LayerProgress) -> None:
        if seen.event == "resumed":
            resumed.add(seen.layer)
        if request.progress is not None:
            request.progress(seen)

    def attempt(stage: Stage) -> _Result:
        with Registry(request.reference, request.options, credential, request.note) as registry:
            with ledger.doing(f"asking {registry.name}"):
                resolved = _resolved(registry, request)
            result = use(registry, resolved, watch, stage)
            for sentence in registry.notes:
                if request.note is not None:
                    request.note(sentence)
            return result

    collect_stale(ledger.layout)
    try:
        return as_often_as_full(request.room, attempt)
    except InvalidImageError:
        if not resumed:
            raise
        # What a killed process or a power loss left was damaged, and is deleted now.
        return as_often_as_full(request.room, attempt)


def _resolved(registry: Registry, request: PullRequest) -> Resolved:
    reference = request.reference
    resolved = registry.resolve(_asked_for(request), request.platform)
    if request.digest not in (None, resolved.manifest_digest):
        raise InvalidImageError(f"{request.digest} of {reference.familiar} is no image manifest but an index")
    diagnostics.info("pull.resolved", reference=reference.familiar, digest=resolved.manifest_digest)
    reached("pull.resolved")
    return resolved


def _pull(
    ledger: Ledger,
    request: PullRequest,
    reused: Reused,
    registry: Registry,
    resolved: Resolved,
    progress: Progress,
    stage: Stage,
) -> Pulled:
    reference = request.reference
    if not request.force and _complete(ledger, request, resolved, reused):
        return record_cached(ledger, request, reference.canonical, resolved.manifest_digest, reused)

    def telling(additions: list[Addition]) -> Tell:
        return pulled(ledger, additions, request.source, request.began_ns, undone_by(request))

    (found,) = _add(*(registry, ledger, request, progress, reused, resolved, stage), (reference,), telling)
    return found


def _add(
    registry: Registry,
    ledger: Ledger,
    request: PullRequest,
    progress: Progress,
    reused: Reused,
    resolved: Resolved,
    stage: Stage,
    references: tuple[Reference, ...],
    telling: Callable[[list[Addition]], Tell],
) -> list[Pulled]:
    layout = ledger.layout
    with begun(layout, request) as operation:
        make_folder(layout.downloads)
        with ledger.doing(f"asking {registry.name}"):
            image = registry.image(resolved, partials=layout.downloads, progress=progress)
        for layer in image.layers:
            progress(LayerProgress(layer.blob_digest, "queued", 0, layer.size))
        additions = [Addition(image, references)]
        staged_all = None
        if (room := request.room) is not None:
            coming = arriving(
                layout,
                [image],
                references,
                stage=stage,
                anew=request.force,
                fetched_at_once=request.jobs,
            )
            staged_all = make_room(room, coming)
        return add(
            ledger,
            operation,
            additions,
            telling(additions),
            workers=request.jobs,
            reuse=None if request.force else _saying_exists(progress),
            reused=reused,
            abandon=registry.close,
            staged_all=staged_all,
            note=request.note,
        )


def _asked_for(request: PullRequest) -> Reference:
    """Return what the registry is asked for: the reference, or one manifest of its repository."""
    if request.digest is None:
        return request.reference
    return Reference.parse(f"{request.reference.name}@{request.digest}")


def _saying_exists(progress: Progress) -> Reuse:
    """Return what happens with a layer that is already here: it is not fetched, its digest is known."""

    def reuse(layer: SourceLayer) -> None:
        progress(LayerProgress(layer.blob_digest, "exists", layer.size, layer.size))

    return reuse


def _cached(ledger: Ledger, request: PullRequest) -> str | None:
    """Return the digest the reference points at, if it is the wanted one, for the platform, and cached."""
    with ledger.read() as connection:
        row = None if connection is None else images.handle(connection, request.reference.canonical)
    if row is None or request.digest not in (None, row.manifest_digest):
        return None
    if not _fits(row, request.platform) or not _files_exist(ledger, row.manifest_digest):
        return None
    return row.manifest_digest


def _fits(row: images.HandleRow, platform: Platform | None) -> bool:
    """Whether a cached image is for the platform that was asked for, if any was."""
    if platform is None:
        return True
    found = Platform.of(row.os or "linux", row.architecture or "unknown")
    return (found.os, found.architecture) == (platform.os, platform.architecture)


def _is_as_known(ledger: Ledger, digest: str, reused: Reused) -> bool:
    """Whether the layers of a manifest in the index have the bytes that they had."""
    layout = ledger.layout
    with ledger.read() as connection:
        layers = [] if connection is None else images.layers(connection, digest)
    return all(reused.is_as_known("layer", each.diff_id, layout.layer(each.diff_id)) for each in layers)


def _complete(ledger: Ledger, request: PullRequest, resolved: Resolved, reused: Reused) -> bool:
    """Whether the reference already points at the resolved manifest, and all of its files say what they must.

    This is the pull that mends what is wrong with them.
    """
    digest = resolved.manifest_digest
    if _cached(ledger, request) != digest:
        return False
    layout = ledger.layout
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        config = images.config(connection, digest)
        layers = images.layers(connection, digest)
    fsmeta = layout.fsmeta(digest)
    try:
        document = metadata.decode(layout.metadata(request.reference.canonical))
        trees = [read_layer(layout.layer(layer.diff_id)) for layer in layers]
        extents = [(fsmeta, files.measure(fsmeta) or 0)]
        extents += [
            (layout.layer(layer.diff_id), tree.size_bytes) for layer, tree in zip(layers, trees, strict=True)
        ]
        return (
            config is not None
            and document.manifest_digest == digest
            and metadata_difference(document, config.digest, layers) is None
            and vmdk.difference(layout.vmdk(digest), extents) is None
            and fsmeta_difference(fsmeta, trees) is None
            and _is_as_known(ledger, digest, reused)
        )
    except (CorruptArtifactError, FileNotFoundError):
        return False


def _files_exist(ledger: Ledger, digest: str) -> bool:
    layout = ledger.layout
    with ledger.read() as connection:
        layers = [] if connection is None else images.layers(connection, digest)
        fsmeta = None if connection is None else images.fsmeta_bytes(connection, digest)
    return (
        fsmeta is not None
        and files.measure(layout.fsmeta(digest)) == fsmeta
        and files.exists(layout.vmdk(digest))
        and all(files.measure(layout.layer(layer.diff_id)) == layer.erofs_bytes for layer in layers)
    )
