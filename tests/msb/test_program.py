"""Finding msb, running it, and reading what it says."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import HomeOwnedByMicrosandboxError, MsbProgramError
from msb_cache.msb.program import Finished, MsbProgram, find_program, per_argument, require_program
from msb_cache.waiting import ended_by


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a program of a shell script."""

    def make(text: str) -> Path:
        path = tmp_path / "msb"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return make


def test_the_named_one_comes_first(
    script: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_msb: None
) -> None:
    assert find_program(tmp_path) is None
    with pytest.raises(HomeOwnedByMicrosandboxError, match="install microsandbox, or name the program"):
        require_program(tmp_path, pytest.fail)

    package = tmp_path / "site" / "microsandbox"
    (package / "_bundled" / "bin").mkdir(parents=True)
    bundled = package / "_bundled" / "bin" / "msb"
    bundled.write_text("#!/bin/sh\n")

    class Spec:
        submodule_search_locations = (str(package),)

    monkeypatch.setattr("msb_cache.msb.program.find_spec", lambda name: Spec)
    assert find_program(tmp_path) is None  # no program: it cannot be run
    bundled.chmod(0o755)
    assert require_program(tmp_path, pytest.fail).path == bundled

    on_path = script("exit 0")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert require_program(tmp_path, pytest.fail).path == on_path
    named = tmp_path / "other"
    named.write_text("#!/bin/sh\n")
    monkeypatch.setenv("MSB_PATH", str(named))
    with pytest.raises(MsbProgramError, match="MSB_PATH names no program"):
        find_program(tmp_path)
    named.chmod(0o755)
    assert require_program(tmp_path, pytest.fail).path == named


