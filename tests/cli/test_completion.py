"""The script that the command prints works in real shells, into which keys are typed on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache
from msb_cache.fleet.fleet import Fleet
from tests.cli.support import PROGRAM, USAGE, Call, take_terminal

STARTS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
LOADS = {
    "bash": 'eval "$(msb-cache completion bash)"',
    "zsh": 'eval "$(msb-cache completion zsh)"',
    "fish": "msb-cache completion fish | source",
}
HOSTILE = 'snapshot:/srv/it\'s $(touch pwned) `touch pwned`; "x"'
PATIENCE = 30.0  # seconds


class Shell:
    """A shell on a terminal, in which msb-cache answers completions, and else writes down its arguments."""

    def __init__(self, name: str, folder: Path) -> None:
        self._written = folder / "arguments"
        programs = folder / "programs"
        programs.mkdir()
        starter = programs / "msb-cache"
        starter.write_text(
            "#!/bin/sh\n"
            f'if [ -n "$_MSB_CACHE_COMPLETE" ] || [ "$1" = completion ]; then exec {PROGRAM} "$@"; fi\n'
            f"printf '%s\\0' \"$@\" >{shlex.quote(str(self._written))}.new\n"
            f"mv {self._written}.new {self._written}\n"
        )
        starter.chmod(0o755)
        main, side = pty.openpty()
        self._main = main
        self.said = b""
        self._process = subprocess.Popen(
            STARTS[name],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=folder,
            env={
                **os.environ,
                "TERM": "xterm",
                "PATH": f"{programs}:{os.environ['PATH']}",
                "LC_ALL": "C.UTF-8",
            },
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(side)

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        os.close(self._main)

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline, self.said.decode(errors="replace")
            if select.select([self._main], [], [], 0.01)[0]:
                self.said += os.read(self._main, 65536)

    def arguments(self, keys: str) -> list[str]:
        """Type what stands behind the name of the program, then Enter; return what that was called with."""
        self._written.unlink(missing_ok=True)
        self.type(f"msb-cache {keys}\r")
        self.wait(self._written.exists)
        return self._written.read_text().split("\0")[:-1]

    def screen(self, keys: str, *shown: str) -> str:
        """Type that, until all of it is shown; return what is shown."""
        self.said = b""
        self.type(f"msb-cache {keys}")
        self.wait(lambda: all(text.encode() in self.said for text in shown))
        self.type("\x03")
        return self.said.decode(errors="replace")


@pytest.fixture
def filled(home: Path, tmp_path: Path) -> Path:
    with ImageCache(home) as cache:
        cache.remove("app:latest")
        cache.hold("app:1", "sandbox:dev")
        cache.hold("app:1", HOSTILE)
        cache.pin("example.org/team/tool:2")
    with ImageCache(tmp_path / "other home") as cache:
        cache.load(tmp_path / "tool.tar")
    for host, where in (("ci-1", home), (HOSTILE, tmp_path / "other home")):
        with ImageCache(where, actor=Actor(user="ci", uid=1000, host=host, program="test")) as cache:
            cache.use("example.org/team/tool:2")
        [_] = Fleet(db=tmp_path / "fleet a.db").take([where / "db" / "msb-cache.db"])
    return home


@pytest.fixture(params=STARTS)
def shell(
    request: pytest.FixtureRequest, filled: Path, tmp_path: Path, require_peer: Callable[[str], str]
) -> Iterator[Shell]:
    name = request.param
    require_peer(name)
    with Shell(name, tmp_path) as shell:
        shell.type(f"{LOADS[name]}; echo rea''dy\r")
        shell.wait(lambda: b"ready" in shell.said)
        yield shell


@pytest.mark.peer
def test_keys_typed_into_a_shell(shell: Shell, filled: Path, tmp_path: Path) -> None:
    with ImageCache(filled) as cache:
        (removal,) = [each.operation for each in cache.prunes()]
    for keys, arguments in (
        ("insp\tx", ["inspect", "x"]),
        ("list --form\tj\t", ["list", "--format", "json"]),
        ("inspect a\t", ["inspect", "app:1"]),
        ("inspect app:\t", ["inspect", "app:1"]),
        ("inspect docker.io/library/a\t", ["inspect", "docker.io/library/app:1"]),
        ("inspect 'app:\t", ["inspect", "app:1"]),
        ("save example.org/t\tapp\t", ["save", "example.org/team/tool:2", "app:1"]),
        ("history app:l\t", ["history", "app:latest"]),
        ("unpin e\t", ["unpin", "example.org/team/tool:2"]),
        ("release sandbox:\t", ["release", "sandbox:dev"]),
        ("release sn\t", ["release", HOSTILE]),
        ("use app:1 --holder=sand\t", ["use", "app:1", "--holder=sandbox:dev"]),
        ("events --type image.rem\t", ["events", "--type", "image.removed"]),
        ("events --type=image.rem\t", ["events", "--type=image.removed"]),
        ("prunes show \t", ["prunes", "show", removal]),
        ("restore 0\tapp\t", ["restore", removal, "app:latest"]),
        ("load -i too\t", ["load", "-i", "tool.tar"]),
        ("--home oth\tlist", ["--home", "other home/list"]),
        ("--home 'other home' inspect \t", ["--home", "other home", "inspect", "example.org/team/tool:2"]),
        ("inspect nothing\t", ["inspect", "nothing"]),
        ("fleet --db fle\tlist", ["fleet", "--db", "fleet a.db", "list"]),
        ("fleet --db 'fleet a.db' verify c\t", ["fleet", "--db", "fleet a.db", "verify", "ci-1"]),
        ("fleet list --db fleet\\ a.db --host=ci\t", ["fleet", "list", "--db", "fleet a.db", "--host=ci-1"]),
        ("fleet diff --db 'fleet a.db' ci-1 sn\t", ["fleet", "diff", "--db", "fleet a.db", "ci-1", HOSTILE]),
        ("fleet --db 'fleet a.db' why app:l\t", ["fleet", "--db", "fleet a.db", "why", "app:latest"]),
        (
            "fleet --db 'fleet a.db' prunes show \t",
            ["fleet", "--db", "fleet a.db", "prunes", "show", removal],
        ),
        ("fleet --db none list x\t", ["fleet", "--db", "none", "list", "x"]),
    ):
        assert shell.arguments(keys) == arguments, keys
    assert not (tmp_path / "pwned").exists()


@pytest.mark.peer
def test_what_there_is_to_choose_from_is_shown(shell: Shell, filled: Path) -> None:
    shell.screen("events --type image.p\t\t", "image.pulled", "image.pinned")


@pytest.mark.peer
@pytest.mark.parametrize("shell", ["zsh", "fish"], indirect=True)
def test_an_operation_is_shown_with_what_it_was(shell: Shell, filled: Path) -> None:
    with ImageCache(filled) as cache:
        cache.remove("app:1", force=True)
    shell.screen("prunes show \t\t", "remove of 1 image")


def test_only_known_shells(call: Call) -> None:
    assert call("completion", "tcsh").code == USAGE


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_script_needs_no_home(name: str, call: Call, tmp_path: Path) -> None:
    done = call("--home", tmp_path / "none", "completion", name)
    assert done.code == 0
    assert "_MSB_CACHE_COMPLETE" in done.out
    assert not (tmp_path / "none").exists()
