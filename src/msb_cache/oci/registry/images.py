"""Images from registries (OCI distribution-spec 1.1, "Pulling"): what a reference means, and its parts.

Yields the same SourceImage as archives do. Not for pushing, and not for deciding what has to be fetched:
layers are requested only when they are opened. This module and what it imports load an HTTP library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from msb_cache.errors import InvalidImageError, PlatformNotFoundError
from msb_cache.oci.archive.selection import Selection
from msb_cache.oci.digest import check_digest, digest_of, digest_problem
from msb_cache.oci.documents.candidates import Candidates, document_type
from msb_cache.oci.documents.decode import (
    DOCKER_FOREIGN,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    OCI_FOREIGN,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1,
    SCHEMA1_PROBLEM,
    Descriptor,
    Manifest,
    decode_manifest,
)
from msb_cache.oci.documents.platform import Platform, listed
from msb_cache.oci.image import BlobReader, SourceImage, check_content
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.downloads import BlobDownload, LayerProgress
from msb_cache.oci.registry.http import Answer
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.oci.registry.session import Document, Session
from msb_cache.waiting import Note

#: Documents fetched to find out which manifest of an index to take; real ones need none or one.
MAX_LOOKED_UP = 64
_ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_BLOB_STATUSES = frozenset({200, 206, 416})


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now.

    ``digest`` is what it points at, an index's or the manifest's own; ``manifest_digest`` the image manifest
    to pull. ``platform`` is None while only the config would tell, ``manifest`` (the bytes) and ``document``
    (decoded) while it was not needed. ``wanted`` is the platform that was asked for, if any.
    """

    reference: Reference
    digest: str
    manifest_digest: str
    platform: Platform | None
    manifest: bytes | None
    wanted: Platform | None
    document: Manifest | None = field(default=None, compare=False)


