"""Keys in ssh-agents: the real one, and others that answer wrongly, too much, late, or not at all."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from msb_cache.errors import InvalidConfigError, SigningError
from msb_cache.proof import agent, ssh
from msb_cache.proof.agent import AgentSigner
from msb_cache.proof.key_file import key_of
from msb_cache.proof.note import Note
from msb_cache.proof.signer import cosign, sign
from msb_cache.proof.vkey import VerifierKey
from msb_cache.waiting import ended_by

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(100, 132)))
KEY = VerifierKey("example.com/log", 1, SECRET.public_key().public_bytes_raw())
BLOB = ssh.blob(KEY.public)
Add = Callable[..., None]
MESSAGE = b"example.com/log\n1\nAAAA\n"


def message(kind: int, content: bytes = b"") -> bytes:
    return ssh.string(bytes((kind,)) + content)


def listed(*blobs: bytes) -> bytes:
    content = b"".join(ssh.string(blob) + ssh.string(b"comment") for blob in blobs)
    return message(12, struct.pack(">I", len(blobs)) + content)


def signed(signature: bytes, kind: bytes = b"ssh-ed25519") -> bytes:
    return message(14, ssh.string(ssh.string(kind) + ssh.string(signature)))


LISTED, SIGNED = listed(b"another", BLOB), signed(SECRET.sign(MESSAGE))


class Agent:
    """Answers each request with what comes next in a list; None: it says nothing until it is closed."""

    def __init__(self, path: str) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[bytes] = []
        self.seconds = 0.0  # before each byte
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            line, _ = self._socket.accept()
            with line, suppress(OSError):
                self._talk(line)

    def _talk(self, line: socket.socket) -> None:
        for answer in self.answers:
            head = line.recv(4, socket.MSG_WAITALL)
            if not head:
                return
            self.requests.append(line.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))
            if answer is None:
                self._closed.wait(30)
            elif self.seconds:
                for at in range(len(answer)):
                    line.sendall(answer[at : at + 1])
                    time.sleep(self.seconds)
            else:
                line.sendall(answer)

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError), socket.socket(socket.AF_UNIX) as line:
            line.connect(self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where an agent is looked for: a socket's path is short."""
    with TemporaryDirectory() as folder:
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{folder}/agent")
        yield f"{folder}/agent"


@pytest.fixture
def hostile(path: str) -> Iterator[Agent]:
    found = Agent(path)
    yield found
    found.close()


def test_it_is_asked_for_its_keys_and_then_to_sign(hostile: Agent) -> None:
    hostile.answers = [LISTED, SIGNED]
    assert AgentSigner(KEY).sign(MESSAGE) == SECRET.sign(MESSAGE)
    assert hostile.requests == [b"\x0b", b"\x0d" + ssh.string(BLOB) + ssh.string(MESSAGE) + bytes(4)]
    hostile.seconds = 0.001
    assert AgentSigner(KEY).sign(MESSAGE) == SECRET.sign(MESSAGE)


