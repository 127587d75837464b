"""Judged by others: Linux mounts, fsck.erofs checks, umoci unpacks, msb uses what is made here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from msb_cache.artifacts.changeset import ChangeSet
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.export import write_layer_tar
from msb_cache.artifacts.fsmeta import merge, write_fsmeta
from msb_cache.artifacts.layer import LayerImage, read_layer, write_layer
from msb_cache.artifacts.tree import Node, walk
from msb_cache.artifacts.vmdk import render
from msb_cache.errors import InvalidImageError
from tests.artifacts.support import (
    Member,
    directory,
    flatten,
    fsck,
    hardlink,
    make_tar,
    mounted,
    run,
    scan,
    symlink,
    tar_entries,
)

pytestmark = pytest.mark.peer
needs_kernel = pytest.mark.usefixtures("kernel")


@pytest.fixture
def kernel(require_peer: Callable[[str], str]) -> None:
    """Everything to convert, check, unpack and mount images; overlayfs too."""
    for peer in ("root", "losetup", "mount", "umoci", "fsck.erofs"):
        require_peer(peer)
    known = Path("/proc/filesystems").read_text().split()
    for name in {"erofs", "overlay"}.difference(known):
        require_peer(f"{name} in the kernel")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory whose large files do not outlive the test."""
    with TemporaryDirectory() as path:
        yield Path(path)


# user::rw-, user:5:rwx, group::r--, mask::rwx, other::r-- (linux/posix_acl_xattr.h)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in [
        (1, 6, 2**32 - 1),
        (2, 7, 5),
        (4, 4, 2**32 - 1),
        (16, 7, 2**32 - 1),
        (32, 4, 2**32 - 1),
    ]
)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

LOWER = [
    directory(b"./", mode=0o755, mtime=1_600_000_000, mtime_ns=5),
    directory(b"d", mode=0o1777, uid=10, gid=20, mtime=-1000, mtime_ns=999_999_999),
    Member(b"d/file", data=b"lower" * 2000, mode=0o4755, mtime_ns=123_456_789),
    hardlink(b"d/same", b"d/file"),
    hardlink(b"top", b"d/file"),
    Member(b"d/ids", data=b"x", uid=4_000_000_000, gid=100_000),
    Member(b"empty"),
    Member(b"block", data=b"b" * 4096),
    Member(b"n" * 255, data=b"long"),
    directory(b"deep/" * 60 + b"er", mode=0o700),
    Member(b"deep/" * 60 + b"er/f", data=b"down here"),
    directory(b"many"),
    *(Member(b"many/%04d-" % i + b"y" * (i % 90), data=b"%d" % i) for i in range(600)),
    symlink(b"short", b"d/file", mtime_ns=7),
    hardlink(b"short2", b"short"),
    symlink(b"subblock", b"s/" * 1500, xattrs={b"trusted.on": b"a link"}),
    symlink(b"longest", b"t" * 4095),
    Member(b"null", "character", device=(1, 3), mode=0o666),
    hardlink(b"zero", b"null"),
    Member(b"disk", "block", device=(259, 70000), mode=0o660, gid=6),
    Member(b"pipe", "fifo", mode=0o600),
    Member(b"capable", data=b"c", xattrs={b"security.capability": CAPABILITY}),
    Member(b"acl", data=b"a", mode=0o674, xattrs={b"system.posix_acl_access": ACL}),
    directory(b"attributes", xattrs={b"user.one": b"1", b"trusted.two": b"2" * 900}),
    Member(b"attributes/f", data=b"f", xattrs={b"user.bytes": bytes(range(1, 128)) * 8}),
    Member(b"attributes/g", xattrs={b"user." + b"n" * 250: b"-"}),
    Member(b"hole", data=b"start" + bytes(300_000) + b"end"),
    directory(b"gone"),
    Member(b"gone/with", data=b"all"),
    directory(b"opaque", mode=0o711),
    Member(b"opaque/hidden", data=b"h"),
    directory(b"redone", uid=3),
    Member(b"redone/hidden", data=b"h"),
    directory(b"turns/into/file"),
    Member(b"turns/file", data=b"becomes directory"),
]  # fmt: skip
MIDDLE = [
    Member(b"d/new", data=b"in an implied directory"),
    Member(b".wh.gone"),
    Member(b"d/.wh.same"),
    directory(b"opaque", mode=0o750, mtime_ns=42),
    Member(b"opaque/.wh..wh..opq"),
    Member(b"opaque/shown", data=b"s" * 9000),
    Member(b".wh.redone"),
    directory(b"redone", uid=4),
    Member(b"redone/shown", data=b"s"),
    Member(b"turns/into", data=b"a file"),
    directory(b"turns/file"),
    Member(b"turns/file/inside", data=b"i"),
    Member(b"never/mentioned/f", data=b"f"),
    symlink(b"lib", b"usr/lib"),
    directory(b"usr/lib"),
    Member(b"lib/through", data=b"the link"),
]
UPPER = [
    directory(b"gone", mode=0o500),
    Member(b"many/.wh.0000-"),
    Member(b"many/0001-y", data=b"replaced", mode=0o600),
    Member(b"twin", data=b"t" * 12345),
    hardlink(b"usr/twin", b"twin"),
    directory(b"usr", mode=0o555),
]


