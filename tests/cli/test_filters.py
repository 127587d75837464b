"""The filters of events and history, one by one and together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.support import APP, NOT_FOUND, TOOL, USAGE, Call, every, sentence, seqs


def test_each_filter_is_what_it_says(long: Path, call: Call) -> None:
    events = every(call, "events")
    middle = events[len(events) // 2]["recorded_at"]
    operation = events[3]["operation"]
    for words, fits in {
        f"--since {middle}": lambda event: event["occurred_at"] >= middle,
        f"--until {middle}": lambda event: event["occurred_at"] <= middle,
        f"--recorded --since {middle}": lambda event: event["recorded_at"] >= middle,
        f"--recorded --until {middle}": lambda event: event["recorded_at"] <= middle,
        f"--recorded --since {middle} --until {middle}": lambda event: event["recorded_at"] == middle,
        "--since @5": lambda event: event["seq"] >= 5,
        "--until @5": lambda event: event["seq"] <= 5,
        "--recorded --since @3 --until @7": lambda event: 3 <= event["seq"] <= 7,
        f"--occurred --since {middle}": lambda event: event["occurred_at"] >= middle,
        f"--occurred --until {middle}": lambda event: event["occurred_at"] <= middle,
        "--type image.held": lambda event: event["type"] == "image.held",
        "--type image.held --type image.used": lambda event: event["type"] in ("image.held", "image.used"),
        "--actor ada": lambda event: event["actor"]["user"] == "ada",
        "--actor grace@two": lambda event: event["actor"]["user"] == "grace",
        "--host two": lambda event: event["actor"]["host"] == "two",
        "--holder sandbox:ada": lambda event: event["data"].get("holder") == "sandbox:ada",
        f"--operation {operation}": lambda event: event["operation"] == operation,
        f"--digest {TOOL.digest}": lambda event: TOOL.digest in json.dumps(event),
        f"--digest {TOOL.digest[7:13]}": lambda event: TOOL.digest in json.dumps(event),
        f"--digest {TOOL.layers[0].digest}": lambda event: TOOL.layers[0].digest in json.dumps(event),
        "--grep TEAM/tool": lambda event: "team/tool" in json.dumps(event),
        "--subject app:1": lambda event: event["subject"] == "docker.io/library/app:1",
        "--subject app:*": lambda event: event["subject"].startswith("docker.io/library/app:"),
        f"--subject {APP.digest[:14]}": lambda event: event["subject"] == APP.digest,
        "--subject app:1 --subject example.org/*": lambda event: (
            event["subject"] in ("docker.io/library/app:1", "example.org/team/tool:2")
        ),
        "--actor ada --type image.held": lambda event: (
            event["actor"]["user"] == "ada" and event["type"] == "image.held"
        ),
    }.items():
        expected = [event["seq"] for event in events if fits(event)]  # type: ignore[no-untyped-call]
        assert expected, words
        assert seqs(call, "events", *words.split()) == expected, words
        assert seqs(call, "events", *words.split(), "--reverse") == expected[::-1], words
        assert seqs(call, "events", *words.split(), "-n", 2) == expected[-2:], words
        assert seqs(call, "events", *words.split(), "-n", 2, "--reverse") == expected[::-1][:2], words
        if words.startswith("--subject"):
            continue
        # The same filter on a history.
        own = seqs(call, "history", "app:1")
        assert seqs(call, "history", "app:1", *words.split()) == [seq for seq in own if seq in expected], (
            words
        )
    assert len(seqs(call, "events", "--grep", 'it\'s "due"')) == len(events)


@pytest.mark.parametrize(
    ("code", "command", "says"),
    [
        (USAGE, ["events", "--since", "soon"], "'soon' is no time"),
        (USAGE, ["history", "app:1", "--until", "2026-02-30"], "is no time"),
        (USAGE, ["events", "--type", "image.eaten"], "no event type"),
        (USAGE, ["events", "--type", "gobbledegook"], "no event type; there are: log.created"),
        (USAGE, ["events", "--type", "image.remove"], "no event type; did you mean image.removed?"),
        (USAGE, ["history", "app:1", "--type", "x"], "no event type"),
        (USAGE, ["events", "--digest", "xyz"], "is no digest"),
        (USAGE, ["events", "--digest", "abc"], "is no digest"),
        (NOT_FOUND, ["events", "--digest", "0000"], "no such digest"),
        (NOT_FOUND, ["events", "--operation", "00000000"], "no operation has the id"),
        (NOT_FOUND, ["history", "app:1", "--operation", "zz"], "no operation has the id"),
        (NOT_FOUND, ["events", "--since", "now", "--operation", "zz"], "no operation has the id"),
        (NOT_FOUND, ["history", "nothing:*"], "no image matches 'nothing:*'"),
        (NOT_FOUND, ["list", "nothing:*"], "no image matches 'nothing:*'"),
        (NOT_FOUND, ["list", "app:2"], "image not found: app:2"),
        (NOT_FOUND, ["events", "--subject", "nothing*"], "no image matches"),
        (NOT_FOUND, ["events", "--subject", "nothing"], "the log knows no image nothing:latest"),
        (USAGE, ["list", "bad pattern*"], "is no image reference with wildcards"),
        (USAGE, ["history", "a\x1b*"], "is no image reference with wildcards"),
        (USAGE, ["list", "*" * 400], "is no image reference with wildcards"),
        (USAGE, ["events", "--holder", "dev"], "'dev' is no holder; write sandbox:NAME"),
        (USAGE, ["events", "--grep", ""], "1 to 1000 characters"),
        (USAGE, ["events", "--grep", "x" * 2000], "1 to 1000 characters"),
        (USAGE, ["events", "-n", "-1"], "-1"),
        (USAGE, ["events", "--follow", "--reverse"], "oldest first"),
        (USAGE, ["history", "app:1", "--follow", "--until", "now"], "has no end"),
        (NOT_FOUND, ["history", "nothing", "--follow"], "the log knows no image"),
        (NOT_FOUND, ["inspect", "0000"], "no such digest is in the cache"),
        (NOT_FOUND, ["holders", "sha256:0000"], "no such digest is in the cache"),
        (USAGE, ["holders", "UPPER"], "lower case"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input(home: Path, call: Call, code: int, command: list[str], says: str) -> None:
    done = call(*command)
    assert (done.code, done.raw) == (code, b"")
    assert says in sentence(done.err)
