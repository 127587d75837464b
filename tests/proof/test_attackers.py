"""What an attacker can and cannot do: each row of the table in docs/proof.md, done to a real home.

A row says what somebody has, what they can, and what finds it; a test does that and looks for both. Homes are
forged as well as it can be done: the chain is hashed anew, and all that is made of the log is made anew.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from msb_cache import check_proof
from msb_cache.audit.checkpoints import Checkpoint, Signing
from msb_cache.audit.verify import Verification
from msb_cache.audit.witnesses import WitnessClient
from msb_cache.cache import ImageCache
from msb_cache.errors import CorruptLogError, InvalidProofError, LogError, SigningError
from msb_cache.eventstore.chain import Break, Verified, link, raw_rows
from msb_cache.eventstore.store import Actor
from msb_cache.eventstore.subtrees import LogTree
from msb_cache.proof import inclusion, note_file
from msb_cache.proof.agent import AgentSigner
from msb_cache.proof.key_file import key_of
from msb_cache.proof.note import Note, Signature, parse
from msb_cache.proof.policy import Policy
from msb_cache.proof.signer import Signer
from msb_cache.proof.submission import SIZE_TYPE
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.proof.witness import Answer, Witness
from tests.imagebuilder import docker_archive, sample
from tests.proof.forging import blame, events_of, forced, rewrite
from tests.proof.signing import (
    LOG,
    MONDAY,
    SigningKey,
    cosign,
    new_log_key,
    new_witness_key,
    sign,
)
from tests.proof.submitting import LOG_KEY, WITNESS, request, witness_at
from tests.proof.test_forks import Event
from tests.rawserver import Act, RawServer, answer, message, raw

DOCUMENT = Path(__file__).parents[2] / "docs/proof.md"
ALICE = Actor(user="alice", uid=1000, host="ci7", program="test")
REMOVED = 17
"""The event that the image hello:1.0 was removed, in every home here."""
SIGNED = 296
"""So many events were signed on Monday."""
OTHERS = [new_witness_key(f"w{number}.example") for number in (2, 3)]


@dataclass(frozen=True)
class Home:
    """A home with a log of which a checkpoint was signed and cosigned, and that has gone on since.

    Attributes:
        path: where it is.
        monday: that checkpoint, as somebody outside holds it.
        before: a copy of the whole home before the checkpoint.
        after: one of it as it is.
    """

    path: Path
    monday: Note
    before: Path
    after: Path

    def put_back(self, copy: Path) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(copy, self.path, symlinks=True)

    def opened(self) -> ImageCache:
        return ImageCache(self.path, actor=ALICE)

    def verify(self, *against: Note | str, **who: object) -> Verification:
        with self.opened() as cache:
            return cache.verify(*map(str, against), **who)  # type: ignore[arg-type]

    def signed(self, by: Signer | Signing = LOG_KEY) -> Checkpoint:
        with self.opened() as cache:
            return cache.checkpoint(sign=by)

    def proof_of(self, seq: int = REMOVED, size: int | None = None) -> bytes:
        with self.opened() as cache:
            return cache.prove(seq, size=size).text.encode()

    def copied(self, name: str) -> Home:
        path = self.path.with_name(name)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path, symlinks=True)
        return dataclasses.replace(self, path=path)

    def path_from(self, old: int, size: int) -> tuple[bytes, ...]:
        """What its tree has as the proof that it goes on from a smaller size."""
        with closing(sqlite3.connect(self.path / "db/msb-cache.db")) as connection:
            return tuple(LogTree(connection, size).consistency_path(old)) if 0 < old < size else ()

    def submitted(self, to: Witness, note: str, *, old: int = SIGNED) -> Answer:
        """What a witness says of a checkpoint of this home, with the best proof that there is for it."""
        found = parse(note.encode())
        size = head_of(found).size
        return to.add_checkpoint(request(old, self.path_from(old, size), found))

    def is_refused(self, to: Witness, note: str) -> bool:
        """Whether a witness refuses a checkpoint, whatever size it is said to go on from."""
        sizes = (0, SIGNED, head_of(parse(note.encode())).size)
        return all(self.submitted(to, note, old=old).status in (400, 409, 422) for old in sizes)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("attacked")
    path = folder / "home"
    archive = docker_archive(sample("hello:1.0"), sample("hello:1.1", seed="other"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(folder))
        environment.setenv("MSB_CACHE_NO_HEAD", "1")
        with ImageCache(path, actor=ALICE) as cache:
            cache.load(io.BytesIO(archive))
            cache.hold("hello:1.1", "sandbox:dev")
            cache.prune(reason="nightly clean-up")
            for _ in range(SIGNED - 5 - 23):
                cache.use("hello:1.1")
        shutil.copytree(path, folder / "before")
        with ImageCache(path, actor=ALICE) as cache:
            for _ in range(5):
                cache.use("hello:1.1")
            monday = cosign(parse(cache.checkpoint(sign=LOG_KEY).note.encode()), WITNESS)
            for _ in range(4):
                cache.use("hello:1.1")
    shutil.copytree(path, folder / "after")
    return Home(path, monday, folder / "before", folder / "after")


@pytest.fixture
def home(original: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The home as nobody has touched it, where it was made: its files say where they are."""
    monkeypatch.setenv("MSB_CACHE_NO_HEAD", "1")
    original.put_back(original.after)
    return original


