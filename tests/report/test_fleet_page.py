"""The page of a fleet is one file like that of a home, and what hosts say of themselves is text in it."""

from __future__ import annotations

import base64
import hashlib
import re

from msb_cache.report import fleet_page
from msb_cache.report.facts import DeletionMark
from msb_cache.report.fleet_facts import FleetReport, HostBar, HostDeletion, SpreadLine

DAY = 86400 * 10**9
NOW = 1_800_000_000 * 10**9
HOSTILE = '"><script>alert(1)</script>\x1b[31m'


def deletion(host: str, days: float, freed: int | None) -> HostDeletion:
    mark = DeletionMark(
        "0199-op", "prune", 5, int(NOW - days * DAY), "alice@x", 3, freed, outcome="completed"
    )
    return HostDeletion(host, f"{hash(host) % 2**32:032x}", mark)


def report(hosts: int = 3, name: str = "host") -> FleetReport:
    return FleetReport(
        at_ns=NOW,
        since_ns=NOW - 30 * DAY,
        hosts=tuple(
            HostBar(f"{name}{n}", f"{n:032x}", 4, n * 10**9, n * 10**10, 10**12, NOW - n * DAY, "")
            for n in range(1, hosts + 1)
        ),
        spread=(SpreadLine("python:3.12", hosts, (f"{name}1",), 2, 10**9, NOW - DAY, f"{name}1"),),
        deletions=tuple(deletion(f"{name}{n % 40}", 29 - n % 29, n * 10**6) for n in range(hosts)),
        events=1234,
        notes=("2 logs not folded",),
    )


def test_a_page_asks_nobody_and_says_what_the_report_does() -> None:
    page = fleet_page.render(report())
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    for text in ("Image caches of 3 hosts", "host1", "python:3.12", "2 different manifests", "1,234"):
        assert text in page
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"sha256-{digest}" in page


def test_names_of_hosts_are_text() -> None:
    page = fleet_page.render(report(2, HOSTILE))
    assert "alert(1)</script>" not in page
    assert "\x1b" not in page


def test_an_empty_fleet_says_what_to_do() -> None:
    page = fleet_page.render(FleetReport(at_ns=NOW, since_ns=NOW - DAY))
    assert "fleet enrol" in page
    assert fleet_page.timeline(FleetReport(at_ns=NOW, since_ns=NOW - DAY)) is None


def test_the_line_of_time_has_a_lane_for_each_host_that_deleted_most() -> None:
    found = fleet_page.timeline(report(100))
    assert found is not None
    assert (len(found.lanes), found.left_out) == (30, 10)
    marks = [mark for lane in found.lanes for mark in lane.marks]
    assert max(mark.radius for mark in marks) <= 9
    assert all(64 <= mark.x <= 1000 for mark in marks)
    by_bytes = sorted(marks, key=lambda mark: mark.deletion.deletion.bytes or 0)
    assert [mark.radius for mark in by_bytes] == sorted(mark.radius for mark in marks)
    assert all(f'id="d-{mark.number}"' in fleet_page.render(report(100)) for mark in marks[:3])
