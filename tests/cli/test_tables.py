"""Tables have room on every terminal, and lose nothing that identifies or measures."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.cli import look, output, tables
from msb_cache.cli.tables import Cell, Column

DIGEST = f"sha256:0123456789ab{'c' * 52}"
HOUR = 3600 * 10**9


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], **given: object) -> list[str]:
    lines = tables.rendered(columns, rows, **given)  # type: ignore[arg-type]
    return ["".join(part if isinstance(part, str) else part.text for part in line).rstrip() for line in lines]


COLUMNS = (
    Column("IMAGE", "name"),
    Column("DIGEST", "digest", leave=2),
    Column("SIZE", "size"),
    Column("WHEN", "word", leave=1),
    Column("DETAILS"),
)
LONG = "registry.example.org/team/service/very-long-name-of-it:2026-11-28"
ROWS: list[list[Cell]] = [
    [LONG, DIGEST, 1536, "2 hours ago", "it was said that all of this would do"],
    ["app:1", None, None, "now", ""],
]


def test_in_a_pipe_nothing_is_shortened(terminal: Callable[[int | None], None]) -> None:
    terminal(None)
    header, first, second = table(COLUMNS, ROWS)
    assert first == f"{LONG}   {DIGEST}   1.5 KiB   2 hours ago   it was said that all of this would do"
    assert header.index("DIGEST") == first.index("sha256:") == second.index("-")
    assert first.index("1.5 KiB") + 6 == second.rindex("-")  # sizes are aligned to the right


def test_a_bar_goes_before_anything_else_is_shortened(terminal: Callable[[int | None], None]) -> None:
    columns = (Column("IMAGE", "name"), Column("SIZE", "size"), Column("", "bar"), Column("BY", leave=1))
    row: list[Cell] = ["n" * 40, 1536, "#" * 20, "alice"]
    natural = 40 + 7 + 20 + 5 + 3 * 2
    for width, expected in {natural: [row[2], "alice"], natural - 1: ["alice"]}.items():
        terminal(width)
        assert table(columns, [row])[1].split() == ["n" * 40, "1.5", "KiB", *expected]


def test_what_a_terminal_has_room_for(terminal: Callable[[int | None], None]) -> None:
    for columns, expected in {
        150: [
            "IMAGE DIGEST SIZE WHEN DETAILS",
            f"{LONG} 0123456789ab 1.5 KiB 2 hours ago it was said that all of this would do",
        ],
        130: [
            "IMAGE DIGEST SIZE WHEN DETAILS",
            f"{LONG} 0123456789ab 1.5 KiB 2 hours ago it was said that all of th…",
        ],
        100: [
            "IMAGE DIGEST SIZE WHEN DETAILS",
            LONG,
            " 0123456789ab 1.5 KiB 2 hours ago it was said that all of this would do",
        ],
        60: [
            "IMAGE DIGEST SIZE WHEN DETAILS",
            "registry.example.org/team/service/very-long-name-of-it:",
            "2026-11-28",
            " 0123456789ab 1.5 KiB 2 hours ago it was said that…",
        ],
        40: ["IMAGE SIZE DETAILS"],
    }.items():
        terminal(columns)
        shown = table(COLUMNS, ROWS)
        assert all(len(line) <= columns for line in shown)
        assert [re.sub(" +", " ", line) for line in shown[: len(expected)]] == expected, columns


def test_a_name_that_is_not_the_first_goes_on_below(terminal: Callable[[int | None], None]) -> None:
    terminal(40)
    shown = table([Column("N", "count"), Column("SUBJECT", "name")], [[12, LONG], [3, "app:1"]])
    assert shown[0] == " N  SUBJECT"
    assert shown[1].startswith("12  registry.example.org/")
    assert "".join(line[4:] for line in shown[1:-1]) == LONG
    assert shown[-1] == " 3  app:1"


def test_bars_have_the_room_that_is_left(terminal: Callable[[int | None], None]) -> None:
    def drawn(width: int | None, leave: int = 9) -> list[str]:
        terminal(width)
        found = tables.with_bars(
            [Column("IMAGE", "name"), Column("SIZE", "size"), Column("STATE", "word", leave=2)],
            [["a" * 30, 2048, "idle"], ["b", 1024, "held"]],
            Column("# ALL", "bar", leave=leave),
            lambda row, width: "#" * (width // (row + 1)),
        )
        return table(*found)

    assert [line.count("#") for line in drawn(None)] == [1, 20, 10]
    assert [line.count("#") for line in drawn(200)] == [1, 40, 20]
    assert [line.count("#") for line in drawn(70)] == [1, 19, 9]
    for width in range(60, 120):
        lines = drawn(width)
        assert max(map(len, lines)) <= width
        assert len({line.index("#") for line in lines}) == 1
    assert [line.count("#") for line in drawn(59)] == [0, 0, 0]


def test_columns_of_less_use_make_room_for_bars(terminal: Callable[[int | None], None]) -> None:
    columns = [Column("IMAGE", "name"), Column("SIZE", "size", leave=1), Column("STATE", "word", leave=3)]
    rows = [["a" * 40, 2048, "idle"]]
    terminal(65)
    for leave, headers in ((2, ["IMAGE", "SIZE", "BAR"]), (9, ["IMAGE", "SIZE", "STATE"])):
        found, _ = tables.with_bars(columns, rows, Column("BAR", "bar", leave=leave), lambda row, width: "#")
        assert [column.header for column in found] == headers


def test_prose_amid_others_stands_below_where_it_has_no_room(
    terminal: Callable[[int | None], None],
) -> None:
    columns = (Column("WHAT", "word"), Column("DETAILS", "prose"), Column("WHO"))
    rows = [
        ["loaded", "from an-archive-with-a-long-name.tar, 140.0 KiB new, 10.0 KiB reused", "a@b"],
        ["deleted", "140.0 KiB freed", ""],
    ]
    terminal(60)
    first, below, rest, second = table(columns, rows, header=False)
    assert first.split() == ["loaded", "a@b"]
    assert f"{below} {rest.strip()}" == f"    {rows[0][1]}"
    assert second == "deleted  140.0 KiB freed"


def test_prose_stands_below(terminal: Callable[[int | None], None]) -> None:
    columns = (Column("IMAGE", "name"), Column("BECAUSE", "prose"))
    because = "idle 3 days, over 14d; its room is needed, and nothing else does"
    terminal(60)
    assert table(columns, [["app:1", because]]) == [
        "IMAGE",
        "app:1",
        "    idle 3 days, over 14d; its room is needed, and nothing",
        "    else does",
    ]
    terminal(90)
    assert table(columns, [["app:1", because]]) == ["IMAGE   BECAUSE", f"app:1   {because}"]


def test_what_would_drive_a_terminal_is_shown_as_what_it_is(
    terminal: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(60)
    tables.show([Column("A\x1b", "name")], [["b\x1b[31m"], [output.styled("c\n", fg="red")]])
    assert "\x1b[31m" not in capsys.readouterr().out.replace("\x1b[31mc", "")


def test_rows_stream_behind_the_first_screenful(terminal: Callable[[int | None], None]) -> None:
    terminal(None)
    taken: list[int] = []

    def rows() -> object:
        for number in range(3 * tables.SCREENFUL):
            taken.append(number)
            yield [number, "x" * (1 if number < 2 * tables.SCREENFUL else 50)]

    lines = tables.rendered([Column("N", "count"), Column("X", "name")], rows())  # type: ignore[arg-type]
    for _ in range(2):
        next(iter(lines))
    assert len(taken) == tables.SCREENFUL
    assert len([*lines]) == 3 * tables.SCREENFUL - 1


texts = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=90)
kinds = st.sampled_from(["name", "text", "size", "duration"])


@given(st.data(), st.integers(60, 130), st.lists(kinds, min_size=1, max_size=6))
def test_no_line_is_wider_and_no_name_or_number_is_lost(
    data: st.DataObject, width: int, of: list[str]
) -> None:
    columns = [
        Column(f"C{n}", kind, leave=n if kind == "text" else 0)  # type: ignore[arg-type]
        for n, kind in enumerate(of)
    ]
    least = {"name": 16, "duration": len("under a minute"), "size": len("1023.9 GiB")}
    if sum(least.get(kind, 8 if n == 0 else 0) for n, kind in enumerate(of)) + 2 * (len(of) - 1) > 60:
        return  # of what is never left out, a line has room for some
    rows = data.draw(
        st.lists(
            st.tuples(*(texts if kind in ("name", "text") else st.integers(0, 2**40) for kind in of)),
            min_size=1,
            max_size=4,
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "width", lambda *, err=False: width)
        shown = table(columns, rows, header=False)
    assert all(len(line) <= width for line in shown)
    whole = re.sub(r"\s", "", "".join(shown))
    for row in rows:
        for kind, cell in zip(of, row, strict=True):
            if kind == "size":
                assert re.sub(" ", "", output.size(cell)) in whole  # type: ignore[arg-type]
    if of[0] == "name" and len(of) < 3:
        assert all(str(row[0]) in whole for row in rows)


@pytest.mark.parametrize("width", [None, 30])
def test_fields_go_on_below_their_beginning(
    width: int | None, terminal: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(width)
    tables.fields([("Name", "a"), ("Long name", "one two three four five six")], indent=2)
    expected = {
        None: ["  Name:      a", "  Long name: one two three four five six"],
        30: ["  Name:      a", "  Long name: one two three", "             four five six"],
    }
    assert capsys.readouterr().out.splitlines() == expected[width]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, ["  ✓ Pulled  one two three four five six\\x1b"]),
        (24, ["  ✓ Pulled  one two", "            three four", "            five six\\x1b"]),
        (
            5,
            [
                "  ✓ Pulled  one",
                *(" " * 12 + word for word in ("two", "thre", "e", "four", "five", "six\\", "x1b")),
            ],
        ),
    ],
)
def test_a_hanging_sentence_goes_on_below_itself(
    width: int | None,
    expected: list[str],
    terminal: Callable[[int | None], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal(width)
    mark = output.styled("✓", fg="green")
    tables.hanging("one two three four five six\x1b", "  ", mark, " Pulled  ", err=True)
    assert capsys.readouterr().err.splitlines() == expected


def test_a_column_has_a_name_in_settings() -> None:
    assert [Column(text).name for text in ("LAST USED", "#", "")] == ["last_used", "#", "mark"]


def test_a_closed_stdout_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert table([Column("A", "time")], [[HOUR]])[1] == look.absolute(HOUR)


def test_a_time_in_a_sentence_stands_in_one_line() -> None:
    when = "2026-11-28 13:30:00 +0530"
    for width in range(30, 70):
        lines = [
            *tables.paragraph(
                f"it goes in 19 days  unless used, ({when}), or on {when}; then it is gone", width
            )
        ]
        assert sum(when in line for line in lines) + (sum(line.count(when) == 2 for line in lines)) == 2
        assert all(len(line) <= width for line in lines)
        assert " ".join(lines).replace("  ", " ").count("used") == 1
