"""Go's own verifier accepts what we sign and prove, and neither of the two accepts any of it changed."""

from __future__ import annotations

import base64
import random
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import ImageCache, check_proof
from msb_cache.artifacts.layout import Layout
from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.eventstore import merkle
from msb_cache.eventstore.store import NewEvent
from msb_cache.eventstore.subtrees import LogTree
from msb_cache.proof import note as notes
from msb_cache.proof.note import Note
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.vkey import VerifierKey
from tests.cli.support import APP, TOOL, execute, served, written
from tests.logs import new_ledger, some_events
from tests.peers.goverifier import SOURCE, GoVerifier, environment, secret_of
from tests.proof.signing import MONDAY, SigningKey, cosign, new_log_key, new_witness_key, sign

pytestmark = pytest.mark.peer

LOG, OTHER = new_log_key("ci7.example.com/msb-cache"), new_log_key("ci8.example.com/msb-cache")
WITNESS, SECOND = new_witness_key("witness.example.net/w1"), new_witness_key("witness.example.net/w2")
HEAD = TreeHead(LOG.key.name, 300, sha256(b"root").digest())
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def named(key: VerifierKey) -> str:
    return f"{key.name}+{key.key_id.hex()}"


def signed(text: str, *keys: SigningKey, time: int = MONDAY) -> Note:
    """Return the note of a text with the signatures of logs and witnesses."""
    found = Note(text)
    for each in keys:
        found = (
            cosign(found, each, time)
            if each.key.kind == 4
            else found.with_signatures(sign(text, each).signatures)
        )
    return found


def ours(data: bytes, keys: Sequence[VerifierKey]) -> list[str]:
    """Who of these has signed, as we see it; none: it is refused."""
    try:
        return [named(key) for key in notes.parse(data).signed_by(keys)]
    except InvalidProofError:
        return []


def changes(data: bytes, chooser: random.Random) -> Iterator[bytes]:
    """Yield it with each byte changed: a bit of it, to what ends lines, to what is not UTF-8, to anything."""
    for place, before in enumerate(data):
        others = {before ^ 1, before ^ 0x20, *b"\n\r +=A", 0xFF, chooser.randrange(256)}
        for other in others - {before}:
            yield data[:place] + bytes((other,)) + data[place + 1 :]


# --- notes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [LOG, WITNESS], ids=["log", "witness"])
def test_each_changed_byte_of_a_note_is_refused_by_both(go: GoVerifier, secret: SigningKey) -> None:
    data = str(signed(HEAD.text, secret)).encode()
    found = go.ask("note", note=data, keys=[secret.key])
    assert found["signers"] == ours(data, [secret.key]) == [named(secret.key)]
    assert (found["origin"], found["size"]) == (HEAD.origin, HEAD.size)
    looser = []
    for changed in changes(data, random.Random(1)):
        assert ours(changed, [secret.key]) == [], changed
        if go.signers(changed, [secret.key]):
            looser.append(changed)
    # The last character has bits that are of no byte; Go's base64 does not look at them.
    place = data.rindex(b"=\n") - (1 if secret is LOG else 2)
    assert all(each[:place] + each[place + 1 :] == data[:place] + data[place + 1 :] for each in looser)


@pytest.mark.parametrize(("secret", "unused"), [(LOG, 2), (WITNESS, 4)], ids=["log", "witness"])
def test_only_the_unused_bits_of_base64_are_another_matter(
    go: GoVerifier, secret: SigningKey, unused: int
) -> None:
    data = str(signed(HEAD.text, secret)).encode()
    place = data.rindex(b"=" * (unused // 2) + b"\n") - 1
    used = ALPHABET.index(data[place]) >> unused
    for other in range(256):
        changed = data[:place] + bytes((other,)) + data[place + 1 :]
        same = other in ALPHABET and ALPHABET.index(other) >> unused == used
        assert bool(go.signers(changed, [secret.key])) == same
        assert bool(ours(changed, [secret.key])) == (changed == data)


def test_notes_of_several_keys(go: GoVerifier) -> None:
    secrets = [LOG, WITNESS, SECOND, new_log_key(LOG.key.name, "2"), new_log_key(WITNESS.key.name)]
    note = signed(HEAD.text, *secrets)
    data = str(note).encode()
    for known in (secrets, secrets[:2], secrets[2:], secrets[3:4]):
        keys = [each.key for each in known]
        assert go.signers(data, keys) == ours(data, keys) == [named(key) for key in keys]
    assert go.signers(data, [OTHER.key]) == ours(data, [OTHER.key]) == []

    keys = [each.key for each in secrets]
    chooser = random.Random(2)
    for changed in chooser.sample([*changes(data, chooser)], 1500):
        mine, theirs = ours(changed, keys), go.signers(changed, keys)
        # A changed name makes it a signature of nobody known, below which the others still stand.
        assert mine in ([], theirs)
        assert len(mine) < len(keys)


def test_a_bad_signature_of_a_known_key_refuses_the_note(go: GoVerifier) -> None:
    note = signed(HEAD.text, LOG)
    forged = signed(HEAD.text.replace("300", "301"), WITNESS)
    data = str(note.with_signatures(forged.signatures)).encode()
    assert go.signers(data, [LOG.key]) == ours(data, [LOG.key]) == [named(LOG.key)]
    both = [LOG.key, WITNESS.key]
    assert go.signers(data, both) == ours(data, both) == []


LINES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(code) for code in range(32)]),
    max_size=60,
)
NAMES = st.from_regex(r"[a-zäß€.\-/0-9]{1,40}", fullmatch=True)


