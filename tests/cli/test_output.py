"""How values and tables look, and that a terminal has room for them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.cli import output
from tests.cli.support import APP, on_terminal

NS = 1_800_000_000_000_000_007  # 2027-01-15T08:00:00.000000007Z


@pytest.fixture
def india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local zone is five and a half hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make stdout a terminal of this many columns."""

    def make(columns: int) -> None:
        monkeypatch.setattr(output, "_on_terminal", lambda stream: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return make


@pytest.mark.parametrize(
    ("ns", "local", "with_offset", "rfc3339"),
    [
        (None, "-", "-", None),
        (NS, "2027-01-15 13:30:00", "2027-01-15 13:30:00 +0530", "2027-01-15T08:00:00.000000007+00:00"),
        (0, "1970-01-01 05:30:00", "1970-01-01 05:30:00 +0530", "1970-01-01T00:00:00.000000000+00:00"),
        (-1, "1970-01-01 05:29:59", "1970-01-01 05:29:59 +0530", "1969-12-31T23:59:59.999999999+00:00"),
    ],
)
def test_times(india: None, ns: int | None, local: str, with_offset: str, rfc3339: str | None) -> None:
    assert output.local_time(ns) == local
    assert output.local_time_with_offset(ns) == with_offset
    assert output.rfc3339(ns) == rfc3339


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("app:1", "app:1"),
        ("äpp – 二", "äpp – 二"),
        ("\x1b[31m\r\n\x07", "\\x1b[31m\\r\\n\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert output.printable(text) == shown


@pytest.mark.parametrize("said", ["", "1"])
def test_an_error_on_stderr(
    said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", said)
    output.error("it has \x1b[31m in its name")
    assert capsys.readouterr() == ("", "error: it has \\x1b[31m in its name\n")


def test_a_table_off_a_terminal_is_as_wide_as_its_cells(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.table(("NAME", "SIZE"), [("a" * 200, "5"), ("b\x1b", "1000")], right=(1,))
    assert capsys.readouterr().out.splitlines() == [
        f"NAME{' ' * 196}   SIZE",
        f"{'a' * 200}      5",
        f"b\\x1b{' ' * 195}   1000",
    ]


def test_a_table_on_a_terminal_gives_up_the_middles_of_texts_first(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "sha256:0123456789ab"
    row = ("registry.example.org/a/long/name:tag", digest, "2027-01-15 13:30:00 +0530", "image.pulled")
    header = ("REFERENCE", "DIGEST", "WHEN", "TYPE")
    for columns, expected in {
        120: "   ".join(row),
        82: "registry.example.org/a/long/name:tag  0123456789ab  2027-01-15 13:30  image.pulled",
        70: "registry.exa…ng/name:tag  0123456789ab  2027-01-15 13:30  image.pulled",
        50: "regis…:tag  0123456789ab  2027-01-15  image.pulled",
    }.items():
        terminal(columns)
        output.table(header, [row])
        shown = capsys.readouterr().out.splitlines()[1]
        assert shown == expected, columns


def test_a_table_on_a_terminal_leaves_durations_whole(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(40)
    rows = [("registry.example.org/a:tag", "under a minute"), ("registry.example.org/b:tag", "11 days")]
    output.table(("REFERENCE", "IDLE"), rows)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "registry.exa…e.org/a:tag  under a minute",
        "registry.exa…e.org/b:tag  11 days",
    ]


def test_a_long_table_comes_a_screenful_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    taken = []

    def rows() -> Iterator[tuple[str, ...]]:
        for number in range(2 * output.SCREENFUL + 1):
            taken.append(number)
            yield (str(number), "x")

    output.long_table(("N", "X"), (row for row in rows()), right=(0,))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [str(number) for number in taken]
    # The first screenful gave the columns their widths.
    assert lines[1] == " 0   x"
    assert lines[-1] == "200   x"


@pytest.mark.parametrize("count", [0, 1, output.SCREENFUL, output.SCREENFUL + 1])
def test_a_json_array_in_parts_is_what_it_is_at_once(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    values = [{"number": number, "text": "a\nb", "none": None, "list": []} for number in range(count)]
    output.json_array(iter(values))
    in_parts = capsys.readouterr().out
    output.json(values)
    assert in_parts == capsys.readouterr().out
    assert json.loads(in_parts) == values


def test_columns_are_aligned_and_indented(capsys: pytest.CaptureFixture[str]) -> None:
    output.columns([("a", "bb", "c"), ("aaa", "", "\x07")], err=True)
    assert capsys.readouterr() == ("", "  a     bb   c\n  aaa        \\x07\n")


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


def test_a_last_column_without_room_stands_below_and_whole(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(20)
    monkeypatch.setenv("NO_COLOR", "1")
    output.whole_table(("NAME", "NOTES"), [("a:1", "why it is not here"), ("b:1", "")])
    assert capsys.readouterr().out == "NAME\n    NOTES\na:1\n    why it is not here\nb:1\n"
