"""What is fuzzed: for each target a function of bytes that ends in an answer or raises one of our own errors.

Not for running them; ``run.py`` and the tests do. A target that raises anything else has found something.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from msb_cache.artifacts import metadata
from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.fsmeta import write_fsmeta
from msb_cache.artifacts.layer import read_layer, write_layer
from msb_cache.artifacts.tree import Node, walk
from msb_cache.cli.describe import describe
from msb_cache.errors import MicrosandboxError
from msb_cache.eventstore import export, merkle
from msb_cache.eventstore.chain import GENESIS, link
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.documents.decode import decode_config, decode_index, decode_manifest
from msb_cache.oci.layer.compression import decompressed, sniff
from msb_cache.oci.layer.headers import BLOCK
from msb_cache.oci.layer.tar import TarReader
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.auth import parse_challenges
from msb_cache.proof import inclusion, note, submission
from msb_cache.proof.policy import Policy, policy_of
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.vkey import VerifierKey
from msb_cache.queries.times import parse_time
from msb_cache.queries.told import who_in_full

LARGEST = 1 << 20
"""Bytes of content that a target takes from an input: a short header can promise terabytes."""

TRUST = policy_of([VerifierKey("fuzz", 1, bytes(32)), VerifierKey("witness", 4, bytes(32))])
"""Whose signatures count: of keys that nobody has."""

_NOW_NS = 1_764_000_000_123_456_789
_MEMORY = "/dev/shm"
_FOLDER = Path(tempfile.mkdtemp(prefix="msb-cache-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def _with_checksums(data: bytes) -> bytes:
    """Put right the checksums of tar headers: else no changed header would be read any further."""
    mended = bytearray(data)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if mended[start + 257 : start + 262] == b"ustar":
            mended[start + 148 : start + 156] = b" " * 8
            mended[start + 148 : start + 156] = b"%06o\0 " % sum(mended[start : start + BLOCK])
    return bytes(mended)


def archive(data: bytes) -> None:
    """Open an image archive and stream its layers."""
    with open_archive(io.BytesIO(_with_checksums(data)), _FOLDER / "spool") as opened:
        for image in opened.images:
            for layer in image.layers:
                with layer.open() as stream:
                    for entry in stream.entries():
                        if entry.size <= LARGEST:
                            entry.read()
                    stream.verify()


def tar(data: bytes) -> None:
    """Read the members of a tar, some with their content."""
    for entry in TarReader(io.BytesIO(_with_checksums(data))):
        if entry.size <= LARGEST:
            assert len(entry.read()) == entry.size


def layer(data: bytes) -> None:
    """Convert a layer; what is read back from its image, and from one of the merged tree, is the same."""
    path, merged = _FOLDER / "layer.erofs", _FOLDER / "fsmeta.erofs"
    for old in (path, merged):
        old.unlink(missing_ok=True)
    try:
        entries = (e for e in TarReader(io.BytesIO(_with_checksums(data))) if e.size <= LARGEST)
        written = write_layer(entries, path)
        write_fsmeta(merged, [written])
    except MicrosandboxError:
        assert not merged.exists()
        raise
    again = read_layer(path)
    assert (again.blocks, again.size_bytes) == (written.blocks, written.size_bytes)
    assert _described(again.root) == _described(written.root)
    read_image(merged)


def _described(root: Node) -> list[tuple[object, ...]]:
    return [
        (
            *(path, node.mode, node.uid, node.gid, node.mtime, node.mtime_ns, node.rdev),
            *(node.size, node.block, node.target, node.xattrs, node.opaque, node.implicit),
        )
        for path, node in walk(root)
    ]


def erofs(data: bytes) -> None:
    """Read an EROFS image, whatever its bytes are."""
    path = _FOLDER / "any.erofs"
    path.write_bytes(_with_superblock_checksum(data))
    for _ in walk(read_image(path).root):
        pass


def _with_superblock_checksum(data: bytes) -> bytes:
    if len(data) < fmt.BLOCK:
        return data
    first, at = data[: fmt.BLOCK], fmt.SUPERBLOCK_OFFSET + 4  # behind the magic number
    return data[:at] + fmt.superblock_checksum(first).to_bytes(4, "little") + data[at + 4 :]


def documents(data: bytes) -> None:
    """Decode bytes as a manifest, an index and a config; an error is that they are none of these."""
    decoders: tuple[Callable[[bytes], object], ...] = (decode_manifest, decode_index, decode_config)
    problems = []
    for decode in decoders:
        try:
            decode(data)
        except MicrosandboxError as problem:
            problems.append(problem)
    if len(problems) == len(decoders):
        raise problems[0]


def metadata_file(data: bytes) -> None:
    """Read a metadata file."""
    path = _FOLDER / "metadata.json"
    path.write_bytes(data)
    metadata.render(metadata.decode(path))


def compression(data: bytes) -> None:
    """Expand a stream, up to a bound."""
    stream = decompressed(io.BytesIO(data), sniff(data), "it", limit=8 * LARGEST)
    while stream.read(LARGEST):
        pass


def reference(data: bytes) -> None:
    """Parse a reference; what is accepted says the same in both of its forms."""
    found = Reference.parse(data.decode("utf-8", "surrogateescape"))
    assert Reference.parse(found.canonical) == found
    assert Reference.parse(found.familiar) == found


def times(data: bytes) -> None:
    """Parse a time that somebody typed."""
    assert -(2**63) <= parse_time(data.decode("utf-8", "surrogateescape"), _NOW_NS) < 2**63


def challenges(data: bytes) -> None:
    """Parse what a registry asks for in WWW-Authenticate."""
    parse_challenges(data.decode("latin-1"))


def notes(data: bytes) -> None:
    """Read a note, and judge it if it is a checkpoint; what is read is written the same."""
    found = note.parse(data)
    assert str(found).encode() == data
    judged = TRUST.judge(found)
    assert judged.fits == (judged.problem is None)


def proofs(data: bytes) -> None:
    """Read a proof; what is read is written the same, and of what it proves people can be told."""
    found = inclusion.parse(data)
    assert str(found).encode() == data
    _tell(inclusion.proved(found))


def exported_events(data: bytes) -> None:
    """Prove an event of any content, as the first and only one of a log."""
    for row, _ in export.read(io.BytesIO(data)):
        first = (1, *row[1:])
        stored = link(GENESIS, first)
        head = TreeHead("fuzz", 1, merkle.leaf_hash(stored))
        _tell(inclusion.proved(inclusion.make(first, stored, GENESIS, [], note.Note(head.text))))


def _tell(found: inclusion.ProvedEvent) -> None:
    if found.event is not None:
        found.event.to_json()
        describe(found.event)
        who_in_full(found.event.actor)


def policies(data: bytes) -> None:
    """Read a policy file, and judge a checkpoint by it."""
    found = Policy.parse(data)
    found.judge(note.Note(TreeHead("fuzz", 1, merkle.EMPTY_ROOT).text))
    found.with_keys(each.key for each in TRUST.logs)


def submissions(data: bytes) -> None:
    """Read what a log sends to a witness; what is read is written the same."""
    assert str(submission.parse(data)).encode() == data


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(archive, tar, layer, erofs, documents),
        *(metadata_file, compression, reference, times, challenges),
        *(notes, proofs, exported_events, policies, submissions),
    )
}