@settings(max_examples=60)
@given(st.data())
def test_notes_of_ours_for_go_and_of_go_for_us(go: GoVerifier, data: st.DataObject) -> None:
    text = "".join(f"{line}\n" for line in data.draw(st.lists(LINES, min_size=1, max_size=6)))
    makers = st.sampled_from([new_log_key, new_witness_key])
    drawn = data.draw(st.lists(st.tuples(makers, NAMES), min_size=1, max_size=4, unique=True))
    secrets = [make(name) for make, name in drawn]
    time = data.draw(st.integers(1, 2**63 - 1))
    keys = [each.key for each in secrets]
    mine = str(signed(text, *secrets, time=time)).encode()
    theirs = go.ask("sign", text=text, secrets=[secret_of(each) for each in secrets], time=time)["note"]
    found = go.ask("note", note=mine, keys=keys)
    assert found["signers"] == [named(key) for key in keys]
    assert found["text"] == text
    assert base64.b64decode(theirs) == mine
    read = notes.parse(mine)
    assert (read.text, read.signed_by(keys)) == (text, keys)


@pytest.mark.parametrize("time", [0, 1, MONDAY, 2**63 - 1, 2**63, 2**64 - 1])
def test_times_of_witnesses(go: GoVerifier, time: int) -> None:
    data = str(signed(HEAD.text, WITNESS, time=time)).encode()
    assert bool(ours(data, [WITNESS.key])) == (0 < time < 2**63)
    assert bool(go.signers(data, [WITNESS.key])) == (time < 2**63)


def test_each_changed_byte_of_a_key_is_refused_by_both(go: GoVerifier) -> None:
    for secret in (LOG, WITNESS):
        data, key = str(signed(HEAD.text, secret)).encode(), str(secret.key)
        digits = key.index("+") + 1
        bare = key[:digits] + key[digits + 8 :]
        assert go.accepts("note", note=data, keys=[key])
        assert VerifierKey.parse(key) == secret.key
        for changed in changes(key.encode(), random.Random(3)):
            text = changed.decode(errors="replace")
            with pytest.raises(InvalidConfigError):
                VerifierKey.parse(text)
            # Of a log's key Go reads the hash in capitals, too.
            capital = changed.lower() == key.lower().encode() and text[:digits] + text[digits + 8 :] == bare
            assert go.accepts("note", note=data, keys=[text]) == (capital and secret is LOG)


# --- proofs --------------------------------------------------------------------------------------


def subtree_of(leaves: Sequence[bytes]) -> merkle.Subtree:
    hashed = [merkle.leaf_hash(leaf) for leaf in leaves]
    return lambda level, index: merkle.combined(hashed[index << level : (index + 1) << level])


def new_tree(size: int, seed: int) -> tuple[random.Random, list[bytes], merkle.Subtree, bytes]:
    chooser = random.Random(seed)
    leaves = [chooser.randbytes(32) for _ in range(size)]
    subtree = subtree_of(leaves)
    return chooser, leaves, subtree, merkle.root(size, subtree)


def flipped(data: bytes, chooser: random.Random) -> bytes:
    place = chooser.randrange(len(data))
    return data[:place] + bytes((data[place] ^ (1 << chooser.randrange(8)),)) + data[place + 1 :]


def other_paths(path: Sequence[bytes], chooser: random.Random) -> list[dict[str, object]]:
    """Return a path with a bit changed in each hash, without each, and with one more."""
    found: list[Sequence[bytes]] = [[*path, chooser.randbytes(32)]]
    for place, side in enumerate(path):
        found.append([*path[:place], flipped(side, chooser), *path[place + 1 :]])
        found.append([*path[:place], *path[place + 1 :]])
    return [{"path": each} for each in found]


