"""Policy files: strict by the specification, and who fits them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.proof.note import Note, Signature
from msb_cache.proof.policy import MAX_POLICY, MOST_LINES, Policy, policy_of
from tests.proof.signing import LOG, MONDAY, checkpoint, cosign, new_log_key, new_witness_key, sign

KEY, OTHER = new_log_key(), new_log_key("other.example/log")
WITNESSES = {name: new_witness_key(f"{name}.example") for name in ("X1", "X2", "X3", "Y1", "Y2", "Y3")}
LINES = [
    f"log {KEY.key} https://log.example/",
    *(f"witness {name} {key.key}" for name, key in WITNESSES.items()),
    "group X-witnesses 2 X1 X2 X3",
    "group Y-witnesses any Y1 Y2 Y3",
    "group X-and-Y all X-witnesses Y-witnesses",
    "quorum X-and-Y",
]
ROOT = bytes(range(32))


def policy(*lines: str) -> Policy:
    return Policy.parse("".join(f"{line}\n" for line in lines).encode())


def noted(*names: str) -> Note:
    note = checkpoint(7, ROOT, KEY)
    for name in names:
        note = cosign(note, WITNESSES[name])
    return note


class TestParse:
    def test_what_it_says(self) -> None:
        found = policy(*LINES)
        assert [(each.key, each.url) for each in found.logs] == [(KEY.key, "https://log.example/")]
        assert [each.name for each in found.witnesses] == [*WITNESSES]
        assert [(each.name, each.threshold) for each in found.groups] == [
            ("X-witnesses", 2),
            ("Y-witnesses", 1),
            ("X-and-Y", 2),
        ]
        assert found.quorum == "X-and-Y"
        assert found.to_dict()["witnesses"][0]["key"]["key"] == str(WITNESSES["X1"].key)

    def test_spaces_comments_and_octets(self) -> None:
        key = WITNESSES["X1"].key
        data = (
            b"\t # a comment: \xff\xc3\xa9\n \t\n\twitness \xff\t  %s  \xfe\n quorum\t\xff \n"
            % str(key).encode()
        )
        found = Policy.parse(data)
        assert (found.witnesses[0].name, found.witnesses[0].url) == ("\udcff", "\udcfe")
        assert found.quorum == "\udcff"

    def test_names_are_octets(self) -> None:
        first, second = WITNESSES["X1"].key, WITNESSES["X2"].key
        kelvin = "\N{KELVIN SIGN}"
        found = policy(f"witness K {first}", f"witness {kelvin} {second}", f"quorum {kelvin}")
        assert found.quorum == kelvin
        # Of words only spaces and tabs are the ends.
        assert policy(f"witness a\xa0b\x85c {first}", "quorum a\xa0b\x85c").quorum == "a\xa0b\x85c"

    def test_no_quorum_and_no_log_are_a_policy(self) -> None:
        assert policy("quorum none") == Policy()

    @pytest.mark.parametrize(
        ("lines", "says"),
        [
            ([], "the policy has no quorum"),
            (LINES[:-1], "the policy has no quorum"),
            (["quorum none", "quorum none"], "line 2 of the policy is a second quorum"),
            (["quorum"], "line 1 of the policy names no quorum"),
            (["quorum a b"], "line 1 of the policy names no quorum"),
            (["quorum X1"], "line 1 of the policy names 'X1', and no line before it does"),
            (["quorum all"], "line 1 of the policy names 'all'"),
            (["", "# quorum none", "Quorum none"], "line 3 of the policy begins with 'Quorum'"),
            ([f"PRIVATE+KEY+a+{'0' * 8}+{'A' * 44}"], "line 1 of the policy is a secret key; a policy has"),
            (["log"], "line 1 of the policy names no log"),
            ([f"log {KEY.key} a b"], "line 1 of the policy names no log"),
            (["log example.com/log+8c2f1c26"], "line 1 of the policy has no key: "),
            ([f"log {WITNESSES['X1'].key}"], "line 1 of the policy has the key of a witness, and no log"),
            ([f"witness X1 {KEY.key}"], "line 1 of the policy has the key of a log, and no witness"),
            (["witness X1"], "line 1 of the policy names no witness"),
            ([LINES[0], f"log {KEY.key}"], "line 2 of the policy has the key of a log that stands before it"),
            ([LINES[1], LINES[2].replace("X2", "X1", 1)], "line 2 of the policy has the name 'X1', which"),
            (
                [LINES[1], LINES[1].replace("X1", "X2", 1)],
                "line 2 of the policy has the key of a witness that",
            ),
            ([LINES[1].replace("X1", "none", 1)], "line 1 of the policy has the name 'none'"),
            ([LINES[1], "group X1 all X1"], "line 2 of the policy has the name 'X1'"),
            ([LINES[1], "group none all X1"], "line 2 of the policy has the name 'none'"),
            ([LINES[1], "group g all"], "line 2 of the policy names no group"),
            ([LINES[1], "group g all g"], "line 2 of the policy names 'g', and no line before it does"),
            ([LINES[1], "group g all none"], "line 2 of the policy has the member 'none', which is none"),
            (
                [LINES[1], "group g all X1 X1"],
                "line 2 of the policy has the member 'X1', and that is a member",
            ),
            ([LINES[1], "group g all X1", "group h all X1"], "line 3 of the policy has the member 'X1'"),
            *(
                ([LINES[1], f"group g {number} X1"], f"line 2 of the policy asks for '{number}' of 1 member")
                for number in (
                    "0",
                    "2",
                    "-1",
                    "+1",
                    "01",
                    "1.0",
                    "ALL",
                    "\N{ARABIC-INDIC DIGIT ONE}",
                    "9" * 30,
                )
            ),
            (["quorum none\r"], "line 1 of the policy ends as lines of Windows do"),
            (["quorum \x0bnone"], "line 1 of the policy has a control character"),
            (["# \x7f", "quorum none"], "line 1 of the policy has a control character"),
            (["# \x00"], "line 1 of the policy has a control character"),
            (["quorum none"] + [""] * MOST_LINES, f"the policy has more than {MOST_LINES:,} lines"),
            (["#" + " " * MAX_POLICY], f"the policy has more than {MAX_POLICY:,} bytes"),
        ],
    )
    def test_what_is_none(self, lines: Sequence[str], says: str) -> None:
        with pytest.raises(InvalidConfigError) as caught:
            policy(*lines)
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)

    def test_a_policy_that_is_cut_off(self) -> None:
        with pytest.raises(InvalidConfigError, match="cut off"):
            Policy.parse(b"quorum none")

    def test_the_same_public_key_under_two_names_is_one_witness(self) -> None:
        renamed = new_witness_key("renamed.example").key
        twice = type(renamed)("again.example", 4, renamed.public)
        with pytest.raises(InvalidConfigError, match=r"line 2 .* the key of a witness"):
            policy(f"witness a {renamed}", f"witness b {twice}", "quorum none")

    def test_many_groups_within_each_other(self) -> None:
        lines = [f"log {KEY.key}", LINES[1], "group g0 all X1"]
        lines += [f"group g{n} all g{n - 1}" for n in range(1, 3000)]
        deep = policy(*lines, "quorum g2999")
        assert deep.judge(noted("X1")).fits
        assert not deep.judge(noted()).fits


class TestJudge:
    @pytest.mark.parametrize(
        ("names", "problem"),
        [
            (("X1", "X2", "Y1"), None),
            (("X1", "X2", "X3", "Y1", "Y2", "Y3"), None),
            (
                ("X1", "X2"),
                "1 of the 2 members that the quorum asks for is there; Y1.example, Y2.example, "
                "Y3.example have not cosigned",
            ),
            (
                ("X1", "Y1"),
                "1 of the 2 members that the quorum asks for is there; X2.example, X3.example "
                "have not cosigned",
            ),
        ],
    )
    def test_the_quorum(self, names: Sequence[str], problem: str | None) -> None:
        found = policy(*LINES).judge(noted(*names))
        assert (found.fits, found.problem, found.log) == (problem is None, problem, KEY.key)
        assert [each.name for each in found.cosigned] == [WITNESSES[name].key.name for name in names]
        assert {each.cosigned_at_ns for each in found.cosigned} == {MONDAY * 10**9}
        shape = found.to_dict()
        assert shape["fits"] is found.fits
        assert shape["cosigned"][0]["cosigned_at"].timestamp() == MONDAY

    @given(st.sets(st.sampled_from([*WITNESSES])))
    def test_any_of_them(self, names: set[str]) -> None:
        enough = len(names & {"X1", "X2", "X3"}) >= 2 and bool(names & {"Y1", "Y2", "Y3"})
        assert policy(*LINES).judge(noted(*sorted(names))).fits is enough

    def test_a_number_of_witnesses(self) -> None:
        found = policy(*LINES[:4], "group g 2 X1 X2 X3", "quorum g").judge(noted("X1"))
        assert found.problem == (
            "1 of the 2 cosignatures that the quorum asks for is there; X2.example, X3.example "
            "have not cosigned"
        )

    def test_one_witness(self) -> None:
        asked = policy(*LINES[:2], "quorum X1")
        assert asked.judge(noted("X1")).fits
        assert asked.judge(noted()).problem == (
            "no cosignature that the quorum asks for is there; X1.example has not cosigned"
        )

    def test_any_of_the_logs(self) -> None:
        either = policy(f"log {KEY.key}", f"log {OTHER.key}", "quorum none")
        assert either.judge(checkpoint(7, ROOT, OTHER)).log == OTHER.key
        assert either.judge(checkpoint(7, ROOT, KEY)).log == KEY.key

    def test_the_origin_is_the_name_of_the_key(self) -> None:
        either = policy(f"log {KEY.key}", f"log {OTHER.key}", "quorum none")
        stolen = sign(checkpoint(7, ROOT, OTHER).text, KEY)
        assert either.judge(stolen).problem == (
            "the checkpoint of 'other.example/log' is not signed by the key of that log"
        )

    def test_a_log_that_nobody_named(self) -> None:
        found = policy_of([KEY.key]).judge(checkpoint(7, ROOT, OTHER))
        assert found.problem == "the checkpoint is of the log 'other.example/log', of which no key is given"
        assert policy("quorum none").judge(noted()).problem == (
            "the key of no log is given, so no checkpoint is to be believed"
        )

    def test_another_key_of_the_same_name(self) -> None:
        found = policy_of([KEY.key]).judge(checkpoint(7, ROOT, new_log_key(seed="forged")))
        assert (found.log, found.problem) == (
            None,
            f"the checkpoint of {LOG!r} is not signed by the key of that log",
        )

    def test_several_keys_of_one_name(self) -> None:
        old, new = new_log_key(seed="old"), new_log_key(seed="new")
        note = sign(noted().text, old, new)
        assert policy_of([new.key]).judge(note).log == new.key
        assert policy_of([old.key, new.key]).judge(note).log == old.key
        # Both are given, so both signatures must be of them.
        first, second = note.signatures
        swapped = Note(note.text, (first, Signature(second.name, second.key_id, first.signature)))
        assert policy_of([old.key]).judge(swapped).fits
        assert not policy_of([old.key, new.key]).judge(swapped).fits

    def test_a_signature_that_is_not_of_its_key(self) -> None:
        good = noted("X1")
        for note in (
            Note(good.text.replace("\n7\n", "\n8\n"), good.signatures),
            Note(
                good.text, (*good.signatures, *cosign(checkpoint(8, ROOT, KEY), WITNESSES["X1"]).signatures)
            ),
        ):
            found = policy(*LINES[:2], "quorum none").judge(note)
            assert (found.fits, found.log) == (False, None)
            assert found.problem == f"the signature of {KEY.key.name} is not of that key over this text"

    def test_signatures_of_others_count_for_nothing(self) -> None:
        note = cosign(noted("X1"), new_witness_key("X2.example", "another"))
        assert policy(*LINES[:4], "group g all X1 X2", "quorum g").judge(note).problem is not None

    def test_the_earliest_of_several_cosignatures(self) -> None:
        note = cosign(cosign(noted(), WITNESSES["X1"], MONDAY + 9), WITNESSES["X1"], MONDAY)
        (found,) = policy(*LINES[:2], "quorum X1").judge(note).cosigned
        assert found.cosigned_at_ns == MONDAY * 10**9

    @pytest.mark.parametrize("time", [253_402_300_800, 2**62, 2**63 - 1])
    def test_a_time_that_no_calendar_has(self, time: int) -> None:
        found = policy(*LINES[:2], "quorum X1").judge(cosign(noted(), WITNESSES["X1"], time))
        assert found.problem == "the time of the cosignature of X1.example is none"

    def test_what_is_no_checkpoint(self) -> None:
        with pytest.raises(InvalidProofError, match="no checkpoint"):
            policy(*LINES).judge(sign("some text\n", KEY))


class TestKeys:
    def test_witnesses_that_are_given_must_all_have_cosigned(self) -> None:
        asked = policy_of([KEY.key, WITNESSES["X1"].key, WITNESSES["Y1"].key, KEY.key, WITNESSES["Y1"].key])
        assert asked.judge(noted("X1", "Y1")).fits
        assert (asked.judge(noted("X1")).problem or "").startswith("1 of the 2 cosignatures")
        assert len(asked.logs) == 1
        assert len(asked.witnesses) == 2

    def test_beside_a_policy_both_must_hold(self) -> None:
        asked = policy(*LINES).with_keys([OTHER.key, WITNESSES["X3"].key])
        assert not asked.judge(noted("X1", "X2", "Y1")).fits
        assert asked.judge(noted("X1", "X3", "Y1")).fits
        assert not asked.judge(noted("X3", "Y1")).fits
        more = asked.with_keys([new_witness_key("more.example").key])
        assert (more.judge(noted("X1", "X3", "Y1")).problem or "").endswith("more.example has not cosigned")

    def test_a_log_alone(self) -> None:
        assert policy_of([KEY.key]).judge(noted()).fits
        assert policy("quorum none").with_keys([KEY.key]).judge(noted()).fits
        assert not policy(*LINES[1:2], "quorum X1").with_keys([KEY.key]).judge(noted()).fits
