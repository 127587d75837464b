"""Lines of references: what lasted, by whom, and as much of it as a page can show."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.report import lives as room
from msb_cache.report.facts import ImageLife
from msb_cache.report.lives import lives
from tests.logs import PYTHON, digest, pulled
from tests.report.chronicles import START, cut_of

APP = "docker.io/library/app:1"
REMOVED = ev.ImageRemoved(manifest_digest=digest(1), cause="remove")


def spans(life: ImageLife) -> list[tuple[str, int, int | None, str]]:
    """Its spans, in seconds from the log's first reading on."""

    def seconds(ns: int | None) -> int | None:
        return None if ns is None else (ns - START) // 10**9

    return [(each.kind, seconds(each.since_ns) or 0, seconds(each.until_ns), each.by) for each in life.spans]


def test_removed_and_pulled_again_are_two_spans(tmp_path: Path) -> None:
    log = [NewEvent(event, PYTHON) for event in (pulled(digest(1)), REMOVED, pulled(digest(1)))]
    with cut_of(tmp_path, log) as (cut, _):
        (life,) = lives(cut)
    first, second = life.spans
    assert first.until_ns is not None
    assert first.until_ns < second.since_ns
    assert (first.ended_by, first.ended_how, second.until_ns) == ("alice@host", "remove", None)
    assert (life.reference, life.is_here, len(life.pulls), life.moves) == ("python:3.12", True, 2, ())


def test_what_was_over_before_is_left_out(tmp_path: Path) -> None:
    log = [
        NewEvent(pulled(digest(1)), PYTHON),
        NewEvent(REMOVED, PYTHON),
        NewEvent(pulled(digest(1)), APP),
        NewEvent(ev.ImageUsed(manifest_digest=digest(1)), APP),
        NewEvent(ev.ImageUsed(manifest_digest=digest(1)), APP),
    ]
    with cut_of(tmp_path, log, after=5) as (cut, _):
        (life,) = lives(cut)
        assert (life.reference, len(life.pulls), len(life.uses)) == ("app:1", 0, 1)


def test_a_cut_knows_nothing_of_what_comes(tmp_path: Path) -> None:
    log = [
        NewEvent(pulled(digest(1)), PYTHON),
        NewEvent(ev.ImageHeld(holder="sandbox:x"), digest(1)),
        NewEvent(pulled(digest(2)), PYTHON),
        NewEvent(REMOVED, PYTHON),
    ]
    with cut_of(tmp_path, log, until=3) as (cut, _):
        (life,) = lives(cut)
    assert (life.is_here, life.manifest_digest, life.moves) == (True, digest(1), ())
    assert [(kind, until, by) for kind, _, until, by in spans(life)] == [
        ("here", None, "alice@host"),
        ("hold", None, "sandbox:x"),
    ]


def test_holds_belong_to_what_points_there_as_long_as_it_does(tmp_path: Path) -> None:
    """Two references; one moves on, so that the hold is the other's alone."""
    log = [
        NewEvent(pulled(digest(1)), PYTHON),
        NewEvent(pulled(digest(1)), APP),
        NewEvent(ev.ImageHeld(holder="sandbox:x"), digest(1)),
        NewEvent(pulled(digest(2), previous=digest(1)), PYTHON),
        NewEvent(ev.ImageReleased(holder="sandbox:x"), digest(1)),
    ]
    with cut_of(tmp_path, log) as (cut, _):
        app, python = lives(cut)
        moved, released = cut.chronicle.at_ns(5), cut.chronicle.at_ns(6)
    (hold,) = [span for span in python.spans if span.kind == "hold"]
    assert hold.until_ns == moved == python.moves[0]
    (hold,) = [span for span in app.spans if span.kind == "hold"]
    assert hold.until_ns == released


def test_pins_of_references_and_digests_and_their_ends(tmp_path: Path) -> None:
    end = START + 10**15
    log = [
        NewEvent(pulled(digest(1)), PYTHON),
        NewEvent(ev.ImagePinned(until_ns=end), PYTHON),
        NewEvent(ev.ImagePinned(), digest(1)),
        NewEvent(ev.ImagePinned(), PYTHON),
        NewEvent(ev.ImageUnpinned(), PYTHON),
    ]
    with cut_of(tmp_path, log) as (cut, _):
        (life,) = lives(cut)
        replaced, ended = cut.chronicle.at_ns(5), cut.chronicle.at_ns(6)
    pins = [span for span in life.spans if span.kind == "pin"]
    assert [(each.until_ns, each.by) for each in pins] == [
        (replaced, "alice@host"),
        (None, "alice@host"),
        (ended, "alice@host"),
    ]
    with cut_of(tmp_path / "then", log[:2]) as (cut, _):
        assert lives(cut)[0].spans[1].until_ns == end


def test_boots_are_spans_and_not_uses(tmp_path: Path) -> None:
    boot = ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:x", run="run:1")
    ended = ev.ImageUseEnded(manifest_digest=digest(1), run="run:1", how="ended")
    log = [NewEvent(event, PYTHON) for event in (pulled(digest(1)), boot, ended)]
    with cut_of(tmp_path, log) as (cut, _):
        (life,) = lives(cut)
    assert (spans(life)[1][0], spans(life)[1][3], life.uses) == ("run", "sandbox:x", ())
    assert life.spans[1].until_ns is not None


def test_a_spelling_that_comes_to_be_known_is_the_same_image(tmp_path: Path) -> None:
    """What msb-cache pulled is seen in msb's index, under the name that was typed there."""
    seen = ev.ImagePulled(
        manifest_digest=digest(1),
        changed=False,
        source=ev.Source(kind="microsandbox"),
        row="image_ref:1",
        spelling="python:3.12",
    )
    with cut_of(tmp_path, [NewEvent(pulled(digest(1)), PYTHON), NewEvent(seen, PYTHON)]) as (cut, _):
        (life,) = lives(cut)
    assert [span.kind for span in life.spans] == ["here"]
    assert (life.is_here, len(life.pulls), life.left_out) == (True, 2, 0)


def test_of_very_many_most_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 9
    monkeypatch.setattr(room, "MOST", most)
    used = NewEvent(ev.ImageUsed(manifest_digest=digest(1)), PYTHON)
    again = [NewEvent(REMOVED, PYTHON), NewEvent(pulled(digest(1)), PYTHON)]
    log = [NewEvent(pulled(digest(1)), PYTHON), *[used] * (most + 10), *again * (most + 1)]
    with cut_of(tmp_path, log) as (cut, _):
        (life,) = lives(cut)
    assert [len(each) for each in (life.spans, life.pulls, life.uses)] == [most] * 3
    assert life.left_out == 10 + 2 + 2
    assert life.spans[-1].until_ns is None


def test_what_takes_most_comes_first(tmp_path: Path) -> None:
    small, large = (
        ev.ManifestAdded(layers=(ev.Layer(diff_id=digest(n), blob_digest=digest(n), erofs_size=size),))
        for n, size in ((1, 10), (2, 20))
    )
    log = [
        NewEvent(small, digest(1)),
        NewEvent(pulled(digest(1)), APP),
        NewEvent(large, digest(2)),
        NewEvent(pulled(digest(2)), PYTHON),
    ]
    with cut_of(tmp_path, log) as (cut, _):
        assert [each.reference for each in lives(cut)] == ["python:3.12", "app:1"]
