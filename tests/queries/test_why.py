"""Why something is here or gone, from the events that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache.errors import ImageNotFoundError, InvalidReferenceError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import state
from msb_cache.queries.why import (
    Fate,
    ImageReasons,
    LayerReasons,
    ManifestReasons,
    Reasons,
    Sharing,
    never_seen,
    why,
)
from tests.logs import digest, layer, manifest_added, new_ledger, pulled

A, B = "docker.io/library/a:1", "docker.io/library/b:1"
Asking = Callable[[str], Reasons]
X, Y = layer("x"), layer("y")
LIFE = [
    NewEvent(manifest_added([X, Y]), digest(1)),
    NewEvent(pulled(digest(1)), A),
    NewEvent(manifest_added([X]), digest(2)),
    NewEvent(pulled(digest(2)), B),
    NewEvent(ev.ImageUsed(manifest_digest=digest(1)), A),
    NewEvent(ev.ImageHeld(holder="sandbox:dev", reference=A), digest(1)),
]


@contextmanager
def asking(home: Path, events: list[NewEvent]) -> Iterator[Asking]:
    ledger = new_ledger(home, events)
    with ledger.read() as connection:
        assert connection is not None
        yield lambda target: why(connection, ledger.store(connection), target, state.load)


def test_an_image_that_is_here(tmp_path: Path) -> None:
    with asking(tmp_path, LIFE) as ask:
        found, other = ask("a:1"), ask(B)
    assert isinstance(found, ImageReasons)
    assert isinstance(other, ImageReasons)
    positions = [event and event.seq for event in (found.arrived, found.pointed, found.used, *found.holds)]
    assert positions == [3, None, 6, 7]
    assert found.shares == (Sharing("b:1", 1),)
    assert found.fate == Fate(False, "held", ("sandbox:dev",))
    assert (other.fate, other.holds, found.loss) == (Fate(True, "unused"), (), None)


def test_an_image_that_went(tmp_path: Path) -> None:
    gone = NewEvent(ev.ImageRemoved(manifest_digest=digest(2), cause="external"), B)
    with asking(tmp_path, [*LIFE, gone]) as ask:
        found = ask("b:1")
    assert isinstance(found, ImageReasons)
    assert found.loss is not None
    assert found.arrived is not None
    assert (found.here, found.arrived.seq, found.loss.event.seq) == (False, 5, 8)
    assert found.loss.deletion is not None
    assert (found.loss.deletion.counters.kind, found.loss.deletion.policy) == ("external", {})
    assert (found.loss.bytes, found.loss.layers_kept) == (None, 1)


def test_a_manifest_and_a_layer_by_any_of_their_digests(tmp_path: Path) -> None:
    with asking(tmp_path, LIFE) as ask:
        manifest, by_diff_id, by_blob = ask(digest(1)[:20]), ask(X.diff_id), ask(X.blob_digest[7:25])
        with pytest.raises(ImageNotFoundError, match="never seen a manifest or layer"):
            ask(digest("nothing"))
    assert isinstance(manifest, ManifestReasons)
    assert (manifest.references, manifest.earlier, manifest.added.seq) == (("a:1",), (), 2)
    assert isinstance(by_diff_id, LayerReasons)
    assert by_diff_id == by_blob
    assert [owner.digest for owner in by_diff_id.manifests] == [digest(1), digest(2)]
    assert by_diff_id.fate == Fate(False, "needed", (digest(1),))  # the other one goes


def test_a_pull_that_never_succeeded(tmp_path: Path) -> None:
    failed = ev.ImagePullFailed(reason="not there")
    with asking(tmp_path, [NewEvent(failed, A)]) as ask:
        found = ask("a:1")
    assert isinstance(found, ImageReasons)
    assert found.failure is not None
    assert (found.here, found.failure.seq, found.manifest_digest) == (False, 2, None)


@pytest.mark.parametrize(
    ("asked", "known", "offered"),
    [
        ("python:3.13", ["docker.io/library/python:3.12"], "did you mean python:3.12?"),
        ("pyhton:3.12", ["docker.io/library/python:3.12"], "did you mean python:3.12?"),
        (
            "python",
            ["docker.io/library/pythom:latest", "ghcr.io/far/away/python:1"],
            "did you mean ghcr.io/far/away/python:1 or pythom:latest?",
        ),
        ("python", ["docker.io/library/zzzzzz:9"], "seen python:latest"),
        ("sha256:" + "0" * 64, ["docker.io/library/python:3.12"], f"manifest or layer 'sha256:{'0' * 64}'"),
    ],
)
def test_names_like_it_are_offered(asked: str, known: list[str], offered: str) -> None:
    assert str(never_seen(asked, known)).endswith(offered)


def test_what_is_neither_a_name_nor_a_digest(tmp_path: Path) -> None:
    with asking(tmp_path, LIFE) as ask, pytest.raises(InvalidReferenceError):
        ask("UPPER CASE")
