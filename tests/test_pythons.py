"""Which Python of a machine the Makefile and CI take: `.ci/pythons`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

VERSION = sys.version_info[:2]
HERE = "{}.{} {}".format(*VERSION, os.path.realpath(sys.executable))
NEEDS_NAME = "name another with make PYTHON=/path/to/python3."


class Machine:
    """A machine that has only the Pythons that a test puts there."""

    def __init__(self, root: Path) -> None:
        self.bin, self.pyenv = root / "bin", root / "pyenv"
        self.bin.mkdir()
        for tool in ("ls", "sort"):
            (self.bin / tool).symlink_to(shutil.which(tool) or "")

    def has(self, name: str, script: str) -> Path:
        """Put a command there: a name on the PATH, or with slashes a path in pyenv's root."""
        path = (self.pyenv if "/" in name else self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def has_this_python(self, name: str, version: tuple[int, int] = VERSION, lacks: str = "") -> None:
        """Put this Python there; it says that it is another version, or that it has no such module."""
        pretend = f"import sys; sys.version_info = {(*version, 0)}; sys.modules[{lacks!r}] = None"
        self.has(name, f'exec {shlex.quote(sys.executable)} -c "{pretend}; exec(sys.argv[1])" "$2"')

    def pythons(self, *arguments: str) -> tuple[list[str], str]:
        """Return the lines of Pythons, and the error."""
        done = subprocess.run(
            ["/bin/sh", ROOT / ".ci" / "pythons", *arguments],
            capture_output=True,
            text=True,
            env={"PATH": str(self.bin), "PYENV_ROOT": str(self.pyenv), "HOME": "/nonexistent"},
        )
        assert (done.returncode == 0) == (done.stderr == "") == (done.stdout != "")
        return done.stdout.splitlines(), done.stderr.removesuffix("\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_shim_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.has("python3", "echo 'pyenv: python3: command not found' >&2; exit 127")
    machine.has_this_python("python3.13")
    assert machine.pythons() == ([HERE], "")


def test_python3_comes_first_then_the_newest_and_each_once(machine: Machine) -> None:
    machine.has_this_python("python3", (3, 12))
    machine.has_this_python("python3.11", (3, 11))
    machine.has_this_python("python3.12", (3, 12))
    machine.has_this_python("python3.14", (3, 14))
    assert [line.partition(" ")[0] for line in machine.pythons()[0]] == ["3.12", "3.14", "3.11"]


def test_pyenv_has_some_that_are_on_no_path(machine: Machine) -> None:
    for version in ("3.9.18", "3.11.7", "3.13.10", "3.13.9t", "3.12.1"):
        major, minor = version.split(".")[:2]
        machine.has_this_python(f"versions/{version}/bin/python3", (int(major), int(minor)))
    assert [line.partition(" ")[0] for line in machine.pythons()[0]] == ["3.13", "3.12", "3.11"]


def test_one_that_was_built_without_what_is_needed_is_passed_over(machine: Machine) -> None:
    machine.has_this_python("python3", lacks="sqlite3")
    assert machine.pythons() == (
        [],
        f"python3 has no module sqlite3: install a Python that was built with it, or {NEEDS_NAME}",
    )
    machine.has_this_python("python3.11", (3, 11))
    assert [line.partition(" ")[0] for line in machine.pythons()[0]] == ["3.11"]


def test_there_is_none(machine: Machine) -> None:
    machine.has_this_python("python3", (3, 10))
    found, error = machine.pythons()
    assert found == []
    assert error.startswith("No Python 3.11 or newer was found: install one")


def test_the_one_that_is_named_is_taken_or_refused(machine: Machine) -> None:
    machine.has_this_python("python3", (3, 12))
    old, plain = machine.bin / "an old one", machine.bin / "plain"
    machine.has_this_python(old.name, (3, 10))
    machine.has_this_python(plain.name, lacks="ensurepip")
    assert machine.pythons(sys.executable) == ([HERE], "")
    assert machine.pythons(str(old)) == ([], f"{old} is Python 3.10, and the project needs 3.11 or newer.")
    assert machine.pythons("nope") == ([], f"nope does not run: {NEEDS_NAME}")
    assert machine.pythons(str(plain)) == (
        [],
        f"{plain} has no module ensurepip: install it (python3-venv on Debian and Ubuntu), or {NEEDS_NAME}",
    )
