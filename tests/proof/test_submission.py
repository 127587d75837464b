"""Requests to witnesses are read in the one form that there is."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidProofError
from msb_cache.proof.note import Note
from msb_cache.proof.submission import MAX_REQUEST, Submission, parse, path_in
from tests.proof.signing import checkpoint, cosign, new_log_key, new_witness_key
from tests.proof.test_note import SIGNATURES, TEXTS

NOTE = checkpoint(9, bytes(32), new_log_key())
HASH = base64.b64encode(bytes(32)).decode()
HASHES = st.binary(min_size=32, max_size=32)
NOTES = st.builds(Note, TEXTS, st.lists(SIGNATURES, min_size=1, max_size=5).map(tuple))


def test_what_is_sent() -> None:
    path = (bytes(32), b"\xff" * 32)
    request = str(Submission(7, path, NOTE))
    assert request == f"old 7\n{HASH}\n{base64.b64encode(path[1]).decode()}\n\n{NOTE}"
    assert str(Submission(0, (), NOTE)) == f"old 0\n\n{NOTE}"


@given(st.integers(0, 10**18 - 1), st.lists(HASHES, max_size=63).map(tuple), NOTES)
def test_a_request_is_read_as_it_was_written(old: int, path: tuple[bytes, ...], note: Note) -> None:
    request = Submission(old, path, note)
    assert parse(str(request).encode()) == request


def test_a_request_carries_what_witnesses_said_before() -> None:
    note = cosign(NOTE, new_witness_key("w.example"))
    assert parse(str(Submission(3, (bytes(32),), note)).encode()).note == note


@given(st.binary(max_size=200))
def test_of_any_bytes_a_request_or_one_sentence(data: bytes) -> None:
    for each in (data, b"old 1\n" + data, b"old 1\n\n" + data, b"old 1\n\n" + data + b"\n"):
        try:
            found = parse(each)
        except InvalidProofError:
            continue
        assert str(found).encode() == each


NO_SIZE = "does not begin with the size of the checkpoint before"
NO_HASH = "no hash of 32 bytes in base64"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xff\n", "no UTF-8"),
        (f"old 1\r\n\r\n{NOTE}".encode(), "line ends of Windows"),
        (b"x" * MAX_REQUEST + b"\n", "more than 69,632 bytes"),
        (f"{NOTE}".encode(), NO_SIZE),
        (f"\nold 1\n\n{NOTE}".encode(), NO_SIZE),
        (f"old\n\n{NOTE}".encode(), NO_SIZE),
        (f"old \n\n{NOTE}".encode(), NO_SIZE),
        (f"old 01\n\n{NOTE}".encode(), NO_SIZE),
        (f"old -1\n\n{NOTE}".encode(), NO_SIZE),
        (f"old  1\n\n{NOTE}".encode(), NO_SIZE),
        (f"old 1 \n\n{NOTE}".encode(), NO_SIZE),
        (f"old ١\n\n{NOTE}".encode(), NO_SIZE),
        (f"old {10**18}\n\n{NOTE}".encode(), NO_SIZE),
        (f"OLD 1\n\n{NOTE}".encode(), NO_SIZE),
        (b"old 1\n", NO_SIZE),
        (f"old 1\n{HASH}\n".encode(), NO_SIZE),
        (f"old 1\n{HASH[:-2]}B=\n\n{NOTE}".encode(), NO_HASH),
        (f"old 1\n{HASH} \n\n{NOTE}".encode(), NO_HASH),
        (f"old 1\nAAAA\n\n{NOTE}".encode(), NO_HASH),
        (f"old 1\n{bytes(32).hex()}\n\n{NOTE}".encode(), NO_HASH),
        (f"old 1\n{NOTE}".encode(), NO_HASH),
        (str(Submission(1, (bytes(32),) * 64, NOTE)).encode(), "more than 63 hashes"),
        (b"old 1\n\ntext\n\nmore\n", "no signature"),
    ],
)
def test_what_is_no_request_gets_one_sentence(data: bytes, said: str) -> None:
    with pytest.raises(InvalidProofError, match=f"the request .*{said}"):
        parse(data)


def test_hashes_one_a_line() -> None:
    assert path_in([], "the proof") == ()
    assert path_in([HASH] * 63, "the proof") == (bytes(32),) * 63
    for lines, said in (([HASH, ""], NO_HASH), ([HASH] * 64, "more than 63 hashes")):
        with pytest.raises(InvalidProofError, match=f"the proof has .*{said}"):
            path_in(lines, "the proof")
