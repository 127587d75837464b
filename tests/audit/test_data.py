"""Whatever is done to the bytes of a file is found by reading it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from msb_cache import DataProgress, DataRequest, ImageCache, failpoints
from msb_cache.artifacts.digests import digest_of
from msb_cache.artifacts.hashing import Hashing
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.audit import data as checked
from msb_cache.audit.data import DataCheck
from msb_cache.engines.digesting import digested
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from tests.engines.interrupting import in_a_child
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive, file, image, layer

BASE = layer([file("etc/name", b"base\n"), file("base", b"b" * 5000)])
A = image([BASE, layer([file("a", b"a" * 5000)])], "a:1")
B = image([BASE, layer([file("b", b"b" * 5000)])], "b:1")
ALL = DataRequest()
CUTS = int(os.environ.get("MSB_CACHE_TEST_CUTS", "2"))
SEED = random.Random().randrange(2**32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    with ImageCache(folder / "home") as cache:
        for each in (A, B):
            (folder / "image.tar").write_bytes(docker_archive(each))
            cache.load(folder / "image.tar")
    return folder / "home"


@pytest.fixture
def cache(prepared: Path, tmp_path: Path) -> Iterator[ImageCache]:
    # At the same place as it was made in: a VMDK names it.
    aside = tmp_path / "aside"
    shutil.copytree(prepared, aside, symlinks=True)
    with ImageCache(prepared) as cache:
        yield cache
    shutil.rmtree(prepared)
    shutil.move(aside, prepared)


def files_of(home: Path) -> dict[str, Path]:
    layout = Layout(home)
    return {
        "metadata": layout.metadata("docker.io/library/a:1"),
        "fsmeta": layout.fsmeta(A.digest),
        "vmdk": layout.vmdk(A.digest),
        "layer": layout.layer(A.layers[1].diff_id),
    }


def read(cache: ImageCache, request: DataRequest = ALL) -> DataCheck:
    found = cache.verify(data=request).data
    assert found is not None
    return found


def replaced(path: Path) -> None:
    """Put another file in the place of one, as msb does."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[:-1] + b"x")
    os.replace(other, path)


def problems(cache: ImageCache) -> list[tuple[str, str]]:
    return [(problem.problem, problem.kind) for problem in cache.verify(data=ALL).disk]


def sql(cache: ImageCache, statement: str) -> None:
    cache.close()
    with closing(sqlite3.connect(Layout(cache.home).database)) as connection:
        connection.execute(statement)
        connection.commit()


def test_all_is_read_and_as_it_was_made(cache: ImageCache) -> None:
    steps: list[DataProgress] = []
    events = len(cache.events())
    found = read(cache, DataRequest(progress=steps.append))
    total = sum(path.stat().st_size for _, _, path in Layout(cache.home).files())
    assert (found.files, found.bytes, found.left_out) == (9, total, 0)
    assert (found.digested, found.undigested, found.rewritten, found.not_recorded) == ([], [], {}, None)
    assert [step.files for step in steps] == [*range(1, 10)]
    assert (steps[-1].bytes, steps[-1].total_bytes, steps[-1].total_files) == (total, total, 9)
    assert len(cache.events()) == events
    assert cache.verify().data is None


@pytest.mark.parametrize("kind", ["metadata", "fsmeta", "vmdk", "layer"])
def test_any_byte_of_any_file(cache: ImageCache, kind: str) -> None:
    """A few by chance; every one with MSB_CACHE_TEST_CUTS=500."""
    path = files_of(Path(cache.home))[kind]
    whole = path.read_bytes()
    chance = random.Random(f"{SEED} {kind}")
    positions = range(len(whole))
    if CUTS < 100:
        positions = sorted({0, len(whole) - 1, *chance.sample(range(len(whole)), 8)})  # type: ignore[assignment]
    for at in positions:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        found = problems(cache)
        assert kind in {each for _, each in found}, (SEED, at, found)
    path.write_bytes(whole)
    assert problems(cache) == []


