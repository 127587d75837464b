"""The command `fleet`: its commands, and where it is told which fleet is asked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import click
import pytest

from msb_cache.cli.fleet import COMMAND, MODULES
from tests.carrying import lived_in
from tests.cli.support import USAGE, Call
from tests.fleet.exports import exported


@pytest.fixture
def db(call: Call, tmp_path: Path) -> Path:
    """A fleet in a file, of one host's log."""
    export = tmp_path / "ci-1.jsonl"
    export.write_bytes(exported(lived_in(tmp_path / "ci-1")))
    assert call("fleet", "--db", tmp_path / "fleet.db", "take", export).code == 0
    return tmp_path / "fleet.db"


@pytest.mark.parametrize("name", MODULES)
def test_each_command_is_found_under_its_name(name: str) -> None:
    command = COMMAND.get_command(click.Context(COMMAND), name)
    assert command is not None
    assert (command.name, {"dsn", "db"} <= {each.name for each in command.params}) == (name, True)


def test_its_help_lists_them_in_order(call: Call) -> None:
    listed = call("fleet", "--help").out.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines() if not line.startswith("   ")] == [*MODULES]
    assert "..." not in listed  # no sentence is cut off


def test_an_unknown_command_is_a_mistake(call: Call) -> None:
    done = call("fleet", "hist")
    assert done.code == USAGE
    assert "No such command 'hist'" in done.err


def test_the_file_may_be_named_before_or_behind_the_command(call: Call, db: Path) -> None:
    before = call("fleet", "--db", db, "list", "-q")
    assert (before.code, before.err) == (0, "")
    assert before.lines
    assert call("fleet", "list", "--db", db, "-q").lines == before.lines
    assert call("fleet", "--db", db, "prunes", "show", "--help").code == 0


def test_what_is_behind_the_command_wins(call: Call, db: Path, tmp_path: Path) -> None:
    done = call("fleet", "--db", tmp_path / "none.db", "list", "-q", "--db", db)
    assert (done.code, done.err) == (0, "")


def test_a_fleet_is_in_one_place(
    call: Call, db: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MSB_CACHE_FLEET", raising=False)
    nowhere = call("fleet", "hosts")
    assert (nowhere.code, nowhere.out) == (USAGE, "")
    assert "give one of --dsn and --db, or set MSB_CACHE_FLEET" in nowhere.err
    assert call("fleet", "--dsn", "host=a.test", "--db", db, "hosts").code == USAGE
    monkeypatch.setenv("MSB_CACHE_FLEET", "host=nowhere.invalid")
    assert call("fleet", "--db", db, "hosts", "-q").code == 0


def test_a_word_that_is_no_command(call: Call) -> None:
    typed = call("fleet", "hosst")
    assert (typed.code, typed.err) == (USAGE, "error: No such command 'hosst'; did you mean hosts?\n")
    assert "see `msb-cache fleet --help`" in call("fleet", "zzz").err


def test_it_needs_no_home(call: Call, db: Path, tmp_path: Path) -> None:
    done = call("--home", tmp_path / "typo", "fleet", "--db", db, "list", "-q")
    assert done.code == 0
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (None, "not folded up to the last event: {} (@29 of @30); `msb-cache fleet fold` goes on"),
        (
            "event 30 is odd",
            "stopped before the last event: {} (@29 of @30); `msb-cache fleet hosts` says why",
        ),
    ],
)
def test_what_is_not_folded_is_said(call: Call, db: Path, problem: str | None, said: str) -> None:
    with closing(sqlite3.connect(db)) as opened, opened:
        (host,) = opened.execute("SELECT host FROM fold_state").fetchone()
        opened.execute("UPDATE fold_state SET seq = seq - 1, problem = ?", (problem,))
    done = call("fleet", "--db", db, "list")
    assert (done.code, done.err) == (0, f"note: 1 of 1 log {said.format(host)}\n")
    assert (problem or "-") in call("fleet", "--db", db, "hosts").out
    assert call("fleet", "--db", db, "list", "-q").err == ""
