"""Events as rows of a table, as lines that come one by one, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from msb_cache.cli.event_lines import print_as_they_come, print_events, print_json, some, subject
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from tests.cli.support import stored
from tests.logs import PYTHON, digest, pulled

EVENTS = (
    stored(pulled(digest(1)), PYTHON, seq=2),
    stored(ev.ImageHeld(holder="sandbox:\x1b[31m"), digest(1), seq=3),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (PYTHON, "python:3.12"),
        ("example.org/team/tool:2", "example.org/team/tool:2"),
        (digest(1), digest(1)[:19]),
        ("01a208de-7af1-7b41-9b6b-151e9b4ceb8a", "01a208de-7af1-7b41-9b6b-151e9b4ceb8a"),
    ],
)
def test_a_subject_as_people_read_it(text: str, shown: str) -> None:
    assert subject(text) == shown


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_events(EVENTS)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["SEQ", "WHEN", "TYPE", "SUBJECT", "DETAILS", "WHO"]
    assert [row.split()[0] for row in rows] == ["2", "3"]
    subjects = [["image.pulled", "python:3.12"], ["image.held", digest(1)[:19]]]
    assert [row.split()[4:6] for row in rows] == subjects
    assert rows[1].endswith("by sandbox:\\x1b[31m   alice@host (test)")


def test_lines_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    def coming() -> Iterator[StoredEvent]:
        for count, event in enumerate(EVENTS):
            assert len(shown := capsys.readouterr().out.splitlines()) == min(count, 1), shown
            yield event

    print_as_they_come(coming(), "table")


def test_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_as_they_come(EVENTS, "json")
    lines = capsys.readouterr().out.splitlines()
    print_json(EVENTS)
    assert [json.loads(line) for line in lines] == json.loads(capsys.readouterr().out)
    assert [json.loads(line)["seq"] for line in lines] == [2, 3]


def test_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert some([]) is None
    print_events([])
    assert capsys.readouterr() == ("", "No such events.\n" * 2)
    print_json([])
    assert capsys.readouterr() == ("[]\n", "")


def test_asking_whether_there_are_any_loses_none() -> None:
    found = some(iter(EVENTS))
    assert found is not None
    assert [*found] == [*EVENTS]
