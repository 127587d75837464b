"""What a witness answers to each request; and that it never cosigns two histories of one log."""

from __future__ import annotations

import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.proof import note as notes
from msb_cache.proof.note import Note, signatures_in
from msb_cache.proof.submission import MAX_REQUEST, SIZE_TYPE
from msb_cache.proof.tree_head import head_of
from msb_cache.proof.vkey import VerifierKey
from msb_cache.proof.witness import Answer, Witness, logs_in
from tests.proof.signing import LOG, SigningKey, new_log_key, new_witness_key, sign
from tests.proof.submitting import (
    EARLY,
    HONEST,
    LATE,
    LOG_HASH,
    LOG_KEY,
    NOW,
    WITNESS,
    SubmittingLog,
    leaves,
    request,
    witness_at,
)

STRANGER = new_log_key("stranger.example.com")
ROTATED = new_log_key(seed="next")


def cosigned(answer: Answer, text: str) -> int:
    """Return the time of an answer's cosignature, which is valid."""
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    (line,) = signatures_in(answer.body.decode(), "the answer")
    assert Note(text, (line,)).signed_by([WITNESS.key]) == [WITNESS.key]
    assert line.witnessed_at is not None
    return line.witnessed_at


class TestCosigned:
    def test_a_log_that_goes_on(self, tmp_path: Path) -> None:
        times = [NOW + second * 10**9 for second in range(5)]
        with closing(witness_at(tmp_path, now=times)) as witness:
            for (old, size), at in zip([(0, 0), (0, 3), (3, 8), (8, 8), (8, 40)], times, strict=True):
                answer = witness.add_checkpoint(HONEST.request(old, size))
                assert cosigned(answer, HONEST.head(size).text) == at // 10**9
                assert (answer.head, answer.refusal) == (HONEST.head(size), None)

    def test_it_is_remembered_and_served_with_both_signatures(self, tmp_path: Path) -> None:
        with closing(witness_at(tmp_path)) as witness:
            assert witness.checkpoint(LOG_HASH) is None
            line = witness.add_checkpoint(HONEST.request(0, 7)).body.decode()
        with closing(witness_at(tmp_path)) as witness:
            found = witness.checkpoint(LOG_HASH)
            assert found == f"{HONEST.note(7)}{line}"
            note = notes.parse(found.encode())
            assert note.signed_by([LOG_KEY.key, WITNESS.key]) == [LOG_KEY.key, WITNESS.key]
            assert witness.checkpoint(LOG_HASH.upper()) is None
            assert witness.add_checkpoint(HONEST.request(7, 9)).status == 200

    def test_signatures_of_others_are_left_out(self, tmp_path: Path) -> None:
        note = HONEST.note(7, STRANGER, LOG_KEY, ROTATED, LOG_KEY)
        with closing(witness_at(tmp_path)) as witness:
            assert witness.add_checkpoint(request(0, (), note)).status == 200
            kept = notes.parse((witness.checkpoint(LOG_HASH) or "").encode())
        keys = [LOG_KEY.key, WITNESS.key]
        assert [(each.name, each.key_id) for each in kept.signatures] == [(k.name, k.key_id) for k in keys]

    def test_a_log_may_change_its_key(self, tmp_path: Path) -> None:
        with closing(witness_at(tmp_path, LOG_KEY.key, ROTATED.key, LOG_KEY.key)) as witness:
            assert witness.add_checkpoint(HONEST.request(0, 7)).status == 200
            assert (
                witness.add_checkpoint(request(7, HONEST.path(7, 9), HONEST.note(9, ROTATED))).status == 200
            )
            both = HONEST.note(12, LOG_KEY, ROTATED)
            assert witness.add_checkpoint(request(9, HONEST.path(9, 12), both)).status == 200

    def test_logs_are_apart(self, tmp_path: Path) -> None:
        other = SubmittingLog(leaves(9, "z"), new_log_key("other.example.com"))
        with closing(witness_at(tmp_path, LOG_KEY.key, other.key.key)) as witness:
            assert witness.add_checkpoint(HONEST.request(0, 7)).status == 200
            assert witness.add_checkpoint(other.request(0, 3)).status == 200
            assert witness.add_checkpoint(HONEST.request(7, 8)).status == 200

    @pytest.mark.parametrize("clock", [NOW - 3600 * 10**9, -(10**9), 0])
    def test_its_time_does_not_go_back(self, tmp_path: Path, clock: int) -> None:
        with closing(witness_at(tmp_path, now=[NOW, clock])) as witness:
            cosigned(witness.add_checkpoint(HONEST.request(0, 3)), HONEST.head(3).text)
            answer = witness.add_checkpoint(HONEST.request(3, 4))
            assert cosigned(answer, HONEST.head(4).text) == NOW // 10**9
        with closing(witness_at(tmp_path / "new", now=[clock])) as witness:
            answer = witness.add_checkpoint(HONEST.request(0, 3))
            assert cosigned(answer, HONEST.head(3).text) == max(clock // 10**9, 1)


def at_seven(path: Path) -> Witness:
    """A witness that cosigned the first seven events."""
    witness = witness_at(path)
    assert witness.add_checkpoint(HONEST.request(0, 7)).status == 200
    return witness


FORGED = Note(HONEST.head(9).text, sign("another text\n", LOG_KEY).signatures)
FORGED_BESIDE = FORGED.with_signatures(HONEST.note(9, STRANGER).signatures)
NOT_EMPTY = sign(replace(HONEST.head(0), root=b"x" * 32).text, LOG_KEY)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the request is empty"),
        (b"old 7\n", 400, "does not begin with"),
        (b"\xff", 400, "no UTF-8"),
        (HONEST.request(7, 9)[:-1], 400, "cut off"),
        (HONEST.request(7, 9).replace(b"old 7", b"old 07"), 400, "does not begin with"),
        (HONEST.request(7, 9).replace(b"old 7", b"old " + b"9" * 40), 400, "does not begin with"),
        (HONEST.request(7, 9).replace(b"\n", b"\r\n"), 400, "line ends of Windows"),
        (HONEST.request(7, 9).replace(b"\n9\n", b"\n9x\n"), 400, "second line is no number"),
        (b"x" * (MAX_REQUEST + 1), 400, "more than"),
        (request(7, (b"x" * 32,) * 64, HONEST.note(9)), 400, "more than 63 hashes"),
        (b"old 7\n\nno\ncheckpoint\n", 400, "no checkpoint"),
        (SubmittingLog(leaves(9), STRANGER).request(7, 9), 404, "no log of that name"),
        (SubmittingLog(leaves(9), STRANGER).request(9, 7), 404, "no log of that name"),
        (request(7, (), Note(HONEST.head(9).text)), 403, "no key of this log"),
        (request(7, (), HONEST.note(9, STRANGER, ROTATED)), 403, "no key of this log"),
        (request(7, (), FORGED), 403, "is not of that key"),
        (request(7, (), FORGED_BESIDE), 403, "not of that key"),
        (HONEST.request(9, 8), 400, "larger than that of this"),
        (HONEST.request(8, 7), 400, "larger than that of this"),
        (HONEST.request(0, 9), 409, "7"),
        (HONEST.request(6, 9), 409, "7"),
        (HONEST.request(8, 9), 409, "7"),
        (HONEST.request(5, 6), 409, "7"),
        (EARLY.request(0, 9), 409, "7"),
        (EARLY.request(7, 7), 422, "two roots of 7 events"),
        (EARLY.request(7, 9), 422, "nothing proves that it goes on"),
        (request(7, (), HONEST.note(9)), 422, "nothing proves that it goes on"),
        (request(7, HONEST.path(7, 9)[1:], HONEST.note(9)), 422, "nothing proves"),
        (request(7, (*HONEST.path(7, 9), b"x" * 32), HONEST.note(9)), 422, "nothing proves"),
        (request(7, HONEST.path(7, 9), HONEST.note(7)), 422, "between these sizes there is none"),
    ],
)
def test_what_is_refused(tmp_path: Path, body: bytes, status: int, said: str) -> None:
    with closing(at_seven(tmp_path)) as witness:
        before = witness.checkpoint(LOG_HASH)
        answer = witness.add_checkpoint(body)
        assert (int(answer.status), answer.body.count(b"\n"), answer.body[-1:]) == (status, 1, b"\n")
        if status == 409:
            assert (answer.body, answer.content_type) == (f"{said}\n".encode(), SIZE_TYPE)
        else:
            assert said in answer.body.decode()
            assert answer.content_type == "text/plain; charset=utf-8"
        assert witness.checkpoint(LOG_HASH) == before
        assert witness.add_checkpoint(HONEST.request(7, 9)).status == 200  # as if nothing had been


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (request(3, (), HONEST.note(9)), 409, "0"),
        (request(0, HONEST.path(3, 9), HONEST.note(9)), 422, "between these sizes there is none"),
        (request(0, (), NOT_EMPTY), 422, "no events"),
    ],
)
def test_what_is_refused_of_a_log_that_is_new(tmp_path: Path, body: bytes, status: int, said: str) -> None:
    with closing(witness_at(tmp_path)) as witness:
        answer = witness.add_checkpoint(body)
        assert (answer.status, said in answer.body.decode()) == (status, True)
        assert witness.checkpoint(LOG_HASH) is None


