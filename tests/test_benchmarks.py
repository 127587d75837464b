"""The benchmarks run and do the work that they claim; how long it takes is for them to say."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def measured(name: str, folder: Path, msb: str | None = None, **size: float) -> Any:
    from setting import Setting
    from works import WORKS

    program = str(Path(sys.executable).with_name("msb-cache"))
    with Setting(folder, msb=msb, msb_cache=program) as setting:
        row = WORKS[name](setting, **size)
    assert [*folder.glob("scratch-*")] == []
    return row


SMALL = {
    "append": {"images": 50, "rounds": 3},
    "list": {"images": 100, "rounds": 3},
    "get": {"images": 50, "rounds": 3},
    "open": {"images": 50, "rounds": 3},
    "list-cold": {"rounds": 1},
    "list-cold-10000": {"images": 100, "rounds": 1},
    "inspect-cold": {"rounds": 1},
    "history-cold": {"rounds": 1},
    "df": {"images": 50, "rounds": 3},
    "df-cold": {"images": 50, "rounds": 1},
    "sql": {"images": 50, "rounds": 1},
    "metrics": {"images": 50, "rounds": 1},
    "report": {"images": 20, "uses": 2, "rounds": 1},
    "tree": {"images": 300, "rounds": 2},
    "append-tree": {"images": 300, "appends": 300, "rounds": 1},
    "complete": {"images": 50, "rounds": 1},
    "sync": {"images": 100, "rounds": 3},
    "sync-first": {"images": 100, "rounds": 1},
    "sync-boots": {"images": 20, "before": 200, "rounds": 2},
    "prune": {"images": 50, "rounds": 1},
}
IDLE = {"images": 20, "rounds": 1, "seconds": 1, "settle": 1.5}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_measurement_measures_ours_and_the_floor(name: str, tmp_path: Path) -> None:
    row = measured(name, tmp_path, **SMALL[name])
    assert row.rounds == SMALL[name]["rounds"]
    assert min(row.ours.seconds, row.floor.seconds, row.ratio, row.target) > 0
    assert row.msb is None


@pytest.mark.parametrize("name", ["idle-gc", "idle-watch"])
def test_what_stays_is_measured_while_it_stays(name: str, tmp_path: Path) -> None:
    row = measured(name, tmp_path, **IDLE)
    assert row.floor.seconds == 0.01
    assert 10 << 20 < row.ours.memory < 40 << 20
    assert row.ratio >= row.ours.memory / (40 << 20) > 0


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("inspect-cold", {"rounds": 1}),
        ("prune", {"images": 30, "rounds": 1}),
        ("prune-msb", {"images": 30, "rounds": 1}),
    ],
)
def test_msb_does_the_same_work(name: str, size: dict[str, int], msb: str, tmp_path: Path) -> None:
    row = measured(name, tmp_path, msb, **size)
    assert row.msb.seconds > 0
    assert row.msb.memory > 2**20


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fleet-ship", {"images": 20, "uses": 2, "rounds": 1}),
        ("fleet-last-used", {"logs": 3, "images": 20, "uses": 2, "rounds": 1}),
        ("fleet-history", {"logs": 3, "images": 20, "uses": 2, "rounds": 1}),
    ],
)
def test_a_fleet_is_asked_and_sent_to(
    name: str, size: dict[str, int], require_peer: Callable[[str], str], tmp_path: Path
) -> None:
    require_peer("postgresql")
    row = measured(name, tmp_path, **size)
    assert min(row.ours.seconds, row.floor.seconds, row.ratio) > 0


def drawing(svg: str) -> tuple[Element, list[list[tuple[float, float]]]]:
    """A picture, and the points of its lines."""
    root = fromstring(svg)
    lines = root.iterfind("{http://www.w3.org/2000/svg}polyline")
    return root, [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]
        for line in lines
    ]


def test_a_chart_has_all_points_within_it_and_says_what_it_shows() -> None:
    import chart

    root, lines = drawing(
        chart.drawn(
            "Time & size",
            "a < b",
            [chart.Panel("first", ["1", "2"], {"a": [0.0, 9.0], "b": [-1.0, 1.0]})] * 2,
            marks={"0": 0.0, "1": 1.0},
            limit="1",
            height=lambda value: value,
        )
    )
    title, described, *_ = root
    assert (root.attrib["role"], title.text, described.text) == ("img", "Time & size", "a < b")
    assert [root.attrib[f"aria-{name}"] for name in ("labelledby", "describedby")] == [
        each.attrib["id"] for each in (title, described)
    ]
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert len(lines) == 4
    assert all(0 < x < width and 0 < y < height for line in lines for x, y in line)
    assert [y for _, y in lines[0]] == [y for _, y in lines[1]]  # what is beyond the marks is at the edge
    assert lines[1][-1][0] < lines[2][0][0]


def test_growth_is_drawn_as_a_multiple_of_the_base() -> None:
    import growth

    root, [line] = drawing(growth.svg({100: {"get": 3.0}, growth.BASE: {"get": 2.0}, 10_000: {"get": 4.0}}))
    assert root[1].text == "get: 2.00 times with 10,000 images"
    ys = [y for _, y in line]
    assert ys[0] - ys[2] == pytest.approx(ys[1] - ys[0])


def test_sizes_of_fleets_grow_by_tens_on_both_axes() -> None:
    import fleet_growth

    for sizes in (fleet_growth.MORE_HOSTS, fleet_growth.LONGER_LOGS):
        assert [round(math.log10(size.events), 1) for size in sizes] == [4, 5, 6, 7]


@pytest.mark.peer
def test_a_fleet_s_growth_is_measured_and_drawn(require_peer: Callable[[str], str], tmp_path: Path) -> None:
    import fleet_growth

    require_peer("postgresql")
    sizes = [fleet_growth.Size(1, 10, 2), fleet_growth.Size(3, 10, 4)]
    found = fleet_growth.measure(tmp_path, sizes, turns=1)
    assert [each.size for each in found] == sizes
    assert all(value > 0 for each in found for value in each.ms.values())
    assert all(each.event_bytes > 300 and each.model_bytes > 100 for each in found)
    lines = fleet_growth.table(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[:3] for line in lines[2:]] == [["| 41", "1", "41"], ["| 183", "3", "61"]]
    root, points = drawing(fleet_growth.svg({"events": found}))
    assert len(points) == len(found[0].ms)
    assert "41 to 183 events: connect alone " in (root[1].text or "")
    assert [*tmp_path.glob("tmp*")] == []


def test_the_peak_of_a_command_is_not_that_of_whoever_starts_it(tmp_path: Path) -> None:
    from timing import process

    ballast = bytes(b"x" * 200_000_000)
    small, large = (
        process(sys.executable, "-c", f"b'x' * {size}", home=tmp_path)().memory for size in (1, 10**8)
    )
    assert small < len(ballast) / 2 <= large


def test_a_command_that_fails_is_not_measured(tmp_path: Path) -> None:
    from timing import process

    with pytest.raises(SystemExit, match="no such reason"):
        process(sys.executable, "-c", "raise SystemExit('no such reason')", home=tmp_path)()


RUNS = {"ours": [0.2, 0.6, 0.4], "floor": [0.1, 0.2, 0.2], "msb": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("names", "target", "line"),
    [
        ("ours floor msb", 2.0, "| w | 400.0 ms | 200.0 ms | 2.00 s | 2.00 | 2.00 | 3 |  |  | pass |"),
        ("ours floor", 1.5, "| w | 400.0 ms | 200.0 ms |  | 2.00 | 1.50 | 3 |  |  | **not** |"),
        ("ours msb", 1.0, "| w | 400.0 ms |  | 2.00 s | 0.20 | 1.00 | 3 |  |  | pass |"),
        ("ours", 1.0, "| w | 400.0 ms |  |  |  | 1.00 | 3 |  |  |  |"),
    ],
)
def test_the_ratio_is_to_the_floor_else_to_msb(names: str, target: float, line: str) -> None:
    import table
    from timing import Run

    runs = {name: [Run(seconds) for seconds in RUNS[name]] for name in names.split()}
    assert table.line(table.measured("w", runs, target)) == line


def test_a_table_tells_its_rows_by_columns() -> None:
    import table

    assert table.HEADER.count("|") == table.RULE.count("|") == 11


def test_the_floors_use_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "benchmarks" / "floors.py").read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"__future__", "collections.abc", "hashlib", "os", "pathlib", "sqlite3", "typing"}


def test_the_table_is_what_the_program_prints(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "bench.py", tmp_path, "--only", "get", "--rounds", "3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, _, header, _, row = done.stdout.splitlines()
    assert first.startswith(f"{os.cpu_count()} cores")
    assert header.startswith("| work | ours | floor | msb |")
    assert row.startswith("| `get` on an open cache |")
    assert "| 3 |" in row
