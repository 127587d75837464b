"""A fake msb for the fast tests: does to a home what the real one does, and goes wrong where a test wants.

The program itself is ``fakemsb_program.py``. It keeps a home as ``msbhome.py`` makes it, with files of the
right names whose layer images are sound and empty, and merged and listed as they must be.
``peers/test_fakemsb.py`` compares it with the real msb.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from msb_cache.artifacts.footprint import Allowance
from msb_cache.artifacts.fsmeta import write_fsmeta
from msb_cache.artifacts.layer import write_layer
from tests import fakemsb_program
from tests.imagebuilder import BuiltImage, oci_archive
from tests.msbhome import SCHEMAS


class FakeMsb:
    """The fake msb in a folder of its own, with a home.

    Calling it does something to the home as another user of msb would, in this process and at once. What
    msb-cache runs is the program ``program``: ``calls`` has the command lines of that, and the methods below
    say what shall go wrong with the next command that begins with these words, at one of its steps:

    * ``begin``: nothing is done yet;
    * ``rows``: the index is changed, and, of a deletion, the files are there still;
    * ``file``: one file is deleted (``image remove`` and ``image prune``);
    * ``read``: before the archive is read (``load``);
    * ``flat``: the lock of a flat root's derivation is held, and the root not made (``pull``);
    * ``blobs``: the blobs are coming, and nothing is made of them yet (``pull``);
    * ``files``: the files are there, and the index does not have the image (``load`` and ``pull``);
    * ``end``: all is done.
    """

    def __init__(self, folder: Path, home: Path, schema: str = "0.7") -> None:
        folder.mkdir(parents=True)
        self.folder, self.home = folder, home
        self.program = folder / "msb"
        starter = folder / "start.py"
        tests = str(Path(fakemsb_program.__file__).parent)
        starter.write_text(
            f"import sys\nsys.path.append({tests!r})\nfrom fakemsb_program import main\n"
            f"sys.exit(main({str(folder)!r}))\n"
        )
        words = shlex.join([sys.executable, "-IS", str(starter)])
        self.program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        self.program.chmod(0o755)
        (folder / "schema.sql").write_text(SCHEMAS[schema])
        empty = write_layer(iter(()), folder / "layer.erofs", Allowance().claim)
        for layers in range(5):
            write_fsmeta(folder / f"fsmeta-{layers}.erofs", [empty] * layers)
        (folder / "registry").mkdir()

    def __call__(self, *arguments: str) -> None:
        """Have it done by another user of msb; it succeeds."""
        fake = fakemsb_program.Fake(str(self.folder), str(self.home))
        assert fakemsb_program.perform(fake, [*arguments]) == 0, arguments

    def load(self, image: BuiltImage, *tags: str) -> None:
        """Have another user load an image, under its names and more."""
        archive = self.folder / "archive.tar"
        archive.write_bytes(oci_archive(image))
        self("load", "-q", "-i", str(archive), *(word for tag in tags for word in ("--tag", tag)))

    def offer(self, reference: str, image: BuiltImage) -> None:
        """Let a registry have an image under a canonical reference."""
        name = sha256(reference.encode()).hexdigest()
        (self.folder / "registry" / f"{name}.tar").write_bytes(oci_archive(image))

    def takes(self, metadata: Path) -> bool:
        """Return whether it would take the image that a metadata file describes for cached."""
        if not metadata.exists():
            return False
        fake = fakemsb_program.Fake(str(self.folder), str(self.home))
        return fake.is_whole(json.loads(metadata.read_bytes()))

    @property
    def calls(self) -> list[list[str]]:
        """The command lines with which the program was run, since it was asked last."""
        path = self.folder / "calls"
        if not path.exists():
            return []
        found = [line.split("\0") for line in path.read_text().splitlines()]
        path.unlink()
        return found

    def references(self) -> set[str]:
        """Return the references in its index, as they were typed."""
        return {name for (name,) in self.rows("SELECT reference FROM image_ref")}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask its database."""
        fake = fakemsb_program.Fake(str(self.folder), str(self.home))
        try:
            return list(fake.database.execute(query).fetchall())
        finally:
            fake.close()

    # -- what goes wrong ----------------------------------------------------------------------------------

    def fails(self, command: str, *says: str, code: int = 1, at: str = "begin", always: bool = False) -> None:
        """Let a command say these lines and end."""
        self._fault(command, at, says=says, code=code, always=always)

    def says(self, command: str, *says: str) -> None:
        """Let a command say more, at its end, than what it is about."""
        self._fault(command, "end", says=says)

    def dies(self, command: str, at: str = "begin") -> None:
        """Let a command be killed."""
        self._fault(command, at, signal=signal.SIGKILL)

    def leaves_files(self, command: str) -> None:
        """Let a deletion take its rows and no file, and say that it is done."""
        self._fault(command, "rows", skips=True)

    def meanwhile(self, command: str, *others: Sequence[str], at: str = "begin") -> None:
        """Let others use msb while a command runs; what it has the locks of they cannot have."""
        self._fault(command, at, meanwhile=[[*other] for other in others])

    def hangs(self, command: str, at: str = "begin") -> None:
        """Let a command wait until it is released."""
        for name in ("hangs", "released"):
            (self.folder / name).unlink(missing_ok=True)
        self._fault(command, at, hangs=True)

    def wait_until_it_hangs(self) -> None:
        deadline = time.monotonic() + fakemsb_program.PATIENCE
        while not (self.folder / "hangs").exists():
            assert time.monotonic() < deadline, "it does not come to where it hangs"
            time.sleep(0.002)

    def release(self) -> None:
        """Let a command that hangs go on."""
        (self.folder / "released").touch()

    def _fault(
        self,
        command: str,
        at: str,
        *,
        says: Sequence[str] = (),
        code: int | None = None,
        signal: int | None = None,
        hangs: bool = False,
        skips: bool = False,
        meanwhile: Sequence[Sequence[str]] = (),
        always: bool = False,
    ) -> None:
        path = self.folder / "faults.json"
        waiting = json.loads(path.read_text()) if path.exists() else []
        fault = {
            "command": command.split(),
            "at": at,
            "says": [*says],
            "code": code,
            "signal": signal,
            "hangs": hangs,
            "skips": skips,
            "meanwhile": [*meanwhile],
            "always": always,
        }
        path.write_text(json.dumps([*waiting, fault]))
