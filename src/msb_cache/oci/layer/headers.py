"""What the bytes of tar headers mean: fields, numbers, PAX records, sparse maps. Reads no stream.

Sources: POSIX pax ("ustar Interchange Format", "pax Interchange Format"), the GNU tar manual ("Basic Tar
Format", "Storing Sparse Files"), and Go's archive/tar where those leave room.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from urllib.parse import unquote_to_bytes
from zlib import adler32

BLOCK = 512
#: Type flags that are read, and what they are. ``S`` is a GNU sparse file, ``7`` a contiguous one.
TYPES = {
    0: "file",
    ord("0"): "file",
    ord("1"): "hardlink",
    ord("2"): "symlink",
    ord("3"): "character",
    ord("4"): "block",
    ord("5"): "directory",
    ord("6"): "fifo",
    ord("7"): "file",
    ord("S"): "file",
}
#: Type flags whose members have no content, whatever their size field says (POSIX; Go's isHeaderOnlyType).
HEADER_ONLY = frozenset(b"123456")

Segments = list[tuple[int, int]]

#: Name, owners (mode to gid), size, mtime, checksum, type, link, magic, devices, prefix, end; the owners'
#: names are left out.
_HEADER = Struct("100s24s12s12s8sB100s6s66x16s155s12s")
_MAX_NUMBER = (1 << 63) - 1
_OCTAL = re.compile(rb"[0-7]+")
_NO_XATTRS: Mapping[bytes, bytes] = {}
_NO_DEVICE = (0, 0)
_APPLIED = frozenset((b"mtime", b"path", b"linkpath", b"size", b"uid", b"gid"))


class TarProblem(Exception):
    """What is wrong with a tar, as the end of a sentence that begins with its name."""


class Fields:
    """One member header's fields, decoded; ``flag`` is its type as stored."""

    __slots__ = (
        "device",
        "flag",
        "gid",
        "link",
        "mode",
        "mtime",
        "mtime_ns",
        "path",
        "size",
        "uid",
        "xattrs",
    )

    flag: int
    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int]
    xattrs: Mapping[bytes, bytes]


@dataclass(slots=True)
class Extension:
    """What the extension headers before a member say about it."""

    path: bytes = b""
    link: bytes = b""
    pax: dict[bytes, bytes] = field(default_factory=dict)
    #: Of a PAX sparse file: format version (0 or 1), its size, and version 0's map.
    sparse: tuple[int, int, list[int]] | None = None

    def apply(self, fields: Fields) -> None:
        """Let the records override the header's fields; GNU long names win over PAX ones, as in Go."""
        if self.pax and _apply_pax(self.pax, fields):
            fields.xattrs = _xattrs(self.pax)
            self.sparse = _pax_sparse(self.pax, fields)
        if self.path:
            fields.path = self.path
        if self.link:
            fields.link = self.link


def parse_header(block: bytes, fields: Fields) -> None:
    """Decode one member header, whose checksum must hold, into ``fields``; raises TarProblem."""
    name, owners, size, mtime, checksum, flag, link, magic, devices, prefix, end = _HEADER.unpack(block)
    _check_checksum(block, checksum)
    fields.flag = flag
    fields.path = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\0":
        # star has times where POSIX has the prefix's last bytes.
        above = prefix[:131] if end[8:] == b"tar\0" else prefix
        fields.path = above.partition(b"\0")[0] + b"/" + fields.path
    elif prefix[0] and magic == b"ustar ":
        fields.path = _old_go_directory(prefix) + fields.path
    fields.device = (_device(devices[:8]), _device(devices[8:])) if flag in b"34" else _NO_DEVICE
    fields.size = number(size, "size")
    if fields.size < 0:
        raise TarProblem("has a member of negative size")
    fields.mode, fields.uid, fields.gid = _owners(owners)
    fields.mtime = number(mtime, "mtime")
    fields.mtime_ns = 0
    fields.link = link.partition(b"\0")[0] if link[0] else b""
    fields.xattrs = _NO_XATTRS


