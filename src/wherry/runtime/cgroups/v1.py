"""cgroup v1: one directory per hierarchy, made in every one that is mounted and writable.

Documentation: the kernel's admin-guide/cgroup-v1. Joining is done by writing "0" to `tasks` and not to
`cgroup.procs`: a process that moves its own single thread needs no cgroup_threadgroup_rwsem, whose writer
waits for an RCU grace period (5 to 20 ms).
"""

from __future__ import annotations

import errno
import os
import signal
import time

from wherry.runtime import values
from wherry.runtime.cgroups import tree
from wherry.runtime.cgroups.devices import v1_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FREEZE_TIMEOUT_S = 5.0
_KILL_ROUNDS = 1000


class HierarchiesCgroup:
    """The Cgroup of cgroup v1 (also in the hybrid layout)."""

    is_born_into = False
    __slots__ = ("_doors", "_places", "birthplace", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.birthplace = -1
        self._doors: list[int] = []
        self._places = {controller: mount + path for controller, mount in mounted_hierarchies().items()}

    def create(self, resources: dict[str, Any], *, member: int = 0) -> None:
        # What was left by an earlier container of the same name: its processes must not be taken over.
        if set(tree.pids(self._places["freezer"])) - {member}:
            raise OSError(errno.EBUSY, "cgroup is in use", self._places["freezer"])
        try:
            self._make_places()
            self._limit_devices(resources)
            self.update(resources)
        except BaseException:
            self.remove()
            raise

    def _make_places(self) -> None:
        for controller, place in list(self._places.items()):
            try:
                if tree.make(place) and controller == "cpuset":
                    _inherit_cpuset(place)
            except OSError as exc:
                if controller in _REQUIRED or exc.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                del self._places[controller]  # not ours to write: the container stays where its parent is

    def open_doors(self) -> None:
        self._doors = self._open_tasks()

    def close_doors(self) -> None:
        for descriptor in self._doors:
            os.close(descriptor)
        self._doors = []

    def join(self) -> None:
        if not self._doors:
            self._doors = self._open_tasks()
        try:
            for descriptor in self._doors:
                os.write(descriptor, b"0")
        finally:
            self.close_doors()

    def _open_tasks(self) -> list[int]:
        flags = os.O_WRONLY | os.O_CLOEXEC
        return [os.open(place + "/tasks", flags) for place in dict.fromkeys(self._places.values())]

    def update(self, resources: dict[str, Any]) -> None:
        for controller, name, value in settings(resources, self._current_limits(resources)):
            place = self._places.get(controller)
            if place is None:
                raise OSError(
                    errno.ENOENT, f"cgroup controller {controller} is not mounted: cannot set {name}"
                )
            tree.write(place, name, value)
        block = values.child(resources, "blockIO")
        if block.get("weight"):
            self._set_weight(str(block["weight"]))

    def pids(self) -> list[int]:
        return tree.pids(self._places["freezer"])

    def kill(self) -> None:
        """Freeze, signal, thaw: nothing can fork between being listed and being killed."""
        place = self._places.get("freezer")
        if place is None or not os.path.isdir(place):
            return
        for round_number in range(_KILL_ROUNDS):
            found = tree.pids(place)
            if not found:
                break
            self._set_frozen(True, wait=False)
            for pid in tree.pids(place):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._set_frozen(False, wait=False)
            time.sleep(min(0.0005 * (round_number + 1), 0.02))
        self._set_frozen(False, wait=False)

    def freeze(self) -> None:
        self._set_frozen(True, wait=True)

    def thaw(self) -> None:
        self._set_frozen(False, wait=True)

    def is_frozen(self) -> bool:
        try:
            return tree.read(self._places["freezer"], "freezer.self_freezing").strip() == "1"
        except FileNotFoundError:
            return False

    def open(self) -> None:
        pass  # nothing is born in a cgroup v1

    def open_oom_events(self) -> int:
        place = self._places["memory"]
        events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(place + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                tree.write(place, "cgroup.event_control", f"{events} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(events)
            raise
        return events

    def oom_kill_count(self) -> int:
        for line in tree.read(self._places["memory"], "memory.oom_control").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def directories(self) -> dict[str, str]:
        return dict(self._places)

    def remove(self) -> None:
        failure: OSError | None = None
        for place in dict.fromkeys(self._places.values()):
            try:
                tree.remove(place)
            except OSError as exc:
                failure = exc
        if failure is not None:
            raise failure

    def _limit_devices(self, resources: dict[str, Any]) -> None:
        place = self._places["devices"]
        files = {
            name: os.open(f"{place}/devices.{name}", os.O_WRONLY | os.O_CLOEXEC) for name in ("allow", "deny")
        }
        try:
            for name, line in v1_lines(values.children(resources, "devices")):
                os.write(files[name], line)
        finally:
            for descriptor in files.values():
                os.close(descriptor)

    def _set_frozen(self, frozen: bool, *, wait: bool) -> None:
        place = self._places["freezer"]
        wanted = "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        try:
            while True:
                tree.write(place, "freezer.state", wanted)
                if not wait or tree.read(place, "freezer.state").strip() == wanted:
                    return
                if time.monotonic() > deadline:
                    # A half-frozen cgroup must not stay behind.
                    tree.write(place, "freezer.state", "THAWED")
                    raise OSError(errno.EBUSY, "unable to freeze", place)
                time.sleep(0.001)
        except FileNotFoundError:
            if wait:
                raise

    def _set_weight(self, weight: str) -> None:
        place = self._places["blkio"]
        for name in ("blkio.bfq.weight", "blkio.weight"):
            if os.path.exists(f"{place}/{name}"):
                tree.write(place, name, weight)
                return
        raise OSError(errno.ENOENT, "no blkio weight on this kernel (blkio.bfq.weight, blkio.weight)")

    def _current_limits(self, resources: dict[str, Any]) -> tuple[int, int]:
        """memory and memory+swap limit now, read only when both are about to change: their order depends on
        it.
        """
        memory = values.child(resources, "memory")
        if not memory.get("limit") or not memory.get("swap"):
            return 0, 0
        place = self._places["memory"]
        try:
            return int(tree.read(place, "memory.limit_in_bytes")), int(
                tree.read(place, "memory.memsw.limit_in_bytes")
            )
        except FileNotFoundError:
            return 0, 0  # no swap accounting


_REQUIRED = ("memory", "pids", "freezer", "devices")


def settings(resources: dict[str, Any], current: tuple[int, int] = (0, 0)) -> list[tuple[str, str, str]]:
    """(controller, file, value) to write for `resources`, in order. `current`: limits that bind the order."""
    result: list[tuple[str, str, str]] = []

    def put(controller: str, name: str, value: Any) -> None:
        result.append((controller, f"{controller}.{name}", str(value)))

    memory = values.child(resources, "memory")
    limit, swap = values.number(memory, "limit") or 0, values.number(memory, "swap") or 0
    if limit and swap and limit > 0 and swap > 0 and current[1] and current[1] < limit:
        # memory.limit must never exceed memsw.limit: when both grow, memsw goes first.
        put("memory", "memsw.limit_in_bytes", swap)
        put("memory", "limit_in_bytes", limit)
    else:
        if limit:
            put("memory", "limit_in_bytes", limit)
        if swap:
            put("memory", "memsw.limit_in_bytes", swap)
    if memory.get("reservation"):
        put("memory", "soft_limit_in_bytes", memory["reservation"])
    if memory.get("kernelTCP"):
        put("memory", "kmem.tcp.limit_in_bytes", memory["kernelTCP"])
    if memory.get("disableOOMKiller"):
        put("memory", "oom_control", 1)
    if memory.get("swappiness") is not None:
        put("memory", "swappiness", memory["swappiness"])

    cpu = values.child(resources, "cpu")
    if cpu.get("shares"):
        put("cpu", "shares", cpu["shares"])
    if cpu.get("period"):
        put("cpu", "cfs_period_us", cpu["period"])
    if cpu.get("quota"):
        put("cpu", "cfs_quota_us", cpu["quota"])
    if cpu.get("burst"):
        put("cpu", "cfs_burst_us", cpu["burst"])
    if cpu.get("realtimePeriod"):
        put("cpu", "rt_period_us", cpu["realtimePeriod"])
    if cpu.get("realtimeRuntime"):
        put("cpu", "rt_runtime_us", cpu["realtimeRuntime"])
    if cpu.get("idle") is not None:
        put("cpu", "idle", cpu["idle"])
    if cpu.get("cpus"):
        put("cpuset", "cpus", cpu["cpus"])
    if cpu.get("mems"):
        put("cpuset", "mems", cpu["mems"])

    pids = values.number(values.child(resources, "pids"), "limit")
    if pids:
        put("pids", "max", pids if pids > 0 else "max")

    block = values.child(resources, "blockIO")
    for key, name in _THROTTLES.items():
        for device in values.children(block, key):
            put("blkio", f"throttle.{name}", f"{device['major']}:{device['minor']} {device['rate']}")
    for device in values.children(block, "weightDevice"):
        if device.get("weight"):
            put("blkio", "bfq.weight_device", f"{device['major']}:{device['minor']} {device['weight']}")

    for page in values.children(resources, "hugepageLimits"):
        put("hugetlb", f"{page['pageSize']}.limit_in_bytes", page["limit"])
    network = values.child(resources, "network")
    if network.get("classID") is not None:
        put("net_cls", "classid", network["classID"])
    for priority in values.children(network, "priorities"):
        put("net_prio", "ifpriomap", f"{priority['name']} {priority['priority']}")
    return result


_THROTTLES = {
    "throttleReadBpsDevice": "read_bps_device",
    "throttleWriteBpsDevice": "write_bps_device",
    "throttleReadIOPSDevice": "read_iops_device",
    "throttleWriteIOPSDevice": "write_iops_device",
}


def mounted_hierarchies() -> dict[str, str]:
    """Mount point by controller (`name=systemd` for the named one), found once."""
    global _hierarchies
    if _hierarchies is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            _hierarchies = parse_mountinfo(table.read())
    return _hierarchies


def parse_mountinfo(text: str) -> dict[str, str]:
    """Mount point by controller of the cgroup v1 mounts in a mountinfo table, proc_pid_mountinfo(5)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        before, separator, after = line.partition(" - cgroup ")
        if not separator:
            continue
        point = before.split(" ")[4]
        for option in after.split(" ", 1)[1].split(","):
            if option in _CONTROLLERS or option.startswith("name="):
                # Controllers that share a hierarchy are made and joined once, under the first one's name, but
                # each must be found by its own name.
                found.setdefault(option, point)
    return found


_CONTROLLERS = frozenset(
    (
        *("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"),
        *("hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"),
    )
)
_hierarchies: dict[str, str] | None = None


def _inherit_cpuset(place: str) -> None:
    """A new cpuset is empty and takes no process: give it what its parent has, the parent first."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if tree.read(place, name).strip():
            continue
        parent = os.path.dirname(place)
        value = tree.read(parent, name).strip()
        if not value:
            _inherit_cpuset(parent)
            value = tree.read(parent, name).strip()
        tree.write(place, name, value)
    # Those made below from now on get a copy at once.
    tree.write(os.path.dirname(place), "cgroup.clone_children", "1")
