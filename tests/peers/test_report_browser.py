"""The report as a file in the real Chromium: what it looks like, does, and asks nobody for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from msb_cache import ImageCache
from msb_cache.report import page
from msb_cache.report.facts import CacheReport
from tests import reporthome
from tests.peers.browser import SCHEMES, WIDTHS, Watched, launched
from tests.report import samples

pytestmark = pytest.mark.peer
SECTIONS = (
    *("How large the cache was", "What takes the disk", "What was deleted, and by whom", "What lies idle"),
    *("Who pulled and deleted how much", "The life of each image", "What happened"),
)
FOCUSED = """() => {
  const at = document.activeElement, name = at.getAttribute('aria-label') || at.textContent || at.id;
  const area = at.querySelector(':scope > rect');
  const framed = area && getComputedStyle(area).strokeWidth === '3px';
  const how = framed ? 'framed' : getComputedStyle(at).outlineStyle;
  return at === document.body ? '' : `${at.localName} ${name.trim()} ${how}`;
}"""


@pytest.fixture(scope="module")
def browser(require_peer: Callable[[str], str]) -> Iterator[Any]:
    with launched(require_peer) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report of a team's home."""
    folder = tmp_path_factory.mktemp("report")
    reporthome.make(folder / "home", scale=20)
    with ImageCache(folder / "home") as cache:
        found = cache.report(since="@1")
    path = folder / "report.html"
    path.write_text(page.render(found))
    return path.as_uri()


def few_of(report: CacheReport) -> CacheReport:
    """A report with a few of each thing: how long axe-core looks goes by how much there is."""
    return replace(
        report,
        deletions=report.deletions[:4],
        lines=report.lines[:4],
        people=report.people[:4],
        sizes=report.sizes[:4],
    )


def test_at_every_width_in_both_schemes(browser: Any, report: str, tmp_path: Path) -> None:
    few = tmp_path / "few.html"
    few.write_text(page.render(few_of(samples.of(10))))
    for width, scheme in product(WIDTHS, SCHEMES):
        size = {"width": width, "height": 900}
        with Watched(browser, viewport=size, color_scheme=scheme) as shown:
            shown.page.goto(report)
            assert shown.overflow() <= 0, (width, scheme)
            shown.page.goto(few.as_uri())
            assert shown.overflow() <= 0, (width, scheme)
            assert shown.problems() == [], (width, scheme)
            assert (shown.complaints, shown.requests) == ([], [report, few.as_uri()])


def test_events_are_searched_and_a_prune_is_opened(browser: Any, report: str) -> None:
    with Watched(browser) as shown:
        tab = shown.page
        tab.goto(report)
        rows = tab.get_by_role("region", name="Events").get_by_role("row")
        everything = rows.count()
        tab.keyboard.press("/")
        tab.keyboard.type("removed SUPERSEDED")
        assert rows.count() == 2
        assert "ghcr.io/acme/agent" in rows.nth(1).inner_text()
        assert tab.get_by_text(f"1 of {everything - 1}", exact=True).is_visible()
        tab.keyboard.press("Escape")
        assert rows.count() == everything

        marks = tab.get_by_role("region", name="Size of the cache over time").get_by_role("link")
        prune = marks.filter(has_text="prune").last
        prune.focus()
        tab.keyboard.press("Enter")
        dialog = tab.get_by_role("dialog")
        assert dialog.is_visible()
        assert "root@build-1" in dialog.inner_text()
        tab.keyboard.press("Escape")
        assert not dialog.is_visible()
        prune.click()
        assert dialog.is_visible()
        dialog.get_by_role("button", name="Close").click()
        assert not dialog.is_visible()
        assert (shown.complaints, shown.requests) == ([], [report])


def test_the_line_of_sizes_is_read_and_enlarged(browser: Any, report: str) -> None:
    with Watched(browser) as shown:
        tab = shown.page
        tab.goto(report)
        region = tab.get_by_role("region", name="Size of the cache over time")
        box = region.bounding_box()
        tab.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60)
        assert " images" in tab.locator("#reading").inner_text()
        before = region.evaluate("e => e.scrollWidth")
        region.focus()
        tab.keyboard.press("+")
        assert region.evaluate("e => e.scrollWidth") == pytest.approx(2 * before, abs=4)
        tab.get_by_role("button", name="Zoom out").click()
        assert region.evaluate("e => e.scrollWidth") == before
        assert shown.complaints == []


def test_the_tab_key_reaches_everything_and_shows_where_it_is(browser: Any, report: str) -> None:
    with Watched(browser) as shown:
        tab = shown.page
        tab.goto(report)
        reached: list[str] = []
        while len(reached) < 100:
            tab.keyboard.press("Tab")
            if not (at := tab.evaluate(FOCUSED)):
                break
            reached.append(at)
        assert [each for each in reached if each.endswith(" none")] == []
        assert sum(each.startswith("a ") for each in reached) == tab.get_by_role("link").count()
        assert sum(each.startswith("input") for each in reached) == tab.get_by_role("searchbox").count()
        for region in tab.get_by_role("region").all():
            if region.get_attribute("tabindex") is not None:
                name = region.get_attribute("aria-label")
                assert any(f"div {name}" in each for each in reached), name


def test_its_policy_lets_nothing_out_even_if_something_runs(browser: Any, report: str) -> None:
    with Watched(browser) as shown:
        shown.page.goto(report)
        shown.page.evaluate(
            """() => new Promise(done => {
                 document.addEventListener('securitypolicyviolation', done, {once: true});
                 document.body.append(Object.assign(new Image(), {src: 'http://evil.example/x.png'}));
               }).then(() => {})"""
        )
        # The same complaint would be seen if the page itself broke its policy.
        assert any("Content Security Policy" in each for each in shown.complaints)


def test_without_a_script_everything_can_be_read(browser: Any, report: str) -> None:
    with Watched(browser, java_script_enabled=False) as shown:
        tab = shown.page
        tab.goto(report)
        assert not tab.get_by_role("searchbox").count()
        assert tab.get_by_role("row", name="ghcr.io/acme/browser-tools:1.9").count()
        tab.get_by_role("link", name="last prune").click()
        target = tab.locator("tr:target")
        assert "prune" in target.inner_text()
        assert "root@build-1" in target.inner_text()


def test_printed_it_is_whole(browser: Any, report: str, tmp_path: Path) -> None:
    with Watched(browser) as shown:
        shown.page.goto(report)
        shown.page.emulate_media(media="print")
        assert not shown.page.get_by_role("button", name="Zoom in").is_visible()
        for name in SECTIONS:
            assert shown.page.get_by_role("heading", name=name).is_visible(), name
        assert shown.page.pdf(format="A4")[:5] == b"%PDF-"


def test_hostile_texts_are_texts(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(page.render(samples.hostile()))
    with Watched(browser, viewport={"width": 400, "height": 800}) as shown:
        shown.page.goto(path.as_uri())
        shown.page.keyboard.press("/")
        shown.page.keyboard.type("<img")
        shown.page.get_by_role("link", name="last prune").click()
        assert "<img src=x onerror=pwned()>" in shown.page.get_by_role("dialog").inner_text()
        assert shown.page.locator("main img, main script, main iframe, [href^='javascript:']").count() == 0
        assert shown.overflow() <= 0
        assert (shown.complaints, shown.requests) == ([], [path.as_uri()])
