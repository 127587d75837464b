"""How long work shows: lines for a log, a few lines on a terminal that go again, and nothing if quiet."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import pytest

from msb_cache.activity import Activity
from msb_cache.audit.data import DataProgress
from msb_cache.cli import output, progress
from msb_cache.cli.progress import deleting, display, reading, tell
from msb_cache.engines.decision import Progress as Deleted
from msb_cache.oci.registry.downloads import LayerProgress
from tests.cli.screen import Screen
from tests.cli.support import on_terminal
from tests.imagebuilder import docker_archive, file, image, layer
from tests.logs import digest
from tests.registry_server import RegistryServer, slowly

STEPS = (
    LayerProgress(digest(1), "queued", 0, 2048),
    LayerProgress(digest(2), "queued", 0, 4096),
    LayerProgress(digest(1), "exists", 2048, 2048),
    LayerProgress(digest(2), "resumed", 1024, 4096),
    LayerProgress(digest(2), "bytes", 2048, 4096),
    LayerProgress(digest(2), "retry", 2048, 4096, "the connection broke"),
    LayerProgress(digest(2), "done", 4096, 4096),
)


class Terminal(io.StringIO):
    """A terminal in which a test waits until something has been written."""

    encoding = "utf-8"
    errors = "strict"
    columns = 60

    def isatty(self) -> bool:
        return True

    def wait_for(self, *texts: str) -> None:
        """Wait until all of these have been written from here on."""
        start, deadline = len(self.getvalue()), time.monotonic() + 20
        while not all(text in self.getvalue()[start:] for text in texts):
            assert time.monotonic() < deadline, self.getvalue()[start:]
            time.sleep(0.002)

    @property
    def screen(self) -> Screen:
        return Screen(self.getvalue(), self.columns)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for before it is shown."""
    monkeypatch.setattr(progress, "_SHOWN_AFTER", 0)
    monkeypatch.setattr(progress, "_REFRESH", 0.005)


