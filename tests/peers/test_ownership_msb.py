"""Root at work in the home of a user who runs msb there: msb runs as the user, to whom everything belongs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.peers.realmsb import copied, short_home
from tests.test_ownership import GROUP, OWNER, check_owned, owner

pytestmark = pytest.mark.peer


@pytest.fixture
def home(msb: str, require_peer: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that is not there yet, in a folder of the user's, who can run the msb that MSB_PATH names."""
    require_peer("root")
    require_peer("setpriv")
    package = "lib/python*/site-packages/microsandbox/_bundled/bin/msb"
    with short_home() as home:
        program = home.with_name("msb")
        shutil.copy(next(Path(msb).parent.parent.glob(package), Path(msb)), program)
        os.chown(home.parent, OWNER, GROUP)
        home.parent.chmod(0o755)
        monkeypatch.setenv("MSB_PATH", str(program))
        yield home


def users_msb(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [home.with_name("msb"), *arguments],
        user=OWNER,
        group=GROUP,
        extra_groups=[],
        env={"MSB_HOME": str(home), "MSB_BACKEND": "local", "HOME": "/", "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    check_owned(home)
    return done.stdout


def test_root_works_beside_a_user_of_msb(home: Path, prepared: Path, archives: Path) -> None:
    copied(prepared, home)
    subprocess.run(["chown", "-R", f"{OWNER}:{GROUP}", home], check=True)
    with ImageCache(home) as cache:
        assert cache.sync().events
        check_owned(home)
        cache.load(archives / "next.tar", tag="next:1")
        check_owned(home)
        cache.remove("next:1")
        cache.remove("alone:1")
    check_owned(home)
    assert "app:1" in users_msb(home, "image", "ls")
    shutil.copy(archives / "alone.tar", home.parent)
    users_msb(home, "load", "-q", "-i", str(home.with_name("alone.tar")))
    assert "alone:1" in owner(home, "list -q", "hold alone:1 sandbox:mine", "release sandbox:mine", "sync")
    owner(home, "prune --yes")
    assert "alone:1" not in users_msb(home, "image", "ls")


def test_a_home_that_root_has_msb_make_is_the_users(home: Path, archives: Path) -> None:
    with ImageCache(home, engine="msb") as cache:
        cache.load(archives / "alone.tar")
    check_owned(home)
    assert "alone:1" in users_msb(home, "image", "ls")
    users_msb(home, "image", "rm", "alone:1")
    assert owner(home, "list -q") == []
