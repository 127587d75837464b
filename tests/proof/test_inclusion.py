"""Proofs of events: read strictly, believed only as a whole."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from msb_cache import check_proof
from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.eventstore import merkle
from msb_cache.eventstore.chain import link
from msb_cache.eventstore.export import line_of
from msb_cache.eventstore.row import GENESIS, Value
from msb_cache.proof.inclusion import (
    MAX_PROOF,
    TITLE,
    CheckedEvent,
    InclusionProof,
    check,
    make,
    parse,
    proved,
)
from msb_cache.proof.note import Note
from msb_cache.proof.policy import policy_of
from msb_cache.proof.tree_head import TreeHead
from tests.proof.signing import LOG, MONDAY, checkpoint, cosign, new_log_key, new_witness_key, sign

KEY, WITNESS = new_log_key(), new_witness_key("w1.example")
ACTOR = '{"user":"alice","uid":1000,"host":"host","program":"test"}'
REMOVED = '{"manifest_digest":"sha256:%s","cause":"prune"}' % ("ab" * 32)

Row = tuple[Value, ...]


def row(
    seq: int, type_: str = "image.removed", version: int = 2, data: str = REMOVED, actor: str = ACTOR
) -> Row:
    subject, operation = "docker.io/library/app:1", "01a2259f-2c31-7712-9099-6c86fdaeecb8"
    return (seq, f"id-{seq}", type_, version, subject, operation, 10**18, 10**18 + 5, actor, data)


def proof_of(seq: int = 3, size: int = 7, **of: str | int) -> InclusionProof:
    """The proof of an event in a log of which only that one matters."""
    leaves = [bytes([n]) * 32 for n in range(1, size + 1)]
    previous = GENESIS if seq == 1 else leaves[seq - 2]
    event = row(seq, **of)  # type: ignore[arg-type]
    leaves[seq - 1] = link(previous, event)

    def subtree(level: int, index: int) -> bytes:
        return merkle.combined(
            [merkle.leaf_hash(each) for each in leaves[index << level : (index + 1) << level]]
        )

    note = cosign(checkpoint(size, merkle.root(size, subtree), KEY), WITNESS)
    return make(event, leaves[seq - 1], previous, merkle.inclusion_path(seq - 1, size, subtree), note)


def checked(proof: InclusionProof) -> CheckedEvent:
    return check(str(proof).encode(), policy_of([KEY.key, WITNESS.key]))


GOOD = proof_of()
TEXT = str(GOOD).encode()


class TestWhatIsProved:
    @pytest.mark.parametrize(
        ("seq", "size"), [(1, 1), (1, 2), (2, 2), (3, 7), (7, 7), (5, 8), (8, 8), (9, 9)]
    )
    def test_an_event_at_any_place(self, seq: int, size: int) -> None:
        proof = proof_of(seq, size)
        found = checked(proof)
        assert (found.seq, found.size, found.origin) == (seq, size, LOG)
        assert found.event is not None
        assert found.event.type == "image.removed"
        assert found.event.hash.hex() == found.columns["hash"]
        assert found.log == KEY.key
        assert [(each.name, each.cosigned_at_ns) for each in found.cosigned] == [
            ("w1.example", MONDAY * 10**9)
        ]
        assert parse(str(proof).encode()) == proof

    def test_as_plain_data(self) -> None:
        found = json.loads(checked(GOOD).to_json())
        assert found["event"]["data"]["cause"] == "prune"
        assert found["columns"]["data"] == REMOVED
        assert found["columns"]["recorded_at"] == "2001-09-09T01:46:40.000000005+00:00"
        assert found["log"] == str(KEY.key)
        assert found["cosigned"][0]["key"] == str(WITNESS.key)

    def test_the_file(self) -> None:
        lines = TEXT.decode().split("\n")
        assert lines[0] == TITLE
        assert lines[2] == "index 2"
        assert lines[6:10] == ["", LOG, "7", base64.b64encode(proved(GOOD).head.root).decode()]
        extra = json.loads(base64.b64decode(lines[1].removeprefix("extra ")))
        assert [*extra] == ["previous", "event"]
        assert extra["event"] == json.loads(line_of(proved(GOOD).row, proved(GOOD).hash))

    @pytest.mark.parametrize(
        ("of", "why"),
        [
            ({"type_": "image.teleported"}, "a type of a newer release"),
            ({"version": 99}, "a version of a newer release"),
            ({"data": "no JSON"}, "data that fits no event"),
            ({"data": "[" * 100_000}, "data that is deep"),
            ({"actor": "[" * 60_000}, "an actor that is deep"),
            ({"actor": "{}"}, "an actor that is none"),
            (
                {"type_": "image.pinned", "version": 1, "data": f'{{"until_ns":{2**62 * 10**9}}}'},
                "a time that no calendar has",
            ),
        ],
    )
    def test_events_that_this_release_cannot_read_are_proved_all_the_same(
        self, of: dict[str, str | int], why: str
    ) -> None:
        found = checked(proof_of(**of))
        assert found.event is None, why
        assert found.columns["type"] == of.get("type_", "image.removed")
        assert json.loads(found.to_json())["columns"]["data"] == of.get("data", REMOVED)

    def test_the_largest_event_is_read_at_once(self) -> None:
        data = json.dumps({"text": "\x01" * (4 * 1024 * 1024 // 7)})[: 4 * 1024 * 1024]
        proof = str(proof_of(type_="image.teleported", data=data)).encode()
        assert 4 * 1024 * 1024 < len(proof) < MAX_PROOF
        began = time.perf_counter()
        assert check(proof, policy_of([KEY.key])).columns["data"] == data
        assert time.perf_counter() - began < 5


def with_extra(change: Callable[[bytes], bytes]) -> bytes:
    assert GOOD.extra is not None
    return str(InclusionProof(GOOD.index, GOOD.path, GOOD.note, change(GOOD.extra))).encode()


def with_event(**changes: object) -> bytes:
    """The proof with columns changed, written as `make` writes it."""

    def change(extra: bytes) -> bytes:
        found = json.loads(extra)
        found["event"] |= changes
        return json.dumps(found, separators=(",", ":")).encode()

    return with_extra(change)


HOSTILE: list[tuple[bytes, str]] = [
    (b"", "the proof is empty"),
    (b"\n", "the proof is none"),
    (b"c2sp.org/tlog-proof@v2\n", "the proof is none"),
    (TEXT[:-1], "the proof is cut off"),
    (TEXT[: TEXT.index(b"\n\n") + 2], "the checkpoint in the proof is no checkpoint"),
    (TEXT[: TEXT.index(b"\n\n") + 1], "the proof does not say which event it is of"),
    (TEXT.replace(b"\n", b"\r\n"), "the proof has line ends of Windows"),
    (TEXT.replace(b"index 2", b"index\t2"), "the proof has control characters"),
    (TEXT.replace(LOG.encode(), b"\xff"), "the proof is no UTF-8 text"),
    (b"\xef\xbb\xbf" + TEXT, "the proof is none"),
    (TEXT + b"x" * MAX_PROOF, f"the proof has more than {MAX_PROOF:,} bytes"),
    (TEXT + b"\xe2\x80\x94 a AAAAAAAA\n" * 5000, "the checkpoint in the proof has more than"),
    (TEXT.replace(b"index 2", b"index 02"), "the proof does not say which event it is of"),
    (TEXT.replace(b"index 2", b"index -2"), "the proof does not say which event it is of"),
    (TEXT.replace(b"index 2", b"index " + b"9" * 19), "the proof does not say which event it is of"),
    (TEXT.replace(b"index 2", b"index 3"), "the proof is of another event: its index is 3"),
    (TEXT.replace(b"index 2\n", b"index 2\n" + b"A" * 43 + b"=\n"), "event 3 is not proved to be in the log"),
    (
        TEXT.replace(b"index 2\n", b"index 2\n" + (b"A" * 43 + b"=\n") * 64),
        "the proof has more than 63 hashes",
    ),
    (TEXT.replace(b"index 2\n", b"index 2\n" + b"A\n" * 500_000), "the proof has more than 63 hashes"),
    (TEXT.replace(b"index 2\n", b"index 2\nAAAA\n"), "the proof has a line that is no hash"),
    (TEXT.replace(b"index 2\n", b"index 2\n" + b"A" * 42 + b"B=\n"), "the proof has a line that is no hash"),
    (TEXT.replace(b"extra ", b"extra  "), "the proof has a second line that is no base64"),
    (TEXT.replace(b"extra ", b"extra -"), "the proof has a second line that is no base64"),
    (TEXT.replace(b"extra ", b"Extra "), "the proof does not say which event it is of"),
    (str(InclusionProof(2, GOOD.path, GOOD.note)).encode(), "the proof has no event in it: it lacks"),
    (str(InclusionProof(2, GOOD.path[1:], GOOD.note, GOOD.extra)).encode(), "event 3 is not proved"),
    (with_extra(lambda extra: b""), "the proof has no event in it"),
    (with_extra(lambda extra: b"[" * 1_000_000), "the proof has no event in it"),
    (with_extra(lambda extra: b'{"a":' * 100_000), "the proof has no event in it"),
    (with_extra(lambda extra: b'{"%s":1}' % (b"a" * 100_000)), "the proof has no event in it"),
    (with_extra(lambda extra: extra + b"\n"), "the event in the proof was written anew"),
    (
        with_extra(lambda extra: extra.replace(b'{"seq"', b'{"seq":9,"seq"')),
        "the event in the proof was written anew",
    ),
    (
        with_extra(lambda extra: extra.replace(b"app:1", b"\\u0061pp:1")),
        "the event in the proof was written anew",
    ),
    (with_extra(lambda extra: extra.replace(b"app:1", b"\xff")), "the proof has no event in it"),
    (with_extra(lambda extra: extra.replace(b"app:1", b"\\ud800")), "the proof has no event in it"),
    (with_event(extra=1), "the proof has no event in it"),
    (with_event(hash="00" * 32), "the hash of the event in the proof is not the one of its contents"),
    (with_event(hash="AB" * 32), "the event in the proof has a hash that is not 64 hexadecimal digits"),
    (with_event(subject="docker.io/library/app:2"), "the hash of the event in the proof is not"),
    (with_event(seq=2**63), "the proof has no event in it"),
    (with_event(seq=True), "the proof has no event in it"),
    (with_event(version=2.5), "the proof has no event in it"),
    (with_event(data=None), "the proof has no event in it"),
]


class TestWhatIsNone:
    @pytest.mark.parametrize(("data", "says"), HOSTILE, ids=[says for _, says in HOSTILE])
    def test_one_sentence(self, data: bytes, says: str) -> None:
        began = time.perf_counter()
        with pytest.raises(InvalidProofError) as caught:
            check(data, policy_of([KEY.key]))
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        assert time.perf_counter() - began < 5

    def test_event_one_has_nothing_before_it(self) -> None:
        event = row(1)
        stored = link(b"\x01" * 32, event)
        note = checkpoint(1, merkle.leaf_hash(stored), KEY)
        with pytest.raises(InvalidProofError, match="event 1, and another stands before it"):
            checked(make(event, stored, b"\x01" * 32, [], note))

    def test_an_event_behind_the_checkpoint(self) -> None:
        proof = proof_of(7, 7)
        small = InclusionProof(proof.index, proof.path, checkpoint(6, bytes(32), KEY), proof.extra)
        with pytest.raises(InvalidProofError, match="event 7 is not in the checkpoint, which is of 6 events"):
            checked(small)

    def test_a_root_of_another_tree(self) -> None:
        other = cosign(checkpoint(7, bytes(32), KEY), WITNESS)
        with pytest.raises(InvalidProofError, match="does not lead to the checkpoint's root"):
            checked(InclusionProof(GOOD.index, GOOD.path, other, GOOD.extra))

    def test_another_log_and_another_key(self) -> None:
        other = new_log_key("other.example/log")
        renamed = sign(TreeHead(other.key.name, 7, proved(GOOD).head.root).text, other)
        with pytest.raises(
            InvalidProofError, match=r"is of the log 'other.example/log', of which no key is given"
        ):
            checked(InclusionProof(GOOD.index, GOOD.path, renamed, GOOD.extra))
        with pytest.raises(InvalidProofError, match="not signed by the key of that log"):
            check(TEXT, policy_of([new_log_key(seed="forged").key]))

    def test_without_signatures(self) -> None:
        bare = InclusionProof(GOOD.index, GOOD.path, Note(GOOD.note.text), GOOD.extra)
        assert parse(str(bare).encode()) == bare
        with pytest.raises(InvalidProofError, match="not signed by the key"):
            checked(bare)

    def test_a_witness_that_did_not_cosign(self) -> None:
        with pytest.raises(InvalidProofError, match=r"w2\.example has not cosigned"):
            check(TEXT, policy_of([KEY.key, new_witness_key("w2.example").key]))


@settings(max_examples=500)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
@example(TEXT.index(b"index"), 1)
@example(TEXT.rindex("\N{EM DASH}".encode()) + 4, 1)
def test_one_byte_changed_is_refused(at: int, by: int) -> None:
    """Nothing in it can be another: the key's and the witness's signatures are over all of it."""
    changed = TEXT[:at] + bytes([TEXT[at] ^ by]) + TEXT[at + 1 :]
    with pytest.raises(InvalidProofError):
        check(changed, policy_of([KEY.key, WITNESS.key]))


@settings(max_examples=200)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
def test_without_the_witness_it_is_refused_or_proves_the_same(at: int, by: int) -> None:
    """A signature of nobody who is known may be anything."""
    changed = TEXT[:at] + bytes([TEXT[at] ^ by]) + TEXT[at + 1 :]
    try:
        found = check(changed, policy_of([KEY.key]))
    except InvalidProofError:
        return
    assert found == check(TEXT, policy_of([KEY.key]))


@given(
    st.integers(0, 2**59), st.lists(st.binary(min_size=32, max_size=32), max_size=63), st.none() | st.binary()
)
def test_what_is_written_is_read(index: int, path: list[bytes], extra: bytes | None) -> None:
    proof = InclusionProof(index, tuple(path), GOOD.note, extra)
    assert parse(str(proof).encode()) == proof


@given(st.binary(max_size=300))
def test_any_event_text_that_is_read_is_written_the_same(data: bytes) -> None:
    text = TEXT[: TEXT.index(b"extra ")] + data + TEXT[TEXT.index(b"index ") :]
    try:
        found = parse(text)
    except InvalidProofError:
        return
    assert str(found).encode() == text


class TestTheLibrary:
    def test_keys_and_policies(self, tmp_path: Path) -> None:
        key = str(KEY.key)
        assert check_proof(TEXT, keys=[key]).seq == 3
        assert check_proof(TEXT, keys=[KEY.key, str(WITNESS.key)]).cosigned[0].name == "w1.example"
        policy = f"log {key}\nwitness w {WITNESS.key}\nquorum w\n".encode()
        assert check_proof(TEXT, policy=policy).log == KEY.key
        assert check_proof(TEXT, keys=[key], policy=b"quorum none\n").log == KEY.key

    @pytest.mark.parametrize(
        ("keys", "policy"),
        [([], None), ([str(WITNESS.key)], None), ([], b"quorum none\n"), (["x"], None), ([], b"x")],
    )
    def test_what_believes_nobody(self, keys: list[str], policy: bytes | None) -> None:
        with pytest.raises(InvalidConfigError):
            check_proof(TEXT, keys=keys, policy=policy)
