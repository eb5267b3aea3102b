"""What a cgroup uses, read from the kernel's counters, for both versions in the same terms.

Documentation: the kernel's admin-guide/cgroup-v1 (cpuacct, memory, blkio-controller, pids) and cgroup-v2. Times are in
nanoseconds, memory in bytes. What a version or a kernel does not count stays empty.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    BlockEntry = tuple[int, int, str, int]
    """Device (major, minor), operation, value."""

UNLIMITED = (1 << 64) - 1
"""A limit that is none, as cgroup v2's "max" is usually passed on."""

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_LARGEST_FILE = 65536

# By controller: the files of cgroup v1 that are read. cgroup v2 has one directory, under the name "".
_FILES: dict[str, tuple[str, ...]] = {
    "cpuacct": ("cpuacct.usage", "cpuacct.usage_percpu", "cpuacct.stat"),
    "cpu": ("cpu.stat",),
    "memory": (
        "memory.usage_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.failcnt",
        "memory.stat",
    ),
    "blkio": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    "pids": ("pids.current", "pids.max"),
    "": (
        *("cpu.stat", "memory.current", "memory.max", "memory.stat", "memory.events"),
        *("io.stat", "pids.current", "pids.max"),
    ),
}


class Usage:
    """One reading."""

    __slots__ = (
        "cpu_ns",
        "fail_count",
        "io_bytes",
        "io_operations",
        "kernel_ns",
        "memory_bytes",
        "memory_limit",
        "memory_peak",
        "memory_stat",
        "per_cpu_ns",
        "periods",
        "pids",
        "pids_limit",
        "throttled_ns",
        "throttled_periods",
        "user_ns",
    )

    def __init__(self) -> None:
        self.cpu_ns = self.user_ns = self.kernel_ns = 0
        self.per_cpu_ns: list[int] = []
        self.periods = self.throttled_periods = self.throttled_ns = 0
        self.memory_bytes = self.memory_peak = self.fail_count = 0
        self.memory_limit = UNLIMITED
        self.memory_stat: dict[str, int] = {}
        self.io_bytes: list[BlockEntry] = []
        self.io_operations: list[BlockEntry] = []
        self.pids = 0
        self.pids_limit = UNLIMITED


class UsageReader:
    """Reads one cgroup again and again. `directories` is a Cgroup's; `keep`: hold the files open meanwhile.

    An open file of a cgroup does not keep it from being removed; reading it then gives nothing.
    """

    def __init__(self, directories: Mapping[str, str], *, keep: bool = True) -> None:
        self._is_unified = "" in directories
        self._files: dict[str, str | int] = {}
        for controller, names in _FILES.items():
            directory = directories.get(controller)
            if directory is None:
                continue
            for name in names:
                path = f"{directory}/{name}"
                try:
                    self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if keep else path
                except FileNotFoundError:
                    continue  # this kernel does not count it

    def read(self) -> Usage:
        """What it uses now. Raises OSError when the cgroup is gone."""
        texts = {name: _read(file) for name, file in self._files.items()}
        return parse_v2(texts) if self._is_unified else parse_v1(texts)

    def close(self) -> None:
        for file in self._files.values():
            if isinstance(file, int):
                os.close(file)
        self._files.clear()


def _read(file: str | int) -> str:
    if isinstance(file, int):
        return os.pread(file, _LARGEST_FILE, 0).decode()
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.pread(descriptor, _LARGEST_FILE, 0).decode()
    finally:
        os.close(descriptor)


def parse_v1(texts: Mapping[str, str]) -> Usage:
    """The contents of cgroup v1's files, by name, as Usage. One that is missing or empty counts nothing."""
    usage = Usage()
    usage.cpu_ns = _number(texts.get("cpuacct.usage", ""))
    usage.per_cpu_ns = [int(word) for word in texts.get("cpuacct.usage_percpu", "").split()]
    ticks = _table(texts.get("cpuacct.stat", ""))
    usage.user_ns, usage.kernel_ns = ticks.get("user", 0) * _TICK_NS, ticks.get("system", 0) * _TICK_NS
    cpu = _table(texts.get("cpu.stat", ""))
    usage.periods, usage.throttled_periods = cpu.get("nr_periods", 0), cpu.get("nr_throttled", 0)
    usage.throttled_ns = cpu.get("throttled_time", 0)
    usage.memory_bytes = _number(texts.get("memory.usage_in_bytes", ""))
    usage.memory_peak = _number(texts.get("memory.max_usage_in_bytes", ""))
    usage.memory_limit = _number(texts.get("memory.limit_in_bytes", ""), UNLIMITED)
    usage.fail_count = _number(texts.get("memory.failcnt", ""))
    usage.memory_stat = _table(texts.get("memory.stat", ""))
    usage.io_bytes = list(_v1_entries(texts.get("blkio.throttle.io_service_bytes_recursive", "")))
    usage.io_operations = list(_v1_entries(texts.get("blkio.throttle.io_serviced_recursive", "")))
    usage.pids = _number(texts.get("pids.current", ""))
    usage.pids_limit = _number(texts.get("pids.max", ""), UNLIMITED)
    return usage


def parse_v2(texts: Mapping[str, str]) -> Usage:
    """The contents of cgroup v2's files, by name, as Usage."""
    usage = Usage()
    cpu = _table(texts.get("cpu.stat", ""))
    usage.cpu_ns = cpu.get("usage_usec", 0) * 1000
    usage.user_ns, usage.kernel_ns = cpu.get("user_usec", 0) * 1000, cpu.get("system_usec", 0) * 1000
    usage.periods, usage.throttled_periods = cpu.get("nr_periods", 0), cpu.get("nr_throttled", 0)
    usage.throttled_ns = cpu.get("throttled_usec", 0) * 1000
    usage.memory_bytes = _number(texts.get("memory.current", ""))
    usage.memory_limit = _number(texts.get("memory.max", ""), UNLIMITED)
    usage.memory_stat = _table(texts.get("memory.stat", ""))
    usage.fail_count = _table(texts.get("memory.events", "")).get("oom", 0)
    for line in texts.get("io.stat", "").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        if not minor.isdigit():
            continue  # a device that went away has no number any more
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for key, operation in (("rbytes", "read"), ("wbytes", "write")):
            usage.io_bytes.append((int(major), int(minor), operation, int(values.get(key, 0))))
    usage.pids = _number(texts.get("pids.current", ""))
    usage.pids_limit = _number(texts.get("pids.max", ""), UNLIMITED)
    return usage


def _number(text: str, otherwise: int = 0) -> int:
    text = text.strip()
    return int(text) if text.isdigit() else otherwise


def _table(text: str) -> dict[str, int]:
    """`name value` lines."""
    words = text.split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False)}


def _v1_entries(text: str) -> Iterator[BlockEntry]:
    """`8:0 Read 4096` lines; the sum over all devices at the end is left out."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            major, _, minor = words[0].partition(":")
            yield int(major), int(minor), words[1], int(words[2])
