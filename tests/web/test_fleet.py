from __future__ import annotations

from pathlib import Path

from msb_cache.web.fleet import application
from tests.report.test_fleet import fleet_of
from tests.web.client import Client
from tests.web.conftest import ACCESS, ADDRESS, TOKEN


def test_a_fleet_is_shown_to_those_who_have_the_token(tmp_path: Path) -> None:
    fleet, _ = fleet_of(tmp_path)
    stranger = Client(application(fleet, ACCESS), ADDRESS, {})
    assert stranger.get("/").status_code == 401
    assert stranger.get("/api/report").status_code == 401
    client = Client(application(fleet, ACCESS), ADDRESS, {"authorization": f"Bearer {TOKEN}"})
    page = client.get("/?since=3650d")
    assert (page.status_code, "Image caches of 2 hosts" in page.text) == (200, True)
    assert "sha256-" in page.headers["content-security-policy"]
    found = client.get("/api/report?since=3650d").json()
    assert [each["host"] for each in found["hosts"]] == ["one", "two"]
    assert client.get("/api/report?since=nonsense").status_code == 400
    nothing = client.get("/nothing").json()
    assert (nothing["code"], "/api/report" in nothing["detail"]) == ("not-found", True)
    assert client.request("POST", "/").status_code == 405


def test_people_are_left_out_where_they_shall_be(tmp_path: Path) -> None:
    fleet, _ = fleet_of(tmp_path)
    client = Client(application(fleet, ACCESS, people=False), ADDRESS, {"authorization": f"Bearer {TOKEN}"})
    assert "alice" not in client.get("/?since=3650d").text