@pytest.fixture
def witness(home: Home, tmp_path: Path) -> Iterator[Witness]:
    """A witness that has cosigned Monday's checkpoint."""
    with closing(witness_at(tmp_path)) as found:
        assert home.submitted(found, str(home.monday), old=0).status == 200
        yield found


def policy(*witnesses: SigningKey, of: int = 1, log: SigningKey = LOG_KEY) -> bytes:
    """Of these witnesses so many must have cosigned; without any none must."""
    lines = [f"log {log.key}", *(f"witness {number} {each.key}" for number, each in enumerate(witnesses))]
    if witnesses:
        lines.append(f"group enough {of} {' '.join(map(str, range(len(witnesses))))}")
    return "\n".join([*lines, "quorum enough\n" if witnesses else "quorum none\n"]).encode()


WITNESSED = policy(WITNESS)


def looks_true(home: Home) -> bool:
    """Whether nothing in a home says that it is not what it was."""
    found = home.verify()
    return found.sound and isinstance(found.chain, Verified) and not found.put_back


def is_believed(proof: bytes, asked: bytes) -> bool:
    try:
        check_proof(proof, policy=asked)
    except InvalidProofError:
        return False
    return True


def says(found: Verification) -> str:
    assert not found.sound
    assert found.contradiction is not None
    return found.contradiction


def faults(found: Verification) -> list[tuple[str, int]]:
    return [(each.problem, each.size) for each in found.bad_checkpoints]


def rows_in_table() -> dict[str, list[str]]:
    """Return the cells of each row, by its first one."""
    _, _, section = DOCUMENT.read_text().partition("\n## What an attacker can and cannot do\n")
    section, _, _ = section.partition("\n## ")
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    found = {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}
    assert len(found) == len(rows)
    return found


def test_each_row_has_its_test() -> None:
    tests = {name.removeprefix("test_") for name in vars(TestWhoever) if name.startswith("test_")}
    rows = rows_in_table()
    assert {row.replace("-", "_") for row in rows} == tests
    # Who can do something that nothing finds is said so, and who can do nothing has an empty cell.
    assert all(len(cells) == 3 and cells[0] and cells[2] for cells in rows.values())


def test_the_home_is_true(home: Home, witness: Witness) -> None:
    found = home.verify(home.monday, policy=WITNESSED)
    assert (found.sound, found.against and found.against.problem) == (True, None)
    (event,) = list(events_of(home.path)[REMOVED - 1 : REMOVED])
    assert (event["type"], event["subject"]) == ("image.removed", "docker.io/library/hello:1.0")
    assert len(events_of(home.path)) == SIGNED + 4
    assert home.submitted(witness, home.signed().note).status == 200
    assert check_proof(home.proof_of(), keys=[LOG_KEY.key]).seq == REMOVED


class TestWhoever:
    """A test for each row, by its name."""

    def test_reads_the_home(self, home: Home) -> None:
        secrets = [LOG_KEY.secret.private_bytes_raw(), WITNESS.secret.private_bytes_raw()]
        files = [each.read_bytes() for each in home.path.rglob("*") if each.is_file()]
        forms = [(each, base64.b64encode(each), each.hex().encode()) for each in secrets]
        assert not [form for each in forms for form in each if any(form in file for file in files)]
        with home.opened() as cache:
            found = cache.checkpoint(origin=LOG)
        assert home.verify(found.note).sound  # it is what the log is, and nobody has signed it
        problem = home.verify(found.note, keys=[LOG_KEY.key]).against
        assert problem is not None
        assert "not signed by the key" in str(problem.problem)

    def test_changes_a_row(self, home: Home) -> None:
        true = home.copied("true").signed()
        with forced(home.path) as connection:
            connection.execute(
                "UPDATE events SET actor = replace(actor, 'alice', 'mallory') WHERE seq = ?", (REMOVED,)
            )
        found = home.verify()
        assert isinstance(found.chain, Break)
        assert (found.chain.seq, found.chain.kind) == (REMOVED, "changed")
        with home.opened() as cache, pytest.raises(CorruptLogError, match=f"event {REMOVED} is not what"):
            cache.prove(REMOVED)
        assert home.signed().root == true.root  # of what was there when it was signed, not of what is

    def test_rewrites(self, home: Home) -> None:
        rewrite(home.path, blame())
        assert looks_true(home)
        with home.opened() as cache:
            (event,) = cache.history("hello:1.0", types=["image.removed"])
            assert event.actor.user == "mallory"
            assert cache.checkpoints() == []
            assert cache.verify(cache.checkpoint().note).sound

    def test_rewrites_kept(self, home: Home) -> None:
        rewrite(home.path, blame(), forget=False)
        found = home.verify()
        assert (found.sound, faults(found)) == (False, [("rewritten", SIGNED)])
        assert isinstance(found.chain, Verified)
        assert not found.differences
        with pytest.raises(CorruptLogError, match=r"it was rewritten\. Nothing is signed"):
            home.signed()

    def test_rewrites_note(self, home: Home) -> None:
        rewrite(home.path, blame())
        assert "were not" in says(home.verify(home.monday)) or "rewritten" in says(home.verify(home.monday))

    def test_cuts_off(self, home: Home) -> None:
        rewrite(home.path, lambda events: events[: SIGNED - 5], forget=False)
        assert f"has only {SIGNED - 5} events" in says(home.verify(home.monday))
        with pytest.raises(LogError, match=f"{SIGNED} were signed as {LOG}: its end was cut off"):
            home.signed()
        rewrite(home.path, lambda events: events)
        assert looks_true(home)  # where nothing is kept of it
        assert not home.verify(home.monday).sound

    def test_inserts_behind(self, home: Home) -> None:
        rewrite(home.path, blame(place=SIGNED + 1), forget=False)
        assert looks_true(home)
        assert home.verify(home.monday, policy=WITNESSED).sound
        tuesday = home.signed()
        assert is_believed(home.proof_of(SIGNED + 2), policy())
        rewrite(home.path, blame("trudy", SIGNED + 2))
        assert home.verify(home.monday).sound
        assert "rewritten" in says(home.verify(tuesday.note))

    def test_fools_the_signer(self, home: Home, witness: Witness) -> None:
        rewrite(home.path, blame())
        found = home.signed()  # by the log's own key, which the attacker has not: it keeps nothing itself
        assert home.verify(found.note, keys=[LOG_KEY.key]).sound
        assert is_believed(home.proof_of(), policy())
        assert "rewritten" in says(home.verify(home.monday))
        assert home.is_refused(witness, found.note)
        assert not is_believed(home.proof_of(), WITNESSED)

    def test_fakes_kept(self, home: Home) -> None:
        def put(size: int, *signatures: Signature) -> Note:
            note = Note(TreeHead(LOG, size, bytes(32)).text, signatures)
            with forced(home.path) as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO signed_checkpoint VALUES (?, ?, ?, ?)", (LOG, size, str(note), 1)
                )
            return note

        forged = Signature(LOG, LOG_KEY.key.key_id, bytes(64))
        unknown = Signature(LOG, b"none", bytes(64))
        earlier = put(10, forged)
        assert faults(home.verify()) == [("rewritten", 10)]
        check = home.verify(earlier, keys=[LOG_KEY.key]).against
        assert check is not None
        assert check.judgement is not None
        assert "is not of that key" in str(check.judgement.problem)
        assert home.signed().size == SIGNED + 4  # it goes on from what its key has signed
        with pytest.raises(CorruptLogError, match="not the one that was signed with 10 events"):
            home.proof_of(5)  # which takes the first that has the event
        assert is_believed(home.proof_of(5, SIGNED), policy())
        with forced(home.path) as connection:
            connection.execute("DELETE FROM signed_checkpoint WHERE size = 10")
        with home.opened() as cache:
            cache.use("hello:1.1")
            cache.use("hello:1.1")
        for size in (SIGNED + 5, 10_000):
            for signature in (forged, unknown):
                put(size, signature)
                with pytest.raises(
                    LogError, match="that is of another log, and that this key has not signed"
                ):
                    home.signed()
                assert size in {size for _, size in faults(home.verify())}
            with forced(home.path) as connection:
                connection.execute("DELETE FROM signed_checkpoint WHERE size = ?", (size,))
        assert home.signed().size == SIGNED + 6
        # One of the log as it was rewritten does not hide those of before, which the key has signed.
        rewrite(home.path, blame(), forget=False)
        with closing(sqlite3.connect(home.path / "db/msb-cache.db")) as connection:
            root = LogTree(connection, SIGNED + 6).root()
            note = Note(TreeHead(LOG, SIGNED + 6, root).text, (unknown,))
            connection.execute(
                "UPDATE signed_checkpoint SET note = ? WHERE size = ?", (str(note), SIGNED + 6)
            )
            connection.commit()
        with pytest.raises(CorruptLogError, match=f"of which {SIGNED} events were signed as {LOG}"):
            home.signed()

    def test_fakes_subtrees(self, home: Home) -> None:
        true = home.copied("true").signed()
        with forced(home.path) as connection:
            assert connection.execute("UPDATE subtree SET hash = zeroblob(32)").rowcount == 1
        with home.opened() as cache:
            assert cache.checkpoint(origin=LOG).root != true.root
        found = home.verify()
        assert (found.sound, len(found.bad_subtrees), found.bad_checkpoints) == (False, 1, [])
        assert home.signed().root == true.root
        assert is_believed(home.proof_of(), policy())
        with home.opened() as cache:
            assert len(cache.rebuild()) == 1
            assert cache.checkpoint(origin=LOG).root == true.root
        assert looks_true(home)

    def test_has_the_key(self, home: Home, witness: Witness) -> None:
        rewrite(home.path, blame())
        forged = home.signed(LOG_KEY).note
        assert looks_true(home)
        assert home.verify(forged, keys=[LOG_KEY.key]).sound
        found = check_proof(home.proof_of(), keys=[LOG_KEY.key])
        assert '"mallory"' in str(found.columns["actor"])
        assert "rewritten" in says(home.verify(home.monday))
        assert home.is_refused(witness, forged)
        refused = home.submitted(witness, forged)
        assert (refused.status, refused.refusal) == (422, "unproved")
        assert not is_believed(home.proof_of(), WITNESSED)
        (known,) = witness.remembered()
        assert (known.size, [each.note for each in known.refused]) == (SIGNED, [forged])

    def test_forks(self, home: Home, witness: Witness) -> None:
        yours, theirs = home, home.copied("fork")
        rewrite(theirs.path, blame(place=SIGNED + 1))
        notes = [each.signed().note for each in (yours, theirs)]
        proofs = [each.proof_of(SIGNED + 2) for each in (yours, theirs)]
        assert all(is_believed(proof, policy()) for proof in proofs)
        accepted = yours.submitted(witness, notes[0])
        assert accepted.status == 200
        assert theirs.is_refused(witness, notes[1])
        assert theirs.submitted(witness, notes[1], old=SIGNED + 4).refusal == "fork"
        (known,) = witness.remembered()
        assert [each.is_fork for each in known.refused] == [True]
        lines = accepted.body.decode()  # the cosignature of the one, below the other
        one, other = (Policy.parse(WITNESSED).judge(parse(f"{note}{lines}".encode())) for note in notes)
        assert (one.problem, "is not of that key" in str(other.problem)) == (None, True)
        assert not is_believed(proofs[1], WITNESSED)

    def test_asks_the_agent(
        self,
        home: Home,
        witness: Witness,
        require_peer: Callable[[str], str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        subprocess.run(
            [require_peer("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True
        )
        signer = AgentSigner(key_of(tmp_path / "id.pub", name=LOG))
        with TemporaryDirectory() as folder:
            monkeypatch.setenv("SSH_AUTH_SOCK", f"{folder}/agent")
            words = [require_peer("ssh-agent"), "-D", "-a", f"{folder}/agent"]
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
            try:
                deadline = time.monotonic() + 10
                while not os.path.exists(f"{folder}/agent"):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                subprocess.run([require_peer("ssh-add"), tmp_path / "id"], check=True, capture_output=True)
                tuesday = home.signed(signer).note
                with closing(witness_at(tmp_path / "second", signer.key)) as second:
                    assert home.submitted(second, tuesday, old=0).status == 200
                    rewrite(home.path, blame())
                    forged = home.signed(signer).note
                    assert home.verify(forged, keys=[signer.key]).sound
                    assert "rewritten" in says(home.verify(tuesday))
                    assert home.is_refused(second, forged)
            finally:
                process.terminate()
                process.wait(10)
        with home.opened() as cache:
            cache.use("hello:1.1")
        with pytest.raises(SigningError, match="cannot be reached"):
            home.signed(signer)  # the secret stayed where it is

    def test_has_a_witness(self, home: Home) -> None:
        rewrite(home.path, blame())
        with home.opened() as cache:
            bare = parse(cache.checkpoint(origin=LOG).note.encode())
        own = new_log_key(LOG, "the attacker's")
        for note in (cosign(bare, WITNESS), cosign(sign(bare.text, own), WITNESS)):
            found = home.verify(note, policy=WITNESSED).against
            assert found is not None
            assert found.judgement is not None
            assert [each.key for each in found.judgement.cosigned] == [WITNESS.key]
            assert "is not signed by the key of that log" in str(found.problem)
        home.signed(own)
        proof = inclusion.parse(home.proof_of())
        assert is_believed(str(proof).encode(), policy(log=own))
        assert not is_believed(str(replace(proof, note=note)).encode(), WITNESSED)

    def test_has_some_witnesses(self, home: Home) -> None:
        asked = policy(WITNESS, *OTHERS, of=2)
        rewrite(home.path, blame())
        note = cosign(parse(home.signed().note.encode()), OTHERS[0])
        found = home.verify(note, policy=asked).against
        assert found is not None
        assert "1 of the 2 cosignatures that the quorum asks for" in str(found.problem)
        twice = cosign(cosign(note, OTHERS[0], MONDAY + 1), new_witness_key(OTHERS[0].key.name, "another"))
        assert Policy.parse(asked).judge(twice).problem is not None
        proof = replace(inclusion.parse(home.proof_of()), note=twice)
        assert not is_believed(str(proof).encode(), asked)

    def test_has_the_quorum(self, home: Home) -> None:
        asked = policy(WITNESS, *OTHERS, of=2)
        theirs = home.copied("fork")
        rewrite(theirs.path, blame())
        notes = []
        for each in (home, theirs):
            note = parse(each.signed().note.encode())
            for key in OTHERS:
                note = cosign(note, key)
            notes.append(note)
            found = each.verify(note, policy=asked).against
            assert (found and found.problem) is None
            proof = replace(inclusion.parse(each.proof_of(REMOVED, SIGNED + 4)), note=note)
            assert is_believed(str(proof).encode(), asked)
        assert "rewritten" in says(home.verify(notes[1], policy=asked))
        assert "rewritten" in says(theirs.verify(notes[0], policy=asked))

    def test_puts_the_witness_back(self, home: Home, witness: Witness, tmp_path: Path) -> None:
        (tmp_path / "older").mkdir()
        shutil.copy(tmp_path / "w.db", tmp_path / "older/w.db")
        tuesday = home.signed().note
        assert home.submitted(witness, tuesday).status == 200
        rewrite(home.path, blame(place=SIGNED + 1))
        forged = home.signed().note
        assert home.is_refused(witness, forged)
        with closing(witness_at(tmp_path / "older")) as older:
            cosignature = home.submitted(older, forged)
            assert cosignature.status == 200
        with closing(witness_at(tmp_path / "deleted")) as deleted:
            assert home.submitted(deleted, forged).body == b"0\n"
            assert home.submitted(deleted, forged, old=0).status == 200
        assert home.verify(f"{forged}{cosignature.body.decode()}", policy=WITNESSED).sound
        assert "rewritten" in says(home.verify(tuesday))
        asked = policy(WITNESS, *OTHERS, of=2)
        assert Policy.parse(asked).judge(parse(f"{forged}{cosignature.body.decode()}".encode())).problem

    def test_in_between(self, home: Home, witness: Witness, tmp_path: Path) -> None:
        def lies(by: SigningKey, text: str | None = None) -> Act:
            def act(connection: socket.socket, body: bytes) -> None:
                note = parse(body.partition(b"\n\n")[2])
                line = cosign(Note(text or note.text), by).signatures[0].line
                connection.sendall(message(200, line.encode()))

            return act

        def relays(connection: socket.socket, body: bytes) -> None:
            found = witness.add_checkpoint(body)
            connection.sendall(message(found.status, found.body, found.content_type))

        older = home.monday.signatures[-1].line.encode()
        impostor = new_witness_key(WITNESS.key.name, "an impostor")
        same_id = SigningKey(impostor.secret, WITNESS.key)
        acts = {
            "signatures of witness.example/w1 only": [lies(impostor)],
            "not of its key over this checkpoint": [lies(same_id)],
            "is not of its key over this": [answer(200, older)],
            "not of its key": [lies(WITNESS, home.monday.text.replace(str(SIGNED), "300"))],
            "no signature": [answer(200, b"trust me\n")],
            "has cosigned 9,999 events": [answer(409, b"9999\n", SIZE_TYPE)],
            "contradicts itself|each time": [answer(409, b"5\n", SIZE_TYPE), answer(409, b"0\n", SIZE_TYPE)],
            "without a size": [answer(409, b"many\n", SIZE_TYPE)],
            "was rewritten|unsound": [answer(422, b"it was rewritten\n")],
            "does not know the log": [answer(404)],
            "try again later": [answer(503)],
            "": [raw(b"")],
        }
        keys = (WITNESS.key,)
        for sentence, server_acts in acts.items():
            with RawServer(*server_acts) as server:
                client = WitnessClient(server.url, keys, timeout=5)
                found = home.signed(Signing(LOG_KEY, (client,)))
            assert found.problem is not None
            assert re.search(sentence, found.problem), found.problem
            assert found.cosigned == ()
        assert looks_true(home)
        with RawServer(relays) as server:
            found = home.signed(Signing(LOG_KEY, (WitnessClient(server.url, keys, timeout=5),)))
        assert (found.problem, [each.name for each in found.cosigned]) == (None, [WITNESS.key.name])
        # Whoever passes it on has seen no more than numbers: nothing of the events is in what was sent.
        (sent,) = [body for _, body in server.requests[-1:]]
        assert b"hello" not in sent
        assert b"alice" not in sent

    def test_alters_a_proof(self, home: Home) -> None:
        proof = home.proof_of()
        assert is_believed(proof, policy())
        chooser = random.Random(1)
        for place in range(len(proof)):
            other = chooser.choice([each for each in b"\n aA0+/=\xff" if each != proof[place]])
            assert not is_believed(proof[:place] + bytes((other,)) + proof[place + 1 :], policy()), place
            assert not is_believed(proof[:place], policy())
        found = inclusion.parse(proof)
        with closing(sqlite3.connect(home.path / "db/msb-cache.db")) as connection:
            (_, previous), (row, stored) = raw_rows(connection, REMOVED - 2, REMOVED)
        for place, column in enumerate(row):
            changed = list(row)
            changed[place] = column + 1 if isinstance(column, int) else f"{column} "
            for hashed in (stored, link(previous, changed)):
                forged = inclusion.make(tuple(changed), hashed, previous, found.path, found.note)
                assert not is_believed(str(forged).encode(), policy()), place

    def test_moves_a_proof(self, home: Home) -> None:
        home.signed()
        proof, next_one = (inclusion.parse(home.proof_of(seq)) for seq in (REMOVED, REMOVED + 1))
        assert is_believed(str(proof).encode(), policy())
        moved = [
            replace(proof, index=REMOVED),
            replace(proof, extra=next_one.extra),
            replace(next_one, extra=proof.extra),
            replace(proof, note=parse(home.signed().note.encode())),
        ]
        assert not any(is_believed(str(each).encode(), policy()) for each in moved)
        for key in (new_log_key("other.example/log"), new_log_key(LOG, "another")):
            theirs = home.copied(key.key.key_id.hex())
            with forced(theirs.path) as connection:
                connection.execute("DELETE FROM signed_checkpoint")
            theirs.signed(key)
            text = theirs.proof_of()
            assert is_believed(text, policy(log=key))
            with pytest.raises(InvalidProofError, match=r"of which no key is given|is not signed by"):
                check_proof(text, keys=[LOG_KEY.key])

    def test_appends_to_the_file(self, home: Home, tmp_path: Path) -> None:
        file, keys = tmp_path / "notes", [LOG_KEY.key]
        for note in (str(home.monday), home.signed().note):
            note_file.append(str(file), note)
        before = file.read_text()
        theirs = home.copied("theirs")
        rewrite(theirs.path, blame())
        forged = theirs.signed(new_log_key(LOG, "the attacker's")).note
        note_file.append(str(file), forged)
        found = home.verify(file.read_text(), keys=keys)
        assert (found.sound, found.against and found.against.size) == (True, SIGNED + 4)
        assert "rewritten" in says(home.verify(file.read_text()))  # to who does not ask for the signature
        # What stood there before stands there still, and the forged log is found with it.
        assert file.read_text().startswith(before)
        assert "rewritten" in says(theirs.verify(file.read_text(), keys=keys))
        note_file.append(str(file), str(sign("no checkpoint\n", new_log_key(LOG, "the attacker's"))))
        with pytest.raises(InvalidProofError, match="note 4 of the file is no checkpoint"):
            home.verify(file.read_text(), keys=keys)

    def test_appends(self, home: Home, witness: Witness) -> None:
        def made_up(events: list[Event]) -> list[Event]:
            actor = events[-1]["actor"].replace("alice", "bob")
            return [*events, {**events[-1], "id": "01a225cf-7ec9-7576-8858-2ebf88664b65", "actor": actor}]

        rewrite(home.path, made_up, forget=False)
        found = home.signed()
        assert looks_true(home)
        assert home.verify(home.monday).sound
        assert home.submitted(witness, found.note).status == 200

    def test_puts_the_machine_back(self, home: Home, witness: Witness) -> None:
        home.put_back(home.before)
        with home.opened() as cache:
            for _ in range(9):
                cache.use("hello:1.1")
        assert looks_true(home)
        found = home.signed()  # the home knows nothing of what it signed after that
        assert home.verify(found.note, keys=[LOG_KEY.key]).sound
        assert "rewritten" in says(home.verify(home.monday))
        assert home.is_refused(witness, found.note)

    def test_sets_the_clock(self, home: Home, witness: Witness) -> None:
        year = 365 * 24 * 3600 * 10**9
        with ImageCache(home.path, actor=ALICE, clock=lambda: time.time_ns() - year) as cache:
            cache.use("hello:1.1")
        jumped, used = events_of(home.path)[-2:]
        assert (jumped["type"], used["type"]) == ("clock.jumped", "image.used")
        assert used["occurred_at"] < time.time_ns() - year
        assert looks_true(home)
        found = home.signed()
        accepted = home.submitted(witness, found.note)
        note = parse(f"{found.note}{accepted.body.decode()}".encode())
        (seen,) = Policy.parse(WITNESSED).judge(note).cosigned
        assert seen.cosigned_at_ns == MONDAY * 10**9  # as the witness's clock has it
