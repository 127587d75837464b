"""Errors: one base, and codes that programs can rely on."""

from __future__ import annotations

from msb_cache import errors

ERRORS = {
    name: error
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, Exception)
}


def test_all_have_one_base_and_codes_of_their_own() -> None:
    assert all(issubclass(error, errors.MicrosandboxError) for error in ERRORS.values())
    assert len({error.code for error in ERRORS.values()}) == len(ERRORS)


def test_codes_of_the_sdk_stay() -> None:
    assert {name: ERRORS[name].code for name in list(ERRORS)[:5]} == {
        "MicrosandboxError": "microsandbox-error",
        "ImageNotFoundError": "image-not-found",
        "ImageInUseError": "image-in-use",
        "ImagePullFailedError": "image-pull-failed",
        "UnsupportedError": "unsupported",
    }
