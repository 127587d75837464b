"""A layer image back to the tar stream of an OCI layer.

PAX format (POSIX.1-2001), with extended headers only where the plain one cannot say it. The same
image gives the same bytes, whose digest is not that of the archive the image was made of: the
order, the directories' slashes and the writer differ. Converting the stream gives the same tree.

The headers are not made by ``tarfile.TarInfo``: it cannot name an extended attribute that is no UTF-8, puts
``hdrcharset`` before values that are none, and has changed its bytes between releases of Python, on which a
layer's digest must not depend.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from msb_cache.artifacts.changeset import OPAQUE, WHITEOUT
from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.tree import Node, is_whiteout, quoted, walk, whiteout
from msb_cache.artifacts.verity import open_plain
from msb_cache.errors import CorruptArtifactError, InvalidImageError

_RECORD = 512
_CHUNK = 1 << 20
_HEADER = Struct("100s8s8s8s12s12s8s1s100s8s64x8s8s167x")
"""name, mode, uid, gid, size, mtime, checksum, type, link, magic, (user, group,) major, minor."""
_CHECKSUM = slice(148, 156)
_TYPE = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARD_LINK = b"1"
_EXTENDED = b"x"
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_PAX_NAME = b"././@PaxHeader"


def write_layer_tar(path: Path, out: BinaryIO) -> int:
    """Write the layer image at ``path`` to ``out`` as a tar archive; the number of bytes written.

    Directories come before what they hold, siblings by name. Directories that the layer never
    mentioned are left out, whiteouts get their ``.wh.`` names back. Holes are written as zeros.

    Raises :class:`CorruptArtifactError` if the image is not sound, OSError as reading or writing does.
    """
    root = read_layer(path).root
    written = 0
    names: dict[int, bytes] = {}  # id of a node → the first path it went out under
    fd = open_plain(path)
    try:
        for name, node in walk(root):
            head, _, last = name.rpartition(b"/")
            if last.startswith(WHITEOUT):
                raise CorruptArtifactError(f"{path.name} holds a file that no layer can: {quoted(name)}.")
            if node.children is not None:
                written += _write_directory(name, node, out)
            elif is_whiteout(node):
                hidden = (head + b"/" if head else b"") + WHITEOUT + last
                written += out.write(_header(hidden, whiteout(), b"0"))
            elif id(node) in names:
                written += out.write(_header(name, node, _HARD_LINK, link=names[id(node)]))
            else:
                names[id(node)] = name
                kind = _TYPE[stat.S_IFMT(node.mode)]
                written += out.write(_header(name, node, kind, size=node.size, link=node.target))
                if node.size:
                    written += _copy(fd, node.block * fmt.BLOCK, node.size, out)
    finally:
        os.close(fd)
    return written + out.write(bytes(2 * _RECORD))


def _write_directory(name: bytes, node: Node, out: BinaryIO) -> int:
    prefix = name + b"/" if name else b""
    written = 0
    if not node.implicit:
        written += out.write(_header(prefix or b"./", node, _TYPE[stat.S_IFDIR]))
    if node.opaque:
        written += out.write(_header(prefix + OPAQUE, whiteout(), b"0"))
    return written


def _copy(fd: int, offset: int, size: int, out: BinaryIO) -> int:
    left = size
    while left:
        data = os.pread(fd, min(left, _CHUNK), offset)
        if not data:
            raise CorruptArtifactError("A layer image became shorter while it was read.")
        out.write(data)
        offset += len(data)
        left -= len(data)
    padding = -size % _RECORD
    out.write(bytes(padding))
    return size + padding


def _header(name: bytes, node: Node, kind: bytes, *, size: int = 0, link: bytes = b"") -> bytes:
    """One member's header, after an extended one if the plain one has no room for something."""
    records: dict[bytes, bytes] = {}
    if len(name) > 100:
        records[b"path"] = name
    if len(link) > 100:
        records[b"linkpath"] = link
    for key, number, most in (
        (b"uid", node.uid, _MAX_ID),
        (b"gid", node.gid, _MAX_ID),
        (b"size", size, _MAX_NUMBER),
    ):
        if number > most:
            records[key] = b"%d" % number
    if node.mtime_ns or not 0 <= node.mtime <= _MAX_NUMBER:
        records[b"mtime"] = _time(node.mtime, node.mtime_ns)
    if node.xattrs and kind != _HARD_LINK:
        for xattr, value in node.xattrs.items():
            if b"=" in xattr:
                raise InvalidImageError(f"A tar archive cannot name the attribute {quoted(xattr)}.")
            records[b"SCHILY.xattr." + xattr] = value
    plain = _plain_header(name, node, kind, size, link)
    if not records:
        return plain
    body = b"".join(_pax_record(key, records[key]) for key in sorted(records))
    extended = _plain_header(_PAX_NAME, Node(0), _EXTENDED, len(body), b"")
    return extended + body + bytes(-len(body) % _RECORD) + plain


def _plain_header(name: bytes, node: Node, kind: bytes, size: int, link: bytes) -> bytes:
    major, minor = node.rdev
    header = bytearray(
        _HEADER.pack(
            *(name, b"%07o" % stat.S_IMODE(node.mode)),
            *(b"%07o" % min(node.uid, _MAX_ID), b"%07o" % min(node.gid, _MAX_ID)),
            *(b"%011o" % min(size, _MAX_NUMBER), b"%011o" % min(max(node.mtime, 0), _MAX_NUMBER)),
            *(b" " * 8, kind, link, b"ustar\x0000", b"%07o" % major, b"%07o" % minor),
        )
    )
    # The sum is taken with the checksum field as spaces, which it is so far.
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)


def _time(seconds: int, nanoseconds: int) -> bytes:
    total = seconds * 1_000_000_000 + nanoseconds
    whole, rest = divmod(abs(total), 1_000_000_000)
    return b"%b%d.%09d" % (b"-" if total < 0 else b"", whole, rest)


def _pax_record(key: bytes, value: bytes) -> bytes:
    """``length key=value`` and a newline, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
