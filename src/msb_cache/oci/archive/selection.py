"""Which of an archive's images are loaded, under which names. Reads nothing.

The rules follow ``msb load``; where it would stop for one bad name or leave an image out silently, a note
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msb_cache.errors import InvalidImageError, InvalidReferenceError, PlatformNotFoundError
from msb_cache.oci.digest import shown
from msb_cache.oci.documents.platform import Platform, best_match, listed
from msb_cache.oci.image import SourceImage
from msb_cache.oci.reference import Reference

_MAX_NOTES = 50
#: Bytes of all images' manifests and configs, which are in memory until the images are added.
MAX_DOCUMENTS_BYTES = 256 << 20


class Selection:
    """Collects the images to load from an archive, and notes about them."""

    def __init__(self, platform: Platform | None) -> None:
        self._wanted = platform or Platform.host()
        self._explicit = platform is not None
        self._images: dict[str, SourceImage] = {}
        self._names: dict[str, dict[Reference, None]] = {}
        self._owners: dict[Reference, str] = {}
        self._missing: list[str] = []
        self._document_bytes = 0
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        """Tell the user something once."""
        if sentence not in self.notes and len(self.notes) < _MAX_NOTES:
            self.notes.append(sentence)

    def reference(self, text: str) -> Reference | None:
        """A name the archive gives an image, or None, with a note, when it is not a reference."""
        try:
            return Reference.parse(text)
        except InvalidReferenceError as error:
            self.note(f"the archive's name for an image is ignored: {error}")
            return None

    def choose(self, offered: Sequence[Platform | None], name: str) -> int | None:
        """Position of the offered manifest to load; None, remembered, when none suits.

        A single one is taken whatever its platform, with a note, unless a platform was asked for.
        """
        position = best_match(self._wanted, offered)
        if position is not None:
            return position
        if len(offered) == 1 and not self._explicit:
            if offered[0] is not None:
                self.note(f"{name} is for {listed(offered)}, not for {self._wanted}")
            return 0
        self._missing.append(f"{name} has no manifest for {self._wanted}; it has {listed(offered)}")
        return None

    def add(self, image: SourceImage) -> None:
        """Load this image.

        One that came before under other names gets these too, and a name's last image counts. Raises
        InvalidImageError for too many bytes of documents.
        """
        digest = image.manifest_digest
        for reference in image.references:
            if self._owners.get(reference, digest) != digest:
                self.note(f"the archive gives the name {reference} to two images; the last one gets it")
            self._owners[reference] = digest
            self._names.setdefault(digest, {})[reference] = None
        if digest in self._images:
            return
        self._images[digest] = image
        self._document_bytes += len(image.manifest) + len(image.config)
        if self._document_bytes > MAX_DOCUMENTS_BYTES:
            raise InvalidImageError(
                f"the archive's manifests and configs are above {MAX_DOCUMENTS_BYTES >> 20} MiB together"
            )

    def images(self, what: str) -> tuple[SourceImage, ...]:
        """The images to load, in the archive's order; raises when there are none."""
        if not self._images and self._missing:
            raise PlatformNotFoundError("; ".join(self._missing[:3]))
        if not self._images:
            raise InvalidImageError(f"{what} holds no image")
        for sentence in self._missing:
            self.note(f"{sentence}, so it is left out")
        found = []
        for digest, image in self._images.items():
            names = self._names.get(digest, {})
            kept = tuple(reference for reference in names if self._owners[reference] == digest)
            if kept or not names:
                found.append(replace(image, references=kept))
        return tuple(found)


def image_name(names: Sequence[str | None], digest: str) -> str:
    """What to call an image in a message: its first name, else its digest."""
    found = next((name for name in names if name), None)
    return f"image {shown(found)}" if found else f"image {digest}"
