"""The metadata file of a reference: its manifest and config as fetched, in microsandbox's JSON form.

Keys and their order are those of microsandbox 0.7.11 (see docs/architecture.md), so either program
reads what the other wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from msb_cache.artifacts.verity import open_plain
from msb_cache.errors import CorruptArtifactError

MAX_BYTES = 32 * 1024 * 1024
"""No sound metadata file is larger: manifest and config are each bounded to 4 MiB when they come in."""


CONFIG_KEYS = (
    *("env", "cmd", "entrypoint", "working_dir", "user"),
    *("exposed_ports", "volumes", "labels", "stop_signal"),
)
"""The runtime fields of an image configuration (OCI image-spec, config.md), in the file's order."""


class LayerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: its blob's digest, media type and size in bytes, and its diff ID."""

    digest: str
    media_type: str | None
    size_bytes: int | None
    diff_id: str


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. The raw documents are the bytes that the digests cover, as text.

    ``config`` has CONFIG_KEYS, null where the configuration says nothing; msb reads no labels that are null.
    """

    manifest_digest: str
    config_digest: str
    raw_manifest_json: str
    raw_config_json: str
    config: dict[str, Any]
    layers: Sequence[LayerMetadata]


def config_fields(config: object) -> dict[str, Any]:
    """Return the runtime fields as the file has them, from a configuration whose attributes they are."""
    fields = {key: getattr(config, key) for key in CONFIG_KEYS}
    return fields | {"labels": fields["labels"] or {}}


def render(metadata: Metadata) -> bytes:
    """Return the file's content."""
    return msgspec.json.encode(metadata)


def decode(path: Path) -> Metadata:
    """Read a metadata file, whatever its digests say: msb does not keep a registry's manifest byte by byte.

    Raises:
        CorruptArtifactError: the file is missing, damaged or too large.
    """
    try:
        with open(open_plain(path), "rb") as file:
            content = file.read(MAX_BYTES + 1)
        metadata = msgspec.json.decode(content, type=Metadata) if len(content) <= MAX_BYTES else None
    except FileNotFoundError:
        raise CorruptArtifactError(
            f"the metadata file {path.name} is missing; load the image again"
        ) from None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        # msgspec lets what is not UTF-8 through as the ValueError that Python makes of it.
        raise CorruptArtifactError(f"the metadata file {path.name} cannot be read: {error}") from None
    if metadata is None:
        raise CorruptArtifactError(f"the metadata file {path.name} is over {MAX_BYTES} bytes")
    return metadata


def digest_of(text: str) -> str:
    """Return the SHA-256 digest of a raw document."""
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def has_digest(text: str, digest: str) -> bool:
    """Return whether a raw document is the one with this digest."""
    return digest_of(text) == digest


def read(path: Path) -> Metadata:
    """Read a metadata file that we wrote, and check its raw documents against their digests.

    Raises:
        CorruptArtifactError: the file is missing, damaged, too large, or its digests do not fit.
    """
    metadata = decode(path)
    for text, digest in (
        (metadata.raw_manifest_json, metadata.manifest_digest),
        (metadata.raw_config_json, metadata.config_digest),
    ):
        if not has_digest(text, digest):
            raise CorruptArtifactError(f"the metadata file {path.name} does not match the digest {digest}")
    return metadata
