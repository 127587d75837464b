"""Pull and load in a home that msb keeps: msb adds the images, and it is recorded as asked for by us."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from msgspec.structs import replace

from msb_cache import diagnostics
from msb_cache.artifacts import files
from msb_cache.engines.arriving import Arriving
from msb_cache.engines.arriving import arriving as arriving_images
from msb_cache.engines.cached import not_cached, record_cached
from msb_cache.engines.engine import LoadRequest, Pulled, PullRequest, length, operation_of, undone_by
from msb_cache.engines.reused import Reused
from msb_cache.errors import (
    BoundNotKeptError,
    ImageNotFoundError,
    ImagePullFailedError,
    InvalidConfigError,
    InvalidImageError,
    InvalidReferenceError,
)
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent, StoredEvent
from msb_cache.home.ledger import Ledger
from msb_cache.msb.arrivals import Arrivals
from msb_cache.msb.program import MsbProgram, require_program
from msb_cache.msb.sync import OwnAction, sync
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.layer.compression import CHUNK_BYTES, MAGIC_BYTES, decompressed, sniff
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.proxy import is_loopback
from msb_cache.projections import images
from msb_cache.projections.state import Coming
from msb_cache.retention.coming import COMPRESSED, Blob, Sizes
from msb_cache.wording import reason_of

if TYPE_CHECKING:
    from msb_cache.msb.database import MsbState
    from msb_cache.msb.sync import Attribution
    from msb_cache.projections.known import Known


_COPIES = 2
"""How many copies of an archive lie in the cache while msb 0.7.11 loads it: measured with one of 117 MiB."""


def pull(ledger: Ledger, request: PullRequest) -> Pulled:
    """Have msb pull an image, and append ``image.pulled``; ``image.pull_failed`` if that fails.

    The policy ``always`` is msb's ``--force``: msb takes a cached tag as it is otherwise.

    Raises:
        ImageNotFoundError: the policy is ``never`` and the image is not cached.
        ImagePullFailedError: msb cannot pull it.
        InvalidConfigError: a login, another machine's platform, or one manifest under some reference is
            asked for, which msb does not take.
        HomeOwnedByMicrosandboxError: there is no msb to do it.
    """
    reference = request.reference
    _check_platform(request.platform, "pulls")
    if request.digest is not None:
        raise InvalidConfigError(
            f"msb keeps this home, and pulls what {reference.familiar} means by now, not the manifest "
            f"{request.digest}; pull {reference.name}@{request.digest}, or use another --home"
        )
    if request.credential is not None:
        raise InvalidConfigError(
            f"msb keeps this home and its own logins: use `msb registry login {reference.registry}`"
        )
    program = require_program(ledger.layout.home, ledger.note)
    sync(ledger)
    if request.policy == "never":
        row = _cached(ledger, reference)
        return record_cached(ledger, request, row.name, row.manifest_digest)
    arriving = _look_up(ledger, request)
    if arriving is not None and request.room is not None:
        request.room(arriving)
    arguments = ["pull", "--quiet"]
    if request.force or request.policy == "always":
        arguments.append("--force")
    if request.options.insecure or is_loopback(reference.registry):
        arguments.append("--insecure")
    if request.options.ca_certs is not None:
        arguments += ["--ca-certs", str(request.options.ca_certs)]
    name = _typed(reference)
    watch = None if request.progress is None else Arrivals(ledger.layout.cache, request.progress).look
    finished = program.run(*arguments, "--", name, watch=watch)
    operation = operation_of(request)
    if finished.code:
        failed = ev.ImagePullFailed(
            reason=finished.problem,
            spelling=reference.spelling,
            source=request.source,
            undoes=undone_by(request),
        )
        with ledger.write(operation, owner="msb") as transaction:
            transaction.append([NewEvent(failed, reference.canonical)])
        raise ImagePullFailedError(f"msb could not pull {reference.familiar}: {finished.problem}")
    diagnostics.info("image.added", references=[reference.familiar], engine="msb")
    explain = explained([name], request.source, request.began_ns, undone_by(request))
    report = sync(ledger, force=True, acting=OwnAction(operation, explain))
    for pulled in _recorded(ledger, [name], report.events):
        _check(ledger, request, [pulled.row.manifest_digest])
        _look_again(request, arriving)
        return pulled
    raise ImageNotFoundError(f"{reference.familiar} went while it was pulled; try again")


def load(ledger: Ledger, request: LoadRequest) -> list[images.HandleRow]:
    """Have msb load an archive, and append ``image.pulled`` for each of its references.

    Returns:
        A row for each reference that msb names, in its order.

    Raises:
        InvalidImageError: msb does not take the archive.
        InvalidConfigError: another machine's platform is asked for.
        HomeOwnedByMicrosandboxError: there is no msb to do it.
    """
    _check_platform(request.platform, "loads")
    if request.only is not None:
        raise InvalidConfigError(
            "msb keeps this home and loads all images of an archive, so leave the digest out"
        )
    program = require_program(ledger.layout.home, ledger.note)
    sync(ledger)
    arriving = None if request.room is None else _look_into(ledger, request)
    if arriving is not None and request.room is not None:
        request.room(arriving)
    with ledger.doing("msb loads the archive", "bytes", length(request.source)) as count:
        loaded = [*dict.fromkeys(_load(program, request.source, request.tags, count))]
    explain = explained(loaded, request.origin, request.began_ns, undone_by(request))
    report = sync(ledger, force=True, acting=OwnAction(operation_of(request), explain))
    diagnostics.info("image.added", references=loaded, engine="msb")
    rows = [pulled.row for pulled in _recorded(ledger, loaded, report.events)]
    _check(ledger, request, [row.manifest_digest for row in rows])
    _look_again(request, arriving)
    return rows


def _look_up(ledger: Ledger, request: PullRequest) -> Arriving | None:
    """Return what a pull by msb brings, as the registry says; None: no room is asked for, or it is cached."""
    if request.room is None:
        return None
    reference, layout = request.reference, ledger.layout
    with ledger.read() as connection:
        cached = connection is not None and images.handle(connection, _typed(reference)) is not None
    if cached and not request.force and request.policy == "missing":
        return None  # msb takes it as it is
    from msb_cache.oci.registry.credentials import find_credential
    from msb_cache.oci.registry.images import Registry

    try:
        credential = find_credential(reference.registry, note=request.note)
        with Registry(reference, request.options, credential, request.note) as registry:
            resolved = registry.resolve(reference, request.platform)
            image = registry.image(resolved, partials=layout.downloads)
    except (ImagePullFailedError, InvalidImageError) as error:
        raise ImagePullFailedError(
            f"how much room {reference.familiar} needs cannot be told, so nothing was pulled: {error}"
        ) from None
    return arriving_images(
        layout, [image], [reference], anew=request.force, fetched_at_once=len(image.layers)
    )


def _look_into(ledger: Ledger, request: LoadRequest) -> Arriving:
    """Return what a load by msb brings: of a compressed archive only how long it is."""
    source = request.source
    if not isinstance(source, Path) or source.is_fifo():
        raise InvalidConfigError(
            "msb keeps this home, and how much room a stream needs cannot be told; name the archive's file"
        )
    try:
        with source.open("rb") as file:
            plain, size = _is_plain(file), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InvalidImageError(f"archive {source} cannot be opened: {reason_of(error)}") from None
    if not plain:
        names = tuple(tag.familiar for tag in request.tags) or (source.name,)
        coming = Coming(frozenset(tag.canonical for tag in request.tags))
        beside = int(_COPIES * COMPRESSED * size)
        return Arriving(names=names, coming=coming, sizes=Sizes((Blob(size, True),), images=1, beside=beside))
    with open_archive(source, ledger.layout.staging_root) as archive:
        named = [reference for image in archive.images for reference in image.references]
        found = arriving_images(ledger.layout, archive.images, [*request.tags, *named])
    return replace(found, sizes=found.sizes._replace(beside=_COPIES * size))


def _look_again(request: LoadRequest | PullRequest, arriving: Arriving | None) -> None:
    """Make room once more if what came takes more than was expected.

    Raises:
        BoundNotKeptError: that cannot be done; the images are there all the same.
    """
    if arriving is None or request.room is None:
        return
    try:
        request.room(arriving.staged(0))
    except BoundNotKeptError as error:
        said = str(error).removesuffix("; nothing was added")
        raise BoundNotKeptError(f"{said}; it is there all the same") from None


def _check(ledger: Ledger, request: LoadRequest | PullRequest, manifests: Sequence[str]) -> None:
    """Compare the layers of images with their digests; msb looks at the first bytes of those it reuses."""
    remedy = "`msb pull --force` of its image makes it anew"
    reused, layout = Reused(ledger, request.max_age_ns, request.note, remedy), ledger.layout
    with ledger.read() as connection:
        layers = [
            layer.diff_id
            for digest in dict.fromkeys(manifests)
            for layer in (() if connection is None else images.layers(connection, digest))
        ]
    for diff_id in dict.fromkeys(layers):
        if files.exists(path := layout.layer(diff_id)):
            reused.is_as_known("layer", diff_id, path)
    if reused.is_new:
        with ledger.write(operation_of(request), owner="any") as transaction:
            reused.record(transaction)


def _recorded(ledger: Ledger, names: Sequence[str], events: Sequence[StoredEvent]) -> list[Pulled]:
    """Return the images that are there by now, with what was recorded of each, in the given order."""
    pulls = {event.data.spelling: event for event in events if isinstance(event.data, ev.ImagePulled)}
    with ledger.read() as connection:
        rows = [None if connection is None else images.handle(connection, name) for name in names]
    return [Pulled(row, pulls[row.name]) for row in rows if row is not None and row.name in pulls]


def _load(
    program: MsbProgram, source: Path | BinaryIO, tags: Sequence[Reference], count: Callable[[int], object]
) -> list[str]:
    """Run msb, and return the references that it says it loaded, as it writes them.

    ``count`` is told how many bytes of the archive msb has been given, where it does not read it by itself.
    """
    arguments = ["load"]
    for tag in tags:
        arguments += ["--tag", _typed(tag)]
    what = f"archive {source}" if isinstance(source, Path) else "the archive"
    with ExitStack() as stack:
        if isinstance(source, Path):
            if source.is_dir():
                raise InvalidImageError(f"{source} is a folder, and msb loads tar files: pack it with tar")
            try:
                file: IO[bytes] = stack.enter_context(source.open("rb"))
            except OSError as error:
                raise InvalidImageError(f"{what} cannot be opened: {reason_of(error)}") from None
        else:
            file = source
        # The user that it runs as may not be able to open what this process has open.
        if isinstance(source, Path) and _is_plain(file) and not program.runs_as_another:
            finished = program.run(*arguments, "--input", str(source.absolute()))
        else:
            finished = program.run(*arguments, source=_plain(file, what, count))
    if finished.code:
        raise InvalidImageError(f"msb could not load {what}: {finished.problem}")
    found = []
    for line in finished.lines:
        name = line.removeprefix("✓ Loaded").split() if line.startswith("✓ Loaded") else []
        if name:
            try:
                Reference.parse(name[0])
                found.append(name[0])
            except InvalidReferenceError:
                diagnostics.warning("msb.named_no_reference", said=name[0][:200])
    if not found:
        raise InvalidImageError(f"msb found no image in {what}")
    return found


def _is_plain(file: IO[bytes]) -> bool:
    """Whether it is an uncompressed regular file, which msb can read by itself."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return False
    head = file.read(MAGIC_BYTES)
    file.seek(0)
    return sniff(head) == "none"


