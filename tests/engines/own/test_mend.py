"""Files made anew in a cache of ours: what each is made of, and what keeps one from being made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache, RegistryOptions, failpoints
from msb_cache.artifacts import metadata
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import LockSet
from msb_cache.engines.digesting import digested
from msb_cache.engines.engine import Mending, MendRequest, Wrong
from msb_cache.engines.own import mend as mending
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from tests.engines.interrupting import MOVED, ONE, TWO, write
from tests.imagebuilder import image
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "home") as opened:
        for number, each in enumerate((ONE, TWO)):
            opened.load(write(tmp_path / f"{number}.tar", each))
        yield opened
    failpoints.observer = None


@pytest.fixture
def layout(cache: ImageCache) -> Layout:
    return Layout(cache.home)


def mend(cache: ImageCache, *wrong: Wrong, pull: bool = False) -> Mending:
    request = MendRequest(wrong=wrong, pull=pull, began_ns=time.monotonic_ns(), options=FAST)
    return cache._session.engine().mend(request)


def test_many_are_made_together(cache: ImageCache, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is one operation and one transaction."""
    monkeypatch.setattr(mending, "_AT_ONCE", 1)
    paths = [layout.artifact(kind, each.digest) for each in (ONE, TWO) for kind in ("fsmeta", "vmdk")]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    wrong = [Wrong(kind, each.digest, "missing") for each in (ONE, TWO) for kind in ("fsmeta", "vmdk")]  # type: ignore[arg-type]
    found = mend(cache, *wrong)
    assert {(each.kind, each.subject) for each in found.mended} == {each.artifact for each in wrong}
    assert found.why_not == {}
    assert [path.read_bytes() for path in paths] == before
    events = cache.events(types=["artifact.repaired"])
    assert len({event.operation for event in events}) == 2


def test_what_is_as_it_must_be_by_now(cache: ImageCache) -> None:
    """Another process was first: nothing is written, and nothing is recorded."""
    position = len(cache.events())
    found = mend(cache, *(Wrong(kind, ONE.digest, "missing") for kind in ("fsmeta", "vmdk")))  # type: ignore[arg-type]
    assert found == Mending([], {})
    assert len(cache.events()) == position


def test_a_reference_that_is_moved_while_its_files_are_waited_for(
    cache: ImageCache, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata is that of the image at which it points by now, and nothing is said of the other one."""
    cache.load(write(tmp_path / "again.tar", ONE), tag="other:1")
    path = layout.metadata("docker.io/library/one:1")
    path.unlink()

    def locks(*arguments: object) -> object:
        with ImageCache(cache.home) as other:
            other.load(write(tmp_path / "moved.tar", MOVED))
        return LockSet(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mending, "LockSet", locks)
    found = mend(cache, Wrong("metadata", "docker.io/library/one:1", "missing"))
    assert found == Mending([], {})
    assert metadata.decode(path).manifest_digest == MOVED.digest
    assert cache.events(types=["artifact.repaired"]) == []


def test_a_layer_that_is_not_what_it_was(cache: ImageCache, layout: Layout) -> None:
    """Its structure is sound, and its bytes are others: no merged tree is made of it."""
    path = layout.layer(ONE.layers[1].diff_id)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    layout.fsmeta(ONE.digest).unlink()
    found = mend(cache, Wrong("fsmeta", ONE.digest, "missing"))
    assert found.mended == []
    assert "is damaged" in found.why_not["fsmeta", ONE.digest]
    assert not layout.fsmeta(ONE.digest).exists()


def test_layers_that_were_not_made_here_prove_nothing(cache: ImageCache, layout: Layout) -> None:
    """A sound merged tree that is not theirs may be right, and they wrong."""
    with cache._ledger.write("01934f6a-0000-7000-8000-000000000009") as transaction:
        for each in ONE.layers:
            known = transaction.connection.execute(
                "SELECT digest FROM digest WHERE kind = 'layer' AND subject = ?", (each.diff_id,)
            ).fetchone()
            transaction.append([digested("layer", each.diff_id, known[0], "seen")])
    layout.fsmeta(ONE.digest).write_bytes(layout.fsmeta(TWO.digest).read_bytes())
    found = mend(cache, Wrong("fsmeta", ONE.digest, "other"))
    assert "cannot be told" in found.why_not["fsmeta", ONE.digest]


def test_a_manifest_that_goes_meanwhile(cache: ImageCache, layout: Layout) -> None:
    """What was made for it is taken away again, and nothing is recorded."""
    layout.vmdk(ONE.digest).unlink()

    def observer(step: str) -> None:
        if step == "mend.staged":
            failpoints.observer = None
            with ImageCache(cache.home) as other:
                other.remove("one:1")

    failpoints.observer = observer
    found = mend(cache, Wrong("vmdk", ONE.digest, "missing"))
    assert found.mended == []
    assert cache.events(types=["artifact.repaired"]) == []
    assert not layout.vmdk(ONE.digest).exists()


def test_references_that_move_while_it_is_fetched(cache: ImageCache, layout: Layout) -> None:
    """Their metadata would be of what they do not point at any more: all of it is taken back."""
    mine = image(ONE.layers, "mine:1", config={"Cmd": ["/mine"]})
    with RegistryServer() as server:
        cache.pull(server.add(mine), options=FAST)
        layout.metadata(f"{server.host}/app:1").unlink()

        def observer(step: str) -> None:
            if step == "add.published":
                failpoints.observer = None
                with (
                    ImageCache(cache.home) as other,
                    other._ledger.write("01934f6a-0000-7000-8000-000000000009") as transaction,
                ):
                    source = ev.Source(kind="archive", name="-")
                    moved = ev.ImagePulled(manifest_digest=mine.digest, changed=True, source=source)
                    transaction.append([NewEvent(moved, "docker.io/library/another:1")])

        failpoints.observer = observer
        found = mend(cache, Wrong("metadata", f"{server.host}/app:1", "missing"), pull=True)
    assert found.mended == []
    assert "changed while it was mended" in found.why_not["metadata", f"{server.host}/app:1"]
