"""Notes are read in the one form that there is, and nothing of a note can be changed under its signatures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidProofError
from msb_cache.proof.note import MAX_NOTE, Note, Signature, is_valid, names, parse, signatures_in
from msb_cache.proof.vkey import VerifierKey
from tests.proof.signing import MONDAY, cosign, new_log_key, new_witness_key, sign
from tests.proof.test_vkey import EXAMPLE

SPECIFIED = """\
This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
LOG, OTHER = new_log_key("log.example"), new_log_key("other.example")
WITNESS = new_witness_key("w.example")
TEXT = "log.example\n3\nroot\n"
NOTE = cosign(sign(TEXT, LOG, OTHER), WITNESS)
KEYS = [LOG.key, OTHER.key, WITNESS.key]

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters=[chr(code) for code in range(32)])
TEXTS = st.lists(st.text(CHARACTERS), min_size=1, max_size=5).map(lambda lines: "\n".join(lines) + "\n")
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=20)
SIGNATURES = st.builds(
    Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)
)


def test_the_note_of_the_specification() -> None:
    note = parse(SPECIFIED.encode())
    key = VerifierKey.parse(EXAMPLE)
    assert note.text == "This is an example message.\n"
    assert note.signed_by([key, LOG.key]) == [key]
    assert str(note) == SPECIFIED
    with pytest.raises(InvalidProofError, match="not of that key over this text"):
        parse(SPECIFIED.replace("example message", "example Message").encode()).signed_by([key])


@given(TEXTS, st.lists(SIGNATURES, min_size=1, max_size=20))
def test_a_note_is_read_as_it_was_written(text: str, signatures: list[Signature]) -> None:
    note = Note(text, tuple(signatures))
    assert parse(str(note).encode()) == note
    assert [*names(note.signatures)] == [*dict.fromkeys(each.name for each in signatures)]


@given(st.binary(max_size=300))
def test_of_any_bytes_a_note_or_one_sentence(data: bytes) -> None:
    for each in (data, b"text\n\n" + data, b"text\n\n\xe2\x80\x94 name " + data + b"\n"):
        try:
            note = parse(each)
        except InvalidProofError:
            continue
        assert str(note).encode() == each


def test_no_byte_can_be_changed() -> None:
    data = str(NOTE).encode()
    assert parse(data).signed_by(KEYS) == KEYS
    for place, before in enumerate(data):
        for other in {before ^ 1, before ^ 0x80, *b"\n A="} - {before}:
            changed = data[:place] + bytes((other,)) + data[place + 1 :]
            try:
                found = parse(changed).signed_by(KEYS)
            except InvalidProofError:
                continue
            # A name or id that is nobody's: the signature counts for nothing, the others stand.
            assert len(found) < len(KEYS)
            assert not found or parse(changed).text == TEXT


def test_no_byte_can_be_put_in_or_taken_out() -> None:
    data = str(sign(TEXT, LOG)).encode()
    for place in range(len(data)):
        for changed in (data[:place] + data[place + 1 :], data[:place] + b"\n" + data[place:], data[:place]):
            try:
                assert changed == data or parse(changed).signed_by([LOG.key]) == []
            except InvalidProofError:
                pass


def test_the_last_empty_line_parts_text_and_signatures() -> None:
    for text in ("a\n\nb\n", "\n", "\n\n\n", "a\n\n\n", f"a\n\n{NOTE.signatures[0].line}"):
        note = sign(text, LOG)
        assert parse(str(note).encode()) == note
        assert parse(str(note).encode()).signed_by([LOG.key]) == [LOG.key]


def test_signatures_of_keys_that_nobody_knows_count_for_nothing() -> None:
    garbage = Signature(LOG.key.name, b"\0\0\0\0", b"x")
    same_id = Signature("somebody.else", LOG.key.key_id, bytes(64))
    large = Signature("quantum.example", b"abcd", bytes(2428))
    note = parse(str(NOTE.with_signatures([garbage, same_id, large])).encode())
    assert note.signed_by(KEYS) == KEYS
    assert note.signed_by([OTHER.key]) == [OTHER.key]
    assert note.signed_by([new_log_key("log.example", "another").key]) == []
    assert note.signed_by([]) == []
    assert Note(TEXT).signed_by(KEYS) == []


@pytest.mark.parametrize(
    "signature",
    [
        Signature(LOG.key.name, LOG.key.key_id, bytes(64)),
        Signature(LOG.key.name, LOG.key.key_id, NOTE.signatures[1].signature),
        Signature(LOG.key.name, LOG.key.key_id, NOTE.signatures[0].signature[:63]),
        Signature(LOG.key.name, LOG.key.key_id, NOTE.signatures[0].signature + b"x"),
        Signature(LOG.key.name, LOG.key.key_id, b"x"),
        Signature(WITNESS.key.name, WITNESS.key.key_id, NOTE.signatures[2].signature[8:]),
        Signature(WITNESS.key.name, WITNESS.key.key_id, b"1234567"),
        Signature(WITNESS.key.name, WITNESS.key.key_id, bytes(8) + NOTE.signatures[2].signature[8:]),
    ],
)
def test_a_bad_signature_of_a_known_key_refuses_the_whole_note(signature: Signature) -> None:
    note = parse(str(NOTE.with_signatures([signature])).encode())
    with pytest.raises(InvalidProofError, match=f"the signature of {signature.name} is not of that key"):
        note.signed_by(KEYS)
    # Beside a good one of the same key, too, wherever it stands.
    for both in ((signature, *NOTE.signatures), (*NOTE.signatures, signature)):
        with pytest.raises(InvalidProofError):
            Note(TEXT, both).signed_by(KEYS)
    assert note.signed_by([OTHER.key]) == [OTHER.key]


