"""What every command shows on terminals of three widths, of a home with long names, keeps to rules."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.cli.main import command_names
from tests import longnames
from tests.cli.support import PROGRAM
from tests.proof.signing import keep_signed, new_log_key

WIDTHS = (60, 80, 120)

REF, GONE = longnames.reference(4), longnames.removed()
KEY = new_log_key()
COMMANDS = {
    "list": ["list", "list --absolute", "list --sort size -n 5"],
    "inspect": [f"inspect {REF}"],
    "report": ["report --text", "report --text --since @1 --absolute"],
    "why": [f"why {REF}", f"why {GONE}", f"why {REF} --unused-for 30d"],
    "history": [f"history {REF}", f"history {GONE}", f"history {REF} --absolute"],
    "events": ["events -n 60", "events -n 60 --absolute"],
    "holders": ["holders", "holders --absolute", f"holders {REF}"],
    "pins": ["pins", "pins --absolute"],
    "last-used": ["last-used", "last-used --absolute"],
    "prunes": ["prunes", "prunes --absolute", "prunes show {operation}", "prunes restore-plan {operation}"],
    "restore": ["restore {operation} --dry-run"],
    "diff": ["diff @20", "diff @150 @250"],
    "prune": [
        "prune --dry-run",
        "prune --dry-run --unused-for 30d",
        "prune --yes --filter reference=*checkout*",
    ],
    "gc": ["gc --dry-run"],
    "policy": ["policy show", f"policy test {REF}", "policy check"],
    "info": ["info"],
    "df": ["df"],
    "verify": ["verify"],
    "doctor": ["doctor"],
    "replay": ["replay --until 30"],
    "checkpoint": ["checkpoint"],
    "checkpoints": ["checkpoints"],
    "prove": [f"prove {GONE} -o gone.tlog-proof", "prove {operation} -o pruned.tlog-proof"],
    "check-proof": [f"check-proof {name}.tlog-proof --key {KEY.key}" for name in ("gone", "pruned")],
    "sync": ["sync"],
    "remove": [f"remove --dry-run {REF}", f"remove {longnames.reference(9)}"],
    "use": [f"use {REF}"],
    "hold": [f"hold {REF} sandbox:some-long-name-of-a-sandbox"],
    "release": ["release sandbox:some-long-name-of-a-sandbox"],
    "pin": [f"pin {REF} --until friday"],
    "unpin": [f"unpin {REF}"],
    "save": [f"save {REF} -o saved.tar"],
    "load": ["load saved.tar"],
    "export": ["export -o log.jsonl"],
    "schema": ["schema"],
    "backup": ["backup log.backup"],
    "rebuild": ["rebuild"],
    "hand-over": [],
    "config": ["config show"],
    "sql": ["sql 'select reference, digest, size_bytes from v_images limit 5'"],
}
"""By command; ``{operation}`` is the id of the prune."""

NO_TABLES = {
    "pull": "needs a registry; what it prints is what load prints",
    "import": "needs a home without a log; prints one line",
    "restore-backup": "prints one line",
    "key": "prints a key, to be kept as it is",
    "log": "a group; its commands print one line each",
    "ship": "needs a server; prints one line",
    "fleet": "knows no home; its tables are in the tests of its commands",
    "watch": "stays; its lines are those of events --follow",
    "metrics": "prints for programs",
    "completion": "prints a script",
    "serve": "stays; it prints its address",
    "witness": "knows no home; its tables are in test_witness.py",
}


def test_every_command_is_looked_at() -> None:
    assert {*command_names()} == {*COMMANDS, *NO_TABLES}


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], dict[str, str]]]:
    """What the commands show on stdout at a width, by command; all of them run in one session of tmux."""
    if shutil.which("tmux") is None:
        if os.environ.get("MSB_CACHE_REQUIRE_PEERS"):
            pytest.fail("tmux is missing")
        pytest.skip("tmux is missing")
    folder = tmp_path_factory.mktemp("captures")
    longnames.make(folder / "made")
    keep_signed(Layout(folder / "made").database, KEY)
    (folder / "made" / "cache-policy.toml").write_text('[[rule]]\nname = "idle"\nunused-for = "30d"\n')
    environment = {**os.environ, "TERM": "xterm-256color", "TZ": "Asia/Kolkata", "MSB_CACHE_NO_HEAD": "1"}
    for name in ("NO_COLOR", "MSB_HOME", "COLUMNS", "LINES", "TMUX"):
        environment.pop(name, None)
    listed = subprocess.run(
        [PROGRAM, "--home", folder / "made", "prunes", "--format", "json"],
        capture_output=True,
        env=environment,
        check=True,
    )
    operation = next(each["operation"] for each in json.loads(listed.stdout) if each["kind"] == "prune")
    commands = [each.replace("{operation}", operation) for some in COMMANDS.values() for each in some]
    started: dict[int, Path] = {}

    def tmux(width: int, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-S", str(folder / f"socket-{width}"), "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        ).stdout

    for width in WIDTHS:
        home = folder / str(width)
        shutil.copytree(folder / "made", home)
        lines = [f"cd {home}"]
        for number, command in enumerate(commands):
            lines += [
                f"echo '@{number}@'",
                f"{PROGRAM} --home {home} {command} 2>{home}/stderr-{number} </dev/null",
            ]
        script = home / "run"
        script.write_text("\n".join([*lines, "echo '@@'", f"touch {home}/done", "sleep 600"]))
        tmux(width, "new-session", "-d", "-x", str(width), "-y", "4000", f"sh {shlex.quote(str(script))}")
        started[width] = home

    def shown(width: int) -> dict[str, str]:
        deadline = time.monotonic() + 120
        while not (started[width] / "done").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # -J: what the terminal put on a second line, because it had no room, is one line again.
        text = tmux(width, "capture-pane", "-p", "-J")
        parts = re.split(r"^@(\d*)@ *\n", text, flags=re.MULTILINE)
        return {commands[int(n)]: part for n, part in zip(parts[1::2], parts[2::2], strict=True) if n}

    yield shown
    for width in WIDTHS:
        tmux(width, "kill-server")


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    """How many columns the terminal has."""
    found: int = request.param
    return found


def broken(captured: dict[str, str], rule: Callable[[str, str], bool]) -> list[str]:
    """The lines that break a rule, which gets the command and a line."""
    return [
        f"{command}: {line.rstrip()}"
        for command, text in captured.items()
        for line in text.splitlines()
        if rule(command, line.rstrip())
    ]


@pytest.mark.slow
class TestRules:
    def test_every_command_shows_something(
        self, width: int, captures: Callable[[int], dict[str, str]]
    ) -> None:
        captured = captures(width)
        silent = {"gc --dry-run", "sync", "rebuild", *(each for each in captured if "✓" in each)}
        reading = [
            c for name in ("list", "why", "history", "events", "prunes", "diff", "df") for c in COMMANDS[name]
        ]
        assert silent
        assert [
            c for c in captured if any(c.startswith(r.split(" {")[0]) for r in reading) and not captured[c]
        ] == []

    def test_no_line_is_wider_than_the_terminal(
        self, width: int, captures: Callable[[int], dict[str, str]]
    ) -> None:
        def is_wide(command: str, line: str) -> bool:
            return len(line) > width and command != "checkpoint"  # a note, to be kept as it is

        assert broken(captures(width), is_wide) == []

    def test_no_digest_is_cut_without_saying_so(
        self, width: int, captures: Callable[[int], dict[str, str]]
    ) -> None:
        cut = re.compile(
            r"sha256:(?![0-9a-f]{12}(?![0-9a-f])|[0-9a-f]{64}|[0-9a-f]*…)|\b[0-9a-f]{33,63}\b(?!…)"
        )
        known = ("checkpoint", "policy", "verify", "info", "save")  # of logs and files, not of images

        def is_cut(command: str, line: str) -> bool:
            return not command.startswith(known) and cut.search(line) is not None

        assert broken(captures(width), is_cut) == []

    def test_no_time_of_day_is_lost(self, width: int, captures: Callable[[int], dict[str, str]]) -> None:
        lost, whole = [], r"\d\d:\d\d:\d\d \+0530"
        for command, text in captures(width).items():
            lines = text.splitlines()
            for number, line in enumerate(lines):
                for date in re.finditer(r"(?<![\d.-])20\d\d-\d\d-\d\d(?!T)", line):
                    # A sentence, and a column of 60, goes on in the next line.
                    here, below = line[date.end() :], "".join(lines[number + 1 : number + 2])
                    if not re.match(rf" {whole}", f"{here} {below.strip()}") and not re.search(whole, below):
                        lost.append(f"{command}: {line}")
        assert lost == []

    def test_tables_say_how_long_ago_it_was(
        self, width: int, captures: Callable[[int], dict[str, str]]
    ) -> None:
        captured = captures(width)
        for command in ("list", "prunes", "last-used", "holders", "pins"):
            assert re.search(r"\bago\b", captured[command]), command
            assert not re.search(r"\d\d:\d\d:\d\d", captured[command]), command

    def test_an_ellipsis_ends_a_cell(self, width: int, captures: Callable[[int], dict[str, str]]) -> None:
        assert (
            broken(captures(width), lambda command, line: re.search(r"…(?!$|  | … )", line) is not None) == []
        )

    def test_every_image_is_listed_by_its_whole_name(
        self, width: int, captures: Callable[[int], dict[str, str]]
    ) -> None:
        captured = captures(width)
        for command in ("list", "last-used"):
            whole = re.sub(r"\s", "", captured[command])
            names = [longnames.reference(number) for number in range(40, 48)]
            assert [name for name in names if name not in whole] == [], command
