"""What containers use, once a second for whoever watches: `GET /containers/{id}/stats` in Docker's arithmetic.

    watchers ── one Watched per container ── one task reads all of them, each second, into `latest`
                                              files of the cgroup and of the network namespace, held open

However many watch a container, it is read once a second, and not at all when nobody does. A watcher that is slow gets
the newest reading when it comes back: nothing is queued for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from wherry.engine import bundle
from wherry.engine.context import Context
from wherry.engine.records import Container
from wherry.engine.times import rfc3339
from wherry.errors import NotFound, WherryError
from wherry.model.stats import (
    BlkioEntry,
    BlkioStats,
    ContainerStats,
    CpuStats,
    CpuUsage,
    InterfaceStats,
    MemoryStats,
    PidsStats,
    ThrottlingData,
)
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.runtime.cgroups.usage import UNLIMITED, Usage, UsageReader
from wherry.runtime.errors import StartFailed
from wherry.shim.client import ShimError, ShimGone

if TYPE_CHECKING:
    from wherry.runtime.cgroups.usage import BlockEntry

_log = logging.getLogger(__name__)

INTERVAL_S = 1.0
AT_A_STRETCH = 8
"""Containers read between two looks at the event loop."""
FILES_PER_CONTAINER = 15
MAX_CHAIN = 16
"""Containers that share the network of one that shares the network of one, and so on."""

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
MACHINE_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

_V1_MEMORY = frozenset(
    prefix + name
    for prefix in ("", "total_")
    for name in (
        *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault"),
        *("pgmajfault", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"),
    )
) | {"hierarchical_memory_limit", "hierarchical_memsw_limit"}
_V2_MEMORY = frozenset(
    (
        *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty"),
        *("file_writeback", "anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file"),
        *("unevictable", "slab_reclaimable", "slab_unreclaimable", "pgfault", "pgmajfault"),
        *("workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan"),
        *("pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc"),
        "thp_collapse_alloc",
    )
)
"""The names of memory.stat that Docker passes on."""


class Meter:
    """The open files of one run of a container. Closed when that run ends."""

    def __init__(self, started_ns: int, reader: UsageReader, interfaces: int) -> None:
        self.started_ns = started_ns
        self._reader = reader
        self._interfaces = interfaces  # /proc/net/dev of its network namespace; -1: it is the host's

    def read(self) -> tuple[Usage, str]:
        """What it uses, and the text of /proc/net/dev. Raises OSError when it has ended."""
        text = os.pread(self._interfaces, 1 << 20, 0).decode() if self._interfaces >= 0 else ""
        return self._reader.read(), text

    def close(self) -> None:
        self._reader.close()
        if self._interfaces >= 0:
            os.close(self._interfaces)
            self._interfaces = -1


class Watched:
    """A container that somebody watches."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.watchers = 0
        self.latest: ContainerStats | None = None
        self.number = 0
        """Of `latest`, counted up."""
        self.started_ns = 0
        """The run that `latest` is about."""
        self.changed = asyncio.Event()
        self.opening = asyncio.Lock()

    def publish(self, stats: ContainerStats) -> None:
        self.latest = stats
        self.number += 1
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Stats:
    """The engine's meters. `find` finds a container; `exists` says whether it is still there."""

    def __init__(
        self, context: Context, *, find: Callable[[str], Container], exists: Callable[[str], bool]
    ) -> None:
        self._context = context
        self._find = find
        self._exists = exists
        self._watched: dict[str, Watched] = {}
        self._task: asyncio.Task[None] | None = None

    async def once(self, reference: str, *, with_previous: bool = True) -> ContainerStats:
        """One reading. With the CPU figures of an earlier one, as `docker stats --no-stream` needs, it takes a second;
        without, none. Zeros for a container that does not run."""
        container = self._find(reference)
        if not container.state.is_running:
            return _nothing(container)
        async with contextlib.aclosing(self.watch(reference)) as readings:
            async for stats in readings:
                if not with_previous or stats.precpu_stats.system_cpu_usage is not UNSET:
                    return stats
                if not container.state.is_running:
                    return stats  # it has ended meanwhile: nothing more is coming
        raise NotFound(f"No such container: {reference}")

    def watch(self, reference: str) -> AsyncGenerator[ContainerStats]:
        """Readings once a second, until the container is removed; zeros while it does not run."""
        return self._watch(self._find(reference))

    async def _watch(self, container: Container) -> AsyncGenerator[ContainerStats]:
        watched = self._watched.get(container.id)
        if watched is None:
            watched = self._watched[container.id] = Watched(container)
        watched.watchers += 1
        try:
            if watched.latest is None:
                await self._open(watched)
                if watched.latest is None:  # somebody else may have come in between
                    self._read(watched, _system())
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())
            seen = 0
            while self._exists(container.id):
                if watched.latest is not None and watched.number != seen:
                    seen = watched.number
                    yield watched.latest
                else:
                    await watched.changed.wait()
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                self._watched.pop(container.id, None)
                container.close_meter()
                if not self._watched and self._task is not None:
                    self._task.cancel()
                    self._task = None

    async def _run(self) -> None:
        """Read all that is watched, every second."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + INTERVAL_S, loop.time())
            await asyncio.sleep(due - loop.time())
            system = _system()
            for number, watched in enumerate(list(self._watched.values())):
                if number % AT_A_STRETCH == AT_A_STRETCH - 1:
                    await asyncio.sleep(0)
                    system = _system()
                container = watched.container
                if container.meter is not None or not container.state.is_running:
                    self._read(watched, system)
                elif not watched.opening.locked():
                    self._context.spawn(self._open(watched))  # it was started again

    def _read(self, watched: Watched, system: tuple[int, int]) -> None:
        container = watched.container
        if not self._exists(container.id):
            watched.wake()
            return
        stats = _nothing(container)
        meter = container.meter
        if meter is not None and meter.started_ns == container.state.started_ns:
            try:
                usage, interfaces = meter.read()
            except OSError:
                container.close_meter()  # it has ended just now
            else:
                names = self._interface_names(container)
                stats = _reading(container, usage, interfaces, names, *system)
                if watched.latest is not None and watched.started_ns == meter.started_ns:
                    stats.precpu_stats, stats.preread = watched.latest.cpu_stats, watched.latest.read
                watched.started_ns = meter.started_ns
        watched.publish(stats)

    async def _open(self, watched: Watched) -> None:
        """Open what is to be read of a running container."""
        container = watched.container
        async with watched.opening:
            if container.meter is not None or not container.state.is_running:
                return
            started_ns = container.state.started_ns
            interfaces = await self._open_interfaces(container)
            try:
                group = cgroup_for(bundle.cgroup_path(container.record, self._context.settings))
                meter = Meter(started_ns, UsageReader(group.directories(), keep=self._has_room()), interfaces)
            except (OSError, StartFailed) as exc:
                _log.warning("cannot measure container %s: %s", container.id, exc)
                if interfaces >= 0:
                    os.close(interfaces)
                return
            if watched.watchers and container.state.is_running and container.state.started_ns == started_ns:
                container.meter = meter
            else:
                meter.close()

    def _has_room(self) -> bool:
        """Whether half of our descriptors are enough to hold all files open."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return len(self._watched) * FILES_PER_CONTAINER < limit // 2

    async def _open_interfaces(self, container: Container) -> int:
        shim = container.shim
        if shim is None or not self._interface_names(container):
            return -1
        try:
            netns = await shim.descriptor("netns")
        except (ShimError, ShimGone):
            return -1
        try:
            return await self._context.networks.open_counters(netns)
        finally:
            os.close(netns)

    def _interface_names(self, container: Container) -> set[str]:
        """The interfaces that it has from its networks, or that it shares with another container."""
        for _ in range(MAX_CHAIN):
            mode = container.record.host.network_mode
            if not mode.startswith("container:"):
                break
            try:
                container = self._find(mode.partition(":")[2])
            except WherryError:
                return set()
        return {endpoint.interface for endpoint in container.state.endpoints.values() if endpoint.interface}


