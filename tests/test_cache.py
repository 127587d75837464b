"""ImageCache: what each use case does to handles, holds, files and the log."""

from __future__ import annotations

import gc
import gzip
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from msb_cache import (
    Activity,
    BusyError,
    CachePolicy,
    CorruptLogError,
    HomeNotFoundError,
    HomeOwnedByMicrosandboxError,
    ImageCache,
    ImageNotFoundError,
    InvalidConfigError,
    InvalidReferenceError,
    MicrosandboxError,
    OperationNotFoundError,
    PrunePolicy,
)
from msb_cache.artifacts.layout import Layout
from tests.examples import ONE, SHARED, TWO, archive, types
from tests.imagebuilder import docker_archive
from tests.logs import ACTOR, PYTHON, new_ledger, some_events
from tests.trees import files_below


def test_load_and_look(cache: ImageCache) -> None:
    handles = cache.load(archive(ONE, TWO), tag="alias")
    assert [handle.reference for handle in handles] == ["alias", "one:1", "two:1"]
    assert [handle.reference for handle in cache.list()] == ["two:1", "one:1", "alias"]
    handle = cache.get("docker.io/library/one:1")
    assert handle == cache.get("one:1") == handles[1]
    assert handle.manifest_digest == cache.get("alias").manifest_digest
    assert handle.size_bytes == sum(len(each.blob) for each in ONE.layers)
    assert (handle.os, handle.architecture, handle.layer_count) == ("linux", "amd64", 2)
    assert handle.created_at == handle.last_used_at
    detail = cache.inspect("one:1")
    assert detail.handle == handle
    assert detail.config is not None
    config = detail.config
    assert (config.env, config.cmd, config.entrypoint) == (["A=1", "B=2"], ["/bin/sh"], ["/init"])
    assert (config.working_dir, config.user, config.labels) == ("/w", "app", {"k": "v"})
    assert config.stop_signal == "SIGINT"
    layout = Layout(cache.home)
    for position, (found, built) in enumerate(zip(detail.layers, ONE.layers, strict=True)):
        assert (found.position, found.diff_id, found.blob_digest) == (position, built.diff_id, built.digest)
        assert found.compressed_size_bytes == len(built.blob)
        assert found.erofs_size_bytes == layout.layer(built.diff_id).stat().st_size
    assert types(cache) == [
        "log.created",
        *["artifact.digested"] * 10,  # three layers, fsmeta and VMDK of both, metadata of three references
        *["manifest.added", "image.pulled", "image.pulled"],
        "manifest.added",
        "image.pulled",
    ]
    assert cache.verify().sound


