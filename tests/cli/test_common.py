"""Options that mean the same everywhere, and how a command that waits is asked to end."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import click
import pytest

from msb_cache.cli.common import (
    PATH,
    done,
    examples,
    limit_option,
    note,
    on_terminal,
    reason_option,
    stopping,
)
from msb_cache.cli.main import command_names
from tests.cli.support import Call, sentence


def test_a_limit_is_a_number_from_one_on() -> None:
    @click.command()
    @limit_option
    def command(limit: int | None) -> int | None:
        return limit

    assert command.main(["-n", "7"], standalone_mode=False) == 7
    assert command.main([], standalone_mode=False) is None
    for text in ("", "x", "1.5", "-1", "0", "9" * 5000):
        with pytest.raises(click.BadParameter):
            command.main(["--limit", text], standalone_mode=False)


def test_a_path_is_for_its_reader_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in (tmp_path / "file", tmp_path, tmp_path / "none"):
        assert PATH(str(path)) == str(path)

    @click.command()
    @click.argument("path", type=PATH)
    def command(path: str) -> None: ...

    (offered,) = PATH.shell_complete(click.Context(command), command.params[0], "a")
    assert (offered.value, offered.type) == ("a", "file")  # which asks the shell for its own


def test_examples_stay_as_they_are() -> None:
    assert examples("one", "two") == "\b\nExamples:\n  one\n  two"


def test_a_reason_has_a_length() -> None:
    @click.command()
    @reason_option
    def command(reason: str | None) -> int:
        return len(reason or "")

    assert command.main(["--reason", "x" * 300], standalone_mode=False) == 300
    assert command.main([], standalone_mode=False) == 0
    with pytest.raises(click.BadParameter, match="at most 300 characters"):
        command.main(["--reason", "x" * 301], standalone_mode=False)


def test_a_closed_stream_is_no_terminal() -> None:
    assert not on_terminal(None)
    assert not on_terminal(io.StringIO())


def test_what_is_said_beside_the_answer_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("this is unusual")
    done("Used", "app:1")
    assert capsys.readouterr() == ("", "note: this is unusual\n  ✓ Used       app:1\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_is_given_back(number: int) -> None:
    before = signal.getsignal(number)
    with stopping() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert stopped()
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


def test_signals_are_given_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stopping():
        _ = 1 // 0
    assert signal.getsignal(signal.SIGINT) == before


class TestMissingHome:
    """A home that is not there: named by --home, by MSB_HOME, or by nothing."""

    @pytest.mark.parametrize("command", command_names())
    def test_what_is_named_is_found_or_made(self, call: Call, tmp_path: Path, command: str) -> None:
        one = ("inspect", "remove", "save", "use", "history", "why", "unpin", "hand-over")
        words = {
            "diff": ["@0"],
            "hold": ["app:1", "sandbox:x"],
            "release": ["sandbox:x"],
            "restore": ["01a20ede"],
            "log": ["acknowledge"],
            "backup": [tmp_path / "copy"],
            "prune": ["-y"],
            "sql": ["select 1"],
            "report": ["--text"],
            "serve": ["--token-file", tmp_path / "token"],
            **{name: ["app:1"] for name in one},
            **{name: [tmp_path / "none.tar"] for name in ("load", "import", "restore-backup")},
            "prove": ["@1"],
            **{name: ["UPPER"] for name in ("pull", "pin")},
        }.get(command, [])
        if command in ("config", "completion", "key", "schema", "check-proof", "witness", "fleet"):
            return  # they open none
        if command == "watch":
            pytest.skip("it waits for msb, which makes the home")
        home = tmp_path / "typo"
        done = call("--home", home, command, *words)
        if command in ("pull", "load", "pin", "import", "restore-backup"):
            assert "typo does not exist" not in done.err
        else:
            assert (done.code, done.out) == (3, "")
            assert sentence(done.err) == (
                f"the home {home} does not exist; give --home another one, or begin one there with `pull` or "
                "`load`"
            )
        assert not home.exists()

    def test_one_like_it_is_offered(self, call: Call, home: Path) -> None:
        done = call("--home", f"{home}s", "list")
        assert sentence(done.err) == f"the home {home}s does not exist; did you mean {home}?"

    def test_of_the_environments_there_is_one_note(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MSB_HOME", str(tmp_path / "typo"))
        note = f"note: the home {tmp_path}/typo, which MSB_HOME names, does not exist: it is an empty cache"
        for words in (["list", "-q"], ["list", "--format", "json"], ["prunes"], ["pins"], ["df"]):
            done = call(*words)
            assert (done.code, done.err.splitlines()[0]) == (0, note)
            assert done.err.count("note:") == 1
        assert call("release", "-q", "sandbox:x").err == ""
        assert not (tmp_path / "typo").exists()

    def test_without_a_setting_nothing_is_said(self, call: Call, own_home: Path) -> None:
        assert "note:" not in call("list").err
        assert call("list", "-q").err == ""
        assert not own_home.exists()

    def test_what_makes_a_home_says_so(self, call: Call, home: Path, tmp_path: Path) -> None:
        assert call("export", "-o", tmp_path / "log.jsonl").code == 0
        for place, words in {
            "loaded": ["load", tmp_path / "app.tar"],
            "imported": ["import", tmp_path / "log.jsonl"],
            "restored": ["restore-backup", tmp_path / "log.jsonl"],
            "pinned": ["pin", "app:1"],
        }.items():
            done = call("--home", tmp_path / place, *words)
            assert done.code == 0
            said = f"note: {tmp_path / place} is new and kept by msb-cache itself"
            assert [line for line in done.err.splitlines() if line.startswith(said)], done.err
            again = call("--home", tmp_path / place, "pin", "app:1")
            assert "is new" not in again.err
        refused = call("--home", tmp_path / "refused", "restore-backup", tmp_path / "none")
        assert (refused.code, (tmp_path / "refused").exists()) == (1, False)
