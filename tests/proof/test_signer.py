"""Secret key files, who signs as a person names it, and how logs and witnesses sign."""

from __future__ import annotations

import base64
import errno
import os
import pickle
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidConfigError
from msb_cache.proof import signer as module
from msb_cache.proof.agent import AgentSigner
from msb_cache.proof.note import Note
from msb_cache.proof.sign_command import CommandSigner
from msb_cache.proof.signer import SecretKey, cosign, new_secret, read_secret, sign, signer_of
from msb_cache.proof.vkey import Kind, VerifierKey

SEED = bytes(range(100, 132))
TEXT = "example.com/log\n1\nAAAA\n"


def secret(kind: Kind = 1, name: str = "example.com/log") -> SecretKey:
    return SecretKey(name, kind, Ed25519PrivateKey.from_private_bytes(SEED))


def line_of(key: VerifierKey, seed: bytes = SEED) -> str:
    encoded = base64.b64encode(bytes((key.kind,)) + seed).decode()
    return f"PRIVATE+KEY+{key.name}+{key.key_id.hex()}+{encoded}\n"


def put(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys"


# -- new files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 4])
def test_a_new_key_is_its_users_alone_and_signs(folder: Path, kind: Kind) -> None:
    before = os.umask(0)
    try:
        key = new_secret(folder / "log.key", "example.com/log", kind)
    finally:
        os.umask(before)
    found = (folder / "log.key").lstat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_nlink) == (0o600, os.geteuid(), 1)
    assert VerifierKey.parse(str(key)) == key
    assert (key.name, key.kind) == ("example.com/log", kind)
    read = read_secret(folder / "log.key")
    assert read.key == key
    assert key.has_signed(b"this", read.sign(b"this"))
    assert not key.has_signed(b"that", read.sign(b"this"))
    assert os.listdir(folder) == ["log.key"]


def test_each_key_is_another(tmp_path: Path) -> None:
    assert new_secret(tmp_path / "a", "log") != new_secret(tmp_path / "b", "log")


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "folder", "link", "fifo"):
        with pytest.raises(InvalidConfigError, match=f"^something is at .*/{name} already"):
            new_secret(tmp_path / name, "log")
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "é" * 128, "\x1b[m", "\udcff"])
def test_what_is_no_name_makes_no_file(folder: Path, name: str) -> None:
    with pytest.raises(InvalidConfigError, match="name of a key"):
        new_secret(folder / "log.key", name)
    assert os.listdir(folder) == []


def test_the_longest_name_is_read_again(tmp_path: Path) -> None:
    key = new_secret(tmp_path / "log.key", "é" * 127)
    assert read_secret(tmp_path / "log.key").key == key


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"^no key can be written to .*/no/log.key: No such file"):
        new_secret(tmp_path / "no" / "log.key", "log")


def test_content_and_name_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    path = tmp_path / "log.key"
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.stat().st_size))
    )
    new_secret(path, "log")
    assert synced == [(str(path), path.stat().st_size), (str(tmp_path), path.stat().st_size)]


def test_a_full_disk_leaves_no_half_of_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", full)
        with pytest.raises(InvalidConfigError, match=r"No space left on device; make room and try again$"):
            new_secret(folder / "log.key", "log")
    assert os.listdir(folder) == []
    new_secret(folder / "log.key", "log")


MAKE = "import sys; from msb_cache.proof.signer import new_secret; new_secret(sys.argv[1], 'log')"


@pytest.mark.peer
def test_a_user_makes_no_key_in_roots_folder_and_root_makes_one_of_the_users(
    require_peer: Callable[[str], str],
) -> None:
    require_peer("root")
    setpriv = require_peer("setpriv")
    with TemporaryDirectory() as above:
        folder = Path(above, "ada")
        folder.mkdir()
        os.chown(folder, 31_000, 31_001)
        Path(above).chmod(0o755)
        # Ada has no capability but to read: the interpreter may lie where others may not look.
        able = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
        as_ada = (setpriv, "--reuid=31000", "--regid=31001", "--clear-groups", *able, sys.executable, "-c")
        done = subprocess.run([*as_ada, MAKE, f"{above}/log.key"], capture_output=True, text=True)
        assert done.stderr.splitlines()[-1].endswith(
            "InvalidConfigError: no key can be written to "
            f"{above}/log.key: Permission denied; use an account that may"
        )
        assert os.listdir(above) == ["ada"]
        key = new_secret(folder / "log.key", "log")
        found = (folder / "log.key").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (31_000, 31_001, 0o600)
        assert read_secret(folder / "log.key").key == key  # root may read it, too