def _old_go_directory(prefix: bytes) -> bytes:
    """Return the directory, with a slash, that Go before 1.8 wrote where GNU tar has times, or nothing."""
    try:
        for time in (prefix[:12], prefix[12:24]):
            if time[0]:
                number(time, "time")
    except TarProblem:
        directory = prefix.partition(b"\0")[0]
        return directory + b"/" if directory.isascii() else b""
    return b""


@lru_cache(maxsize=1024)  # an archive has few modes and owners, and many members with the same ones
def _owners(raw: bytes) -> tuple[int, int, int]:
    """Mode, user ID and group ID."""
    return (
        number(raw[:8], "mode") & 0o7777,
        owner(number(raw[8:16], "uid")),
        owner(number(raw[16:], "gid")),
    )


def _check_checksum(block: bytes, checksum: bytes) -> None:
    stored = number(checksum, "checksum")
    # Adler-32's low half is 1 + the sum of the bytes modulo 65521, which 256 bytes cannot exceed: six times
    # as fast as sum(), and every member needs one.
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - (adler32(checksum) & 0xFFFF)
    total += 8 * 32 - 1
    if stored == total:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 32
    if stored != signed:
        raise TarProblem("has a damaged member header (its checksum is wrong)")


def number(raw: bytes, what: str) -> int:
    """A numeric field: octal, or GNU's big-endian two's complement when the first byte's high bit is set."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big")
        bits = len(raw) * 8
        value = value - (1 << bits) if raw[0] & 0x40 else value - (1 << (bits - 1))
        if not -_MAX_NUMBER <= value <= _MAX_NUMBER:
            raise TarProblem(f"has a member whose {what} is out of range")
        return value
    text = raw.rstrip(b" \0")
    if text.isdigit():  # nearly every field there is
        try:
            return int(text, 8)
        except ValueError:
            pass  # an 8 or a 9: refused below
    text = text.lstrip(b" \0")
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    # A field may end with NUL and hold anything behind it.
    text = raw.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not _OCTAL.fullmatch(text):
        raise TarProblem(f"has a member whose {what} is not a number")
    return int(text, 8)


def owner(value: int) -> int:
    """A user or group ID as the kernel's 32 unsigned bits; -2 is 4294967294, as in chown(2)."""
    if -(1 << 31) <= value < 0:
        return value + (1 << 32)
    if not 0 <= value < 1 << 32:
        raise TarProblem(f"has a member owned by the impossible ID {value}")
    return value


def _device(raw: bytes) -> int:
    value = number(raw, "device number")
    if not 0 <= value < 1 << 32:
        raise TarProblem("has a member whose device number is out of range")
    return value


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX extended header; those of old sparse maps are joined into ``GNU.sparse.map``."""
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        space = data.find(b" ", position, position + 20)
        length = data[position:space] if space > 0 else b""
        if not length.isdigit():
            raise TarProblem("has a damaged extended header")
        stop = position + int(length)
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A:
            raise TarProblem("has a damaged extended header")
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key or b"\0" in key or (b"\0" in value and key in (b"path", b"linkpath")):
            raise TarProblem("has a damaged extended header")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.numbytes") != bool(len(sparse) % 2) or b"," in value:
                raise TarProblem("has a sparse file with a damaged map")
            sparse.append(value)
        else:
            records[key] = value
        position = stop
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def _apply_pax(records: Mapping[bytes, bytes], fields: Fields) -> bool:
    """Whether there are records beside those of POSIX that were applied."""
    others = False
    for key, value in records.items():
        if key not in _APPLIED:
            others = True
        elif not value:
            continue  # an empty value says: as in the header
        elif key == b"mtime":
            fields.mtime, fields.mtime_ns = pax_time(value)
        elif key == b"path":
            fields.path = value
        elif key == b"linkpath":
            fields.link = value
        elif key == b"size":
            fields.size = _decimal(value, "size")
        elif key == b"uid":
            fields.uid = owner(_decimal(value, "uid"))
        else:
            fields.gid = owner(_decimal(value, "gid"))
    return others


def _xattrs(records: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Extended attributes as star (raw) and libarchive (URL-encoded name, base64) write them.

    Raw ones win.
    """
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(b"SCHILY.xattr.") and value:
            found[key[13:]] = value
    for key, value in records.items():
        if key.startswith(b"LIBARCHIVE.xattr.") and value:
            try:
                # libarchive leaves the padding out.
                decoded = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error:
                raise TarProblem("has a member whose extended attribute is not base64") from None
            found.setdefault(unquote_to_bytes(key[17:]), decoded)
    if b"" in found or any(b"\0" in name for name in found):
        raise TarProblem("has a member whose extended attribute has no proper name")
    return found or _NO_XATTRS


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_NUMBER:
        raise TarProblem(f"has a member whose {what} is not a number")
    return int(value)


