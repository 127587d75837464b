"""What pull says when it is done, its options about logins, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import (
    APP,
    APP_NEXT,
    FAILED,
    NOT_FOUND,
    TOOL,
    USAGE,
    Call,
    execute,
    fingerprint,
    on_terminal,
    sentence,
)
from tests.registry_server import Auth, RegistryServer


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        running.add(APP, "app", "1")
        yield running


def test_new_unchanged_and_moved(own_home: Path, call: Call, server: RegistryServer) -> None:
    name = f"{server.host}/app:1"
    done = call("pull", name)
    assert (done.code, done.raw) == (0, b"")
    assert done.err.count(" fetched\n") == 2
    assert done.err.splitlines()[-1].startswith(f"  ✓ Pulled     {name}  {APP.digest}  ")
    assert done.err.endswith(" new\n")
    assert call("pull", name).err == f"  ✓ Unchanged  {name}  {APP.digest}\n"
    server.add(APP_NEXT, "app", "1")
    assert call("pull", name).err.splitlines()[-1].startswith("  ✓ Unchanged ")
    moved = call("pull", "--policy", "always", name)
    assert f"  ✓ Moved      {name}  {APP.digest} → {APP_NEXT.digest}" in moved.err.splitlines()
    assert call("list", "-q").lines == [name]
    assert call("verify").code == 0


def test_a_layer_that_is_here_is_not_fetched(own_home: Path, call: Call, server: RegistryServer) -> None:
    server.add(TOOL, "tool", "2")
    call("pull", "-q", f"{server.host}/app:1")
    done = call("pull", f"{server.host}/tool:2")
    assert done.code == 0
    assert "already here" in done.err.splitlines()[-1]


def test_quiet(own_home: Path, call: Call, server: RegistryServer) -> None:
    done = call("pull", "-q", f"{server.host}/app:1")
    assert (done.code, done.lines, done.err) == (0, [APP.digest], "")


def test_a_login_from_stdin(own_home: Path) -> None:
    with RegistryServer(auth=Auth(users={"ada": "s3cret"}, anonymous=False)) as server:
        server.add(APP, "app", "1")
        name = f"{server.host}/app:1"
        words = ("pull", "-q", "-u", "ada", "--password-stdin", name)
        refused = execute(*words, stdin=b"wrong\n")
        assert refused.code == FAILED
        assert "wrong" not in sentence(refused.err)
        done = execute(*words, stdin=b"s3cret\n")
        assert (done.code, done.lines, done.err) == (0, [APP.digest], "")
        assert b"s3cret" not in execute("events", "--format", "json").raw


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-u", "ada"], "--username and --password-stdin belong together"),
        (["--password-stdin"], "--username and --password-stdin belong together"),
        (["--jobs", "0"], "0"),
        (["--jobs", "33"], "33"),
        (["--policy", "sometimes"], "sometimes"),
        (["--ca-certs", "/nowhere.pem"], "/nowhere.pem is no file"),
        (["--platform", "x/y/z/w"], "platform"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_options(home: Path, call: Call, words: list[str], says: str) -> None:
    before = fingerprint(home)
    done = call("pull", *words, "localhost:1/app:1")
    assert (done.code, done.raw) == (USAGE, b"")
    assert says in sentence(done.err)
    assert fingerprint(home) == before


def test_no_password_on_stdin(own_home: Path) -> None:
    done = execute("pull", "-u", "ada", "--password-stdin", "localhost:1/app:1")
    assert done.code == USAGE
    assert sentence(done.err).startswith("--password-stdin: stdin was empty")
    talk = on_terminal(["pull", "-u", "ada", "--password-stdin", "localhost:1/app:1"])
    assert talk.code == USAGE
    assert "stdin is a terminal" in sentence(talk.said)
    assert not own_home.exists()


def test_never_and_not_there(own_home: Path, call: Call, server: RegistryServer) -> None:
    done = call("pull", "--policy", "never", f"{server.host}/app:1")
    assert (done.code, done.raw) == (NOT_FOUND, b"")
    assert "forbids to pull it" in sentence(done.err)
    done = call("pull", f"{server.host}/nothing:1")
    assert (done.code, done.raw) == (FAILED, b"")
    note, error = done.err.splitlines()  # the failure is recorded, which makes the home
    assert note.startswith(f"note: {own_home} is new and kept by msb-cache itself")
    assert "is not in the registry" in sentence(error)
