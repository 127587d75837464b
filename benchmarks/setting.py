"""Where the works are measured, and with which programs."""

from __future__ import annotations

import compileall
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import homes

ROOT = Path(__file__).resolve().parent.parent


class Setting:
    """A folder and the programs; what takes long to make is made when it is first asked for.

    Args:
        folder: what is made there for all runs stays: the image to load, a log of 1,000,000 events.
        msb: the msb to compare with; None: there is none.
        msb_cache: the program, in an environment that has it from a wheel; None: one is made.
    """

    def __init__(self, folder: Path, *, msb: str | None = None, msb_cache: str | None = None) -> None:
        self.folder = folder
        self.msb = msb
        self._msb_cache = msb_cache
        self._made = ExitStack()

    def __enter__(self) -> Setting:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    @cached_property
    def program(self) -> str:
        """Our program: an editable one looks for each module it imports, and is slower for it."""
        if self._msb_cache is not None:
            return self._msb_cache
        return str(_install(Path(self._made.enter_context(self.scratch()))))

    @property
    def python(self) -> str:
        """The Python of our program."""
        return str(Path(self.program).with_name("python"))

    @cached_property
    def long_log(self) -> Path:
        home = self.folder / "log-1000000"
        if not home.exists():
            generator = Path(__file__).with_name("generate_log.py")
            subprocess.run([sys.executable, generator, home], stdout=sys.stderr, check=True)
        return home

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder, deleted afterwards."""
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=self.folder) as folder:
            yield Path(folder)

    @contextmanager
    def home(self, images: int, *, uses: int = 0) -> Iterator[Path]:
        """A home of ours with an index, without files."""
        with self.scratch() as folder:
            home = folder / "home"
            homes.index(home, images, uses=uses)
            yield home

    @contextmanager
    def msb_home(self, images: int) -> Iterator[Path]:
        """A home that msb keeps, with the same images, without files."""
        with self.scratch() as folder:
            home = folder / "home"
            homes.msb_index(home, images, self.msb)
            yield home


def _install(folder: Path) -> Path:
    """Build a wheel and install it, compiled, in an environment of its own; return the program's path."""
    source, environment = folder / "source", folder / "environment"
    # What is built in the source's own folder would hold what earlier builds left there.
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # Through the links: the copy has what they lead to.
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    subprocess.run([*pip, "install", *(f"{wheel}[metrics]" for wheel in folder.glob("*.whl"))], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    with contextlib.redirect_stdout(io.StringIO()):
        compileall.compile_dir(packages, quiet=1)
    return environment / "bin" / "msb-cache"
