"""Who signs and who cosigns, as options say it: what makes no sense is refused before anything is signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import USAGE, Call, sentence

NAME = "ci7.example.com/msb-cache"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--sign", "nowhere"), USAGE, "cannot be read"),
        (("--sign-command", "x"), USAGE, "belongs to --sign"),
        (("--witness", "http://127.0.0.1:1"), USAGE, "belongs to --sign"),
        (("--sign", "KEY", "--witness", "http://127.0.0.1:1"), USAGE, "give --witness-key"),
        (("--sign", "KEY", "--witness", "x", "--witness-key", "WITNESS"), USAGE, "no web address"),
        (("--sign", "KEY", "--witness-key", "nonsense"), USAGE, "no verifier key"),
        (("--sign", "KEY", "--origin", "another"), USAGE, f"which is {NAME}"),
        (("--sign", "KEY", "--policy", "KEY"), USAGE, "line 1 of the policy"),
        (("--sign", "WITNESSFILE"), USAGE, "witness"),
    ],
)
def test_bad_options(
    home: Path,
    call: Call,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    key, other = tmp_path / "log.key", tmp_path / "witness.key"
    call("key", "new", key, "--name", NAME)
    witness = call("key", "new", other, "--name", "w1.example.com", "--witness").out.strip()
    named = {"KEY": key, "WITNESS": witness, "WITNESSFILE": other}
    done = call("checkpoint", *(named.get(each, each) for each in options))
    assert (done.code, done.raw) == (code, b"")
    assert said in sentence(done.err)
    assert call("checkpoints", "--quiet").out == ""
