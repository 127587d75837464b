"""On a terminal and off it: colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.support import ESCAPE, Call, on_terminal

SHOWS = ["list", "inspect app:1", "history app:1", "events", "prunes", "verify", "prune -n", "use app:1"]
SHOWS += ["pin app:1", "pins", "prune -n --unused-for 1d", "why app:1 --unused-for 1d", "rm -n app:1"]


class TestColour:
    @pytest.mark.parametrize("command", ["list", "history app:1", "events", "verify", "use app:1"])
    def test_on_a_terminal(self, home: Path, command: str) -> None:
        talk = on_terminal(command.split())
        assert talk.code == 0
        assert ESCAPE in talk.said

    def test_errors_too(self, home: Path) -> None:
        assert f"{ESCAPE}31m" in on_terminal(["inspect", "nothing:1"]).said

    @pytest.mark.parametrize("command", [*SHOWS, "inspect nothing:1", "rm nothing:1 nothing:2", "bogus"])
    def test_not_with_no_color(self, home: Path, command: str) -> None:
        assert ESCAPE not in on_terminal(command.split(), NO_COLOR="1").said

    def test_an_empty_no_color_says_nothing(self, home: Path) -> None:
        assert ESCAPE in on_terminal(["list"], NO_COLOR="").said

    @pytest.mark.parametrize("command", SHOWS)
    def test_not_into_a_pipe(self, home: Path, call: Call, command: str) -> None:
        done = call(*command.split())
        assert ESCAPE not in done.out + done.err

    def test_only_the_stream_that_is_a_terminal(self, home: Path) -> None:
        talk = on_terminal(["list"], stdout_too=False)
        assert talk.stdout is not None
        assert ESCAPE not in talk.stdout
        assert "app:1" in talk.stdout

    def test_json_has_none(self, home: Path) -> None:
        talk = on_terminal(["list", "--format", "json"])
        assert json.loads(talk.said)[0]["reference"] == "example.org/team/tool:2"