def _plain(file: IO[bytes], what: str, count: Callable[[int], object]) -> Iterator[bytes]:
    """Yield an archive's bytes as they are behind the compression around it, which msb does not know."""
    joined = _Peeked(file, count)
    stream = decompressed(joined, sniff(joined.head), what)
    while data := stream.read(CHUNK_BYTES):
        yield data


class _Peeked:
    """A stream whose first bytes are known before they are read; ``count`` is told how far it is."""

    def __init__(self, file: IO[bytes], count: Callable[[int], object]) -> None:
        self._file = file
        self._count = count
        self.head = b""
        while len(self.head) < MAGIC_BYTES and (more := file.read(MAGIC_BYTES - len(self.head))):
            self.head += more
        self._rest = self.head
        self._done = len(self.head)

    def read(self, size: int, /) -> bytes:
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        data = self._file.read(size) or b""
        self._done += len(data)
        self._count(self._done)
        return data


def _check_platform(platform: Platform | None, does: str) -> None:
    host = Platform.host()
    if platform is not None and (platform.os, platform.architecture) != (host.os, host.architecture):
        raise InvalidConfigError(
            f"msb keeps this home and {does} for {host} only; use another --home for {platform}"
        )


def _cached(ledger: Ledger, reference: Reference) -> images.HandleRow:
    with ledger.read() as connection:
        rows = [] if connection is None else images.spellings(connection, reference.canonical)
    if not rows:
        raise not_cached(reference)
    name = _typed(reference)
    return next((row for row in rows if row.name == name), rows[0])


