"""The example checks real proofs, and refuses whatever is changed in them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msb_cache.audit.prove import prove
from msb_cache.proof.inclusion import InclusionProof, parse
from tests.conftest import ROOT
from tests.logs import new_ledger, some_events
from tests.proof.signing import keep_signed, new_log_key, new_witness_key

EXAMPLE = ROOT / "examples" / "check_proof.py"
KEY = new_log_key()
LONGEST = 60
"""Lines of it that are not empty: it is to be read."""


@pytest.fixture(scope="module")
def check() -> Callable[[str, str], dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("check_proof_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str, str], dict[str, Any]] = module.check
    return found


def proofs(home: Path, size: int) -> list[str]:
    """The proofs of all events of a log of so many."""
    ledger = new_ledger(home, some_events() * 4)
    keep_signed(ledger.layout.database, KEY, size=size, witnesses=[new_witness_key("w1.example")])
    return [prove(ledger, seq).text for seq in range(1, size + 1)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 16, 21])
def test_every_event_of_logs_of_any_size(
    check: Callable[[str, str], dict[str, Any]], tmp_path: Path, size: int
) -> None:
    for seq, text in enumerate(proofs(tmp_path, size), 1):
        found = check(text, str(KEY.key))
        assert found["seq"] == seq
        assert json.loads(found["actor"])["user"] == "alice"


def test_keys_of_any_base64(check: Callable[[str, str], dict[str, Any]], tmp_path: Path) -> None:
    keys = (new_log_key(seed=str(number)) for number in range(1000))
    key = next(each for each in keys if str(each.key).count("+") > 3 and "/" in str(each.key)[-40:])
    ledger = new_ledger(tmp_path, some_events())
    keep_signed(ledger.layout.database, key)
    assert check(prove(ledger, 2).text, str(key.key))["seq"] == 2


def test_what_is_changed_is_refused(check: Callable[[str, str], dict[str, Any]], tmp_path: Path) -> None:
    text = proofs(tmp_path, 7)[2]
    above, _, note = text.partition("\n\n")
    *signed, _ = note.splitlines(keepends=True)  # the last line is a witness's, whom it does not know
    end = len(above) + 2 + len("".join(signed)) - 1
    for at in range(0, end, 3):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        try:
            found = check(changed, str(KEY.key))
        except Exception:  # any error is a refusal
            continue
        # Base64 has bits that say nothing, and its readers differ in whether they look at them.
        assert found == check(text, str(KEY.key)), at


def test_another_key_and_another_event(check: Callable[[str, str], dict[str, Any]], tmp_path: Path) -> None:
    third, fourth = (parse(text.encode()) for text in proofs(tmp_path, 7)[2:4])
    mixed = InclusionProof(third.index, third.path, third.note, fourth.extra)
    for text, key in (
        (str(mixed), KEY),
        (str(third), new_log_key(seed="forged")),
        (str(third), new_log_key("b")),
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - any error is a refusal
            check(text, str(key.key))


def test_as_a_program(tmp_path: Path) -> None:
    path = tmp_path / "event.tlog-proof"
    path.write_text(proofs(tmp_path / "home", 7)[6])
    done = subprocess.run(
        [sys.executable, "-I", EXAMPLE, path, str(KEY.key)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("event 7: image.removed of docker.io/library/python:3.12: {")
    path.write_bytes(path.read_bytes().replace(b"index 6", b"index 5"))
    assert (
        subprocess.run([sys.executable, "-I", EXAMPLE, path, str(KEY.key)], capture_output=True).returncode
        == 1
    )


def test_it_is_short() -> None:
    assert sum(bool(line.strip()) for line in EXAMPLE.read_text().splitlines()) <= LONGEST