# -- files that are read -------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["\n", ""])
def test_a_known_file_is_read(tmp_path: Path, ends: str) -> None:
    path = put(tmp_path / "log.key", line_of(secret().key).rstrip("\n") + ends)
    assert read_secret(path).key == secret().key
    assert read_secret(path).sign(TEXT.encode()) == secret().sign(TEXT.encode())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o777])
def test_a_key_that_others_can_read_is_none(tmp_path: Path, mode: int) -> None:
    path = put(tmp_path / "log.key", line_of(secret().key), mode)
    with pytest.raises(InvalidConfigError, match=r"^others can read .*; make|`chmod 600` it$"):
        read_secret(path)


def test_what_is_no_secret_is_not_called_one(tmp_path: Path) -> None:
    path = put(tmp_path / "log.vkey", f"{secret().key}\n", 0o644)
    with pytest.raises(InvalidConfigError, match=r"has a verifier key in it, and no secret; give that key"):
        read_secret(path)


def test_of_systemds_credentials_the_groups_bits_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret(put(tmp_path / "log.key", line_of(secret().key), 0o440)).key == secret().key
    with pytest.raises(InvalidConfigError, match=r"^others can read"):
        read_secret(put(tmp_path / "shared.key", line_of(secret().key), 0o444))


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    put(tmp_path / "log.key", line_of(secret().key))
    (tmp_path / "link").symlink_to("log.key")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, says in (
        ("link", "is a symbolic link"),
        ("folder", "is no file"),
        ("fifo", "is no file"),
        ("none", "No such file or directory; check the path"),
        ("log.key/x", "Not a directory"),
    ):
        with pytest.raises(InvalidConfigError, match=says):
            read_secret(tmp_path / name)
    with pytest.raises(InvalidConfigError, match=r"is no file|cannot be read"):
        read_secret("/dev/zero")


_GOOD = line_of(secret().key)
_ENCODED = base64.b64encode(b"\x01" + SEED).decode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is no secret key"),
        ("\n", "is no secret key"),
        (b"\0" * 40, "is no secret key"),
        (b"\xff\xfe" + _GOOD.encode("utf-16-le"), "is no secret key"),
        (str(secret().key), "has a verifier key in it"),
        (f"{secret().key}\n", "has a verifier key in it"),
        ("ssh-ed25519 AAAA", "is a public key"),
        ("sk-ssh-ed25519@openssh.com AAAA", "is a public key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "is a secret key of another form"),
        ("PRIVATE+KEY+", "is damaged"),
        (_GOOD[:-10], "is damaged"),
        (_GOOD + "\n", "is damaged"),
        (_GOOD + _GOOD, "is damaged"),
        (_GOOD.replace("\n", "\r\n"), "is damaged"),
        (_GOOD.replace("example.com/log", "example.com/lag"), "is damaged"),
        (_GOOD.replace("example.com/log", "a b"), "is damaged"),
        (_GOOD.replace("example.com/log", ""), "is damaged"),
        (_GOOD.replace(_ENCODED, base64.b64encode(b"\x02" + SEED).decode()), "is damaged"),
        (_GOOD.replace(_ENCODED, base64.b64encode(b"\x04" + SEED).decode()), "is damaged"),
        (_GOOD.replace(_ENCODED, base64.b64encode(b"\x01" + SEED[1:]).decode()), "is damaged"),
        (_GOOD.replace(_ENCODED, f"{_ENCODED}AAAA"), "is damaged"),
        (_GOOD.replace(_ENCODED, _ENCODED[::-1]), "is damaged"),
        (_GOOD.replace("example.com/log", "x" * 5000), "is damaged"),
        (_GOOD.encode().replace(b"example", b"\xff\xfe"), "is damaged"),
        (b"PRIVATE+KEY+" + bytes(1 << 20), "is damaged"),
    ],
)
def test_a_hostile_file_is_one_sentence_without_its_content(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    path = put(tmp_path / "log.key", content)
    with pytest.raises(InvalidConfigError) as caught:
        read_secret(path)
    assert str(caught.value).startswith(f"{path} {says}")
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(part in shown for part in (_ENCODED[:12], _ENCODED[::-1][:12], "PRIVATE+KEY"))
    assert caught.value.__context__ is None  # which others could show


@given(st.binary(max_size=400))
def test_any_bytes_are_a_key_or_a_sentence(content: bytes) -> None:
    for data in (content, b"PRIVATE+KEY+" + content, b"PRIVATE+KEY+a+00000000+" + content):
        assert isinstance(module._secret_in(data), str)


@given(st.integers(0, len(_GOOD) - 2), st.integers(0, 255))
def test_no_byte_can_be_another(at: int, byte: int) -> None:
    content = bytearray(_GOOD.encode())
    if content[at] != byte:
        content[at] = byte
        assert isinstance(module._secret_in(bytes(content)), str)


def test_no_secret_is_shown_or_carried_away() -> None:
    key = secret()
    assert repr(key) == f"<SecretKey of {key.key}>"
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr(key._secret)):
        assert _ENCODED[4:12] not in shown
        assert SEED.hex()[:12] not in shown
        assert repr(SEED)[2:10] not in shown
    assert not hasattr(key, "__dict__")
    with pytest.raises(TypeError):
        pickle.dumps(key)


