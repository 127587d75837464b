"""What people type who come from other tools, and which command that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.cli.words import meant
from tests.cli.support import USAGE, Call, sentence, seqs


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ("", ""),
        ("list app:1", "list app:1"),
        ("image ls -q", "ls -q"),
        ("image prune --dry-run", "prune --dry-run"),
        ("image", ""),
        ("image --help", "help"),
        ("system -h", "help"),
        ("system df", "df"),
        ("help", "help"),
        ("help rm", "rm --help"),
        ("help image rm", "rm --help"),
        ("help prunes show", "prunes show --help"),
        ("help log", "log --help"),
        ("help help", "help"),
        ("version", "version"),
        ("log", "events"),
        ("log -n 5", "events -n 5"),
        ("log --since friday", "events --since friday"),
        ("log app:1 -n 5", "history app:1 -n 5"),
        ("log acknowledge", "log acknowledge"),
        ("log acknowlege", "log acknowlege"),
        ("log anew --yes", "log anew --yes"),
        ("log new", "history new"),
        ("log --help", "log --help"),
    ],
)
def test_what_is_meant(typed: str, runs: str) -> None:
    assert meant(typed.split()) == runs.split()


@pytest.mark.parametrize("words", ["image import x", "image push x", "system prune", "image build"])
def test_what_is_something_else_there_is_no_command(call: Call, words: str) -> None:
    """docker's `image import` makes an image of a folder, and `system prune` deletes more than images."""
    done = call(*words.split())
    assert (done.code, done.out) == (USAGE, "")
    assert f"No such command '{' '.join(words.split()[:2])}'" in sentence(done.err)


def test_they_do_the_same(home: Path, call: Call) -> None:
    for typed, runs in {
        "images -q": "list -q",
        "image ls app:1": "list app:1",
        "image inspect app:1": "inspect app:1",
        "image history app:1": "history app:1",
        "system df": "df",
        "version": "--version",
        "help": "--help",
        "help image ls": "list --help",
        "log --format json": "events --format json",
    }.items():
        done = call(*typed.split())
        assert done.code == 0
        assert done.out == call(*runs.split()).out, typed
    assert seqs(call, "log", "app:1") == seqs(call, "history", "app:1")
    assert call("rmi", "-q", "app:1").code == 0
    assert call("image", "rm", "-q", "app:latest").code == 0
    assert call("list", "-q").lines == ["example.org/team/tool:2"]


def test_version_takes_nothing(call: Call) -> None:
    assert call("version", "list").code == USAGE
