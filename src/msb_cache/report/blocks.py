"""What takes the disk, in parts that add up: each image's own files, what images share, what is left over.

Of now the sizes are the disk's, of the past the index's. Each file is in one part.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from msb_cache.care.disk_usage import FOLDERS, ORPHANS, Measured
from msb_cache.projections import images
from msb_cache.projections.moment import moment
from msb_cache.projections.state import IndexState, Pin, load
from msb_cache.queries.resolve import seen_name
from msb_cache.report.cut import shortened
from msb_cache.report.facts import Block
from msb_cache.retention.plan import never_goes
from msb_cache.wording import plural, short

MOST_SHARED = 300
"""So many parts that images share are told apart, the largest."""

_UNNEEDED = "layers that no image needs"
_NAMES = 5
_LONGEST = 300  # characters of a name


class Sizes(Protocol):
    """How large files are, in bytes; each counts once, for what asks for it first."""

    def layer(self, diff_id: str) -> int:
        """Return a layer's size."""

    def manifest(self, digest: str) -> int:
        """Return the size of a manifest's own files: its merged tree, its disk descriptor."""

    def metadata(self, reference: str) -> int:
        """Return the size of a reference's metadata file."""

    def flat(self, digest: str) -> int:
        """Return the size of a manifest's flat root."""


class OnDisk:
    """Sizes as the disk has them."""

    def __init__(self, measured: Measured) -> None:
        self._files = measured.files

    def layer(self, diff_id: str) -> int:
        """Return a layer's size."""
        return self._files.take("layer", diff_id)

    def manifest(self, digest: str) -> int:
        """Return the size of a manifest's own files, what names its flat root among them."""
        return sum(self._files.take(kind, digest) for kind in ("fsmeta", "vmdk", "flat_ref"))

    def metadata(self, reference: str) -> int:
        """Return the size of a reference's metadata file."""
        return self._files.take("metadata", reference)

    def flat(self, digest: str) -> int:
        """Return the size of a manifest's flat root; of one that several have, once."""
        root = self._files.flat_of(digest)
        return 0 if root is None else self._files.take("flat", root)


class InIndex:
    """Sizes as an index has them, of files as they came; it knows none of metadata and flat roots."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._layers: dict[str, int] = dict(
            connection.execute("SELECT diff_id, coalesce(erofs_bytes, 0) FROM layer").fetchall()
        )
        own = "coalesce(fsmeta_bytes, 0) + coalesce(vmdk_bytes, 0)"
        self._manifests: dict[str, int] = dict(
            connection.execute(f"SELECT digest, {own} FROM manifest").fetchall()  # noqa: S608
        )

    def layer(self, diff_id: str) -> int:
        """Return a layer's size."""
        return self._layers.get(diff_id, 0)

    def manifest(self, digest: str) -> int:
        """Return the size of a manifest's own files."""
        return self._manifests.get(digest, 0)

    def metadata(self, reference: str) -> int:
        """Return 0: it is not known."""
        return 0

    def flat(self, digest: str) -> int:
        """Return 0: it is not known."""
        return 0


def past_state(connection: sqlite3.Connection) -> IndexState:
    """Return an index of the past with its pins and boots; who pinned is not in it."""
    running: dict[str, list[str]] = {}
    for use in images.uses(connection):
        running.setdefault(use.manifest_digest, []).append(use.holder or "")
    pins = {pin.subject: Pin("", pin.until) for pin in images.pins(connection)}
    return replace(load(connection), now_ns=moment(connection), pins=pins, running=running)