# -- who signs -----------------------------------------------------------------------------------------


def test_a_file_a_key_or_a_key_with_a_command_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "log.key", _GOOD)
    vkey = str(secret().key)
    assert isinstance(signer_of(str(path)), SecretKey)
    assert isinstance(signer_of(vkey), AgentSigner)
    assert isinstance(signer_of(vkey, "true"), CommandSigner)
    for signer in (signer_of(str(path)), signer_of(vkey), signer_of(vkey, "true")):
        assert signer.key == secret().key


@pytest.mark.parametrize(
    ("named", "command", "says"),
    [
        ("{path}", "true", "a command signs as well; give the verifier key"),
        ("{path}.none", None, "cannot be read: No such file or directory"),
        ("", None, "cannot be read: No such file or directory"),
        ("example.com/log", None, "cannot be read: No such file or directory"),
        ("log+00000000+AQ==", None, "has 0 bytes"),
        (str(secret().key).replace("log", "lag"), None, "is damaged: its hash is"),
        (str(secret().key)[:-1], "true", "is no verifier key"),
        (str(secret().key), "", "is empty"),
    ],
)
def test_what_is_named_wrongly_is_a_sentence(
    tmp_path: Path, named: str, command: str | None, says: str
) -> None:
    path = put(tmp_path / "log.key", _GOOD)
    with pytest.raises(InvalidConfigError, match=says):
        signer_of(named.format(path=path), command)


def test_a_secret_that_is_named_itself_is_not_said_again() -> None:
    for refuse in (signer_of, VerifierKey.parse):
        with pytest.raises(InvalidConfigError, match="secret key") as caught:
            refuse(_GOOD.strip())
        assert _ENCODED[:12] not in str(caught.value)


def test_logs_sign_and_witnesses_cosign() -> None:
    log, witness = secret(1), secret(4, "example.com/witness")
    note = Note(TEXT, (sign(TEXT, log), cosign(TEXT, 1_700_000_000, witness)))
    assert note.signed_by([log.key, witness.key]) == [log.key, witness.key]
    assert [each.witnessed_at for each in note.signatures] == [None, 1_700_000_000]
    assert [len(each.signature) for each in note.signatures] == [64, 72]


def test_a_key_signs_only_as_what_it_is() -> None:
    with pytest.raises(InvalidConfigError, match="is the key of a witness, and a log signs with another"):
        sign(TEXT, secret(4))
    with pytest.raises(InvalidConfigError, match="is the key of a log, and a witness signs with another"):
        cosign(TEXT, 1, secret(1))


@pytest.mark.parametrize("time", [-1, 0, 2**63, 2**64])
def test_no_witness_signs_at_no_time(time: int) -> None:
    with pytest.raises(InvalidConfigError, match="no time at which a witness signs"):
        cosign(TEXT, time, secret(4))
