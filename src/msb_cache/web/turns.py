"""Who has to wait for whom: a few expensive requests at a time, and a few that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msb_cache.web.problems import too_busy


class Turns:
    """Turns at something.

    Args:
        at_once: how many have one at the same time.
        waiting: how many more may wait for theirs.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._most = at_once + waiting
        self._here = 0
        self._free = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the block.

        Raises:
            RefusedError: too many wait already.
        """
        if self._here >= self._most:
            raise too_busy("too many requests wait for an answer that takes long; ask again in a moment")
        self._here += 1
        try:
            async with self._free:
                yield
        finally:
            self._here -= 1
