"""Requests to the application, without a socket between."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from starlette.types import ASGIApp


class Client:
    """One who asks, and keeps cookies.

    Args:
        app: what is asked.
        address: by which address.
        headers: what each request has.
    """

    def __init__(self, app: ASGIApp, address: str, headers: dict[str, Any]) -> None:
        self.app = app
        self._address = address
        self._headers = headers
        self._cookies = httpx.Cookies()

    def request(self, method: str, url: str, **given: Any) -> httpx.Response:
        """Return the answer; that to a redirect itself."""
        return asyncio.run(self.ask(method, url, **given))

    async def ask(self, method: str, url: str, **given: Any) -> httpx.Response:
        """Return the answer, in an event loop that runs."""
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=self._address,
            headers=self._headers,
            cookies=self._cookies,
        ) as client:
            answer = await client.request(method, url, **given)
            self._cookies = client.cookies
        return answer

    def get(self, url: str, **given: Any) -> httpx.Response:
        """Return the answer to GET."""
        return self.request("GET", url, **given)