@pytest.mark.parametrize("kind", ["metadata", "fsmeta", "vmdk", "layer"])
@pytest.mark.parametrize("change", ["cut", "longer by a block", "longer by a byte", "empty"])
def test_another_length(cache: ImageCache, kind: str, change: str) -> None:
    path = files_of(Path(cache.home))[kind]
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.truncate({"cut": size - 1, "longer by a block": size + 4096, "empty": 0}.get(change, size + 1))
    assert kind in {each for _, each in problems(cache)}


def test_two_exchanged(cache: ImageCache) -> None:
    layout = Layout(cache.home)
    one, other = (layout.layer(each.layers[1].diff_id) for each in (A, B))
    assert one.stat().st_size == other.stat().st_size
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    found = {(problem.problem, problem.path) for problem in cache.verify(data=ALL).disk}
    assert found >= {("altered", one), ("altered", other)}


def test_what_is_said_of_an_altered_file(cache: ImageCache) -> None:
    path = files_of(Path(cache.home))["layer"]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"a" * 4000, b"c" * 4000))
    assert cache.verify().sound
    found = cache.verify(data=ALL)
    assert not found.sound
    (problem,) = found.disk
    assert (problem.problem, problem.path, problem.references) == (
        *("altered", path),
        ("docker.io/library/a:1",),
    )
    (event,) = (
        event for event in cache.events(types=["artifact.digested"]) if event.subject in A.layers[1].diff_id
    )
    assert (problem.detail or "").endswith(f"was {event.data.digest} when it was made (event {event.seq})")  # type: ignore[attr-defined]


def test_the_log_is_believed_and_not_the_index(cache: ImageCache) -> None:
    path = files_of(Path(cache.home))["layer"]
    path.write_bytes(path.read_bytes().replace(b"a" * 4000, b"c" * 4000))
    with Hashing() as hashing:
        digest = hashing.digest("fs-verity", path)
    sql(cache, f"UPDATE digest SET digest = '{digest}' WHERE subject = '{A.layers[1].diff_id}'")
    found = cache.verify(data=ALL)
    assert ("altered", path) in {(problem.problem, problem.path) for problem in found.disk}


class TestFirstSeen:
    """What msb wrote has no digest yet; nor what an earlier release did."""

    @pytest.fixture
    def fake(self, own_home: Path, tmp_path: Path) -> FakeMsb:
        fake = FakeMsb(tmp_path / "msb", own_home)
        fake.load(A)
        return fake

    def test_what_has_no_digest_gets_it(self, fake: FakeMsb) -> None:
        with ImageCache(fake.home) as cache:
            found = read(cache)
            assert sorted(found.digested) == sorted(path for _, _, path in Layout(fake.home).files())
            assert {event.data.how for event in cache.events(types=["artifact.digested"])} == {"seen"}  # type: ignore[attr-defined]
            assert cache.verify().sound
            assert cache.rebuild() == []
            again = read(cache)
            assert (again.files, again.digested) == (found.files, [])

    def test_a_file_that_is_wrong_gets_none(self, fake: FakeMsb) -> None:
        path = Layout(fake.home).vmdk(A.digest)
        path.write_bytes(b"no descriptor")
        with ImageCache(fake.home) as cache:
            cache.sync()
            found = cache.verify(data=ALL)
            assert found.data is not None
            assert path not in found.data.digested
            assert [problem.path for problem in found.disk if problem.kind == "vmdk"] == [path]

    def test_it_is_found_again_when_it_changes(self, fake: FakeMsb) -> None:
        path = Layout(fake.home).layer(A.layers[1].diff_id)
        with ImageCache(fake.home) as cache:
            read(cache)
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            os.utime(path, (1, 1))
            (problem,) = cache.verify(data=ALL).disk
            assert (problem.problem, problem.path) == ("altered", path)
            assert "when it was first seen (event" in (problem.detail or "")

    def test_what_msb_wrote_anew_is_said_once(self, fake: FakeMsb) -> None:
        path = Layout(fake.home).layer(A.layers[1].diff_id)
        with ImageCache(fake.home) as cache:
            read(cache)
            fake.load(A)
            replaced(path)
            found = cache.verify(data=ALL)
            assert found.sound
            assert found.data is not None
            ((rewritten, seq),) = found.data.rewritten.items()
            (event,) = (event for event in cache.events() if event.seq == seq)
            assert (rewritten, event.subject) == (path, "docker.io/library/a:1")
            assert read(cache).rewritten == {}

    def test_a_home_that_cannot_be_written_to(self, fake: FakeMsb, monkeypatch: pytest.MonkeyPatch) -> None:
        with ImageCache(fake.home) as cache:
            cache.sync()

            def refused(*_: object, **__: object) -> None:
                raise checked.LogError("it cannot be written to")

            monkeypatch.setattr(cache._ledger, "write", refused)
            found = read(cache)
            assert (found.digested, found.undigested) == ([], [])
            assert (found.files, found.not_recorded) == (5, "it cannot be written to")


