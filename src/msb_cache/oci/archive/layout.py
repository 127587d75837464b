"""Reading OCI image layouts (image-spec, image-layout.md), whose files come from a tar or a directory.

Every document's size and digest are checked before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import msgspec

from msb_cache.errors import InvalidImageError, InvalidReferenceError
from msb_cache.oci.archive.files import ArchiveFiles, read_file
from msb_cache.oci.archive.selection import Selection, image_name
from msb_cache.oci.digest import check_digest, shown
from msb_cache.oci.documents.candidates import Candidate, Candidates
from msb_cache.oci.documents.decode import (
    CONTAINERD_NAME,
    MAX_DOCUMENT_BYTES,
    REF_NAME,
    Descriptor,
    decode_document,
    decode_index,
    decode_manifest,
)
from msb_cache.oci.image import BlobReader, SourceImage, check_content
from msb_cache.oci.reference import Reference


class _LayoutMarker(msgspec.Struct, rename="camel"):
    image_layout_version: str


def read_layout(files: ArchiveFiles, selection: Selection) -> None:
    """Give the layout's images to ``selection``; raises InvalidImageError."""
    marker = read_file(files, "oci-layout", MAX_DOCUMENT_BYTES, "oci-layout")
    version = decode_document(marker, _LayoutMarker, "oci-layout").image_layout_version
    if version.partition(".")[0] != "1":
        raise InvalidImageError(f"the image layout has the unknown version {shown(version)}")
    index = decode_index(read_file(files, "index.json", MAX_DOCUMENT_BYTES, "index.json"), "index.json")
    layout = _Layout(files)
    for reference, descriptors in _groups(index.manifests, selection):
        candidates: list[Candidate] = []
        for descriptor in descriptors:
            candidates += layout.candidates.of(descriptor)
        name = image_name([str(reference) if reference else None], descriptors[0].digest)
        if not candidates:
            selection.note(f"{name} is left out: the archive holds no image manifest for it")
            continue
        position = selection.choose([candidate.platform for candidate in candidates], name)
        if position is not None:
            selection.add(layout.image(candidates[position], [reference] if reference else []))


def _groups(
    descriptors: tuple[Descriptor, ...], selection: Selection
) -> list[tuple[Reference | None, list[Descriptor]]]:
    """What ``index.json`` lists, by name: several platforms under one name are one image.

    So are nameless manifests that are all for different platforms; else each is an image of its own.
    """
    named: dict[Reference, list[Descriptor]] = {}
    nameless: list[Descriptor] = []
    for descriptor in descriptors:
        if descriptor.is_attestation:
            continue
        reference = _name(descriptor, selection)
        if reference is None:
            nameless.append(descriptor)
        else:
            named.setdefault(reference, []).append(descriptor)
    found: list[tuple[Reference | None, list[Descriptor]]] = list(named.items())
    platforms = [descriptor.wanted_platform for descriptor in nameless]
    if nameless and None not in platforms and len(set(platforms)) == len(platforms):
        found.append((None, nameless))
    else:
        found += [(None, [descriptor]) for descriptor in nameless]
    return found


def _name(descriptor: Descriptor, selection: Selection) -> Reference | None:
    """containerd's annotation is a full reference, in canonical form however it was typed.

    ``ref.name`` is one, or only a tag as skopeo and umoci write it. msb takes a lone ``1.0`` for a repository
    of that name, and so it is done here, with a note.
    """
    full, short = descriptor.annotation(CONTAINERD_NAME), descriptor.annotation(REF_NAME)
    reference = selection.reference(full) if full else None
    if reference is not None:
        with suppress(InvalidReferenceError):
            if short and (typed := Reference.parse(short)) == reference:
                return typed
        return reference.untyped()
    reference = selection.reference(short) if short else None
    if reference is not None and short == reference.familiar_name:
        selection.note(
            f"the archive names an image only {shown(short)}, which is read as the repository {reference}; "
            "give it another name with --tag if that was a tag"
        )
    return reference


class _Layout:
    """The blobs of a layout."""

    def __init__(self, files: ArchiveFiles) -> None:
        self._files = files
        self.candidates = Candidates(self.document, self._exists)
        # A small index can name one image thousands of times; it is read once.
        self._images: dict[tuple[str, int], SourceImage] = {}

    def image(self, chosen: Candidate, references: list[Reference]) -> SourceImage:
        """The image of a manifest, whose layers must all be there and of the right size."""
        descriptor = chosen.descriptor
        key = descriptor.digest, descriptor.size
        if key not in self._images:
            manifest = self.document(descriptor, "manifest")
            parsed = chosen.document or decode_manifest(manifest, f"manifest {descriptor.digest}")
            config = self.document(parsed.config, "config")
            platform = descriptor.wanted_platform
            self._images[key] = SourceImage.build((), manifest, config, self._opener, platform, parsed)
        return replace(self._images[key], references=tuple(references))

    def _opener(self, layer: Descriptor) -> Callable[[], BlobReader]:
        name = self._blob_name(layer)
        size = self._files.size(name)
        if size is None:
            raise InvalidImageError(f"layer {layer.digest} is missing from the archive")
        if size != layer.size:
            raise InvalidImageError(
                f"layer {layer.digest} is {size} bytes long in the archive, but should be {layer.size}"
            )
        return lambda: self._files.open(name)

    def document(self, descriptor: Descriptor, what: str) -> bytes:
        """A document's bytes, checked against its descriptor."""
        name = self._blob_name(descriptor)
        data = read_file(self._files, name, MAX_DOCUMENT_BYTES, f"{what} {descriptor.digest}")
        check_content(data, descriptor, what)
        return data

    def _exists(self, descriptor: Descriptor) -> bool:
        return self._files.size(self._blob_name(descriptor)) is not None

    def _blob_name(self, descriptor: Descriptor) -> str:
        return "blobs/" + check_digest(descriptor.digest, "the image layout").replace(":", "/")
