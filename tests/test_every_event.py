"""Every type of event, through all that is done with events: a forgotten place fails by the type's name."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.cli.describe import describe
from msb_cache.errors import LogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections.fold import _HANDLERS, IGNORED
from msb_cache.shapes import jsonable
from tests.logs import ACTOR, PYTHON, digest, manifest_added, pulled, ticking
from tests.samples import OPERATION, new_sample

EVERY = pytest.mark.parametrize("event", ev.EVENT_TYPES, ids=lambda event: str(event.type))


def before(event: type[ev.Event]) -> list[NewEvent]:
    """An image that what is tested can be about, and a deletion that it can be part of."""
    if event is ev.LogCreated:
        return []
    return [
        NewEvent(manifest_added([]), digest(1)),
        NewEvent(pulled(digest(1)), PYTHON),
        NewEvent(ev.DeletionStarted(kind="prune", policy={}), OPERATION),
    ]


def log_with(event: type[ev.Event], home: Path) -> Ledger:
    times = ticking()
    ledger = Ledger(Layout(home), actor=ACTOR, clock=lambda: next(times))
    for new in (*before(event), *([] if event is ev.LogCreated else [new_sample(event)])):
        with ledger.write(OPERATION) as transaction:
            transaction.append([new])
    if event is ev.LogCreated:
        with ledger.write(OPERATION) as transaction:
            transaction.append([NewEvent(pulled(digest(1)), PYTHON)])
    return ledger


@EVERY
def test_it_is_stored_folded_carried_replayed_and_told(event: type[ev.Event], tmp_path: Path) -> None:
    log_with(event, tmp_path / "home").close()
    with ImageCache(tmp_path / "home") as cache:
        assert cache.rebuild() == []  # which finishes the deletion first
        assert cache.verify().differences == []
        stored = cache.events()
        found = [each for each in stored if type(each.data) is event]
        assert event is ev.LogCreated or new_sample(event).event in [each.data for each in found]
        past = [[image.reference for image in cache.list(as_of=seq)] for seq in range(len(stored) + 1)]
        assert past[-1] == [image.reference for image in cache.list()]
        assert [step.event.seq for step in cache.replay()] == [each.seq for each in stored]
        assert {each.type for each in cache.events(types=[event.type])} == {event.type}
        exported = io.BytesIO()
        assert cache.export(exported) == len(stored)
    exported.seek(0)
    with ImageCache(tmp_path / "elsewhere") as copy:
        assert copy.import_log(exported).events == len(stored)
        assert copy.events() == stored
        assert copy.rebuild() == []

    line = describe(found[-1])
    assert line.what
    assert line.what != event.type
    assert jsonable(found[-1])["type"] == event.type


@EVERY
def test_the_fold_applies_or_ignores_it(event: type[ev.Event]) -> None:
    assert (event in _HANDLERS) != (event in IGNORED)


@EVERY
def test_it_declares_what_it_is_about(event: type[ev.Event]) -> None:
    assert "about" in vars(event)
    assert event.about in ev.About.__args__


@EVERY
def test_a_history_has_what_is_about_its_image(event: type[ev.Event], tmp_path: Path) -> None:
    log_with(event, tmp_path).close()
    with ImageCache(tmp_path) as cache:
        types = [each.type for each in cache.history(PYTHON)]
    expected = event.about in ("reference", "manifest", "image", "artifact") and event.in_history
    # A layer's outcome is part of it too, if its operation removed the image: not here.
    assert (event.type in types[1:] or types.count(event.type) > 1 or event is ev.ImagePulled) == expected


def test_an_event_in_no_catalogue_is_refused(tmp_path: Path) -> None:
    class Stranger(ev.ImageUsed, frozen=True, kw_only=True):
        """What a program made up."""

    class Odd(ev.Event, frozen=True, kw_only=True):
        """An event of a type of its own."""

        type = "image.odd"

    with Ledger(Layout(tmp_path), actor=ACTOR).write(OPERATION) as transaction:
        for event in (Stranger(manifest_digest=digest(1)), Odd()):
            with pytest.raises(LogError, match=f"{event.type} is in no catalogue"):
                transaction.append([NewEvent(event, PYTHON)])
        assert transaction.append([NewEvent(pulled(digest(1)), PYTHON)])[-1].seq == 2