NO_KEY = "^the ssh-agent has not the secret of example.com/log; "
REFUSES = "^the ssh-agent refuses to sign with example.com/log; "
WRONG = "^what SSH_AUTH_SOCK names does not answer as an ssh-agent does; "
OTHER = "^the ssh-agent answered with a signature that is not of example.com/log; "
GONE = "^the ssh-agent went away: .*; try again$"
CUT_OFF = "^the ssh-agent went away: its answer is cut off; try again$"


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([listed()], NO_KEY),
        ([listed(b"another", BLOB[:-1])], NO_KEY),
        ([listed(BLOB + b"\0")], NO_KEY),
        ([message(5)], WRONG),
        ([message(12)], WRONG),
        ([message(12, b"\0\0\0")], WRONG),
        ([message(12, b"\xff\xff\xff\xff")], WRONG),
        ([message(12, b"\0\0\0\1" + ssh.string(BLOB))], WRONG),
        ([message(12, b"\0\0\0\2" + ssh.string(BLOB) + ssh.string(b""))], WRONG),
        ([message(12, b"\0\0\0\1" + b"\xff\xff\xff\xff" + BLOB)], WRONG),
        ([listed(BLOB)[:3] + bytes((listed(BLOB)[3] + 1,)) + listed(BLOB)[4:] + b"x"], WRONG),
        ([SIGNED], WRONG),
        ([b"\0\0\0\0"], WRONG),
        ([b"\xff\xff\xff\xff"], WRONG),
        ([b"\x00\x04\x00\x01" + bytes(1000)], WRONG),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], WRONG),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], WRONG),
        ([b""], CUT_OFF),
        ([b"\0\0"], CUT_OFF),
        ([listed(BLOB)[:-1]], CUT_OFF),
        ([LISTED], GONE),
        ([LISTED, message(5)], REFUSES),
        ([LISTED, message(28)], REFUSES),
        ([LISTED, LISTED], REFUSES),
        ([LISTED, message(14)], WRONG),
        ([LISTED, message(14, b"\xff\xff\xff\xff")], WRONG),
        ([LISTED, b"\x7f\xff\xff\xff"], WRONG),
        ([LISTED, SIGNED[:-1]], CUT_OFF),
        ([LISTED, signed(b"")], OTHER),
        ([LISTED, signed(bytes(64))], OTHER),
        ([LISTED, signed(SECRET.sign(MESSAGE)[:-1])], OTHER),
        ([LISTED, signed(SECRET.sign(MESSAGE) + b"\0")], OTHER),
        ([LISTED, signed(SECRET.sign(b"another message"))], OTHER),
        ([LISTED, signed(SECRET.sign(MESSAGE), b"ssh-rsa")], OTHER),
        ([LISTED, message(14, ssh.string(SECRET.sign(MESSAGE)))], OTHER),
    ],
)
def test_a_hostile_answer_is_one_sentence(hostile: Agent, answers: list[bytes | None], says: str) -> None:
    hostile.answers = answers
    with pytest.raises(SigningError, match=says):
        AgentSigner(KEY).sign(MESSAGE)


@pytest.mark.parametrize("answers", [[None], [LISTED, None]])
def test_silence_has_an_end(
    hostile: Agent, monkeypatch: pytest.MonkeyPatch, answers: list[bytes | None]
) -> None:
    monkeypatch.setattr(agent, "SECONDS", 0.3)
    hostile.answers = answers
    with pytest.raises(SigningError, match=r"^the ssh-agent did not answer within \d seconds$"):
        AgentSigner(KEY).sign(MESSAGE)


def test_drops_have_an_end(hostile: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "SECONDS", 0.3)
    hostile.answers, hostile.seconds = [LISTED, SIGNED], 0.02
    began = time.monotonic()
    with pytest.raises(SigningError, match="did not answer within"):
        AgentSigner(KEY).sign(MESSAGE)
    assert time.monotonic() - began < 2


def test_what_ends_waits_ends_it(hostile: Agent) -> None:
    hostile.answers = [LISTED, None]
    asked = threading.Event()
    timer = threading.Timer(0.3, asked.set)
    timer.start()
    began = time.monotonic()
    with ended_by(asked.is_set), pytest.raises(KeyboardInterrupt):
        AgentSigner(KEY).sign(MESSAGE)
    assert time.monotonic() - began < 10
    timer.join()


