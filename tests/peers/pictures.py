"""Takes the two pictures of the README: ``python -m tests.peers.pictures [FOLDER]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from msgspec.structs import replace

from msb_cache import ImageCache
from msb_cache.report import page
from msb_cache.report.page import Live
from tests import reporthome
from tests.peers.browser import Watched, launched

HOME = "/home/alice/.microsandbox"
SIZE = {"width": 1280, "height": 1180}
END = reporthome.BEGIN + reporthome.DAYS * reporthome.DAY + reporthome.HOUR


def take(into: Path) -> None:
    """Write report.png and serve.png: a team's home today, and as it was three weeks before."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with patch.object(reporthome, "HOSTILE", "the disk is nearly full"):
            reporthome.make(folder / "home")
        with ImageCache(folder / "home", clock=lambda: END) as cache:
            today = cache.report(since="@1")
            past = cache.report(since="@1", as_of=f"@{today.seq * 2 // 3}")
        live = Live(home="build-1", homes=("build-1", "runner-7"), head=today.seq)
        pages = {"report": page.render(shown(today)), "serve": page.render(shown(past), live)}
        with launched(lambda _: "/usr/bin/chromium") as browser:
            for picture, text in pages.items():
                (folder / "page.html").write_text(text)
                with Watched(browser, viewport=SIZE, java_script_enabled=picture == "report") as watched:
                    watched.page.goto((folder / "page.html").as_uri())
                    watched.page.screenshot(path=into / f"{picture}.png")


def shown(report: page.CacheReport) -> page.CacheReport:
    """Return a report that tells nothing of the machine that makes the picture."""
    return replace(report, home=HOME, host="build-1", free_bytes=report.free_bytes and 41 << 30)


if __name__ == "__main__":
    take(Path(sys.argv[1] if sys.argv[1:] else "docs/pictures"))
