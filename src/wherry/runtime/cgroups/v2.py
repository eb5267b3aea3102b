"""cgroup v2, the unified hierarchy: one directory. Documentation: the kernel's admin-guide/cgroup-v2.

A child is born in it (clone3 with CLONE_INTO_CGROUP), so nothing is ever moved.
"""

from __future__ import annotations

import errno
import os
import select

from wherry.linux import bpf
from wherry.linux.inotify import watch_modified
from wherry.runtime import values
from wherry.runtime.cgroups import tree
from wherry.runtime.cgroups.devices import program
from wherry.runtime.cgroups.tree import ROOT
from wherry.runtime.errors import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FREEZE_TIMEOUT_MS = 5000


class UnifiedCgroup:
    """The Cgroup of cgroup v2."""

    is_born_into = True
    __slots__ = ("_place", "birthplace", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.birthplace = -1
        self._place = ROOT + path

    def create(self, resources: dict[str, Any], *, member: int = 0) -> None:
        # What was left by an earlier container of the same name: its processes must not be taken over.
        if not tree.make(self._place) and set(tree.pids(self._place)) - {member}:
            raise OSError(errno.EBUSY, "cgroup is in use", self._place)
        try:
            if not member:  # else systemd made it, and has the directories above to itself
                _delegate_down_to(self.path)
            self.update(resources)
            self.open()
            bpf.attach_device_filter(self.birthplace, program(values.children(resources, "devices")))
        except BaseException:
            self.remove()
            raise

    def open_doors(self) -> None:
        pass  # a child is born inside

    def close_doors(self) -> None:
        pass

    def join(self) -> None:
        tree.write(self._place, "cgroup.procs", "0")

    def update(self, resources: dict[str, Any]) -> None:
        for name, value in settings(resources):
            tree.write(self._place, name, value)
        weight = values.child(resources, "blockIO").get("weight")
        if weight:
            self._set_weight(weight)

    def pids(self) -> list[int]:
        return tree.pids(self._place)

    def kill(self) -> None:
        try:
            tree.write(self._place, "cgroup.kill", "1")
        except FileNotFoundError:
            pass  # the cgroup is gone: every kernel we run on has the file

    def freeze(self) -> None:
        self._set_frozen("1")

    def thaw(self) -> None:
        self._set_frozen("0")

    def is_frozen(self) -> bool:
        try:
            return tree.read(self._place, "cgroup.freeze").strip() == "1"
        except FileNotFoundError:
            return False

    def open(self) -> None:
        if self.birthplace < 0:
            self.birthplace = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_oom_events(self) -> int:
        return watch_modified(self._place + "/memory.events")

    def oom_kill_count(self) -> int:
        for line in tree.read(self._place, "memory.events").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def directories(self) -> dict[str, str]:
        return {"": self._place}

    def remove(self) -> None:
        tree.remove(self._place)
        if self.birthplace >= 0:
            os.close(self.birthplace)
            self.birthplace = -1

    def _set_frozen(self, value: str) -> None:
        events = os.open(self._place + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            tree.write(self._place, "cgroup.freeze", value)
            changed = select.poll()
            changed.register(events, select.POLLPRI)
            while f"frozen {value}\n" not in os.pread(events, 4096, 0).decode():
                if not changed.poll(_FREEZE_TIMEOUT_MS):
                    if value == "1":
                        tree.write(self._place, "cgroup.freeze", "0")  # never leave it half frozen
                    raise OSError(errno.EBUSY, "unable to freeze", self._place)
        finally:
            os.close(events)

    def _set_weight(self, weight: int) -> None:
        if os.path.exists(self._place + "/io.bfq.weight"):
            tree.write(self._place, "io.bfq.weight", str(weight))
        else:
            # 10..1000 to 1..10000, as in the runtime specification's companion to v2.
            tree.write(self._place, "io.weight", str(1 + (weight - 10) * 9999 // 990))


def settings(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """(file, value) to write for `resources`, whose numbers are in v1's terms, in order."""
    result: list[tuple[str, str]] = []

    def put(name: str, value: Any) -> None:
        result.append((name, str(value)))

    memory = values.child(resources, "memory")
    limit, swap = values.number(memory, "limit") or 0, values.number(memory, "swap") or 0
    if swap:
        if swap > 0 and not limit:
            raise invalid("memory swap limit is set without a memory limit")
        if swap > 0 and limit > 0 and swap < limit:
            raise invalid(f"memory swap limit {swap} is below the memory limit {limit}")
        # v1 counts memory and swap together, v2 swap alone.
        put("memory.swap.max", "max" if swap < 0 or limit < 0 else swap - limit)
    if limit:
        put("memory.max", "max" if limit < 0 else limit)
    if memory.get("reservation"):
        put("memory.low", "max" if memory["reservation"] < 0 else memory["reservation"])

    cpu = values.child(resources, "cpu")
    if cpu.get("shares"):
        put("cpu.weight", weight_for_shares(cpu["shares"]))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        put("cpu.max", f"{quota if quota and quota > 0 else 'max'} {period or 100000}")
    if cpu.get("burst"):
        put("cpu.max.burst", cpu["burst"])
    if cpu.get("idle") is not None:
        put("cpu.idle", cpu["idle"])
    if cpu.get("cpus"):
        put("cpuset.cpus", cpu["cpus"])
    if cpu.get("mems"):
        put("cpuset.mems", cpu["mems"])

    pids = values.number(values.child(resources, "pids"), "limit")
    if pids:
        put("pids.max", pids if pids > 0 else "max")

    block = values.child(resources, "blockIO")
    for key, name in _THROTTLES.items():
        for device in values.children(block, key):
            put("io.max", f"{device['major']}:{device['minor']} {name}={device['rate']}")
    for page in values.children(resources, "hugepageLimits"):
        put(f"hugetlb.{page['pageSize']}.max", page["limit"])
    for name, value in values.mapping(resources, "unified").items():
        if "/" in name or "." not in name:
            raise invalid(f"invalid cgroup file {name!r} in linux.resources.unified")
        put(name, value)
    return result


_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def weight_for_shares(shares: int) -> int:
    """cpu.weight 1..10000 for v1's cpu.shares 2..262144."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def _delegate_down_to(path: str) -> None:
    """Every controller there is, enabled in each directory above the last of `path`."""
    place = ROOT
    wanted = tree.read(ROOT, "cgroup.controllers").split()
    for name in path.split("/")[1:]:
        enabled = set(tree.read(place, "cgroup.subtree_control").split())
        for controller in wanted:
            if controller in enabled:
                continue
            try:
                tree.write(place, "cgroup.subtree_control", "+" + controller)
            except OSError as exc:
                # EBUSY: processes in an inner node; ENOENT: not given to it; EINVAL: cpu with real-time
                # tasks. What a limit needs and is missing fails when the limit is written.
                if exc.errno not in (errno.EBUSY, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES):
                    raise
        place = f"{place}/{name}"
