"""ship as a program, and watch --ship: what they say, what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from msb_cache.fleet.admission import init
from tests.cli.support import PROGRAM, execute
from tests.fleet.postgres import Server
from tests.fleet.sent import log_of
from tests.fleet.shipping import grow, host, is_whole
from tests.logs import new_ledger, some_events

AWAY = "postgresql://nobody@127.0.0.1:1/fleet"


@pytest.fixture(scope="module")
def postgres(postgres_cluster: Server) -> Server:
    postgres_cluster.clear()
    init(postgres_cluster.admin)
    return postgres_cluster


def test_ship(postgres: Server, tmp_path: Path) -> None:
    home = tmp_path / "one"
    ledger = new_ledger(home, some_events())
    dsn = host(postgres.admin)
    shipped = execute("--home", home, "ship", "--to", dsn)
    log_id = log_of(home)[0][0]
    assert (shipped.code, shipped.out) == (0, "")
    assert (
        shipped.err.split()
        == f"✓ Shipped 7 events of log {log_id[:12]}; the server has 7 events of it".split()
    )
    grow(ledger, 2)
    again = execute("--home", home, "ship", "--format", "json", MSB_CACHE_FLEET=dsn)
    assert json.loads(again.out) == {"log_id": log_id, "events": 2, "seq": 9, "size": 9}
    assert is_whole(postgres.admin, home)
    assert execute("--home", home, "ship", "-q", "--to", dsn).out == "0\n"


def test_what_is_in_the_way(postgres: Server, tmp_path: Path) -> None:
    home = tmp_path / "one"
    new_ledger(home, some_events())
    nowhere = execute("--home", home, "ship")
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "MSB_CACHE_FLEET" in nowhere.err
    dsn = host(postgres.admin)
    assert execute("--home", home, "ship", "--to", dsn).code == 0
    claimed = execute("--home", home, "ship", "--to", host(postgres.admin))
    assert claimed.code == 1
    assert claimed.err.startswith("error: the log was first sent by another enrolment")
    assert "`msb-cache log anew`" in claimed.err
    assert "`postgresql://`" in nowhere.err
    assert execute("--home", home, "ship", "--to", "").code == 2
    nothing = execute("--home", tmp_path / "none", "ship", "--to", dsn)
    assert nothing.code == 3 or "nothing" in nothing.err


@pytest.mark.parametrize("command", [("ship", "--follow"), ("watch", "--ship")])
def test_what_stays_sends_what_comes_and_ends_with_a_signal(
    postgres: Server, tmp_path: Path, command: tuple[str, ...]
) -> None:
    home = tmp_path / "one"
    ledger = new_ledger(home, some_events())
    dsn = host(postgres.admin)
    process = subprocess.Popen(
        [PROGRAM, "--home", home, *command],
        env={**os.environ, "MSB_CACHE_FLEET": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(2):
        end = time.monotonic() + 20
        while not is_whole(postgres.admin, home):
            assert time.monotonic() < end
            time.sleep(0.05)
        grow(ledger, 3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert (process.returncode, "error" in err) == (0, False)


def in_the_way(home: Path, *command: str) -> tuple[str, int, str]:
    """Run a command that stays until something is in its way; return what it says, its exit code and more."""
    process = subprocess.Popen([PROGRAM, "--home", home, *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=10)
    return said, process.returncode, rest


def test_watch_stays_while_the_fleet_is_away(tmp_path: Path) -> None:
    new_ledger(tmp_path / "one", some_events())
    said, code, rest = in_the_way(tmp_path / "one", "watch", "--ship", AWAY)
    note = json.loads(said)["said"]
    assert note.startswith("the fleet cannot be asked")
    assert note.endswith("it is tried again")
    assert (code, rest) == (0, "")


@pytest.mark.parametrize("away", [True, False])
def test_what_was_not_taken_is_not_said_to_be(postgres: Server, tmp_path: Path, away: bool) -> None:
    home = tmp_path / "one"
    new_ledger(home, some_events())
    if not away:  # another's log is refused
        assert execute("--home", home, "ship", "--to", host(postgres.admin)).code == 0
    said, code, rest = in_the_way(home, "ship", "--follow", "--to", AWAY if away else host(postgres.admin))
    assert said.startswith("note: ")
    assert code == 0
    assert f"nothing: the fleet has taken no event of log {log_of(home)[0][0][:12]}" in rest
