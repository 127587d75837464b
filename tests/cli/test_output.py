"""How values and tables look, and that a terminal has room for them."""

from __future__ import annotations

import re
from pathlib import Path

from msb_cache import ImageCache
from msb_cache.cli import output
from tests.cli.support import APP, on_terminal

MINUTE = r"\d{4}-\d\d-\d\d \d\d:\d\d"


def test_lines_of_the_usual_commands_fit_80_columns_or_are_tables(home: Path) -> None:
    """Only tables and digests may be wider than a terminal."""
    for command in ("inspect app:1", "prune -n", "verify"):
        for line in on_terminal(command.split(), NO_COLOR="1").said.splitlines():
            assert len(line) <= 80 or APP.digest in line or "MEDIA TYPE" in line or "application/" in line


def test_on_80_columns_a_table_leaves_times_ids_and_digests_whole(home: Path) -> None:
    def rows(*command: str) -> list[str]:
        _, *found = on_terminal(command, NO_COLOR="1").said.splitlines()
        assert found
        assert all(len(line) <= 80 for line in found)
        return found

    digest = APP.digest.removeprefix("sha256:")[:12]
    assert any(
        re.fullmatch(rf"app:latest +{digest}  +[\d.]+ KiB  {MINUTE}  {MINUTE}", line) for line in rows("list")
    )
    with ImageCache(home) as cache:
        cache.remove("app:latest")
        (deletion,) = cache.deletions()
    assert re.match(
        rf"{deletion.operation[:13]}  {MINUTE}|{deletion.operation[:13]}  \S{{10}} ", *rows("prunes")
    )
    for line in rows("events", "--type", "image.pulled", "--type", "image.removed"):
        assert re.search(rf"{MINUTE}  image\.(pulled|removed) ", line)


def test_a_narrow_table_still_shows_the_beginning_of_a_digest() -> None:
    cut = output._middle_out(10)
    assert cut(f"sha256:{'0123456789abcdef' * 4}") == "0123456789"
    assert cut("example.org/team/tool:2") == "examp…ol:2"
    assert cut("x:1") == "x:1"