class TestEvidence:
    def test_a_fork_of_the_size_that_is_known_is_kept_with_what_it_contradicts(self, tmp_path: Path) -> None:
        with closing(at_seven(tmp_path)) as witness:
            for body in (EARLY.request(7, 7), EARLY.request(0, 7), EARLY.request(7, 7)):
                assert witness.add_checkpoint(body).refusal == "fork"
            (log,) = witness.remembered()
        (refused,) = log.refused
        assert (refused.is_fork, refused.note, refused.refused_at_ns) == (True, str(EARLY.note(7)), NOW)
        assert refused.against == log.note
        two = [notes.parse((text or "").encode()) for text in (refused.note, refused.against)]
        assert [each.signed_by([LOG_KEY.key]) for each in two] == [[LOG_KEY.key]] * 2
        first, second = map(head_of, two)
        assert (first.size, first.root) != (second.size, second.root)
        assert first.size == second.size

    def test_what_is_not_proved_is_a_fork_once_the_other_is_known(self, tmp_path: Path) -> None:
        with closing(at_seven(tmp_path)) as witness:
            assert witness.add_checkpoint(EARLY.request(7, 9)).refusal == "unproved"
            (log,) = witness.remembered()
            assert [(each.size, each.is_fork, each.against) for each in log.refused] == [(9, False, None)]
            assert witness.add_checkpoint(HONEST.request(7, 9)).status == 200
            (log,) = witness.remembered()
            assert [(each.size, each.is_fork, each.against) for each in log.refused] == [(9, True, log.note)]

    def test_a_wrong_proof_of_a_right_checkpoint_is_forgotten(self, tmp_path: Path) -> None:
        with closing(at_seven(tmp_path)) as witness:
            assert witness.add_checkpoint(request(7, (), HONEST.note(9))).refusal == "unproved"
            assert witness.add_checkpoint(HONEST.request(7, 9)).status == 200
            assert [log.refused for log in witness.remembered()] == [()]

    def test_wrong_requests_are_no_evidence(self, tmp_path: Path) -> None:
        with closing(at_seven(tmp_path)) as witness:
            for body in (
                HONEST.request(6, 9),
                request(7, HONEST.path(7, 9), HONEST.note(7)),
                request(7, (), HONEST.note(9, STRANGER)),
                HONEST.request(9, 8),
            ):
                assert witness.add_checkpoint(body).refusal is None
            assert [log.refused for log in witness.remembered()] == [()]


