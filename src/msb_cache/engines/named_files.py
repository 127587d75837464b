"""Which files of a cache an index names. Not which of them are there, and not what they measure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property

from msb_cache.artifacts.flat import FlatRefs
from msb_cache.artifacts.kinds import KINDS, ArtifactKind, Need, needing
from msb_cache.artifacts.layout import Layout
from msb_cache.projections.state import IndexState


class NamedFiles:
    """The artifacts that an index needs on disk, each by its kind and subject.

    Flat roots are asked of, and not among those that there must be: an image can be without one.

    Args:
        layout: the home.
        references: canonical references; each has a metadata file.
        manifests: digests; each has an fsmeta and a VMDK.
        layers: diff IDs; each has an EROFS image.
    """

    def __init__(
        self,
        layout: Layout,
        references: Collection[str],
        manifests: Collection[str],
        layers: Collection[str],
    ) -> None:
        self._layout = layout
        self._records: dict[Need, Collection[str]] = {
            "image": references,
            "manifest": manifests,
            "layer": layers,
        }

    @classmethod
    def of(cls, layout: Layout, state: IndexState) -> NamedFiles:
        """Return what one index names."""
        return cls(layout, state.canonical(), state.manifests, state.named_layers())

    def has(self, kind: str, subject: str) -> bool:
        """Return whether the index names an artifact; of a metadata file the subject is its bare name."""
        record = KINDS[kind].needed_by
        if record == "flat_ref":
            return subject in self._flat
        return subject in (self._metadata if record == "image" else self._records[record])

    def __iter__(self) -> Iterator[tuple[ArtifactKind, str]]:
        for record, subjects in self._records.items():
            kinds = needing(record)
            for subject in subjects:
                for kind in kinds:
                    yield kind, subject

    @cached_property
    def _flat(self) -> set[str]:
        # The refs on disk say which blob is which image's: no index does.
        manifests = self._records["manifest"]
        return {
            ref.artifact_digest
            for digest, ref in FlatRefs(self._layout).by_manifest.items()
            if digest in manifests
        }

    @cached_property
    def _metadata(self) -> set[str]:
        # A metadata file is named by a hash, so it is known by those of all references.
        return {self._layout.metadata(reference).name for reference in self._records["image"]}
