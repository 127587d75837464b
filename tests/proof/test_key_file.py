"""Keys in files: a new one, and the verifier key of what a file has."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import InvalidConfigError, VerifierKey, key_of, new_key
from msb_cache.proof import ssh
from msb_cache.proof.vkey import Kind

PUBLIC = bytes(range(32))
LINE = f"ssh-ed25519 {base64.b64encode(ssh.blob(PUBLIC)).decode()} ada@one\n"


@pytest.mark.parametrize(("witness", "kind"), [(False, 1), (True, 4)])
def test_a_new_key_is_shown_again(tmp_path: Path, witness: bool, kind: Kind) -> None:
    made = new_key(tmp_path / "log.key", "example.com/log", witness=witness)
    assert (made.name, made.kind) == ("example.com/log", kind)
    assert key_of(tmp_path / "log.key") == made
    assert made.to_dict() == {"name": "example.com/log", "key": str(made), "witness": witness}


@pytest.mark.parametrize(("witness", "kind"), [(False, 1), (True, 4)])
def test_a_public_key_of_openssh_gets_a_name(tmp_path: Path, witness: bool, kind: Kind) -> None:
    (tmp_path / "id.pub").write_text(LINE)
    (tmp_path / "link").symlink_to("id.pub")
    for name in ("id.pub", "link"):
        assert key_of(tmp_path / name, name="log", witness=witness) == VerifierKey("log", kind, PUBLIC)


def test_a_name_is_missing_or_too_much(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(LINE)
    new_key(tmp_path / "log.key", "log")
    with pytest.raises(InvalidConfigError, match="says no name; give it one"):
        key_of(tmp_path / "id.pub")
    with pytest.raises(InvalidConfigError, match="is no name of a key"):
        key_of(tmp_path / "id.pub", name="a b")
    for given in ({"name": "log"}, {"witness": True}):
        with pytest.raises(InvalidConfigError, match="has a name and a kind of its own"):
            key_of(tmp_path / "log.key", **given)


def test_what_is_no_key_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").write_bytes(b"ssh-ed25519 " + b"A" * (1 << 20))
    (tmp_path / "other").write_text("words")
    (tmp_path / "other").chmod(0o600)
    (tmp_path / "binary").write_bytes(b"ssh-ed25519 \xff\xfe")
    for name, says in (
        ("none", "cannot be read: No such file or directory"),
        ("folder", "is no file"),
        ("fifo", "is no file"),
        ("huge", "is damaged"),
        ("binary", "is damaged"),
        ("other", "is no secret key"),
    ):
        with pytest.raises(InvalidConfigError, match=says):
            key_of(tmp_path / name, name="log" if name in ("huge", "binary") else None)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_the_keys_of_ssh_keygen(tmp_path: Path, require_peer: Callable[[str], str], kind: str) -> None:
    keygen = require_peer("ssh-keygen")
    subprocess.run(
        [keygen, "-q", "-t", kind, "-N", "", "-C", "é \\ of Ada", "-f", tmp_path / "id"], check=True
    )
    with pytest.raises(InvalidConfigError, match="is a secret key of another form"):
        key_of(tmp_path / "id")
    if kind != "ed25519":
        with pytest.raises(InvalidConfigError, match="of another kind than Ed25519"):
            key_of(tmp_path / "id.pub", name="log")
        return
    found = key_of(tmp_path / "id.pub", name="log")
    assert ssh.blob(found.public) == base64.b64decode((tmp_path / "id.pub").read_text().split()[1])