def _nothing(container: Container) -> ContainerStats:
    return ContainerStats(name=f"/{container.name}", id=container.id)


def _reading(
    container: Container, usage: Usage, interfaces: str, names: set[str], system_ns: int, cpus: int
) -> ContainerStats:
    is_unified = not usage.per_cpu_ns
    kept = _V2_MEMORY if is_unified else _V1_MEMORY
    limit = usage.pids_limit
    return ContainerStats(
        name=f"/{container.name}",
        id=container.id,
        read=rfc3339(time.time_ns()),
        pids_stats=PidsStats(current=usage.pids, limit=0 if limit == UNLIMITED and not is_unified else limit),
        blkio_stats=_block(usage, is_unified=is_unified),
        cpu_stats=CpuStats(
            cpu_usage=CpuUsage(
                total_usage=usage.cpu_ns,
                percpu_usage=usage.per_cpu_ns or UNSET,
                usage_in_kernelmode=usage.kernel_ns,
                usage_in_usermode=usage.user_ns,
            ),
            system_cpu_usage=system_ns,
            online_cpus=cpus,
            throttling_data=ThrottlingData(
                periods=usage.periods,
                throttled_periods=usage.throttled_periods,
                throttled_time=usage.throttled_ns,
            ),
        ),
        memory_stats=MemoryStats(
            usage=usage.memory_bytes,
            max_usage=usage.memory_peak,
            stats={name: value for name, value in usage.memory_stat.items() if name in kept},
            failcnt=usage.fail_count,
            limit=min(usage.memory_limit, MACHINE_MEMORY),
        ),
        networks=parse_interfaces(interfaces, names) or UNSET,
    )


def _block(usage: Usage, *, is_unified: bool) -> BlkioStats:
    if is_unified:
        return BlkioStats(io_service_bytes_recursive=_entries(usage.io_bytes) or None)
    return BlkioStats(_entries(usage.io_bytes), _entries(usage.io_operations), [], [], [], [], [], [])


def _entries(found: list[BlockEntry]) -> list[BlkioEntry]:
    return [BlkioEntry(*entry) for entry in found]


def parse_interfaces(text: str, names: set[str]) -> dict[str, InterfaceStats]:
    """The counters of the interfaces `names` in a text of /proc/net/dev, proc(5)."""
    found: dict[str, InterfaceStats] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() in names:
            received = [int(word) for word in rest.split()]
            found[name.strip()] = InterfaceStats(*received[0:4], *received[8:12])
    return found


def _system() -> tuple[int, int]:
    """What the host's processors have spent, all together, and how many there are: proc(5), /proc/stat."""
    with open("/proc/stat", "rb") as file:
        return parse_system(file.read())


def parse_system(text: bytes) -> tuple[int, int]:
    """Docker's sum: user, nice, system, idle, iowait, irq and softirq."""
    lines = text.split(b"\n")
    total = sum(int(word) for word in lines[0].split()[1:8])
    return total * _TICK_NS, sum(1 for line in lines[1:] if line.startswith(b"cpu"))