@pytest.mark.parametrize("named", [None, ""])
def test_no_agent_is_named(monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    if named is not None:
        monkeypatch.setenv("SSH_AUTH_SOCK", named)
    with pytest.raises(InvalidConfigError, match=r"^no ssh-agent is named by SSH_AUTH_SOCK; start one"):
        AgentSigner(KEY).sign(MESSAGE)


def test_no_agent_is_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(why: str) -> None:
        says = f"^the ssh-agent that SSH_AUTH_SOCK names cannot be reached: {why}; start one$"
        with pytest.raises(SigningError, match=says):
            AgentSigner(KEY).sign(MESSAGE)

    refused("No such file or directory")
    Path(path).write_text("")
    refused("Connection refused")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/" + "a" * 200)
    refused("AF_UNIX path too long")


def test_a_crowded_agent_is_not_waited_for(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as crowded:
        crowded.bind(path)
        crowded.listen(0)
        lines = []
        with suppress(BlockingIOError):
            for _ in range(100):
                lines.append(socket.socket(socket.AF_UNIX))
                lines[-1].setblocking(False)
                lines[-1].connect(path)
        with pytest.raises(SigningError, match="cannot be reached: Resource temporarily unavailable"):
            AgentSigner(KEY).sign(MESSAGE)
        for line in lines:
            line.close()


def test_no_descriptor_stays_open(hostile: Agent) -> None:
    before = os.listdir("/proc/self/fd")
    for answers in ([LISTED, SIGNED], [LISTED, message(5)], [b"\0"]):
        hostile.answers = [*answers]
        with suppress(SigningError):
            AgentSigner(KEY).sign(MESSAGE)
    deadline = time.monotonic() + 5
    while os.listdir("/proc/self/fd") != before:  # the other side closes its own
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.peer
class TestOpenSsh:
    """The agent of OpenSSH, with keys of ``ssh-keygen``."""

    @pytest.fixture
    def add(self, path: str, tmp_path: Path, require_peer: Callable[[str], str]) -> Iterator[Add]:
        """An agent runs at the path; what is given calls ``ssh-add`` for it."""
        # The agent asks a person by a program, which says no.
        asking = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
        words = [require_peer("ssh-agent"), "-D", "-a", path]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=asking)
        deadline = time.monotonic() + 10
        while not os.path.exists(path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for name, kind in (("id", "ed25519"), ("two", "ed25519"), ("ecdsa", "ecdsa")):
            of = ("-t", kind, "-N", "", "-f", tmp_path / name)
            subprocess.run([require_peer("ssh-keygen"), "-q", *of], check=True)

        def call(*arguments: object, **more: str) -> None:
            environment = {**os.environ, **more}
            program = [require_peer("ssh-add"), *map(str, arguments)]
            subprocess.run(program, check=True, capture_output=True, env=environment)

        yield call
        process.terminate()
        process.wait(10)

    def test_it_signs_as_a_log_and_as_a_witness(self, add: Add, tmp_path: Path) -> None:
        for name in ("ecdsa", "two", "id"):
            add(tmp_path / name)
        log = key_of(tmp_path / "id.pub", name="example.com/log")
        witness = key_of(tmp_path / "two.pub", name="example.com/witness", witness=True)
        text = MESSAGE.decode()
        note = Note(text, (sign(text, AgentSigner(log)), cosign(text, 1_700_000_000, AgentSigner(witness))))
        assert note.signed_by([log, witness]) == [log, witness]

    def test_it_has_not_the_key_or_is_locked(self, add: Add, tmp_path: Path) -> None:
        key = key_of(tmp_path / "id.pub", name="example.com/log")
        with pytest.raises(SigningError, match=NO_KEY):
            AgentSigner(key).sign(MESSAGE)
        add(tmp_path / "two")
        with pytest.raises(SigningError, match=NO_KEY):
            AgentSigner(key).sign(MESSAGE)
        add(tmp_path / "id")
        assert key.has_signed(MESSAGE, AgentSigner(key).sign(MESSAGE))
        (tmp_path / "password").write_text("#!/bin/sh\necho secret\n")
        (tmp_path / "password").chmod(0o755)
        add("-x", SSH_ASKPASS=str(tmp_path / "password"), SSH_ASKPASS_REQUIRE="force")
        with pytest.raises(SigningError, match=NO_KEY):
            AgentSigner(key).sign(MESSAGE)

    def test_a_person_says_no(self, add: Add, tmp_path: Path) -> None:
        key = key_of(tmp_path / "id.pub", name="example.com/log")
        add("-c", tmp_path / "id")
        with pytest.raises(SigningError, match=REFUSES):
            AgentSigner(key).sign(MESSAGE)
