"""Executes a document's blocks, in order, in one temporary home, and says what they print.

Ids are bound: where a document and a run agree but for their ids, each id of the document stands for the
one that was really made, so that a later command may name it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from tests.docs import postgres
from tests.docs.images import write_archives
from tests.docs.markdown import Block, blocks
from tests.docs.normalise import OPERATION, masked, shown
from tests.docs.registry import DOCUMENTED, DocumentedRegistry

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = 100
CHILD = Path(__file__).with_name("child.py")


class Session:
    """One document's home, environment and Python process; a context manager that removes them."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
        self._python: subprocess.Popen[str] | None = None
        self._real: dict[str, str] = {}
        self._documented: dict[str, str] = {}
        self._registry: DocumentedRegistry | None = None
        self._postgres: postgres.DocumentedPostgres | None = None
        self._programs = self.home / ".programs"
        self._programs.mkdir()
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{self._programs}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.home),
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            # As a reader sees it, on a terminal of 100 columns, but for colours, bars and a pager.
            "TERM": "dumb",
            "COLUMNS": str(COLUMNS),
            "LINES": "1000",
            # Homes in /tmp are no temporary ones here, as they are not where a reader has them.
            "TMPDIR": str(self.home / ".tmp"),
            "PGPASSFILE": str(self.home / ".pgpass"),
        }
        (self.home / ".tmp").mkdir()
        write_archives(self.home)
        (self.home / "examples").symlink_to(ROOT / "examples")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._python is not None:
            self._python.communicate()
        if self._registry is not None:
            self._registry.__exit__(kind, error, trace)
        if self._postgres is not None:
            self._postgres.close()
        shutil.rmtree(self.home)

    def provide(self, program: str, path: str) -> None:
        """Put a program first on the path of later commands: what they print then names no other folder."""
        link = self._programs / program
        if not link.is_symlink():
            link.symlink_to(path)

    def console(self, block: Block) -> str:
        """Run a console block's commands; its text with what they really print."""
        text = ""
        for command in _commands(block):
            real = self._with_servers(OPERATION.sub(self._real_id, command))
            text += _typed(command) + self._run(real, block)
        return text

    def python(self, source: str) -> str:
        """Run a python block; what it prints."""
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-P", "-W", "error", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self.home,
                env=self.environment,
            )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        print(json.dumps(self._with_servers(source)), file=self._python.stdin, flush=True)
        printed: str = json.loads(self._python.stdout.readline())
        return self._shown(printed)

    def bind(self, documented: str, real: str) -> None:
        """Remember which of the document's ids stand for which real ones."""
        for there, here in zip(OPERATION.findall(documented), OPERATION.findall(real), strict=False):
            self._real.setdefault(there, here)
            self._documented.setdefault(here, there)

    def in_document(self, text: str) -> str:
        """The text with each id that the document already has under the name it has there."""
        return OPERATION.sub(lambda match: self._documented.get(match[0], match[0]), text)

    def _real_id(self, match: object) -> str:
        text: str = match[0]  # type: ignore[index]
        return self._real.get(text, text)

    def _with_servers(self, text: str) -> str:
        """What a block says, with the ports of servers that are started when they are first named."""
        if postgres.DOCUMENTED in text:
            if self._postgres is None:
                self._postgres = postgres.DocumentedPostgres(self.home)
            text = text.replace(postgres.DOCUMENTED, self._postgres.host)
        if DOCUMENTED not in text:
            return text
        if self._registry is None:
            self._registry = DocumentedRegistry()
            self._registry.__enter__()
        return text.replace(DOCUMENTED, self._registry.host)

    def _shown(self, output: str) -> str:
        text = shown(output, self.home)
        if self._postgres is not None:
            text = self._postgres.shown(text)
        return text if self._registry is None else text.replace(self._registry.host, DOCUMENTED)

    def _run(self, command: str, block: Block) -> str:
        if command.startswith("export ") and "\n" not in command:
            # Each command has a shell of its own: what one line exports goes on to the next ones.
            name = command.removeprefix("export ").partition("=")[0]
            self.environment[name] = subprocess.run(
                ["sh", "-c", f'{command}; printf %s "${name}"'],
                stdout=subprocess.PIPE,
                cwd=self.home,
                env=self.environment,
                text=True,
                check=True,
            ).stdout
            return ""
        if block.marker == "terminal, typing":
            output = _on_terminal(command, block.argument, self.home, self.environment)
        else:
            output = _on_terminal(command, None, self.home, self.environment)
        text = self._shown(output)
        return text if not text or text.endswith("\n") else text + "\n"


def run(
    markdown: str, require: Callable[[str], str | None], *, provided: Mapping[str, str] | None = None
) -> Iterator[tuple[Block, str, str]]:
    """Yield each block whose text can be checked, the text it has, and the text it must have.

    ``require`` gives the path of a program that a block needs; without one, the block is left out.
    ``provided``: programs that are there from the beginning, and their paths.
    """
    found = blocks(markdown)
    left_out = None
    with Session() as session:
        for program, path in (provided or {}).items():
            session.provide(program, path)
        for number, block in enumerate(found):
            following = found[number + 1] if number + 1 < len(found) else None
            if block.marker == "not run":
                continue
            if block.marker == "needs":
                path = require(block.argument)
                if path is None:
                    left_out = number
                    continue
                session.provide(block.argument, path)
            if block.language == "text" and block.follows and left_out == number - 1:
                continue
            if block.marker == "file":
                (session.home / block.argument).write_text(block.text)
            elif block.language == "console":
                yield _checked(session, block, session.console(block))
            elif block.language == "python":
                printed = session.python(block.text)
                if following is not None and following.language == "text" and following.follows:
                    yield _checked(session, following, printed)
                else:
                    yield block, "", printed
            elif not (block.language == "text" and block.follows and found[number - 1].language == "python"):
                raise ValueError(f"the block in line {block.line} is neither run nor says why not")


def _checked(session: Session, block: Block, real: str) -> tuple[Block, str, str]:
    session.bind(block.text, real)
    return block, block.text, session.in_document(real)


def same(documented: str, real: str) -> bool:
    """Whether two texts differ in nothing but what differs from run to run."""
    return masked(documented) == masked(real)


def _commands(block: Block) -> list[str]:
    commands: list[str] = []
    continuing = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            continuing = True
        elif continuing and line.startswith("> "):
            commands[-1] += "\n" + line[2:]
        else:
            continuing = False
            if not commands:
                raise ValueError(f"the console block in line {block.line} does not begin with a command")
    return commands


def _typed(command: str) -> str:
    return "$ " + command.replace("\n", "\n> ") + "\n"


def _on_terminal(command: str, line: str | None, home: Path, environment: dict[str, str]) -> str:
    """What a command prints on a terminal; ``line`` is typed when it asks, None: nobody types."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL if line is None else theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=home,
        env=environment,
    )
    os.close(theirs)
    output = b""
    asked = False
    # Reading fails with EIO when the last process has closed the terminal.
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 4096):
            output += chunk
            if line is not None and not asked and output.rstrip(b" ").endswith(b":"):
                asked = True
                os.write(ours, line.encode() + b"\n")
    os.close(ours)
    process.wait(timeout=60)
    return output.decode()
