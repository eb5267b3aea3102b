"""Memory of an engine at rest, and what many runs leave behind.

PSS (proportional set size) counts a page that n processes share as one n-th, so that the parts of an engine add up.
"""

from __future__ import annotations

import contextlib
import os
import time

from bench import room
from bench.engines import IMAGE, Daemon
from bench.rows import Goal, Row

SLEEPERS = 10
SETTLE_S = 2.0
"""How long an engine is left alone before its memory is read: Go returns memory to the kernel with a delay."""

KINDS = ("descriptors", "threads", "cgroups", "mounts", "interfaces", "files", "MiB PSS")


def pss_mib(daemon: Daemon) -> float:
    """Of the daemon and all its helpers, containers' own processes left out."""
    total = 0
    for pid in daemon.processes():
        with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/smaps_rollup") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


def at_rest(name: str, label: str, daemons: list[Daemon]) -> Row:
    time.sleep(SETTLE_S)
    return Row(name, label, "MiB", {daemon.name: [pss_mib(daemon)] for daemon in daemons}, Goal(limit=60))


def per_container(daemons: list[Daemon]) -> Row:
    """What a running container adds: its shim, and its part of the daemon."""
    samples: dict[str, list[float]] = {}
    for daemon in daemons:
        names = [f"bench-sleeper-{number}" for number in range(SLEEPERS)]
        before = pss_mib(daemon)
        for name in names:
            daemon.docker("run", "-d", "--name", name, IMAGE, "sleep", "100000")
        time.sleep(SETTLE_S)
        samples[daemon.name] = [(pss_mib(daemon) - before) / SLEEPERS]
        daemon.docker("rm", "-f", *names)
    return Row("pss-container", "PSS added by a running container", "MiB", samples, Goal(limit=2))


def growth(daemons: list[Daemon], runs: int) -> list[Row]:
    """What is more after `runs` times `docker run --rm`. Memory may breathe by a MiB; nothing else may grow."""
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    for daemon in daemons:
        for _ in range(20):  # what is filled on first use, such as what is kept ready for the next run
            daemon.run()
        before = _count(daemon)
        for _ in range(runs):
            daemon.run()
        after = _count(daemon)
        for kind in KINDS:
            found[kind][daemon.name] = [after[kind] - before[kind]]
    return [
        Row(
            f"growth-{kind}",
            f"growth over {runs} runs: {kind}",
            "",
            samples,
            Goal(limit=1 if "PSS" in kind else 0),
        )
        for kind, samples in found.items()
    ]


def _count(daemon: Daemon) -> dict[str, float]:
    time.sleep(SETTLE_S)
    pids = daemon.processes()
    with open("/proc/self/mounts") as file:
        mounts = sum(1 for _ in file)
    return {
        "descriptors": sum(_entries(f"/proc/{pid}/fd") for pid in pids),
        "threads": sum(_entries(f"/proc/{pid}/task") for pid in pids),
        "cgroups": len(room.cgroups(daemon.cgroup)),
        "mounts": mounts,
        "interfaces": _entries("/sys/class/net"),
        "files": sum(
            len(files) + len(folders)
            for root in (daemon.data_root, daemon.exec_root)
            for _, folders, files in os.walk(root)
        ),
        "MiB PSS": pss_mib(daemon),
    }


def _entries(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0
