"""A command that signs: what it gets, what it may print, and how it ends."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from msb_cache.errors import InvalidConfigError, SigningError
from msb_cache.proof import sign_command
from msb_cache.proof.sign_command import CommandSigner
from msb_cache.proof.vkey import VerifierKey
from msb_cache.waiting import ended_by

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(100, 132)))
KEY = VerifierKey("example.com/log", 1, SECRET.public_key().public_bytes_raw())
MESSAGE = b"example.com/log\n1\nAAAA\n"
TOKEN = "s3cr3t-t0ken"

Signing = Callable[[str], CommandSigner]


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    """Return what signs by a shell script, to which the signatures of the message and another lie ready."""
    for name, message in (("good", MESSAGE), ("other", b"other")):
        signature = SECRET.sign(message)
        (tmp_path / name).write_bytes(signature)
        (tmp_path / f"{name}.64").write_bytes(base64.b64encode(signature))

    def make(script: str) -> CommandSigner:
        program = tmp_path / "sign it"
        program.write_text(f"#!/bin/sh\ncd '{tmp_path}'\n{script}\n")
        program.chmod(0o755)
        return CommandSigner(KEY, f"'{program}' --token {TOKEN} 'a b'")

    return make


@pytest.mark.parametrize(
    "script",
    [
        "cat good",
        "cat good.64",
        "cat good.64; echo",
        "cat >/dev/null; cat good",
        "head -c 1 >/dev/null; cat good",
        "head -c 30; sleep 0.2; tail -c +31" + " <good",
        "echo warning >&2; cat good",
        "yes | head -c 1000000 >&2; cat good",
        "cat good; exec >&- 2>&-; sleep 0.3",
        "cat good; sleep 30 & exit 0",
    ],
)
def test_a_signature_is_read(signing: Signing, script: str) -> None:
    script = script.replace("head -c 30;", "head -c 30 good;")
    began = time.monotonic()
    assert signing(script).sign(MESSAGE) == SECRET.sign(MESSAGE)
    assert time.monotonic() - began < 10


def test_it_gets_the_message_the_words_and_the_environment(
    signing: Signing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIN", "1234")
    signing('cat >got; printf "%s|" "$@" "$PIN" >words; cat good').sign(MESSAGE)
    assert (tmp_path / "got").read_bytes() == MESSAGE
    assert (tmp_path / "words").read_text() == f"--token|{TOKEN}|a b|1234|"


def test_it_gets_a_message_that_fills_no_pipe(signing: Signing, tmp_path: Path) -> None:
    message = b"x" * 200_000
    (tmp_path / "large").write_bytes(SECRET.sign(message))
    assert signing("cat large").sign(message) == SECRET.sign(message)
    assert signing("wc -c >&2; cat large").sign(message) == SECRET.sign(message)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("cat other", "signs with another key than example.com/log, or something else than it was given$"),
        ("cat other.64", "signs with another key than example.com/log"),
        ("true", "prints no signature: 64 bytes, or a line of base64 of them$"),
        ("cat good good", "prints no signature"),
        ("cat good.64 good.64", "prints no signature"),
        ("head -c 63 good", "prints no signature"),
        ("head -c 87 good.64", "prints no signature"),
        ("printf '\\377\\376'", "prints no signature"),
        ("echo no PIN >&2; echo", "prints no signature.*: no PIN$"),
        ("yes", "prints more than 4,096 bytes$"),
        ("cat good; exit 3", "failed with exit code 3$"),
        ("kill -9 $$", "was ended by signal 9$"),
        ("echo first >&2; echo '  no card  ' >&2; echo >&2; exit 1", "failed with exit code 1: no card$"),
        ("printf 'a\\033[31mb\\302\\233\\342\\200\\256' >&2; exit 1", r"a\\x1b\[31mb\\x9b\\u202e$"),
        ("printf '\\377' >&2; exit 1", "failed with exit code 1: \ufffd$"),
        ("yes | head -c 100000 | tr -d '\\n' >&2; exit 1", "failed with exit code 1: y{300}$"),
    ],
)
def test_what_does_not_sign_is_a_sentence_that_names_the_program_alone(
    signing: Signing, tmp_path: Path, script: str, says: str
) -> None:
    with pytest.raises(SigningError, match=says) as caught:
        signing(script).sign(MESSAGE)
    assert str(caught.value).startswith(f"{tmp_path}/sign it")
    assert TOKEN not in f"{caught.value}{caught.value.__context__!r}"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("''", "is empty"),
        (f"sign --token '{TOKEN}", "is cut off"),
        (f"sign {TOKEN} \\", "is cut off"),
        (f"sign {TOKEN}\0", "is cut off"),
        (f"TOKEN={TOKEN} sign", "begins with a variable, and no shell runs it; begin it with `env`"),
    ],
)
def test_what_is_no_command_is_refused_before_it_is_run(command: str, says: str) -> None:
    with pytest.raises(InvalidConfigError, match=says) as caught:
        CommandSigner(KEY, command)
    assert TOKEN not in str(caught.value)


def test_what_cannot_be_run_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\0\1\2")
    (tmp_path / "data").chmod(0o755)
    for program, why in (
        (f"{tmp_path}/none", "No such file or directory; check the path"),
        (str(tmp_path), "Permission denied"),
        (f"{tmp_path}/data", "Exec format error"),
    ):
        with pytest.raises(
            SigningError, match=f"^{program}, which is to sign, cannot be run: {why}"
        ) as caught:
            CommandSigner(KEY, f"{program} --token {TOKEN}").sign(MESSAGE)
        assert TOKEN not in str(caught.value)


def test_no_secret_is_shown(signing: Signing) -> None:
    assert TOKEN not in repr(signing("cat good"))


@pytest.mark.parametrize("script", ["sleep 600", "exec >&- 2>&-; sleep 600", "while :; do echo x >&2; done"])
def test_it_may_not_take_for_ever(signing: Signing, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(sign_command, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(SigningError, match=r"did not end within \d seconds$"):
        signing(script).sign(MESSAGE)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("script", ["sleep 600", "exec >&- 2>&-; exec sleep 600"])
def test_what_ends_waits_ends_it(signing: Signing, tmp_path: Path, script: str) -> None:
    asked = threading.Event()
    timer = threading.Timer(0.4, asked.set)
    timer.start()
    began = time.monotonic()
    with ended_by(asked.is_set), pytest.raises(KeyboardInterrupt):
        signing(f"echo $$ >pid; {script}").sign(MESSAGE)
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    timer.join()


@pytest.mark.peer
def test_openssl_signs(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    openssl = require_peer("openssl")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(SECRET.private_bytes(encoding, form, serialization.NoEncryption()))
    command = f"{openssl} pkeyutl -sign -rawin -in /dev/stdin -inkey {tmp_path}/key.pem"
    assert CommandSigner(KEY, command).sign(MESSAGE) == SECRET.sign(MESSAGE)
    with pytest.raises(SigningError, match=f"^{openssl}, which is to sign, failed with exit code 1: "):
        CommandSigner(KEY, f"{command}.none").sign(MESSAGE)


def test_no_descriptor_stays_open(signing: Signing) -> None:
    before = os.listdir("/proc/self/fd")
    for script in ("cat good", "exit 1", "cat other"):
        try:
            signing(script).sign(MESSAGE)
        except SigningError:
            pass
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert subprocess.run([sys.executable, "-c", ""]).returncode == 0
