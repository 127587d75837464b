"""Checking a proof without its log and without a home."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import merkle
from msb_cache.eventstore.chain import link
from msb_cache.eventstore.row import GENESIS
from msb_cache.proof.inclusion import make
from msb_cache.proof.note import parse
from tests.cli.support import APP, FAILED, PROGRAM, USAGE, Call, execute, on_terminal, sentence
from tests.proof.signing import checkpoint, cosign, keep_signed, new_log_key, new_witness_key

KEY, WITNESS = new_log_key(), new_witness_key("w1.example")
VKEY = f"--key={KEY.key}"


@pytest.fixture
def pruned(home: Path, tmp_path: Path) -> Path:
    """The proof that a prune removed app:1; the home is gone."""
    with ImageCache(home) as cache:
        cache.prune(reason="the disk is full")
    keep_signed(Layout(home).database, KEY, witnesses=[WITNESS])
    with ImageCache(home) as cache:
        proof = cache.prove("app:1", type="image.removed")
        path = tmp_path / "removed.tlog-proof"
        path.write_text(proof.text)
    home.rename(tmp_path / "away")
    return path


def forged(tmp_path: Path, type_: str, data: str) -> Path:
    """The proof of an event that no release of ours has written, in a log of one."""
    row = (1, "id-1", type_, 1, "docker.io/library/app:1", "operation", 10**18, 10**18, "{}", data)
    stored = link(GENESIS, row)
    note = checkpoint(1, merkle.leaf_hash(stored), KEY)
    path = tmp_path / "forged.tlog-proof"
    path.write_text(str(make(row, stored, GENESIS, [], note)))
    return path


class TestWhatIsSaid:
    def test_that_a_prune_removed_an_image(self, pruned: Path, call: Call, tmp_path: Path) -> None:
        done = call("check-proof", pruned, VKEY, f"--key={WITNESS.key}")
        assert (done.code, done.err) == (0, "")
        event, when, who, operation, log, signed, cosigned = done.lines
        assert re.fullmatch(r"  ✓ event    removed app:1, by a prune \(image\.removed, event \d+\)", event), (
            event
        )
        assert re.fullmatch(r" {13}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", when)
        assert who.startswith("             by ")
        assert who.endswith(": the disk is full")
        assert re.fullmatch(r" {13}operation [0-9a-f-]{36}", operation)
        assert re.fullmatch(r"  ✓ log      among the first \d+ events of log\.example/cache", log)
        assert signed == f"  ✓ signed   by the log's key {KEY.key}"
        assert cosigned.startswith("  ✓ cosigned by w1.example, 2026-10-2")
        assert not (tmp_path / "home" / ".microsandbox").exists()

    def test_as_json(self, pruned: Path, call: Call) -> None:
        found = call("check-proof", pruned, VKEY, "--format", "json").json
        assert found["event"]["type"] == "image.removed"
        assert found["event"]["data"] == {"manifest_digest": APP.digest, "cause": "prune"}
        assert found["log"] == str(KEY.key)
        assert found["cosigned"] == []
        assert found["columns"]["hash"] == found["event"]["hash"]
        assert call("check-proof", pruned, VKEY, "-q").lines == [f"@{found['seq']}"]
        assert call("check-proof", pruned, VKEY, "--format", "{event.subject}").lines == [
            "docker.io/library/app:1"
        ]

    def test_by_the_program_from_stdin_and_without_a_home(self, pruned: Path, tmp_path: Path) -> None:
        done = execute("check-proof", "-", VKEY, stdin=pruned.read_bytes(), HOME=str(tmp_path / "nobody"))
        assert (done.code, done.err) == (0, "")
        assert "✓ signed" in done.out
        assert not (tmp_path / "nobody").exists()

    def test_in_another_encoding_and_on_a_terminal(self, pruned: Path) -> None:
        done = execute("check-proof", pruned, VKEY, PYTHONIOENCODING="ascii")
        assert done.code == 0
        talk = on_terminal(["check-proof", pruned, VKEY])
        assert talk.code == 0
        assert all(len(line) <= 80 for line in re.sub(r"\x1b\[[0-9;]*m", "", talk.said).splitlines())

    def test_a_policy(self, pruned: Path, call: Call, tmp_path: Path) -> None:
        policy = tmp_path / "policy"
        policy.write_text(f"log {KEY.key}\nwitness w {WITNESS.key}\nquorum w\n")
        assert call("check-proof", pruned, "--policy", policy).code == 0
        more = new_witness_key("w2.example")
        done = call("check-proof", pruned, "--policy", policy, f"--key={more.key}")
        assert (done.code, done.raw) == (FAILED, b"")
        assert sentence(done.err) == (
            "1 of the 2 cosignatures that the quorum asks for is there; w2.example has not cosigned"
        )

    def test_an_event_of_a_newer_release(self, tmp_path: Path, call: Call) -> None:
        path = forged(tmp_path, "image.teleported", '{"to":"the moon"}')
        done = call("check-proof", path, VKEY)
        assert done.code == 0
        assert done.lines[0].startswith("  ✓ event    image.teleported of docker.io/library/app:1 (event 1)")
        found = call("check-proof", path, VKEY, "--format", "json").json
        assert (found["event"], found["columns"]["data"]) == (None, '{"to":"the moon"}')

    @pytest.mark.parametrize(
        ("type_", "data"),
        [
            ("image.pinned", f'{{"until_ns":{2**61}}}'),
            ("image.pinned", f'{{"until_ns":{10**40}}}'),
            ("image.pinned", f'{{"until_ns":-{10**30}}}'),
            ("metadata.deleted", f'{{"bytes":{10**400}}}'),
            ("metadata.deleted", f'{{"bytes":-{10**400}}}'),
            ("clock.jumped", f'{{"by_ns":{10**400},"from_ns":-{10**400},"to_ns":{10**30}}}'),
        ],
    )
    def test_numbers_that_nobody_has(self, tmp_path: Path, call: Call, type_: str, data: str) -> None:
        path = forged(tmp_path, type_, data)
        for shown in ([], ["--format", "json"]):
            done = call("check-proof", path, VKEY, *shown)
            assert (done.code, done.err) == (0, "")


class TestWhatIsRefused:
    def test_every_line_changed(self, pruned: Path, call: Call) -> None:
        lines = pruned.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines[:-1]):  # the last is a witness's, whom nobody knows here
            changed = line[:-3] + ("A" if line[-3:-2] != "A" else "B") + line[-2:]
            pruned.write_text("".join([*lines[:number], changed, *lines[number + 1 :]]))
            done = call("check-proof", pruned, VKEY)
            assert (done.code, done.raw) == (FAILED, b""), line
            sentence(done.err)

    def test_another_log(self, pruned: Path, call: Call) -> None:
        done = call("check-proof", pruned, f"--key={new_log_key('other.example').key}")
        assert (done.code, done.raw) == (FAILED, b"")
        assert (
            sentence(done.err) == "the checkpoint is of the log 'log.example/cache', of which no key is given"
        )

    def test_usage(self, pruned: Path, call: Call, tmp_path: Path) -> None:
        assert call("check-proof", pruned).code == USAGE
        assert call("check-proof", pruned, "--key", "x").code == USAGE
        assert call("check-proof", pruned, f"--key={WITNESS.key}").code == USAGE
        assert call("check-proof", tmp_path / "none", VKEY).code == FAILED
        (tmp_path / "policy").write_text("quorum\n")
        done = call("check-proof", pruned, "--policy", tmp_path / "policy")
        assert done.code == USAGE
        assert sentence(done.err).startswith("line 1 of the policy ")

    def test_files_of_gigabytes_take_little_memory(self, pruned: Path, tmp_path: Path) -> None:
        huge = tmp_path / "huge"
        for beginning in (b"", pruned.read_bytes(), b"c2sp.org/tlog-proof@v1\nextra "):
            huge.write_bytes(beginning)
            os.truncate(huge, 4 << 30)
            for words in (["check-proof", huge, VKEY], ["check-proof", pruned, "--policy", huge]):
                done = subprocess.run(
                    [PROGRAM, *words],
                    capture_output=True,
                    text=True,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
                    timeout=60,
                )
                assert done.returncode in (FAILED, USAGE)
                assert "has more than" in sentence(done.stderr)
            done_from = execute("check-proof", "/dev/zero", VKEY)
            assert "has more than" in sentence(done_from.err)


def test_a_witness_that_cosigned_twice_is_told_once(pruned: Path, call: Call) -> None:
    above, _, note = pruned.read_text().partition("\n\n")
    pruned.write_text(f"{above}\n\n{cosign(parse(note.encode()), WITNESS, 1_900_000_000)}")
    done = call("check-proof", pruned, VKEY, f"--key={WITNESS.key}")
    assert done.out.count("cosigned") == 1
    assert "cosigned by w1.example, 2026" in done.out
