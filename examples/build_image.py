#!/usr/bin/env python3
"""Build a real, runnable container image out of this machine, with nothing but Python.

The archive has the format of ``docker save`` and three layers: a small base system (the dynamic
loader, libc, /bin/sh and every shared library that is needed), the running Python, and an
application that also deletes files of the layers below. No root, no network, no other tool:

    python examples/build_image.py python.tar --tag python:3.12

Files keep the paths they have on this machine, because loaders and interpreters look for each other
by path. Owners, modes and times are fixed, so the same machine builds the same bytes again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import struct
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CREATED = 1_704_067_200  # 2024-01-01T00:00:00Z: every time in the image
CREATED_TEXT = "2024-01-01T00:00:00Z"
INTERPRETER = "/usr/local/bin/python3"

TOOLS = ("cat", "echo", "env", "id", "ls", "mkdir", "rm", "sleep", "true", "uname")
# Loaded by name while running, so no file lists them as needed.
LATE_LIBRARIES = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
SKIPPED_FOLDERS = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
SKIPPED_MODULES = ("_ctypes_test", "_test", "_tkinter", "_xx", "xx")
ARCHITECTURES = {
    3: "386",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}

MAIN = '''\
"""Say where this is running."""

import json
import platform
import sys
from pathlib import Path

print(
    json.dumps(
        {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": Path("/etc/os-release").read_text().partition("\\n")[0],
            "arguments": sys.argv[1:],
        }
    )
)
'''


class BuildError(Exception):
    """The image cannot be built here; the text is one sentence."""


# --- shared libraries ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Elf:
    """What the dynamic loader reads off one ELF file."""

    machine: tuple[int, int, int]  # class, byte order, architecture: all three must match to link
    interpreter: str | None
    needed: tuple[str, ...]
    search: tuple[str, ...]


def read_elf(path: Path) -> Elf | None:
    """Return what *path* needs to run, or None when it is no ELF file (gABI, chapters 4 and 5)."""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 52 or head[:4] != b"\x7fELF":
            return None
        wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
        word = "Q" if wide else "I"
        (architecture,) = struct.unpack_from(order + "H", head, 18)
        (table,) = struct.unpack_from(order + word, head, 32 if wide else 28)
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        loads: list[tuple[int, int, int]] = []
        interpreter, dynamic = None, b""
        for index in range(count):
            file.seek(table + index * size)
            entry = file.read(size)
            if wide:
                kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", entry)
            else:
                kind, offset, address, _, length = struct.unpack_from(order + "IIIII", entry)
            if kind == 1:
                loads.append((address, offset, length))
            elif kind in (2, 3):
                file.seek(offset)
                content = file.read(length)
                if kind == 2:
                    dynamic = content
                else:
                    interpreter = content.rstrip(b"\0").decode()
        tags = list(struct.iter_unpack(order + word * 2, dynamic)) if dynamic else []
        values = dict(tags)

        def string(offset: int) -> str:
            for address, start, length in loads:
                if address <= values[5] < address + length:
                    file.seek(start + values[5] - address + offset)
                    return file.read(4096).split(b"\0", 1)[0].decode()
            raise BuildError(f"{path} is a damaged ELF file")

        search = [string(offset) for tag, offset in tags if tag == 29] or [
            string(offset) for tag, offset in tags if tag == 15
        ]
        return Elf(
            machine=(head[4], head[5], architecture),
            interpreter=interpreter,
            needed=tuple(string(offset) for tag, offset in tags if tag == 1),
            search=tuple(part for text in search for part in text.split(":") if part),
        )


class Libraries:
    """Finds shared libraries where the dynamic loader would."""

    def __init__(self, program: Path) -> None:
        elf = read_elf(program)
        if elf is None:
            raise BuildError(f"{program} is not a program this machine's loader runs")
        self.machine = elf.machine
        self._first = [self._expand(part, program) for part in elf.search]
        self._default = list(dict.fromkeys(self._configured()))

    def closure(self, start: Iterable[Path]) -> set[Path]:
        """Return every library and loader that *start* needs, directly or not.

        Raises BuildError when one of them is nowhere to be found.
        """
        found: set[Path] = set()
        todo = list(start)
        while todo:
            path = todo.pop()
            elf = read_elf(path)
            if elf is None:
                continue
            wanted = [self.find(name, elf, path) for name in elf.needed]
            if elf.interpreter:
                wanted.append(Path(elf.interpreter))
            for library in wanted:
                if library not in found:
                    found.add(library)
                    todo.append(library)
        return found

    def find(self, name: str, needer: Elf, origin: Path) -> Path:
        """Return the library *name* that *needer* would be given."""
        folders = [*(self._expand(part, origin) for part in needer.search), *self._first, *self._default]
        for candidate in [Path(name)] if "/" in name else (folder / name for folder in folders):
            if candidate.is_file():
                elf = read_elf(candidate)
                if elf is not None and elf.machine == self.machine:
                    return candidate
        raise BuildError(f"the shared library {name}, which {origin} needs, is not on this machine")

    @staticmethod
    def _expand(part: str, origin: Path) -> Path:
        here = str(origin.resolve().parent)
        return Path(os.path.normpath(part.replace("${ORIGIN}", here).replace("$ORIGIN", here)))

    def _configured(self) -> Iterator[Path]:
        yield from _ld_so_conf(Path("/etc/ld.so.conf"))
        for folder in ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"):
            yield Path(folder)
            triplet = sysconfig.get_config_var("MULTIARCH")
            if triplet:
                yield Path(folder, triplet)
        for path in sorted(Path("/etc").glob("ld-musl-*.path")):
            yield from map(Path, re.split(r"[:\n]+", path.read_text().strip()))


def _ld_so_conf(path: Path) -> Iterator[Path]:
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            text = line.partition("#")[0].strip()
            if text.startswith("include"):
                for included in sorted(Path("/").glob(text.split(None, 1)[1].lstrip("/"))):
                    yield from _ld_so_conf(included)
            elif text:
                yield Path(text)


# --- layers -------------------------------------------------------------------------------------


class Layer:
    """One layer: entries by path, written in path order with fixed owners, modes and times."""

    def __init__(self, created_by: str) -> None:
        self.created_by = created_by
        self._entries: dict[str, tuple[tarfile.TarInfo, Path | bytes | None]] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, and those above it that are missing."""
        self._add(path, tarfile.DIRTYPE, mode)

    def text(self, path: str, content: str, mode: int = 0o644) -> None:
        """Add a file with *content*."""
        data = content.encode()
        self._add(path, tarfile.REGTYPE, mode, data, size=len(data))

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, tarfile.SYMTYPE, 0o777, link=target)

    def hardlink(self, path: str, target: str) -> None:
        """Add another name for a file of this layer; *target* must come first in path order."""
        self._add(path, tarfile.LNKTYPE, self._entries[_key(target)][0].mode, link=_key(target))

    def whiteout(self, path: str) -> None:
        """Delete *path* of the layers below (OCI image-spec, layer: whiteouts)."""
        folder, name = os.path.split(path)
        self.text(f"{folder}/.wh.{name}", "", 0o644)

    def opaque(self, path: str) -> None:
        """Hide everything that the layers below have in the directory *path*."""
        self.text(f"{path}/.wh..wh..opq", "", 0o644)

    def host(self, path: Path) -> None:
        """Add a file of this machine under its own path, with every symbolic link on the way to it."""
        seen = 0
        done, rest = Path("/"), list(Path(os.path.abspath(path)).parts[1:])
        while rest:
            name = rest.pop(0)
            if name == "..":
                done = done.parent
                continue
            current = done / name
            if current.is_symlink():
                seen += 1
                if seen > 40:
                    raise BuildError(f"too many symbolic links on the way to {path}")
                target = os.readlink(current)
                self.symlink(str(current), target)
                done = Path("/") if target.startswith("/") else done
                rest = [part for part in Path(target).parts if part != "/"] + rest
            else:
                done = current
        if done.is_dir():
            self.folder(str(done))
            return
        status = done.stat()
        mode = 0o755 if status.st_mode & 0o111 else 0o644
        self._add(str(done), tarfile.REGTYPE, mode, done, size=status.st_size)

    def write(self, file: io.BufferedRandom) -> str:
        """Write the layer as an uncompressed tar and return its diff ID."""
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key in sorted(self._entries):
                info, source = self._entries[key]
                if isinstance(source, Path):
                    with source.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info, None if source is None else io.BytesIO(source))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return digest

    def _add(
        self,
        path: str,
        kind: bytes,
        mode: int,
        source: Path | bytes | None = None,
        *,
        size: int = 0,
        link: str = "",
    ) -> None:
        key = _key(path)
        if key == "." or (kind == tarfile.DIRTYPE and key in self._entries):
            return
        parent = os.path.dirname(key)
        if parent and parent not in self._entries:
            self.folder(parent)
        self._entries[key] = (_entry(key, kind, mode, size, link), source)


