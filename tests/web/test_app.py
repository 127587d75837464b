"""The application as others use it: mounted, without a home, while something takes long, and what it logs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from msb_cache import ImageCache, diagnostics
from msb_cache.errors import InvalidConfigError
from msb_cache.web.app import application
from tests.web.client import Client
from tests.web.conftest import ACCESS, ADDRESS, TOKEN, Serve


def test_it_can_be_mounted_in_another_application(serve: Serve, home: Path) -> None:
    outer = Starlette(routes=[Mount("/cache", serve(home).app)])
    client = Client(outer, ADDRESS, {})
    answer = client.get(f"/cache/?token={TOKEN}&home=home")
    assert (answer.status_code, answer.headers["location"]) == (303, "./?home=home")
    assert client.get("/cache/api/info").json()["home"] == str(home)
    assert client.get("/cache/api/nothing").json()["code"] == "not-found"
    assert client.get("/cache/nothing").json()["code"] == "not-found"


def test_it_serves_at_least_one_home() -> None:
    with pytest.raises(InvalidConfigError, match="at least one home"):
        application({}, ACCESS)


def test_nothing_that_takes_long_keeps_others_waiting(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()

    def measure(cache: ImageCache) -> Any:
        began.set()
        assert go.wait(10)
        raise InvalidConfigError("it was measured")

    monkeypatch.setattr("msb_cache.care.disk_usage.disk_usage", measure)

    async def main() -> None:
        slow = asyncio.create_task(client.ask("GET", "/api/df"))
        await asyncio.to_thread(began.wait, 10)
        assert (await client.ask("GET", "/api/images")).status_code == 200
        assert not slow.done()
        go.set()
        assert (await slow).json()["detail"] == "it was measured"

    asyncio.run(main())


def test_more_expensive_requests_than_can_wait_are_told_to_come_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def measure(cache: ImageCache) -> Any:
        assert go.wait(10)
        raise InvalidConfigError("it was measured")

    monkeypatch.setattr("msb_cache.care.disk_usage.disk_usage", measure)

    async def main() -> None:
        asked = [asyncio.create_task(client.ask("GET", "/api/df")) for _ in range(20)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        refused = done.pop().result()
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert refused.headers["retry-after"]
        go.set()
        statuses = [(await each).status_code for each in asked]
        assert statuses.count(400) == 18

    asyncio.run(main())


def test_what_is_logged_of_a_request_has_no_query(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(diagnostics, "debug", lambda event, **fields: said.append(f"{event} {fields}"))
    client = serve(home, headers={"Authorization": f"Bearer {TOKEN}"})
    client.get(f"/?token={TOKEN}")
    client.get("/api/events?subject=secret")
    client.get("/api/events?token=wrong-secret", headers={"Host": "evil.example"})
    requests = [each for each in said if each.startswith("request ")]
    assert [each.split("'status': ")[1][:3] for each in requests] == ["303", "404", "403"]
    assert TOKEN not in str(said)
    assert "secret" not in str(said)
