"""Whether a metadata file says what the index says of its manifest, and what its own documents say.

msb does not keep a registry's manifest byte by byte: it writes it anew, in its own order and without what it
does not know. So of its files less can be told.
"""

from __future__ import annotations

from collections.abc import Sequence

from msb_cache.artifacts import metadata
from msb_cache.errors import CorruptArtifactError, InvalidImageError
from msb_cache.oci.documents.decode import decode_config, decode_manifest
from msb_cache.projections.images import LayerDetailRow
from msb_cache.projections.rows import ManifestLayerRow

Layers = Sequence[LayerDetailRow] | Sequence[ManifestLayerRow]


def metadata_difference(found: metadata.Metadata, config_digest: str, layers: Layers) -> str | None:
    """Return in what a metadata file that we wrote is not that of its manifest; None if in nothing.

    Raises:
        CorruptArtifactError: a document cannot be read, or is not the one of its digest.
    """
    if not metadata.has_digest(found.raw_manifest_json, found.manifest_digest):
        raise CorruptArtifactError(f"its manifest does not match the digest {found.manifest_digest[:100]}")
    if [(layer.digest, layer.media_type, layer.size_bytes) for layer in found.layers] != [
        (layer.blob_digest, layer.media_type, layer.compressed_bytes) for layer in layers
    ]:
        return "its layers have other blobs"
    return msb_metadata_difference(found, config_digest, layers)


def msb_metadata_difference(found: metadata.Metadata, config_digest: str, layers: Layers) -> str | None:
    """Return in what a metadata file that msb may have written is not that of its manifest.

    What msb's database says of a layer is the first blob of it ever seen, and other images can have others.

    Raises:
        CorruptArtifactError: a document cannot be read, or is not the one of its digest.
    """
    if not metadata.has_digest(found.raw_config_json, found.config_digest):
        raise CorruptArtifactError(f"its config does not match the digest {found.config_digest[:100]}")
    if found.config_digest != (config_digest or found.config_digest):
        return "its config is another"
    if [layer.diff_id for layer in found.layers] != [layer.diff_id for layer in layers]:
        return "its layers are others"
    return _difference_within(found)


def _difference_within(found: metadata.Metadata) -> str | None:
    """Return in what a metadata file contradicts its own documents."""
    try:
        manifest = decode_manifest(found.raw_manifest_json.encode())
        config = decode_config(found.raw_config_json.encode())
    except InvalidImageError as error:
        if metadata.has_digest(found.raw_manifest_json, found.manifest_digest):
            return None  # what it is, whatever we think of it
        raise CorruptArtifactError(str(error)) from None
    if manifest.config.digest != found.config_digest:
        return "its manifest has another config"
    if [layer.digest for layer in manifest.layers] != [layer.digest for layer in found.layers]:
        return "its manifest has other layers"
    run = config.run
    for key in metadata.CONFIG_KEYS:
        there, here = getattr(run, key), found.config.get(key)
        if key in ("exposed_ports", "volumes"):  # msb keeps no order of them
            there, here = sorted(there or ()), sorted(map(str, here or ()))
        if (there or None) != (here or None):  # what msb writes as empty we write as null
            return f"its {key} is not that of its config"
    return None
