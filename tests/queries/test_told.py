"""Who did what, in words; ``tests/cli/test_describe.py`` has what happened."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from msb_cache.eventstore import events as ev
from msb_cache.queries.told import holder_of, line_of, who, who_in_full
from tests.cli.support import stored
from tests.logs import ACTOR, PYTHON, digest, pulled


def test_times_and_names_are_shown_as_the_reader_has_them() -> None:
    data = msgspec.structs.replace(pulled(digest(1), previous=digest(2)), observed_since_ns=7)
    found = line_of(stored(data, PYTHON), time=lambda ns: f"<{ns}>", name=lambda text: text[7:11])
    assert (found.what, found.tone, found.digest) == ("moved", "came", digest(1))
    assert found.details == f"observed since <7>, was {digest(2)[7:11]}, from python.tar"


def test_whom_an_event_is_about() -> None:
    assert holder_of(stored(ev.ImageHeld(holder="sandbox:a"), digest(1))) == "sandbox:a"
    assert holder_of(stored(pulled(digest(1)), PYTHON)) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"program": "msb-cache"}, "alice@host"),
        ({}, "alice@host (test)"),
        ({"program": "msb-cache", "reason": "it is \x1b[31mdue"}, "alice@host: it is \x1b[31mdue"),
        ({"program": "msb-cache", "observed": True}, "seen by alice@host"),
        ({"user": "root", "uid": 0, "login": "alice", "login_uid": 1000}, "alice@host (as root, test)"),
        ({"login": "alice", "login_uid": 1000, "unit": "cron.service"}, "alice@host (test, cron.service)"),
        ({"unit": "user@1000.service"}, "alice@host (test)"),
        ({"unit": "user@1000.service/a.service"}, "alice@host (test, user@1000.service/a.service)"),
        (
            {"unit": "cron.service", "container": "docker:4c01"},
            "alice@host (test, cron.service, docker:4c01)",
        ),
        ({"unit": "session-3.scope"}, "alice@host (test)"),
        (
            {"observed": True, "seen_by": "root via msb-cache", "program": "msb image rm"},
            "alice@host (msb image rm)",
        ),
        (
            {
                "claimed": {
                    "ci": "github",
                    "ci_job": "7",
                    "ci_url": "https://x",
                    "ticket": "12",
                    "api_key": "",
                }
            },
            "alice@host (test), says github job 7, ticket=12, api_key",
        ),
        ({"claimed": {"sudo_user": "bob"}, "reason": "due"}, "alice@host (test), says sudo by bob: due"),
        ({"claimed": {"sudo_user": "bob"}, "login": "alice"}, "alice@host (test)"),
        ({"claimed": {"a": "x" * 99}}, f"alice@host (test), says a={'x' * 99}"),
    ],
)
def test_who(changed: dict[str, Any], said: str) -> None:
    assert who(msgspec.structs.replace(ACTOR, **changed)) == said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "alice@host (uid 1000), program test"),
        (
            {
                "user": "root",
                "uid": 0,
                "login": "alice",
                "login_uid": 1000,
                "unit": "session-3.scope",
                "container": "docker:4c01",
                "claimed": {"sudo_user": "alice", "ci_url": "https://x"},
                "reason": "due",
            },
            "root@host (uid 0), logged in as alice (uid 1000), program test, unit session-3.scope, "
            "container docker:4c01, says sudo_user=alice, ci_url=https://x: due",
        ),
        ({"observed": True}, "seen by alice@host (uid 1000), program test"),
        (
            {"observed": True, "seen_by": "root via msb-cache", "parent": "bash"},
            "alice@host (uid 1000), program test, started by bash, seen by root via msb-cache",
        ),
    ],
)
def test_who_in_full(changed: dict[str, Any], said: str) -> None:
    assert who_in_full(msgspec.structs.replace(ACTOR, **changed)) == said
