"""Events that are delivered by the command: its options, what it says, and how it ends."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import FAILED, USAGE, Call, Following, every, sentence
from tests.interchange.receiving import Receiver, answer, hang

SECRET = f"whsec_{base64.b64encode(b'secret' * 6).decode()}"


@pytest.fixture
def server() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the positions be here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "msb-cache" / "posts"


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_what_is_there_is_delivered_once(
    home: Path, call: Call, server: Receiver, state: Path, tmp_path: Path
) -> None:
    secrets = private(tmp_path / "secrets", f"{SECRET}\nan older one of 24 bytes\n")
    headers = private(tmp_path / "headers", "Authorization: Bearer hidden\n")
    options = ("--post-secret-file", secrets, "--post-header-file", headers, "--type", "image.pulled")
    done = call("events", "--post", server.url, *options)
    seqs = [event["seq"] for event in every(call, "events", "--type", "image.pulled")]
    assert (done.code, done.out) == (0, "")
    assert done.err == f"  ✓ Delivered  3 events to http://{server.host}, up to @{seqs[-1]}\n"
    assert server.taken == seqs
    server.check([SECRET])
    assert {got.headers["authorization"] for got in server.got} == {"Bearer hidden"}
    assert len([*state.iterdir()]) == 1
    assert call("use", "app:1").code == 0
    done = call("events", "--post", server.url, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert server.taken[3] == seqs[-1] + 1


def test_the_environment_has_a_secret_and_a_file_says_how_far_it_is(
    home: Path, call: Call, server: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_CACHE_POST_SECRET", SECRET)
    done = call("events", "--post", server.url, "--position", tmp_path / "here", "--batch", "100")
    assert done.code == 0
    server.check([SECRET])
    assert len(server.got) == 1
    assert json.loads((tmp_path / "here").read_text())["seq"] == server.taken[-1]


def test_a_refusal_is_one_sentence_and_tells_no_secret(
    home: Path, call: Call, server: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_CACHE_POST_SECRET", SECRET)
    headers = private(tmp_path / "headers", "X-Token: hidden\n")
    server.on(answer(400, b"I got hidden and \x1b[31m"))
    done = call("events", "--post", server.url, "--post-header-file", headers)
    assert done.code == FAILED
    assert sentence(done.err) == (
        f"http://{server.host} refuses event 1 (400 Bad Request: 'I got … and \\x1b[31m'); "
        "mend that, or leave it out with --since @2"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--batch", "2"), "--batch belongs to --post URL"),
        (("--post-secret-file", "x"), "--post-secret-file belongs to --post URL"),
        (("--insecure",), "--insecure belongs to --post URL"),
        (("--post", "https://a.b", "--format", "json"), "without another --format"),
        (("--post", "https://a.b", "--format", "{seq}"), "without another --format"),
        (("--post", "https://a.b", "--batch", "1001"), "1001"),
    ],
)
def test_what_does_not_fit_together(home: Path, call: Call, options: tuple[str, ...], problem: str) -> None:
    done = call("events", *options)
    assert done.code == USAGE
    assert problem in sentence(done.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_comes_is_delivered_until_a_signal(home: Path, call: Call, number: int) -> None:
    with Receiver() as server:
        last = every(call, "events")[-1]["seq"]
        server.on(answer(204), hang)
        options = ("--format", "cloudevents", "--since", f"@{last}", "--post", server.url)
        following = Following(home, "events", *options)
        try:
            server.wait(lambda: server.taken == [last])
            assert call("use", "app:1").code == 0
            server.wait(lambda: len(server.got) == 2)
        finally:
            code, said = following.end(number)
    assert code == 0
    assert said.splitlines()[-1] == f"  ✓ Delivered  1 event to http://{server.host}, up to @{last}"
    assert following.lines == []
