"""Lines over sizes, drawn as SVG: for who sees them, and with words for who has them read out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#555555")
_WIDTH, _HEIGHT = 760, 390
_LEFT, _RIGHT, _TOP, _BOTTOM, _BETWEEN = 60, 640, 40, 340, 44


class Panel(NamedTuple):
    """Axes of their own; panels stand beside each other and share the marks at the left.

    Attributes:
        below: what the sizes count.
        sizes: what stands below each point of the lines.
        lines: by name, a value for each size; all panels have the same names.
    """

    below: str
    sizes: Sequence[str]
    lines: Mapping[str, Sequence[float]]


def drawn(
    title: str,
    description: str,
    panels: Sequence[Panel],
    *,
    marks: Mapping[str, float],
    limit: str,
    height: Callable[[float], float],
) -> str:
    """Return an SVG, on white whatever it stands on.

    Args:
        title: what the lines are; it stands above them.
        description: what they show, in words.
        panels: the axes.
        marks: the values at the left, by what is written there.
        limit: the mark that is dashed.
        height: how high a value is, from 0 to 1.
    """

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * min(max(height(value), 0.0), 1.0)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-labelledby="title" aria-describedby="description" font-family="sans-serif" font-size="13">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22">{escape(title)}</text>',
    ]
    for mark, value in marks.items():
        out.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{escape(mark)}</text>')
    width = (_RIGHT - _LEFT - _BETWEEN * (len(panels) - 1)) / len(panels)
    for number, panel in enumerate(panels):
        left = _LEFT + number * (width + _BETWEEN)
        for mark, value in marks.items():
            dash = ' stroke-dasharray="6 4"' if mark == limit else ""
            out.append(
                f'<line x1="{left:.1f}" x2="{left + width:.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
                f'stroke="#bbb"{dash}/>'
            )
        out += _lines(panel, left, width, y)
    # In the order in which the lines end, for who does not tell the colours apart.
    colours = dict(zip(panels[-1].lines, COLOURS, strict=False))
    for number, name in enumerate(sorted(colours, key=lambda name: -panels[-1].lines[name][-1])):
        out.append(
            f'<text x="{_RIGHT + 15}" y="{_TOP + 20 * number + 10}" fill="{colours[name]}">'
            f"{escape(name)}</text>"
        )
    return "\n".join([*out, "</svg>", ""])


def _lines(panel: Panel, left: float, width: float, y: Callable[[float], float]) -> list[str]:
    xs = [left + width * index / max(1, len(panel.sizes) - 1) for index in range(len(panel.sizes))]
    out = [
        f'<text x="{x:.1f}" y="{_BOTTOM + 22}" text-anchor="middle">{escape(size)}</text>'
        for x, size in zip(xs, panel.sizes, strict=True)
    ]
    middle = left + width / 2
    out.append(f'<text x="{middle:.1f}" y="{_BOTTOM + 42}" text-anchor="middle">{escape(panel.below)}</text>')
    for values, colour in zip(panel.lines.values(), COLOURS, strict=False):
        points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in zip(xs, values, strict=True))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [
            f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for x, value in zip(xs, values, strict=True)
        ]
    return out
