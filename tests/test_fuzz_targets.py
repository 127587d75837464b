"""The targets of ``fuzz/`` and its corpus, driven by hypothesis for a moment.

The search itself is atheris' business, by hand. This sees to it that every target still runs, that its corpus
reaches behind the first check, and that a small search of changed corpus entries finds nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import corpus
from fuzz.targets import TARGETS
from msb_cache.errors import MicrosandboxError
from tests.imagebuilder import directory, docker_archive, file, hardlink, image, layer, symlink

EXAMPLES = int(os.environ.get("MSB_CACHE_TEST_FUZZ", "100"))
SAMPLE = image(
    [
        layer([directory("etc"), file("etc/name", b"base" * 100), symlink("link", "etc/name")], "gzip"),
        layer([file("etc/.wh.name"), file("a", b"a"), hardlink("b", "a"), file("c", xattrs={"user.x": "1"})]),
    ],
    "fuzz:1",
    config={"Env": ["A=b"], "Labels": {"l": "1"}},
)


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """The corpus of an image: the inputs of each target."""
    folder = tmp_path_factory.mktemp("corpus")
    archive = folder / "sample.tar"
    archive.write_bytes(docker_archive(SAMPLE))
    corpus.main(folder / "corpus", [archive])
    return {
        target.name: [path.read_bytes() for path in sorted(target.iterdir())]
        for target in (folder / "corpus").iterdir()
    }


def test_every_target_has_a_corpus(seeds: dict[str, list[bytes]]) -> None:
    assert seeds.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_read_to_its_end(name: str, seeds: dict[str, list[bytes]]) -> None:
    """What is refused at once would be changed into more that is refused at once."""
    refused = []
    for data in seeds[name]:
        try:
            TARGETS[name](data)
        except MicrosandboxError:
            refused.append(data)
    assert sorted(refused) == REFUSED.get(name, [])


REFUSED = {"reference": [b"a/b:c@sha256:"], "times": [b"2026-02-30", b"20260101T235960Z", b"yesterday 24:00"]}
"""Of the texts, those that are almost right."""

# A change: where, counted from the end if negative; how many bytes go; and what comes in their place.
CHANGES = st.lists(
    st.tuples(
        st.integers(-(1 << 16), 1 << 16),
        st.integers(0, 16) | st.integers(0, 4096),
        st.binary(max_size=16)
        | st.sampled_from([bytes(512), b"\xff" * 8, b"\x7f\xff\xff\xff", b"99999999999"]),
    ),
    max_size=6,
)


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for where, length, new in changes:
        at = where % (len(data) + 1)
        data = data[:at] + new + data[at + length :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_end_in_an_answer_or_one_of_our_errors(
    name: str, seeds: dict[str, list[bytes]]
) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(seed=st.integers(0, len(seeds[name]) - 1), changes=CHANGES, overwrite=st.booleans())
    def search(seed: int, changes: list[tuple[int, int, bytes]], overwrite: bool) -> None:
        if overwrite:  # what lies behind stays where it is
            changes = [(where, len(new), new) for where, _, new in changes]
        with suppress(MicrosandboxError):
            target(changed(seeds[name][seed], changes))

    search()


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_at_all(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(data=st.binary(max_size=2000))
    def search(data: bytes) -> None:
        with suppress(MicrosandboxError):
            target(data)

    search()
