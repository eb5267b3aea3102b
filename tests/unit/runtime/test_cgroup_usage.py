"""The kernel's counters of a cgroup, both versions: texts as a kernel gives them."""

from __future__ import annotations

import os

import pytest

from wherry.runtime.cgroups import usage
from wherry.runtime.cgroups.usage import UNLIMITED, UsageReader, parse_v1, parse_v2

V1 = {
    "cpuacct.usage": "25368496\n",
    "cpuacct.usage_percpu": "6182222 19186274 \n",
    "cpuacct.stat": "user 3\nsystem 1\n",
    "cpu.stat": "nr_periods 72\nnr_throttled 70\nthrottled_time 6382895182\nwait_sum 5\n",
    "memory.usage_in_bytes": "790528\n",
    "memory.max_usage_in_bytes": "4345856\n",
    "memory.limit_in_bytes": "67108864\n",
    "memory.failcnt": "2\n",
    "memory.stat": "cache 8388608\nrss 57344\ntotal_inactive_file 8388608\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n",
    "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
}
V2 = {
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 9\nnr_throttled 8\nthrottled_usec 7\n",
    "memory.current": "790528\n",
    "memory.max": "max\n",
    "memory.stat": "anon 57344\nfile 8388608\ninactive_file 4096\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n(unknown) rbytes=5\n254:16 \n",
    "pids.current": "4\n",
    "pids.max": "20\n",
}


def test_the_counters_of_version_one() -> None:
    found = parse_v1(V1)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert (found.cpu_ns, found.per_cpu_ns) == (25368496, [6182222, 19186274])
    assert (found.user_ns, found.kernel_ns) == (3 * tick, tick)
    assert (found.periods, found.throttled_periods, found.throttled_ns) == (72, 70, 6382895182)
    assert (found.memory_bytes, found.memory_peak, found.memory_limit, found.fail_count) == (
        790528,
        4345856,
        64 << 20,
        2,
    )
    assert found.memory_stat["total_inactive_file"] == 8388608
    assert found.io_bytes == [(8, 0, "Read", 4096), (8, 0, "Write", 8192), (8, 0, "Total", 12288)]
    assert found.io_operations == [(8, 0, "Read", 1), (8, 0, "Write", 2)]
    assert (found.pids, found.pids_limit) == (4, UNLIMITED)


def test_the_counters_of_version_two_are_in_the_same_terms() -> None:
    found = parse_v2(V2)
    assert (found.cpu_ns, found.user_ns, found.kernel_ns, found.per_cpu_ns) == (
        1_500_000,
        1_000_000,
        500_000,
        [],
    )
    assert (found.periods, found.throttled_periods, found.throttled_ns) == (9, 8, 7000)
    assert (found.memory_bytes, found.memory_limit, found.fail_count) == (790528, UNLIMITED, 2)
    assert found.io_bytes == [
        (8, 0, "read", 4096),
        (8, 0, "write", 8192),
        (254, 16, "read", 0),
        (254, 16, "write", 0),
    ]
    assert (found.pids, found.pids_limit) == (4, 20)


@pytest.mark.parametrize("parse", [parse_v1, parse_v2])
def test_what_a_kernel_does_not_count_is_nothing(parse: object) -> None:
    found = parse({})  # type: ignore[operator]
    assert (found.cpu_ns, found.memory_bytes, found.memory_limit, found.io_bytes) == (0, 0, UNLIMITED, [])


@pytest.mark.parametrize("keep", [True, False])
def test_a_reader_sees_what_changes_and_misses_what_is_not_there(tmp_path: object, keep: bool) -> None:
    place = str(tmp_path)
    for name in ("cpu.stat", "memory.current", "pids.current"):
        with open(f"{place}/{name}", "w") as file:
            file.write(V2[name])
    reader = UsageReader({"": place}, keep=keep)
    assert reader.read().memory_bytes == 790528
    with open(f"{place}/memory.current", "r+") as file:
        file.write("1\n" + " " * 20)
    assert reader.read().memory_bytes == 1
    assert reader.read().pids_limit == usage.UNLIMITED
    reader.close()
    assert reader.read().memory_bytes == 0
