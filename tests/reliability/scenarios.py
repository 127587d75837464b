"""What is killed, starved and crowded: a few commands in a row on a prepared home, and what each leaves.

A scenario is run whole once, which says how the index looks after each of its commands. After it was cut
short somewhere, the index must look as after the last acknowledged command, or as after the one behind it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from msb_cache import DataRequest, ImageCache, RepairReport, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.errors import MicrosandboxError
from msb_cache.eventstore.chain import Verified
from msb_cache.home import index_cache
from msb_cache.migrations import APPLICATION_ID, SCHEMA_VERSION
from msb_cache.migrations.schema import migrations
from msb_cache.retention.policy import PrunePolicy
from tests.engines.interrupting import killing_at
from tests.flatroots import add
from tests.imagebuilder import docker_archive, file, image, layer

Command = Callable[[ImageCache, Path], object]

SHARED = layer([file("shared", b"s" * 9000)])
ONE = image([SHARED, layer([file("one", b"1" * 5000)], "gzip")], "one:1")
TWO = image([SHARED, layer([file("two", b"2" * 5000)])], "two:1")
MOVED = image([SHARED, layer([file("moved", b"3" * 5000)])], "one:1")
LONE = image([layer([file("lone", b"4" * 5000)])], "lone:1")
IMAGES = {"one": ONE, "two": TWO, "moved": MOVED, "lone": LONE}

SETTINGS = "settings"
"""A file in the folder of a scenario with what its commands need to know: the registry's reference."""


RECOVERY = "--recovery"
"""In the place of a scenario's name: only a command that writes, on the home as it is."""


@dataclass(frozen=True)
class Scenario:
    """Commands on a prepared home; ``prepare`` makes it, and files beside it, in a folder of its own.

    ``bare``: the log comes without the files of its images. ``wrong``: its index is not what the log says,
    until the first command. ``step``: so many events may be between two snapshots.
    """

    prepare: Callable[[Path], None]
    commands: tuple[Command, ...]
    bare: bool = False
    wrong: bool = False
    step: int = index_cache.STEP


Index = tuple[tuple[tuple[str, str | None], ...], tuple[tuple[str, str], ...]]
"""References with their manifests, and holders with theirs."""


def index_of(home: Path) -> Index:
    """What a home says it has; reads only."""
    with ImageCache(home) as cache:
        handles = sorted((handle.reference, handle.manifest_digest) for handle in cache.list())
        holds = sorted((hold.holder, hold.manifest_digest) for hold in cache.holds())
    return tuple(handles), tuple(holds)


def perform(name: str, folder: Path, told: Callable[[int], object]) -> None:
    """Run a scenario's commands; ``told`` learns how many are done after each."""
    scenario = SCENARIOS[name]
    with closer_snapshots(scenario.step):
        for number, command in enumerate(scenario.commands, start=1):
            with ImageCache(folder / "home") as cache:
                command(cache, folder)
            told(number)


def write_once(home: Path) -> None:
    """Run a command that writes, but says nothing about an image: it begins by recovering."""
    with ImageCache(home) as cache:
        cache.release("sandbox:nobody")


@contextmanager
def closer_snapshots(step: int) -> Iterator[None]:
    before, index_cache.STEP = index_cache.STEP, step
    try:
        yield
    finally:
        index_cache.STEP = before


# -- what lies there before ---------------------------------------------------------------------------------


def write_archives(folder: Path) -> None:
    for name, built in IMAGES.items():
        (folder / f"{name}.tar").write_bytes(docker_archive(built))


def _empty(folder: Path) -> None:
    write_archives(folder)
    (folder / "home").mkdir()


def _nothing(folder: Path) -> None:
    write_archives(folder)


