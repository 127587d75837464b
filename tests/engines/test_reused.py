"""What a load or a pull reuses is looked at, if that was last done too long ago."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from msb_cache import CorruptArtifactError, DataRequest, ImageCache
from msb_cache.artifacts.digests import digest_of
from msb_cache.artifacts.layout import Layout
from msb_cache.engines import reused
from msb_cache.engines.digesting import digested
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from msb_cache.oci.registry.options import RegistryOptions
from tests.engines.interrupting import in_a_child
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive, file, image, layer, oci_archive
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=2, backoff=0.01)
BASE = layer([file("base", b"b" * 9000)], "gzip")
ONE = image([BASE, layer([file("one", b"1" * 9000)], "gzip")], "one:1")
TWO = image([BASE, layer([file("two", b"2" * 9000)], "gzip")], "two:1")


@pytest.fixture
def archives(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, each in (("one", ONE), ("two", TWO)):
        found[name] = tmp_path / f"{name}.tar"
        found[name].write_bytes(docker_archive(each))
    return found


@pytest.fixture
def cache(tmp_path: Path, archives: dict[str, Path]) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "home") as made:
        made.load(archives["one"])
        yield made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kinds of files are read."""
    kinds: list[str] = []
    digest_of = reused.digest_of

    def look(kind: str, path: Path) -> str:
        kinds.append(kind)
        return digest_of(kind, path)

    monkeypatch.setattr(reused, "digest_of", look)
    return kinds


def flip(path: Path) -> bytes:
    """Change a byte of a file's data, which nothing else tells; return what it was."""
    before = path.read_bytes()
    at = before.index(b"b" * 100)
    path.write_bytes(before[:at] + b"c" + before[at + 1 :])
    return before


def age(cache: ImageCache, seconds: float) -> None:
    """Let the files have been looked at so many seconds earlier."""
    cache.close()
    with closing(sqlite3.connect(Layout(cache.home).database)) as connection:
        connection.execute("UPDATE digest_check SET checked_at = checked_at - ?", (int(seconds * 1e9),))
        connection.commit()


def forget(cache: ImageCache) -> None:
    """Let the log be of a release that took no digests, as far as the index knows."""
    cache.close()
    with closing(sqlite3.connect(Layout(cache.home).database)) as connection:
        connection.execute("DELETE FROM digest")
        connection.execute("DELETE FROM digest_check")
        connection.commit()


def digests(cache: ImageCache) -> list[tuple[str, str]]:
    return [
        (event.data.kind, event.data.how)  # type: ignore[attr-defined]
        for event in cache.events(types=["artifact.digested"])
    ]


MONTH = 31 * 24 * 3600


@pytest.mark.parametrize(
    ("days", "max_age", "looks"),
    [(0, None, 0), (29, None, 0), (31, None, 4), (-1, None, 4), (1, 3600, 4), (0, 3600, 0), (400, 10**10, 0)],
)
def test_what_was_looked_at_lately_is_not_read(
    cache: ImageCache,
    archives: dict[str, Path],
    read: list[str],
    days: int,
    max_age: int | None,
    looks: int,
) -> None:
    age(cache, days * 24 * 3600)
    more = {} if max_age is None else {"max_age": timedelta(seconds=max_age)}
    cache.load(archives["one"], **more)
    assert len(read) == looks, read
    read.clear()
    cache.load(archives["one"], **more)
    assert read == []


def test_an_altered_layer_is_made_anew(cache: ImageCache, archives: dict[str, Path]) -> None:
    path = Layout(cache.home).layer(BASE.diff_id)
    before = flip(path)
    cache.load(archives["two"])
    assert path.read_bytes() != before  # it was looked at a moment ago
    age(cache, MONTH)
    notes: list[str] = []
    cache.load(archives["two"], note=notes.append)
    (note,) = notes
    assert note.startswith(f"the layer {BASE.diff_id[:19]} is not as it was made: its digest is sha256:")
    assert note.endswith("; it is made anew")
    assert path.read_bytes() == before
    assert cache.rebuild() == []
    assert cache.verify().sound


