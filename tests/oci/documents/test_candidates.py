"""Walking indexes to the manifests in them, however deep and wide they are."""

import pytest

from msb_cache.errors import InvalidImageError
from tests.imagebuilder import (
    index,
    index_descriptor,
    named,
    oci_archive,
    sha256,
)
from tests.oci.opening import AMD, ARM, Opener, check, nested


def test_platforms_whose_blobs_are_missing_do_not_count(opened: Opener) -> None:
    document = index([ARM.descriptor, AMD.descriptor])
    data = oci_archive(
        ARM, manifests=[named(index_descriptor(document), ref_name="x:1")], blobs={sha256(document): document}
    )
    archive = opened(data)
    assert archive.images[0].manifest_digest == ARM.digest
    assert archive.notes == ("image 'x:1:' is for linux/arm64, not for linux/amd64".replace("1:'", "1'"),)


def test_media_types_may_be_missing(opened: Opener) -> None:
    document = index([{k: v for k, v in AMD.descriptor.items() if k != "mediaType"}])
    outer = {"digest": sha256(document), "size": len(document)}
    data = oci_archive(AMD, manifests=[named(outer, ref_name="x:1")], blobs={sha256(document): document})
    check(opened(data), AMD)


def test_nesting_is_bounded(opened: Opener) -> None:
    check(opened(nested(AMD.descriptor, depth=8)), AMD)
    with pytest.raises(InvalidImageError, match="nested too deeply"):
        opened(nested(AMD.descriptor, depth=9))


def test_a_web_of_indexes_is_walked_once(opened: Opener) -> None:
    blobs = {}
    document = index([AMD.descriptor])
    for level in range(7):
        blobs[sha256(document)] = document
        # Fifty ways down at each level would be 50^7 walks.
        document = index(
            [named(index_descriptor(document), n=str(n)) for n in range(50)]
            + [{**AMD.descriptor, "platform": {"os": "plan9", "architecture": str(level)}}]
        )
    blobs[sha256(document)] = document
    data = oci_archive(AMD, manifests=[named(index_descriptor(document), ref_name="x:1")], blobs=blobs)
    check(opened(data), AMD)


def test_an_index_cannot_contain_itself(opened: Opener) -> None:
    own = {"mediaType": index_descriptor(b"")["mediaType"], "digest": "sha256:" + "a" * 64, "size": 300}
    document = index([own]).ljust(300)
    data = oci_archive(AMD, manifests=[named(own, ref_name="x:1")], blobs={own["digest"]: document})
    with pytest.raises(InvalidImageError, match="is damaged: its bytes have the digest"):
        opened(data)
