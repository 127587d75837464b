"""Every test gets a home of its own, and the peers: the real msb, system tools, real images."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.fleet.postgres import Server, running
from tests.fleet.postgres import programs as postgres_programs

if TYPE_CHECKING:
    from msb_cache import ImageCache

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / ".cache" / "test-images"
RELEASES = ROOT / ".cache" / "msb"
"""Where .ci/run installs releases of msb, each in an environment of its own."""
KEPT = {"MSB_CACHE_TEST_MSB", "MSB_CACHE_REQUIRE_PEERS"}
PATH = os.environ.get("PATH", os.defpath)
"""Where peers are; the tests themselves see no msb that is there."""
CLEARED = {
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
    "NO_COLOR",
    "PAGER",
    "XDG_CONFIG_HOME",
    "REGISTRY_AUTH_FILE",
    "DOCKER_CONFIG",
    "XDG_STATE_HOME",
    *{"SUDO_USER", "GITHUB_RUN_ID", "GITLAB_CI", "BUILDKITE_JOB_ID"},
}

# How long an example takes says as much about the machine as about us; benchmarks measure time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# --- homes --------------------------------------------------------------------------------------

REAL_HOMES = tuple(
    os.path.join(home, ".microsandbox", "")
    for home in {os.path.expanduser("~"), pwd.getpwuid(os.getuid()).pw_dir}
    if home not in {"", "/"}
)
GUARDED = frozenset(
    {
        "open",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "os.truncate",
        "shutil.rmtree",
        "sqlite3.connect",
    }
)


def _guard(event: str, arguments: tuple[object, ...]) -> None:
    if event in GUARDED:
        for argument in arguments[:2]:
            path = os.fsdecode(argument) if isinstance(argument, str | bytes | os.PathLike) else ""
            if f"{path}/".startswith(REAL_HOMES):
                raise AssertionError(f"a test reached for the real home: {event} {path}")


def pytest_configure(config: pytest.Config) -> None:
    # What is started in the background ignores Ctrl-C, and so would each program that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Child processes are kept away by the environment below; this one by an audit hook.
    sys.addaudithook(_guard)
    # Also where PYTHONDONTWRITEBYTECODE is set: each worker of xdist would compile all tests, for 10 s.
    sys.dont_write_bytecode = False
    is_worker = hasattr(
        config, "workerinput"
    )  # of xdist: it inherits the environment, and its folder is named
    if not is_worker:
        _compile_package()
    if not is_worker and config.option.basetemp is None and not TEMPORARY & os.environ.keys():
        _work_in_memory(config)


def _compile_package() -> None:
    """Compile the package once: else each program that a test starts compiles what it imports."""
    spec = find_spec("msb_cache")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for folder in (package, *(each for each in package.iterdir() if each.is_symlink())):  # else not followed
        compileall.compile_dir(folder, quiet=2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Three workers for two processors: many tests sleep, or wait for disks and programs."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # which the plugin reads itself
    processors = os.cpu_count() or 1
    return processors + (processors + 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests, so that none of these is left for one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# --- temporary folders --------------------------------------------------------------------------

MEMORY = Path("/dev/shm")
ENOUGH = 2 << 30  # bytes
TEMPORARY = {"PYTEST_DEBUG_TEMPROOT", "TMPDIR"}


def _work_in_memory(config: pytest.Config) -> None:
    """Put all temporary folders on a tmpfs, where syncing costs nothing; they go when the tests end.

    ``--basetemp`` keeps what a failed test leaves, and works where it says, as TMPDIR does.
    """
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return
    for left in MEMORY.glob("msb-cache-tests-*"):
        if (lock := _locked(left)) is not None:  # whose process was killed
            _delete(left)
            os.close(lock)
    room = os.statvfs(MEMORY)
    if room.f_bavail * room.f_frsize < ENOUGH:
        return
    folder = Path(tempfile.mkdtemp(prefix="msb-cache-tests-", dir=MEMORY))
    folder.chmod(0o711)  # some tests are of several users
    if (lock := _locked(folder)) is None:
        return  # another run that begins now is about to delete it
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    def leave() -> None:
        tempfile.tempdir = None
        del os.environ["TMPDIR"]
        _delete(folder)
        os.close(lock)

    config.add_cleanup(leave)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that locks a folder; None if another process has it, or it is another user's."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _delete(folder: Path) -> None:
    for path, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(path, 0o700)  # tests of permissions may have been cut short
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def path_without_msb(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the PATH with each folder that has an msb replaced by links to all else in it."""
    folders = []
    for folder in PATH.split(os.pathsep):
        if os.path.lexists(os.path.join(folder, "msb")):
            links = tmp_path_factory.mktemp("bin")
            for program in Path(folder).iterdir():
                if program.name != "msb":
                    (links / program.name).symlink_to(program)
            folder = str(links)
        folders.append(folder)
    return os.pathsep.join(folders)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, path_without_msb: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME and MSB_HOME into tmp_path, forget every setting, and return the MSB_HOME."""
    for name in os.environ:
        if name in CLEARED or (name.startswith("MSB_") and name not in KEPT):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MSB_HOME", str(tmp_path / "msb-home"))
    # A new default home is msb's if one is found: here only if a test sets MSB_PATH.
    monkeypatch.setenv("PATH", path_without_msb)
    monkeypatch.setattr("msb_cache.msb.program.find_spec", lambda name: None)
    backends = sys.modules.get("msb_cache.backends")
    if backends is not None:
        monkeypatch.setattr(backends, "_installed", None)
        monkeypatch.setattr(backends, "_resolved", None)
    return tmp_path / "msb-home"


@pytest.fixture
def no_msb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no msb be found, neither here nor in child processes."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("msb_cache.msb.program.find_spec", lambda name: None)


@pytest.fixture(autouse=True)
def closed_ledgers() -> Iterator[None]:
    """Close the ledgers that a test made, so that no connection outlives it."""
    yield
    if (logs := sys.modules.get("tests.logs")) is not None:
        logs.close_ledgers()


@pytest.fixture
def open_connections(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[sqlite3.Connection]]:
    """Return a function that gives the SQLite connections that this test opened and did not close."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connect_and_keep(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    def is_open(connection: sqlite3.Connection) -> bool:
        try:
            connection.total_changes  # noqa: B018 - raises once it is closed
        except sqlite3.ProgrammingError:
            return False
        return True

    monkeypatch.setattr(sqlite3, "connect", connect_and_keep)
    return lambda: [connection for connection in opened if is_open(connection)]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    """Return the cache of a home that does not exist yet, with an actor of its own."""
    from msb_cache import ImageCache
    from msb_cache.eventstore.store import Actor

    actor = Actor(user="alice", uid=1, host="h", program="test")
    with ImageCache(tmp_path / "new" / "home", actor=actor) as cache:
        yield cache


