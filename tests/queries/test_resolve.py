"""What a word for an image means, in the index and in the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache.errors import ImageNotFoundError, InvalidConfigError, InvalidReferenceError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.oci.reference import Reference
from msb_cache.queries import resolve
from msb_cache.queries.resolve import familiar, matcher
from tests.logs import layer, manifest_added, new_ledger, pulled

LIBRARY = "docker.io/library/"
A, B, C = (f"sha256:{start}{'0' * 56}" for start in ("aaaa1111", "aaaa2222", "cccc3333"))
MANY = [f"sha256:beef{number}{'0' * 59}" for number in range(7)]
PYTHON, ALIAS, TOOL = f"{LIBRARY}python:3.12", f"{LIBRARY}alias:1", "example.org/team/tool:2"
GONE, FAILED = f"{LIBRARY}gone:1", f"{LIBRARY}failed:1"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """python:3.12 and alias:1 at A, tool:2 at B; C and MANY without; one gone, one that never came."""
    events = [NewEvent(manifest_added([layer(1)]), each) for each in (A, B, C, *MANY)]
    events += [NewEvent(pulled(A), PYTHON), NewEvent(pulled(A), ALIAS), NewEvent(pulled(B), TOOL)]
    events += [
        NewEvent(pulled(C), GONE),
        NewEvent(ev.ImageRemoved(manifest_digest=C, cause="external"), GONE),
        NewEvent(ev.ImagePullFailed(reason="no route"), FAILED),
    ]
    found = new_ledger(tmp_path, events)
    yield found
    found.close()


@contextmanager
def reading(ledger: Ledger) -> Iterator[sqlite3.Connection]:
    with ledger.read() as connection:
        assert connection is not None
        yield connection


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("python:3.12", PYTHON),
        ("docker.io/library/python:3.12", PYTHON),
        ("example.org/team/tool:2", TOOL),
        ("aaaa2", TOOL),
        (B, TOOL),
        (B.removeprefix("sha256:"), TOOL),
        ("aaaa1", ALIAS),  # the newest
        (f"python@{A}", PYTHON),
        (f"python:3.12@{A}", PYTHON),
        (f"example.org/team/tool@{B}", TOOL),
    ],
)
def test_an_image(ledger: Ledger, text: str, reference: str) -> None:
    with reading(ledger) as connection:
        assert resolve.image(connection, text).reference == reference
        assert resolve.manifest(connection, text) == (B if reference == TOOL else A)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("nothing:1", ImageNotFoundError, "image not found: nothing:1"),
        ("docker.io/library/nothing", ImageNotFoundError, "image not found: nothing:latest"),
        (f"python@{B}", ImageNotFoundError, "image not found: python@sha256:aaaa2222"),
        (f"python:3.11@{A}", ImageNotFoundError, r"image not found: python:3\.11@sha256:aaaa1111"),
        ("aaaa", InvalidReferenceError, "several digests begin with 'aaaa': sha256:aaaa1.*, sha256:aaaa2.*"),
        ("dddd", ImageNotFoundError, "no reference 'dddd' and no such digest is in the cache"),
        ("d" * 64, ImageNotFoundError, "no such digest is in the cache"),
        (C, ImageNotFoundError, f"image not found: no reference points at {C} any more"),
        ("Not One", InvalidReferenceError, "Not One"),
    ],
)
def test_no_image(ledger: Ledger, text: str, error: type[Exception], says: str) -> None:
    with reading(ledger) as connection, pytest.raises(error, match=says):
        resolve.image(connection, text)


@pytest.mark.parametrize("text", ["python:3.12", "aaaa", "d" * 64, A])
def test_without_a_log_there_is_nothing(text: str) -> None:
    with pytest.raises(ImageNotFoundError, match=f"image not found: .*{text[:4]}"):
        resolve.image(None, text)
    with pytest.raises(ImageNotFoundError):
        resolve.manifest(None, text)
    with pytest.raises(ImageNotFoundError, match="the log knows no image"):
        resolve.in_log(None, text)
    for find in (resolve.in_index, resolve.in_log):
        with pytest.raises(ImageNotFoundError, match="no image matches"):
            find(None, "py*")


def test_one_reference(ledger: Ledger) -> None:
    with reading(ledger) as connection:
        assert resolve.reference(connection, "aaaa2").reference == TOOL
        with pytest.raises(
            InvalidReferenceError, match=r"several references, alias:1, python:3\.12; name one"
        ):
            resolve.reference(connection, "aaaa1")


def test_a_manifest_without_a_reference(ledger: Ledger) -> None:
    with reading(ledger) as connection:
        assert resolve.manifest(connection, "cccc") == C
        with pytest.raises(ImageNotFoundError, match=r"'nothing:1' .* digest is in the cache"):
            resolve.manifest(connection, "nothing:1")


@pytest.mark.parametrize("find", [resolve.image, resolve.manifest, resolve.in_log, resolve.digest_in_log])
def test_of_many_digests_five_are_listed(ledger: Ledger, find: Callable[..., object]) -> None:
    with reading(ledger) as connection, pytest.raises(InvalidReferenceError) as caught:
        find(connection, "beef")
    assert str(caught.value).endswith(f": {', '.join(MANY[:5])} and more; give more")


def test_five_digests_are_listed_whole() -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        resolve.only(MANY[:5], "beef", "in the log")
    assert str(caught.value).endswith(f": {', '.join(MANY[:5])}; give more")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("python:3.12", ([PYTHON], None)),
        ("gone:1", ([GONE], None)),
        ("failed:1", ([FAILED], None)),
        ("aaaa1", ([ALIAS, PYTHON], A)),
        ("cccc", ([GONE], C)),
        (MANY[0], ([], MANY[0])),
        ("g*:1", ([GONE], None)),
        ("?ailed:*", ([FAILED], None)),
    ],
)
def test_in_the_log(ledger: Ledger, text: str, found: tuple[list[str], str | None]) -> None:
    with reading(ledger) as connection:
        assert resolve.in_log(connection, text) == found


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("nothing:1", ImageNotFoundError, "the log knows no image nothing:1"),
        ("d" * 64, ImageNotFoundError, "no such digest is in the log"),
        ("aaaa", InvalidReferenceError, "several digests"),
        ("none*", ImageNotFoundError, r"no image matches 'none\*'"),
        ("a b*", InvalidReferenceError, "no image reference with wildcards"),
    ],
)
def test_not_in_the_log(ledger: Ledger, text: str, error: type[Exception], says: str) -> None:
    with reading(ledger) as connection, pytest.raises(error, match=says):
        resolve.in_log(connection, text)


@pytest.mark.parametrize(("text", "says"), [("python:3.12", "is no digest"), ("dddd", "is in the log")])
def test_no_digest_in_the_log(ledger: Ledger, text: str, says: str) -> None:
    with reading(ledger) as connection:
        assert resolve.digest_in_log(connection, "aaaa1") == A
        with pytest.raises((ImageNotFoundError, InvalidReferenceError), match=says):
            resolve.digest_in_log(connection, text)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", [ALIAS, TOOL, PYTHON]),
        ("python*", [PYTHON]),
        ("docker.io/*", [ALIAS, PYTHON]),
        ("*:?", [ALIAS, TOOL]),
        ("alias:?", [ALIAS]),
        ("*s:1", [ALIAS]),
        ("*a*a*1", [ALIAS]),
        ("*/t*l:*", [TOOL]),
        ("p?thon:3.12**", [PYTHON]),
    ],
)
def test_wildcards(ledger: Ledger, pattern: str, found: list[str]) -> None:
    with reading(ledger) as connection:
        assert sorted(resolve.in_index(connection, pattern)) == sorted(found)


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


@pytest.mark.parametrize("holder", ["sandbox:a", "snapshot:/var/s nap", "sandbox:" + "x" * 500])
def test_holders(holder: str) -> None:
    resolve.check_holder(holder)


@pytest.mark.parametrize("holder", ["", "a", "sandbox:", "other:a", "sandbox:a\n", "sandbox:" + "x" * 501])
def test_no_holders(holder: str) -> None:
    with pytest.raises(InvalidConfigError, match="is no holder"):
        resolve.check_holder(holder)
