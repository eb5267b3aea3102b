"""A container's use of CPU, memory, disk and network as the Docker Engine API 1.51 spells it.

Times are in nanoseconds, memory in bytes. What Go leaves out when it is zero has a default here and is left out too.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field

from wherry.model.containers import NEVER


class PidsStats(Struct, omit_defaults=True):
    current: int = 0
    limit: int = 0


class BlkioEntry(Struct):
    major: int
    minor: int
    op: str
    value: int


class BlkioStats(Struct):
    """Lists are null where nothing was measured; on cgroup v2 only the first is counted."""

    io_service_bytes_recursive: list[BlkioEntry] | None = None
    io_serviced_recursive: list[BlkioEntry] | None = None
    io_queue_recursive: list[BlkioEntry] | None = None
    io_service_time_recursive: list[BlkioEntry] | None = None
    io_wait_time_recursive: list[BlkioEntry] | None = None
    io_merged_recursive: list[BlkioEntry] | None = None
    io_time_recursive: list[BlkioEntry] | None = None
    sectors_recursive: list[BlkioEntry] | None = None


class CpuUsage(Struct):
    total_usage: int = 0
    percpu_usage: list[int] | UnsetType = UNSET
    usage_in_kernelmode: int = 0
    usage_in_usermode: int = 0


class ThrottlingData(Struct):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class CpuStats(Struct):
    """`system_cpu_usage`: what all processors of the host together have spent since its start, idle time included."""

    cpu_usage: CpuUsage = field(default_factory=CpuUsage)
    system_cpu_usage: int | UnsetType = UNSET
    online_cpus: int | UnsetType = UNSET
    throttling_data: ThrottlingData = field(default_factory=ThrottlingData)


class MemoryStats(Struct, omit_defaults=True):
    usage: int = 0
    max_usage: int = 0
    stats: dict[str, int] | UnsetType = UNSET
    failcnt: int = 0
    limit: int = 0


class InterfaceStats(Struct):
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class ContainerStats(Struct, kw_only=True):
    """One reading, with the CPU figures of the one before it. All zero for a container that does not run."""

    name: str
    id: str
    read: str = NEVER
    preread: str = NEVER
    pids_stats: PidsStats = field(default_factory=PidsStats)
    blkio_stats: BlkioStats = field(default_factory=BlkioStats)
    num_procs: int = 0
    storage_stats: dict[str, int] = {}
    cpu_stats: CpuStats = field(default_factory=CpuStats)
    precpu_stats: CpuStats = field(default_factory=CpuStats)
    memory_stats: MemoryStats = field(default_factory=MemoryStats)
    networks: dict[str, InterfaceStats] | UnsetType = UNSET