def test_what_a_check_found_is_looked_at_by_the_next_load(
    cache: ImageCache, archives: dict[str, Path]
) -> None:
    path = Layout(cache.home).layer(BASE.diff_id)
    before = flip(path)
    assert [problem.problem for problem in cache.verify(data=DataRequest()).disk] == ["altered"]
    cache.load(archives["one"])
    assert path.read_bytes() == before
    assert cache.verify(data=DataRequest()).sound


def test_what_has_no_digest_gets_it_as_first_seen(cache: ImageCache, archives: dict[str, Path]) -> None:
    before = len(digests(cache))
    forget(cache)
    cache.load(archives["one"])
    new = digests(cache)[before:]
    assert sorted(new) == [
        *[("fsmeta", "seen"), ("layer", "seen"), ("layer", "seen"), ("metadata", "made"), ("vmdk", "seen")],
    ]


def test_an_altered_fsmeta_or_vmdk_is_made_anew(cache: ImageCache, archives: dict[str, Path]) -> None:
    layout = Layout(cache.home)
    for path in (layout.fsmeta(ONE.digest), layout.vmdk(ONE.digest)):
        before = path.read_bytes()
        # Bytes that mean nothing: behind the device table, and at the end.
        changed = (
            before + b"# a comment\n" if path.suffix == ".vmdk" else before[:3000] + b"x" + before[3001:]
        )
        path.write_bytes(changed)
        age(cache, MONTH)
        cache.load(archives["one"])
        assert path.read_bytes() == before


class TestPull:
    @pytest.fixture
    def server(self) -> Iterator[RegistryServer]:
        with RegistryServer() as running:
            yield running

    @pytest.mark.parametrize("policy", ["missing", "always"])
    def test_a_cached_pull_mends_an_altered_layer(
        self, tmp_path: Path, server: RegistryServer, policy: str
    ) -> None:
        reference = server.add(ONE)
        with ImageCache(tmp_path / "pulled") as cache:
            cache.pull(reference, options=FAST)
            path = Layout(cache.home).layer(BASE.diff_id)
            before = flip(path)
            age(cache, MONTH)
            notes: list[str] = []
            pulled = cache.pull(reference, options=FAST, policy=policy, note=notes.append)  # type: ignore[arg-type]
            assert len(notes) == 1
            assert not pulled.recorded.data.changed  # type: ignore[attr-defined]
            assert path.read_bytes() == before
            assert cache.verify().sound

    def test_it_says_so_where_it_may_not_fetch(self, tmp_path: Path, server: RegistryServer) -> None:
        reference = server.add(ONE)
        with ImageCache(tmp_path / "pulled") as cache:
            cache.pull(reference, options=FAST)
            flip(Layout(cache.home).layer(BASE.diff_id))
            cache.pull(reference, policy="never")
            with pytest.raises(CorruptArtifactError, match="are not what they were, and the policy `never`"):
                cache.pull(reference, policy="never", max_age=timedelta(0))

    def test_a_cached_pull_remembers_that_it_looked(
        self, tmp_path: Path, server: RegistryServer, read: list[str]
    ) -> None:
        reference = server.add(ONE)
        with ImageCache(tmp_path / "pulled") as cache:
            cache.pull(reference, options=FAST)
            assert read == []
            age(cache, MONTH)
            cache.pull(reference, options=FAST)
            assert read == ["layer", "layer"]
            cache.pull(reference, options=FAST)
            assert read == ["layer", "layer"]


