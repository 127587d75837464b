"""Builds small images and archives as bytes, for the tests of every folder.

It writes tar with the standard library's ``tarfile`` and JSON with ``json``, never with the project's own
code: a mistake in a writer must not be able to hide the same mistake in a reader. It is not for large images.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msb_cache.oci.layer.zstd import zstd

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DEFAULT_MTIME_NS = 1_700_000_000_123_456_789

_TAR_TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def sha256(data: bytes) -> str:
    """The digest of ``data`` as ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compact_json(document: Any) -> bytes:
    """JSON without spaces and with sorted keys."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True)
class Member:
    """One member of a layer tar; the helpers below make them."""

    name: str
    type: str = "file"
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = DEFAULT_MTIME_NS
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, str] = field(default_factory=dict)


def file(name: str, data: bytes = b"", **attributes: Any) -> Member:
    """A regular file."""
    return Member(name, "file", data, **attributes)


def directory(name: str, mode: int = 0o755, **attributes: Any) -> Member:
    """A directory."""
    return Member(name, "directory", mode=mode, **attributes)


def symlink(name: str, target: str, **attributes: Any) -> Member:
    """A symbolic link to ``target``."""
    return Member(name, "symlink", mode=0o777, link=target, **attributes)


def hardlink(name: str, target: str, **attributes: Any) -> Member:
    """A second name for the member ``target``."""
    return Member(name, "hardlink", link=target, **attributes)


def layer_tar(members: Iterable[Member], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed layer tar; sub-second times and extended attributes need the PAX format."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type = _TAR_TYPES[member.type]
            info.mode, info.uid, info.gid = member.mode, member.uid, member.gid
            info.size = len(member.data)
            info.linkname = member.link
            info.devmajor, info.devminor = member.device
            seconds, nanoseconds = divmod(member.mtime_ns, 10**9)
            info.mtime = seconds
            info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in member.xattrs.items()}
            if nanoseconds and format == tarfile.PAX_FORMAT:
                # tarfile writes a float's repr, which cannot hold nanoseconds of today's times; a text is
                # kept.
                sign, whole = ("-", abs(member.mtime_ns)) if member.mtime_ns < 0 else ("", member.mtime_ns)
                info.pax_headers["mtime"] = f"{sign}{whole // 10**9}.{whole % 10**9:09d}"
            tar.addfile(info, io.BytesIO(member.data))
    return out.getvalue()


@dataclass(frozen=True)
class BuiltLayer:
    """A layer: its uncompressed tar and the blob that is stored."""

    tar: bytes
    blob: bytes
    media_type: str

    @property
    def diff_id(self) -> str:
        """Digest of the uncompressed tar."""
        return sha256(self.tar)

    @property
    def digest(self) -> str:
        """Digest of the stored blob."""
        return sha256(self.blob)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The layer as a manifest lists it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.blob)}


def layer(content: Iterable[Member] | bytes, compression: str = "none") -> BuiltLayer:
    """A layer of members or of a ready tar; ``compression`` is ``none``, ``gzip`` or ``zstd``."""
    tar = content if isinstance(content, bytes) else layer_tar(content)
    if compression == "gzip":
        return BuiltLayer(tar, gzip.compress(tar, 6, mtime=0), OCI_LAYER + "+gzip")
    if compression == "zstd":
        return BuiltLayer(tar, zstd.compress(tar), OCI_LAYER + "+zstd")
    if compression != "none":
        raise ValueError(compression)
    return BuiltLayer(tar, tar, OCI_LAYER)


@dataclass(frozen=True)
class BuiltImage:
    """An image ready to be put into an archive; ``names`` are the references the archive gives it."""

    config: bytes
    layers: tuple[BuiltLayer, ...]
    names: tuple[str, ...] = ()
    architecture: str = "amd64"
    os: str = "linux"
    variant: str | None = None
    manifest_media_type: str = OCI_MANIFEST
    config_media_type: str = OCI_CONFIG
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def manifest(self) -> bytes:
        """The image manifest's bytes."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.manifest_media_type,
            "config": {
                "mediaType": self.config_media_type,
                "digest": sha256(self.config),
                "size": len(self.config),
            },
            "layers": [layer.descriptor for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return compact_json(document)

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return sha256(self.manifest)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The image as an index lists it, with its platform and without a name."""
        platform = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            platform["variant"] = self.variant
        return {
            "mediaType": self.manifest_media_type,
            "digest": self.digest,
            "size": len(self.manifest),
            "platform": platform,
        }

    @property
    def blobs(self) -> dict[str, bytes]:
        """Every blob of the image by digest: manifest, config and layers."""
        found = {self.digest: self.manifest, sha256(self.config): self.config}
        for each in self.layers:
            found[each.digest] = each.blob
        return found


def image(
    layers: Iterable[BuiltLayer],
    *names: str,
    architecture: str = "amd64",
    os: str = "linux",
    variant: str | None = None,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> BuiltImage:
    """An image of ``layers``; ``config`` is the config document's ``config`` object (Env, Cmd, …)."""
    built = tuple(layers)
    document: dict[str, Any] = {
        "architecture": architecture,
        "os": os,
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in built]},
    }
    if variant:
        document["variant"] = variant
    return BuiltImage(
        compact_json(document), built, tuple(names), architecture=architecture, os=os, variant=variant, **more
    )