def test_what_signs_with_another_key_cosigns_nothing(tmp_path: Path) -> None:
    signer = SigningKey(new_witness_key("another").secret, WITNESS.key)
    with closing(Witness(tmp_path / "w.db", signer, [LOG_KEY.key])) as witness:
        with pytest.raises(InvalidProofError, match="has another key"):
            witness.add_checkpoint(HONEST.request(0, 7))
        assert witness.remembered() == []
    with closing(witness_at(tmp_path)) as witness:
        assert witness.add_checkpoint(HONEST.request(0, 3)).status == 200


@pytest.mark.parametrize(
    ("signer", "logs", "said"),
    [
        (WITNESS, [], "give the key of one"),
        (WITNESS, [WITNESS.key], "is of a witness, and it is to be of a log"),
        (LOG_KEY, [LOG_KEY.key], "is the key of a log, and a witness signs"),
        (WITNESS, [VerifierKey(LOG, 1, WITNESS.key.public)], "proves nothing"),
    ],
)
def test_keys_that_make_no_witness(
    tmp_path: Path, signer: SigningKey, logs: list[VerifierKey], said: str
) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        Witness(tmp_path / "w.db", signer, logs)
    assert not (tmp_path / "w.db").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{log}\n{other}",
        "# both\n\n  {log}\t\r\n# {log}\n{other}\n",
        "log {log}\nlog\t{other}  https://other.example.com\nwitness W {witness}\ngroup g any W\nquorum g\n",
    ],
)
def test_a_file_of_logs(text: str) -> None:
    keys = {"log": LOG_KEY.key, "other": STRANGER.key, "witness": WITNESS.key}
    assert logs_in(text.format(**keys).encode(), "logs.txt") == [LOG_KEY.key, STRANGER.key]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\nlog\n", "logs.txt, line 2: "),
        (b"# a\n\xff\n", "logs.txt, line 2: it is no UTF-8 text"),
        (f"{LOG_KEY.key} x".encode(), "line 1: it is neither a key nor a line of a policy"),
        (f"{LOG_KEY.key}x".encode(), "line 1: "),
        (b"quorum\n", "line 1: "),
        (b"log a b c\n", "line 1: it is neither"),
        (b"#" * (1 << 20) + b"#", "more than 1,048,576 bytes"),
    ],
)
def test_what_is_no_file_of_logs(data: bytes, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"logs\.txt") as raised:
        logs_in(data, "logs.txt")
    assert said in str(raised.value)