def _key(path: str) -> str:
    return os.path.normpath(path).lstrip("/") or "."


def _entry(name: str, kind: bytes, mode: int, size: int, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    info.mtime, info.uname, info.gname = CREATED, "root", "root"
    return info


def base_layer(libraries: Libraries, programs: Iterable[Path]) -> Layer:
    """Return the base system: loader, libraries, a shell, a few tools and the usual folders."""
    layer = Layer("/bin/sh -c #(nop) ADD base system in /")
    for path in ("/dev", "/etc", "/home", "/proc", "/run", "/sys", "/usr/bin", "/usr/local/bin", "/var/log"):
        layer.folder(path)
    layer.folder("/root", 0o700)
    layer.folder("/tmp", 0o1777)
    layer.folder("/var/tmp", 0o1777)
    layer.symlink("/var/run", "/run")
    layer.text(
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n"
        "app:x:1000:1000:app:/app:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    )
    layer.text("/etc/group", "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n")
    layer.text("/etc/shadow", "root:*:19723:0:99999:7:::\n", 0o640)
    layer.text("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    layer.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    layer.text("/etc/motd", "This file is gone in the finished image.\n")
    layer.text("/usr/share/doc/base/README", "So is this one: its folder is made opaque.\n")
    layer.text("/usr/lib/os-release", 'PRETTY_NAME="A small base system"\nID=base\nVERSION_ID="1"\n')
    layer.symlink("/etc/os-release", "../usr/lib/os-release")

    shell = Path("/bin/sh")
    if not shell.exists():
        raise BuildError("this machine has no /bin/sh to put into the image")
    chosen = [shell]
    for name in TOOLS:
        tool = next((p for p in (Path("/bin", name), Path("/usr/bin", name)) if p.is_file()), None)
        if tool is not None and _resolvable(libraries, tool):
            chosen.append(tool)
    late = [found for name in LATE_LIBRARIES if (found := _optional(libraries, name)) is not None]
    # This file says where the loader looks beside its own folders; what it lists in vain is ignored.
    settings = [file for file in (Path("/etc/ld.so.cache"),) if file.is_file()]
    needed = libraries.closure([*chosen, *programs, *late])
    for file in [*chosen, *late, *settings, *needed]:
        layer.host(file)
    return layer


def python_layer(interpreter: Path, modules: Iterable[Path]) -> Layer:
    """Return the running Python: its program and its standard library."""
    layer = Layer(f"/bin/sh -c #(nop) ADD python {sys.version_info.major}.{sys.version_info.minor} in /")
    layer.host(interpreter)
    for path in modules:
        layer.host(path)
    for name in ("python", "python3"):
        link = f"/usr/local/bin/{name}"
        if os.path.realpath(link) != str(interpreter):
            layer.symlink(link, str(interpreter))
        else:
            layer.host(Path(link))
    return layer


def application_layer() -> Layer:
    """Return the application, which also takes away two things of the base."""
    layer = Layer("/bin/sh -c #(nop) COPY app /app && rm /etc/motd")
    layer.text("/app/main.py", MAIN, 0o755)
    layer.hardlink("/app/run.py", "/app/main.py")
    layer.symlink("/app/current", "main.py")
    layer.folder("/app/data", 0o775)
    layer.text("/app/naïve name.txt", "Names are UTF-8.\n")
    layer.whiteout("/etc/motd")
    layer.text("/usr/share/doc/base/LICENSE", "Public domain.\n")
    layer.opaque("/usr/share/doc/base")
    return layer


def _resolvable(libraries: Libraries, path: Path) -> bool:
    try:
        elf = read_elf(path)
        if elf is None or elf.machine != libraries.machine:
            return False
        libraries.closure([path])
    except BuildError:
        return False
    return True


def _optional(libraries: Libraries, name: str) -> Path | None:
    try:
        return libraries.find(name, Elf(libraries.machine, None, (), ()), Path("/"))
    except BuildError:
        return None


def standard_library(libraries: Libraries) -> list[Path]:
    """Return the files of the standard library, without tests, caches and what needs a display."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    base |= {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    roots = {Path(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    files = []
    for root in sorted(roots):
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(
                name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith("config-")
            )
            for name in sorted(names):
                path = Path(folder, name)
                if not path.is_file() or name.endswith((".a", ".pyc")):
                    continue
                native = ".so" in path.suffixes
                if native and (name.startswith(SKIPPED_MODULES) or not _resolvable(libraries, path)):
                    continue
                files.append(path)
    if not any(path.name == "os.py" for path in files):
        raise BuildError(
            f"the standard library of this Python is not a folder of files under {sys.base_prefix}"
        )
    return files


# --- the image ----------------------------------------------------------------------------------


def configuration(architecture: str, layers: list[Layer], diff_ids: list[str]) -> dict[str, object]:
    """Return the image's config document (OCI image-spec, config)."""
    version = ".".join(map(str, sys.version_info[:3]))
    steps = [{"created": CREATED_TEXT, "created_by": layer.created_by} for layer in layers]
    nothing = {"created": CREATED_TEXT, "created_by": 'CMD ["/app/main.py"]', "empty_layer": True}
    return {
        "architecture": architecture,
        "os": "linux",
        "created": CREATED_TEXT,
        "config": {
            "Env": [
                "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
                "LANG=C.UTF-8",
                "PYTHONDONTWRITEBYTECODE=1",
                f"PYTHON_VERSION={version}",
            ],
            "Entrypoint": [INTERPRETER],
            "Cmd": ["/app/main.py"],
            "WorkingDir": "/app",
            "User": "app",
            "StopSignal": "SIGINT",
            "ExposedPorts": {"8000/tcp": {}},
            "Labels": {
                "org.opencontainers.image.title": "python",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.description": "Python on a small base system",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}" for diff_id in diff_ids]},
        "history": [*steps, nothing],
    }


def build(output: Path, tags: list[str]) -> list[int]:
    """Write the archive to *output* and return the sizes of its layers in bytes, bottom to top."""
    if sys.platform != "linux":
        raise BuildError("An image can be built from this machine only on Linux, whose programs it runs.")
    interpreter = Path(os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
    libraries = Libraries(interpreter)
    modules = standard_library(libraries)
    native = [path for path in modules if ".so" in path.suffixes]
    layers = [
        base_layer(libraries, [interpreter, *native]),
        python_layer(interpreter, modules),
        application_layer(),
    ]
    architecture = ARCHITECTURES.get(libraries.machine[2])
    if architecture is None:
        raise BuildError(f"Images have no name for this machine's processor (ELF {libraries.machine[2]}).")

    staged = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with tarfile.open(staged, "w", format=tarfile.PAX_FORMAT) as archive:
            diff_ids, sizes = [], []
            for layer in layers:
                with tempfile.TemporaryFile(dir=output.parent) as file:
                    diff_id = layer.write(file)
                    size = os.fstat(file.fileno()).st_size
                    archive.addfile(_entry(diff_id, tarfile.DIRTYPE, 0o755, 0))
                    archive.addfile(_entry(f"{diff_id}/layer.tar", tarfile.REGTYPE, 0o644, size), file)
                diff_ids.append(diff_id)
                sizes.append(size)
            config = json.dumps(configuration(architecture, layers, diff_ids)).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            paths = [f"{diff_id}/layer.tar" for diff_id in diff_ids]
            manifest = json.dumps([{"Config": name, "RepoTags": tags, "Layers": paths}]).encode()
            for member, content in ((name, config), ("manifest.json", manifest)):
                archive.addfile(_entry(member, tarfile.REGTYPE, 0o644, len(content)), io.BytesIO(content))
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)
    return sizes


def tag(text: str) -> str:
    """Return *text* as docker writes it into an archive: with its tag."""
    if not text or text != text.strip() or "@" in text or any(c.isspace() for c in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name such as python:3.12")
    return text if ":" in text.rpartition("/")[2] else f"{text}:latest"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build a runnable image archive out of this machine.")
    parser.add_argument("output", type=Path, metavar="OUT.tar", help="where to write the archive")
    parser.add_argument(
        "--tag", action="append", type=tag, dest="tags", required=True, help="such as python:3.12; repeatable"
    )
    arguments = parser.parse_args()
    try:
        sizes = build(arguments.output, arguments.tags)
    except (BuildError, OSError) as error:
        print(f"build_image: {error}", file=sys.stderr)
        return 1
    layers = " + ".join(f"{size / 1e6:.1f}" for size in sizes)
    print(f"{arguments.output}: {', '.join(arguments.tags)}; layers of {layers} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