@contextmanager
def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Not a fixture: pytest sets stderr anew before a test runs."""
    found = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", found)
        for name, value in {"TERM": "xterm", "COLUMNS": "60", "LINES": "20"}.items():
            patched.setenv(name, value)
        yield found
        assert sys.stderr is found  # what was printed above what was drawn is put back
    assert not [each.name for each in threading.enumerate() if each.name == "msb-cache-progress"]


class TestOffATerminal:
    def test_nothing_if_quiet(self) -> None:
        with display(quiet=True) as show, deleting(quiet=True) as report:
            assert show is None
            assert report is None

    def test_a_pull_has_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        with display(quiet=False) as show:
            assert show is not None
            for step in STEPS:
                show(step)
        one, two = digest(1)[:19], digest(2)[:19]
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines() == [
            f"  {one}  2.0 KiB already here",
            f"  {two}  going on at 1.0 KiB of 4.0 KiB",
            f"  {two}  trying again: the connection broke",
            f"  {two}  4.0 KiB fetched",
        ]

    def test_one_by_msb_has_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        with display(quiet=False) as show:
            assert show is not None
            show(LayerProgress(digest(1), "started", 0, None))
            show(LayerProgress(digest(1), "fetched", 10, 10))
        assert capsys.readouterr() == ("", "")

    def test_nothing_else_has(self) -> None:
        with deleting(quiet=False) as report, reading() as show:
            assert report is None
            assert show is None

    def test_a_dumb_terminal_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal:
            monkeypatch.setenv("TERM", "dumb")
            with deleting(quiet=False) as report, display(quiet=False) as show:
                assert report is None
                assert show is not None
                for step in STEPS:
                    show(step)
        assert "\x1b" not in terminal.getvalue()

    def test_nor_is_one_to_which_a_log_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch), click.Context(click.Command("x")) as context:
            context.params["log_level"] = "info"
            with deleting(quiet=False) as report:
                assert report is None


@pytest.mark.usefixtures("at_once")
class TestOnATerminal:
    def test_a_pull(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal, display(quiet=False) as show:
            assert show is not None
            for step in STEPS[:3]:
                show(step)
            terminal.wait_for("queued", "already here", "1/2 layers")
            show(STEPS[4])
            terminal.wait_for("2.0/4.0 KiB")
            assert terminal.screen.hidden
        assert terminal.screen.lines == []
        assert not terminal.screen.hidden

    def test_notes_come_above_and_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal:
            with display(quiet=False) as show:
                assert show is not None
                show(STEPS[0])
                terminal.wait_for("queued")
                output.line(output.styled("note:", fg="yellow"), " something is unusual", err=True)
                terminal.wait_for("queued")
            output.line("  done", err=True)
        assert terminal.screen.lines == ["note: something is unusual", "  done"]

    def test_what_is_a_part_is_shown_as_long_as_it_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, part = Activity("checking"), Activity("reading", "events", 0, 10)
        with terminal_as_stderr(monkeypatch) as terminal:
            tell(whole)
            terminal.wait_for("checking")
            tell(part)
            tell(part._replace(done=4))
            terminal.wait_for("reading", "4 of 10 events")
            tell(part._replace(over=True))
            terminal.wait_for("checking")
            tell(whole._replace(over=True))
        assert terminal.screen.lines == []

    def test_an_end_of_what_was_not_begun_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal:
            tell(Activity("reading", over=True))
        assert terminal.getvalue() == ""

    def test_a_deletion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal, deleting(quiet=False) as report:
            assert report is not None
            for done in (1, 7, 12):
                report(Deleted(done, 12))
                terminal.wait_for("deleting", f"{done} of 12")
            report(Deleted(12, 12, stopped=True))
            assert terminal.screen.lines == []
        assert terminal.screen.lines == []

    def test_files_that_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal, reading() as show:
            assert show is not None
            show(DataProgress(3, 4, 3 << 20, 4 << 20))
            terminal.wait_for("reading files", "3.0/4.0 MiB")
        assert terminal.screen.lines == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_it_goes_when_the_work_fails(
        self, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
    ) -> None:
        with terminal_as_stderr(monkeypatch) as terminal:
            with suppress(error), deleting(quiet=False) as report:
                assert report is not None
                report(Deleted(1, 2))
                terminal.wait_for("1 of 2")
                raise error
            assert terminal.screen.lines == []
            assert not terminal.screen.hidden

    def test_letters_that_it_does_not_have_are_not_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal_as_stderr(monkeypatch) as terminal:
            terminal.encoding = "ascii"  # type: ignore[misc]
            with display(quiet=False) as show:
                assert show is not None
                for step in STEPS[:5]:
                    show(step)
                terminal.wait_for("###", "2.0/4.0 KiB")
        assert terminal.getvalue().isascii()


def test_what_is_over_at_once_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stderr(monkeypatch) as terminal:
        monkeypatch.setattr(progress._Drawing, "_draw", lambda self: pytest.fail("drawn"))
        with deleting(quiet=False) as report, display(quiet=False) as show:
            assert report is not None
            assert show is not None
            report(Deleted(1, 1))
            show(STEPS[0])
    assert terminal.getvalue() == ""


def test_what_follows_without_a_gap_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SHOWN_AFTER", 0.05)
    monkeypatch.setattr(progress, "_GAP", 60)
    with terminal_as_stderr(monkeypatch) as terminal:
        deadline = time.monotonic() + 20
        while "reading" not in terminal.getvalue() and time.monotonic() < deadline:
            tell(Activity("reading"))
            time.sleep(0.02)  # each is over before it would be shown
            tell(Activity("reading", over=True))
    assert "reading" in terminal.getvalue()
    assert terminal.screen.lines == []


SLOW = image([layer([file("big", os.urandom(1 << 20))]), layer([file("small", b"x")])], "slow:1")


class TestCommands:
    """The program itself, on a terminal of its own."""

    def test_pull(self, own_home: Path) -> None:
        with RegistryServer() as registry:
            reference = registry.add(SLOW)
            registry.on(SLOW.layers[0].digest, slowly(1.0))
            talk = on_terminal(["pull", "-j", "1", reference], COLUMNS="60", LINES="20")
        screen = Screen(talk.said, 60)
        assert talk.code == 0
        assert any(line.endswith(" MiB  queued") for line in screen.seen)
        assert any("0/2 layers" in line for line in screen.seen)
        assert [line for line in screen.lines if line.startswith("  ✓ Pulled")]
        assert not any("layers" in line or "queued" in line for line in screen.lines)

    def test_one_that_fails(self, own_home: Path) -> None:
        with RegistryServer() as registry:
            reference = registry.add(SLOW)
            registry.on(SLOW.layers[0].digest, slowly(1.0, wrong=True))
            talk = on_terminal(["pull", reference], LINES="20")
        screen = Screen(talk.said)
        assert talk.code == 1
        assert any("layers" in line for line in screen.seen)
        assert [line for line in screen.lines if "error:" in line]
        assert not any("0/2 layers" in line for line in screen.lines)

    def test_load_from_a_slow_pipe(self, own_home: Path, tmp_path: Path) -> None:
        archive = docker_archive(SLOW)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)

        def write() -> None:
            with pipe.open("wb", buffering=0) as file:
                for start in range(0, len(archive), len(archive) // 8):
                    file.write(archive[start : start + len(archive) // 8])
                    time.sleep(0.15)

        writer = threading.Thread(target=write)
        writer.start()
        talk = on_terminal(["load", "-i", pipe], LINES="20")
        writer.join()
        screen = Screen(talk.said)
        assert talk.code == 0
        assert any(re.search(r"reading the archive .*\d KiB|\d MiB", line) for line in screen.seen)
        assert not any("reading" in line for line in screen.lines)
        assert "✓ Loaded" in screen.lines[-1]