class Registry:
    """One registry, such as ``docker.io`` or ``registry.example:5000``; a context manager.

    May be used from several threads at once. ``note`` is told, from any of them, when something is waited for
    longer than a second. ``notes`` are sentences about what was assumed. All methods
    raise ImagePullFailedError when the registry cannot or will not give what was asked for, and
    InvalidImageError when what it gives is not what it says.
    """

    def __init__(
        self,
        registry: str | Reference,
        options: RegistryOptions | None = None,
        credential: Credential | None = None,
        note: Note | None = None,
    ) -> None:
        self.name = registry.registry if isinstance(registry, Reference) else registry
        self.notes: list[str] = []
        self._session = Session(self.name, options or RegistryOptions(), credential, note)

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what other threads wait for and close connections; open layers fail from then on."""
        self._session.close()

    def resolve(self, reference: Reference, platform: Platform | None = None) -> Resolved:
        """Find the manifest that a reference means, by one request where the index names its platforms.

        ``platform`` is the platform to pull, by default this host's; an image that is for one other platform
        only is then taken all the same, with a note. Raises PlatformNotFoundError too.
        """
        repository = self._repository(reference)
        kind, data = repository.top(reference)
        digest = digest_of(data)
        if kind in MANIFEST_TYPES:
            document = decode_manifest(data, f"the manifest of {reference}")
            return Resolved(reference, digest, digest, None, data, platform, document)
        repository.known[digest] = data
        found = Candidates(repository.document, lambda _: True).of(Descriptor(digest, len(data), kind))
        if not found:
            raise InvalidImageError(f"{reference} holds no image manifest; it may be no image")
        chosen = found[self._choose(reference, [each.platform for each in found], platform)]
        child = check_digest(chosen.descriptor.digest, f"the index of {reference}")
        known = repository.known.get(child)
        return Resolved(reference, digest, child, chosen.platform, known, platform, chosen.document)

    def image(
        self,
        resolved: Resolved,
        *,
        partials: Path,
        progress: Callable[[LayerProgress], None] | None = None,
    ) -> SourceImage:
        """The image, with its manifest and config fetched and checked.

        Its layers are downloaded when they are opened, until this registry is closed; what has arrived of
        one is kept in the folder ``partials`` until it was read and verified. ``progress`` is called from
        the threads that read layers.
        """
        repository = self._repository(resolved.reference)
        manifest = resolved.manifest
        if manifest is None:
            manifest = repository.manifest(resolved.manifest_digest)
        document = resolved.document
        if document is None:
            document = decode_manifest(manifest, f"manifest {resolved.manifest_digest}")
        config = repository.config(document.config)

        def opener(layer: Descriptor) -> Callable[[], BlobReader]:
            return lambda: repository.download(layer, partials, progress)

        image = SourceImage.build(
            (resolved.reference,), manifest, config, opener, resolved.platform, document
        )
        if resolved.platform is None:
            self._choose(resolved.reference, [image.config_document.platform], resolved.wanted)
        return image

    def _repository(self, reference: Reference) -> _Repository:
        if reference.registry != self.name:
            raise ValueError(f"{reference} is not in the registry {self.name}")
        return _Repository(self._session, reference.repository)

    def _choose(self, reference: Reference, offered: list[Platform | None], wanted: Platform | None) -> int:
        selection = Selection(wanted)
        position = selection.choose(offered, str(reference))
        if position is None:
            raise PlatformNotFoundError(
                f"{reference} has no manifest for {wanted or Platform.host()}; it has {listed(offered)}"
            )
        self.notes.extend(selection.notes)
        return position


class _Repository:
    """One repository's documents, fetched and checked, and its blobs; ``known`` are documents by digest."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name
        self.known: dict[str, bytes] = {}

    def top(self, reference: Reference) -> tuple[str, bytes]:
        """Media type and bytes of what a reference points at."""
        wanted = reference.digest or reference.tag
        found = self._fetch(f"manifests/{wanted}", str(reference))
        kind = found.content_type.partition(";")[0].strip()
        if kind.startswith(SCHEMA1):
            raise InvalidImageError(f"{reference} {SCHEMA1_PROBLEM}")
        expected, digest = reference.digest or found.digest, digest_of(found.data)
        # A digest of another algorithm is the registry's own affair.
        if expected is not None and digest_problem(expected) is None and digest != expected:
            raise InvalidImageError(
                f"the manifest of {reference} is damaged: its bytes have the digest {digest}, not {expected}"
            )
        if kind not in INDEX_TYPES | MANIFEST_TYPES:
            kind = document_type(found.data, f"the manifest of {reference}")
        return kind, found.data

    def manifest(self, digest: str) -> bytes:
        """An image manifest or index by its digest."""
        what = f"manifest {digest}"
        data = self._fetch(f"manifests/{digest}", what).data
        found = digest_of(data)
        if found != digest:
            raise InvalidImageError(f"{what} is damaged: its bytes have the digest {found}")
        return data

    def config(self, descriptor: Descriptor) -> bytes:
        """An image's config."""
        what = f"config {check_digest(descriptor.digest, 'the manifest')}"
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise InvalidImageError(
                f"{what} is {descriptor.size} bytes long; at most {MAX_DOCUMENT_BYTES} are supported"
            )
        data = self._fetch(f"blobs/{descriptor.digest}", what).data
        check_content(data, descriptor, "config")
        return data

    def document(self, descriptor: Descriptor, what: str) -> bytes:
        """A document that is needed to choose, each fetched once and not too many."""
        digest = check_digest(descriptor.digest, f"an index of {self._name}")
        if digest not in self.known:
            if len(self.known) > MAX_LOOKED_UP:
                raise InvalidImageError(
                    f"an index of {self._name} names too many manifests without platforms"
                )
            self.known[digest] = self.config(descriptor) if what == "config" else self.manifest(digest)
        check_content(self.known[digest], descriptor, what)
        return self.known[digest]

    def download(
        self, layer: Descriptor, partials: Path, progress: Callable[[LayerProgress], None] | None
    ) -> BlobDownload:
        """A reader of a layer's blob."""
        # A foreign layer may lie elsewhere only, at addresses that strangers chose: none of them is asked.
        foreign = layer.media_type.startswith((OCI_FOREIGN, DOCKER_FOREIGN))

        def open_from(offset: int) -> Answer:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            path, what = f"blobs/{layer.digest}", f"{'foreign ' if foreign else ''}layer {layer.digest}"
            return self._session.open(self._name, path, what, headers, _BLOB_STATUSES)

        return BlobDownload(layer, open_from, partials, self._session.backoff(), progress)

    def _fetch(self, path: str, what: str) -> Document:
        accept = _ACCEPT if path.startswith("manifests/") else "*/*"
        return self._session.document(self._name, path, what, MAX_DOCUMENT_BYTES, accept)
