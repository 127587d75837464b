"""serve as a program: over TCP and at a Unix socket, with requests, events and signals; what it refuses."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import httpx
import pytest
from starlette.applications import Starlette

from msb_cache import ImageCache
from msb_cache.cli import serve
from msb_cache.interchange.privacy import Privacy
from tests.cli.support import USAGE, Call, execute, on_terminal, served


def event_of(lines: Iterator[str]) -> tuple[int, dict[str, Any]]:
    """Return the id and the data of the next event of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
        if not line and "data" in fields:
            return int(fields["id"]), json.loads(fields["data"])
    raise AssertionError("the stream ended")


def test_over_tcp_a_browser_comes_in_and_sees_what_happens(home: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    arguments = ("--home", home, "serve", "--listen", "127.0.0.1:0", "--token-file", token)
    with served(*arguments) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/", server.said)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        secret = token.read_text().strip()
        with httpx.Client(base_url=server.said, timeout=10) as client:
            assert client.get("/api/images").status_code == 401
            answer = client.get("/", params={"token": secret})
            assert (answer.status_code, answer.headers["location"]) == (303, "./")
            images = client.get("/api/images").json()
            assert {each["reference"] for each in images} == {
                "app:1",
                "app:latest",
                "example.org/team/tool:2",
            }
            with client.stream("GET", "/events", params={"after": 0}) as stream:
                lines = stream.iter_lines()
                position, event = event_of(lines)
                assert (position, event["type"]) == (1, "log.created")
                assert execute("--home", home, "pin", "app:1").code == 0
                while event["type"] != "image.pinned":
                    following, event = event_of(lines)
                    assert following == position + 1
                    position = following
                code, err = server.end()
        assert (code, err) == (0, "")
    with httpx.Client(timeout=1) as client, pytest.raises(httpx.ConnectError):
        client.get(server.said)


def test_at_a_socket_its_user_needs_no_token_and_it_goes_with_the_server(home: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "socket", tmp_path / "other"
    with ImageCache(other) as cache:
        cache.pin("app:9")
    with served("serve", "--home", home, "--home", other, "--socket", path) as server:
        assert server.said == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=10) as client:
            assert [each["id"] for each in client.get("/api/homes").json()] == ["microsandbox", "other"]
            assert client.get("/api/info", params={"home": "other"}).json()["events"] == 2
            assert client.get("/api/info", headers={"Host": "evil.example"}).status_code == 403
        second = execute("serve", "--socket", path)
        assert (second.code, second.err.count("\n")) == (USAGE, 1)
        assert "another server does" in second.err
        assert server.end(signal.SIGINT)[0] == 0
    assert not path.exists()


def test_on_a_terminal_the_address_with_the_token_is_printed_once(home: Path) -> None:
    def stop() -> bytes:
        return b"\x03"

    talk = on_terminal(["serve", "--listen", "127.0.0.1:0"], [("token=", stop)])
    assert talk.code == 0
    assert len(re.findall(r"http://127\.0\.0\.1:\d+/\?token=[A-Za-z0-9_-]{43}\s", talk.said)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--listen", "127.0.0.1:0"), "the token is printed on a terminal only"),
        (("--socket", "s", "--listen", "127.0.0.1:0"), "give --socket alone"),
        (("--socket", "s", "--token-file", "t"), "give --socket alone"),
        (("--socket", ""), "is empty"),
        (("--socket", "s", "--home", ""), "is empty"),
        (("--listen", "example.org:80", "--token-file", "t"), "no address to listen on"),
        (("--listen", "192.0.2.1:0", "--token-file", "t"), "no such address"),
        (("--token-file", "open"), "chmod 600"),
        (("--token-file", "short"), "a token has 32"),
        (("--socket", "s", "--allow-host", "http://x"), "no name of a host"),
        (("--socket", "open"), "something else is there"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(
    call: Call,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("open").write_text("x" * 40)
    Path("open").chmod(0o644)
    Path("short").write_text("guessed")
    Path("short").chmod(0o600)
    done = call("serve", *arguments)
    assert (done.code, done.raw) == (USAGE, b"")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not Path("s").exists()


@pytest.mark.parametrize(("address", "warns"), [("0.0.0.0:0", True), ("[::1]:0", False)])
def test_what_other_machines_reach_is_said(
    call: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, warns: bool
) -> None:
    monkeypatch.setattr(serve, "_run", lambda *_: None)
    done = call("serve", "--listen", address, "--token-file", tmp_path / "token")
    assert re.fullmatch(rf"http://{re.escape(address[:-2])}:[1-9]\d*/\n", done.out)
    assert ("put a proxy with TLS before it" in done.err) is warns


@pytest.mark.parametrize(
    ("options", "privacy"),
    [
        ((), Privacy(config=False, people=True)),
        (("--with-config",), Privacy(config=True, people=True)),
        (("--no-people",), Privacy(config=False, people=False)),
    ],
)
def test_what_is_told_is_said_by_options(
    call: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, privacy: Privacy
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(serve, "_run", lambda *arguments: given.extend(arguments))
    assert call("serve", "--socket", tmp_path / "s", *options).code == 0
    assert privacy in given


def test_a_query_that_goes_on_does_not_keep_it_from_ending(
    call: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()

    async def ends(app: Starlette, sock: object, *, stopped: object, ending: object) -> None:
        cache = app.state.site.homes["microsandbox"]
        task = asyncio.create_task(cache.info())
        await asyncio.to_thread(began.wait, 10)
        task.cancel()

    def info(*_: object, **__: object) -> None:
        began.set()
        assert go.wait(10)

    monkeypatch.setattr("msb_cache.web.listening.serve", ends)
    monkeypatch.setattr("msb_cache.queries.info.info", info)
    monkeypatch.setattr(serve, "_GRACE_SECONDS", 0.01)
    before = {*threading.enumerate()}
    done = call("serve", "--home", home, "--socket", tmp_path / "s")
    assert (done.code, done.err) == (0, "")
    assert not go.is_set()
    go.set()
    deadline = time.monotonic() + 10
    while {*threading.enumerate()} - before:  # they end with what they belong to
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.01)


def test_a_note_is_logged_once_until_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    logger = SimpleNamespace(warning=lambda event, **fields: said.append(fields["said"]))
    monkeypatch.setattr(serve, "staying_logger", lambda: logger)
    with click.Context(serve.COMMAND):
        notes = serve._Notes()
    for sentence in ("msb is gone", "msb is gone", "it is back", "msb is gone"):
        notes.say(sentence)
    assert said == ["msb is gone", "it is back", "msb is gone"]


def test_a_note_is_logged_by_the_thread_that_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(serve.COMMAND):
        notes = serve._Notes()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(notes.say, "the log begins today").result()
    assert "the log begins today" in capsys.readouterr().err


def test_the_unit_serves_at_a_socket_of_its_user() -> None:
    unit = (Path(__file__).parents[2] / "examples/systemd/msb-cache-serve.service").read_text()
    assert "ExecStart=%h/.local/bin/msb-cache serve --socket %t/msb-cache.sock\n" in unit


def test_a_home_that_is_not_there_is_said(call: Call, tmp_path: Path) -> None:
    done = call("serve", "--home", tmp_path / "nowhere", "--socket", tmp_path / "s")
    assert (done.code, "does not exist" in done.err) == (3, True)


def test_what_it_needs_and_how_to_get_it_is_said(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = call("serve", "--socket", "s")
    assert done.code == 1
    assert "the server needs uvicorn; `pip install 'msb-cache[web]'`" in done.err
