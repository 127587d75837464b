"""Which program keeps a home: the engine by its name, and the choice when a home is made."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import get_args

import pytest

from msb_cache import (
    HomeOwnedByMicrosandboxError,
    Image,
    ImageCache,
    InvalidConfigError,
    LocalBackend,
    MsbProgramError,
)
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.choose import EngineChoice, engine_named
from msb_cache.eventstore.events import Engine
from msb_cache.home.ledger import Ledger
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive, sample


def test_each_name_of_the_log_has_its_engine(tmp_path: Path) -> None:
    ledger = Ledger(Layout(tmp_path))
    assert [engine_named(name, ledger).name for name in get_args(Engine)] == [*get_args(Engine)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "sample.tar"
    path.write_bytes(docker_archive(sample()))
    return path


@pytest.fixture
def fake(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
    """Return the fake msb, which msb-cache finds; its home, the default one, is not made yet."""
    fake = FakeMsb(tmp_path / "msb", own_home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    return fake


def loaded(
    archive: Path, home: Path | None = None, *, engine: EngineChoice | None = None
) -> tuple[bool, list[str]]:
    """Load an image; return whether msb keeps the home now, and what was said."""
    said: list[str] = []
    with ImageCache(home, engine=engine, note=said.append) as cache:
        cache.load(archive)
        assert [handle.reference for handle in cache.list()] == ["sample:1"]
        return cache.kept_by_msb, said


class TestNewHome:
    def test_the_default_home_is_of_an_msb_that_is_found(self, fake: FakeMsb, archive: Path) -> None:
        kept, (said,) = loaded(archive)
        assert kept
        assert fake.references() == {"sample:1"}
        assert said.startswith(f"{fake.home} is new and kept by msb ({fake.program})")
        assert loaded(archive) == (True, [])  # it is said once

    def test_without_an_msb_it_is_ours(self, own_home: Path, archive: Path) -> None:
        kept, (said,) = loaded(archive)
        assert not kept
        assert said.startswith(f"{own_home} is new and kept by msb-cache itself, for no msb is found here")
        assert loaded(archive) == (False, [])

    @pytest.mark.parametrize("name", ["msb-home", "other"])
    def test_a_home_that_is_named_is_ours(
        self, fake: FakeMsb, archive: Path, tmp_path: Path, name: str
    ) -> None:
        kept, (said,) = loaded(archive, tmp_path / name)
        assert not kept
        assert not fake.calls
        assert re.fullmatch(r".* is new and kept by msb-cache itself; `--engine msb` would .*", said)

    def test_unless_msb_is_asked_for(self, fake: FakeMsb, archive: Path, tmp_path: Path) -> None:
        kept, (said,) = loaded(archive, tmp_path / "other", engine="msb")
        assert kept
        assert "is new and kept by msb (" in said

    def test_our_own_engine_is_asked_for(self, fake: FakeMsb, archive: Path) -> None:
        assert loaded(archive, engine="own") == (False, [f"{fake.home} is new and kept by msb-cache itself"])
        assert not fake.calls

    def test_a_home_that_is_there_keeps_its_engine(
        self, own_home: Path, tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded(archive)
        fake = FakeMsb(tmp_path / "msb", own_home)
        monkeypatch.setenv("MSB_PATH", str(fake.program))
        assert loaded(archive) == (False, [])

    def test_one_whose_load_failed_is_not_made(self, own_home: Path, tmp_path: Path) -> None:
        said: list[str] = []
        with ImageCache(note=said.append) as cache, pytest.raises(Exception, match=r"no archive|cannot"):
            cache.load(tmp_path / "missing.tar")
        assert said == []
        assert not (own_home / "db" / "msb-cache.db").exists()

    def test_reading_makes_none(self, fake: FakeMsb) -> None:
        with ImageCache() as cache:
            assert cache.list() == []
            assert cache.prune().operation is None
            assert not cache.kept_by_msb
        assert not fake.home.exists()

    def test_the_asynchronous_face_has_the_home_of_msb(self, fake: FakeMsb, archive: Path) -> None:
        asyncio.run(Image.load(archive))
        assert fake.references() == {"sample:1"}

    def test_a_backend_of_another_home_is_ours(self, fake: FakeMsb, archive: Path, tmp_path: Path) -> None:
        asyncio.run(Image.load_local(LocalBackend(home=tmp_path / "other"), archive))
        assert not (tmp_path / "other" / "db" / "msb.db").exists()


class TestRefused:
    def test_our_own_engine_where_msb_keeps_the_home(self, fake: FakeMsb, archive: Path) -> None:
        fake("ls")
        with pytest.raises(HomeOwnedByMicrosandboxError, match=r"kept by msb .*leave `--engine own` out"):
            ImageCache(engine="own")

    def test_or_comes_to_keep_it(self, fake: FakeMsb, archive: Path) -> None:
        with ImageCache(engine="own") as cache:
            cache.load(archive)
            fake("ls")
            with pytest.raises(HomeOwnedByMicrosandboxError):
                cache.remove("sample:1")

    def test_msb_where_we_keep_it(self, fake: FakeMsb, archive: Path) -> None:
        loaded(archive, engine="own")
        with pytest.raises(InvalidConfigError, match="`msb-cache hand-over`"):
            ImageCache(engine="msb")

    def test_msb_where_there_is_none(self, archive: Path, tmp_path: Path) -> None:
        with (
            ImageCache(tmp_path / "other", engine="msb") as cache,
            pytest.raises(MsbProgramError, match="no msb is found that could keep this home"),
        ):
            cache.load(archive)
        assert not (tmp_path / "other").exists()

    def test_an_msb_that_makes_no_database(self, fake: FakeMsb, archive: Path) -> None:
        fake.fails("image ls", "error: no room")
        with ImageCache() as cache, pytest.raises(MsbProgramError, match=r"could not make .* no room"):
            cache.load(archive)

    def test_an_msb_that_is_none(self, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MSB_PATH", "/nonexistent")
        with ImageCache() as cache, pytest.raises(MsbProgramError, match="MSB_PATH names no program"):
            cache.load(archive)

    def test_what_is_no_engine(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfigError, match="'their' is no engine"):
            ImageCache(tmp_path, engine="their")  # type: ignore[arg-type]