def test_a_kind_of_signature_is_not_taken_for_another() -> None:
    """The same secret as a log's and as a witness's key, under one name."""
    log, witness = LOG.key, VerifierKey(LOG.key.name, 4, LOG.key.public)
    as_witness = cosign(Note(TEXT), type(LOG)(LOG.secret, witness)).signatures[0]
    as_log = sign(TEXT, LOG).signatures[0]
    assert is_valid(TEXT, as_log, log)
    assert is_valid(TEXT, as_witness, witness)
    assert not is_valid(TEXT, as_log, witness)
    assert not is_valid(TEXT, as_witness, log)
    # A text that is what a witness would sign is signed by a log as a text.
    cosigned = f"cosignature/v1\ntime {MONDAY}\n{TEXT}"
    forged = MONDAY.to_bytes(8, "big") + sign(cosigned, LOG).signatures[0].signature
    assert is_valid(TEXT, Signature(witness.name, witness.key_id, forged), witness)
    assert not Signature(witness.name, witness.key_id, forged).is_of(log)


@pytest.mark.parametrize(("time", "valid"), [(0, False), (1, True), (2**63 - 1, True), (2**63, False)])
def test_when_a_witness_saw_it(time: int, valid: bool) -> None:
    (signature,) = cosign(Note(TEXT), WITNESS, time).signatures
    assert signature.witnessed_at == time
    assert is_valid(TEXT, signature, WITNESS.key) == valid
    assert sign(TEXT, LOG).signatures[0].witnessed_at is None


def test_more_signatures() -> None:
    again = cosign(Note(TEXT), WITNESS, MONDAY + 5).signatures
    note = NOTE.with_signatures(again)
    assert note.signatures == (*NOTE.signatures[:2], *again)
    assert note.signed_by(KEYS) == KEYS
    assert NOTE.with_signatures([]) == NOTE
    assert NOTE.with_signatures(NOTE.signatures) == NOTE


DASH = "— "
GOOD = NOTE.signatures[0].line


def below(lines: str) -> bytes:
    return f"text\n\n{lines}".encode()


def named(name: str) -> str:
    return GOOD.replace(LOG.key.name, name)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the note is empty"),
        (b"text", "cut off: it does not end with a line feed"),
        (str(NOTE).encode()[:-1], "cut off"),
        (b"\xff\n", "no UTF-8 text"),
        (b"\xed\xa0\x80\n", "no UTF-8 text"),
        (b"\xef\xbb\xbf", "cut off"),
        (str(NOTE).replace("\n", "\r\n").encode(), "line ends of Windows"),
        (str(NOTE).replace("\n", "\r").encode(), "control characters"),
        (b"te\x00xt\n", "control characters"),
        (b"te\txt\n", "control characters"),
        (b"te\x1b[2Jxt\n", "control characters"),
        (b"x" * MAX_NOTE + b"\n", "more than 65,536 bytes"),
        (b"text\n\n", "an empty line and no signature below it"),
        (b"text\n\nmore\n", "a line below it that is no signature"),
        (below(f"{GOOD}more\n"), "no signature"),
        (below(GOOD.replace("— ", "- ")), "no signature"),
        (below(GOOD.replace("— ", "—")), "no signature"),
        (below(f" {GOOD}"), "no signature"),
        (below(f"{GOOD[:-1]} \n"), "no signature"),
        (below(named("log example")), "no signature"),
        (below(named("log+example")), "no signature"),
        (below(named("log\u00a0example")), "no signature"),
        (below(named("log\x7fexample")), "no signature"),
        (below(named("")), "no signature"),
        (below(named("n" * 256)), "no signature"),
        (below(f"{DASH}name\n"), "no signature"),
        (below(f"{DASH}name \n"), "no signature"),
        (below(f"{DASH}name AAAAAA==\n"), "no signature"),
        (below(f"{DASH}name AAAAAAAA=\n"), "no signature"),
        (below(f"{DASH}name AAAAAAAA!\n"), "no signature"),
        (below(GOOD * 101), "more than 100 signatures"),
    ],
)
def test_what_is_no_note_gets_one_sentence(data: bytes, said: str) -> None:
    with pytest.raises(InvalidProofError, match=said) as caught:
        parse(data)
    assert str(caught.value).isprintable()


def test_the_largest_that_is_read() -> None:
    note = parse(below(GOOD * 100))
    assert len(note.signatures) == 100
    assert len(parse(b"x" * (MAX_NOTE - 1) + b"\n").text) == MAX_NOTE
    # 16 of the largest signatures that there are.
    large = tuple(Signature(f"w{number}.example", b"abcd", bytes(2428)) for number in range(16))
    assert parse(str(Note(TEXT, large)).encode()).signatures == large


def test_signatures_alone_are_what_a_witness_answers() -> None:
    assert signatures_in("".join(each.line for each in NOTE.signatures), "the answer") == NOTE.signatures
    for text, said in (("", "no signature below it"), ("\n", "no signature"), ("oops\n", "no signature")):
        with pytest.raises(InvalidProofError, match=f"the answer has an? .*{said}"):
            signatures_in(text, "the answer")
