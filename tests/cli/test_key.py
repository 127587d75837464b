"""Keys that sign checkpoints: a new one, and what others check its signatures with."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from msb_cache import VerifierKey, key_of
from msb_cache.proof import ssh
from msb_cache.proof.signer import read_secret
from tests.cli.support import FAILED, USAGE, Call, execute, sentence

LINE = f"ssh-ed25519 {base64.b64encode(ssh.blob(bytes(range(32)))).decode()} ada@one\n"


def test_a_new_key_through_the_program(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    done = execute("key", "new", path, "--name", "example.com/log")
    assert (done.code, done.err) == (0, f"  ✓ Made       {path}\n")
    assert done.out == f"{key_of(path)}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert execute("key", "show", path).out == done.out
    secret = path.read_text().strip().rpartition("+")[2]
    assert secret not in done.out + done.err


@pytest.mark.parametrize("witness", [False, True])
def test_each_form_says_the_same(call: Call, tmp_path: Path, own_home: Path, witness: bool) -> None:
    option = ["--witness"] if witness else []
    made = call("key", "new", tmp_path / "a.key", "--name", "log", "--format", "json", *option)
    assert (made.code, made.err) == (0, "")
    key = VerifierKey.parse(made.json["key"])
    assert made.json == {"name": "log", "key": str(key), "witness": witness}
    assert read_secret(tmp_path / "a.key").key == key
    assert json.loads(call("key", "show", tmp_path / "a.key", "--format", "jsonl").out) == made.json
    assert call("key", "show", tmp_path / "a.key", "-q").out == f"{key}\n"
    assert call("key", "show", tmp_path / "a.key", "--format", "{name} {witness}").out == (
        f"log {str(witness).lower()}\n"
    )
    quiet = call("key", "new", tmp_path / "b.key", "--name", "log", "-q", *option)
    assert (quiet.out, quiet.err) == (f"{key_of(tmp_path / 'b.key')}\n", "")
    assert not own_home.exists()


def test_a_public_key_of_openssh(call: Call, tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(LINE)
    done = call("key", "show", tmp_path / "id.pub", "--name", "log", "--witness")
    assert VerifierKey.parse(done.out.strip()) == VerifierKey("log", 4, bytes(range(32)))


def test_a_template_with_another_field_makes_no_key(call: Call, tmp_path: Path) -> None:
    done = call("key", "new", tmp_path / "log.key", "--name", "log", "--format", "{secret}")
    assert done.code == USAGE
    assert sentence(done.err).startswith("--format: no field 'secret'; there are: name, key, witness")
    assert not (tmp_path / "log.key").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["new", "{tmp}/new.key"], "Missing option '--name'; see `msb-cache key new --help`"),
        (["new", "{tmp}/new.key", "--name", "a b"], "'a b' is no name of a key"),
        (["new", "{tmp}/new.key", "--name", ""], "'' is no name of a key: it is not empty"),
        (["new", "{tmp}/new.key", "--name", "PRIVATE+KEY+log+0+A"], "this is a secret key; `key show`"),
        (["show", "PRIVATE+KEY+log+0+A"], "this is a secret key; `key show`"),
        (["new", "--name", "log"], "Missing argument 'FILE'; see `msb-cache key new --help`"),
        (["new", "{tmp}/log.key", "--name", "log"], "something is at {tmp}/log.key already"),
        (["new", "{tmp}", "--name", "log"], "something is at {tmp} already"),
        (["new", "{tmp}/no/new.key", "--name", "log"], "no key can be written to {tmp}/no/new.key"),
        (["show"], "Missing argument 'FILE'; see `msb-cache key show --help`"),
        (["show", "{tmp}/none"], "the key {tmp}/none cannot be read: No such file or directory"),
        (["show", "{tmp}"], "{tmp} is no file"),
        (["show", "{tmp}/log.key", "--name", "log"], "the key in {tmp}/log.key has a name and a kind"),
        (["show", "{tmp}/id.pub"], "{tmp}/id.pub is a public key of OpenSSH, which says no name"),
        (["show", "{tmp}/log.vkey"], "{tmp}/log.vkey has a verifier key in it, and no secret"),
        (["show", "{tmp}/shared.key"], "others can read {tmp}/shared.key"),
        (["show", "{tmp}/link.key"], "{tmp}/link.key is a symbolic link"),
        (["bogus"], "No such command 'bogus'"),
    ],
)
def test_a_mistake_is_one_sentence(call: Call, tmp_path: Path, words: list[str], says: str) -> None:
    made = call("key", "new", tmp_path / "log.key", "--name", "log", "-q")
    (tmp_path / "log.vkey").write_text(made.out)
    call("key", "new", tmp_path / "shared.key", "--name", "log")
    (tmp_path / "shared.key").chmod(0o644)
    (tmp_path / "link.key").symlink_to("log.key")
    (tmp_path / "id.pub").write_text(LINE)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = call("key", *(word.format(tmp=tmp_path) for word in words))
    assert (done.code, done.out) == (USAGE, "")
    assert sentence(done.err).startswith(says.format(tmp=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_without_the_extra(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "id.pub").write_text(LINE)
    call("key", "new", tmp_path / "log.key", "--name", "log")
    monkeypatch.setattr("msb_cache.extras.find_spec", lambda name: None)
    for words in (["new", tmp_path / "new.key", "--name", "log"], ["show", tmp_path / "log.key"]):
        done = call("key", *words)
        assert done.code == FAILED
        assert "needs cryptography; `pip install 'msb-cache[proof]'`" in sentence(done.err)
    assert not os.path.lexists(tmp_path / "new.key")
    assert call("key", "show", tmp_path / "id.pub", "--name", "log").code == 0