@pytest.fixture
def config(own_home: Path) -> Callable[[object], None]:
    """Return a function that writes the home's config.json: a document, or text as it is."""

    def write(document: object) -> None:
        own_home.mkdir(exist_ok=True)
        text = document if isinstance(document, str) else json.dumps(document)
        (own_home / "config.json").write_text(text)

    return write


# --- peers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def require_peer() -> Callable[[str], str]:
    """Return a function that gives a peer's path, or skips; with MSB_CACHE_REQUIRE_PEERS=1 it fails.

    A peer is a program's name, ``msb`` (the real one), ``msb 0.6.18`` (that release of it), ``postgresql``
    (its server), or ``root`` for the right to be root.
    """
    required = os.environ.get("MSB_CACHE_REQUIRE_PEERS") == "1"

    def find(name: str) -> str:
        if name == "root":
            path = "/root" if os.geteuid() == 0 else None
        elif name == "msb":
            path = os.environ.get("MSB_CACHE_TEST_MSB") or shutil.which("msb", path=PATH)
        elif name.startswith("msb "):
            path = str(RELEASES / name[4:] / "bin" / "msb")
        elif name == "postgresql":
            found = postgres_programs()
            path = None if found is None else str(found / "initdb")
        else:
            path = shutil.which(name, path=f"{PATH}:/usr/sbin:/sbin")
        if path is None or not os.path.exists(path):
            what = f"the peer {name!r} is missing"
            return pytest.fail(what) if required else pytest.skip(what)
        return path

    return find


@pytest.fixture(scope="session")
def postgres_cluster(require_peer: Callable[[str], str]) -> Iterator[Server]:
    """A server that modules use one after another."""
    require_peer("postgresql")
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def msb(require_peer: Callable[[str], str]) -> str:
    """Return the path of the real msb; run it with MSB_HOME in tmp_path."""
    return program_behind(require_peer("msb"))


@pytest.fixture(scope="session")
def sdk_python(require_peer: Callable[[str], str]) -> Path:
    """Return the Python that has microsandbox's SDK: the one beside the starter of the real msb."""
    python = Path(require_peer("msb")).with_name("python")
    if not python.exists() or subprocess.run([python, "-c", "import microsandbox"]).returncode:
        require_peer("the microsandbox SDK beside msb")
    return python