def pax_time(value: bytes) -> tuple[int, int]:
    """A decimal time, signed or not, as whole seconds since the epoch, rounded down, and nanoseconds.

    Further digits are cut.
    """
    negative = value.startswith(b"-")
    whole, _, fraction = value[value.startswith((b"-", b"+")) :].partition(b".")
    if not whole.isdigit() or len(whole) > 19 or (fraction and not fraction.isdigit()):
        raise TarProblem("has a member whose mtime is not a number")
    seconds = int(whole)
    if seconds > _MAX_NUMBER:
        raise TarProblem("has a member whose mtime is not a number")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    if negative:
        return divmod(-(seconds * 10**9 + nanoseconds), 10**9)
    return seconds, nanoseconds


def _pax_sparse(records: Mapping[bytes, bytes], fields: Fields) -> tuple[int, int, list[int]] | None:
    """Recognise GNU sparse formats 0.0, 0.1 and 1.0, as Go's readGNUSparsePAXHeaders does."""
    major = records.get(b"GNU.sparse.major", b"")
    minor = records.get(b"GNU.sparse.minor", b"")
    if (major, minor) == (b"1", b"0"):
        version = 1
    elif (major, minor) in ((b"", b""), (b"0", b"0"), (b"0", b"1")):
        if b"GNU.sparse.map" not in records and not major:
            return None
        version = 0
    else:
        raise TarProblem("has a sparse file of an unknown format version")
    if fields.flag in HEADER_ONLY:
        return None
    name = records.get(b"GNU.sparse.name")
    if name:
        if b"\0" in name:
            raise TarProblem("has a damaged extended header")
        fields.path = name
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    inline = records.get(b"GNU.sparse.map", b"")
    numbers = [_decimal(each, "sparse map") for each in inline.split(b",")] if inline else []
    return version, fields.size if size is None else _decimal(size, "size"), numbers


def sparse_map_segments(numbers: list[int]) -> Segments:
    """Pairs of offset and length from a flat list of numbers."""
    if len(numbers) % 2:
        raise TarProblem("has a sparse file with a damaged map")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def old_sparse_segments(tables: list[bytes], block: bytes) -> tuple[Segments, int]:
    """Segments and file size of GNU's old sparse format (type S): 24-byte pairs, ended by an empty one."""
    segments: Segments = []
    for table in tables:
        for start in range(0, len(table) - 23, 24):
            if table[start] == 0:
                break
            segments.append(
                (
                    number(table[start : start + 12], "sparse map"),
                    number(table[start + 12 : start + 24], "sparse map"),
                )
            )
    return segments, number(block[483:495], "size")


def check_segments(segments: Segments, size: int, stored: int) -> Segments:
    """Refuse pieces that overlap, are out of order, pass the end, or are not exactly the ``stored`` bytes."""
    at = total = 0
    for offset, length in segments:
        if offset < at or length < 0 or offset + length > size:
            raise TarProblem("has a sparse file whose pieces overlap or pass its end")
        at = offset + length
        total += length
    if size < 0 or total != stored:
        raise TarProblem("has a sparse file whose map does not fit its data")
    return [(offset, length) for offset, length in segments if length]
