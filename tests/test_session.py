"""An opened home: which engine it has, asked anew each time, and the index now and as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import InvalidConfigError
from msb_cache.projections import images
from msb_cache.session import Session
from tests.logs import ACTOR, PYTHON, new_ledger, some_events, ticking

NOW = 1_900_000_000 * 10**9


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Session, list[str]]]:
    new_ledger(tmp_path, some_events()).close()
    said: list[str] = []
    session = Session(Layout(tmp_path), actor=ACTOR, clock=lambda: NOW, note=said.append, sync=False)
    with closing(session):
        yield session, said


def reference_there(session: Session, as_of: int | str | None) -> bool:
    with session.index(as_of) as connection:
        assert connection is not None
        return images.handle(connection, PYTHON) is not None


def test_the_engine_is_asked_for_anew(opened: tuple[Session, list[str]]) -> None:
    session, _ = opened
    assert (session.engine().name, session.kept_by_msb) == ("msb-cache", False)
    Path(session.layout.msb_database).touch()
    assert (session.engine().name, session.kept_by_msb) == ("msb", True)


def test_the_index_now_and_as_it_was(opened: tuple[Session, list[str]]) -> None:
    session, said = opened
    assert [reference_there(session, as_of) for as_of in (None, 6, 2, 1, "@6", 0)] == [
        *(False, True, True, False, True, False)
    ]
    (sentence,) = said
    assert re.fullmatch(r"the log begins \d{4}-.*; of what was here before, it knows nothing", sentence)
    with pytest.raises(InvalidConfigError, match="no event 8; its last is 7"):
        reference_there(session, 8)


def test_a_past_that_is_asked_again_is_not_folded_again(opened: tuple[Session, list[str]]) -> None:
    session, _ = opened
    with session.index(3) as first:
        pass
    with session.index(3) as again:
        assert first is again
    with session.index(4) as other:
        assert other is not first
    assert session.is_open
    session.close()
    assert not session.is_open


def test_contents_are_those_of_a_position(opened: tuple[Session, list[str]]) -> None:
    session, _ = opened
    held, now = session.contents(4), session.contents(None)
    assert (held.position, [*held.images], [holder for _, holder in held.holds]) == (
        4,
        [PYTHON],
        ["sandbox:dev"],
    )
    assert (now.position, now.images, now.holds) == (7, {}, {})


def test_what_cannot_be_recorded_is_said_once(
    opened: tuple[Session, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, said = opened
    sentences = ["locked", "locked", None, "locked"]
    monkeypatch.setattr(session, "recorded", lambda: sentences.pop(0))
    while sentences:
        session.observe()
    assert said == ["locked", "locked"]


def test_a_home_without_a_log_has_nothing(tmp_path: Path) -> None:
    times = ticking()
    session = Session(Layout(tmp_path / "none"), actor=ACTOR, clock=lambda: next(times), note=None, sync=True)
    with closing(session), session.index() as connection, session.log() as log:
        assert (connection, log) == (None, None)
        assert session.contents(None).position == 0
    assert not (tmp_path / "none").exists()