def _typed(reference: Reference) -> str:
    """Return how msb is to know the reference: as it was typed."""
    return reference.typed or reference.familiar


def explained(
    references: Sequence[str], source: ev.Source, began_ns: int, undoes: str | None = None
) -> Attribution:
    """Return what says which differences came of adding these references, and where from."""

    def explain(events: Sequence[NewEvent], known: Known, theirs: MsbState) -> list[tuple[NewEvent, bool]]:
        duration = time.monotonic_ns() - began_ns
        added = {name: theirs.images[name] for name in references if name in theirs.images}
        digests = {image.manifest_digest for image in added.values()}
        new = {
            layer.diff_id: layer.size or 0
            for digest in digests
            for layer in theirs.manifests[digest].layers
            if layer.diff_id not in known.layers
        }
        told: list[tuple[NewEvent, bool]] = []
        seen: set[str] = set()

        def completed(pulled: ev.ImagePulled) -> ev.ImagePulled:
            manifest = theirs.manifests[pulled.manifest_digest]
            own = {layer.diff_id: layer.size or 0 for layer in manifest.layers}
            total = sum(own.values()) if manifest.total_size is None else manifest.total_size
            fetched = sum(new.pop(diff_id, 0) for diff_id in own)
            return replace(
                pulled,
                source=source,
                bytes_fetched=fetched,
                bytes_reused=max(total - fetched, 0),
                duration_ns=duration,
                undoes=undoes,
            )

        for event in events:
            data, subject = event.event, event.subject
            if isinstance(data, ev.ImagePulled) and data.spelling in added:
                seen.add(data.spelling)
                told.append((replace(event, event=completed(data)), True))
            elif isinstance(data, ev.ImageUsed) and data.spelling in added and data.holder is None:
                continue  # that is how msb's index shows the pull of a cached image
            else:
                told.append((event, isinstance(data, ev.ManifestAdded) and subject in digests))
        for name, image in added.items():
            if name not in seen:
                pulled = ev.ImagePulled(
                    manifest_digest=image.manifest_digest,
                    changed=False,
                    source=source,
                    spelling=name,
                    row=image.row,
                )
                told.append((NewEvent(completed(pulled), image.reference, image.updated_at_ns), True))
        return told

    return explain
