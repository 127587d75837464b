"""The page over HTTP: whole and in parts, of any home and moment, and nothing in it that runs but its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from msb_cache.interchange.privacy import Privacy
from msb_cache.report import page
from tests.web.client import Client
from tests.web.conftest import Serve

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_the_page_is_that_of_the_home_and_runs_its_own_script_only(client: Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy == page.csp(live=True)
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "app:latest" in answer.text
    assert "good day" not in answer.text


def test_a_part_is_in_the_whole(client: Client) -> None:
    part = client.get("/page")
    assert part.status_code == 200
    assert part.headers["content-type"] == "text/html; charset=utf-8"
    assert "<html" not in part.text
    assert "app:latest" in part.text


def test_any_moment_and_any_home_need_no_script(serve: Serve, home: Path, tmp_path: Path) -> None:
    with ImageCache(tmp_path / "other") as cache:
        cache.pin("elsewhere:9", reason="the other home")
    client = serve(home, tmp_path / "other")
    assert "app:latest" not in client.get("/?as_of=%403&since=7d&home=").text
    other = client.get("/?home=other&as_of=&since=").text
    assert str(tmp_path / "other") in other
    assert "app:latest" not in other
    assert client.get("/page?home=other&as_of=%401").status_code == 200


def test_addresses_in_the_page_are_relative(client: Client) -> None:
    addresses = re.findall(r"""(?:href|src|action)=["']?([^"' >]*)""", client.get("/").text)
    assert [each for each in addresses if each.startswith(("/", "http"))] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?home=nowhere", 404),
        ("/?as_of=sometime", 400),
        ("/?since=sometime", 400),
        ("/?as_of=%4099999", 400),
        ("/?x=1", 400),
        ("/page?home=nowhere", 404),
        ("/page?as_of=%40x", 400),
        ("/events?home=nowhere", 404),
        ("/events?after=x", 400),
        ("/page/", 404),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(client: Client, path: str, status: int) -> None:
    answer = client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "١"])
def test_a_stream_goes_on_behind_the_position_of_an_event(client: Client, last: Any) -> None:
    answer = client.get("/events", headers={"Last-Event-ID": last.encode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")


def test_hostile_text_stays_text(serve: Serve, tmp_path: Path) -> None:
    with ImageCache(tmp_path / "h<b>") as cache:
        cache.pin("app:9", reason=HOSTILE)
    client = serve(tmp_path / "h<b>")
    for text in (client.get("/").text, client.get("/page").text):
        assert "alert(1)" in text
        for raw in ("<script>alert", "<img src=x", "h<b>"):
            assert raw not in text


def test_people_are_left_out_on_request(serve: Serve, home: Path) -> None:
    assert "the disk is full" in serve(home).get("/").text
    assert "the disk is full" not in serve(home, privacy=Privacy(people=False)).get("/").text
