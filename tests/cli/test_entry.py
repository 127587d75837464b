"""Ctrl-C while the program is being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.cli.support import PROGRAM

INTERRUPTED = """
import os, signal, sys

module = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from msb_cache.cli.entry import main
main()
"""


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    "module", ["msb_cache.cli.main", "click", "sqlite3", "msb_cache.cli.list", "msb_cache.session"]
)
def test_stopped_while_python_imports(tmp_path: Path, module: str, ignored: bool) -> None:
    handler = signal.SIG_IGN if ignored else signal.default_int_handler
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, "--home", tmp_path / "home", "list"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler) and None,
    )
    said = "No cached images; `msb-cache pull python:3.12` or `msb-cache load FILE` adds one.\n"
    assert (done.returncode, done.stdout, done.stderr) == (
        0 if ignored else 130,
        "",
        said if ignored else "\nstopped\n",
    )


def test_ctrl_c_within_a_callback_is_not_lost() -> None:
    """Python calls some when an object goes, as in each import, and drops what they raise."""
    begin = textwrap.dedent("""
        import signal, sys, time, weakref
        from msb_cache.cli import entry, main
        class Object: ...
        def command():
            going = Object()
            watched = weakref.ref(going, lambda _: signal.raise_signal(signal.SIGINT))
            del going
            time.sleep(20)
        main.main = command
        entry.main()
    """)
    done = subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (130, "\nstopped\n")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize(("given", "used"), [(None, "malloc"), ("pymalloc", "pymalloc")])
def test_watch_runs_with_an_allocator_that_gives_back(tmp_path: Path, given: str | None, used: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONMALLOC"}
    if given is not None:
        environment["PYTHONMALLOC"] = given
    arguments = ["--home", str(tmp_path / "home"), "watch", "--format", "json"]
    process = subprocess.Popen([PROGRAM, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        read = Path(f"/proc/{process.pid}/environ").read_bytes
        while f"PYTHONMALLOC={used}".encode() not in (said := read()).split(b"\0"):
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
        assert command[-len(arguments) - 1 : -1] == arguments
        time.sleep(1)
    finally:
        process.terminate()
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
