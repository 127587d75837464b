"""The collector's configuration fits what is written for it: each of its steps, done here by the book."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.interchange.cloudevents import CloudEvents
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import jsonable, rfc3339
from tests.cli.support import PROGRAM, stored
from tests.conftest import ROOT
from tests.logs import PYTHON, digest, new_ledger, some_events
from tests.samples import LOG_ID, sample

FOLDER = ROOT / "examples" / "otel-collector"
CONFIG = yaml.safe_load((FOLDER / "config.yaml").read_text())
RECEIVER = CONFIG["receivers"]["filelog/msb-cache"]


def place(entry: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    """Return the map that a field is in, and its name there; ``body["a"]`` and ``body.a`` are the same."""
    above: dict[str, Any] = entry
    *names, name = (quoted or plain for quoted, plain in re.findall(r'\["([^"]+)"\]|([^.\[]+)', field))
    for each in names:
        above = above[each]
    return above, name


def record(line: str) -> dict[str, Any]:
    """Return what becomes of a line; raises KeyError where a step names what is not there."""
    entry: dict[str, Any] = {"body": line, "attributes": {}, "resource": {**RECEIVER["resource"]}}
    for step in RECEIVER["operators"]:
        if "if" in step:
            name, condition, nothing = step["if"].split()
            assert (name, condition, nothing) == (step["from"], "!=", "nil")
            above, name = place(entry, name)
            if above.get(name) is None:
                continue
        match step["type"]:
            case "json_parser":
                assert step["parse_to"] == "body"
                entry["body"] = json.loads(entry["body"])
                above, name = place(entry, step["timestamp"]["parse_from"])
                entry["timestamp"] = above[name]
                above, name = place(entry, step["severity"]["parse_from"])
                [entry["severity"]] = [
                    level for level, types in step["severity"]["mapping"].items() if above[name] in types
                ]
            case "copy" | "move" as kind:
                above, name = place(entry, step["from"])
                value = above[name] if kind == "copy" else above.pop(name)
                above, name = place(entry, step["to"])
                above[name] = value
            case "remove":
                above, name = place(entry, step["field"])
                del above[name]
            case other:
                raise AssertionError(f"what {other} does is not known here")
    return entry


@pytest.mark.parametrize("kind", ev.EVENT_TYPES, ids=lambda kind: str(kind.type))
def test_every_event_becomes_a_record(kind: type[ev.Event]) -> None:
    event = stored(sample(kind), "subject", seq=41)
    made = record(json.dumps(CloudEvents(LOG_ID, Privacy()).of(event)))
    assert made.pop("severity") in ("info", "warn", "error")
    source = f"msb-cache:log/{LOG_ID}"
    assert made == {
        "timestamp": rfc3339(event.occurred_at_ns),
        "resource": {"service.name": "msb-cache", "service.instance.id": source},
        "attributes": {
            "cloudevents.event_id": event.id,
            "cloudevents.event_source": source,
            "cloudevents.event_spec_version": "1.0",
            "cloudevents.event_type": f"msb-cache.{kind.type}",
            "cloudevents.event_subject": "subject",
            "msb_cache.sequence": "41".zfill(19),
            "msb_cache.recorded_time": rfc3339(event.recorded_at_ns),
            "msb_cache.data_schema": f"msb-cache:event/{kind.type}/{kind.version}",
            "msb_cache.operation": event.operation,
        },
        "body": jsonable(Privacy().of(event)),
    }


def test_an_event_about_nothing_has_no_subject() -> None:
    made = record(json.dumps(CloudEvents(LOG_ID, Privacy()).of(stored(sample(ev.ImageUsed), ""))))
    assert "cloudevents.event_subject" not in made["attributes"]


def test_what_is_told_of_the_mapping_is_so() -> None:
    page = (FOLDER / "README.md").read_text()
    made = record(json.dumps(CloudEvents(LOG_ID, Privacy()).of(stored(sample(ev.ImageUsed), "a"))))
    assert {name for name in (*made["attributes"], *made["resource"]) if f"`{name}`" not in page} == set()
    mapping = RECEIVER["operators"][0]["severity"]["mapping"]
    assert sum(map(len, mapping.values())) == len(ev.EVENT_TYPES)
    for level in ("warn", "error"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{level.upper()}`"))
        assert re.findall(r"`([a-z_]+\.[a-z_]+)`", row) == [
            each.removeprefix("msb-cache.") for each in mapping[level]
        ]


def test_the_configuration_is_whole() -> None:
    pipeline = CONFIG["service"]["pipelines"]["logs"]
    assert pipeline["receivers"] == [*CONFIG["receivers"]]
    assert pipeline["exporters"] == [*CONFIG["exporters"]]
    stores = (RECEIVER["storage"], CONFIG["exporters"]["otlphttp"]["sending_queue"]["storage"])
    assert {*stores} == {*CONFIG["extensions"]} == {*CONFIG["service"]["extensions"]}
    layout = RECEIVER["operators"][0]["timestamp"]
    assert (layout["layout_type"], layout["layout"]) == ("gotime", "2006-01-02T15:04:05.999999999Z07:00")


@contextmanager
def written(home: Path, file: Path, last: Callable[[str], bool], *options: str) -> Iterator[None]:
    """Run the script until the file's last line is that."""
    command = ["sh", FOLDER / "follow.sh", file, *options]
    path = f"{PROGRAM.parent}:/usr/local/bin:/usr/bin:/bin"
    process = subprocess.Popen(command, env={"MSB_HOME": str(home), "PATH": path, "HOME": str(home)})
    deadline = time.monotonic() + 20
    try:
        while not file.exists() or not (lines := file.read_text().splitlines()) or not last(lines[-1]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_what_is_followed_into_a_file_goes_on_after_a_crash_and_a_rotation(
    tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    require_peer("jq")
    home, file = tmp_path / "home", tmp_path / "events.jsonl"
    ledger = new_ledger(home, some_events())

    def is_event(seq: int) -> Callable[[str], bool]:
        return lambda line: line.startswith("{") and line.endswith("}") and sequence(line) == seq

    def sequence(line: str) -> int:
        return int(json.loads(line)["sequence"])

    with written(home, file, is_event(7), "--no-people"):
        assert "alice" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    whole = file.read_text()
    cut = whole[: whole.rindex("operation")]
    file.write_text(cut)
    with written(home, file, is_event(7)):
        pass
    lines = file.read_text().splitlines()
    assert lines.pop(6) == cut.splitlines()[-1]
    assert [*map(sequence, lines)] == [*range(1, 8)]
    file.rename(tmp_path / "events.jsonl.1")
    with ledger.write("operation-7") as transaction:
        used = ev.ImageUsed(manifest_digest=digest(1), holder='sandbox:"sequence":"99"')
        transaction.append([NewEvent(used, PYTHON)])
    with written(home, file, is_event(8)):
        assert len(file.read_text().splitlines()) == 1
