"""A room of the benchmark's own: network, mount and process namespaces, an empty /run, and a cgroup.

Every engine runs in it. Bridges, firewall rules, mounts and processes end with the namespaces, however the benchmark
ends, so nothing has to be put back on the machine, and no other engine on it is met: whose bridge is `docker0`, and
which rules a packet passes, is the same for all. What namespaces do not hold, `run_inside` removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

BASE = "WHERRY_BENCH_BASE"
UNSHARE = tuple(
    "setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc --".split()
)

run_folder = "/run/wherry-bench"
"""Where the engines have their sockets."""


def is_inside() -> bool:
    return BASE in os.environ


def base_folder() -> str:
    """Where the engines keep their data, on the disk."""
    return os.environ[BASE]


def cgroup_parent() -> str:
    """The cgroup that every engine puts its containers under."""
    return f"/{os.path.basename(base_folder())}"


def run_inside(argv: Sequence[str]) -> int:
    """Run this program again, inside a new room; its exit code once the room is gone."""
    signal.signal(signal.SIGTERM, _end)  # by way of `finally`
    base = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
    os.chmod(base, 0o711)
    try:
        command = [*UNSHARE, sys.executable, "-m", "bench", *argv]
        environment = {**os.environ, BASE: base, "TMPDIR": base}
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(base, ignore_errors=True)
        for folder in cgroups(os.path.basename(base)):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def cgroups(parent: str) -> list[str]:
    """Every cgroup at or below `parent` (relative to the root), in all hierarchies, the deepest first."""
    root = "/sys/fs/cgroup"
    tops = [root, *(entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))]
    return [folder for top in tops for folder, _, _ in os.walk(f"{top}/{parent.strip('/')}", topdown=False)]


def settle_in() -> None:
    """The first process inside: goes on as a child, while the parent reaps what is orphaned, as PID 1 has to."""
    child = os.fork()
    if child != 0:
        while True:
            try:
                pid, status = os.wait()
            except KeyboardInterrupt:
                continue  # the child had it too, and ends
            if pid == child:
                os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _run("ip", "link", "set", "lo", "up")
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    os.mkdir(run_folder, 0o711)
    # /sys shows the interfaces of the network namespace it was mounted in. Below it are the cgroups, which stay.
    os.mkdir("/run/cgroup")
    _run("mount", "--rbind", "/sys/fs/cgroup", "/run/cgroup")
    _run("mount", "-t", "sysfs", "sysfs", "/sys")
    _run("mount", "--rbind", "/run/cgroup", "/sys/fs/cgroup")
    _run("umount", "-l", "/run/cgroup")
    os.rmdir("/run/cgroup")


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def unmount_below(folder: str) -> None:
    with open("/proc/self/mounts") as file:
        points = [line.split()[1] for line in file]
    for point in reversed(points):
        if point.startswith(folder + "/"):
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
