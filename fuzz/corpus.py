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
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.documents.decode import OCI_MANIFEST, encode_manifest
from msb_cache.oci.image import SourceImage, SourceLayer
from msb_cache.oci.layer.tar import TarReader
from msb_cache.oci.layer.zstd import zstd

_MEMBERS = 25
_LARGEST = 600
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
            for document in (Path(home) / "cache" / "manifests").glob("*.json"):
                _keep(folder, "metadata_file", document.read_bytes())
        _keep(folder, "archive", _archive(small, small))
        with tempfile.TemporaryDirectory() as work:
            path, merged = Path(work) / "layer", Path(work) / "fsmeta"
            written = write_layer(TarReader(io.BytesIO(small)), path)
            write_fsmeta(merged, [written])
            _keep(folder, "erofs", path.read_bytes())
            _keep(folder, "erofs", merged.read_bytes())


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
