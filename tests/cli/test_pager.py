"""What is longer than the terminal is shown with a pager, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import on_terminal

PAGER = "cat >{log}; echo paged"


def test_long_output_has_a_pager(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    talk = on_terminal(["list"], LINES="3", MSB_CACHE_PAGER=PAGER.format(log=log))
    assert (talk.code, talk.said) == (0, "paged\n")
    assert log.read_text().splitlines()[-1].startswith("app:1 ")
    talk = on_terminal(["list"], LINES="3", PAGER=PAGER.format(log=log), NO_COLOR="1")
    assert talk.said == "paged\n"
    assert "\x1b" not in log.read_text()


def test_what_has_room_has_none(home: Path, tmp_path: Path) -> None:
    talk = on_terminal(["list"], MSB_CACHE_PAGER=PAGER.format(log=tmp_path / "log"), LINES="24")
    assert "app:1" in talk.said
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--no-pager", "list"], {}),
        (["list", "--format", "json"], {}),
        (["list", "-q"], {}),
        (["list"], {"MSB_CACHE_PAGER": "cat"}),
        (["list"], {"MSB_CACHE_PAGER": ""}),
        (["list"], {"TERM": "dumb"}),
        (["list"], {"MSB_CACHE_PAGER": "no-such-program"}),
    ],
    ids=lambda value: " ".join(value) if value else None,
)
def test_no_pager(arguments: list[str], environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    given = {"LINES": "3", "MSB_CACHE_PAGER": PAGER.format(log=tmp_path / "log"), **environment}
    talk = on_terminal(arguments, **given)
    assert talk.code == 0
    assert "app:1" in talk.said
    assert not (tmp_path / "log").exists()


def test_a_pager_that_is_left_ends_the_command(home: Path) -> None:
    talk = on_terminal(["list"], LINES="3", MSB_CACHE_PAGER="true")
    assert (talk.code, talk.said) == (0, "")
