"""Fields and public keys as OpenSSH writes them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidConfigError
from msb_cache.proof import ssh

PUBLIC = bytes(range(32))
OTHER = base64.b64encode(ssh.string(b"ssh-rsa") + ssh.string(PUBLIC)).decode()
LINE = f"ssh-ed25519 {base64.b64encode(ssh.blob(PUBLIC)).decode()}"


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_fields_are_read_as_they_were_written(values: list[bytes]) -> None:
    fields = ssh.Fields(b"".join(map(ssh.string, values)))
    assert [fields.string() for _ in values] == values
    assert fields.is_over


@given(st.binary(max_size=80))
def test_what_is_cut_off_is_no_field(data: bytes) -> None:
    whole = ssh.string(data)
    for length in range(len(whole)):
        with pytest.raises(ssh.CutOffError):
            ssh.Fields(whole[:length]).string()


@given(st.binary(max_size=120))
def test_any_bytes_are_a_pair_or_none(data: bytes) -> None:
    found = ssh.pair(data)
    assert found is None or ssh.string(ssh.ED25519) + ssh.string(found) == data


@pytest.mark.parametrize("text", [LINE, f"{LINE}\n", f"{LINE} ada@one\n", f"{LINE} of Ada, at work\r\n"])
def test_a_public_key_is_read(text: str) -> None:
    assert ssh.public_in(text, "id.pub") == PUBLIC


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged"),
        ("ssh-ed25519", "is damaged"),
        ("ssh-ed25519 AAAA", "is damaged"),
        ("ssh-ed25519 not,base64", "is damaged"),
        (LINE[:-4], "is damaged"),
        (f"{LINE}AAAA", "is damaged"),
        (f"ssh-ed25519 {base64.b64encode(ssh.blob(PUBLIC[1:])).decode()}", "is damaged"),
        (
            f"ssh-ed25519 {OTHER}",
            "is damaged",
        ),
        (LINE.replace("ssh-ed25519", "ssh-rsa"), "of another kind than Ed25519"),
        (f"sk-{LINE}", "of another kind than Ed25519"),
        (f"{LINE}\n{LINE}\n", "more than one line"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"^id.pub .*{says}"):
        ssh.public_in(text, "id.pub")
