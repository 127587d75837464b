"""Walking indexes to the image manifests one may choose from. Not for choosing, and not for fetching.

Where documents come from is the caller's; each is checked against its descriptor before it is used, so an
index cannot contain itself; how deep and how wide indexes may nest is bounded all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from msb_cache.errors import InvalidImageError
from msb_cache.oci.documents.decode import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1,
    SCHEMA1_PROBLEM,
    Descriptor,
    Manifest,
    decode_config,
    decode_document,
    decode_index,
    decode_manifest,
)
from msb_cache.oci.documents.platform import Platform

MAX_INDEX_DEPTH = 8
MAX_INDEXES = 1000
_KEPT_BYTES = 16 << 20  # of manifests that stay decoded; a small archive can expand to any number
_CONFIG_TYPES = {OCI_CONFIG, DOCKER_CONFIG, ""}


class _Shape(msgspec.Struct):
    """Tells an index from a manifest where the descriptor does not."""

    manifests: Any = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A manifest that may be loaded, and the platform it is for, if anything says so.

    ``document`` is the manifest, if it had to be decoded to find that out.
    """

    descriptor: Descriptor
    platform: Platform | None
    document: Manifest | None = None


def document_type(data: bytes, what: str) -> str:
    """The media type of a document that nothing else names: an index's or a manifest's."""
    shape = decode_document(data, _Shape, what)
    return OCI_MANIFEST if shape.manifests is None else OCI_INDEX


class Candidates:
    """The walk through one source's indexes.

    ``document`` gives a descriptor's checked bytes, its second argument names them in messages; ``exists``
    says whether the source has them at all.
    """

    def __init__(
        self, document: Callable[[Descriptor, str], bytes], exists: Callable[[Descriptor], bool]
    ) -> None:
        self._document = document
        self._exists = exists
        self._indexes = 0
        self._room = _KEPT_BYTES
        # A small index can name one image thousands of times; it is read once.
        self._found: dict[tuple[str, int], tuple[Candidate, ...]] = {}

    def of(self, descriptor: Descriptor) -> list[Candidate]:
        """The image manifests that a descriptor leads to, in order, each once."""
        return list(self._walk(descriptor, MAX_INDEX_DEPTH, set()))

    def _walk(self, descriptor: Descriptor, depth: int, seen: set[str]) -> Iterator[Candidate]:
        if descriptor.is_attestation or descriptor.artifact_type or descriptor.digest in seen:
            return
        seen.add(descriptor.digest)
        # An index may list platforms whose blobs were left out: docker saves one platform of many that way.
        if not self._exists(descriptor):
            return
        kind = descriptor.media_type or document_type(
            self._document(descriptor, "manifest"), f"manifest {descriptor.digest}"
        )
        if kind in INDEX_TYPES:
            self._indexes += 1
            if depth == 0 or self._indexes > MAX_INDEXES:
                raise InvalidImageError(
                    f"index {descriptor.digest} is nested too deeply, or among too many indexes"
                )
            for inner in decode_index(
                self._document(descriptor, "index"), f"index {descriptor.digest}"
            ).manifests:
                yield from self._walk(inner, depth - 1, seen)
        elif kind in MANIFEST_TYPES:
            if descriptor.wanted_platform is not None:
                yield Candidate(descriptor, descriptor.wanted_platform)
            else:
                yield from self._looked_up(descriptor)
        elif kind.startswith(SCHEMA1):
            raise InvalidImageError(f"manifest {descriptor.digest} {SCHEMA1_PROBLEM}")

    def _looked_up(self, descriptor: Descriptor) -> tuple[Candidate, ...]:
        """A candidate with the platform its config names; none for a signature, a chart or the like."""
        key = descriptor.digest, descriptor.size
        if key not in self._found:
            manifest = decode_manifest(
                self._document(descriptor, "manifest"), f"manifest {descriptor.digest}"
            )
            if manifest.config.media_type in _CONFIG_TYPES:
                config = self._document(manifest.config, "config")
                platform = decode_config(config, f"config {manifest.config.digest}").platform
                self._found[key] = (Candidate(descriptor, platform, self._kept(descriptor, manifest)),)
            else:
                self._found[key] = ()
        return self._found[key]

    def _kept(self, descriptor: Descriptor, manifest: Manifest) -> Manifest | None:
        if descriptor.size > self._room:
            return None
        self._room -= descriptor.size
        return manifest
