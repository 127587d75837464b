"""What a shell is answered: from the home that the line names, without a trace in it, whatever is there."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import click
import pytest

from msb_cache import ImageCache
from msb_cache.cli import completing
from msb_cache.cli.main import cli, command_names
from tests.cli.support import APP, TOOL, Ask, Call, execute, fingerprint, parameters
from tests.msbhome import MsbHome
from tests.proof.signing import new_log_key


def every_file(home: Path) -> set[str]:
    return {str(path) for path in home.rglob("*")}


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("pru", ["prunes", "prune"]),
        ("prunes ", ["restore-plan", "show"]),
        ("nonsense ", []),
        ("rmi ex", ["example.org/team/tool:2"]),
        ("ls --fo", ["--format"]),
        ("list --format ", ["table", "json", "jsonl"]),
        ("list --format=j", ["json", "jsonl"]),
        ("--eng", ["--engine"]),
        ("--engine ", ["own", "msb"]),
        ("inspect ", ["app:1", "app:latest", "example.org/team/tool:2"]),
        ("inspect a", ["app:1", "app:latest"]),
        ("inspect app:", ["app:1", "app:latest"]),
        ("inspect 'app:", ["app:1", "app:latest"]),
        ("inspect docker.io/", ["docker.io/library/app:1", "docker.io/library/app:latest"]),
        ("inspect docker.io/library/app:1", ["docker.io/library/app:1"]),
        ("inspect d", []),
        ("inspect library/a", []),
        ("inspect sha256:", sorted([APP.digest, TOOL.digest])),
        (f"inspect {TOOL.digest[:12]}", [TOOL.digest]),
        ("list app:*", []),
        ("list ap?", []),
        ("rm app:1 ", ["app:latest", "example.org/team/tool:2"]),
        ("hold ex", ["example.org/team/tool:2"]),
        ("policy test app:1", ["app:1"]),
        ("prune --exclude e", ["example.org/team/tool:2"]),
        ("load ", ["<file>"]),
        ("key ", ["new", "show"]),
        ("key new ", ["<file>"]),
        ("key show --name log ", ["<file>"]),
        ("--home ", ["<dir>"]),
        ("--home=/t", ["<dir>"]),
        ("events --type image.un", ["image.unpinned"]),
        ("schema image.un", ["image.unpinned"]),
        ("schema ev", ["event"]),
        ("prune --unused-for ", []),
        ("inspect app:1 more ", []),
        ("fleet ho", ["hosts", "holders"]),
        ("fleet prunes ", ["show"]),
        ("fleet --db ", ["<file>"]),
        ("fleet list a", []),  # what is in this home is not what a fleet has
    ],
)
def test_what_can_come_next(home: Path, ask: Ask, line: str, answers: list[str]) -> None:
    before, files = fingerprint(home), every_file(home)
    assert ask(f"msb-cache {line}") == answers
    assert (fingerprint(home), every_file(home)) == (before, files)


def test_all_commands_can_come_first(ask: Ask) -> None:
    assert ask("msb-cache ") == command_names()
    assert ask("/opt/bin/msb-cache confi") == ["config"]
    assert ask("msb-cache") == ask("") == command_names()


@pytest.mark.parametrize(
    ("line", "breaks", "answers"),
    [
        ("inspect app:", ":", ["1", "latest"]),
        ("inspect app:1", ":", ["1"]),
        ("inspect ap", ":", ["app:1", "app:latest"]),
        ("events --type=image.un", "=:", ["image.unpinned"]),
        ("use app:1 --holder=sandbox:d", "=:", ["dev"]),
        ("use app:1 --holder sandbox:d", "=:@", ["dev"]),
        ("use app:1 --holder sandbox:d", " ", ["sandbox:dev"]),
    ],
)
def test_bash_replaces_what_is_behind_the_last_break(
    home: Path, ask: Ask, line: str, breaks: str, answers: list[str]
) -> None:
    with ImageCache(home) as cache:
        cache.hold("app:1", "sandbox:dev")
    assert ask(f"msb-cache {line}", breaks) == answers


def test_the_home_is_that_of_the_line(
    home: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "other home")
    with ImageCache(tmp_path / "other home") as cache:
        cache.remove(["app:1", "app:latest"])
    monkeypatch.setenv("WHERE", str(tmp_path))
    for line in (
        f"msb-cache --home '{tmp_path}/other home' inspect ",
        f"msb-cache --home={tmp_path}/other\\ home inspect ",
        "msb-cache --home $WHERE/other\\ home inspect ",
        f"A=b MSB_HOME='{tmp_path}/other home' msb-cache inspect ",
    ):
        assert ask(line) == ["example.org/team/tool:2"], line
    monkeypatch.setenv("MSB_HOME", str(home))  # which the last line has set, in its process
    assert ask("msb-cache --home /nowhere inspect ") == []


def test_what_is_gone_is_completed_where_it_can_be_meant(home: Path, ask: Ask) -> None:
    with ImageCache(home) as cache:
        cache.pin("app:latest")
        cache.pin(TOOL.digest)
        cache.remove("app:1")
        cache.remove("example.org/team/tool:2", force=True)
        newest, oldest = (each.operation for each in cache.prunes())
        cache.hold("app:latest", "sandbox:dev")
        cache.hold("app:latest", "snapshot:x y")
    everything = ["app:1", "app:latest", "example.org/team/tool:2"]
    assert ask("msb-cache inspect ") == ["app:latest"]
    assert ask("msb-cache history ") == ask("msb-cache why ") == ask("msb-cache prove ") == everything
    assert ask("msb-cache unpin ") == ["app:latest", TOOL.digest]
    assert ask("msb-cache unpin app") == ["app:latest"]
    assert ask("msb-cache prunes show ") == ask("msb-cache restore ") == [newest, oldest]
    assert ask("msb-cache events --operation ") == [newest, oldest]
    assert ask(f"msb-cache prunes restore-plan {newest}") == [newest]
    assert ask(f"msb-cache restore {oldest} ") == ["app:1"]
    assert ask(f"msb-cache restore {newest[:20]} exa") == ["example.org/team/tool:2"]
    assert ask("msb-cache release ") == ["sandbox:dev", "snapshot:x y"]
    assert ask("msb-cache events --holder sn") == ["snapshot:x y"]


def test_help_for_shells_that_show_it(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageCache(home) as cache:
        cache.remove(["app:1", "app:latest"])
    monkeypatch.setenv("TZ", "UTC")
    for shell in ("zsh", "fish"):
        monkeypatch.setenv("_MSB_CACHE_COMPLETE", shell)
        monkeypatch.setenv("_MSB_CACHE_LINE", "msb-cache prunes show ")
        _, operation, said = call().lines
        assert len(operation) == 36
        assert said.endswith(" remove of 2 images")
        monkeypatch.setenv("_MSB_CACHE_LINE", "msb-cache events --type image.pulled")
        assert call().lines == ["plain", "image.pulled", "A reference points at a manifest"]


def test_an_unknown_shell_is_answered_nothing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MSB_CACHE_COMPLETE", "tcsh")
    done = call()
    assert (done.code, done.out, done.err) == (1, "", "")


def test_what_msb_names_is_completed_as_it_is_written_there(msb_home: MsbHome, ask: Ask) -> None:
    with ImageCache(msb_home.layout.home) as cache:
        cache.list()
    assert ask("msb-cache inspect ") == ["app:1", "example.org/two:2"]
    assert ask("msb-cache release ") == ["sandbox:dev"]
    msb_home.load("later:1", "later", "xy")
    assert ask("msb-cache inspect l") == []  # nothing is recorded by asking


def test_a_spelling_is_completed_as_it_was_typed(home: Path, ask: Ask, tmp_path: Path) -> None:
    with ImageCache(home) as cache:
        cache.load(tmp_path / "tool.tar", tag="docker.io/library/typed:1")
    assert ask("msb-cache inspect ty") == []
    assert ask("msb-cache inspect docker.io/library/t") == ["docker.io/library/typed:1"]


def test_what_another_process_has_written_is_seen(home: Path, ask: Ask) -> None:
    with ImageCache(home) as cache:
        cache.hold("app:1", "sandbox:dev")
        assert ask("msb-cache release ") == ["sandbox:dev"]


def test_what_cannot_be_read_has_no_answers(home: Path, ask: Ask) -> None:
    database = home / "db" / "msb-cache.db"
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        ask("msb-cache inspect ")  # whatever can be seen of it, at once
        other.execute("ROLLBACK")
    other.close()
    for content in (b"", b"SQLite format 3\0" + bytes(4000), database.read_bytes()[:8192]):
        database.write_bytes(content)
        assert ask("msb-cache inspect ") == []
        assert ask("msb-cache prunes show ") == []
    database.unlink()
    os.mkfifo(database)
    assert ask("msb-cache inspect ") == []
    database.unlink()
    database.symlink_to("/dev/zero")
    assert ask("msb-cache inspect ") == []
    (home / "config.json").write_text("{")
    assert ask("msb-cache inspect ") == []
    assert ask("msb-cache ins") == ["inspect"]


def test_of_very_many_the_first_and_the_last_one(home: Path, ask: Ask) -> None:
    with sqlite3.connect(home / "db" / "msb-cache.db") as index:
        (columns,) = index.execute("SELECT group_concat(name) FROM pragma_table_info('image')").fetchone()
        others = ",".join(name for name in columns.split(",") if name not in ("name", "reference"))
        index.executemany(
            f"INSERT INTO image (name, reference, {others}) SELECT ?, ?, {others} FROM image LIMIT 1",
            [(name, name) for name in (f"example.org/m{number:04}:1" for number in range(1000))],
        )
    index.close()
    found = ask("msb-cache inspect example.org/m")
    assert len(found) == completing.MOST + 1
    assert found[-2:] == [f"example.org/m{completing.MOST - 1:04}:1", "example.org/m0999:1"]
    assert ask("msb-cache inspect example.org/m0999") == ["example.org/m0999:1"]


def test_names_that_drive_a_terminal_are_no_answers(home: Path, ask: Ask) -> None:
    with sqlite3.connect(home / "db" / "msb-cache.db") as index:
        index.execute("PRAGMA ignore_check_constraints = ON")
        for name in ("sandbox:a\x1b[2Jb", "sandbox:a\nplain", "sandbox:\u202egnp", "sandbox:ok"):
            index.execute(
                "INSERT INTO hold (manifest_digest, holder, since, seq) VALUES ('x', ?, 1, 1)", (name,)
            )
    index.close()
    assert ask("msb-cache release ") == ["sandbox:ok"]


def test_every_parameter_that_is_completed_is_in_a_command() -> None:
    """A parameter that has another name by now would be completed no more."""
    context = click.Context(cli)
    there = parameters(cli)
    for name in command_names():
        command = cli.get_command(context, name)
        assert command is not None
        there |= parameters(command)
    by_name, in_commands = completing.OF_A_HOME
    assert {name for _, name in there} >= by_name.keys()
    assert there >= in_commands.keys()


def test_a_whole_process(home: Path) -> None:
    done = execute(
        _MSB_CACHE_COMPLETE="bash", _MSB_CACHE_LINE="msb-cache inspect app:l", _MSB_CACHE_BREAKS=":"
    )
    assert (done.code, done.out, done.err) == (0, "plain\nlatest\n\n", "")


def test_signed_checkpoints_are_completed_by_their_sizes(home: Path, ask: Ask) -> None:
    with ImageCache(home) as cache:
        first = cache.checkpoint(sign=new_log_key()).size
        cache.pin("app:1")
        sizes = [str(cache.checkpoint(sign=new_log_key()).size), str(first)]
    assert ask("msb-cache checkpoints show ") == ask("msb-cache prove app:1 --size ") == sizes
    assert ask(f"msb-cache checkpoints show {sizes[0][:1]}") == [
        each for each in sizes if each.startswith(sizes[0][:1])
    ]
