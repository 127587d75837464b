"""What was signed in a home, as a list and as notes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.cli.support import FAILED, Call, sentence

NAME = "ci7.example.com/msb-cache"


def test_nothing_was_signed(home: Path, call: Call) -> None:
    done = call("checkpoints")
    assert (done.code, done.raw) == (0, b"")
    assert "Nothing was signed here" in done.err
    done = call("checkpoints", "show")
    assert done.code == FAILED
    assert "nothing was signed in this home" in sentence(done.err)


def test_lists_and_notes(home: Path, call: Call, tmp_path: Path) -> None:
    call("key", "new", tmp_path / "log.key", "--name", NAME)
    notes = []
    for _ in range(2):
        notes.append(call("checkpoint", "--sign", tmp_path / "log.key").out)
        call("use", "app:1")
    sizes = [note.split("\n")[1] for note in notes]
    assert call("checkpoints", "--quiet").lines == sizes[::-1]
    assert call("checkpoints", "-n", "1", "--quiet").lines == sizes[1:]
    table = call("checkpoints").lines
    assert [line.split()[0] for line in table] == ["EVENTS", *sizes[::-1]]
    assert all(NAME in line for line in table[1:])
    assert [each["note"] for each in call("checkpoints", "--format", "json").json] == notes[::-1]
    assert call("checkpoints", "show").out == notes[1]
    assert call("checkpoints", "show", sizes[0]).out == notes[0]
    assert call("checkpoints", "show", "--origin", NAME).out == notes[1]
    done = call("checkpoints", "show", "--origin", "another")
    assert "nothing was signed as another in this home" in sentence(done.err)
    assert "no checkpoint of 1 event was signed" in sentence(call("checkpoints", "show", "1").err)


def test_one_that_somebody_put_there_is_forgotten(home: Path, call: Call, tmp_path: Path) -> None:
    key = tmp_path / "log.key"
    call("key", "new", key, "--name", NAME)
    true = call("checkpoint", "--sign", key)
    with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection, connection:
        connection.execute(
            "INSERT INTO signed_checkpoint SELECT origin, size + 1, note, signed_at FROM signed_checkpoint"
        )
    call("use", "app:1")
    size = int(true.lines[1]) + 1
    assert call("checkpoint", "--sign", key).code == FAILED
    assert call("checkpoints", "forget", size, "--origin", "another").code == FAILED
    done = call("checkpoints", "forget", size)
    assert (done.code, done.out) == (0, "")
    assert f"1 signed checkpoint of {size} events" in done.err
    assert call("checkpoint", "--sign", key).code == 0
    assert call("verify").code == 0
    assert "no checkpoint of 1 event" in sentence(call("checkpoints", "forget", "1").err)
