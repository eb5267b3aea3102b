from __future__ import annotations

import asyncio

import pytest

from wherry.store.locks import KeyedLocks


async def test_one_name_has_one_holder_and_other_names_do_not_wait() -> None:
    locks = KeyedLocks()
    holding: dict[str, int] = {"a": 0, "b": 0}
    most = dict(holding)
    together = 0

    async def use(name: str) -> None:
        nonlocal together
        async with locks.lock(name):
            holding[name] += 1
            most[name] = max(most[name], holding[name])
            together = max(together, sum(holding.values()))
            await asyncio.sleep(0)
            holding[name] -= 1

    await asyncio.gather(*(use(name) for name in "ab" * 10))
    assert most == {"a": 1, "b": 1}
    assert together == 2


async def test_nothing_is_kept_of_names_nobody_uses() -> None:
    locks = KeyedLocks()
    async with locks.lock("a"):
        waiting = asyncio.create_task(wait(locks))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert locks._locks == {}  # type: ignore[attr-defined]


async def wait(locks: KeyedLocks) -> None:
    async with locks.lock("a"):
        pass
