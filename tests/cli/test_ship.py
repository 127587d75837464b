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


def test_watch_goes_on_while_the_fleet_is_away(postgres: Server, tmp_path: Path) -> None:
    home = tmp_path / "one"
    ledger = new_ledger(home, some_events())
    process = subprocess.Popen(
        [PROGRAM, "--home", home, "watch", "-q", "--ship", "postgresql://nobody@127.0.0.1:1/fleet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    said = json.loads(process.stderr.readline())["said"]
    assert said.startswith("the fleet cannot be asked")
    assert said.endswith("it is tried again")
    grow(ledger, 1)
    assert process.stdout.readline().startswith("@")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
