"""What a note says of a log is read in the one form that there is."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidProofError
from msb_cache.proof.note import Note, parse
from msb_cache.proof.tree_head import TreeHead, head_of

SPECIFIED = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT = base64.b64encode(bytes(32)).decode()

LINES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(code) for code in range(32)]), min_size=1
)
HEADS = st.builds(
    TreeHead,
    LINES,
    st.integers(0, 10**18 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3).map(tuple),
)


def test_the_checkpoint_of_the_specification() -> None:
    head = head_of(Note(SPECIFIED))
    assert (head.origin, head.size, head.extensions) == ("example.com/behind-the-sofa", 20852163, ())
    assert head.root.hex().startswith("0ac5186a91863e8e1d90c808014aa89b")
    assert head.text == SPECIFIED


@given(HEADS)
def test_a_head_is_read_as_it_was_written(head: TreeHead) -> None:
    assert head_of(parse(head.text.encode())) == head


@given(st.text(max_size=100))
def test_of_any_text_a_head_or_one_sentence(text: str) -> None:
    for each in (text, f"log.example\n{text}", f"log.example\n3\n{text}", f"log.example\n3\n{ROOT}\n{text}"):
        try:
            head = head_of(Note(each))
        except InvalidProofError:
            continue
        assert head.text == each[: each.rindex("\n") + 1]


NO_LINES, NO_SIZE, NO_ROOT = "not three lines", "its second line is no number", "its third line is no root"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", NO_LINES),
        ("\n\n\n", NO_LINES),
        ("log.example\n3\n", NO_LINES),
        (f"\n3\n{ROOT}\n", NO_LINES),
        (f"log.example\n\n{ROOT}\n", NO_LINES),
        (f"log.example\n3\n\n{ROOT}\n", NO_LINES),
        (f"log.example\n3\n{ROOT}\n\n", NO_LINES),
        (f"log.example\n3\n{ROOT}\nmore\n\nmore\n", NO_LINES),
        (f"log.example\n03\n{ROOT}\n", NO_SIZE),
        (f"log.example\n+3\n{ROOT}\n", NO_SIZE),
        (f"log.example\n-3\n{ROOT}\n", NO_SIZE),
        (f"log.example\n 3\n{ROOT}\n", NO_SIZE),
        (f"log.example\n3_0\n{ROOT}\n", NO_SIZE),
        (f"log.example\n3.0\n{ROOT}\n", NO_SIZE),
        (f"log.example\n0x3\n{ROOT}\n", NO_SIZE),
        (f"log.example\n٣\n{ROOT}\n", NO_SIZE),
        (f"log.example\n{10**18}\n{ROOT}\n", NO_SIZE),
        (f"log.example\n{'9' * 100_000}\n{ROOT}\n", NO_SIZE),
        (f"log.example\n{ROOT}\n3\n", NO_SIZE),
        ("log.example\n3\n0000\n", NO_ROOT),
        (f"log.example\n3\n{ROOT[:-1]}\n", NO_ROOT),
        (f"log.example\n3\n{ROOT[:-2]}B=\n", NO_ROOT),
        (f"log.example\n3\n {ROOT}\n", NO_ROOT),
        (f"log.example\n3\n{base64.b64encode(bytes(33)).decode()}\n", NO_ROOT),
        (f"log.example\n3\n{bytes(32).hex()}\n", NO_ROOT),
    ],
)
def test_what_is_no_checkpoint_gets_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidProofError, match=f"the old one is no checkpoint: .*{said}"):
        head_of(Note(text), "the old one")
