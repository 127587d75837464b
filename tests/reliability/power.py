"""A power loss: what a scenario did to its home is recorded, and made into states that a crash can leave.

Recorded under strace are the file-system operations on a folder, threads together, with all bytes that were
written, and when each command was acknowledged. A model of names and files follows them; that it ends with
what lies on the disk is checked, so nothing was missed. Names and files are kept apart: a file whose content
was synced is lost with its name.

What a crash leaves is chosen by chance from what may be left:

``strict``
    what POSIX promises and nothing else. A name is durable when its folder was synced after, content when
    the file was; of everything else any part may be there, whatever came later, and a write in parts of
    512 bytes. A rename is one change: an old name goes only where the new one is.
``ordered``
    what ext4 does with ``data=ordered``: names change in the order of the calls, up to some point after the
    last sync of anything; content that was not synced may be missing from any point on, but where the file
    was renamed over another one (``auto_da_alloc``, which can be off).

The memory that processes share (``-shm``) is no file here: SQLite makes it anew after a crash.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

Mode = Literal["strict", "ordered"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_SECTOR, _PAGE = 512, 4096
_CALLS = [
    *(
        "openat",
        "close",
        "write",
        "pwrite64",
        "writev",
        "pwritev",
        "pwritev2",
        "ftruncate",
        "fallocate",
        "lseek",
    ),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "truncate", "copy_file_range", "sendfile"),
]


# -- operations -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enter:
    """A name is given to a file or folder: made, or linked."""

    folder: int
    name: str
    node: int


@dataclass(frozen=True)
class Leave:
    """A name goes: unlink, rmdir."""

    folder: int
    name: str


@dataclass(frozen=True)
class Move:
    """A rename, which takes the place of what had the new name."""

    source: int
    old: str
    target: int
    new: str
    node: int
    replaces: bool


@dataclass(frozen=True)
class Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    node: int
    size: int
    grows_only: bool = False


@dataclass(frozen=True)
class Sync:
    """A sync returned; what was done before it began, ``begun`` operations, is durable."""

    node: int
    begun: int


@dataclass(frozen=True)
class Acknowledged:
    """A command returned."""


Operation = Enter | Leave | Move | Write | Truncate | Sync | Acknowledged
Tree = dict[str, bytes | None]
"""Paths below the recorded folder: the content of a file, None for a folder."""


@dataclass
class _Disk:
    """Names and contents, as far as operations were applied."""

    names: dict[int, dict[str, int]] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> _Disk:
        return _Disk(
            {folder: dict(names) for folder, names in self.names.items()},
            {node: bytearray(content) for node, content in self.contents.items()},
        )

    def apply(self, operation: Operation) -> None:
        match operation:
            case Enter(folder, name, node):
                self.names.setdefault(folder, {})[name] = node
            case Leave(folder, name):
                self.names.setdefault(folder, {}).pop(name, None)
            case Move(source, old, target, new, node):
                self.names.setdefault(target, {})[new] = node
                self.names.setdefault(source, {}).pop(old, None)
            case Write(node, offset, data):
                content = self.contents.setdefault(node, bytearray())
                if len(content) < offset:
                    content.extend(bytes(offset - len(content)))
                content[offset : offset + len(data)] = data
            case Truncate(node, size, grows_only):
                content = self.contents.setdefault(node, bytearray())
                if len(content) < size:
                    content.extend(bytes(size - len(content)))
                elif not grows_only:
                    del content[size:]

    def tree(self, root: int, folders: set[int]) -> Tree:
        found: Tree = {}
        waiting = [(root, "")]
        while waiting:
            folder, prefix = waiting.pop()
            for name, node in self.names.get(folder, {}).items():
                path = prefix + name
                if node in folders:
                    found[path] = None
                    waiting.append((node, f"{path}/"))
                elif not name.endswith("-shm"):
                    found[path] = bytes(self.contents.get(node, b""))
        return found


class Recording:
    """The operations on one folder: of one run, or of several after each other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self._folders: set[int] = set()
        self._nodes = 0
        self._at_first = _Disk()
        self._top = self._take_in(root)
        self._now = self._at_first.copy()

    def _take_in(self, path: Path) -> int:
        node = self._new(folder=path.is_dir())
        if path.is_dir():
            self._at_first.names[node] = {child.name: self._take_in(child) for child in path.iterdir()}
        else:
            self._at_first.contents[node] = bytearray(path.read_bytes())
        return node

    def _new(self, *, folder: bool) -> int:
        self._nodes += 1
        if folder:
            self._folders.add(self._nodes)
        return self._nodes

    def run(
        self, strace: str, command: Sequence[str], *, kill: tuple[str, int] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program that works in the folder, and add what it did there.

        Args:
            strace: the program.
            command: what to run.
            kill: a system call, and which of them in one thread is not made but ends the process.
        """
        with TemporaryDirectory() as folder:
            trace = Path(folder, "trace")
            # Told to stop at few calls only, strace does not kill at one.
            how = (
                ["--seccomp-bpf"] if kill is None else ["-e", f"inject={kill[0]}:signal=KILL:when={kill[1]}"]
            )
            done = subprocess.run(
                [
                    *(strace, "-f", "-qq", *how, "-xx", "-s", str(1 << 26), "-o", str(trace)),
                    *("-e", f"trace={','.join(_CALLS)}", "-e", "signal=none", *command),
                ],
                cwd=_ROOT,
                capture_output=True,
                timeout=120,
            )
            with trace.open() as lines:
                _Reader(self).read(lines)
        return done

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)
        self._now.apply(operation)

    def check(self) -> None:
        """Raise AssertionError where the folder is not what the recorded operations made of it."""
        wanted = self._now.tree(self._top, self._folders)
        found: Tree = {
            str(path.relative_to(self.root)): None if path.is_dir() else path.read_bytes()
            for path in self.root.rglob("*")
            if not path.name.endswith("-shm")
        }
        assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())
        assert found == wanted, sorted(path for path in found if found[path] != wanted[path])

    # -- for the reader ----------------------------------------------------------------------------------

    def find(self, path: str) -> tuple[int, str] | None:
        """Return the folder in which a path's last name is, and that name; None: it is elsewhere."""
        root, path = str(self.root), os.path.normpath(path)
        if path == root:
            return 0, ""
        if not path.startswith(f"{root}/"):
            return None
        return self.below(self._top, path[len(root) + 1 :])

    def below(self, folder: int, path: str) -> tuple[int, str] | None:
        *parents, name = path.rstrip("/").split("/")
        for parent in parents:
            found = self._now.names.get(folder, {}).get(parent)
            if found is None or found not in self._folders:
                return None
            folder = found
        return folder, name

    def at(self, place: tuple[int, str]) -> int | None:
        folder, name = place
        return self._top if not folder else self._now.names.get(folder, {}).get(name)

    def made(self, place: tuple[int, str], *, folder: bool = False) -> int:
        node = self._new(folder=folder)
        if place[1]:  # else a file without a name
            self.add(Enter(*place, node))
        return node

    def length(self, node: int) -> int:
        return len(self._now.contents.get(node, b""))

    # -- crashes -----------------------------------------------------------------------------------------

    def acknowledged(self, cut: int) -> int:
        """Return how many commands had returned after so many operations."""
        return sum(isinstance(operation, Acknowledged) for operation in self.operations[:cut])

    def crash(self, cut: int, mode: Mode, chance: random.Random) -> Tree:
        """Return what a power loss after so many operations may leave."""
        disk = self._at_first.copy()
        survives = self._strictly(cut, chance) if mode == "strict" else self._in_order(cut, chance)
        for operation in survives:
            disk.apply(operation)
        return disk.tree(self._top, self._folders)

    def _strictly(self, cut: int, chance: random.Random) -> Iterator[Operation]:
        synced: dict[int, int] = {}
        for operation in self.operations[:cut]:
            if isinstance(operation, Sync):
                synced[operation.node] = max(synced.get(operation.node, 0), operation.begun)
        # All or nothing of a folder or file is as likely as some of it: that is where what hangs
        # together is torn apart.
        shares: dict[int, float] = {}

        def stays(number: int, node: int) -> bool:
            if number < synced.get(node, 0):
                return True
            share = shares.setdefault(node, chance.choice((0.0, chance.random(), chance.random(), 1.0)))
            return chance.random() < share

        for number, operation in enumerate(self.operations[:cut]):
            match operation:
                case Enter(folder) | Leave(folder):
                    if stays(number, folder):
                        yield operation
                case Move(source, _, target, new, node):
                    gone = stays(number, source)
                    if target == source and gone:
                        yield operation
                    elif target != source and (stays(number, target) or number < synced.get(source, 0)):
                        yield operation if gone else Enter(target, new, node)
                case Truncate(node):
                    if stays(number, node):
                        yield operation
                case Write(node):
                    if number < synced.get(node, 0):
                        yield operation
                    elif stays(number, node):
                        yield from _torn(operation, chance)

    def _in_order(self, cut: int, chance: random.Random) -> Iterator[Operation]:
        done = self.operations[:cut]
        settled = max((each.begun for each in done if isinstance(each, Sync)), default=0)
        point = chance.choice((settled, cut, chance.randint(settled, max(cut, settled))))
        flushes = chance.random() < 0.5
        synced: dict[int, int] = {}
        for number, operation in enumerate(done):
            if isinstance(operation, Sync):
                synced[operation.node] = max(synced.get(operation.node, 0), operation.begun)
            elif isinstance(operation, Move) and operation.replaces and number < point and flushes:
                synced[operation.node] = max(synced.get(operation.node, 0), number)
        ends: dict[int, int] = {}
        for number, operation in enumerate(done):
            match operation:
                case Write(node) | Truncate(node):
                    if number < synced.get(node, 0):
                        yield operation
                        continue
                    end = ends.setdefault(
                        node, chance.choice((0, cut, chance.randint(synced.get(node, 0), cut)))
                    )
                    if number < end:
                        yield operation
                    elif number == end and isinstance(operation, Write):
                        yield from _torn(operation, chance, _PAGE)
                case Enter() | Leave() | Move():
                    if number < point:
                        yield operation


def _torn(write: Write, chance: random.Random, unit: int = _SECTOR) -> Iterator[Write]:
    """Yield the parts of a write that reached the disk: mostly all, else some of them."""
    if chance.random() < 0.6:
        yield write
        return
    start = 0
    while start < len(write.data):
        end = min(len(write.data), start + unit - (write.offset + start) % unit)
        if chance.random() < 0.5:
            yield Write(write.node, write.offset + start, write.data[start:end])
        start = end


def lay_out(tree: Tree, root: Path) -> None:
    """Write a tree into an empty folder."""
    for path, content in sorted(tree.items()):
        target = root / path
        if content is None:
            target.mkdir(mode=0o700)
        else:
            target.write_bytes(content)


# -- reading what strace wrote ----------------------------------------------------------------------------

_LINE = re.compile(r"(\d+) +(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class _Open:
    node: int
    position: int = 0
    appends: bool = False


class _Reader:
    """Follows one process: its threads share their open files."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._open: dict[int, _Open] = {}
        self._begun: dict[str, tuple[str, int]] = {}
        self._calls: dict[str, Callable[[list[str], int, int], None]] = {
            "openat": self._openat,
            "write": self._write,
            "writev": self._write,
            "pwrite64": self._pwrite,
            "pwritev": self._pwrite,
            "pwritev2": self._pwrite,
            "lseek": self._lseek,
            "ftruncate": self._ftruncate,
            "fallocate": self._fallocate,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "rename": lambda a, _, n: self._rename([_HERE, a[0], _HERE, a[1]]),
            "renameat": lambda a, _, n: self._rename(a),
            "renameat2": lambda a, _, n: self._rename(a),
            "link": lambda a, _, n: self._link([_HERE, a[0], _HERE, a[1]]),
            "linkat": lambda a, _, n: self._link(a),
            "unlink": lambda a, _, n: self._unlink(_HERE, a[0]),
            "rmdir": lambda a, _, n: self._unlink(_HERE, a[0]),
            "unlinkat": lambda a, _, n: self._unlink(a[0], a[1]),
            "mkdir": lambda a, _, n: self._mkdir(_HERE, a[0]),
            "mkdirat": lambda a, _, n: self._mkdir(a[0], a[1]),
        }

    def read(self, lines: Iterator[str]) -> None:
        for line in lines:
            found = _LINE.fullmatch(line.rstrip("\n"))
            assert found is not None, line
            thread, text = found[1], found[2]
            begun = len(self._recording.operations)
            if text.endswith("<unfinished ...>"):
                text = text.removesuffix("<unfinished ...>").rstrip()
                self._begun[thread] = text, begun
                if text.startswith("close("):
                    self._close(text)
                continue
            if text.startswith("<... "):
                before, begun = self._begun.pop(thread)
                text = before + text.partition(" resumed>")[2]
            elif text.startswith("close("):
                self._close(text)
            call = _CALL.match(text)
            if call is None or int(call[3]) < 0 or call[1] == "close":
                continue  # it failed, or the process was killed in it
            handle = self._calls.get(call[1])
            assert handle is not None, text[:200]
            handle(_arguments(call[2]), int(call[3]), begun)

    def _place(self, folder: str, path: str) -> tuple[int, str] | None:
        path = _text(path)
        if path.startswith("/"):
            return self._recording.find(path)
        if folder == _HERE or int(folder) not in self._open:
            return None
        return self._recording.below(self._open[int(folder)].node, path)

    def _openat(self, arguments: list[str], result: int, begun: int) -> None:
        self._open.pop(result, None)
        place, flags = self._place(arguments[0], arguments[1]), arguments[2]
        if place is None:
            return
        if "O_TMPFILE" in flags:
            self._open[result] = _Open(self._recording.made((place[0], "")))
            return
        node = self._recording.at(place)
        if node is None:
            assert "O_CREAT" in flags, arguments
            node = self._recording.made(place)
        elif "O_TRUNC" in flags:
            self._recording.add(Truncate(node, 0))
        self._open[result] = _Open(node, appends="O_APPEND" in flags)

    def _close(self, text: str) -> None:
        # Where it begins: from then on another thread can get the number.
        number = re.match(r"close\((\d+)", text)
        if number is not None:
            self._open.pop(int(number[1]), None)

    def _write(self, arguments: list[str], result: int, begun: int) -> None:
        if arguments[0] == "1" and 1 not in self._open:
            for _ in range(result):
                self._recording.add(Acknowledged())
            return
        found = self._open.get(int(arguments[0]))
        if found is not None:
            at = self._recording.length(found.node) if found.appends else found.position
            self._recording.add(Write(found.node, at, _data(arguments[1])[:result]))
            found.position = at + result

    def _pwrite(self, arguments: list[str], result: int, begun: int) -> None:
        found = self._open.get(int(arguments[0]))
        if found is not None:
            self._recording.add(Write(found.node, int(arguments[3]), _data(arguments[1])[:result]))

    def _lseek(self, arguments: list[str], result: int, begun: int) -> None:
        found = self._open.get(int(arguments[0]))
        if found is not None:
            found.position = result

    def _ftruncate(self, arguments: list[str], result: int, begun: int) -> None:
        found = self._open.get(int(arguments[0]))
        if found is not None:
            self._recording.add(Truncate(found.node, int(arguments[1])))

    def _fallocate(self, arguments: list[str], result: int, begun: int) -> None:
        found = self._open.get(int(arguments[0]))
        if found is not None:
            assert arguments[1] == "0", arguments
            self._recording.add(Truncate(found.node, int(arguments[2]) + int(arguments[3]), grows_only=True))

    def _sync(self, arguments: list[str], result: int, begun: int) -> None:
        found = self._open.get(int(arguments[0]))
        if found is not None:
            self._recording.add(Sync(found.node, begun))

    def _rename(self, arguments: list[str]) -> None:
        source, target = self._place(*arguments[:2]), self._place(*arguments[2:4])
        if source is None and target is None:
            return
        assert source is not None, "something came from elsewhere"
        assert target is not None, "something went elsewhere"
        node, replaced = self._recording.at(source), self._recording.at(target)
        assert node is not None, arguments
        if node != replaced:  # else nothing happens
            self._recording.add(Move(*source, *target, node, replaced is not None))

    def _link(self, arguments: list[str]) -> None:
        source, target = self._place(*arguments[:2]), self._place(*arguments[2:4])
        if source is not None and target is not None:
            node = self._recording.at(source)
            assert node is not None, arguments
            self._recording.add(Enter(*target, node))

    def _unlink(self, folder: str, path: str) -> None:
        place = self._place(folder, path)
        if place is not None:
            self._recording.add(Leave(*place))

    def _mkdir(self, folder: str, path: str) -> None:
        place = self._place(folder, path)
        if place is not None:
            self._recording.made(place, folder=True)


_HERE = "AT_FDCWD"


def _arguments(text: str) -> list[str]:
    """Split arguments; texts have no commas, because strace writes them in hexadecimal."""
    iovec = re.match(r"(\d+), (\[.*\]), (\d+)(?:, (\d+))?", text)
    return [each for each in iovec.groups() if each] if iovec else text.split(", ")


def _data(text: str) -> bytes:
    return b"".join(bytes.fromhex(found.replace("\\x", "")) for found in _TEXT.findall(text))


def _text(argument: str) -> str:
    return os.fsdecode(_data(argument))
