"""Which images of an archive are loaded, under which names, and what is noted."""

from dataclasses import replace

import pytest

from msb_cache.errors import PlatformNotFoundError
from msb_cache.oci.documents.platform import Platform
from tests.imagebuilder import (
    BuiltImage,
    docker_archive,
    oci_archive,
    sample,
)
from tests.oci.opening import AMD, ARM, ATTESTATION, WINDOWS, Opener, check, names, nested, without_platform


def test_images_that_are_the_same_are_one(opened: Opener) -> None:
    first, second = sample("one:1"), sample("two:1")
    (found,) = opened(docker_archive(first, second)).images
    assert names(found) == ["one:1", "two:1"]


def test_the_last_image_gets_a_name_two_claim(opened: Opener) -> None:
    first, second = sample("same:1"), sample("same:1", seed="b")
    archive = opened(docker_archive(first, second))
    check(archive, second)
    assert archive.notes == ("the archive gives the name same:1 to two images; the last one gets it",)


@pytest.mark.parametrize(
    ("platform", "expected"),
    [(None, AMD), ("linux/arm64", ARM), ("windows/amd64", WINDOWS), ("linux/s390x", None)],
)
@pytest.mark.parametrize(
    "data",
    [
        oci_archive(ARM, AMD, WINDOWS),
        oci_archive(ARM, AMD, WINDOWS, manifests=[ARM.descriptor, AMD.descriptor, WINDOWS.descriptor]),
        nested(ATTESTATION, ARM.descriptor, AMD.descriptor, WINDOWS.descriptor),
        nested(ARM.descriptor, WINDOWS.descriptor, AMD.descriptor, depth=4),
        nested(*(without_platform(each) for each in (ARM, WINDOWS, AMD))),
        nested(ARM.descriptor, ARM.descriptor, WINDOWS.descriptor, without_platform(AMD), AMD.descriptor),
    ],
)
def test_the_platform_is_chosen(
    opened: Opener, data: bytes, platform: str | None, expected: BuiltImage | None
) -> None:
    if expected is None:
        with pytest.raises(PlatformNotFoundError, match="has no manifest for linux/s390x; it has") as caught:
            opened(data, platform)
        assert all(each in str(caught.value) for each in ("linux/arm64", "linux/amd64", "windows/amd64"))
        return
    (found,) = opened(data, platform).images
    assert found.manifest_digest == expected.digest
    assert found.platform == Platform.of(expected.os, expected.architecture)


def test_a_single_foreign_platform_loads_with_a_note(opened: Opener) -> None:
    for data in (oci_archive(ARM), nested(ARM.descriptor), nested(ATTESTATION, ARM.descriptor)):
        archive = opened(data)
        assert archive.images[0].manifest_digest == ARM.digest
        assert archive.notes == ("image 'x:1' is for linux/arm64, not for linux/amd64",)
        with pytest.raises(PlatformNotFoundError):
            opened(data, "linux/amd64")


def test_images_without_the_platform_are_left_out_with_a_note(opened: Opener) -> None:
    other = replace(AMD, names=("other:1",))
    archive = opened(oci_archive(ARM, WINDOWS, other))
    assert [names(found) for found in archive.images] == [["other:1"]]
    (note,) = archive.notes
    assert note.endswith("so it is left out")
    assert "linux/arm64, windows/amd64" in note
