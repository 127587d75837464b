"""Whether a metadata file says what the index says of its manifest, and what its own documents say.

msb does not keep a registry's manifest byte by byte: it writes it anew, in its own order and without what it
does not know, so that it no longer proves itself. What msb wrote is compared with what was seen of it when it
came (``stored_digest`` of ``manifest.added``).
"""

from __future__ import annotations

from collections.abc import Sequence

from msb_cache.artifacts import metadata
from msb_cache.errors import CorruptArtifactError, InvalidImageError
from msb_cache.oci.documents.decode import decode_config, decode_manifest, layer_media_type
from msb_cache.projections.images import LayerDetailRow
from msb_cache.projections.rows import ManifestLayerRow

Layers = Sequence[LayerDetailRow] | Sequence[ManifestLayerRow]


def metadata_difference(found: metadata.Metadata, config_digest: str | None, layers: Layers) -> str | None:
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
    return msb_metadata_difference(found, config_digest, layers, None)


def msb_metadata_difference(
    found: metadata.Metadata, config_digest: str | None, layers: Layers, stored_digest: str | None
) -> str | None:
    """Return in what a metadata file that msb may have written is not that of its manifest.

    What msb's database says of a layer is the first blob of it ever seen, and other images can have others.

    Args:
        found: the file.
        config_digest: what the index says; None: nothing.
        layers: the manifest's layers in the index, bottom to top.
        stored_digest: the SHA-256 digest of the manifest as msb kept it when it came; None: not seen.

    Raises:
        CorruptArtifactError: a document cannot be read, or is not the one of its digest.
    """
    if found.config_digest != (config_digest or found.config_digest):
        return "its config is another"
    if [layer.diff_id for layer in found.layers] != [layer.diff_id for layer in layers]:
        return "its layers are others"
    difference = inner_difference(found)
    if difference is None and stored_digest is not None:
        digest = metadata.digest_of(found.raw_manifest_json)
        if digest not in (found.manifest_digest, stored_digest):
            return "its manifest is not as it was when it came"
    return difference


def inner_difference(found: metadata.Metadata) -> str | None:
    """Return in what a metadata file contradicts its own documents; None if in nothing.

    Raises:
        CorruptArtifactError: a document cannot be read, or its config is not the one of its digest.
    """
    if not metadata.has_digest(found.raw_config_json, found.config_digest):
        raise CorruptArtifactError(f"its config does not match the digest {found.config_digest[:100]}")
    try:
        manifest = decode_manifest(found.raw_manifest_json.encode())
        config = decode_config(found.raw_config_json.encode())
    except InvalidImageError as error:
        if metadata.has_digest(found.raw_manifest_json, found.manifest_digest):
            return None  # what it is, whatever we think of it
        raise CorruptArtifactError(str(error)) from None
    if manifest.config.digest != found.config_digest:
        return "its manifest has another config"
    if [(layer.digest, layer.size) for layer in manifest.layers] != [
        (layer.digest, layer.size_bytes) for layer in found.layers
    ] or any(
        there.media_type not in (here.media_type, layer_media_type(here.media_type, "a layer"))
        for here, there in zip(manifest.layers, found.layers, strict=True)
    ):
        return "its manifest has other layers"
    if list(config.diff_ids) != [layer.diff_id for layer in found.layers]:
        return "its config has other layers"
    run = config.run
    for key in metadata.CONFIG_KEYS:
        if key not in found.config:
            return f"it lacks the {key} of its config"
        there, here = getattr(run, key), found.config.get(key)
        if key in ("exposed_ports", "volumes"):  # msb keeps no order of them
            there, here = sorted(there or ()), sorted(map(str, here or ()))
        if (there or None) != (here or None):  # what msb writes as empty we write as null
            return f"its {key} is not that of its config"
    return None