class TestWhich:
    def ages(self, cache: ImageCache, **ages: int) -> None:
        """Let the files of a kind have been read so many days ago."""
        read(cache)
        for kind, days in ages.items():
            before = days * 24 * 3600 * 10**9
            sql(cache, f"UPDATE digest_check SET checked_at = checked_at - {before} WHERE kind = '{kind}'")

    def order(self, cache: ImageCache, request: DataRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        kinds: list[str] = []
        measured = checked._measured

        def look(items: list[checked._Item]) -> object:
            kinds.extend(item.artifact[0] for item in items)
            return measured(items)

        monkeypatch.setattr(checked, "_measured", look)
        read(cache, request)
        monkeypatch.undo()
        return kinds

    def test_those_not_read_for_longest_come_first(
        self, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.ages(cache, layer=3, vmdk=5, metadata=4)
        order = self.order(cache, ALL, monkeypatch)
        assert order == ["vmdk"] * 2 + ["metadata"] * 2 + ["layer"] * 3 + ["fsmeta"] * 2

    def test_what_was_read_lately_is_left_out(
        self, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.ages(cache, layer=3, vmdk=5, metadata=-5)
        day = 24 * 3600 * 10**9
        # That it was read in five days' time says nothing.
        order = self.order(cache, DataRequest(max_age_ns=4 * day), monkeypatch)
        assert order == ["vmdk"] * 2 + ["metadata"] * 2
        found = read(cache, DataRequest(max_age_ns=2 * day))
        assert (found.files, found.left_out) == (3, 6)

    def test_samples_come_to_all_in_turn(self, cache: ImageCache) -> None:
        sql(cache, "DELETE FROM digest_check")
        counts = []
        for _ in range(20):
            found = read(cache, DataRequest(sample=0.2))
            counts.append(found.files)
            assert found.files + found.left_out == 9
            if found.oldest_ns is not None:
                break
        assert 9 <= sum(counts) <= 14, counts
        assert max(counts) < 9

    def test_a_check_that_is_broken_off_goes_on_the_next_time(self, cache: ImageCache) -> None:
        sql(cache, "DELETE FROM digest_check")

        def stop(progress: DataProgress) -> None:
            if progress.files == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.verify(data=DataRequest(progress=stop))
        found = read(cache, DataRequest(max_age_ns=3600 * 10**9))
        assert (found.files, found.left_out) == (5, 4)
        assert found.oldest_ns is not None


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Do something once when a step is reached."""

    def when(step: str, do: Callable[[], None]) -> None:
        def observer(reached: str) -> None:
            if reached == step:
                failpoints.observer = None
                do()

        failpoints.observer = observer

    yield when
    failpoints.observer = None


def test_a_file_that_is_made_anew_meanwhile(
    cache: ImageCache, tmp_path: Path, at: Callable[[str, Callable[[], None]], None]
) -> None:
    path = files_of(Path(cache.home))["layer"]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"a" * 4000, b"c" * 4000))
    (tmp_path / "a.tar").write_bytes(docker_archive(A))

    def load() -> None:
        with ImageCache(cache.home) as other:
            other.load(tmp_path / "a.tar", max_age=timedelta(0))

    at("verify.measured", load)
    found = cache.verify(data=ALL)
    assert path.read_bytes() == whole
    assert [problem for problem in found.disk if problem.path != path] == []
    assert cache.verify(data=ALL).sound


def test_a_file_that_goes_meanwhile(cache: ImageCache, at: Callable[[str, Callable[[], None]], None]) -> None:
    def remove() -> None:
        with ImageCache(cache.home) as other:
            other.remove("a:1")

    at("verify.measured", remove)
    assert cache.verify(data=ALL).sound
    assert read(cache).files == 5


def test_notes_of_files_that_are_gone_go(cache: ImageCache) -> None:
    read(cache)
    cache.remove("a:1")
    read(cache)
    assert len(noted(cache)) == 5


def noted(cache: ImageCache) -> dict[str, int | None]:
    cache.close()
    with closing(sqlite3.connect(Layout(cache.home).database)) as connection:
        rows = connection.execute("SELECT kind || subject, checked_at FROM digest_check")
        return dict(rows.fetchall())


def test_an_altered_file_is_looked_at_in_each_sample_and_keeps_none_from_the_others(
    cache: ImageCache,
) -> None:
    read(cache)
    paths = [Layout(cache.home).layer(each.layers[1].diff_id) for each in (A, B)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    found: set[Path] = set()
    for number in range(12):
        disk = cache.verify(data=DataRequest(sample=0.1)).disk
        assert found <= {problem.path for problem in disk}, number
        found = {problem.path for problem in disk}
    assert found == {*paths}
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1] + b"\0")


def test_nothing_is_added_to_a_log_that_is_not_sound(cache: ImageCache) -> None:
    path = files_of(Path(cache.home))["layer"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    sql(cache, "DROP TRIGGER events_no_update")
    sql(cache, "UPDATE events SET actor = '{}' WHERE seq = 2")
    before = noted(cache)
    found = cache.verify(data=ALL)
    assert found.data is not None
    assert found.data.not_recorded == "the log is not sound"
    assert ("altered", path) in {(problem.problem, problem.path) for problem in found.disk}
    assert noted(cache) == before


def test_a_log_that_is_busy_for_a_moment_is_written_later(
    cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(cache, "DELETE FROM digest_check")
    monkeypatch.setattr(checked, "_BATCH_SECONDS", 0)
    write, calls = cache._ledger.write, list[int]()

    def busy(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) <= 3:
            raise checked.BusyError("another process is writing")
        return write(*arguments, **named)

    monkeypatch.setattr(cache._ledger, "write", busy)
    found = read(cache)
    assert (found.files, found.not_recorded) == (9, None)
    assert len(noted(cache)) == 9


def test_a_file_that_another_process_works_with_is_not_called_altered(cache: ImageCache) -> None:
    path = files_of(Path(cache.home))["layer"]
    replaced(path)
    with Lock(lock_path(path)) as lock:
        assert lock.acquire()
        found = read(cache)
        assert found.busy == [path]
    assert [problem.path for problem in cache.verify(data=ALL).disk] == [path]


def test_what_a_killed_load_left_is_settled_first(cache: ImageCache, tmp_path: Path) -> None:
    """Its files are others than the log knows, until it is said what they are."""
    path = files_of(Path(cache.home))["layer"]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"a" * 4000, b"c" * 4000))
    ledger = Ledger(Layout(cache.home))
    with ledger.write(uuid7()) as transaction:  # as of another release's file
        known = digested("layer", A.layers[1].diff_id, digest_of("layer", path), "seen")
        transaction.append([known])
    ledger.close()
    path.write_bytes(path.read_bytes()[:-4096])
    (tmp_path / "a.tar").write_bytes(docker_archive(A))
    cache.close()

    def killed(at: str) -> None:
        if at == "add.published":
            os.kill(os.getpid(), signal.SIGKILL)

    def load(child: ImageCache, folder: Path) -> None:
        child.load(tmp_path / "a.tar")

    assert os.WTERMSIG(in_a_child(Path(cache.home), load, Path(), killed)) == signal.SIGKILL
    assert path.read_bytes() == content
    assert cache.verify(data=ALL).sound


def test_a_pipe_in_the_place_of_a_layer(cache: ImageCache) -> None:
    path = files_of(Path(cache.home))["layer"]
    path.unlink()
    os.mkfifo(path)
    assert ("missing", "layer") in problems(cache)
    path.unlink()


def test_another_file_in_its_place_is_no_file(cache: ImageCache) -> None:
    path = files_of(Path(cache.home))["layer"]
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert ("missing", "layer") in problems(cache)