SIZES = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 3, 127, 128, 129, 255, 256, 257]))


@settings(max_examples=100)
@given(size=SIZES, seed=st.integers(0, 2**32))
def test_inclusion(go: GoVerifier, size: int, seed: int) -> None:
    chooser, leaves, subtree, root = new_tree(size, seed)
    for index in {0, size - 1, chooser.randrange(size)}:
        leaf, path = leaves[index], merkle.inclusion_path(index, size, subtree)
        whole = {"leaf": leaf, "path": path, "root": root, "index": index, "size": size}
        assert both_include(go, whole)
        changed: list[dict[str, object]] = [
            {"leaf": flipped(leaf, chooser)},
            {"root": flipped(root, chooser)},
        ]
        for place, side in enumerate(path):
            changed.append({"path": [*path[:place], flipped(side, chooser), *path[place + 1 :]]})
            changed.append({"path": [*path[:place], *path[place + 1 :]]})
        changed.append({"path": [*path, root]})
        for each in changed:
            assert not both_include(go, {**whole, **each})
        # Of another place or size the same path can be one; whether it is, both see alike.
        for other in range(max(0, index - 3), index + 4):
            assert both_include(go, {**whole, "index": other}) == (other == index)
        for other in range(size - 2, size + 3):
            both_include(go, {**whole, "size": other})


def both_include(go: GoVerifier, proof: dict[str, object]) -> bool:
    leaf, index, size, path = (proof[name] for name in ("leaf", "index", "size", "path"))
    found = merkle.root_of_inclusion(merkle.leaf_hash(leaf), index, size, path)  # type: ignore[arg-type]
    assert go.accepts("inclusion", **proof) == (found == proof["root"]), proof
    return found == proof["root"]


@settings(max_examples=100)
@given(size=SIZES, seed=st.integers(0, 2**32))
def test_consistency(go: GoVerifier, size: int, seed: int) -> None:
    chooser, _, subtree, root = new_tree(size, seed)
    for old in {1, size, chooser.randint(1, size)}:
        old_root, path = merkle.root(old, subtree), merkle.consistency_path(old, size, subtree)
        whole = {"path": path, "old": old, "old_root": old_root, "size": size, "root": root}
        assert both_go_on(go, whole)
        changed = [{"root": flipped(root, chooser)}, {"old_root": flipped(old_root, chooser)}]
        for each in (*changed, *other_paths(path, chooser)):
            assert not both_go_on(go, {**whole, **each})
        for other in range(max(1, old - 2), old + 3):
            both_go_on(go, {**whole, "old": other})
        for other in range(size - 2, size + 3):
            both_go_on(go, {**whole, "size": other})


def both_go_on(go: GoVerifier, proof: dict[str, object]) -> bool:
    asked = (proof[name] for name in ("old", "size", "old_root", "root", "path"))
    found = merkle.is_consistent(*asked)  # type: ignore[arg-type]
    assert go.accepts("consistency", **proof) == found, proof
    return found


# --- the whole way -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def events() -> list[NewEvent]:
    chooser = random.Random(4)
    return [chooser.choice(some_events()) for _ in range(300)]


def test_proofs_of_a_long_log(go: GoVerifier, events: list[NewEvent], tmp_path: Path) -> None:
    """Each signed part of it goes on from each before, and has its events."""
    chooser, notes_of = random.Random(5), {}
    with ImageCache(tmp_path) as cache:
        for first in range(0, 300, 60):
            new_ledger(tmp_path, events[first : first + 60]).close()
            taken = cache.checkpoint(sign=LOG)
            found = go.ask("note", note=taken.note.encode(), keys=[LOG.key])
            assert found["signers"] == [named(LOG.key)]
            assert (found["origin"], found["size"]) == (LOG.key.name, taken.size)
            assert base64.b64decode(found["root"]) == taken.root
            notes_of[taken.size] = taken
        with closing(sqlite3.connect(Layout(tmp_path).database)) as connection:
            query = "SELECT seq, id, lower(hex(hash)) FROM events"
            stored = {seq: (id_, hash_) for seq, id_, hash_ in connection.execute(query)}
            tree = LogTree(connection, taken.size)
            for size, before in notes_of.items():
                path = tree.consistency_path(size)
                whole = {"path": path, "old": size, "old_root": before.root, "size": taken.size}
                assert both_go_on(go, {**whole, "root": taken.root})
                assert not both_go_on(go, {**whole, "root": before.root}) or size == taken.size
        for seq in {1, taken.size, *(chooser.randint(1, taken.size) for _ in range(30))}:
            proof = cache.prove(seq)
            found = go.ask("proof", note=proof.text.encode(), keys=[LOG.key])
            assert (found["index"], found["size"]) == (seq - 1, proof.size)
            assert (found["event"]["id"], found["event"]["hash"]) == stored[seq]