def program_behind(path: str) -> str:
    """Return the program that a wheel's starter becomes: that costs a tenth of a second, each time."""
    with open(path, "rb") as file:
        first = file.readline(4096)
    if not first.startswith(b"#!"):
        return path
    ask = "import os, microsandbox._cli as cli; os.execv = lambda path, words: print(path); cli.main()"
    python = os.fsdecode(first[2:].strip())
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home, "MSB_HOME": home}
        done = subprocess.run(
            [python, "-c", ask], env=environment, capture_output=True, text=True, check=True
        )
    return done.stdout.strip()


# --- images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchivedImage:
    """One image in both archive formats."""

    reference: str
    docker_archive: Path
    oci_archive: Path


@contextmanager
def built_once(name: str) -> Iterator[Path]:
    """Yield the folder *name* of the image cache, locked against other workers and runs."""
    folder = IMAGES / name
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (IMAGES / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)  # the one that has the lock may be making it anew
        yield folder


def _run(*command: str | Path) -> None:
    path = f"{PATH}:/usr/sbin:/sbin"
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}:\n{(done.stdout + done.stderr)[-2000:]}")


@pytest.fixture(scope="session")
def python_image() -> Path:
    """Return a docker archive with the tag python:3.12: a real image of this machine's Python."""
    if sys.platform != "linux":
        pytest.skip("images are built from this machine only on Linux")
    script = ROOT / "examples" / "build_image.py"
    key = hashlib.sha256(script.read_bytes() + repr((sys.version, sys.base_prefix)).encode()).hexdigest()[:16]
    with built_once("python") as folder:
        archive = folder / f"{key}.tar"
        if not archive.exists():
            for old in folder.glob("*.tar"):
                old.unlink()
            _run(sys.executable, script, archive, "--tag", "python:3.12")
    return archive


@pytest.fixture(scope="session")
def debian_image(require_peer: Callable[[str], str]) -> ArchivedImage:
    """Return a Debian of three layers, with whiteouts, made by debootstrap, umoci and skopeo."""
    for peer in ("root", "debootstrap", "umoci", "skopeo"):
        require_peer(peer)
    with built_once("debian-bookworm-1") as folder:
        image = ArchivedImage("debian:bookworm", folder / "docker.tar", folder / "oci.tar")
        if not (image.docker_archive.exists() and image.oci_archive.exists()):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                _build_debian(Path(work), image)
    return image


def _build_debian(work: Path, image: ArchivedImage) -> None:
    layout = work / "layout"
    bundle, rootfs = work / "bundle", work / "bundle" / "rootfs"
    _run("umoci", "init", "--layout", layout)
    _run("umoci", "new", "--image", f"{layout}:debian")
    _run("umoci", "unpack", "--image", f"{layout}:debian", bundle)
    _run("debootstrap", "--variant=minbase", "bookworm", rootfs)
    shutil.rmtree(rootfs / "var" / "cache" / "apt", ignore_errors=True)
    for package_list in (rootfs / "var" / "lib" / "apt" / "lists").glob("*_*"):
        package_list.unlink()
    _run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:debian", bundle)

    (rootfs / "srv" / "data").mkdir()
    (rootfs / "srv" / "data" / "zeros").write_bytes(bytes(1 << 20))
    (rootfs / "srv" / "data" / "long" / ("n" * 200)).mkdir(parents=True)
    os.link(rootfs / "srv" / "data" / "zeros", rootfs / "srv" / "data" / "same zeros")
    (rootfs / "etc" / "hostname").write_text("layer-two\n")
    _run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:debian", bundle)

    shutil.rmtree(rootfs / "usr" / "share" / "doc")
    (rootfs / "etc" / "debian_version").unlink()
    os.symlink("zeros", rootfs / "srv" / "data" / "link")
    _run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:debian", bundle)
    _run(
        *("umoci", "config", "--image", f"{layout}:debian", "--no-history"),
        *("--config.cmd", "/bin/bash", "--config.env", "LANG=C.UTF-8", "--config.workingdir", "/srv"),
        *("--config.label", "purpose=test", "--config.stopsignal", "SIGTERM", "--config.user", "nobody"),
    )
    for kind, target in (("docker-archive", image.docker_archive), ("oci-archive", image.oci_archive)):
        staged = work / target.name
        _run("skopeo", "copy", "--quiet", f"oci:{layout}:debian", f"{kind}:{staged}:{image.reference}")
        staged.replace(target)
