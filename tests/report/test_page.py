"""The page is one file, says everything as text, and takes nothing from outside for markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from msgspec.structs import replace

from msb_cache.report import page
from msb_cache.report.facts import CacheReport, ImageLife, Span
from tests.report import samples


class _Elements(HTMLParser):
    """Collects what stands in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("report", [samples.empty(), samples.of(1), samples.of(60), samples.hostile()])
def test_a_page_asks_nobody_for_anything(report: CacheReport) -> None:
    text = page.render(report)
    found = _Elements(text)
    assert found.tags.count("script") == found.tags.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "base"} & {*found.tags}
    names = {name for name, _ in found.attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "srcdoc")}
    links = {value or "" for name, value in found.attributes if name == "href"}
    assert all(re.match(r"#|data:,$", link) for link in links)
    assert len({*found.ids}) == len(found.ids)
    assert all(f'id="{link[1:]}"' in text for link in links if link.startswith("#d-"))


@pytest.mark.parametrize("live", [False, True])
def test_only_its_own_style_and_script_may_run(live: bool) -> None:
    text = page.render(samples.of(2), page.Live("a", ("a", "b")) if live else None)
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page.csp(live)
    assert ("connect-src" in page.csp(live)) == live
    assert (page.csp() in text.replace("&#39;", "'")) != live


def test_what_comes_from_outside_is_text_and_can_be_seen() -> None:
    text = page.render(samples.hostile(), page.Live(samples.HOSTILE, (samples.HOSTILE, "b")))
    assert "<img" not in text
    assert not {"\u202e", "\x07", "\u200b"} & {*text}
    assert "&lt;/script&gt;&lt;img src=x onerror=pwned()&gt;&#34;&#39;&amp;\\u202e\\x07\\u200b" in text


def test_a_thousand_images_fit_into_300_kb() -> None:
    text = page.render(samples.of(1000))
    assert len(text.encode()) < 300_000
    assert text.count("<path class=h") == 1000


def test_everything_is_there_without_a_script() -> None:
    report = samples.of(60)
    words = " ".join(_Elements(page.render(report)).words)
    for life in report.lives:
        assert life.reference in words
    for deletion in report.deletions:
        assert deletion.who in words
        assert deletion.operation[:13] in words
    assert "8,700 older events" in words
    assert "cache/layers/x cannot be read" in words
    for state in ("not ended", "restored", "by msb"):
        assert state in words


def test_an_empty_home_has_sentences_and_no_pictures() -> None:
    text = page.render(samples.empty())
    assert "<svg" not in text
    for sentence in ("Nothing was in the cache", "Nothing is in the cache yet", "Nothing happened"):
        assert sentence in text


def test_a_server_changes_the_main_part_alone() -> None:
    report = samples.of(5)
    part = page.fragment(report)
    assert part.startswith("<main")
    assert part.rstrip().endswith("</main>")
    assert part.strip() in page.render(report, page.Live("a", ("a",)))


def test_a_server_s_page_can_be_asked_for_another_moment_and_home() -> None:
    text = page.render(samples.of(2), page.Live("b", ("a", "b"), head=9100))
    assert 'max="9100" value="9000"' in text
    assert "<option selected>b</option>" in text
    assert 'data-live="b"' in text


def test_a_mark_and_an_area_lead_to_the_row_that_tells_of_them() -> None:
    report = samples.of(60)
    found = _Elements(page.render(report))
    links = {value for name, value in found.attributes if name == "href" and value}
    rows = {each for each in found.ids if re.match(r"[bd]-\d", each)}
    assert {f"#{each}" for each in rows} == {each for each in links if each not in ("#main", "data:,")}
    assert len(rows) > len(report.deletions)


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ((), "gone"),
        ((Span("here", 0, None),), "gone"),
        ((Span("here", 0, samples.END, "", "bob@host", "remove"),), "removed 2026-11-28 by bob@host"),
        ((Span("here", 0, samples.END, "", "", "external"),), "removed by msb 2026-11-28"),
        ((Span("here", 0, samples.END, "", "", "prune"), Span("run", 0, None)), "pruned 2026-11-28"),
    ],
)
def test_how_an_image_went_is_said(spans: tuple[Span, ...], said: str) -> None:
    report = replace(samples.of(1), lives=(ImageLife("app:1", "sha256:1", False, spans),))
    text = page.fragment(report)
    assert f"<th>app:1<td>{said}" in text


def test_texts_have_contrast_in_both_schemes() -> None:
    css = (resources.files("msb_cache.report") / "templates" / "report.css").read_text()
    schemes = [dict(re.findall(r"--(\w+):(#\w+)", part)) for part in re.findall(r":root{(.*?)}", css)[:2]]
    light, dark = schemes[0], schemes[0] | schemes[1]
    for colors in (light, dark):
        pairs = [(text, ground) for text in ("fg", "soft", "link") for ground in ("bg", "panel", "faint")]
        pairs += [("in", area) for area in ("own", "flat", "shared", "leaked", "other")] + [("fg", "hit")]
        for text, ground in pairs:
            assert _contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for shape in ("own", "prune", "kept", "run"):
            assert _contrast(colors[shape], colors["panel"]) >= 3, shape


def _contrast(one: str, other: str) -> float:
    """Return the ratio of WCAG 2.2."""
    lights = sorted(map(_luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(each * 2 for each in color[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
