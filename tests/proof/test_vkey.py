"""Verifier keys as strings: those of C2SP are read, and everything that is none gets one sentence."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidConfigError
from msb_cache.proof.vkey import VerifierKey, checked_name, decode64
from tests.proof.signing import new_log_key, new_witness_key

EXAMPLE = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
"""That of the specification, and what it signed."""
EXAMPLE_TEXT = b"This is an example message.\n"
EXAMPLE_SIGNED = base64.b64decode(
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
)


def written(name: str, kind: int, public: bytes, digits: str | None = None) -> str:
    data = bytes((kind,)) + public
    found = hashlib.sha256(name.encode("utf-8", "surrogatepass") + b"\n" + data).hexdigest()[:8]
    return f"{name}+{digits or found}+{base64.b64encode(data).decode()}"


def test_the_example_of_the_specification() -> None:
    key = VerifierKey.parse(EXAMPLE)
    assert (key.name, key.kind, key.key_id.hex()) == ("example.com/foo", 1, "530d903a")
    assert str(key) == EXAMPLE
    assert EXAMPLE_SIGNED[:4] == key.key_id
    assert key.has_signed(EXAMPLE_TEXT, EXAMPLE_SIGNED[4:])
    assert not key.has_signed(EXAMPLE_TEXT + b"\n", EXAMPLE_SIGNED[4:])
    assert not key.has_signed(EXAMPLE_TEXT, EXAMPLE_SIGNED[5:])
    assert not key.has_signed(EXAMPLE_TEXT, b"")


def test_what_a_result_says_of_a_key() -> None:
    key = VerifierKey.parse(EXAMPLE)
    assert key.to_dict() == {"name": "example.com/foo", "key": EXAMPLE, "witness": False}
    witness = new_witness_key("w.example").key
    assert witness.to_dict()["witness"] is True
    assert VerifierKey.parse(str(witness)) == witness


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=60))
def test_a_key_of_any_name_is_read_as_it_was_written(name: str) -> None:
    for key in (new_log_key(name).key, new_witness_key(name).key):
        assert VerifierKey.parse(str(key)) == key


def test_a_key_id_tells_name_kind_and_key_apart() -> None:
    public = bytes(range(32))
    keys = [
        VerifierKey("a", 1, public),
        VerifierKey("a", 4, public),
        VerifierKey("b", 1, public),
        VerifierKey("a", 1, bytes(32)),
    ]
    assert len({key.key_id for key in keys}) == len(keys)


PUBLIC = bytes(range(32))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no verifier key"),
        ("name", "is no verifier key"),
        ("name+530d903a", "is no verifier key"),
        ("name+530d903a+", "is no verifier key"),
        ("name++AQ==", "is no verifier key"),
        (EXAMPLE + "\n", "is no verifier key"),
        (EXAMPLE + "=", "is no verifier key"),
        (EXAMPLE + "+", "is no verifier key"),
        (EXAMPLE.replace("530d903a", "530D903A"), "is no verifier key"),
        (EXAMPLE.replace("530d903a", "30d903a"), "is no verifier key"),
        (EXAMPLE.replace("530d903a", "0x0d903a"), "is no verifier key"),
        (EXAMPLE.replace("530d903a", "٥٣٠٩٠٣٠٣"), "is no verifier key"),
        (EXAMPLE.replace("Aeky", "Ae ky"), "is no verifier key"),
        (EXAMPLE.replace("Aeky", "Ae-y"), "is no verifier key"),
        ("PRIVATE+KEY+" + EXAMPLE, "this is a secret key"),
        ("name+530d903a+\udcff", "is no verifier key"),
        (EXAMPLE.replace("530d903a", "530d903b"), "its hash is 530d903a, not 530d903b"),
        (EXAMPLE.replace("foo", "fop"), "is damaged: its hash is"),
        (written("name", 1, PUBLIC[:31]), "has 31 bytes, and an Ed25519 key 32"),
        (written("name", 4, PUBLIC + b"x"), "has 33 bytes"),
        (written("name", 1, b""), "has 0 bytes"),
        (written("name", 2, PUBLIC), "of kind 2, and this msb-cache knows 1 and 4"),
        (written("name", 6, bytes(300)), "of kind 6"),
        (written("", 1, PUBLIC), "is no name of a key"),
        (written("a b", 1, PUBLIC), "neither spaces nor plus signs"),
        (written("a\u3000b", 1, PUBLIC), "neither spaces nor plus signs"),
        (written("a\x1b[2J", 1, PUBLIC), "cannot be printed"),
        (written("a\u202eb", 1, PUBLIC), "cannot be printed"),
        (written("a\udcff", 1, PUBLIC), "cannot be printed"),
        (written("n" * 256, 1, PUBLIC), "at most 255 bytes"),
        (written("ä" * 128, 1, PUBLIC), "at most 255 bytes"),
        ("n" * 2000, "longer than any verifier key"),
        ("n" * 10_000_000, "longer than any verifier key"),
    ],
)
def test_what_is_no_key_gets_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said) as caught:
        VerifierKey.parse(text)
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()


@given(st.text(max_size=80))
def test_nothing_else_is_said_of_any_text(text: str) -> None:
    for each in (text, f"name+{text}", f"name+530d903a+{text}", EXAMPLE + text):
        try:
            found = VerifierKey.parse(each)
        except InvalidConfigError:
            continue
        assert str(found) == each


def test_a_key_that_is_no_point_has_signed_nothing() -> None:
    key = VerifierKey("name", 1, b"\xff" * 32)
    assert not key.has_signed(b"", bytes(64))


def test_names() -> None:
    for name in ("a", "example.com/log", "ä", "n" * 255, "—", "a=b"):
        assert checked_name(name) == name


@given(st.binary(max_size=70))
def test_base64_is_written_in_one_way(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode64(text) == data
    for other in (text + "\n", " " + text, text + "=", text.rstrip("=") + "A" * 5, text + "é"):
        assert decode64(other) != data
    if text.endswith("="):
        assert decode64(text.rstrip("=")) is None


@pytest.mark.parametrize("text", ["AB==", "AAB=", "A", "=", "====", "AA-_", "A\nAA", "QQ==QQ=="])
def test_what_is_no_base64(text: str) -> None:
    assert decode64(text) is None