def oci_layout(tars: Sequence[bytes | Path], at: Path) -> None:
    """A minimal OCI image layout with one image, tagged ``t``."""
    blobs = at / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes | Path, media_type: str) -> dict[str, Any]:
        if isinstance(data, Path):
            with open(data, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.symlink(data, blobs / digest)
            size = data.stat().st_size
        else:
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            size = len(data)
        kind = f"application/vnd.oci.image.{media_type}"
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}

    layers = [blob(tar, "layer.v1.tar") for tar in tars]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = blob(
        json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode(),
        "config.v1+json",
    )
    manifest = blob(
        json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(), "manifest.v1+json"
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    (at / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (at / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def unpacked(tars: Sequence[bytes | Path], scratch: Path) -> Path:
    """The root filesystem that umoci makes of the layers."""
    oci_layout(tars, scratch / "oci")
    run("umoci", "unpack", "--image", f"{scratch / 'oci'}:t", scratch / "bundle")
    return scratch / "bundle/rootfs"


def convert(tars: Sequence[bytes | Path], scratch: Path) -> tuple[Path, list[Path], Node]:
    """fsmeta, layer images and the merged tree of the layers, all checked by fsck.erofs."""
    images: list[LayerImage] = []
    paths: list[Path] = []
    for number, tar in enumerate(tars):
        paths.append(scratch / f"layer{number}.erofs")
        images.append(write_layer(tar_entries(tar), paths[-1]))
        fsck(paths[-1])
    fsmeta = scratch / "fsmeta.erofs"
    write_fsmeta(fsmeta, images)
    fsck(fsmeta, paths)
    return fsmeta, paths, merge([image.root for image in images])


def comparable(found: dict[bytes, Any], merged: Node) -> dict[bytes, Any]:
    """Without what differs from tool to tool: the modes and times of directories that no layer describes.

    And the time of the root directory, which umoci leaves at the moment it unpacked.
    """
    undescribed = {
        path for path, node in walk(merged) if node.implicit or (node.children is not None and not node.mtime)
    }
    found = {path: dict(value) for path, value in found.items()}
    for path in undescribed:
        del found[path]["mode"], found[path]["mtime_ns"]
    found[b""].pop("mtime_ns", None)
    return found


def differences(one: dict[bytes, Any], other: dict[bytes, Any]) -> dict[bytes, Any]:
    return {
        path: (one.get(path), other.get(path)) for path in one | other if one.get(path) != other.get(path)
    }


def concatenate(files: Sequence[Path], to: Path) -> None:
    with open(to, "wb") as out:
        for file in files:
            with open(file, "rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)


@needs_kernel
def test_the_kernel_shows_what_umoci_unpacks(scratch: Path) -> None:
    tars = [make_tar(layer) for layer in (LOWER, MIDDLE, UPPER)]
    fsmeta, layers, merged = convert(tars, scratch)
    expected = comparable(scan(unpacked(tars, scratch)), merged)
    with mounted(fsmeta, layers, scratch / "mnt") as root:
        assert differences(comparable(scan(root), merged), expected) == {}
        assert root.stat().st_nlink == 2 + sum(
            entry.is_dir(follow_symlinks=False) for entry in os.scandir(root)
        )
    # One device, as the VMDK shows it: the kernel finds the layers behind fsmeta by itself.
    concatenate([fsmeta, *layers], scratch / "flat")
    with mounted(scratch / "flat", [], scratch / "mnt") as root:
        assert differences(comparable(scan(root), merged), expected) == {}


@needs_kernel
def test_overlayfs_merges_the_layer_images_alike(scratch: Path) -> None:
    # overlayfs takes metadata from the topmost directory, so here every layer describes its own.
    middle = [directory(b"./"), directory(b"d"), directory(b"turns"), *MIDDLE, directory(b"usr")]
    upper = [directory(b"./"), directory(b"many"), *UPPER]
    fsmeta, layers, _ = convert([make_tar(layer) for layer in (LOWER, middle, upper)], scratch)
    with (
        mounted(fsmeta, layers, scratch / "merged") as merged,
        mounted(layers[0], [], scratch / "0") as bottom,
        mounted(layers[1], [], scratch / "1") as above,
        mounted(layers[2], [], scratch / "2") as top,
    ):
        overlay = scratch / "overlay"
        overlay.mkdir()
        run("mount", "-t", "overlay", "-o", f"ro,lowerdir={top}:{above}:{bottom}", "overlay", overlay)
        try:
            ours, theirs = scan(merged), scan(overlay)
        finally:
            run("umount", overlay)
    for found in (ours, theirs):
        for value in found.values():
            del value["links"], value["same as"]  # a name broken off by whiteouts still counts there
    assert differences(ours, theirs) == {}


ODD: dict[str, list[list[Member]]] = {
    "dangling link as parent": [[symlink(b"l", b"d"), Member(b"l/x", data=b"1")]],
    "link as parent of both ends": [
        [directory(b"d"), symlink(b"l", b"/../d"), Member(b"l/x"), hardlink(b"h", b"l/x")]
    ],
    "link upwards": [[symlink(b"d/l", b"../../.."), directory(b"d"), Member(b"d/l/y")]],
    "link through nothing": [[symlink(b"l", b"none/../d"), Member(b"l/x")]],
    "file as parent": [[Member(b"a"), Member(b"a/b")]],
    "link to a file as parent": [[Member(b"a"), symlink(b"l", b"a"), Member(b"l/b")]],
    "link loop": [[symlink(b"l", b"m"), symlink(b"m", b"l"), Member(b"l/b")]],
    "directory twice": [[directory(b"a"), Member(b"a/b"), directory(b"a", mode=0o711)]],
    "file over directory": [[Member(b"a/b"), Member(b"a")]],
    "directory over file": [[Member(b"a"), directory(b"a"), Member(b"a/b")]],
    "directory over link": [[directory(b"d"), symlink(b"l", b"d"), directory(b"l"), Member(b"l/x")]],
    "link over link": [[directory(b"d"), symlink(b"l", b"d"), symlink(b"l", b"e"), Member(b"l/x")]],
    "one name replaced": [[Member(b"a", data=b"1"), hardlink(b"b", b"a"), Member(b"a", data=b"22")]],
    "hard link to a link": [[symlink(b"a", b"t"), hardlink(b"b", b"a")]],
    "hard link to nothing": [[hardlink(b"b", b"a")]],
    "hard link to a directory": [[directory(b"a"), hardlink(b"b", b"a")]],
    "whiteout and new content": [[Member(b"a/b"), Member(b"c")], [Member(b".wh.a"), Member(b"a/d")]],
    "opaque after content": [[Member(b"a/b"), Member(b"c")], [Member(b"a/d"), Member(b"a/.wh..wh..opq")]],
    "whiteout below a lower file": [[Member(b"a"), Member(b"b")], [Member(b"a/.wh.x")]],
    "whiteout deep below a lower file": [[Member(b"a")], [Member(b"a/b/.wh.x")]],
    "opaque below a lower file": [[Member(b"a")], [Member(b"a/.wh..wh..opq")]],
    "whiteout below what became a file": [[Member(b"a/x")], [Member(b"a")], [Member(b"a/.wh.x")]],
}
# umoci sees the lower layers when it unpacks one; a layer image is made without them.
UNLIKE: dict[str, list[list[Member]]] = {
    "lower file becomes a parent": [[Member(b"a/b")], [Member(b"a/b/c")]],
    "hard link to a lower file": [[Member(b"a")], [hardlink(b"b", b"a")]],
    "lower link as parent": [[directory(b"d"), symlink(b"l", b"d")], [Member(b"l/x")]],
}


@needs_kernel
@pytest.mark.parametrize(
    "layers",
    [
        *(pytest.param(layers, id=name) for name, layers in ODD.items()),
        *(pytest.param(layers, id=name, marks=pytest.mark.xfail) for name, layers in UNLIKE.items()),
    ],
)
def test_odd_archives_unpack_as_in_umoci(layers: list[list[Member]], scratch: Path) -> None:
    tars = [make_tar(layer) for layer in layers]
    try:
        theirs: dict[bytes, Any] | None = scan(unpacked(tars, scratch))
    except AssertionError:
        theirs = None
    try:
        fsmeta, images, merged = convert(tars, scratch)
    except InvalidImageError:
        assert theirs is None
        return
    assert theirs is not None
    with mounted(fsmeta, images, scratch / "mnt") as root:
        assert differences(comparable(scan(root), merged), comparable(theirs, merged)) == {}


@needs_kernel
def test_large_sparse_files(scratch: Path) -> None:
    size = (5 << 30) + 123
    member = Member(b"big", data=b"start", claimed=size)
    layer = write_layer([member, Member(b"after", data=b"a")], scratch / "layer")
    write_fsmeta(scratch / "fsmeta", [layer])
    with mounted(scratch / "fsmeta", [scratch / "layer"], scratch / "mnt") as root:
        assert (root / "big").stat().st_size == size
        with open(root / "big", "rb") as file:
            assert file.read(6) == b"start\0"
            assert file.seek(-4, os.SEEK_END) == size - 4
            assert file.read() == bytes(4)
        assert (root / "after").read_bytes() == b"a"
    run("fsck.erofs", f"--device={scratch / 'layer'}", scratch / "fsmeta")


@needs_kernel
def test_many_layers(scratch: Path) -> None:
    layers = [
        write_layer([Member(b"f%d" % i, data=b"%d" % i)], scratch / str(i)) for i in range(130)
    ]  # fmt: skip
    write_fsmeta(scratch / "fsmeta", layers)
    concatenate([scratch / "fsmeta", *(scratch / str(i) for i in range(130))], scratch / "flat")
    with mounted(scratch / "flat", [], scratch / "mnt") as root:
        assert {path.name: path.read_text() for path in root.iterdir()} == {
            f"f{i}": str(i) for i in range(130)
        }


@needs_kernel
@pytest.mark.slow
def test_debian(debian_image: Any, scratch: Path) -> None:
    with tarfile.open(debian_image.docker_archive) as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        names = json.load(listed)[0]["Layers"]
        archive.extractall(scratch, [archive.getmember(name) for name in names], filter="data")
    tars = [scratch / name for name in names]
    fsmeta, layers, merged = convert(tars, scratch)
    expected = comparable(scan(unpacked(tars, scratch)), merged)
    assert len(expected) > 3000
    with mounted(fsmeta, layers, scratch / "mnt") as root:
        assert differences(comparable(scan(root), merged), expected) == {}


class TestMicrosandbox:
    """The real ``msb``, in a home of its own."""

    @pytest.fixture
    def home(self, scratch: Path) -> Path:
        return scratch / "home"

    def archive(self, tars: Sequence[bytes], to: Path) -> list[Path]:
        """Write a docker archive; the names that the layers' images have in a cache."""
        digests = [hashlib.sha256(tar).hexdigest() for tar in tars]
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]}
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
        manifest = [
            {"Config": "c.json", "RepoTags": ["ours:1"], "Layers": [f"{digest}.tar" for digest in digests]}
        ]
        with tarfile.open(to, "w") as archive:
            for name, data in (
                *((f"{digest}.tar", tar) for digest, tar in zip(digests, tars, strict=True)),
                ("c.json", json.dumps(config).encode()),
                ("manifest.json", json.dumps(manifest).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return [Path(f"sha256_{digest}.erofs") for digest in digests]

    def test_uses_our_layers(self, msb: str, home: Path, scratch: Path) -> None:
        # msb 0.7.11 refuses POSIX ACLs in a layer image, though Linux knows them there.
        lower = [replace(member, xattrs={}) if member.path == b"acl" else member for member in LOWER]
        tars = [make_tar(layer) for layer in (lower, MIDDLE, UPPER)]
        names = self.archive(tars, scratch / "x.tar")
        layers = home / "cache/layers"
        layers.mkdir(parents=True)
        images = [
            write_layer(tar_entries(tar), layers / name) for tar, name in zip(tars, names, strict=True)
        ]  # fmt: skip
        before = [((layers / name).stat(), (layers / name).read_bytes()) for name in names]
        run(msb, "load", "-i", scratch / "x.tar", MSB_HOME=str(home))
        for name, (info, contents) in zip(names, before, strict=True):
            now = (layers / name).stat()
            assert (now.st_ino, now.st_mtime_ns) == (info.st_ino, info.st_mtime_ns)
            assert (layers / name).read_bytes() == contents
        # Its fsmeta points into our images; what it merged is what we merge, but for what it drops.
        [fsmeta] = (home / "cache/fsmeta").glob("*.erofs")
        data = {number: image_bytes for number, (_, image_bytes) in enumerate(before, start=1)}
        assert self.essence(read_image(fsmeta).root, data) == self.essence(
            merge([image.root for image in images]), data
        )
        [vmdk] = (home / "cache/vmdk").glob("*.vmdk")
        extents = [(path, path.stat().st_size) for path in (fsmeta, *(layers / name for name in names))]
        assert render(extents) == vmdk.read_bytes()
        # And it can write our layers out again.
        run(msb, "save", "-o", scratch / "saved.tar", "ours:1", MSB_HOME=str(home))
        with tarfile.open(scratch / "saved.tar") as saved:
            listed = saved.extractfile("manifest.json")
            assert listed is not None
            [manifest] = json.load(listed)
            for image, name in zip(images, manifest["Layers"], strict=True):
                layer = saved.extractfile(name)
                assert layer is not None
                changes = ChangeSet()
                for entry in tar_entries(layer.read()):
                    changes.add(entry)
                assert set(flatten(changes.finish())) == set(flatten(image.root))

    def essence(self, root: Node, images: dict[int, bytes]) -> dict[bytes, Any]:
        """Without what msb drops: attributes, parts of seconds, what directories were before it
        merged them, hard links to anything but files.
        """
        shown = {}
        for path, value in flatten(root, {0: b"", **images}).items():
            kind, uid, gid, mtime, _, rdev, size, target, _, _, _, same, content = value
            described = None if kind.startswith("d") else (uid, gid, mtime, content and same)
            shown[path] = (kind[0], described, rdev, size, target, content)
        return shown

    def test_its_layers_are_read(self, msb: str, home: Path, scratch: Path) -> None:
        # msb 0.7.11 takes no times before 1970, no hard links to anything but files, and no paths
        # through links.
        plain = [
            [
                replace(member, mtime=max(member.mtime, 0))
                for member in layer
                if member.path not in (b"short2", b"zero", b"lib/through")
            ]
            for layer in (LOWER, MIDDLE, UPPER)
        ]
        tars = [make_tar(layer) for layer in plain]
        names = self.archive(tars, scratch / "x.tar")
        run(msb, "load", "-i", scratch / "x.tar", MSB_HOME=str(home))
        for number, (tar, name) in enumerate(zip(tars, names, strict=True)):
            theirs = home / "cache/layers" / name
            ours = scratch / f"{number}.erofs"
            write_layer(tar_entries(tar), ours)
            there, here = (
                self.essence(read_layer(path).root, {0: path.read_bytes()}) for path in (theirs, ours)
            )
            for found in (there, here):
                for path, value in found.items():
                    if value[0] == "c" and value[2] == (0, 0):
                        found[path] = "whiteout"
            assert differences(there, here) == {}
            out = io.BytesIO()
            write_layer_tar(theirs, out)
            again = scratch / f"{number}.again"
            write_layer(tar_entries(out.getvalue()), again)
            assert set(flatten(read_layer(again).root)) == set(flatten(read_layer(theirs).root))
