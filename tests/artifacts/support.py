"""What the artifacts tests share: tar members as entries, trees as comparable dicts, mounts.

The tar side is the standard library's, never the project's, so that a mistake in reading an archive
cannot hide one in writing an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msb_cache.artifacts.changeset import ChangeSet
from msb_cache.artifacts.tree import Node, is_whiteout, walk


@dataclass
class Member:
    """A tar member with data in memory; satisfies the Entry protocol."""

    path: bytes
    type: str = "file"
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000
    mtime_ns: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    claimed: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) if self.claimed is None else self.claimed

    def copy_to(self, put: Callable[[memoryview, int], None], offset: int) -> None:
        if self.data:
            put(memoryview(self.data), offset)


def directory(path: bytes, **more: Any) -> Member:
    return Member(path, "directory", **{"mode": 0o755, **more})


def symlink(path: bytes, target: bytes, **more: Any) -> Member:
    return Member(path, "symlink", link=target, **{"mode": 0o777, **more})


def hardlink(path: bytes, target: bytes) -> Member:
    return Member(path, "hardlink", link=target)


_TYPES = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "character",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


class TarMember(Member):
    """A member of a tar file that is read when asked for."""

    def __init__(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self._archive, self._info = archive, info
        pax = info.pax_headers
        ns = _nanoseconds(pax["mtime"]) if "mtime" in pax else int(info.mtime) * 10**9
        super().__init__(
            _raw(info.name),
            _TYPES[info.type],
            mode=info.mode & 0o7777,
            uid=info.uid,
            gid=info.gid,
            mtime=ns // 10**9,
            mtime_ns=ns % 10**9,
            link=_raw(info.linkname),
            device=(info.devmajor, info.devminor),
            xattrs={
                _raw(key.removeprefix("SCHILY.xattr.")): _raw(value)
                for key, value in pax.items()
                if key.startswith("SCHILY.xattr.")
            },
            claimed=info.size,
        )

    def copy_to(self, put: Callable[[memoryview, int], None], offset: int) -> None:
        file = self._archive.extractfile(self._info)
        assert file is not None
        while data := file.read(1 << 20):
            put(memoryview(data), offset)
            offset += len(data)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _nanoseconds(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("-").partition(".")
    return sign * (int(whole) * 10**9 + int((fraction + "0" * 9)[:9]))


def tar_entries(data: bytes | Path) -> Iterator[TarMember]:
    source = io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb")  # noqa: SIM115
    with source, tarfile.open(fileobj=source, errors="surrogateescape") as archive:
        for info in archive:
            yield TarMember(archive, info)


def make_tar(members: Sequence[Member]) -> bytes:
    """An archive of the members, in PAX format, by the standard library."""
    types = {name: code for code, name in _TYPES.items() if code in tarfile.SUPPORTED_TYPES}
    types["file"] = tarfile.REGTYPE
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.path.decode("utf-8", "surrogateescape"))
            info.type = types[member.type]
            info.mode, info.uid, info.gid = member.mode, member.uid, member.gid
            info.mtime = member.mtime
            info.linkname = member.link.decode("utf-8", "surrogateescape")
            info.devmajor, info.devminor = member.device
            info.size = len(member.data)
            info.pax_headers = {
                "SCHILY.xattr." + key.decode(): value.decode("utf-8", "surrogateescape")
                for key, value in member.xattrs.items()
            }
            if member.mtime_ns:
                total = member.mtime * 10**9 + member.mtime_ns
                whole, rest = divmod(abs(total), 10**9)
                info.pax_headers["mtime"] = f"{'-' * (total < 0)}{whole}.{rest:09d}"
            archive.addfile(info, io.BytesIO(member.data))
    return out.getvalue()


def flatten(root: Node, images: Mapping[int, bytes] | None = None) -> dict[bytes, Any]:
    """A tree as a dict from path to all that matters, to compare with ``==``.

    Names of one file show the first of them. With ``images`` (device → bytes of its image), files
    show their content instead of where it lies.
    """
    first: dict[int, bytes] = {}
    flat: dict[bytes, Any] = {}
    for path, node in walk(root):
        content: Any = None
        if stat.S_ISREG(node.mode) and images is not None:
            data = images[node.device][node.block * 4096 : node.block * 4096 + node.size]
            assert len(data) == node.size
            content = hashlib.sha256(data).hexdigest()
        flat[path] = (
            stat.filemode(node.mode),
            node.uid,
            node.gid,
            node.mtime,
            node.mtime_ns,
            node.rdev,
            node.size,
            node.target,
            node.xattrs or {},
            node.opaque,
            node.implicit,
            None if is_whiteout(node) else first.setdefault(id(node), path),
            content,
        )
    return flat


def scan(root: Path) -> dict[bytes, Any]:
    """What a mounted or unpacked directory holds, in the same spirit, seen through system calls."""
    first: dict[int, bytes] = {}
    found: dict[bytes, Any] = {}
    top = os.fsencode(root)
    pending = [b""]
    while pending:
        name = pending.pop()
        path = os.path.join(top, name) if name else top
        info = os.lstat(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith("user.umoci") and key != "user.rootlesscontainers"
        }
        content: Any = None
        if stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(info.st_mode):
            pending += [os.path.join(name, child) for child in sorted(os.listdir(path), reverse=True)]
        found[name] = {
            "mode": stat.filemode(info.st_mode),
            "owner": (info.st_uid, info.st_gid),
            "mtime_ns": info.st_mtime_ns,
            "size": info.st_size if stat.S_ISREG(info.st_mode) else None,
            "links": None if stat.S_ISDIR(info.st_mode) else info.st_nlink,
            "rdev": info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else None,
            "same as": first.setdefault(info.st_ino, name),
            "xattrs": xattrs,
            "content": content,
        }
    return found


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a peer; its whole output is in the assertion when it fails."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, **variables}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done


def fsck(image: Path, devices: Sequence[Path] = ()) -> None:
    run("fsck.erofs", "--extract", *(f"--device={device}" for device in devices), image)


@contextlib.contextmanager
def mounted(image: Path, devices: Sequence[Path], at: Path) -> Iterator[Path]:
    """The image as the kernel shows it; its loop devices are gone afterwards."""
    at.mkdir()
    loops: list[str] = []
    try:
        # One by one into the list, so that those there are go away if the next one fails.
        loops.extend(run("losetup", "-f", "-r", "--show", file).stdout.strip() for file in (*devices, image))
        options = ",".join(["ro", *(f"device={loop}" for loop in loops[:-1])])
        run("mount", "-t", "erofs", "-o", options, loops[-1], at)
        try:
            yield at
        finally:
            run("umount", at)
    finally:
        for loop in loops:
            run("losetup", "-d", loop)
        at.rmdir()


def tree_of(*members: Member) -> Node:
    changes = ChangeSet()
    for member in members:
        changes.add(member)
    return changes.finish()


def f(path: bytes, size: int = 1, **more: Any) -> Member:
    return Member(path, data=b"x" * size, **more)