def test_history_spans_removal_and_reload(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.remove("one:1")
    cache.load(archive(ONE))
    events = cache.history("docker.io/library/one:1")
    assert [event.type for event in events if event.subject.endswith("one:1")] == [
        "image.pulled",
        "image.removed",
        "metadata.deleted",
        "image.pulled",
    ]
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert events[0].actor.user == "alice"
    with pytest.raises(ImageNotFoundError, match="the log knows no image"):
        cache.history("two:1")


def test_reading_writes_nothing(cache: ImageCache) -> None:
    assert cache.list() == []
    assert cache.events() == []
    assert cache.prunes() == []
    with pytest.raises(HomeNotFoundError):
        cache.verify()
    assert cache.prune(dry_run=True).image_refs_removed == 0
    with pytest.raises(ImageNotFoundError):
        cache.get("one:1")
    with pytest.raises(InvalidReferenceError):
        cache.get("UPPER CASE")
    assert not cache.home.exists()


def test_get_list_and_inspect_append_nothing(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = types(cache)
    cache.list()
    cache.get("one:1")
    cache.inspect("one:1")
    cache.history("one:1")
    assert types(cache) == before


def test_nobody_else_can_read_the_home(cache: ImageCache) -> None:
    previous = os.umask(0)
    try:
        cache.load(archive(ONE))
    finally:
        os.umask(previous)
    for path in [cache.home, *cache.home.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix in (".json", ".db", ".lock", ".db-wal", ".db-shm"):
            assert mode & 0o077 == 0, path


def test_without_msb_a_home_of_msb_is_read_only(cache: ImageCache, no_msb: None, tmp_path: Path) -> None:
    cache.load(archive(ONE))
    (cache.home / "db/msb.db").touch()
    before = files_below(cache.home / "cache", locks=True)
    for write in (
        lambda: cache.load(archive(TWO)),
        lambda: cache.pull("one:1"),
        lambda: cache.remove("one:1"),
        cache.prune,
        lambda: cache.prune(orphans=True),
    ):
        with pytest.raises(HomeOwnedByMicrosandboxError, match="kept by msb, which is not installed"):
            write()
    assert cache.get("one:1").reference == "one:1"
    assert cache.history("one:1")
    cache.save("one:1", tmp_path / "saved.tar")
    assert files_below(cache.home / "cache", locks=True) == before


def test_no_log_is_made_in_a_home_of_msb(cache: ImageCache, no_msb: None) -> None:
    (cache.home / "db").mkdir(parents=True)
    (cache.home / "db/msb.db").touch()
    with pytest.raises(HomeOwnedByMicrosandboxError):
        cache.load(archive(ONE))
    assert cache.list() == []
    assert files_below(cache.home, locks=True) == {"db/msb.db": files_below(cache.home)["db/msb.db"]}


def test_verify_reads_what_it_finds(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    layout = Layout(cache.home)
    metadata = layout.metadata("docker.io/library/one:1")
    metadata.write_bytes(metadata.read_bytes().replace(b"Env", b"env"))
    layer_file = layout.layer(SHARED.diff_id)
    layer_file.write_bytes(bytes(layer_file.stat().st_size))
    problems = {(problem.problem, problem.kind) for problem in cache.verify().disk}
    assert problems == {("damaged", "metadata"), ("damaged", "layer")}


def test_a_cut_off_log_is_said(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.close()
    connection = sqlite3.connect(cache.home / "db/msb-cache.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_no_delete")
    connection.execute("DELETE FROM events WHERE seq > 7")
    connection.close()
    with pytest.raises(CorruptLogError, match="ends at event 7, but had 8"):
        cache.list()


def test_odd_bytes_in_names(cache: ImageCache, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"t\xff.tar")
    path.write_bytes(docker_archive(ONE))
    cache.load(path)
    assert cache.events(types=["image.pulled"])[0].data.source.name.endswith("t\\udcff.tar")  # type: ignore[attr-defined]
    with pytest.raises(InvalidConfigError):
        cache.hold("one:1", "sandbox:\udcff")
    with pytest.raises(OperationNotFoundError):
        cache.events(operation="\udcff")


def test_rebuild_mends_and_reports(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    assert cache.rebuild() == []
    connection = sqlite3.connect(cache.home / "db/msb-cache.db", isolation_level=None)
    connection.execute("UPDATE image SET last_used_at = 5")
    connection.close()
    assert len(cache.verify().differences) == 1
    (difference,) = cache.rebuild()
    assert (difference.table, difference.key) == ("image", ("docker.io/library/one:1",))
    assert cache.rebuild() == []
    assert cache.verify().sound


class TestDroppedUnclosed:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        new_ledger(tmp_path, some_events()).close()
        return tmp_path

    def warnings_of(self, drop: Callable[[], object]) -> list[str]:
        found: list[str] = []

        def note(message: Warning | str, category: type[Warning], *where: object) -> None:
            found.append(f"{category.__name__}: {message}")

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note  # a recorded warning would keep its cache
            drop()
            gc.collect()  # else a connection that was left open would warn at some later time
        return found

    def test_it_warns_once_and_closes(
        self, home: Path, open_connections: Callable[[], list[sqlite3.Connection]]
    ) -> None:
        def look() -> None:
            cache = ImageCache(home)
            assert cache.list(as_of="@3") != cache.list()  # the past has a connection of its own
            assert len(open_connections()) == 2

        assert self.warnings_of(look) == [f"ResourceWarning: unclosed image cache of {home}"]
        assert open_connections() == []

    def test_the_warning_names_the_line_that_dropped_it(self, home: Path) -> None:
        cache = ImageCache(home)
        cache.list()
        with pytest.warns(ResourceWarning, match="unclosed image cache") as caught:
            del cache
        assert caught[0].filename == __file__

    def test_nothing_is_said_where_nothing_is_open(self, home: Path, tmp_path: Path) -> None:
        def closed() -> None:
            with ImageCache(home) as cache:
                cache.list()

        def never_made() -> None:
            with pytest.raises(TypeError):
                ImageCache(5)  # type: ignore[arg-type]

        assert self.warnings_of(closed) == []
        assert self.warnings_of(never_made) == []
        assert self.warnings_of(lambda: ImageCache(home)) == []
        assert self.warnings_of(lambda: ImageCache(tmp_path / "none").list()) == []

    @pytest.mark.parametrize(
        "events",
        [
            lambda cache: cache.iter_events(),
            lambda cache: cache.iter_history(PYTHON),
            lambda cache: cache.follow(),
        ],
        ids=["events", "history", "follow"],
    )
    def test_what_reads_it_keeps_it(
        self, home: Path, events: Callable[[ImageCache], Generator[object]]
    ) -> None:
        reading = events(ImageCache(home))
        assert self.warnings_of(lambda: next(reading)) == []
        assert self.warnings_of(reading.close) == [f"ResourceWarning: unclosed image cache of {home}"]

    def test_another_thread_drops_it(self, home: Path) -> None:
        held = [ImageCache(home)]
        held[0].list()

        def drop() -> None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(held.clear).result()

        assert self.warnings_of(drop) == [f"ResourceWarning: unclosed image cache of {home}"]

    @pytest.mark.parametrize("place", ["cache", "builtins.cache"])
    def test_the_interpreter_ends(self, home: Path, place: str) -> None:
        program = (
            "import builtins, sys; from msb_cache import ImageCache\n"
            f"{place} = ImageCache(sys.argv[1]); {place}.list()"
        )
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", program, str(home)], capture_output=True, text=True
        )
        assert done.returncode == 0
        said = [line.partition(": ")[2] for line in done.stderr.splitlines()]
        assert [line for line in said if "tracemalloc" not in line] == [
            f"ResourceWarning: unclosed image cache of {home}"
        ]


class TestThreads:
    """One object, several threads; tests/reliability has a crowd of them."""

    def test_they_load_the_same_image_at_the_same_time(self, cache: ImageCache, tmp_path: Path) -> None:
        (tmp_path / "one.tar").write_bytes(docker_archive(ONE))
        together = threading.Barrier(4)

        def load(_: int) -> str | None:
            together.wait(10)
            return cache.load(tmp_path / "one.tar")[0].manifest_digest

        with ThreadPoolExecutor(4) as pool:
            assert {*pool.map(load, range(4))} == {ONE.digest}
        assert len(cache.events(types=["image.pulled"])) == 4
        assert len(cache.events(types=["manifest.added"])) == 1
        assert cache.rebuild() == []
        assert cache.doctor() == []

    @pytest.mark.parametrize(
        "made",
        [
            lambda cache: cache.iter_events(),
            lambda cache: cache.iter_history("one:1"),
            lambda cache: cache.follow(after=0),
            lambda cache: cache.replay(),
        ],
        ids=["events", "history", "follow", "replay"],
    )
    def test_an_iterator_goes_from_thread_to_thread(
        self, cache: ImageCache, made: Callable[[ImageCache], Generator[Any]]
    ) -> None:
        cache.load(archive(ONE))
        for _ in range(2):
            cache.use("one:1")
        expected = [next(found) for found in [made(cache)] for _ in range(3)]
        found = made(cache)
        seen = []
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(next, found).result())
            assert cache.list()  # this one reads meanwhile
        found.close()
        assert seen == expected

    def test_the_past_is_each_threads_own(self, cache: ImageCache) -> None:
        cache.load(archive(ONE))
        cache.load(archive(TWO))
        first = cache.events(types=["image.pulled"])[0].seq
        moments = [first, None, first - 1] * 10
        with ThreadPoolExecutor(6) as pool:
            found = pool.map(lambda moment: len(cache.list(as_of=moment)), moments)
            assert [*found] == [1, 2, 0] * 10

    def test_what_is_unusual_is_said_once(self, tmp_path: Path) -> None:
        new_ledger(tmp_path, some_events()).close()
        said: list[str] = []
        with ImageCache(tmp_path, note=said.append) as cache, ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda _: cache.list(as_of=0), range(20)):
                pass
        assert len(said) == 1

    def test_a_prune_against_loads(self, cache: ImageCache, tmp_path: Path) -> None:
        (tmp_path / "one.tar").write_bytes(docker_archive(ONE))
        (tmp_path / "two.tar").write_bytes(docker_archive(TWO))
        ended = threading.Event()

        def prune() -> None:
            while not ended.is_set():
                with suppress(BusyError):
                    cache.prune(orphans=True)

        with ThreadPoolExecutor(1) as pool:
            pruning = pool.submit(prune)
            for number in range(20):
                (handle,) = cache.load(tmp_path / ("one.tar", "two.tar")[number % 2])
                assert handle.layer_count == 2
            ended.set()
            pruning.result()
        cache.load(tmp_path / "one.tar")
        assert cache.doctor() == []
        assert cache.rebuild() == []


def test_a_context_is_what_the_caller_claims(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "team=build")
    with ImageCache(own_home, context={"ticket": "OPS-12", "api_token": "hunter2"}) as cache:
        cache.load(archive(ONE))
        claimed = {"team": "build", "ticket": "OPS-12", "api_token": ""}
        assert [event.actor.claimed for event in cache.events()] == [claimed] * len(cache.events())
        assert cache.events(actor="team=build") == cache.events()
    assert b"hunter2" not in Path(own_home, "db", "msb-cache.db").read_bytes()


def test_a_context_that_cannot_be_kept_makes_no_cache(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for context in ({"a": "x" * 257}, {"a b": ""}, {str(number): "" for number in range(17)}):
        with pytest.raises(InvalidConfigError):
            ImageCache(own_home, context=context)
    with pytest.raises(InvalidConfigError, match="not both"):
        ImageCache(own_home, actor=ACTOR, context={})
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "a")
    with pytest.raises(InvalidConfigError, match="MSB_CACHE_CONTEXT"):
        ImageCache(own_home)
    ImageCache(own_home, actor=ACTOR).close()
    assert not own_home.exists()


class TestSaying:
    """A reason and a context for one call."""

    def said(self, cache: ImageCache) -> tuple[str | None, Mapping[str, str] | None]:
        (last,) = cache.events(reverse=True, limit=1)
        return last.actor.reason, last.actor.claimed

    def test_each_method_that_changes_something(self, own_home: Path) -> None:
        calls: list[Callable[..., object]] = []
        with ImageCache(own_home, context={"job": "7"}) as cache:
            calls = [
                partial(cache.load, archive(ONE)),
                partial(cache.use, "one:1"),
                partial(cache.hold, "one:1", "sandbox:a"),
                partial(cache.release, "sandbox:a"),
                partial(cache.pin, "one:1"),
                partial(cache.unpin, "one:1"),
                partial(cache.remove, "one:1"),
                partial(cache.load, archive(TWO)),
                partial(cache.prune),
                partial(cache.load, archive(TWO)),
                lambda **said: cache.plan_prune().run(**said),
            ]
            for number, call in enumerate(calls):
                call(reason=f"reason {number}", context={"ticket": str(number)})
                assert self.said(cache) == (f"reason {number}", {"job": "7", "ticket": str(number)})
            cache.load(archive(ONE))
            assert self.said(cache) == (None, {"job": "7"})

    def test_a_given_actor_says_more_for_one_call(self, own_home: Path) -> None:
        with ImageCache(own_home, actor=ACTOR) as cache:
            cache.load(archive(ONE), reason="why")
            assert self.said(cache) == ("why", ACTOR.claimed)
            cache.use("one:1", context={"ticket": "1"})
            assert self.said(cache) == (ACTOR.reason, {**(ACTOR.claimed or {}), "ticket": "1"})

    @pytest.mark.parametrize(
        "given",
        [{"reason": "x" * 301}, {"context": {"no name": "1"}}, {"context": {f"n{i}": "" for i in range(17)}}],
        ids=["reason", "name", "names"],
    )
    def test_what_cannot_be_kept_is_refused_before_anything_is_done(
        self, cache: ImageCache, given: dict[str, Any]
    ) -> None:
        cache.load(archive(ONE))
        before = types(cache)
        with pytest.raises(InvalidConfigError):
            cache.remove("one:1", **given)
        assert types(cache) == before

    def test_no_secret_is_kept(self, cache: ImageCache) -> None:
        cache.load(archive(ONE), context={"api_token": "abc"})
        assert "abc" not in str(self.said(cache))

    def test_it_counts_for_its_own_thread_and_cache(self, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "a") as one, ImageCache(tmp_path / "b") as other:

            def note(sentence: str) -> None:
                other.load(archive(TWO))

            one.load(archive(ONE), reason="of one", note=note)
            other.load(archive(TWO))
            one._session.ledger.close()
            with one._session.saying("here", None), ThreadPoolExecutor(1) as pool:
                assert pool.submit(lambda: one._session.ledger.actor.reason).result() is None
                assert other._session.ledger.actor.reason is None
                assert one._session.ledger.actor.reason == "here"


def test_lists_have_the_same_references(cache: ImageCache) -> None:
    cache.load(
        archive(ONE, TWO), tag=["docker.io/library/alias:2", "localhost:5000/a/b", "index.docker.io/x/y"]
    )
    listed = sorted(handle.reference for handle in cache.list())
    assert listed == sorted(image.reference for image in cache.last_used())
    assert {*listed} >= {hold.reference for name in listed if (hold := cache.hold(name, "sandbox:a"))}
    assert {each.reference for each in cache.disk_usage().images} == {*listed}


def test_a_duration_is_text_or_a_timedelta(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    for least, count in ((None, 1), (timedelta(0), 1), ("0 days", 1), ("1 hour", 0), (timedelta(hours=1), 0)):
        assert len(cache.last_used(at_least=least)) == count
    for wrong in ("soon", timedelta(seconds=-1)):
        with pytest.raises(InvalidConfigError):
            cache.last_used(at_least=wrong)
    cache.load(archive(ONE), max_age="1 hour")
    with pytest.raises(InvalidConfigError, match="give one"):
        cache.load(archive(ONE), max_age="1 hour", max_age_ns=1)


def test_older_names_say_what_they_are_called_now(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    operation = cache.prune().operation
    assert operation is not None
    with pytest.warns(DeprecationWarning, match="idle is called last_used") as warned:
        assert cache.idle(at_least_ns=1) == cache.last_used(at_least=timedelta(microseconds=1))
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="deletions is called prunes"):
        assert cache.deletions(limit=1) == cache.prunes(limit=1)
    with pytest.warns(DeprecationWarning, match="deletion is called prune_report"):
        assert cache.deletion(operation) == cache.prune_report(operation)
    with pytest.warns(DeprecationWarning, match="max_age_ns is called max_age") as warned:
        cache.load(archive(ONE), max_age_ns=0)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "text", ["", " ", "A", "a:", "\0", "a" * 5000, "sha256:", "@5", "é", "a\nb", "..", "-"]
)
def test_what_makes_no_sense_is_an_error_of_ours(cache: ImageCache, text: str) -> None:
    """Whatever text a method gets: it works, or raises a MicrosandboxError."""
    cache.load(archive(ONE))
    asks: list[Callable[[], object]] = [
        *(partial(getattr(cache, name), text) for name in TAKING_TEXT),
        # No path has a NUL in it, which Python says itself.
        *(partial(getattr(cache, name), text) for name in TAKING_PATHS if text != "\0"),
        *(partial(cache.list, as_of=text), partial(cache.last_used, at_least=text)),
        *(partial(cache.hold, "one:1", text), partial(cache.hold, "one:1", "sandbox:a", until=text)),
        *(partial(cache.use, "one:1", holder=text), partial(cache.pull, "one:1", platform=text)),
        *(partial(cache.load, archive(TWO), tag=text), partial(cache.load, archive(TWO), platform=text)),
        *(partial(cache.events, **{name: text}) for name in FILTERS_OF_TEXT),  # type: ignore[arg-type]
        *(
            partial(cache.prune, PrunePolicy(unused_for=text)),
            partial(cache.prune, PrunePolicy(max_size=text)),
        ),
        partial(cache.test_policy, "one:1", CachePolicy(rules=(), keep=(text,))),
    ]
    for ask in asks:
        with suppress(MicrosandboxError):
            ask()


TAKING_TEXT = (
    *("list", "get", "inspect", "holders", "holds", "pins", "knows", "uses", "diff", "history", "why", "pin"),
    *("prune_report", "test_policy", "restore_plan", "verify", "use", "release", "unpin", "remove"),
    *("preview_remove", "restore"),
)
TAKING_PATHS = ("compare_layers", "compare_state", "policy", "load")
FILTERS_OF_TEXT = (
    *("since", "until", "types", "subject", "operation", "actor", "host", "holder", "digest", "grep"),
)


class TestProgress:
    """What the cache tells of work that can take long."""

    def test_a_load_from_a_pipe(self, own_home: Path) -> None:
        archive = docker_archive(ONE)
        reader, writer = os.pipe()
        os.write(writer, archive)
        os.close(writer)
        told: list[Activity] = []
        with open(reader, "rb") as pipe, ImageCache(own_home, progress=told.append) as cache:
            cache.load(pipe)
        read = [each for each in told if each.what == "reading the archive"]
        assert (read[0].done, read[0].total) == (0, None)
        assert max(each.done for each in read) == len(archive)
        built = [each for each in told if each.what == "building layers"]
        total = sum(len(each.blob) for each in ONE.layers)
        assert {each.total for each in built} == {total}
        assert max(each.done for each in built) == total

    def test_a_file_has_a_length(self, own_home: Path, tmp_path: Path) -> None:
        (tmp_path / "a.tar.gz").write_bytes(packed := gzip.compress(docker_archive(ONE)))
        told: list[Activity] = []
        with ImageCache(own_home, progress=told.append) as cache:
            cache.load(tmp_path / "a.tar.gz")
        read = [each for each in told if each.what == "reading the archive"]
        assert read[0].total == len(packed)

    def test_all_that_begins_is_over_in_the_end(self, own_home: Path, tmp_path: Path) -> None:
        (tmp_path / "a.tar").write_bytes(docker_archive(ONE))
        told: list[Activity] = []
        with ImageCache(own_home, progress=told.append) as cache:
            cache.load(tmp_path / "a.tar")
            cache.verify()
            cache.rebuild()
            cache.preview_prune()
            cache.prune()
        going: list[str] = []
        for each in told:
            if each.over:
                assert going.pop() == each.what
            elif each.what not in going:
                going.append(each.what)
        assert going == []
        assert {each.what for each in told} == {
            "reading the archive",
            "building layers",
            "checking the log",
            "comparing the index with the log",
            "looking at files",
            "looking for files that no image needs",
            "folding the log",
            "measuring what would go",
            "recording the decision",
            "deleting",
        }
        deleted = [each for each in told if each.what == "deleting"]
        assert deleted[0].unit == "files"
        assert max(each.done for each in deleted) == deleted[0].total

    def test_a_deletion_with_a_report_is_told_of_there(self, own_home: Path, tmp_path: Path) -> None:
        (tmp_path / "a.tar").write_bytes(docker_archive(ONE))
        told: list[Activity] = []
        with ImageCache(own_home, progress=told.append) as cache:
            cache.load(tmp_path / "a.tar")
            cache.prune(report=lambda progress: None)
        assert "deleting" not in {each.what for each in told}