def sample(name: str = "sample:1", *, compression: str = "none", seed: str = "", **more: Any) -> BuiltImage:
    """A two-layer image with a whiteout; another ``seed`` gives other content and digests."""
    bottom = [directory("etc"), file("etc/name", f"sample {seed}\n".encode()), file("etc/gone", b"x")]
    top = [directory("etc"), file("etc/.wh.gone"), symlink("link", "etc/name")]
    return image([layer(bottom, compression), layer(top, compression)], name, **more)


def tar_of(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> bytes:
    """A plain tar of named contents in the given order (a sequence may repeat a name)."""
    pairs = members.items() if isinstance(members, Mapping) else members
    return layer_tar([file(name, data, mtime_ns=0) for name, data in pairs], tarfile.GNU_FORMAT)


def docker_members(images: Iterable[BuiltImage]) -> dict[str, bytes]:
    """The members of a ``docker save`` archive with ``manifest.json``."""
    members: dict[str, bytes] = {}
    manifest = []
    for each in images:
        config_name = sha256(each.config).removeprefix("sha256:") + ".json"
        members[config_name] = each.config
        names = []
        for built in each.layers:
            name = built.diff_id.removeprefix("sha256:") + "/layer.tar"
            members[name] = built.blob
            names.append(name)
        manifest.append({"Config": config_name, "RepoTags": list(each.names) or None, "Layers": names})
    members["manifest.json"] = compact_json(manifest)
    return members


def docker_archive(*images: BuiltImage) -> bytes:
    """A ``docker save`` archive with ``manifest.json``, as docker before 25 wrote it."""
    return tar_of(docker_members(images))


def hybrid_members(images: Sequence[BuiltImage]) -> dict[str, bytes]:
    """The members of what docker 25 and later save: an OCI layout that also has ``manifest.json``."""
    members = oci_members(images)
    members["manifest.json"] = compact_json(
        [
            {
                "Config": blob_name(sha256(each.config)),
                "RepoTags": list(each.names) or None,
                "Layers": [blob_name(built.digest) for built in each.layers],
            }
            for each in images
        ]
    )
    return members


def hybrid_archive(*images: BuiltImage) -> bytes:
    """An archive as docker 25 and later save it."""
    return tar_of(hybrid_members(images))


def legacy_members(built: BuiltImage) -> dict[str, bytes]:
    """The members of an archive of docker before 1.10: ``repositories`` and a chain of ``<id>/json``."""
    members: dict[str, bytes] = {}
    config = json.loads(built.config)
    parent = None
    for position, each in enumerate(built.layers):
        identifier = hashlib.sha256(f"{position}{each.diff_id}{parent}".encode()).hexdigest()
        document: dict[str, Any] = {
            "id": identifier,
            "created": "2015-01-01T00:00:00Z",
            "os": built.os,
            "architecture": built.architecture,
            "container_config": {"Cmd": ["/bin/sh", "-c", f"#(nop) step {position}"]},
        }
        if parent:
            document["parent"] = parent
        if position == len(built.layers) - 1:
            document["config"] = config["config"]
        members[f"{identifier}/VERSION"] = b"1.0"
        members[f"{identifier}/json"] = compact_json(document)
        members[f"{identifier}/layer.tar"] = each.blob
        parent = identifier
    repositories: dict[str, dict[str, str]] = {}
    for name in built.names:
        repository, _, tag = name.rpartition(":")
        repositories.setdefault(repository, {})[tag] = str(parent)
    members["repositories"] = compact_json(repositories)
    return members


def blob_name(digest: str) -> str:
    """Where an OCI layout keeps a blob."""
    return "blobs/" + digest.replace(":", "/")


def named(descriptor: Mapping[str, Any], **annotations: str) -> dict[str, Any]:
    """A copy of a descriptor with annotations; ``ref_name`` and ``containerd_name`` are the usual ones."""
    keys = {
        "ref_name": "org.opencontainers.image.ref.name",
        "containerd_name": "io.containerd.image.name",
    }
    return {**descriptor, "annotations": {keys.get(key, key): value for key, value in annotations.items()}}


def index(descriptors: Iterable[Mapping[str, Any]]) -> bytes:
    """An image index's bytes."""
    return compact_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(descriptors)})


def index_descriptor(document: bytes) -> dict[str, Any]:
    """The descriptor of an index, for nesting it in another."""
    return {"mediaType": OCI_INDEX, "digest": sha256(document), "size": len(document)}


def oci_members(
    images: Sequence[BuiltImage],
    manifests: Sequence[Mapping[str, Any]] | None = None,
    blobs: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """The files of an OCI layout.

    ``manifests`` replaces ``index.json``'s list, ``blobs`` adds further blobs.
    """
    members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    if manifests is None:
        manifests = [
            named(each.descriptor, ref_name=name) if name else each.descriptor
            for each in images
            for name in each.names or ("",)
        ]
    members["index.json"] = index(manifests)
    for each in images:
        for digest, data in each.blobs.items():
            members[blob_name(digest)] = data
    for digest, data in (blobs or {}).items():
        members[blob_name(digest)] = data
    return members


def oci_archive(*images: BuiltImage, **more: Any) -> bytes:
    """An OCI layout in a tar."""
    return tar_of(oci_members(images, **more))


def oci_directory(path: Path, *images: BuiltImage, **more: Any) -> Path:
    """An OCI layout as a directory at ``path``."""
    return write_members(path, oci_members(images, **more))


def write_members(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write members as files below ``path``."""
    for name, data in members.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path