@pytest.mark.parametrize("step", ["add.journaled", "add.published", "add.committing"])
def test_killed_before_it_says_what_it_made(cache: ImageCache, archives: dict[str, Path], step: str) -> None:
    """The file that another program's took the place of stays, so what recovers says what its bytes are."""
    path = Layout(cache.home).layer(BASE.diff_id)
    ours = path.read_bytes()
    flip(path)
    ledger = Ledger(Layout(cache.home))
    with ledger.write(uuid7()) as transaction:  # as of another release's file
        transaction.append([digested("layer", BASE.diff_id, digest_of("layer", path), "seen")])
    ledger.close()
    path.write_bytes(path.read_bytes()[:-4096])  # so that the load makes it anew
    cache.close()

    def killed(at: str) -> None:
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def load(child: ImageCache, folder: Path) -> None:
        child.load(archives["one"])

    assert os.WTERMSIG(in_a_child(Path(cache.home), load, Path(), killed)) == signal.SIGKILL
    cache.release("sandbox:nobody")  # what writes recovers
    if step == "add.journaled":
        assert path.read_bytes() != ours
        return
    assert path.read_bytes() == ours
    assert digests(cache)[-1] == ("layer", "made")
    assert cache.verify(data=DataRequest()).sound
    assert cache.rebuild() == []


class TestInAHomeOfMsb:
    @pytest.fixture
    def fake(self, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
        fake = FakeMsb(tmp_path / "msb", own_home)
        fake.load(ONE)
        monkeypatch.setenv("MSB_PATH", str(fake.program))
        return fake

    def test_it_is_said(self, fake: FakeMsb, tmp_path: Path) -> None:
        (tmp_path / "one.tar").write_bytes(oci_archive(ONE))
        path = Layout(fake.home).layer(BASE.diff_id)
        notes: list[str] = []
        with ImageCache(fake.home) as cache:
            cache.load(tmp_path / "one.tar", note=notes.append)
            assert digests(cache) == [("layer", "seen"), ("layer", "seen")]
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            os.utime(path, (1, 1))  # long before msb pulled or loaded anything
            cache.load(tmp_path / "one.tar", note=notes.append)
            assert notes == []
            age(cache, MONTH)
            cache.load(tmp_path / "one.tar", note=notes.append)
            (note,) = notes
            assert "is not as it was seen" in note
            assert note.endswith("; `msb pull --force` of its image makes it anew")
            assert len(digests(cache)) == 2

    def test_what_msb_wrote_anew_is_known_anew(self, fake: FakeMsb, tmp_path: Path) -> None:
        (tmp_path / "one.tar").write_bytes(oci_archive(ONE))
        path = Layout(fake.home).layer(BASE.diff_id)
        notes: list[str] = []
        with ImageCache(fake.home) as cache:
            cache.load(tmp_path / "one.tar", note=notes.append)
            other = path.with_name("other")
            other.write_bytes(path.read_bytes()[:-1] + b"x")
            os.replace(other, path)
            age(cache, MONTH)
            cache.load(tmp_path / "one.tar", note=notes.append)
            (note,) = notes
            assert "was written anew by msb, as of event " in note
            assert digests(cache) == [("layer", "seen")] * 3

    def test_what_is_changed_where_it_is_was_not_changed_by_msb(self, fake: FakeMsb, tmp_path: Path) -> None:
        (tmp_path / "one.tar").write_bytes(oci_archive(ONE))
        path = Layout(fake.home).layer(BASE.diff_id)
        notes: list[str] = []
        with ImageCache(fake.home) as cache:
            cache.load(tmp_path / "one.tar", note=notes.append)
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            cache.load(tmp_path / "one.tar", note=notes.append, max_age=timedelta(0))
            (note,) = notes
            assert "is not as it was seen" in note


def test_a_layer_that_cannot_be_read_is_made_anew(
    cache: ImageCache, archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Layout(cache.home).layer(BASE.diff_id)
    inode = path.stat().st_ino

    def fails(kind: str, at: Path) -> str:
        if at == path:
            raise OSError(5, "Input/output error", os.fspath(at))
        return digest_of(kind, at)

    monkeypatch.setattr(reused, "digest_of", fails)
    notes: list[str] = []
    cache.load(archives["one"], max_age=timedelta(0), note=notes.append)
    assert [note for note in notes if "cannot be read (Input/output error); it is made anew" in note]
    assert path.stat().st_ino != inode
    assert cache.verify(data=DataRequest()).sound
