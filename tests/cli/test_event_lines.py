"""Events as rows of a table, as lines that come one by one, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache.cli import look
from msb_cache.cli.event_lines import print_as_they_come, print_events, show_events, subject_of
from msb_cache.cli.formats import Shown, Template
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from tests.cli.support import Call, seqs, stored
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
        (digest(1), digest(1)),
        ("01a208de-7af1-7b41-9b6b-151e9b4ceb8a", "01a208de-7af1-7b41-9b6b-151e9b4ceb8a"),
    ],
)
def test_a_subject_as_people_read_it(text: str, shown: str) -> None:
    assert subject_of(text, None) == shown


TABLE = Shown("table", None, quiet=False)
JSON_LINES = Shown("jsonl", None, quiet=False)


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_events(EVENTS)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["SEQ", "WHEN", "TYPE", "SUBJECT", "WHO", "DETAILS"]
    assert [row.split()[0] for row in rows] == ["2", "3"]
    assert [row.split()[4:6] for row in rows] == [["image.pulled", "python:3.12"], ["image.held", digest(1)]]
    assert rows[1].endswith("alice@host (test)   by sandbox:\\x1b[31m")


def test_on_a_terminal_details_stand_below(
    terminal: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(60)
    print_events(EVENTS)
    _, first, details, second, held = capsys.readouterr().out.splitlines()
    assert (first.split()[-2:], details) == (["image.pulled", "python:3.12"], "    from python.tar")
    assert (second.split()[-1], held) == (digest(1)[7:19], "    by sandbox:\\x1b[31m")


def test_lines_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    def coming() -> Iterator[StoredEvent]:
        for count, event in enumerate(EVENTS):
            assert len(shown := capsys.readouterr().out.splitlines()) == min(count, 1), shown
            yield event

    print_as_they_come(coming(), TABLE)


def test_a_line_that_came_says_when_it_was(
    terminal: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(60)
    print_as_they_come(EVENTS[:1], TABLE)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{look.absolute(EVENTS[0].occurred_at_ns)}  image.pulled")
    assert " ".join([first, *others]).split()[-4:] == ["from", "python.tar", "alice@host", "(test)"]
    assert all(len(line) <= 60 for line in (first, *others))


def test_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_as_they_come(EVENTS, JSON_LINES)
    lines = capsys.readouterr().out.splitlines()
    show_events(EVENTS, JSON_LINES._replace(kind="json"))
    found = json.loads(capsys.readouterr().out)
    assert [json.loads(line) for line in lines] == found
    assert [event["seq"] for event in found] == [2, 3]


@pytest.mark.parametrize("come", [print_as_they_come, show_events])
def test_positions_and_templates(
    come: Callable[[object, Shown], None], capsys: pytest.CaptureFixture[str]
) -> None:
    come(EVENTS, TABLE._replace(quiet=True))
    template = Template.parse("{seq} {type} {actor.user}")
    come(EVENTS, Shown("template", template, quiet=False))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["@2", "@3", "2 image.pulled alice", "3 image.held alice"]


def test_none(capsys: pytest.CaptureFixture[str]) -> None:
    show_events([], TABLE)
    assert capsys.readouterr() == ("", "No such events.\n")
    show_events([], TABLE._replace(quiet=True))
    assert capsys.readouterr() == ("", "")
    show_events([], TABLE._replace(kind="json"))
    assert capsys.readouterr() == ("[]\n", "")


def test_cloudevents_are_lines(home: Path, call: Call) -> None:
    done = call("events", "--format", "cloudevents", "--limit", "2", "--no-people")
    found = [json.loads(line) for line in done.lines]
    assert [int(each["sequence"]) for each in found] == seqs(call, "events")[-2:]
    assert {each["specversion"] for each in found} == {"1.0"}
    assert {each["data"]["actor"]["user"] for each in found} == {""}
