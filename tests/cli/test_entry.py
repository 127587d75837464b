"""Ctrl-C while the program is being imported."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

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
    said = "No cached images.\n" if ignored else "\nstopped\n"
    assert (done.returncode, done.stdout, done.stderr) == (0 if ignored else 130, "", said)


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
