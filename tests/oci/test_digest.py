import pytest

from msb_cache.errors import InvalidImageError
from msb_cache.oci.digest import check_digest, digest_of, digest_problem, shown

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_digest_of_nothing() -> None:
    assert digest_of(b"") == EMPTY
    assert check_digest(EMPTY, "a test") == EMPTY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        EMPTY[:-1],
        EMPTY + "0",
        EMPTY.upper(),
        EMPTY + "\n",
        "md5:" + "0" * 32,
        "sha256:../../../x",
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidImageError, match="is not a digest of the form"):
        check_digest(text, "the manifest")


def test_sha512_is_refused_by_name() -> None:
    assert digest_problem("sha512:" + "0" * 128) == "is a sha512 digest; only sha256 is supported"


def test_shown_text_is_one_short_line() -> None:
    assert shown("a\x1b[2J\nb") == "'a\\x1b[2J\\nb'"
    assert shown("\udcff") == "'\\udcff'"
    assert len(shown("x" * 10_000)) < 130
