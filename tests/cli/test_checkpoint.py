"""The note that fixes the log as it is, signed and cosigned."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from msb_cache.proof.note import parse
from msb_cache.proof.tree_head import head_of
from msb_cache.proof.vkey import VerifierKey
from msb_cache.proof.witness import Witness
from tests.cli.support import FAILED, Call, check_privileges, sentence
from tests.proof.signing import new_witness_key

NAME = "ci7.example.com/msb-cache"


@pytest.fixture
def key(call: Call, tmp_path: Path) -> tuple[Path, VerifierKey]:
    path = tmp_path / "log.key"
    return path, VerifierKey.parse(call("key", "new", path, "--name", NAME).out.strip())


@contextmanager
def served(witness: Witness) -> Iterator[str]:
    """Serve a witness on loopback; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = witness.add_checkpoint(body)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class TestCheckpoint:
    def test_text_and_json(self, home: Path, call: Call) -> None:
        done = call("checkpoint")
        assert (done.code, done.err) == (0, "")
        found = call("checkpoint", "--format", "json").json
        chain = call("verify", "--format", "json").json["chain"]
        assert done.out == found["note"]
        assert (found["log_id"], found["size"], found["head"]) == (
            chain["log_id"],
            chain["events"],
            chain["head"],
        )
        assert found["note"].splitlines() == [found["origin"], str(found["size"]), found["root"]]
        last = call("events", "--reverse", "-n", "1", "--format", "json").json[0]
        assert found["recorded_at"] == last["recorded_at"]
        assert call("checkpoint", "--origin", NAME).lines[0] == NAME
        assert "no name of a key" in sentence(call("checkpoint", "--origin", "a b").err)

    def test_an_empty_home(self, own_home: Path, call: Call) -> None:
        done = call("checkpoint")
        assert (done.code, done.raw) == (1, b"")
        assert "has no log yet" in sentence(done.err)
        assert not own_home.exists()

    def test_signed(self, home: Path, call: Call, key: tuple[Path, VerifierKey]) -> None:
        path, vkey = key
        done = call("checkpoint", "--sign", path)
        assert (done.code, done.err) == (0, "")
        note = parse(done.raw)
        assert note.signed_by([vkey]) == [vkey]
        assert head_of(note).origin == NAME
        found = call("checkpoint", "--sign", path, "--format", "json").json
        assert (found["note"], found["signed_by"], found["problem"]) == (done.out, NAME, None)
        assert call("verify", "--against", "-", "--key", vkey).code == FAILED  # nothing is on stdin


class TestWitnesses:
    @pytest.fixture
    def witness(self, key: tuple[Path, VerifierKey], tmp_path: Path) -> Callable[[str], Witness]:
        return lambda name: Witness(tmp_path / f"{name}.db", new_witness_key(name), [key[1]])

    def test_cosigned(
        self,
        home: Path,
        call: Call,
        key: tuple[Path, VerifierKey],
        witness: Callable[[str], Witness],
    ) -> None:
        path, vkey = key
        known = new_witness_key("w1.example.com").key
        with served(witness("w1.example.com")) as url:
            done = call("checkpoint", "--sign", path, "--witness", url, "--witness-key", known)
            assert (done.code, done.err) == (0, "")
            assert parse(done.raw).signed_by([vkey, known]) == [vkey, known]
            call("use", "app:1")
            found = call(
                *("checkpoint", "--sign", path, "--witness", url, "--witness-key", known, "--format", "json")
            ).json
            assert [each["name"] for each in found["cosigned"]] == ["w1.example.com"]
            assert found["asked"][0]["old_size"] == found["size"] - 1

    def test_a_quorum(
        self,
        home: Path,
        call: Call,
        key: tuple[Path, VerifierKey],
        witness: Callable[[str], Witness],
        tmp_path: Path,
    ) -> None:
        path, vkey = key
        names = ("w1.example.com", "w2.example.com")
        with served(witness(names[0])) as url:
            lines = [f"witness {name} {new_witness_key(name).key}" for name in names]
            lines[0] += f" {url}"
            lines[1] += " http://127.0.0.1:1"
            policy = tmp_path / "policy"
            for threshold, code in (("any", 0), ("all", FAILED)):
                text = [*lines, f"group both {threshold} {' '.join(names)}", "quorum both"]
                policy.write_text("".join(f"{line}\n" for line in text))
                done = call("checkpoint", "--sign", path, "--policy", policy)
                assert done.code == code
                assert len(parse(done.raw).signatures) == 2
                assert "cannot be reached" in done.err
            assert "1 of the 2 cosignatures" in done.err
            assert "signed and kept" in done.err
            assert call("checkpoint", "--sign", path, "--policy", policy, "--quiet").err.count("\n") == 1
            check = ("verify", "--key", vkey, "--policy", policy, "--format", "json")
            assert "1 of the 2 cosignatures" in call(*check).json["against"]["problem"]

    def test_a_log_that_was_put_back(
        self,
        home: Path,
        call: Call,
        key: tuple[Path, VerifierKey],
        witness: Callable[[str], Witness],
        tmp_path: Path,
    ) -> None:
        path, _ = key
        known = new_witness_key("w1.example.com").key
        call("backup", tmp_path / "backup.db")
        call("use", "app:1")
        with served(witness("w1.example.com")) as url:
            signing = ("checkpoint", "--sign", path, "--witness", url, "--witness-key", known)
            assert call(*signing).code == 0
            assert call("restore-backup", tmp_path / "backup.db", "--discard-events", "1").code == 0
            done = call(*signing)
            assert (done.code, done.raw) == (FAILED, b"")
            assert "it was rewritten" in done.err


UNITS = Path(__file__).parents[2] / "examples" / "systemd"


def test_the_unit_signs_with_few_privileges(
    home: Path, call: Call, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    """With a key that only its run has, and what it writes is all that it may write."""
    text = (UNITS / "msb-cache-checkpoint@.service").read_text()
    (command,) = re.findall(r"(?m)^ExecStart=/usr/local/bin/msb-cache (.*)$", text)
    key, policy = tmp_path / "credentials" / "key", tmp_path / "policy"
    key.parent.mkdir()
    vkey = call("key", "new", key, "--name", "ci7.example.com/msb-cache").out.strip()
    policy.write_text(f"log {vkey}\nquorum none\n")
    put = {"${CREDENTIALS_DIRECTORY}": str(key.parent), "/etc/msb-cache/witnesses.txt": str(policy)}
    for before, after in put.items():
        assert before in command
        command = command.replace(before, after)
    done = call(*command.split())
    assert (done.code, done.err) == (0, "")
    assert done.out == call("checkpoints", "--format", "json").json[0]["note"]
    unit = tmp_path / "msb-cache-checkpoint@root.service"
    check_privileges(text, unit, require_peer("systemd-analyze"), 25)