def test_each_changed_byte_of_a_proof_is_refused(go: GoVerifier, tmp_path: Path) -> None:
    with ImageCache(tmp_path) as cache:
        new_ledger(tmp_path, some_events()).close()
        cache.checkpoint(sign=LOG)
        data = cache.prove(5).text.encode()
    keys = [LOG.key]
    whole = go.ask("proof", note=data, keys=keys)
    assert check_proof(data, keys=keys).seq == whole["index"] + 1 == 5
    chooser = random.Random(6)
    for place, before in enumerate(data):
        for other in {before ^ 1, chooser.randrange(256), *chooser.choices(ALPHABET, k=2)} - {before}:
            changed = data[:place] + bytes((other,)) + data[place + 1 :]
            with pytest.raises(InvalidProofError):
                check_proof(changed, keys=keys)
            # What Go reads less strictly (bits of base64 that are of no byte, names of JSON) says the same.
            assert go.ask("proof", note=changed, keys=keys) in (whole, {"error": ANY})


@pytest.mark.slow
def test_what_the_command_writes(go: GoVerifier, tmp_path: Path) -> None:
    """Keys, notes, cosignatures and proofs by the installed program, of an image that goes again."""
    home = tmp_path / "cache-home"

    def run(*arguments: object) -> bytes:
        done = execute("--home", home, *arguments, MSB_CACHE_NO_HEAD="1")
        assert done.code == 0, done.err
        return done.raw

    secret, witness = tmp_path / "log.key", tmp_path / "witness.key"
    key = run("key", "new", secret, "--name", LOG.key.name).decode().strip()
    witness_key = run("key", "new", witness, "--name", WITNESS.key.name, "--witness").decode().strip()
    run("load", written(tmp_path / "app.tar", APP))
    before = run("checkpoint", "--sign", secret)
    run("remove", "app:1")
    after = run("checkpoint", "--sign", secret)
    heads = [go.ask("note", note=note, keys=[key]) for note in (before, after)]
    assert [head["origin"] for head in heads] == [LOG.key.name] * 2
    assert heads[0]["size"] < heads[1]["size"]

    proof = run("prove", "app:1", "--type", "image.removed")
    found = go.ask("proof", note=proof, keys=[key])
    assert found["event"]["type"] == "image.removed"
    assert found["event"]["subject"] == "docker.io/library/app:1"
    assert heads[0]["size"] < found["event"]["seq"] <= found["size"] == heads[1]["size"]
    assert not go.accepts("proof", note=proof, keys=[OTHER.key])

    # A witness cosigns both, as Go sees it.
    serve = ("witness", "serve", "--key", witness, "--log", key, "--state", tmp_path / "w.db")
    both = [VerifierKey.parse(each) for each in (key, witness_key)]
    with served(*serve, "--listen", "127.0.0.1:0") as server:
        for _ in range(2):
            asked = ("--witness", server.said, "--witness-key", witness_key)
            cosigned = run("checkpoint", "--sign", secret, *asked)
            assert go.signers(cosigned, both) == [named(each) for each in both]
            run("load", written(tmp_path / "tool.tar", TOOL))
        server.end()

    # Go signs with the same secrets what the program then takes for its own.
    secrets = [file.read_text().strip().splitlines()[-1] for file in (secret, witness)]
    theirs = go.ask("sign", text=heads[1]["text"], secrets=secrets, time=MONDAY)["note"]
    note = base64.b64decode(theirs)
    assert note.startswith(after)
    assert ours(note, both) == go.signers(note, both) == [named(each) for each in both]
    (tmp_path / "cosigned.tlog-proof").write_bytes(proof.replace(after, note))
    run("check-proof", tmp_path / "cosigned.tlog-proof", "--key", key, "--key", witness_key)
    (tmp_path / "cosigned.txt").write_bytes(note)
    run("verify", "--against", tmp_path / "cosigned.txt", "--key", key, "--key", witness_key)


# --- the verifier itself -------------------------------------------------------------------------


def test_the_verifier_is_in_gos_style(go: GoVerifier) -> None:
    for command in (["gofmt", "-l", SOURCE], ["go", "vet", SOURCE]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_what_is_no_question_is_refused(go: GoVerifier) -> None:
    assert go.ask("nothing") == {"error": 'nothing is called "nothing"'}
    assert not go.accepts("inclusion", root="=")
    assert not go.accepts("note", note=b"")