# --- it never cosigns two histories -------------------------------------------------------------

BRANCHES = (HONEST, EARLY, LATE)


def agree(one: SubmittingLog, other: SubmittingLog, size: int) -> bool:
    """Whether both have the same first events: asked of the events, not of any tree."""
    return one.leaves[:size] == other.leaves[:size]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(range(len(BRANCHES))),
        st.integers(0, 40),
        st.one_of(st.none(), st.integers(0, 40)),
        st.sampled_from(["right", "right", "right", "empty", "of another"]),
        st.integers(-100, 100),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=80)
@given(STEPS)
def test_no_two_histories_are_cosigned(steps: list[tuple[int, int, int | None, str, int, bool]]) -> None:
    """A log that forks at random, and sends anything; ``None``: it goes on from what is known."""
    found: list[tuple[SubmittingLog, int]] = []
    known, last, now = 0, 0, [NOW]
    with tempfile.TemporaryDirectory() as folder:
        witness = Witness(f"{folder}/w.db", WITNESS, [LOG_KEY.key], lambda: now[0])
        for number, size, asked, proof, jump, again in steps:
            now[0] += jump * 10**9
            if again:
                witness.close()
                witness = Witness(f"{folder}/w.db", WITNESS, [LOG_KEY.key], lambda: now[0])
            log, old = BRANCHES[number], known if asked is None else asked
            proving = BRANCHES[(number + (proof == "of another")) % len(BRANCHES)]
            path = () if old > size or proof == "empty" else proving.path(old, size)
            goes_on = all(agree(other, log, before) for other, before in found)
            answer = witness.add_checkpoint(request(old, path, log.note(size)))
            if answer.status == 200:
                assert goes_on
                assert old == known <= size
                at = cosigned(answer, log.head(size).text)
                assert at >= last
                found.append((log, size))
                known, last = size, at
            else:
                assert answer.status == (400 if old > size else 409 if old != known else 422)
                assert answer.status != 409 or answer.body == f"{known}\n".encode()
                assert not (old == known <= size and goes_on and proof == "right")
        remembered = {each.origin: (each.size, each.root) for each in witness.remembered()}
        if found:
            log, size = found[-1]
            assert remembered == {LOG: (size, log.head(size).root)}
        witness.close()


def at_once(*calls: tuple[Witness, bytes]) -> list[Answer]:
    """Submit all of them at the same moment; return the answers in the order of the calls."""
    begin = threading.Barrier(len(calls))
    answers: dict[int, Answer] = {}

    def submit(number: int, witness: Witness, body: bytes) -> None:
        begin.wait()
        answers[number] = witness.add_checkpoint(body)

    threads = [threading.Thread(target=submit, args=(number, *call)) for number, call in enumerate(calls)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [answers[number] for number in range(len(calls))]


@pytest.mark.parametrize("shared", [True, False])
def test_of_two_histories_at_once_one_is_cosigned(tmp_path: Path, shared: bool) -> None:
    """By two threads of one witness, and by two witnesses with one state, as two processes would be.

    Each goes on from what is known, and proves it: only the other one is in the way.
    """
    for number in range(20):
        folder = tmp_path / str(number)
        with closing(witness_at(folder)) as one, closing(witness_at(folder)) as other:
            assert one.add_checkpoint(HONEST.request(0, 18)).status == 200
            second = one if shared else other
            answers = at_once(
                (one, HONEST.request(18, 25)), (second, LATE.request(18, 25)), (one, HONEST.request(18, 30))
            )
            assert sorted(int(each.status) for each in answers) == [200, 409, 409]
            (log,) = other.remembered()
            (winner,) = (each.head for each in answers if each.status == 200)
            assert winner is not None
            assert (log.size, log.root) == (winner.size, winner.root)
