"""What is written into which file for linux.resources, and how hierarchies are found."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.runtime.cgroups import v1, v2
from wherry.runtime.cgroups.driver import clean_path
from wherry.runtime.errors import StartFailed

MIB = 1 << 20


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, []),
        ({"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0}, "pids": {"limit": 0}}, []),
        ({"memory": {"limit": MIB}}, [("memory", "memory.limit_in_bytes", str(MIB))]),
        ({"memory": {"limit": -1}}, [("memory", "memory.limit_in_bytes", "-1")]),
        (
            {"memory": {"limit": MIB, "swap": 2 * MIB}},
            [
                ("memory", "memory.limit_in_bytes", str(MIB)),
                ("memory", "memory.memsw.limit_in_bytes", str(2 * MIB)),
            ],
        ),
        ({"memory": {"swappiness": 0}}, [("memory", "memory.swappiness", "0")]),
        ({"memory": {"disableOOMKiller": True}}, [("memory", "memory.oom_control", "1")]),
        (
            {"cpu": {"cpus": "0-1", "mems": "0"}},
            [("cpuset", "cpuset.cpus", "0-1"), ("cpuset", "cpuset.mems", "0")],
        ),
        ({"cpu": {"quota": -1}}, [("cpu", "cpu.cfs_quota_us", "-1")]),
        ({"pids": {"limit": -1}}, [("pids", "pids.max", "max")]),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}},
            [("blkio", "blkio.throttle.read_bps_device", "8:0 1000")],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]},
            [("hugetlb", "hugetlb.2MB.limit_in_bytes", "9")],
        ),
    ],
)
def test_v1(resources: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    assert v1.settings(resources) == expected


def test_v1_raises_swap_before_memory() -> None:
    resources = {"memory": {"limit": 8 * MIB, "swap": 16 * MIB}}
    names = [name for _, name, _ in v1.settings(resources, (MIB, 2 * MIB))]
    assert names == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, []),
        ({"memory": {"limit": MIB}}, [("memory.max", str(MIB))]),
        ({"memory": {"limit": -1}}, [("memory.max", "max")]),
        (
            {"memory": {"limit": MIB, "swap": 3 * MIB}},
            [("memory.swap.max", str(2 * MIB)), ("memory.max", str(MIB))],
        ),
        ({"memory": {"limit": MIB, "swap": -1}}, [("memory.swap.max", "max"), ("memory.max", str(MIB))]),
        ({"cpu": {"quota": 50000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"period": 20000}}, [("cpu.max", "max 20000")]),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "39")]),
        ({"pids": {"limit": 5}}, [("pids.max", "5")]),
        ({"unified": {"memory.high": "1"}}, [("memory.high", "1")]),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}},
            [("io.max", "8:0 wiops=7")],
        ),
    ],
)
def test_v2(resources: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert v2.settings(resources) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": {"swap": MIB}},
        {"memory": {"limit": 2 * MIB, "swap": MIB}},
        {"unified": {"../x": "1"}},
        {"unified": {"memory.max": 1}},
        {"memory": {"limit": "much"}},
    ],
)
def test_v2_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(StartFailed):
        v2.settings(wrong)


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262144, 10000), (10**9, 10000)])
def test_weight_for_shares(shares: int, weight: int) -> None:
    assert v2.weight_for_shares(shares) == weight


def test_hierarchies_of_a_mountinfo() -> None:
    table = """\
30 25 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:3 master:2 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:28 / /somewhere/else rw - cgroup cgroup rw,memory
"""
    assert v1.parse_mountinfo(table) == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }


@pytest.mark.parametrize(("path", "clean"), [("/a/b", "/a/b"), ("a//b/", "/a/b"), ("/./x", "/x")])
def test_paths(path: str, clean: str) -> None:
    assert clean_path(path) == clean


@pytest.mark.parametrize("path", ["", "/", "..", "/a/../b", "/a\0b", "/a\nb"])
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(StartFailed, match="invalid cgroup path"):
        clean_path(path)
