"""Flat roots: the roots of images as ext4 files, which msb makes where it is asked to and never deletes.

A flat ref has the name of its manifest and says which blob is the root, and which derivation made it; several
may name the same blob. Refs are another program's files: what they say is checked before it becomes a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from msb_cache.artifacts.kinds import KINDS
from msb_cache.artifacts.layout import Layout, lease_path, lock_path
from msb_cache.artifacts.verity import open_plain
from msb_cache.errors import CorruptArtifactError

MAX_BYTES = 64 * 1024
"""No sound ref is larger: msb's have half a kilobyte."""

_Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
_LOCK = r"sha256_[0-9a-f]{64}\.lock"


class FlatRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a flat ref says; sizes in bytes. Of another schema it could mean anything, so that is not read."""

    schema: Literal[1]
    manifest_digest: _Digest
    derivation_digest: _Digest
    artifact_digest: _Digest
    materializer_abi: _Count
    uuid: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    virtual_size_bytes: _Count
    inode_count: _Count
    content_bytes: _Count


def read_ref(path: str | os.PathLike[str]) -> FlatRef:
    """Read the flat ref that lies at ``path`` itself, not behind a link.

    Raises:
        CorruptArtifactError: it cannot be read, is too large, or is not that of the manifest in its name.
        FileNotFoundError: there is none.
    """
    name = os.path.basename(path)
    try:
        content = _content(path)
        if len(content) > MAX_BYTES:
            raise CorruptArtifactError(f"the flat ref {name} is over {MAX_BYTES} bytes")
        found = msgspec.json.decode(content, type=FlatRef)
    except FileNotFoundError:
        raise
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        # msgspec lets what is not UTF-8 through as the ValueError that Python makes of it.
        raise CorruptArtifactError(f"the flat ref {name} cannot be read: {error}") from None
    if f"{found.manifest_digest.replace(':', '_')}.json" != name:
        raise CorruptArtifactError(f"the flat ref {name} is that of {found.manifest_digest}")
    return found


def _content(path: str | os.PathLike[str]) -> bytes:
    with open(open_plain(path), "rb") as file:
        return file.read(MAX_BYTES + 1)


class _Stamp(NamedTuple):
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class FlatRefs:
    """The flat refs of a cache at one look, by the digests of their manifests.

    Args:
        layout: the home.
        before: an earlier look: what is as it was then is not read again.

    Attributes:
        by_manifest: those that can be read.
        unreadable: the manifests whose refs cannot be read, so that they may name any blob.
    """

    def __init__(self, layout: Layout, before: FlatRefs | None = None) -> None:
        known = {} if before is None else before._stamped
        self._stamped: dict[str, tuple[_Stamp, FlatRef | None]] = {}
        named = re.compile(KINDS["flat_ref"].pattern).fullmatch
        try:
            with os.scandir(layout.folders["flat_ref"]) as entries:
                for entry in entries:
                    if match := named(entry.name):
                        digest = f"sha256:{match[1]}"
                        with suppress(FileNotFoundError):
                            self._stamped[digest] = _read(entry, known.get(digest))
        except (FileNotFoundError, NotADirectoryError):
            pass
        self.by_manifest = {digest: ref for digest, (_, ref) in self._stamped.items() if ref is not None}
        self.unreadable = self._stamped.keys() - self.by_manifest.keys()
        self._naming: dict[str, set[str]] = {}
        for digest, ref in self.by_manifest.items():
            self._naming.setdefault(ref.artifact_digest, set()).add(digest)

    def naming(self, artifact_digest: str) -> set[str]:
        """Return the manifests whose refs name a blob."""
        return self._naming.get(artifact_digest, set())


def _read(
    entry: os.DirEntry[str], known: tuple[_Stamp, FlatRef | None] | None
) -> tuple[_Stamp, FlatRef | None]:
    found = entry.stat(follow_symlinks=False)
    stamp = _Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if known is not None and known[0] == stamp:
        return known
    try:
        return stamp, read_ref(entry.path)
    except CorruptArtifactError:
        return stamp, None


def locks(layout: Layout, refs: FlatRefs, manifests: Collection[str], diff_ids: Iterable[str]) -> list[Path]:
    """Return the locks of those who make or use the flat roots of manifests: msb holds them meanwhile.

    They are the leases and locks of the manifests and their layers, and those of the derivations; where a ref
    that would say which is missing or unreadable, those of all.

    Args:
        layout: the home.
        refs: its flat refs.
        manifests: digests of the manifests that a root is of; none: that is not known.
        diff_ids: their layers.
    """
    artifacts = [layout.artifact(kind, digest) for digest in manifests for kind in ("fsmeta", "vmdk")]
    artifacts += [layout.layer(diff_id) for diff_id in diff_ids]
    found = [lock for path in artifacts for lock in (lease_path(path), lock_path(path))]
    derived = [
        refs.by_manifest[digest].derivation_digest for digest in manifests if digest in refs.by_manifest
    ]
    if manifests and len(derived) == len(manifests):
        return found + [layout.flat_lock(digest) for digest in derived]
    try:
        names = os.listdir(layout.flat_locks)
    except (FileNotFoundError, NotADirectoryError):
        return found
    return found + [layout.flat_locks / name for name in names if re.fullmatch(_LOCK, name)]
