"""Two users of one group at work in turn on a home that is shared as the documents say.

Both have groups of their own and the shared one beside it, and no capability but to read: the interpreter
that runs the tests may lie where other users may not look. So whether they may read the home's files is
checked by the files' modes; whether they may write and delete is tried.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from msb_cache.artifacts.layout import Layout
from tests.cli.support import APP, APP_NEXT, TOOL, Done, sentence, written
from tests.imagebuilder import file, image, layer
from tests.registry_server import RegistryServer, drop, error
from tests.reliability.scenarios import check_whole, downgrade

GROUP = 30_000
CAPABILITY = "dac_read_search"
CUT_SHORT = """
import os, signal, sys
from msb_cache.home import index_cache
from msb_cache import failpoints
from msb_cache.cli.main import main

step, index_cache.STEP = sys.argv[1], int(sys.argv[2])
failpoints.observer = lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == step else None
main(sys.argv[3:])
"""


@dataclass
class Member:
    """A user who runs commands; after each one, everything in the home must be the group's."""

    home: Path
    uid: int
    umask: int

    def __call__(self, *arguments: object, killed_at: str = "", step: int = 4096) -> Done:
        command = [
            *("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={GROUP}"),
            *(f"--inh-caps=-all,+{CAPABILITY}", f"--ambient-caps=-all,+{CAPABILITY}"),
            *(f"--bounding-set=-all,+{CAPABILITY}", sys.executable, "-c", CUT_SHORT, killed_at, str(step)),
            *("--home", str(self.home), *map(str, arguments)),
        ]
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, umask=self.umask
        )
        self.check_shared()
        said = done.stderr.decode()
        assert done.returncode == (-9 if killed_at else 0), (arguments, said)
        return Done(done.returncode, done.stdout, said)

    def refused(self, *arguments: object) -> str:
        with pytest.raises(AssertionError) as caught:
            self(*arguments)
        return str(caught.value)

    def check_shared(self) -> None:
        for path in (self.home, *self.home.rglob("*")):
            found = path.lstat()
            wanted = (
                stat.S_ISGID | stat.S_IRWXG if stat.S_ISDIR(found.st_mode) else stat.S_IRGRP | stat.S_IWGRP
            )
            assert (found.st_gid, found.st_mode & wanted) == (GROUP, wanted), (path, oct(found.st_mode))
            assert not found.st_mode & stat.S_IWOTH, (path, oct(found.st_mode))


@dataclass
class Shared:
    """A home that its owner has made for the group, and two of its members."""

    home: Path
    alice: Member
    bob: Member

    def archive(self, name: str, *images: object) -> Path:
        path = written(self.home.with_name(f"{name}.tar"), *images)  # type: ignore[arg-type]
        path.chmod(0o644)
        return path


@pytest.fixture(params=[0o077], ids=oct)
def shared(request: pytest.FixtureRequest, require_peer: Callable[[str], str]) -> Iterator[Shared]:
    """A home whose members have a umask that takes everything from the group, or the one that is given."""
    require_peer("root")
    require_peer("setpriv")
    with TemporaryDirectory() as folder:  # pytest's own ones are their owner's only
        Path(folder).chmod(0o755)
        home = made(Path(folder, "shared"))
        yield Shared(home, Member(home, 20_001, request.param), Member(home, 20_002, request.param))


def made(home: Path) -> Path:
    """What the documents say: ``mkdir HOME; chgrp GROUP HOME; chmod 2770 HOME``."""
    home.mkdir()
    os.chown(home, 20_001, GROUP)
    home.chmod(0o2770)
    return home


@pytest.mark.parametrize("shared", [0o007, 0o077], ids=oct, indirect=True)
def test_two_members_take_turns(shared: Shared) -> None:
    alice, bob = shared.alice, shared.bob
    app = shared.archive("app", APP)
    alice("load", "-i", app)
    assert sorted(bob("list", "-q").lines) == ["app:1", "app:latest"]
    assert "loaded" in bob("history", "app:1").out
    bob("use", "app:1", "--holder", "sandbox:bobs")
    bob("hold", "app:1", "sandbox:bobs")
    alice("release", "sandbox:bobs")
    bob("remove", "app:1", "app:latest")  # deletes alice's files
    assert alice("list", "-q").lines == []
    alice("load", "-i", app)
    bob("load", "-i", shared.archive("next", APP_NEXT))  # replaces alice's metadata, reuses her layer
    alice("load", "-i", shared.archive("tool", TOOL))
    bob("prune", "--yes")
    alice("load", "-i", app)
    assert bob("rebuild").code == bob("verify").code == alice("sync").code == 0
    alice("prune", "--yes", "--orphans")
    bob("load", "-i", app)
    assert len(alice("list", "-q").lines) == 2
    check_whole(shared.home)


