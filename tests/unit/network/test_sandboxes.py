from __future__ import annotations

import asyncio
import os

import pytest

from tests.unit.network.conftest import inside
from wherry.errors import Unavailable
from wherry.network.sandboxes import Maker, Pool, Sandbox


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle(pool: Pool, size: int) -> None:
    async with asyncio.timeout(10):
        while len(pool) != size:
            await asyncio.sleep(0.005)


async def test_a_sandbox_is_a_namespace_with_only_lo_and_no_ipv6(maker: Maker) -> None:
    sandbox = await maker.run(maker.make)
    assert os.fstat(sandbox.netns).st_ino != os.stat("/proc/thread-self/ns/net").st_ino
    (lo,) = sandbox.links.links()
    assert (lo.name, lo.is_up) == ("lo", True)

    def read(name: str) -> str:
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") as file:
            return file.read().strip()

    assert [inside(sandbox.netns, lambda name=name: read(name)) for name in ("all", "default", "lo")] == ["1"] * 3
    sandbox.close()


async def test_the_maker_comes_back_to_the_host(maker: Maker) -> None:
    def where() -> Sandbox:
        sandbox = maker.make()
        assert os.stat("/proc/thread-self/ns/net").st_ino == os.stat(f"/proc/{os.getpid()}/ns/net").st_ino
        return sandbox

    (await maker.run(where)).close()


async def test_a_pool_fills_to_its_size_and_no_further(maker: Maker) -> None:
    pool = Pool(maker, maker.make, size=3)
    pool.refill()
    pool.refill()
    await settle(pool, 3)
    await asyncio.sleep(0.02)
    assert len(pool) == 3
    await pool.close()


async def test_a_burst_larger_than_the_pool_is_served(maker: Maker) -> None:
    before = descriptors()
    pool = Pool(maker, maker.make, size=2)
    taken = await asyncio.gather(*(pool.take() for _ in range(20)))
    assert len({os.fstat(sandbox.netns).st_ino for sandbox in taken}) == 20
    await settle(pool, 2)
    for sandbox in taken:
        sandbox.close()
    await pool.close()
    assert descriptors() == before


async def test_what_a_cancelled_taker_waited_for_is_kept(maker: Maker) -> None:
    before = descriptors()
    pool = Pool(maker, maker.make, size=1)
    takers = [asyncio.create_task(pool.take()) for _ in range(5)]
    await asyncio.sleep(0)
    for taker in takers[:4]:
        taker.cancel()
    (await takers[4]).close()
    await settle(pool, 1)
    await pool.close()
    assert descriptors() == before


async def test_a_failure_reaches_the_taker_and_the_next_take_tries_again(maker: Maker) -> None:
    failures = [OSError("first"), OSError("second")]

    def make() -> Sandbox:
        if failures:
            raise failures.pop(0)
        return maker.make()

    pool = Pool(maker, make, size=1)
    for text in ("first", "second"):
        with pytest.raises(OSError, match=text):
            await pool.take()
    (await pool.take()).close()
    await pool.close()


async def test_a_closed_pool_leaves_nothing_and_wakes_those_who_wait(maker: Maker) -> None:
    before = descriptors()
    pool = Pool(maker, maker.make, size=4)
    taker = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    await pool.close()
    result = (await asyncio.gather(taker, return_exceptions=True))[0]
    if isinstance(result, Sandbox):
        result.close()
    else:
        assert isinstance(result, Unavailable)
    assert descriptors() == before


async def test_a_handed_over_descriptor_outlives_the_sandbox(maker: Maker) -> None:
    sandbox = await maker.run(maker.make)
    netns = sandbox.hand_over()
    sandbox.close()
    assert inside(netns, lambda: os.listdir("/proc/thread-self/net")) != []
    os.close(netns)