def _with(*names: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        _empty(folder)
        with ImageCache(folder / "home") as cache:
            for name in names:
                cache.load(folder / f"{name}.tar")

    return prepare


def _held(folder: Path) -> None:
    _with("one", "two", "lone")(folder)
    with ImageCache(folder / "home") as cache:
        cache.hold("two:1", "sandbox:dev")


def _with_a_policy(folder: Path) -> None:
    _held(folder)
    (folder / "home" / "cache-policy.toml").write_text(
        '[[rule]]\nname = "one"\nfilter = ["reference=one"]\nunused-for = "0s"\ngrace = "0s"\n'
        '[[rule]]\nname = "room"\nmax-size = "1B"\ngrace = "0s"\n'
    )


def _with_flat_roots(folder: Path) -> None:
    _held(folder)
    for built in (ONE, TWO):
        add(folder / "home", built.digest)


def _exported(folder: Path) -> None:
    _held(folder)
    with ImageCache(folder / "home") as cache:
        cache.export(folder / "log.jsonl")
    shutil.rmtree(folder / "home" / "db")
    shutil.rmtree(folder / "home" / "cache")


def _backed_up(folder: Path) -> None:
    """A backup of the log, and two events behind it, after which the index is another."""
    _with("one")(folder)
    with ImageCache(folder / "home") as cache:
        cache.backup(folder / "backup.db")
        cache.hold("one:1", "sandbox:dev")
        cache.use("one:1")


def _spoilt(folder: Path) -> None:
    """Images of which a VMDK, a merged tree and a metadata file are gone."""
    _with("one", "two", "lone")(folder)
    layout = Layout(folder / "home")
    with ImageCache(folder / "home") as cache:
        cache.load(folder / "one.tar", tag="again:1")
    layout.vmdk(ONE.digest).unlink()
    layout.fsmeta(TWO.digest).unlink()
    layout.metadata("docker.io/library/again:1").unlink()


def _wrong(folder: Path) -> None:
    """An index that has lost an image, and snapshots that were taken of it."""
    _held(folder)
    with closing(sqlite3.connect(Layout(folder / "home").database)) as connection:
        connection.execute("DELETE FROM image WHERE reference = 'docker.io/library/lone:1'")
        connection.commit()
    with ImageCache(folder / "home") as cache, closer_snapshots(4):
        _use_often(cache, folder)
    assert [*Layout(folder / "home").snapshots.glob("*.fold")]


def _older(schema: int) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        _held(folder)
        downgrade(Path(Layout(folder / "home").database), schema)

    return prepare


def downgrade(path: Path, schema: int) -> None:
    """Turn a database into what a release with this schema left: its log, and its tables empty."""
    older = path.with_name("older.db")
    with closing(Database(memory=True)) as empty:
        following = [migration.name for migration in migrations.pending(empty)][schema]
    with closing(sqlite3.connect(older, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode = WAL")
        migrations.apply(Database(connection), stop_before=following)
        connection.execute("ATTACH DATABASE ? AS newer", (str(path),))
        connection.execute("INSERT INTO events SELECT * FROM newer.events ORDER BY seq")
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    older.rename(path)


# -- commands -----------------------------------------------------------------------------------------------


def _load(name: str) -> Command:
    return lambda cache, folder: cache.load(folder / f"{name}.tar")


def _pull(policy: str) -> Command:
    def pull(cache: ImageCache, folder: Path) -> None:
        cache.pull((folder / SETTINGS).read_text(), policy=policy)  # type: ignore[arg-type]

    return pull


def _import(cache: ImageCache, folder: Path) -> None:
    with (folder / "log.jsonl").open("rb") as export:
        cache.import_log(export)


def _hold(reference: str, holder: str) -> Command:
    return lambda cache, folder: cache.hold(reference, holder)


def _release(holder: str) -> Command:
    return lambda cache, folder: cache.release(holder)


def _remove(reference: str, *, force: bool = False) -> Command:
    return lambda cache, folder: cache.remove(reference, force=force)


def _prune(cache: ImageCache, folder: Path) -> None:
    cache.prune()


def _orphans(cache: ImageCache, folder: Path) -> None:
    cache.prune(orphans=True)


def _pin(reference: str) -> Command:
    return lambda cache, folder: cache.pin(reference)


def _unpin(reference: str) -> Command:
    return lambda cache, folder: cache.unpin(reference)


def _by_rules(cache: ImageCache, folder: Path) -> None:
    cache.prune(PrunePolicy(grace="0s", max_size=1, best_effort=True, exclude=("lone:1",)))


def _gc(cache: ImageCache, folder: Path) -> None:
    cache.gc()


def _rebuild(cache: ImageCache, folder: Path) -> None:
    assert cache.rebuild() == []


def _mend(cache: ImageCache, folder: Path) -> None:
    assert cache.rebuild()


def _repair(cache: ImageCache, folder: Path) -> None:
    _check_mended(cache.repair())


def _check_mended(report: RepairReport) -> None:
    """What could not be mended is no error of a repair, and here it is one."""
    for left in report.left:
        raise MicrosandboxError(f"{left.finding.kind} {left.finding.path} is left: {left.why}")


def _lose_and_repair(cache: ImageCache, folder: Path) -> None:
    """Lose a layer of what was pulled, and what is made of it."""
    layout = Layout(folder / "home")
    for path in (layout.layer(ONE.layers[1].diff_id), layout.vmdk(ONE.digest)):
        path.unlink(missing_ok=True)
    _check_mended(cache.repair(pull=True))


def _use_often(cache: ImageCache, folder: Path) -> None:
    for _ in range(6):
        cache.use("one:1")


def _look_back(cache: ImageCache, folder: Path) -> None:
    cache.list(as_of=14)


def _back_up(cache: ImageCache, folder: Path) -> None:
    cache.backup(folder / "backup.db")


def _restore(cache: ImageCache, folder: Path) -> None:
    cache.restore_backup(folder / "backup.db", discard_events=2)


def _anew(cache: ImageCache, folder: Path) -> None:
    cache.begin_log_anew()


def _confirm(cache: ImageCache, folder: Path) -> None:
    assert cache.confirm_restore()


def _listed(cache: ImageCache, folder: Path) -> None:
    cache.list()


SCENARIOS = {
    "load": Scenario(_with("one"), (_load("two"), _load("moved"), _load("two"))),
    "load where there is no home": Scenario(_nothing, (_load("one"), _load("two"))),
    "pull": Scenario(_with("two"), (_pull("missing"), _pull("always"))),
    "remove": Scenario(_held, (_remove("one:1"), _remove("two:1", force=True), _release("sandbox:dev"))),
    "prune": Scenario(_held, (_prune, _release("sandbox:dev"), _orphans)),
    "rules and pins": Scenario(_held, (_pin("one:1"), _by_rules, _unpin("one:1"), _by_rules)),
    "gc": Scenario(_with_a_policy, (_pin("lone:1"), _gc, _unpin("lone:1"), _gc)),
    "flat roots": Scenario(_with_flat_roots, (_remove("one:1"), _release("sandbox:dev"), _prune)),
    "use and hold": Scenario(
        _with("one"), (_hold("one:1", "sandbox:a"), _hold("one:1", "sandbox:b"), _release("sandbox:a"))
    ),
    "import": Scenario(_exported, (_import, _hold("one:1", "sandbox:a")), bare=True),
    "rebuild": Scenario(_held, (_rebuild, _hold("one:1", "sandbox:a"), _rebuild)),
    "rebuild of a wrong index": Scenario(_wrong, (_mend, _hold("one:1", "sandbox:a")), wrong=True),
    "repair": Scenario(_spoilt, (_repair, _hold("one:1", "sandbox:a"), _repair), bare=True),
    "repair by pulls": Scenario(_with("two"), (_pull("missing"), _lose_and_repair), bare=True),
    "backup": Scenario(_with("one"), (_hold("one:1", "sandbox:a"), _back_up, _back_up)),
    "restore": Scenario(_backed_up, (_restore, _confirm, _hold("one:1", "sandbox:a"))),
    "log anew": Scenario(_with("one"), (_anew, _hold("one:1", "sandbox:a"), _anew)),
    "snapshots": Scenario(
        _with("one"), (_use_often, _hold("one:1", "sandbox:a"), _use_often, _look_back), step=4
    ),
    **{
        f"migration from {schema}": Scenario(_older(schema), (_listed, _hold("one:1", "sandbox:a")))
        for schema in range(1, SCHEMA_VERSION)
    },
}


# -- what must hold afterwards ------------------------------------------------------------------------------


def check_whole(home: Path, *, bare: bool = False) -> None:
    """The log sound, the index its fold, nothing half done, no file missing (but if ``bare``) or over."""
    if not Path(home).exists():
        return  # killed before it was made: nothing was begun
    layout = Layout(home)
    with ImageCache(home) as cache:
        found = cache.verify(data=DataRequest())
        assert isinstance(found.chain, Verified), found.chain
        assert (found.differences, found.unreadable) == ([], None)
        wrong = [problem for problem in found.disk if not bare or problem.problem != "missing"]
        # Some homes are copies, whose VMDKs are others (see tests.moving); flat roots are no real ones.
        others = {("altered", "vmdk"), ("altered", "flat")}
        assert [each for each in wrong if (each.problem, each.kind) not in others] == []
        assert all(row.counters.finished_at is not None for row in cache.prunes())
        for last in cache.events(reverse=True, limit=1):
            assert cache.list(as_of=last.seq) == cache.list()
        assert cache.rebuild() == []
    assert layout.interrupted_operations() == []
    assert leaked(layout) == []


def leaked(layout: Layout) -> list[str]:
    """Files in a home that neither the index nor a lock of its files explains."""
    named = {path for _, _, path in layout.files()}  # that the index names each of them, verify has checked
    named |= {lock_path(path) for path in named} | {*layout.lone_locks()}
    named |= {
        Path(layout.home, "cache-policy.toml"),
        Path(layout.database),
        layout.migrate_lock,
        layout.prune_lock,
        layout.reserve,
    }
    named |= {Path(layout.database + suffix) for suffix in ("-wal", "-shm")}
    named |= {*layout.set_aside.rglob("*"), *layout.flat_locks.glob("*")}
    return [
        str(path.relative_to(layout.home))
        for path in sorted(Path(layout.home).rglob("*"))
        if not path.is_dir()
        and path not in named
        and path.parent != layout.staging_root / "downloads"
        and not (path.parent == layout.snapshots and path.suffix == ".fold")
    ]


if __name__ == "__main__":
    name, folder, *cut_at = sys.argv[1:]
    if cut_at:
        failpoints.observer = killing_at(int(cut_at[0]))
    # Said with another system call than what writes to disk, so that it arrives when those fail.
    try:
        if name == RECOVERY:
            write_once(Path(folder, "home"))
        else:
            perform(name, Path(folder), lambda number: os.writev(1, [b"."]))
    except (MicrosandboxError, OSError) as error:
        os.writev(2, [f"{type(error).__name__}: {error}".encode()])
        os._exit(1)
