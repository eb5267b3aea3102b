"""Readings shared by their watchers, against containers and meters of the tests' own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import UNSET

from wherry.engine import stats
from wherry.engine.records import Container
from wherry.engine.stats import Meter, Stats, parse_interfaces, parse_system
from wherry.errors import NotFound
from wherry.model import wire
from wherry.runtime.cgroups.usage import Usage

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       9       1    0    0    0     0          0         0        9       1    0    0    0     0       0          0
  eth0:    1572      14    1    2    0     0          0         0      700       7    3    4    0     0       0          0
  tun0:       5       5    0    0    0     0          0         0        5       5    0    0    0     0       0          0
"""


class FakeMeter:
    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.readings = 0
        self.is_closed = False

    def read(self) -> tuple[Usage, str]:
        if self.is_closed:
            raise OSError("gone")
        self.readings += 1
        usage = Usage()
        usage.cpu_ns, usage.memory_bytes, usage.pids = self.readings * 1000, 4096, 1
        usage.per_cpu_ns = [usage.cpu_ns]
        return usage, DEV

    def close(self) -> None:
        self.is_closed = True


class World:
    """One container `c`, and the meters that were opened for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stats, "INTERVAL_S", 0.001)
        self.state = SimpleNamespace(
            is_running=True, started_ns=1, endpoints={"bridge": SimpleNamespace(interface="eth0")}
        )
        record = SimpleNamespace(host=SimpleNamespace(network_mode="bridge"))
        self.container = Container(cast(Any, record), cast(Any, self.state))
        record.id, record.name = "c", "web"
        self.ids = {"c"}
        self.meters: list[FakeMeter] = []
        self.tasks: set[asyncio.Task[None]] = set()
        context = SimpleNamespace(spawn=lambda work: self.tasks.add(asyncio.ensure_future(work)))
        self.stats = Stats(cast(Any, context), find=lambda _: self.container, exists=self.ids.__contains__)

        async def open_(watched: stats.Watched) -> None:
            async with watched.opening:
                await asyncio.sleep(0)
                if self.container.meter is None and self.state.is_running:
                    self.meters.append(FakeMeter(self.state.started_ns))
                    self.container.meter = cast(Meter, self.meters[-1])

        monkeypatch.setattr(self.stats, "_open", open_)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_each_reading_carries_the_one_before_it(world: World) -> None:
    readings = world.stats.watch("c")
    found = [await anext(readings) for _ in range(3)]
    await readings.aclose()
    assert found[0].precpu_stats.system_cpu_usage is UNSET and found[0].preread.startswith("0001")
    for before, after in zip(found, found[1:], strict=False):
        assert after.precpu_stats == before.cpu_stats and after.preread == before.read
    assert found[0].name == "/web"
    assert found[0].networks == {"eth0": stats.InterfaceStats(1572, 14, 1, 2, 700, 7, 3, 4)}


async def test_many_watchers_share_one_meter_and_its_readings(world: World) -> None:
    async def watch() -> list[int]:
        seen = []
        async for reading in world.stats.watch("c"):
            seen.append(reading.cpu_stats.cpu_usage.total_usage)
            if len(seen) == 5:
                return seen
        return seen

    seen = await asyncio.gather(*(watch() for _ in range(50)))
    assert len(world.meters) == 1 and world.meters[0].is_closed
    assert max(map(max, seen)) == world.meters[0].readings * 1000
    assert world.meters[0].readings < 50  # not 250


async def test_nobody_watching_means_nothing_is_read(world: World) -> None:
    readings = world.stats.watch("c")
    await anext(readings)
    await readings.aclose()
    assert world.container.meter is None and world.stats._task is None and not world.stats._watched


async def test_a_slow_watcher_gets_the_newest_reading(world: World) -> None:
    readings = world.stats.watch("c")
    await anext(readings)
    quick = world.stats.watch("c")
    while (await anext(quick)).cpu_stats.cpu_usage.total_usage < 20_000:
        pass
    await quick.aclose()
    assert (await anext(readings)).cpu_stats.cpu_usage.total_usage >= 20_000
    await readings.aclose()


async def test_the_stream_ends_when_the_container_is_removed(world: World) -> None:
    async def removed() -> None:
        await asyncio.sleep(0.01)
        world.ids.clear()

    remove = asyncio.ensure_future(removed())
    async with asyncio.timeout(30):
        async for _ in world.stats.watch("c"):
            pass
    await remove


async def test_one_that_does_not_run_is_all_zero_and_goes_on_when_it_runs(world: World) -> None:
    world.state.is_running = False
    readings = world.stats.watch("c")
    first = await anext(readings)
    assert wire.encode(first).startswith(b'{"name":"/web","id":"c","read":"0001-01-01T00:00:00Z"')
    assert b'"pids_stats":{},' in wire.encode(first) and b'"memory_stats":{}' in wire.encode(first)
    world.state.is_running, world.state.started_ns = True, 2
    async with asyncio.timeout(30):
        async for reading in readings:
            if reading.pids_stats.current:
                break
    await readings.aclose()


async def test_another_run_has_no_reading_before_it(world: World) -> None:
    readings = world.stats.watch("c")
    for _ in range(3):
        await anext(readings)
    world.state.started_ns = 2
    world.container.close_meter()
    async with asyncio.timeout(30):
        async for reading in readings:
            if len(world.meters) == 2 and reading.pids_stats.current:
                break
    assert reading.precpu_stats.system_cpu_usage is UNSET
    await readings.aclose()


async def test_once_waits_for_the_second_reading_unless_it_is_not_wanted(world: World) -> None:
    assert (await world.stats.once("c", with_previous=False)).precpu_stats.system_cpu_usage is UNSET
    assert (await world.stats.once("c")).precpu_stats.system_cpu_usage is not UNSET
    world.state.is_running = False
    assert (await world.stats.once("c")).pids_stats.current == 0
    world.state.is_running = True
    world.ids.clear()
    with pytest.raises(NotFound):
        await world.stats.once("c")


def test_only_interfaces_of_the_containers_networks_are_counted() -> None:
    assert set(parse_interfaces(DEV, {"eth0", "eth1"})) == {"eth0"}
    assert parse_interfaces("", {"eth0"}) == {}


def test_the_time_of_all_processors_is_dockers_sum() -> None:
    text = b"cpu  1 2 3 4 5 6 7 1000 9 9\ncpu0 0 0 0 0\ncpu1 0 0 0 0\nintr 5\n"
    assert parse_system(text) == (28 * stats._TICK_NS, 2)
