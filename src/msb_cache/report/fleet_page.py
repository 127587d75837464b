"""The report of a fleet as a page of HTML: drawn with the page of one home, by the same rules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

from msgspec import Struct

from msb_cache import wording
from msb_cache.report.drawings import LEFT, WIDTH, Tick
from msb_cache.report.fleet_facts import FleetReport, HostBar, HostDeletion
from msb_cache.report.geometry import Scale, time_ticks
from msb_cache.report.page import csp, environment, own

_MOST_HOSTS = 200
_MOST_IMAGES = 100
_MOST_DELETIONS = 100
_MOST_LANES = 30
"""So many rows a page has of each; the command has the others."""
_LANE, _BOTTOM = 22, 28
_LARGEST, _SMALLEST = 9.0, 3.0
"""Radii of marks."""


class Lane(Struct, frozen=True):
    """A host's line, and the marks on it."""

    y: float
    host: str
    marks: tuple[LaneMark, ...]


class LaneMark(Struct, frozen=True):
    """A deletion: its area grows with what came free."""

    x: float
    radius: float
    number: int
    """Which row of the table it is, from 1."""
    deletion: HostDeletion


class Timeline(Struct, frozen=True):
    """Deletions of many hosts on one line of time."""

    height: int
    across: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    left_out: int
    """How many hosts have no line, for those with fewer deletions."""


class Bar(Struct, frozen=True):
    """A host's disk from 0 to 100: what its images take, what else is taken; the rest is free."""

    host: HostBar
    images: float
    taken: float


def render(report: FleetReport, *, live: bool = False) -> str:
    """Return a report as a whole page; ``live``: a server shows it."""
    return (
        environment()
        .get_template("fleet.html")
        .render(_of(report), live=live, style=own("report.css"), script=own("report.js"), csp=csp())
    )


def _of(report: FleetReport) -> dict[str, object]:
    def ago(ns: int) -> str:
        return wording.ago(max(0, report.at_ns - ns))

    newest = report.deletions[::-1]
    return {
        "report": report,
        "ago": ago,
        "bars": [_bar(each) for each in report.hosts[:_MOST_HOSTS]],
        "hosts_left_out": max(0, len(report.hosts) - _MOST_HOSTS),
        "spread": report.spread[:_MOST_IMAGES],
        "spread_left_out": max(0, len(report.spread) - _MOST_IMAGES),
        "timeline": timeline(report),
        "deletions": newest[:_MOST_DELETIONS],
        "deletions_left_out": max(0, len(newest) - _MOST_DELETIONS),
        "bytes": sum(each.bytes for each in report.hosts),
        "problems": [each for each in report.hosts if each.problem],
        "fullest": _fullest(report.hosts),
        "width": WIDTH,
        "left": LEFT,
    }


def _bar(host: HostBar) -> Bar:
    if not host.disk_bytes or host.free_bytes is None:
        return Bar(host, 0, 0)
    taken = max(0.0, min(100.0, 100 * (1 - host.free_bytes / host.disk_bytes)))
    return Bar(host, round(min(taken, 100 * host.bytes / host.disk_bytes), 1), round(taken, 1))


def _fullest(hosts: Iterable[HostBar]) -> HostBar | None:
    return next((each for each in hosts if each.free_bytes is not None), None)


def timeline(report: FleetReport) -> Timeline | None:
    """Return the deletions of a report's time on one line, by host; None: there are none."""
    if not report.deletions:
        return None
    across = Scale(report.since_ns, report.at_ns, LEFT, WIDTH - _LARGEST)
    total = len(report.deletions)
    numbered = [(each, total - at) for at, each in enumerate(report.deletions)]
    numbered.sort(key=_log_of)
    of_hosts = [[*found] for _, found in groupby(numbered, key=_log_of)]
    of_hosts.sort(key=len, reverse=True)
    shown = sorted(of_hosts[:_MOST_LANES], key=lambda found: found[0][0].host)
    most = max((each.deletion.bytes or 0 for each in report.deletions), default=0)
    lanes = tuple(
        Lane(
            (at + 0.5) * _LANE,
            found[0][0].host,
            tuple(
                LaneMark(across(each.deletion.started_at_ns), _radius(each, most), number, each)
                for each, number in found
            ),
        )
        for at, found in enumerate(shown)
    )
    return Timeline(
        len(shown) * _LANE + _BOTTOM,
        tuple(Tick(across(at), text) for at, text in time_ticks(report.since_ns, report.at_ns)),
        lanes,
        len(of_hosts) - len(shown),
    )


def _log_of(numbered: tuple[HostDeletion, int]) -> str:
    return numbered[0].log_id


def _radius(each: HostDeletion, most: int) -> float:
    part = (each.deletion.bytes or 0) / most if most else 0.0
    return round(_SMALLEST + (_LARGEST - _SMALLEST) * math.sqrt(part), 1)