def test_what_a_run_gets(
    script: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_API_KEY", "secret")
    monkeypatch.setenv("MSB_PATH", "/nowhere")
    program = MsbProgram(script('env; cat; echo "  ✓ Removed  x" >&2; exit 3'), tmp_path / "home")
    finished = program.run("image", "ls", source=iter([b"piped ", b"in"]))
    assert finished.code == 3
    assert f"MSB_HOME={tmp_path}/home\n" in finished.output
    assert "MSB_BACKEND=local\n" in finished.output
    assert "secret" not in finished.output
    assert "MSB_PATH" not in finished.output
    assert finished.output.endswith("piped in")
    assert finished.lines == ("✓ Removed  x",)
    assert program.run("x").output.count("piped") == 0  # it does not read our standard input


def test_a_run_that_stops_reading(script: Callable[[str], Path], tmp_path: Path) -> None:
    program = MsbProgram(script("echo 'error: enough' >&2; exit 1"), tmp_path)
    finished = program.run("load", source=iter([b"x" * 65536] * 100))
    assert finished.problem == "enough"


def test_a_source_that_fails_ends_the_run(script: Callable[[str], Path], tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        MsbProgram(script("cat; sleep 100"), tmp_path).run("load", source=broken())


def test_a_source_that_fails_is_what_is_reported(script: Callable[[str], Path], tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        time.sleep(0.2)  # by now nobody reads it
        raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        MsbProgram(script("exec head -c 4"), tmp_path).run("load", source=broken())


def test_a_run_that_writes_much_while_it_is_fed(script: Callable[[str], Path], tmp_path: Path) -> None:
    program = MsbProgram(script("head -c 6000000 /dev/zero >&2; head -c 6000000 /dev/zero; cat"), tmp_path)
    finished = program.run("load", source=iter([b"x" * 65536] * 100))
    assert finished.code == 0
    assert len(finished.output) == 4 * 1024 * 1024


def test_a_run_that_does_not_end(script: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(MsbProgramError, match=r"has not ended after 0\.1 seconds"):
        MsbProgram(script("exec sleep 100"), tmp_path).run("--version", seconds=0.1)


def test_a_named_program_without_a_folder_is_here(
    script: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_msb: None
) -> None:
    here = script("echo 1.2.3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSB_PATH", here.name)
    found = find_program(tmp_path)
    assert found is not None
    assert (found.path, found.version()) == (here, "1.2.3")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["error: image not found: x:1", "error: some images failed to remove"], "image not found: x:1"),
        (["microsandbox: installation is incomplete"], "microsandbox: installation is incomplete"),
        ([], "exit code 7"),
        (["error: url http://me:secret@host/v2/x?sig=abc, no"], "url http://host/v2/x, no"),
        (["error: " + "long " * 500], ("long " * 500)[:500]),
    ],
)
def test_the_problem_is_what_it_says_without_secrets(lines: list[str], problem: str) -> None:
    assert Finished(7, "", tuple(lines)).problem == problem


REMOVED, FAILED = "✓ Removed             x", "error: some images failed to remove"


@pytest.mark.parametrize(
    ("code", "lines", "said"),
    [
        (0, [REMOVED, REMOVED], [None, None]),
        (1, [REMOVED, "error: in use", FAILED], [None, "in use"]),
        (1, ["error: not found: b", REMOVED, FAILED], ["not found: b", None]),
        (1, ["error: no database"], ["no database", "no database"]),  # it did not come to any of them
        (1, [], ["exit code 1", "exit code 1"]),
        (0, ["a release that says nothing"], [None, None]),
    ],
)
def test_what_it_says_of_each(code: int, lines: list[str], said: list[str | None]) -> None:
    assert per_argument(Finished(code, "", tuple(lines)), ["a", "b"], "Removed") == said


def test_version(script: Callable[[str], Path], tmp_path: Path) -> None:
    assert MsbProgram(script("echo msb 0.7.11"), tmp_path).version() == "0.7.11"
    assert MsbProgram(script("echo hello"), tmp_path).version() is None
    with pytest.raises(MsbProgramError, match="cannot run"):
        MsbProgram(tmp_path / "nothing", tmp_path).version()


def test_who_waits_for_a_run_is_told_for_which(script: Callable[[str], Path], tmp_path: Path) -> None:
    said: list[str] = []
    finish = tmp_path / "finish"

    def note(sentence: str) -> None:
        said.append(sentence)
        finish.touch()

    program = MsbProgram(script(f"while [ ! -e {finish} ]; do sleep 0.02; done"), tmp_path, note)
    assert program.run("image", "remove", "--", "a:1").code == 0
    assert [re.sub(r"\d+", "N", sentence) for sentence in said] == [
        "waiting for msb to end (`msb image remove`, process N)"
    ]


def test_what_a_run_does_is_looked_at_as_long_as_it_lasts(
    script: Callable[[str], Path], tmp_path: Path
) -> None:
    looks: list[int] = []
    finish = tmp_path / "finish"

    def watch() -> None:
        looks.append(len(looks))
        if len(looks) == 3:
            finish.touch()

    program = MsbProgram(script(f"while [ ! -e {finish} ]; do sleep 0.02; done"), tmp_path)
    assert program.run("pull", watch=watch).code == 0
    assert len(looks) >= 3
    with pytest.raises(MsbProgramError, match=r"has not ended after 0\.3 seconds"):
        MsbProgram(script("exec sleep 60"), tmp_path).run("pull", watch=watch, seconds=0.3)


def test_who_waits_for_a_run_to_read_is_told(script: Callable[[str], Path], tmp_path: Path) -> None:
    said: list[str] = []
    finish = tmp_path / "finish"

    def note(sentence: str) -> None:
        said.append(sentence)
        finish.touch()

    program = MsbProgram(script(f"while [ ! -e {finish} ]; do sleep 0.02; done; wc -c"), tmp_path, note)
    assert program.run("load", source=iter([bytes(1 << 20)] * 3)).output.strip() == str(3 << 20)
    assert re.fullmatch(r"waiting for msb to read \(`msb load`, process \d+\)", said[0])


def test_what_ends_the_threads_waits_ends_it(tmp_path: Path, script: Callable[[str], Path]) -> None:
    asked: list[str] = []
    program = MsbProgram(
        script("exec sleep 60"), str(tmp_path), asked.append
    )  # it notes that it is waited for
    with ended_by(lambda: bool(asked)), pytest.raises(KeyboardInterrupt):
        program.run("pull")
    asked.clear()
    with ended_by(lambda: bool(asked)), (tmp_path / "lock").open("w") as lock:
        program = MsbProgram(script("sleep 1.2; echo done"), str(tmp_path), asked.append)
        assert program.run("image", inherits=[lock.fileno()]).output == "done\n"
        assert asked


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_stopped_run_is_left_when_the_wait_is_broken_off(
    script: Callable[[str], Path], tmp_path: Path
) -> None:
    """It gets the signal to end when it goes on."""
    said: list[str] = []
    process = 0

    def note(sentence: str) -> None:
        nonlocal process
        said.append(sentence)
        process = int(re.findall(r"process (\d+)", sentence)[0])
        if "waiting" in sentence:
            os.kill(process, signal.SIGSTOP)
            os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)
            raise KeyboardInterrupt

    program = MsbProgram(script("exec sleep 100"), tmp_path, note)
    with pytest.raises(KeyboardInterrupt):
        program.run("image", "prune")
    assert said[-1] == f"msb has not ended yet (`msb image prune`, process {process})"
    os.kill(process, signal.SIGCONT)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGTERM
