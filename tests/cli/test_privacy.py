"""What strangers are told: the same options everywhere, and refused where they mean nothing."""

from __future__ import annotations

import json

import pytest

from tests.cli.support import Call, sentence


@pytest.mark.parametrize("command", [["export"], ["events", "--follow"], ["history", "app"], ["watch"]])
@pytest.mark.parametrize("option", ["--with-config", "--no-people"])
def test_refused_where_nothing_is_for_strangers(call: Call, command: list[str], option: str) -> None:
    done = call(*command, option)
    assert done.code == 2
    assert f"{option} is for --format cloudevents" in sentence(done.err)


def test_what_is_told(call: Call, exported: object) -> None:
    def told(*options: str) -> dict[str, object]:
        event = json.loads(call("history", "app", "-n", "1", "--format", "cloudevents", *options).lines[0])
        found: dict[str, object] = event["data"]["actor"]
        return found

    assert told("--with-config") == told()
    assert told()["host"]
    assert told("--no-people")["host"] == ""
