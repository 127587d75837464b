"""Homes of several releases of msb, and one that a newer release has migrated: both say the same of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.msb import schema
from msb_cache.msb.schema import TRIED
from tests.conftest import program_behind
from tests.imagebuilder import sample
from tests.peers.agreement import Agreement
from tests.peers.realmsb import Msb, copied, short_home
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.peer

RELEASES = ("0.6.18", "0.7.0", "0.7.11")


@pytest.fixture
def programs(require_peer: Callable[[str], str]) -> dict[str, str]:
    return {release: program_behind(require_peer(f"msb {release}")) for release in RELEASES}


@contextmanager
def beginning(program: str, archives: Path) -> Iterator[tuple[Msb, ImageCache]]:
    """Yield msb with a home that it has just made, and our cache of it."""
    with ExitStack() as stack:
        home = stack.enter_context(short_home())
        real = Msb(program, home, archives)
        real("image", "ls")
        yield real, stack.enter_context(ImageCache(home))


def course(real: Msb, both: Agreement) -> None:
    """Do a bit of everything, by msb and by us in turn."""
    cache = both.cache
    real.load("app")
    both.compare()
    real.load("two")
    real.load("next")  # as app:1
    both.compare()
    real.create("app:1", "dev")
    both.compare()
    real.boot("start", "dev", sandbox="dev")
    both.compare()
    cache.load(real.archives / "alone.tar")
    both.compare()
    with RegistryServer() as registry:
        name = f"{registry.host}/app:1"
        registry.add(sample())
        real("pull", "-q", "--insecure", name)
        both.compare()
        registry.add(sample(seed="newer"))
        cache.pull(name, policy="always")
        both.compare()
    both.compare(cache.remove("alone:1"))
    real("image", "rm", "example.org/team/two:2")
    both.compare()
    both.compare(cache.prune())
    real("rm", "dev")
    real.load("app")
    both.compare()
    both.look_closely()


@pytest.mark.parametrize("release", RELEASES)
def test_a_release(
    release: str, programs: dict[str, str], archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_PATH", programs[release])
    with beginning(programs[release], archives) as (real, cache):
        assert schema.read(real.home / "db" / "msb.db") == schema.MsbSchema(_newest(release), 0)
        course(real, Agreement(real, cache))
        assert cache.info().program_version == release
        assert cache.info().msb_schema_note is None


def test_a_home_that_a_newer_release_migrated(
    programs: dict[str, str], archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was known stays so; a first look at it later finds the same."""
    oldest, newest = programs[RELEASES[0]], programs[RELEASES[-1]]
    monkeypatch.setenv("MSB_PATH", newest)
    with beginning(oldest, archives) as (real, cache), short_home() as other:
        both = Agreement(real, cache)
        empty = both.seen
        real.load("app")
        real.load("two")
        real.create("app:1", "old")
        both.compare()
        real.program = newest
        real("ls")
        both.compare()
        assert cache.info().msb_schema == _newest("0.7.11")
        copied(real.home, other)
        for path in (other / "db").glob("msb-cache.db*"):
            path.unlink()
        with ImageCache(other) as adopting:
            first = Agreement(Msb(newest, other, archives), adopting)
            first.seen = empty
            first.compare()
        real("rm", "old")
        both.compare()
        course(real, both)


def _newest(release: str) -> str:
    """Return the newest migration of a release, by the dates in their names."""
    last = {"0.6.18": "m20260824", "0.7.0": "m20260910", "0.7.11": "m20261022"}[release]
    (found,) = (name for name in TRIED if name.startswith(last))
    return found
