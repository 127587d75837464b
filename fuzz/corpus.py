"""Beginnings for the fuzzer, out of real archives: ``python fuzz/corpus.py FOLDER ARCHIVE...``.

Writes ``FOLDER/<target>/<hash>`` for the targets that read files. Layers are cut to their first small
members, because a fuzzer does little with megabytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path

import msgspec

from msb_cache import ImageCache
from msb_cache.artifacts.fsmeta import write_fsmeta
from msb_cache.artifacts.layer import write_layer
from msb_cache.eventstore import export, merkle
from msb_cache.eventstore.row import GENESIS
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.documents.decode import OCI_MANIFEST, encode_manifest
from msb_cache.oci.image import SourceImage, SourceLayer
from msb_cache.oci.layer.tar import TarReader
from msb_cache.oci.layer.zstd import zstd
from msb_cache.proof.inclusion import make
from msb_cache.proof.note import Note, Signature
from msb_cache.proof.submission import Submission
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.vkey import VerifierKey

_MEMBERS = 25
_LARGEST = 600
_LOG, _WITNESS = VerifierKey("fuzz", 1, bytes(32)), VerifierKey("witness", 4, bytes(32))
_TEXTS = {
    "reference": (
        *(
            "python:3.12",
            "ghcr.io/a/b@sha256:" + "0" * 64,
            "localhost:5000/x:y",
            "[::1]:80/a",
            "a/b:c@sha256:",
        ),
    ),
    "times": (
        *("now", "today 14:00", "last tuesday 9:30:15", "2 days ago", "2026-02-30", "2026-W01-1T10+05:30"),
        *("20260101T235960Z", "1 year ago", "2026-01-01T00:00:00.123456789Z", "yesterday 24:00"),
    ),
    "policies": (
        f"log {_LOG} https://a/\nwitness a {_WITNESS}\ngroup b any a\ngroup c all b\nquorum c\n",
        "# nobody\n\n\tquorum  none \n",
    ),
    "challenges": ('Bearer realm="https://a/t",service="s",scope="repository:x:pull", Basic realm="y"',),
}


def main(folder: Path, archives: list[Path]) -> None:
    """Fill the folder from the archives' first images."""
    for target, texts in _TEXTS.items():
        for text in texts:
            _keep(folder, target, text.encode())
    for path in archives:
        with tempfile.TemporaryDirectory() as work, open_archive(path, Path(work)) as opened:
            for image in opened.images:
                _image(folder, image)


def _image(folder: Path, image: SourceImage) -> None:
    _keep(folder, "documents", image.manifest)
    _keep(folder, "documents", image.config)
    for layer in image.layers:
        small = _cut(layer)
        for target in ("tar", "layer"):
            _keep(folder, target, small)
        for blob in (
            gzip.compress(small),
            zstd.compress(small, options={zstd.CompressionParameter.checksum_flag: 1}),
        ):
            _keep(folder, "compression", blob)
            _keep(folder, "archive", _archive(blob, small))
        with tempfile.TemporaryDirectory() as home, ImageCache(home) as cache:
            cache.load(io.BytesIO(_archive(small, small)), tag="fuzz:1")
            _proofs(folder, cache)
            for document in (Path(home) / "cache" / "manifests").glob("*.json"):
                _keep(folder, "metadata_file", document.read_bytes())
        _keep(folder, "archive", _archive(small, small))
        with tempfile.TemporaryDirectory() as work:
            path, merged = Path(work) / "layer", Path(work) / "fsmeta"
            written = write_layer(TarReader(io.BytesIO(small)), path)
            write_fsmeta(merged, [written])
            _keep(folder, "erofs", path.read_bytes())
            _keep(folder, "erofs", merged.read_bytes())


def _proofs(folder: Path, cache: ImageCache) -> None:
    """Proofs of a log's events, and what they are made of."""
    exported = io.BytesIO()
    cache.export(exported)
    for line in exported.getvalue().splitlines(keepends=True):
        _keep(folder, "exported_events", line)
    rows = [*export.read(io.BytesIO(exported.getvalue()))]
    leaves = [merkle.leaf_hash(stored) for _, stored in rows]

    def subtree(level: int, index: int) -> bytes:
        return merkle.combined(leaves[index << level : (index + 1) << level])

    head = TreeHead(_LOG.name, len(rows), merkle.root(len(rows), subtree))
    # Signatures of the right form: fuzzing finds no other that were ever made.
    signed = Signature(_LOG.name, _LOG.key_id, bytes(64))
    cosigned = Signature("other", _WITNESS.key_id, bytes(7) + b"\x01" + bytes(64))
    note = Note(head.text, (cosigned,))
    _keep(folder, "notes", str(note).encode())
    _keep(folder, "notes", str(note.with_signatures([signed])).encode())
    for number, (row, stored) in enumerate(rows):
        path = merkle.inclusion_path(number, len(rows), subtree)
        _keep(
            folder,
            "proofs",
            str(make(row, stored, rows[number - 1][1] if number else GENESIS, path, note)).encode(),
        )
    consistent = tuple(merkle.consistency_path(3, len(rows), subtree))
    for sent in (Submission(3, consistent, note), Submission(0, (), note)):
        _keep(folder, "submissions", str(sent).encode())


def _cut(layer: SourceLayer) -> bytes:
    """The first small members of a layer, written by the standard library."""
    out = io.BytesIO()
    with layer.open() as stream, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        count = 0
        for entry in stream.entries():
            if entry.type not in ("file", "directory", "symlink") or entry.size > _LARGEST:
                continue
            info = tarfile.TarInfo(entry.path.decode("utf-8", "surrogateescape"))
            info.type = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE}.get(
                entry.type, tarfile.SYMTYPE
            )
            info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
            info.linkname, info.size = entry.link.decode("utf-8", "surrogateescape"), entry.size
            info.pax_headers = {"SCHILY.xattr.user.a": "1"} if count == 0 else {}
            tar.addfile(info, io.BytesIO(entry.read()))
            count += 1
            if count == _MEMBERS:
                break
    return out.getvalue()


def _archive(blob: bytes, content: bytes) -> bytes:
    config = msgspec.json.encode(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [_digest(content)]}}
    )
    media_type = "application/vnd.oci.image.layer.v1.tar"
    manifest = encode_manifest((_digest(config), len(config)), [(_digest(blob), len(blob), media_type)])
    entry = {"mediaType": OCI_MANIFEST, "digest": _digest(manifest), "size": len(manifest)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        files = {f"blobs/{_digest(data).replace(':', '/')}": data for data in (manifest, config, blob)}
        files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        files["index.json"] = msgspec.json.encode({"schemaVersion": 2, "manifests": [entry]})
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _keep(folder: Path, target: str, data: bytes) -> None:
    path = folder / target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
