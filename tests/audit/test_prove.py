"""Proofs out of a log: which event is meant, by which checkpoint, and that nothing kept is believed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.audit.prove import prove
from msb_cache.errors import (
    CorruptLogError,
    ImageNotFoundError,
    InvalidConfigError,
    InvalidReferenceError,
    LogError,
    OperationNotFoundError,
)
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.chain import link, raw_rows
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.proof.inclusion import check
from msb_cache.proof.kept import keep
from msb_cache.proof.policy import policy_of
from tests.logs import PYTHON, digest, ledger_with_deletions, new_ledger, some_events
from tests.proof.signing import LOG, MONDAY, checkpoint, keep_signed, new_log_key, new_witness_key

KEY, OTHER, WITNESS = new_log_key(), new_log_key("other.example"), new_witness_key("w1.example")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A log of seven events, signed when it had four of them, and now."""
    found = new_ledger(tmp_path, some_events())
    keep_signed(found.layout.database, KEY, size=4)
    keep_signed(found.layout.database, KEY, witnesses=[WITNESS])
    return found


def change(ledger: Ledger, *statements: str) -> None:
    """Change the log behind our back."""
    ledger.close()
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        for trigger in ("events_no_update", "events_no_delete", "events_in_order"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(statement)


def rewrite(ledger: Ledger, seq: int) -> None:
    """Write a log anew from an event on: each hash fits again."""
    ledger.close()
    with closing(sqlite3.connect(ledger.layout.database, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute(
            "UPDATE events SET actor = replace(actor, 'alice', 'mallory') WHERE seq = ?", (seq,)
        )
        previous = None
        for row, stored in [*raw_rows(connection)]:
            previous = stored if previous is None else link(previous, row)
            connection.execute("UPDATE events SET hash = ? WHERE seq = ?", (previous, row[0]))


class TestWhichEvent:
    @pytest.mark.parametrize("what", [3, "3", "@3"])
    def test_a_position(self, ledger: Ledger, what: str | int) -> None:
        found = prove(ledger, what)
        assert (found.seq, found.type, found.subject) == (3, "image.used", PYTHON)
        assert (found.origin, found.size, found.signed_at_ns) == (LOG, 4, MONDAY * 10**9)
        checked = check(found.text.encode(), policy_of([KEY.key]))
        assert checked.event is not None
        assert (checked.seq, checked.size, checked.event.id) == (3, 4, found.id)
        assert found.to_dict()["signed_at"].timestamp() == MONDAY

    def test_every_event(self, ledger: Ledger) -> None:
        for seq in range(1, 8):
            found = prove(ledger, seq)
            assert check(found.text.encode(), policy_of([KEY.key])).seq == seq
            assert found.size == (4 if seq <= 4 else 7)

    def test_an_id(self, ledger: Ledger) -> None:
        assert prove(ledger, prove(ledger, 2).id).seq == 2

    @pytest.mark.parametrize(
        ("what", "type_", "seq"),
        [
            ("python:3.12", None, 7),
            (PYTHON, None, 7),
            ("python:3.12", "image.pulled", 2),
            ("python:3.12", "image.used", 6),
            ("python:3.12", "image.held", 4),
            (digest(1), None, 5),
            (digest(1)[7:15], None, 5),
            ("pyth*", "image.removed", 7),
        ],
    )
    def test_a_name(self, ledger: Ledger, what: str, type_: str | None, seq: int) -> None:
        assert prove(ledger, what, type=type_).seq == seq

    def test_events_of_files_are_not_what_became_of_an_image(self, tmp_path: Path) -> None:
        ledger = new_ledger(tmp_path, [*some_events(), NewEvent(ev.MetadataDeleted(bytes=1), PYTHON)])
        keep_signed(ledger.layout.database, KEY)
        assert prove(ledger, PYTHON).type == "image.removed"
        assert prove(ledger, PYTHON, type="metadata.deleted").seq == 8

    def test_an_operation(self, tmp_path: Path) -> None:
        operation = "01a2259f-2c31-7712-9099-6c86fdaeecb8"
        ledger = new_ledger(tmp_path, some_events())
        started = ev.DeletionStarted(kind="prune", policy={})
        with ledger.write(operation) as transaction:
            transaction.append([NewEvent(started, operation), NewEvent(ev.ManifestDeleted(), digest(1))])
            transaction.append([NewEvent(ev.DeletionFinished(outcome="completed"), operation)])
        keep_signed(ledger.layout.database, KEY)
        assert prove(ledger, operation).type == "deletion.finished"
        assert prove(ledger, operation, type="manifest.deleted").seq == 9

    @pytest.mark.parametrize(
        ("what", "type_", "error", "says"),
        [
            ("@8", None, InvalidConfigError, "the log has no event 8; its last is 7"),
            ("9" * 19, None, InvalidConfigError, "the log has no event 9999"),
            ("0", None, InvalidConfigError, "the log has no event 0; its last is 7"),
            ("@0", None, InvalidConfigError, "the log has no event 0; its last is 7"),
            ("-1", None, InvalidReferenceError, ""),
            ("@3", "image.used", InvalidConfigError, "@3 is one event, so no type is chosen"),
            ("\x1b[1m", None, InvalidReferenceError, ""),
            ("nothing:1", None, ImageNotFoundError, "the log knows no image nothing:1"),
            ("python:3.12", "image.cooked", InvalidConfigError, "'image.cooked' is no event type"),
            ("python:3.12", "image.pinned", LogError, "the log has no event of type image.pinned about"),
            (
                "01a2259f-2c31-7712-9099-6c86fdaeecb8",
                None,
                OperationNotFoundError,
                "no event and no operation",
            ),
        ],
    )
    def test_what_there_is_not(
        self, ledger: Ledger, what: str, type_: str | None, error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error) as caught:
            prove(ledger, what, type=type_)
        assert str(caught.value).startswith(says)

    @pytest.mark.parametrize("what", ["@1", "python:3.12", "01a2259f-2c31-7712-9099-6c86fdaeecb8"])
    def test_without_a_log(self, tmp_path: Path, what: str) -> None:
        from msb_cache.artifacts.layout import Layout

        with pytest.raises((LogError, ImageNotFoundError)):
            prove(Ledger(Layout(tmp_path)), what)


class TestWhichCheckpoint:
    def test_the_first_that_has_it(self, ledger: Ledger) -> None:
        assert [prove(ledger, seq).size for seq in (1, 4, 5)] == [4, 4, 7]

    def test_the_one_that_is_named(self, ledger: Ledger) -> None:
        assert prove(ledger, 1, size=7).size == 7
        assert prove(ledger, 1, size=4).size == 4
        with pytest.raises(
            LogError, match="no signed checkpoint of 5 events; `msb-cache checkpoint --sign KEY`"
        ):
            prove(ledger, 1, size=5)
        with pytest.raises(InvalidConfigError, match="of 4 events does not have event 5"):
            prove(ledger, 5, size=4)

    def test_the_first_that_fits_a_policy(self, ledger: Ledger) -> None:
        assert prove(ledger, 1, policy=policy_of([KEY.key])).size == 4
        assert prove(ledger, 1, policy=policy_of([KEY.key, WITNESS.key])).size == 7
        with pytest.raises(
            LogError, match=r"of 2 signed checkpoints that have event 1 none fits the policy: .* not cosigned"
        ):
            prove(ledger, 1, policy=policy_of([KEY.key, new_witness_key("w2.example").key]))
        with pytest.raises(
            LogError, match="the signed checkpoint that has event 5 does not fit the policy: "
        ):
            prove(ledger, 5, policy=policy_of([OTHER.key]))

    def test_of_those_that_do_not_fit_one_of_a_known_log_says_why(self, ledger: Ledger) -> None:
        keep_signed(ledger.layout.database, OTHER)  # the last that is looked at
        wanted = policy_of([KEY.key, new_witness_key("w2.example").key])
        with pytest.raises(LogError, match=r"of 3 signed checkpoints .* w2\.example has not cosigned"):
            prove(ledger, 1, policy=wanted)

    def test_of_one_of_its_names(self, ledger: Ledger) -> None:
        with pytest.raises(
            LogError, match=r"keeps no signed checkpoint of 'other\.example' that has event 1; "
        ):
            prove(ledger, 1, origin="other.example")
        keep_signed(ledger.layout.database, OTHER, size=3)
        assert prove(ledger, 1).origin == "other.example"
        assert prove(ledger, 1, origin=LOG).size == 4

    def test_none_has_it(self, tmp_path: Path) -> None:
        ledger = new_ledger(tmp_path, some_events())
        keep_signed(ledger.layout.database, KEY, size=4)
        with pytest.raises(
            LogError,
            match="no signed checkpoint that has event 5; `msb-cache checkpoint --sign KEY` makes one",
        ):
            prove(ledger, 5)


class TestALogThatIsAnother:
    def test_what_is_kept_of_the_tree_may_be_wrong(self, tmp_path: Path) -> None:
        events = [each for _ in range(200) for each in some_events()[:2]]
        ledger = new_ledger(tmp_path, events)
        keep_signed(ledger.layout.database, KEY)
        right = prove(ledger, 300)
        change(ledger, "UPDATE subtree SET hash = randomblob(32)")
        with ledger.read() as connection:
            assert connection is not None
            assert connection.execute("SELECT count(*) FROM subtree").fetchone()[0] > 0
        assert prove(ledger, 300) == right

    @pytest.mark.parametrize("seq", [2, 3, 4])
    def test_written_anew(self, ledger: Ledger, seq: int) -> None:
        rewrite(ledger, seq)
        with pytest.raises(
            CorruptLogError, match="not the one that was signed with 4 events: it was rewritten"
        ):
            prove(ledger, 1)

    def test_changed_in_the_event(self, ledger: Ledger) -> None:
        change(ledger, "UPDATE events SET subject = 'docker.io/library/other:1' WHERE seq = 3")
        with pytest.raises(CorruptLogError, match="event 3 is not what was recorded"):
            prove(ledger, 3)
        assert prove(ledger, 2).seq == 2

    def test_cut_off(self, ledger: Ledger) -> None:
        with closing(sqlite3.connect(ledger.layout.database)) as connection, connection:
            keep(connection, checkpoint(9, bytes(32), KEY), 1)
        with pytest.raises(CorruptLogError, match="only 7 events, and 9 were signed"):
            prove(ledger, 5, size=9)
        change(ledger, "DELETE FROM events WHERE seq > 5")
        with pytest.raises(CorruptLogError, match="ends at event 5, but had 7"):
            prove(ledger, 5)

    def test_with_a_hole(self, ledger: Ledger) -> None:
        change(ledger, "DELETE FROM events WHERE seq = 2")
        for what in (2, 3, 1):
            with pytest.raises(CorruptLogError):
                prove(ledger, what)

    def test_a_note_that_is_damaged(self, ledger: Ledger) -> None:
        change(ledger, "UPDATE signed_checkpoint SET note = replace(note, char(10), '')")
        with pytest.raises(LogError):
            prove(ledger, 3)


def test_of_a_deletion(tmp_path: Path) -> None:
    ledger = ledger_with_deletions(tmp_path)
    keep_signed(ledger.layout.database, KEY)
    with ledger.read() as connection:
        assert connection is not None
        (end,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    assert [
        check(prove(ledger, seq).text.encode(), policy_of([KEY.key])).seq for seq in range(1, end + 1)
    ] == [*range(1, end + 1)]
