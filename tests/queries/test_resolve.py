import pytest

from msb_cache.errors import InvalidReferenceError
from msb_cache.oci.reference import Reference
from msb_cache.queries.resolve import familiar, matcher


@pytest.mark.parametrize(
    ("pattern", "canonical", "expected"),
    [
        ("python*", "docker.io/library/python:3.12", True),
        ("docker.io/*/python:*", "docker.io/library/python:3.12", True),
        ("python:3.1?", "docker.io/library/python:3.12", True),
        ("python:3.?", "docker.io/library/python:3.12", False),
        ("PYTHON*", "docker.io/library/python:3.12", False),
        ("*", "ghcr.io/acme/app:1", True),
        ("*app", "ghcr.io/acme/app:1", False),
        ("[::1]:5000/*", "[::1]:5000/app:1", True),
        ("[::1]:5000/*", ":5000/app:1", False),
        ("[a-z]:5000/*", "b:5000/app:1", False),
        ("*:5000/app:[1]*", "[::1]:5000/app:1", False),
    ],
)
def test_star_and_question_mark_are_the_only_wildcards(pattern: str, canonical: str, expected: bool) -> None:
    assert matcher(pattern)(canonical) is expected


def test_many_stars_take_no_exponential_time() -> None:
    assert not matcher("*a" * 100 + "b")("ghcr.io/" + "a" * 5000)
    assert matcher("*a" * 100 + "*")("ghcr.io/" + "a" * 5000)


@pytest.mark.parametrize("pattern", ["", "a b*", "a\n*", "*" * 301, "a{b}*"])
def test_what_no_reference_has_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidReferenceError, match="no image reference with wildcards"):
        matcher(pattern)


@pytest.mark.parametrize(
    "text",
    [
        "python:3.12",
        "a/b:1",
        "ghcr.io/a/b:1",
        "localhost:5000/x:1",
        "docker.io/library/a/b:1",
        "docker.io/foo.bar/x:1",
    ],
)
def test_familiar_names_parse_back(text: str) -> None:
    canonical = Reference.parse(text).canonical
    assert Reference.parse(familiar(canonical)).canonical == canonical
