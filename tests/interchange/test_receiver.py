"""Where events go: what is taken for a receiver, and that what is secret about it stays so."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from msb_cache.errors import InvalidConfigError
from msb_cache.interchange.receiver import SECRET_VARIABLE, WebhookReceiver, read_headers, read_secrets

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://hooks.example/a?token=hidden", "https://hooks.example"),
        ("https://hooks.example:8443", "https://hooks.example:8443"),
        ("http://127.0.0.1:9/a", "http://127.0.0.1:9"),
        ("http://localhost/a", "http://localhost"),
        ("https://[::1]:9/", "https://[::1]:9"),
    ],
)
def test_messages_have_scheme_and_host(url: str, name: str) -> None:
    receiver = WebhookReceiver(url, secrets=[SECRET], headers={"Authorization": "Bearer hidden"})
    assert receiver.name == name
    assert "hidden" not in repr(receiver)
    assert SECRET not in repr(receiver)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "no web address"),
        ("hooks.example/hidden", "no web address"),
        ("ftp://hooks.example/hidden", "no web address"),
        ("https:///hidden", "no web address"),
        ("https://hooks.example:99999/hidden", "no web address"),
        ("https://hooks.example:0/hidden", "no web address"),
        ("https://hööks.example/hidden", "no web address"),
        ("https://hooks.example/hidden\nX: y", "no web address"),
        ("https://hooks.example/a hidden", "no web address"),
        ("https://[::1/hidden", "no web address"),
        (f"https://hooks.example/hidden{'x' * 9000}", "no web address"),
        ("https://alice:hidden@hooks.example/", "a login in it.*--post-header-file"),
        ("http://hooks.example/hidden", "http://hooks.example would get the events unencrypted"),
        ("http://hooks.example@127.0.0.1/hidden", "a login in it"),
    ],
)
def test_what_is_not_posted_to(url: str, problem: str) -> None:
    with pytest.raises(InvalidConfigError, match=problem) as refused:
        WebhookReceiver(url)
    assert "hidden" not in str(refused.value)


def test_plain_http_elsewhere_is_allowed_on_request() -> None:
    assert WebhookReceiver("http://hooks.example/", insecure=True).name == "http://hooks.example"


def test_secrets_are_base64_or_any_text() -> None:
    text = "any text of at least 24 bytes"
    assert WebhookReceiver("https://a.b", secrets=[SECRET, text]).keys() == [KEY, text.encode()]


@pytest.mark.parametrize(
    ("secrets", "problem"),
    [
        (["short hidden"], "at least 24 bytes, and one has 12; `openssl rand"),
        ([SECRET, "whsec_aGlkZGVu"], "at least 24 bytes, and one has 6"),
        (["whsec_hidden hidden hidden hidden hidden!"], "goes on in base64"),
        ([SECRET] * 5, "at most 4 secrets"),
    ],
)
def test_secrets_that_sign_nothing(secrets: list[str], problem: str) -> None:
    with pytest.raises(InvalidConfigError, match=problem) as refused:
        WebhookReceiver("https://a.b", secrets=secrets)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("Authoriza tion", "hidden", "a header's name"),
        ("X-Token", "hidden\r\nHost: other", "the value of the header X-Token"),
        ("X-Token", "hiddén", "the value of the header X-Token"),
        ("Content-Type", "hidden", "the header Content-Type is msb-cache's own"),
        ("Webhook-Signature", "hidden", "the header Webhook-Signature is msb-cache's own"),
        ("host", "hidden", "the header host is msb-cache's own"),
    ],
)
def test_headers_that_are_not_sent(name: str, value: str, problem: str) -> None:
    with pytest.raises(InvalidConfigError, match=problem) as refused:
        WebhookReceiver("https://a.b", headers={name: value})
    assert "hidden" not in str(refused.value)


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_secrets_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_secrets(None) == []
    monkeypatch.setenv(SECRET_VARIABLE, f"{SECRET}\n")
    assert read_secrets(None) == [SECRET]
    file = private(tmp_path / "secrets", f"new {SECRET}\n\n  old one \n")
    assert read_secrets(file) == [f"new {SECRET}", "old one"]


def test_headers_come_from_a_file(tmp_path: Path) -> None:
    file = private(tmp_path / "headers", "Authorization: Bearer a:b\n\nX-Tenant:  acme \n")
    assert read_headers(file) == {"Authorization": "Bearer a:b", "X-Tenant": "acme"}
    with pytest.raises(InvalidConfigError, match="headers:2: a header is written as") as refused:
        read_headers(private(tmp_path / "headers", "X-A: b\nhidden"))
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o610])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = private(tmp_path / "secrets", SECRET, mode)
    for read in (read_secrets, read_headers):
        with pytest.raises(InvalidConfigError, match=r"other users can read .*; `chmod 600` it"):
            read(file)


def test_systemds_credentials_show_the_mask_of_an_acl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secrets(private(tmp_path / "secrets", SECRET, 0o440)) == [SECRET]
    with pytest.raises(InvalidConfigError, match="other users can read"):
        read_secrets(private(tmp_path / "others", SECRET, 0o444))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(mode=0o700), "Is a directory|no regular file"),
        (lambda path: os.mkfifo(path, 0o600), "no regular file"),
        (lambda path: private(path, ""), "has no secret"),
        (lambda path: private(path, "x" * 20_000), "more than 16 KiB"),
        (lambda path: (path.write_bytes(b"\xff" * 30), path.chmod(0o600)), "no text in UTF-8"),
    ],
)
def test_files_that_hold_no_secret(tmp_path: Path, make: object, problem: str) -> None:
    make(tmp_path / "secrets")  # type: ignore[operator]
    with pytest.raises(InvalidConfigError, match=problem):
        read_secrets(tmp_path / "secrets")
