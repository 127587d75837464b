"""Turns: so many at once, so many that wait, and the others are told to come again."""

from __future__ import annotations

import asyncio

import pytest

from msb_cache.web.problems import RefusedError
from msb_cache.web.turns import Turns


def test_a_few_work_a_few_wait_and_others_are_sent_away() -> None:
    async def main() -> None:
        turns, go, working = Turns(2, 1), asyncio.Event(), 0

        async def work() -> None:
            nonlocal working
            async with turns.taken():
                working += 1
                await go.wait()
                working -= 1

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        assert working == 2
        with pytest.raises(RefusedError, match="ask again") as raised:
            await work()
        assert raised.value.status == 503
        tasks[2].cancel()  # one that waited goes: there is room for another
        await asyncio.sleep(0)
        another = asyncio.create_task(work())
        go.set()
        await asyncio.gather(*tasks[:2], another)
        await work()
        assert working == 0

    asyncio.run(main())