@pytest.mark.parametrize(
    ("killed", "step"),
    [
        (["load", "-i", "app.tar"], "add.staged"),
        (["load", "-i", "app.tar"], "add.published"),
        (["load", "-i", "app.tar"], "add.committed"),
        (["load", "-i", "next.tar"], "add.published"),
        (["prune", "--yes"], "delete.decided"),
        (["prune", "--yes"], "delete.unlinked"),
    ],
)
def test_what_one_was_killed_at_the_other_recovers(shared: Shared, killed: list[str], step: str) -> None:
    shared.archive("app", APP)
    shared.archive("next", APP_NEXT)
    arguments = [shared.home.with_name(word) if word.endswith(".tar") else word for word in killed]
    if "app.tar" not in killed:
        shared.alice("load", "-i", shared.home.with_name("app.tar"))
    shared.alice(*arguments, killed_at=step)
    assert Layout(shared.home).interrupted_operations()
    shared.bob("load", "-i", shared.archive("tool", TOOL))
    check_whole(shared.home)
    shared.alice("list")


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def test_one_goes_on_with_the_others_download(shared: Shared, registry: RegistryServer) -> None:
    noise = os.urandom(3_000_000)
    built = image([layer([file("noise", noise)])])
    reference = registry.add(built)
    registry.on(built.layers[0].digest, drop(2_000_000), error(403, "DENIED", "not today"))
    shared.alice.refused("pull", reference)
    (partial,) = Layout(shared.home).downloads.iterdir()
    assert partial.stat().st_uid == 20_001
    have = partial.stat().st_size
    assert have
    before = len(registry.requests)
    shared.bob("pull", reference)
    assert [request.offset for request in registry.requests[before:] if request.offset] == [have]
    assert not [*Layout(shared.home).downloads.iterdir()]
    shared.alice("remove", reference)
    check_whole(shared.home)


def test_snapshots_and_older_databases(shared: Shared) -> None:
    shared.alice("load", "-i", shared.archive("app", APP))
    for _ in range(3):
        shared.alice("use", "app:1", step=4)
        shared.bob("use", "app:1", step=4)
    assert {path.stat().st_uid for path in Layout(shared.home).snapshots.iterdir()} <= {20_001, 20_002}
    assert len(shared.bob("list", "--as-of", "@13", "-q").lines) == 2
    assert "deleted" not in shared.bob("rebuild").err
    downgrade(Path(Layout(shared.home).database), 2)
    os.chown(Layout(shared.home).database, 20_001, GROUP)
    Path(Layout(shared.home).database).chmod(0o660)
    assert len(shared.bob("list", "-q").lines) == 2
    shared.alice("use", "app:1")
    check_whole(shared.home)


def test_an_import_is_the_groups(shared: Shared) -> None:
    shared.alice("load", "-i", shared.archive("app", APP))
    export = shared.home.with_name("log.jsonl")
    export.write_bytes(shared.alice("export").raw)
    other = made(shared.home.with_name("other"))
    alice, bob = (Member(other, member.uid, member.umask) for member in (shared.alice, shared.bob))
    alice("import", export)
    bob("use", "app:1")
    alice("use", "app:1")


def test_who_is_not_of_the_group_is_told_so(shared: Shared) -> None:
    shared.alice("load", "-i", shared.archive("app", APP))
    shared.home.chmod(0o2775)
    command = ["setpriv", "--reuid=20003", "--regid=20003", "--clear-groups"]
    command += [f"--inh-caps=-all,+{CAPABILITY}", f"--ambient-caps=-all,+{CAPABILITY}"]
    command += [sys.executable, "-c", CUT_SHORT, "", "4096", "--home", str(shared.home)]
    done = subprocess.run([*command, "use", "app:1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot be written to by this user" in sentence(done.stderr)
