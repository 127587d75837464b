"""The proof of an event as a file, which check-proof takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.proof.inclusion import check
from msb_cache.proof.policy import policy_of
from tests.cli.support import FAILED, NOT_FOUND, TOOL, USAGE, Call, execute, on_terminal, sentence
from tests.proof.signing import LOG, keep_signed, new_log_key, new_witness_key

KEY, WITNESS = new_log_key(), new_witness_key("w1.example")


@pytest.fixture
def signed(home: Path) -> Path:
    """A home whose log was signed with two of its events, and with all."""
    keep_signed(Layout(home).database, KEY, size=2)
    keep_signed(Layout(home).database, KEY, witnesses=[WITNESS])
    return home


def proved(data: bytes) -> int:
    return check(data, policy_of([KEY.key])).seq


class TestProve:
    def test_to_stdout(self, signed: Path, call: Call) -> None:
        done = call("prove", "app:1")
        assert (done.code, done.err) == (0, "")
        found = check(done.raw, policy_of([KEY.key]))
        assert found.event is not None
        assert (found.event.type, found.event.subject) == ("image.pulled", "docker.io/library/app:1")

    def test_to_stdout_byte_for_byte_in_any_encoding(self, signed: Path) -> None:
        done = execute("prove", "@2", PYTHONIOENCODING="ascii", LC_ALL="C")
        assert proved(done.raw) == 2

    def test_on_a_terminal(self, signed: Path) -> None:
        talk = on_terminal(["prove", "@2"])
        assert talk.code == 0
        assert talk.said.splitlines()[0] == "c2sp.org/tlog-proof@v1"

    def test_to_a_file(self, signed: Path, call: Call, tmp_path: Path) -> None:
        path = tmp_path / "event.tlog-proof"
        path.write_text("before")
        done = call("prove", "example.org/team/tool:2", "-o", path)
        assert (done.code, done.raw) == (0, b"")
        seq = proved(path.read_bytes())
        assert done.err == (
            f"  ✓ Proved     {path}  event {seq}, image.pulled of example.org/team/tool:2, "
            f"signed with {seq} events as {LOG}\n"
        )
        assert call("check-proof", path, f"--key={KEY.key}").code == 0

    def test_a_file_is_replaced_only_by_a_proof(self, signed: Path, call: Call, tmp_path: Path) -> None:
        path = tmp_path / "event.tlog-proof"
        path.write_text("before")
        assert call("prove", "@999", "-o", path).code == USAGE
        assert path.read_text() == "before"
        assert call("prove", "@2", "-o", tmp_path / "no" / "where").code == FAILED
        assert {each.name for each in tmp_path.iterdir() if "part" in each.name} == set()

    def test_as_json(self, signed: Path, call: Call, tmp_path: Path) -> None:
        found = call("prove", TOOL.digest, "--format", "json").json
        assert [*found] == ["seq", "id", "type", "subject", "origin", "size", "signed_at", "text"]
        assert (found["subject"], found["origin"]) == (TOOL.digest, LOG)
        assert proved(found["text"].encode()) == found["seq"]
        assert call("prove", "@2", "-o", tmp_path / "p", "-q").lines == ["@2"]
        assert call("prove", "@2", "--format", "{type}").lines == ["artifact.digested"]

    def test_which_checkpoint(self, signed: Path, call: Call, tmp_path: Path) -> None:
        def size(*words: object) -> int:
            found = call("prove", "@1", "--format", "json", *words)
            assert found.code == 0
            return int(found.json["size"])

        newest = call("events", "--reverse", "-n", "1", "--format", "json").json[0]["seq"]
        (tmp_path / "policy").write_text(f"log {KEY.key}\nwitness w {WITNESS.key}\nquorum w\n")
        assert size() == 2
        assert size("--size", newest) == newest
        assert size("--policy", tmp_path / "policy") == newest
        assert size("--origin", LOG) == 2
        assert call("prove", "@1", "--origin", "other.example").code == FAILED
        (tmp_path / "policy").write_text(f"log {KEY.key}\n")
        assert call("prove", "@1", "--policy", tmp_path / "policy").code == USAGE

    def test_what_is_not_there(self, signed: Path, call: Call) -> None:
        assert call("prove", "nothing:1").code == NOT_FOUND
        call("use", "app:1")
        done = call("prove", "app:1")
        assert (done.code, done.raw) == (FAILED, b"")
        assert "`msb-cache checkpoint --sign KEY` makes one" in sentence(done.err)
        assert call("prove", "app:1", "--type", "image.pulled").code == 0
        done = call("prove", "app:1", "--type", "image.pulledd")
        assert done.code == USAGE
        assert "did you mean image.pulled" in sentence(done.err)
