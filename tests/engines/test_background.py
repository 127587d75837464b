from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.digests import digest_of
from msb_cache.artifacts.layout import Layout
from msb_cache.engines import background
from msb_cache.engines.background import Background
from msb_cache.errors import LogError
from msb_cache.home.ledger import Ledger
from msb_cache.projections.digests import Artifact, digests
from tests.fakemsb import FakeMsb
from tests.imagebuilder import file, image, layer

LARGE = layer([file("large", b"l")])
ONE = image([LARGE, layer([file("small", b"s")])], "one:1")
TWO = image([LARGE, layer([file("other", b"o")])], "two:1")


@pytest.fixture
def fake(own_home: Path, tmp_path: Path) -> FakeMsb:
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(ONE)
    Layout(fake.home).layer(LARGE.diff_id).write_bytes(os.urandom(3 << 20))  # the fake makes small ones
    with ImageCache(fake.home) as cache:
        cache.sync()
    return fake


@pytest.fixture
def ledger(fake: FakeMsb) -> Iterator[Ledger]:
    ledger = Ledger(Layout(fake.home))
    yield ledger
    ledger.close()


def known(ledger: Ledger) -> dict[Artifact, str]:
    with ledger.read() as connection:
        assert connection is not None
        return {artifact: row.digest for artifact, row in digests(connection).items()}


def expected(ledger: Ledger) -> dict[Artifact, str]:
    found: dict[Artifact, str] = {}
    for kind, subject, path in ledger.layout.files():
        if kind == "metadata":
            subject = next(name for name in NAMES if ledger.layout.metadata(name) == path)
        found[kind, subject] = digest_of(kind, path)
    return found


NAMES = ("docker.io/library/one:1", "docker.io/library/two:1")


def run(found: Background) -> int:
    """Go on until nothing is left to do; return in how many steps."""
    for number in range(1000):
        if number and found._reading is None and not found._waiting and not found._measured:
            return number
        found.step(1e-9)
    raise AssertionError("it never came to an end")


def test_all_files_bit_by_bit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_CHUNK", 1 << 20)
    each = Background(ledger)
    steps = run(each)
    assert known(ledger) == expected(ledger)
    assert len(known(ledger)) == 5
    assert steps >= 5 + 3  # the large one takes several
    each.close()


def test_what_comes_later(ledger: Ledger, fake: FakeMsb, monkeypatch: pytest.MonkeyPatch) -> None:
    each = Background(ledger)
    run(each)
    fake.load(TWO)
    with ImageCache(fake.home) as cache:
        cache.sync()
    run(each)
    assert len(known(ledger)) == 5  # it looks for new ones now and then only
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0)
    run(each)
    assert known(ledger) == expected(ledger)
    assert len(known(ledger)) == 9
    each.close()


def test_a_file_that_changes_while_it_is_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_CHUNK", 1 << 20)
    path = ledger.layout.layer(LARGE.diff_id)
    each = Background(ledger)
    while each._reading is None or each._reading._at < 2 << 20:
        each.step(1e-9)
    with path.open("r+b") as file:
        file.write(b"x")
    run(each)
    assert ("layer", LARGE.diff_id) not in known(ledger)
    assert len(known(ledger)) == 4
    each.close()


def test_what_is_no_file_is_left(ledger: Ledger) -> None:
    path = ledger.layout.layer(LARGE.diff_id)
    path.unlink()
    path.symlink_to("/etc/hostname")
    each = Background(ledger)
    run(each)
    assert len(known(ledger)) == 4
    each.close()


def test_it_records_what_it_has_when_it_ends(ledger: Ledger) -> None:
    each = Background(ledger)
    while len(each._measured) < 2:
        each.step(1e-9)
    assert known(ledger) == {}
    each.close()
    assert len(known(ledger)) == 2


def test_a_log_that_cannot_be_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise LogError("it cannot be written to")

    each = Background(ledger)
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "write", refused)
        with pytest.raises(LogError):
            run(each)
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0)
    each._seq = -1
    run(each)
    assert len(known(ledger)) == 5
    each.close()
