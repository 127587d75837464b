"""Shapes say what the report says."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from msb_cache.report.drawings import LIFE_WIDTH, WIDTH, life_line, life_ticks, sizes_picture, treemap
from msb_cache.report.facts import Block, ImageLife, SizePoint, Span
from msb_cache.report.geometry import Scale
from tests.report import samples


def test_the_line_of_sizes_steps_to_each_point_and_ends_at_the_edge() -> None:
    found = sizes_picture(samples.of(3))
    assert found is not None
    assert found.line.count("V") == 299
    assert len(found.points.split()) == 300
    assert found.line.endswith(f"H{WIDTH}")
    assert (found.smallest.bytes, found.largest.bytes) == (9_000_000, 15_400_000)
    assert len(found.marks) == 100
    assert all(64 <= mark.x <= WIDTH for mark in found.marks)
    assert sizes_picture(samples.empty()) is None


def test_of_very_many_points_the_peaks_are_drawn() -> None:
    report = samples.of(3)
    points = tuple(SizePoint(samples.BEGIN + at * 10**9, at + 1, at % 9, 1) for at in range(1000))
    found = sizes_picture(
        replace(report, sizes=(*points[:500], SizePoint(points[500].at_ns, 501, 10**6, 1), *points[501:]))
    )
    assert found is not None
    assert len(found.points.split()) <= 400
    assert ",1000000,1" in found.points


def test_a_mark_stands_on_the_size_before_its_deletion() -> None:
    report = samples.of(3)
    found = sizes_picture(report)
    assert found is not None
    ticks = {tick.text: tick.at for tick in found.up}
    per_byte = (ticks["0 MiB"] - ticks["15 MiB"]) / (15 << 20)
    for mark in found.marks:
        before = max((p for p in report.sizes if p.seq <= mark.deletion.seq), key=lambda p: p.seq)
        assert mark.y == pytest.approx(ticks["0 MiB"] - before.bytes * per_byte, abs=0.2)


def test_areas_have_every_byte_once() -> None:
    report = samples.of(400)
    groups = treemap(report.blocks)
    assert sum(group.bytes for group in groups) == report.bytes
    shown = [cell.block for group in groups for cell in group.cells]
    assert sum(block.unique_bytes + block.flat_bytes for block in shown) == report.bytes
    assert any("smaller images" in block.name for block in shown)
    assert treemap(()) == ()


def test_a_flat_root_has_its_part_of_the_area() -> None:
    groups = treemap([Block("image", "a", 300, 100), Block("image", "b", 50, 50)])
    for cell in groups[0].cells:
        assert cell.flat is not None
        part = cell.flat.width * cell.flat.height / (cell.rect.width * cell.rect.height)
        assert part == pytest.approx(
            cell.block.flat_bytes / (cell.block.flat_bytes + cell.block.unique_bytes)
        )


def test_a_long_name_keeps_its_end() -> None:
    (group,) = treemap([Block("image", "registry.example.org/" + "x" * 300 + ":v1.2.3", 5)])
    assert group.cells[0].label.startswith("…")
    assert group.cells[0].label.endswith("x:v1.2.3")


def test_registry_and_folders_go_before_a_name_is_cut() -> None:
    name = "registry.example.org/team/service:v1"
    blocks = [Block("image", "large", 880), Block("image", name, 120)]
    (group,) = treemap(blocks)
    assert [cell.label for cell in group.cells] == ["large", "service:v1"]


def test_a_heading_that_does_not_fit_is_shorter_or_left_out() -> None:
    headings = {}
    for share in (5, 12, 30):
        groups = treemap([Block("image", "a", 100 - share), Block("shared", "b", share)])
        headings[share] = groups[1].title
    assert headings == {5: "", 12: "Shared layers", 30: "Shared layers, 30 B"}


def test_ticks_above_lives_have_room_for_their_texts() -> None:
    ticks = life_ticks(samples.of(3))
    assert 2 <= len(ticks) <= 6
    assert all(12 <= tick.at <= LIFE_WIDTH - 12 for tick in ticks)


def test_a_life_has_a_path_for_each_kind() -> None:
    spans = (
        Span("here", 0, None, "alice@host"),
        Span("run", 10, 20, "sandbox:a"),
        Span("run", 11, 19, "sandbox:b"),
        Span("run", 50, None, "sandbox:c"),
        Span("pin", 90, 95, "bob@host"),
    )
    found = life_line(ImageLife("a", "d", True, spans, pulls=(0, 1), uses=(60,)), Scale(0, 100, 0, 300))
    assert found.here == "M0,5H300"
    assert found.run == "M30,5H60M150,5H300"
    assert found.kept == "M270,1H285"
    assert found.pulls == "M0,0v9M3,0v9M180,3v4"
    assert found.words == "pulled by alice@host; run by sandbox:a, sandbox:b and 1 more; pinned by bob@host"


def test_what_is_too_short_to_be_seen_is_seen() -> None:
    life = ImageLife("a", "d", False, (Span("here", 50, 50),))
    assert life_line(life, Scale(0, 10**12, 0, 300)).here == "M0,5H1"
