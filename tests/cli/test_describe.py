"""Events in words: their line, who did it, and why a deletion keeps something."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from msb_cache.cli import look
from msb_cache.cli.describe import describe, who, who_in_full
from msb_cache.cli.look import absolute
from msb_cache.eventstore import events as ev
from msb_cache.shapes import jsonable
from tests.cli.support import RFC3339, stored
from tests.logs import ACTOR, PYTHON, digest, layer, manifest_added, pulled

DIGEST = digest(1)
OPERATION = "01a208de-7af1-7b41-9b6b-151e9b4ceb8a"


@pytest.mark.parametrize(
    ("data", "subject", "line"),
    [
        (pulled(digest(1)), PYTHON, ("loaded", "green", DIGEST, "from python.tar")),
        (
            pulled(digest(1), previous=digest(2)),
            PYTHON,
            ("moved", "green", DIGEST, f"was {digest(2)}, from python.tar"),
        ),
        (
            ev.ImagePulled(
                manifest_digest=digest(1),
                changed=True,
                source=ev.Source(kind="registry", name="ghcr.io"),
                bytes_fetched=2048,
                bytes_reused=1024,
            ),
            PYTHON,
            ("pulled", "green", DIGEST, "from ghcr.io, 2.0 KiB new, 1.0 KiB reused"),
        ),
        (
            ev.ImagePulled(
                manifest_digest=digest(1), changed=False, source=ev.Source(kind="archive", name="-")
            ),
            PYTHON,
            ("loaded", "green", DIGEST, "from stdin, unchanged"),
        ),
        (
            ev.ImagePulled(
                manifest_digest=digest(1),
                changed=True,
                source=ev.Source(kind="microsandbox"),
                bytes_fetched=0,
            ),
            PYTHON,
            ("pulled", "green", DIGEST, "all layers already here"),
        ),
        (ev.ImagePullFailed(reason="no such host"), PYTHON, ("pull failed", "red", None, "no such host")),
        (ev.ImageUsed(manifest_digest=digest(1)), PYTHON, ("used", "cyan", DIGEST, "")),
        (
            msgspec.structs.replace(pulled(digest(1)), observed_since_ns=0),
            PYTHON,
            ("loaded", "green", DIGEST, f"observed since {absolute(0)}, from python.tar"),
        ),
        (
            ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:a"),
            PYTHON,
            ("used", "cyan", DIGEST, "by sandbox:a"),
        ),
        (ev.ImageHeld(holder="sandbox:a"), digest(1), ("held", "yellow", DIGEST, "by sandbox:a")),
        (ev.ImageReleased(holder="sandbox:a"), digest(1), ("released", "yellow", DIGEST, "by sandbox:a")),
        (
            ev.ImageRemoved(manifest_digest=digest(1), cause="prune"),
            PYTHON,
            ("removed", "red", DIGEST, "by a prune"),
        ),
        (
            ev.ImageRemoved(manifest_digest=digest(1), cause="remove", forced=True),
            PYTHON,
            ("removed", "red", DIGEST, "forced while held or pinned"),
        ),
        (
            ev.LayerDeleted(bytes=3000, recovered=True),
            digest(1),
            ("layer deleted", "red", DIGEST, "2.9 KiB freed, found gone while recovering"),
        ),
        (ev.MetadataDeleted(), PYTHON, ("metadata deleted", "red", None, "")),
        (
            ev.ArtifactKept(kind="vmdk", reason="held", holders=("sandbox:a", "sandbox:b")),
            digest(1),
            ("vmdk kept", "yellow", DIGEST, "in use by sandbox:a, sandbox:b"),
        ),
        (
            ev.ArtifactDeleteFailed(kind="layer", errno=13, reason="Permission denied"),
            digest(1),
            ("layer stuck", "red", DIGEST, "Permission denied"),
        ),
        (
            manifest_added([layer(1), layer(2)]),
            digest(1),
            ("added", "green", DIGEST, "linux/amd64, 2 layers, 2.0 KiB"),
        ),
        (
            ev.DeletionFinished(outcome="partial", recovered=True),
            OPERATION,
            ("finished", "red", None, "partial, by recovery"),
        ),
        (ev.LogCreated(log_id="0" * 32, format=1), "0" * 32, ("log created", "white", None, "format 1")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ev.Event) else "",
)
def test_an_event_in_a_line(data: ev.Event, subject: str, line: tuple[str, ...]) -> None:
    found = describe(stored(data, subject))
    assert (found.what, found.colour, found.digest, found.details) == line


def test_what_a_detail_names_is_whole_but_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = msgspec.structs.replace(pulled(digest(1), previous=digest(2)), undoes=OPERATION)
    said = "after deletion {}, was {}, from python.tar"
    assert describe(stored(moved, PYTHON)).details == said.format(OPERATION, digest(2))
    monkeypatch.setattr(look, "room", lambda *, err=False: 80)
    assert describe(stored(moved, PYTHON)).details == said.format(OPERATION[:13], digest(2)[7:19])


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


def test_fields_are_ready_for_json_and_keep_the_nanosecond() -> None:
    event = stored(manifest_added([layer(1)]), digest(1))
    found = json.loads(json.dumps(jsonable(event)))
    assert found["occurred_at"] == "2027-01-15T08:00:00.000000007+00:00"
    assert RFC3339.fullmatch(found["recorded_at"])
    assert (found["type"], found["hash"]) == ("manifest.added", "ab" * 32)
    assert found["data"]["layers"][0]["diff_id"] == layer(1).diff_id
    assert "shared" not in found