class _Parts:
    """Makes the blocks of an index."""

    def __init__(self, state: IndexState, sizes: Sizes, idle_ns: Mapping[str, int]) -> None:
        self._state, self._sizes, self._idle_ns = state, sizes, idle_ns
        self._names = Counter(state.references.values())
        self._by_digest: defaultdict[str, list[str]] = defaultdict(list)
        for name, digest in state.references.items():
            self._by_digest[digest].append(name)

    def images(self, free: Callable[[str, int], int]) -> dict[str, Block]:
        """Return a block for each image by its name, and for each manifest without one by its digest.

        Args:
            free: says what would come free with an image, by its name and the size of its own files.
        """
        state, found = self._state, {}
        for name, digest in state.references.items():
            own = self._sizes.metadata(state.naming.reference(name))
            alone = self._names[digest] == 1
            own, flat = (own + self._own(digest), self._sizes.flat(digest)) if alone else (own, 0)
            found[name] = self._image(name, digest, own, flat, free(name, own + flat))
        for digest in state.unreferenced:
            own, flat = self._own(digest), self._sizes.flat(digest)
            found[digest] = self._image(digest, digest, own, flat, free(digest, own + flat))
        return found

    def _own(self, digest: str) -> int:
        shared = self._state.sharing_counts
        layers = {diff_id for diff_id in self._state.manifests.get(digest, ()) if diff_id not in shared}
        return self._sizes.manifest(digest) + sum(map(self._sizes.layer, layers))

    def _image(self, name: str, digest: str, own: int, flat: int, free: int) -> Block:
        state = self._state
        if digest in state.running:
            said = "in use"
        elif digest in state.holders:
            said = "held"
        else:
            said = "idle" if state.pin_of(name, digest) is None else "pinned"
        kept = never_goes(state, name, digest) is not None
        idle_ns = self._idle_ns.get(name) if said in ("idle", "pinned") else None
        return Block("image", self._shown(name), own, flat, 0, (), 0 if kept else free, said, idle_ns)

    def _shown(self, name: str) -> str:
        if name.startswith("sha256:"):
            return short(name)
        return shortened(seen_name(self._state.naming, name), _LONGEST)

    def shared(self) -> list[Block]:
        """Return what several images, or several names of one manifest, need, the largest parts apart."""
        state, sizes = self._state, self._sizes
        needed: defaultdict[str, list[str]] = defaultdict(list)
        for digest, layers in state.manifests.items():
            for diff_id in dict.fromkeys(layers):
                if diff_id in state.sharing_counts:
                    needed[diff_id].append(digest)
        together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for diff_id, digests in needed.items():
            together[tuple(digests)].append(diff_id)
        found = [
            self._part(
                short(layers[0]) if len(layers) == 1 else plural(len(layers), "layer"),
                sum(map(sizes.layer, layers)),
                digests,
            )
            for digests, layers in together.items()
        ]
        found += [
            self._part(f"manifest {short(digest)}", self._own(digest) + sizes.flat(digest), (digest,))
            for digest, count in self._names.items()
            if count > 1 and digest in state.manifests
        ]
        found.sort(key=_largest_first)
        if len(found) > MOST_SHARED:
            rest = found[MOST_SHARED - 1 :]
            name = f"{plural(len(rest), 'smaller part')} that images share"
            found[MOST_SHARED - 1 :] = [Block("shared", name, sum(each.unique_bytes for each in rest))]
        return found

    def _part(self, name: str, amount: int, digests: tuple[str, ...]) -> Block:
        """Return a part that the images of these manifests need."""
        count = sum(self._names[digest] or 1 for digest in digests)
        names: list[str] = []
        for digest in digests:
            names += self._by_digest.get(digest, [digest])[:_NAMES]
            if len(names) >= _NAMES:
                break
        return Block("shared", name, amount, 0, count, tuple(map(self._shown, names[:_NAMES])))

    def unneeded(self) -> int:
        """Return the bytes of layers that the index has and no manifest needs."""
        needed = set().union(*self._state.manifests.values())
        return sum(self._sizes.layer(diff_id) for diff_id in self._state.layers if diff_id not in needed)


class Blocks(NamedTuple):
    """What takes the disk: all blocks, largest first, and those of images by their names in the index."""

    all: tuple[Block, ...]
    images: Mapping[str, Block]


def blocks_now(measured: Measured, idle_ns: Mapping[str, int]) -> Blocks:
    """Return what takes the disk now; all blocks together are what the cache takes.

    Args:
        measured: the disk.
        idle_ns: for how long each image is idle, by name.
    """
    parts = _Parts(measured.state, OnDisk(measured), idle_ns)
    by_name = measured.by_name
    found = parts.images(lambda name, _: by_name[name].reclaimable_bytes)
    amounts = {each.name: each.allocated_bytes for each in measured.usage.cache}
    told = [
        *found.values(),
        *parts.shared(),
        Block("leaked", "files that no image needs", amounts[ORPHANS]),
        Block("leaked", _UNNEEDED, parts.unneeded()),
        Block("other", "folders", amounts[FOLDERS]),
    ]
    rest = measured.usage.cache_total.allocated_bytes - sum(map(_bytes, told))
    return _sorted([*told, Block("other", "lock files, downloads and the like", rest)], found)


def blocks_then(connection: sqlite3.Connection, leaked: int, idle_ns: Mapping[str, int]) -> Blocks:
    """Return what took the disk at a position of the past, as its index has it.

    Args:
        connection: that index.
        leaked: bytes of what deletions had had to leave.
        idle_ns: for how long each image was idle, by name.
    """
    parts = _Parts(past_state(connection), InIndex(connection), idle_ns)
    found = parts.images(lambda _, own: own)
    told = [
        *found.values(),
        *parts.shared(),
        Block("leaked", "files that deletions had to leave", leaked),
        Block("leaked", _UNNEEDED, parts.unneeded()),
    ]
    return _sorted(told, found)


def _sorted(told: list[Block], images: Mapping[str, Block]) -> Blocks:
    shown = [each for each in told if each.kind == "image" or _bytes(each)]
    return Blocks(tuple(sorted(shown, key=_largest_first)), images)


def _bytes(block: Block) -> int:
    return block.unique_bytes + block.flat_bytes


def _largest_first(block: Block) -> tuple[int, str]:
    return -_bytes(block), block.name
