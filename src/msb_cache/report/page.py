"""A report as a page of HTML: one file that asks nobody for anything.

All that it says stands in it as text and tables; its script only searches, enlarges and opens what is there.
What comes from outside is text: the templates escape it, and characters that turn text around or are not
seen are shown as what they are.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct

from msb_cache import wording
from msb_cache.report import drawings
from msb_cache.report.drawings import LifeLine, life_line, sizes_picture, treemap
from msb_cache.report.facts import CacheReport, IdleLine, ImageLife, SizePoint
from msb_cache.report.geometry import Scale

_MOST_IDLE = 50
_MOST_LINES = 300
_MOST_PEOPLE = 20
_MOST_SIZES = 40
"""So many rows a page has of each; the command and the API have the others."""
_MANY_IMAGES = 300
_FEWER_LINES = 100
_FEWER_NAMES = 3
_FEWER_BLOCKS = 60
"""Of a home with many images a page has fewer events and areas, and names fewer images with each deletion."""
_CROWDED = 40
"""More marks than that lie so close that there is no room around each."""
_LONG_IDLE_NS = 30 * 86400 * 10**9


_KINDS = {
    "image": "an image's own files",
    "flat": "its flat root (hatched)",
    "shared": "shared by several images",
    "leaked": "leaked: needed by no image (hatched)",
    "other": "lock files, downloads, folders",
}


class Live(Struct, frozen=True):
    """What a page that a server shows can be asked for.

    Attributes:
        home: the id of the home that is shown.
        homes: the ids of all.
        head: the last position of the log; None: that of the report.
    """

    home: str
    homes: tuple[str, ...]
    head: int | None = None


def render(report: CacheReport, live: Live | None = None) -> str:
    """Return a report as a whole page.

    Args:
        report: what it shows.
        live: for a page of a server, which answers ``page`` and ``events``; None: it stands alone.
    """
    return (
        environment()
        .get_template("page.html")
        .render(
            _of(report),
            live=live,
            style=own("report.css"),
            script=own("report.js"),
            csp=csp(),
        )
    )


def fragment(report: CacheReport) -> str:
    """Return what of a page changes with the moment that it shows: the element ``main``."""
    return environment().get_template("main.html").render(_of(report))


def csp(live: bool = False) -> str:
    """Return the Content-Security-Policy of a page: its own style and script; where ``live``, its server."""
    own = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_hash('report.css')}",
        f"script-src {_hash('report.js')}",
    ]
    if live:
        return "; ".join(
            [*own, "connect-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"]
        )
    return "; ".join([*own, "base-uri 'none'", "form-action 'none'"])


@cache
def _text(name: str) -> str:
    return (resources.files("msb_cache.report") / "templates" / name).read_text("utf-8")


def own(name: str) -> Markup:
    """Return a style or script of ours, to stand in a page."""
    return Markup(_text(name))  # noqa: S704  # it is a file of ours


def _hash(name: str) -> str:
    digest = hashlib.sha256(_text(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def environment() -> Environment:
    """Return what renders the templates, which escapes what comes from outside."""
    found = Environment(
        loader=PackageLoader("msb_cache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    found.filters |= {"size": wording.size, "when": _when, "day": _day, "digest": _digest, "end": _end}
    found.globals |= {"plural": wording.plural, "duration": wording.duration}
    return found


def _printable(value: object) -> object:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return wording.printable(value)


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(ns // 10**9))


def _day(ns: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(ns // 10**9))


def _digest(text: str) -> str:
    """Return a digest's first twelve digits, any other text as it is."""
    return text[7:19] if text.startswith("sha256:") else text


def _end(text: str, length: int) -> str:
    """Return a text's last characters: of names, the end says more than the beginning."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


class _Life(Struct, frozen=True):
    life: ImageLife
    line: LifeLine
    state: str


def _of(report: CacheReport) -> dict[str, object]:
    """Return what the templates are given."""
    now_ns = report.at_ns
    scale = Scale(report.since_ns, now_ns, 0, drawings.LIFE_WIDTH)
    states = {block.name: block.state for block in report.blocks if block.kind == "image"}
    long_idle = [each for each in report.idle if now_ns - each.idle_since_ns >= _LONG_IDLE_NS]

    is_large = len(report.lives) > _MANY_IMAGES
    most_lines = _FEWER_LINES if is_large else _MOST_LINES

    def ago(ns: int) -> str:
        return wording.ago(max(0, now_ns - ns))

    def lives() -> Iterator[_Life]:
        for life in report.lives:
            state = (states.get(life.reference) or "here") if life.is_here else _ended(life)
            yield _Life(life, life_line(life, scale), state)

    return {
        "report": report,
        "ago": ago,
        "sizes": sizes_picture(report),
        "sizes_shown": [*_spread(report.sizes)],
        "treemap": treemap(report.blocks, _FEWER_BLOCKS) if is_large else treemap(report.blocks),
        "is_crowded": len(report.deletions) > _CROWDED,
        "kinds": [*_kinds(report)],
        "is_busy": any(each.state not in ("", "idle") for each in report.blocks),
        "lives": [*lives()],
        "life_ticks": drawings.life_ticks(report),
        "largest": next((each for each in report.blocks if each.kind == "image"), None),
        "deletions": report.deletions[::-1],
        "idle": report.idle[:_MOST_IDLE],
        "long_idle": len(long_idle),
        "long_idle_bytes": sum(map(_freed, long_idle)),
        "people": report.people[:_MOST_PEOPLE],
        "most_pulled": max((each.pulled_bytes for each in report.people), default=0),
        "most_deleted": max((each.deleted_bytes for each in report.people), default=0),
        "most_names": _FEWER_NAMES if is_large else _MOST_IDLE,
        "is_large": is_large,
        "lines": report.lines[:most_lines],
        "lines_left_out": report.lines_left_out + len(report.lines[most_lines:]),
        "width": drawings.WIDTH,
        "sizes_height": drawings.SIZES_HEIGHT,
        "treemap_height": drawings.TREEMAP_HEIGHT,
        "life_width": drawings.LIFE_WIDTH,
    }


_ENDS = {"prune": "pruned", "remove": "removed", "external": "removed by msb"}


def _ended(life: ImageLife) -> str:
    """Return how, when and by whom an image that is gone was removed."""
    last = next((span for span in reversed(life.spans) if span.kind == "here"), None)
    if last is None or last.until_ns is None:
        return "gone"
    by = f" by {last.ended_by}" if last.ended_by else ""
    return f"{_ENDS.get(last.ended_how, 'gone')} {_day(last.until_ns)}{by}"


def _kinds(report: CacheReport) -> Iterator[tuple[str, str]]:
    """Yield what the colours of the areas mean, of those that there are."""
    kinds = {block.kind for block in report.blocks}
    for kind, words in _KINDS.items():
        if kind in kinds or (kind == "flat" and any(block.flat_bytes for block in report.blocks)):
            yield kind, words


def _freed(line: IdleLine) -> int:
    return line.reclaimable_bytes


def _spread(points: tuple[SizePoint, ...]) -> Iterator[SizePoint]:
    """Yield as many points as a table has, the newest first, the others as far apart as each other."""
    step = max(1, -(-len(points) // _MOST_SIZES))
    yield from points[::-1][::step]
