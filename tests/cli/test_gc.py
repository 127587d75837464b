"""gc: what it prints and how it ends, once; and what it logs while it stays."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from msb_cache import ImageCache, diagnostics
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.proof.note_file import notes_in
from msb_cache.proof.tree_head import head_of
from tests.cli.support import (
    PROGRAM,
    TOOL,
    Call,
    check_privileges,
    execute,
    fingerprint,
    on_terminal,
    sentence,
)

CI = '[[rule]]\nname = "apps"\nfilter = ["reference=app"]\nunused-for = "0s"\ngrace = "0s"\n'
ALL = '[[rule]]\nname = "all"\nunused-for = "0s"\ngrace = "0s"\n'
ROOM = '[[rule]]\nname = "room"\nmax-size = "1B"\ngrace = "0s"\n'


@pytest.fixture(autouse=True)
def nothing_stays_configured() -> Iterator[None]:
    yield
    diagnostics.use(None)
    structlog.reset_defaults()


def policy(home: Path, text: str) -> None:
    (home / "cache-policy.toml").write_text(text)


class TestOnce:
    def test_report(self, home: Path, call: Call) -> None:
        policy(home, CI)
        done = call("gc", "--reason", "nightly")
        assert (done.code, done.err) == (0, "")
        assert "Image refs:  2" in [line.strip() for line in done.lines]
        (row,) = call("prunes", "--format", "json").json
        assert row["actor"]["program"] == "msb-cache gc"
        assert row["actor"]["reason"] == "nightly"
        assert row["kind"] == "prune"
        told = call("prunes", "show", row["operation"], "--format", "json").json
        assert [each["policy_rule"] for each in told["going"]] == ["apps", "apps"]
        done = call("gc")
        assert (done.code, done.out, done.err) == (0, "", "Nothing to collect.\n")

    def test_json(self, home: Path, call: Call) -> None:
        policy(home, CI)
        done = call("gc", "--format", "json").json
        assert (done["outcome"], done["image_refs_removed"]) == ("completed", 2)
        assert [(each["reference"], each["policy_rule"]) for each in done["images"]] == [
            ("app:1", "apps"),
            ("app:latest", "apps"),
        ]
        assert call("gc", "--format", "json").json["operation"] is None

    def test_quiet(self, home: Path, call: Call) -> None:
        policy(home, CI)
        done = call("gc", "-q")
        (last,) = call("prunes", "-n", "1", "--format", "json").json
        assert (done.code, done.lines, done.err) == (0, [last["operation"]], "")
        again = call("gc", "-q")
        assert (again.code, again.out, again.err) == (0, "", "")

    def test_a_dry_run_is_that_of_a_prune(self, home: Path, call: Call) -> None:
        policy(home, CI)
        before = fingerprint(home)
        for more in ([], ["--format", "json"], ["-q"]):
            done, prune = call("gc", "--dry-run", *more), call("prune", "--policy", "--dry-run", *more)
            assert done.code == prune.code == 0
            assert len(done.out) == len(prune.out) > 0
        assert fingerprint(home) == before

    def test_no_policy(self, home: Path, call: Call) -> None:
        for arguments in ([], ["--dry-run"], ["--every", "1h"]):
            done = call("gc", *arguments)
            assert done.code == 2
            assert "msb-cache policy init" in sentence(done.err.splitlines()[-1])

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--every", "1h", "--dry-run"], "without --every"),
            (["--every", "0s"], "at least a second"),
            (["--every", "soon"], "soon"),
            (["--max-delete", "many"], "many"),
            (["--policy-file", "/none/policy.toml"], "/none/policy.toml cannot be read"),
            (["--every", "1h", "--policy-file", "/none/policy.toml"], "/none/policy.toml cannot be read"),
        ],
    )
    def test_usage(self, home: Path, call: Call, arguments: list[str], said: str) -> None:
        policy(home, CI)
        done = call("gc", *arguments)
        assert done.code == 2
        assert said in sentence(done.err)

    def test_a_mistake_in_the_file(self, home: Path, call: Call) -> None:
        policy(home, '[[rule]]\nunused_for = "1d"\n')
        done = call("gc")
        assert (done.code, done.out) == (2, "")
        assert "line 2" in sentence(done.err)

    def test_another_file(self, home: Path, tmp_path: Path, call: Call) -> None:
        policy(home, ALL)
        other = tmp_path / "other.toml"
        other.write_text(CI)
        assert call("gc", "--policy-file", other).code == 0
        assert call("list", "-q").lines == ["example.org/team/tool:2"]

    def test_a_bound_that_cannot_be_kept(self, home: Path, call: Call) -> None:
        policy(home, ROOM)
        call("pin", TOOL.digest)
        done = call("gc", "--format", "json")
        assert done.code == 5
        assert "the bound of 'room' in the policy cannot be kept" in sentence(done.err)
        assert done.json["bytes_missing"] > 0
        assert done.json["image_refs_removed"] == 2

    def test_the_brake(self, home: Path, call: Call) -> None:
        policy(home, ALL)
        for every in ("2", "50%"):
            done = call("gc", "--max-delete", every)
            assert (done.code, done.out) == (5, "")
            assert "nothing was deleted" in sentence(done.err)

    def test_ctrl_c_and_sigterm_say_so_by_their_exit_code(self, home: Path) -> None:
        policy(home, ALL)
        lock = Lock(Layout(home).prune_lock)  # so that it waits
        assert lock.acquire()
        for number in (signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen([PROGRAM, "--home", home, "gc"], stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            assert "waiting for another deletion" in process.stderr.readline()
            process.send_signal(number)
            assert process.wait(10) == 128 + number
            assert process.stderr.read() == "stopped\n"
            process.stderr.close()


class Staying:
    """``gc --every`` as a program, whose log is read line by line."""

    def __init__(self, home: Path, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, "--home", home, *before, "gc", "--every", "1s", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def wait_for(self, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + 20
        while sum(text in line for line in [*self.lines]) < count:
            assert time.monotonic() < deadline, (text, self.lines)
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        out, _ = self.process.stdout.read() if self.process.stdout else "", self.process.wait(20)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return self.process.returncode, out

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def staying(home: Path) -> Iterator[Staying]:
    policy(home, CI)
    found = Staying(home)
    yield found
    found.process.kill()
    found.process.wait()


class TestStaying:
    def test_a_line_for_each_decision(self, home: Path, staying: Staying) -> None:
        staying.wait_for("gc.run")
        time.sleep(1.2)  # a run with nothing to do says nothing
        assert staying.end() == (0, "")
        started, *images, run, stopped = staying.logged
        assert (started["event"], started["level"]) == ("gc.started", "info")
        assert (started["home"], started["every"]) == (str(home), "1s")
        assert stopped["event"] == "gc.stopped"
        assert [each["image"] for each in images] == ["app:1", "app:latest"]
        for each in images:
            assert (each["event"], each["level"], each["rule"]) == ("gc.image", "info", "apps")
            assert each["because"].startswith("idle ")
            assert each["because"].endswith(", over 0s")
            assert len(each["digest"]) == len("sha256:") + 12
        with ImageCache(home) as cache:
            (row,) = cache.prunes()
        assert (run["event"], run["operation"], run["images"]) == ("gc.run", row.operation, 2)
        assert run["outcome"] == "completed"
        assert run["bytes"] == row.counters.bytes_reclaimed
        assert 0 < run["seconds"] < 10
        assert row.actor.program == "msb-cache gc"

    def test_a_mistake_is_said_once_until_it_changes(self, home: Path, staying: Staying) -> None:
        staying.wait_for("gc.run")
        policy(home, "rule = 1")
        staying.wait_for("gc.policy")
        time.sleep(2.2)
        policy(home, "rules = 1")
        staying.wait_for("gc.policy", 2)
        policy(home, ALL)
        staying.wait_for("gc.run", 2)
        assert staying.end(signal.SIGINT) == (0, "")
        said = [line for line in staying.logged if line["event"] == "gc.policy"]
        assert len(said) == 2
        assert all(line["level"] == "warning" and "line 1" in line["said"] for line in said)

    def test_what_is_held_back_and_what_is_too_little_are_warnings(self, home: Path) -> None:
        policy(home, f"max-delete = 1\n{ALL}")
        staying = Staying(home, "-q")
        staying.wait_for("gc.held-back")
        with ImageCache(home) as cache:
            cache.pin(TOOL.digest)
        policy(home, ROOM)
        staying.wait_for("gc.short")
        assert staying.end()[0] == 0
        assert {line["level"] for line in staying.logged} == {"warning"}

    def test_a_run_that_fails_is_an_error_and_the_next_one_comes(self, home: Path) -> None:
        policy(home, CI)
        folder = home / "db"
        aside = folder.rename(home / "aside")
        folder.write_text("no folder")
        staying = Staying(home)
        staying.wait_for("gc.failed")
        folder.unlink()
        aside.rename(folder)
        staying.wait_for("gc.run")
        assert staying.end()[0] == 0
        assert {line["level"] for line in staying.logged if line["event"] == "gc.failed"} == {"error"}

    def test_json_is_a_line_for_each_run(self, home: Path) -> None:
        policy(home, CI)
        staying = Staying(home, "--format", "json", before=("--log-level", "debug"))
        staying.wait_for('"outcome": "nothing"')  # of the log, at this level
        code, out = staying.end()
        first, *others = [json.loads(line) for line in out.splitlines()]
        assert (code, first["outcome"], len(first["images"])) == (0, "completed", 2)
        assert others
        assert {each["outcome"] for each in others} == {"nothing"}
        assert "deletion.decided" in {line["event"] for line in staying.logged}

    def test_notes_go_to_the_log(self, home: Path) -> None:
        policy(home, CI)
        lock = Lock(Layout(home).prune_lock)
        assert lock.acquire()
        staying = Staying(home)
        staying.wait_for("waiting for another deletion")
        lock.release()
        staying.wait_for("gc.run")
        assert staying.end()[0] == 0
        (note,) = [line for line in staying.logged if line["event"] == "note"]
        assert note["level"] == "warning"

    def test_as_text(self, home: Path) -> None:
        policy(home, CI)
        staying = Staying(home, before=("--log-format", "text"))
        staying.wait_for("gc.run")
        assert staying.end()[0] == 0
        assert "[info     ] gc.image" in staying.lines[1]

    def test_on_a_terminal_it_is_text(self, home: Path) -> None:
        policy(home, CI)
        talk = on_terminal(["--home", home, "gc", "--every", "1h"], [("gc.run", b"\x03")])
        assert talk.code == 0
        assert '{"' not in talk.said
        assert "gc.stopped" in talk.said


class TestSigned:
    """What --sign adds to it."""

    def key(self, call: Call, tmp_path: Path) -> Path:
        assert call("key", "new", tmp_path / "log.key", "--name", "log.example/ci").code == 0
        return tmp_path / "log.key"

    def test_once(self, home: Path, call: Call, tmp_path: Path) -> None:
        policy(home, CI)
        notes, sign = tmp_path / "notes", ("--sign", self.key(call, tmp_path))
        done = call("gc", "-q", *sign, "--checkpoint-to", notes, "--checkpoint-command", "cat")
        assert (done.code, done.err, len(done.lines)) == (0, "", 1)
        (kept,) = call("checkpoints", "--format", "json").json
        assert kept["size"] == len(call("events", "--format", "json").json)
        assert notes.read_text() == kept["note"]
        assert call("verify", "--against", notes).code == 0

    def test_what_is_not_delivered_fails_the_run(self, home: Path, call: Call, tmp_path: Path) -> None:
        policy(home, CI)
        done = call("gc", "--sign", self.key(call, tmp_path), "--checkpoint-to", tmp_path / "none" / "notes")
        assert done.code == 1
        assert "Image refs:  2" in [line.strip() for line in done.lines]
        assert "no checkpoint can be appended to" in sentence(done.err)
        assert len(call("checkpoints", "--format", "json").json) == 1

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--sign-every", "5m"], "--sign-every belongs to --sign KEY"),
            (["--checkpoint-to", "notes"], "--checkpoint-to belongs to --sign KEY"),
            (["--witness-policy", "policy"], "--witness-policy belongs to --sign KEY"),
            (["--sign", "log.key", "--sign-every", "5m"], "give it with --every"),
            (["--sign", "log.key", "--dry-run"], "--dry-run records nothing; give it without --sign"),
            (["--sign", "log.key", "--every", "1h", "--sign-every", "soon"], "'soon' is no number of events"),
            (["--sign", "log.key", "--every", "1h", "--witness-policy", "-"], "give a file, not stdin"),
            (["--sign", "none.key", "--every", "1h"], "none.key"),
            (["--sign", "log.key", "--every", "1h", "--checkpoint-command", "'"], "is cut off"),
        ],
    )
    def test_options_that_make_no_sense(
        self, home: Path, call: Call, tmp_path: Path, arguments: list[str], says: str
    ) -> None:
        policy(home, CI)
        key = self.key(call, tmp_path)
        done = call("gc", *(key if each == "log.key" else each for each in arguments))
        assert (done.code, done.out) == (2, "")
        assert says in sentence(done.err)

    def test_staying(self, home: Path, call: Call, tmp_path: Path) -> None:
        """Signed after a run and between two; a problem is a warning, said once; it ends at once."""
        policy(home, CI)
        notes, late = tmp_path / "notes", tmp_path / "late"
        signing = ("--sign", self.key(call, tmp_path), "--sign-every", "1", "--checkpoint-to", notes)
        more = ("--every", "1h", "--checkpoint-command", f"test -e {late}")
        staying = Staying(home, *map(str, (*signing, *more)))
        staying.wait_for("checkpoint.failed")
        call("pin", "app:2")
        staying.wait_for("checkpoint.signed", 2)
        began = time.monotonic()
        assert staying.end()[0] == 0
        assert time.monotonic() - began < 5
        sizes = [each["size"] for each in reversed(call("checkpoints", "--format", "json").json)]
        found = [each for each in staying.logged if each["event"].startswith("checkpoint.")]
        assert [(each["event"], each["level"]) for each in found] == [
            ("checkpoint.signed", "info"),
            ("checkpoint.failed", "warning"),
            ("checkpoint.signed", "info"),
        ]
        assert [(each["events"], each["origin"], each["cosigned"]) for each in found[::2]] == [
            (size, "log.example/ci", []) for size in sizes
        ]
        assert found[1]["said"] == "test, which is to keep checkpoints, failed with exit code 1"
        assert [head_of(each).size for each in notes_in(notes.read_bytes())] == sizes


def test_it_is_cut_by_sigterm_between_two_files(home: Path, tmp_path: Path) -> None:
    """The exit code says that a deletion was cut; what it did is recorded, and said in the log."""
    policy(home, ALL)
    step = tmp_path / "site" / "sitecustomize.py"
    step.parent.mkdir()
    step.write_text(
        "import os, signal\n"
        "from msb_cache import failpoints\n"
        "def stop(step):\n"
        "    if step == 'delete.unlinked':\n"
        "        os.kill(os.getppid(), signal.SIGTERM)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "failpoints.observer = stop\n"
    )
    done = execute("--home", home, "gc", "--every", "1h", PYTHONPATH=str(step.parent))
    assert done.code == 143
    logged = [json.loads(line) for line in done.err.splitlines()]
    (run,) = [line for line in logged if line["event"] == "gc.run"]
    assert (run["outcome"], run["level"]) == ("stopped", "warning")
    assert logged[-1]["event"] == "gc.stopped"
    with ImageCache(home) as cache:
        outcomes = [each.outcome for each in cache.prune_report(run["operation"]).artifacts]
        assert outcomes.count("deleted") >= 1
        assert None in outcomes
        cache.release("sandbox:none")
        assert cache.prune_report(run["operation"]).counters.outcome == "completed"


UNITS = Path(__file__).parents[2] / "examples" / "systemd"


@pytest.mark.parametrize("name", ["msb-cache-gc@.service", "msb-cache-gc-every@.service"])
def test_the_units_run_it_with_few_privileges(
    name: str, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    analyze = require_peer("systemd-analyze")
    text = (UNITS / name).read_text()
    (command,) = re.findall(r"(?m)^ExecStart=/usr/local/bin/(.*)$", text)
    assert command in ("msb-cache gc", "msb-cache gc --every 15m")
    assert "User=%i\n" in text
    unit = tmp_path / name.replace("@", "@root")
    check_privileges(text, unit, analyze)
