"""The one noun that archives and registries yield: an image with its documents and layers.

Not for storing it. Everything a source claims is checked here and in one place: digests and sizes of
documents when an image is built, of layers while their single pass is streamed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

from msb_cache.errors import InvalidImageError
from msb_cache.oci.digest import digest_of
from msb_cache.oci.documents.decode import (
    Descriptor,
    ImageConfig,
    Manifest,
    decode_config,
    decode_manifest,
    layer_media_type,
)
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.layer.compression import (
    CHUNK_BYTES,
    LAYER_COMPRESSIONS,
    MAGIC_BYTES,
    ByteSource,
    decompressed,
    sniff,
)
from msb_cache.oci.layer.readahead import ReadAhead
from msb_cache.oci.layer.tar import TarEntry, TarReader
from msb_cache.oci.reference import Reference


class BlobReader(Protocol):
    """An open blob, read once from start to end."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, and none only at the end."""

    def close(self) -> None:
        """Release what the reader holds."""


@runtime_checkable
class SettledReader(Protocol):
    """A reader that keeps what it reads in case the pass breaks off, and so wants to know how it ended."""

    def settle(self, sound: bool) -> None:
        """The blob was verified, or found to be damaged; not called when the pass breaks off otherwise."""


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """One layer where it comes from; ``size`` is the blob's, in bytes, as it is stored or transferred.

    ``media_type`` is the declared one under its OCI name. Each call of ``open_blob`` yields an independent
    reader, so layers may be streamed from several threads.
    """

    diff_id: str
    blob_digest: str
    media_type: str
    size: int
    open_blob: Callable[[], BlobReader]

    def open(self) -> LayerStream:
        """A new pass over the layer; use it as a context manager."""
        return LayerStream(self)

    def verify_only(self) -> None:
        """Stream the whole blob and check it, for a layer that is reused and not built."""
        with self.open() as stream:
            stream.verify()


class LayerStream:
    """One pass over a layer: its entries, then ``verify``.

    Entries mean nothing until ``verify`` has returned.
    """

    def __init__(self, layer: SourceLayer) -> None:
        self._layer = layer
        self._what = f"layer {layer.blob_digest}"
        self._blob = _Hashed(layer.open_blob(), layer.size, self._what)
        self._ahead: ReadAhead | None = None
        try:
            head = self._blob.peek(MAGIC_BYTES)
            compression = sniff(head)
            if compression not in LAYER_COMPRESSIONS:
                raise InvalidImageError(
                    f"{self._what} is compressed with {compression}, which layers may not be"
                )
            self._ahead = ReadAhead(decompressed(self._blob, compression, self._what))
            # Expanding takes longest and has its thread; the content is hashed where it is used.
            self._expanded = None if compression == "none" else _HashedContent(self._ahead)
            self._content: ByteSource = self._expanded or self._ahead
        except BaseException as error:
            self._end(error)
            raise

    def __enter__(self) -> LayerStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        try:
            if self._ahead is not None:
                self._ahead.close()
            if isinstance(error, InvalidImageError):
                self._blob.settle(False)
        finally:
            self._blob.close()

    def entries(self) -> Iterator[TarEntry]:
        """The layer's entries in order; raises InvalidImageError where the layer is damaged."""
        return iter(TarReader(self._content, self._what))

    def verify(self) -> None:
        """Read what is left and check the blob's size and digest and the diff ID.

        Raises InvalidImageError naming the layer and what differs.
        """
        while self._content.read(CHUNK_BYTES):
            pass
        layer = self._layer
        if self._blob.count != layer.size:
            raise InvalidImageError(
                f"{self._what} is {self._blob.count} bytes long, but should be {layer.size}"
            )
        blob_digest = self._blob.digest()
        if blob_digest != layer.blob_digest:
            raise InvalidImageError(f"{self._what} is damaged: its bytes have the digest {blob_digest}")
        diff_id = blob_digest if self._expanded is None else self._expanded.digest()
        if diff_id != layer.diff_id:
            raise InvalidImageError(
                f"{self._what} is not what its config says: "
                f"its content has the diff ID {diff_id}, the config lists {layer.diff_id}"
            )
        self._blob.settle(True)


class _Hashed:
    """A blob as it is stored, hashed and counted; never more than one byte beyond its size is read."""

    def __init__(self, blob: BlobReader, size: int, what: str) -> None:
        self._blob = blob
        self._limit = size
        self._what = what
        self._hash = hashlib.sha256()
        self._head = b""
        self.count = 0

    def peek(self, size: int) -> bytes:
        """The first bytes, which the next read returns again."""
        while len(self._head) < size and (more := self._fetch(size - len(self._head))):
            self._head += more
        return self._head

    def read(self, size: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._fetch(size)

    def _fetch(self, size: int) -> bytes:
        data = self._blob.read(size)
        self.count += len(data)
        if self.count > self._limit:
            raise InvalidImageError(f"{self._what} is longer than the {self._limit} bytes it should have")
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def settle(self, sound: bool) -> None:
        if isinstance(self._blob, SettledReader):
            self._blob.settle(sound)

    def close(self) -> None:
        self._blob.close()


class _HashedContent:
    """A decompressed stream, hashed."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as its source names and describes it; ``layers`` from bottom to top.

    ``manifest`` and ``config`` are the exact bytes that the digests are of. ``references`` may be empty.
    """

    references: tuple[Reference, ...]
    manifest: bytes
    manifest_digest: str
    manifest_media_type: str
    document: Manifest
    config: bytes
    config_digest: str
    config_document: ImageConfig
    platform: Platform
    layers: tuple[SourceLayer, ...]

    @classmethod
    def build(
        cls,
        references: Sequence[Reference],
        manifest: bytes,
        config: bytes,
        open_blob: Callable[[Descriptor], Callable[[], BlobReader]],
        platform: Platform | None = None,
        document: Manifest | None = None,
    ) -> SourceImage:
        """Join a manifest and its config, checking one against the other.

        ``open_blob`` makes a layer's opener from its descriptor; ``platform`` is used where the config names
        none; ``document`` is the manifest, if it has been decoded. Raises InvalidImageError.
        """
        manifest_digest = digest_of(manifest)
        document = document or decode_manifest(manifest, f"manifest {manifest_digest}")
        check_content(config, document.config, "config")
        what = f"config {document.config.digest}"
        parsed = decode_config(config, what)
        listed, found = len(parsed.diff_ids), len(document.layers)
        if listed != found:
            raise InvalidImageError(f"{what} lists {listed} layers, but the image's manifest has {found}")
        layers = tuple(
            SourceLayer(
                diff_id,
                layer.digest,
                layer_media_type(layer.media_type, f"layer {layer.digest}"),
                layer.size,
                open_blob(layer),
            )
            for diff_id, layer in zip(parsed.diff_ids, document.layers, strict=True)
        )
        return cls(
            tuple(references),
            manifest,
            manifest_digest,
            document.media_type,
            document,
            config,
            document.config.digest,
            parsed,
            parsed.platform or platform or Platform("unknown", "unknown"),
            layers,
        )


def check_content(data: bytes, descriptor: Descriptor, what: str) -> None:
    """Check a document's bytes against its descriptor; raises InvalidImageError."""
    if len(data) != descriptor.size:
        raise InvalidImageError(
            f"{what} {descriptor.digest} is {len(data)} bytes long, but should be {descriptor.size}"
        )
    found = digest_of(data)
    if found != descriptor.digest:
        raise InvalidImageError(f"{what} {descriptor.digest} is damaged: its bytes have the digest {found}")
