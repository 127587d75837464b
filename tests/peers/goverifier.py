"""A verifier of others: the program in ``verifier/``, which is Go's own note and tlog packages."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msb_cache.proof.vkey import VerifierKey
from tests.conftest import IMAGES, built_once
from tests.proof.signing import SigningKey

SOURCE = Path(__file__).parent / "verifier" / "main.go"
PACKAGES = Path("/usr/share/gocode")
"""Where Debian has the sources of Go's packages."""


class GoVerifier:
    """The program, as it runs: it answers each question before the next one is asked."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, do: str, **question: object) -> dict[str, Any]:
        """Return the answer; one with an ``error`` is a refusal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"do": do, **{name: _plain(value) for name, value in question.items()}})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def accepts(self, do: str, **question: object) -> bool:
        """Return whether it refuses nothing."""
        return "error" not in self.ask(do, **question)

    def signers(self, note: bytes, keys: Sequence[VerifierKey]) -> list[str]:
        """Return who of these has signed, in the order of the note, as name+hash; none: it is refused."""
        found: list[str] = self.ask("note", note=note, keys=keys).get("signers", [])
        return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, VerifierKey):
        return str(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def secret_of(signer: SigningKey) -> str:
    """Return a secret key as Go writes it."""
    key = signer.key
    encoded = base64.b64encode(bytes((key.kind,)) + signer.secret.private_bytes_raw()).decode()
    return f"PRIVATE+KEY+{key.name}+{key.key_id.hex()}+{encoded}"


def environment() -> dict[str, str]:
    """Return what Go's tools run with: Debian's sources, no network, and nothing in the user's home."""
    own = {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    return {**os.environ, **own, "GOPATH": str(PACKAGES), "GOCACHE": str(IMAGES / "go-verifier" / "cache")}


@contextlib.contextmanager
def running(require_peer: Callable[[str], str]) -> Iterator[GoVerifier]:
    """Yield the verifier; it is built where it is not, without the network."""
    go = require_peer("go")
    if not (PACKAGES / "src" / "golang.org" / "x" / "mod" / "sumdb" / "note").exists():
        require_peer("golang-golang-x-mod-dev")
    version = subprocess.run([go, "version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]
    with built_once("go-verifier") as folder:
        program = folder / key
        if not program.exists():
            for old in folder.iterdir():
                if old.is_file():
                    old.unlink()
            unfinished = folder / "unfinished"
            subprocess.run([go, "build", "-o", unfinished, SOURCE], check=True, env=environment())
            unfinished.rename(program)
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        yield GoVerifier(process)
        assert process.stdin is not None
        process.stdin.close()
