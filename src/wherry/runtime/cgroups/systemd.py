"""A cgroup that systemd made: a transient scope, for engines that leave cgroups to it (--systemd-cgroup).

The scope is started with the first process in it and `Delegate=yes`; below it and beside it (v1's other
hierarchies) everything is done by the plain driver. Limits are given to systemd too, or it would take them
back at its next reload. What annotations would set (org.systemd.property.…) is not passed on: that is a way
for whoever writes an image to set any property of a unit (CVE-2024-3154).
"""

from __future__ import annotations

import os

from wherry.runtime import values
from wherry.runtime.cgroups import v2
from wherry.runtime.cgroups.dbus import BusError, Connection
from wherry.runtime.errors import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cgroups.driver import Cgroup

    Property = tuple[str, tuple[str, Any]]

_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PRIVATE = "/run/systemd/private"
_UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_UNLIMITED = 0xFFFFFFFFFFFFFFFF


def parse(text: str) -> tuple[str, str]:
    """(slice, unit) of `slice:prefix:name`, the form of cgroupsPath when systemd is in charge."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[2] or "/" in text or ".." in text:
        raise invalid(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {text!r}'
        )
    slice_name, prefix, name = parts
    if name.endswith(".slice"):
        raise invalid(f"invalid cgroupsPath {text!r}: a slice as the container's own cgroup is not supported")
    return slice_name or "system.slice", f"{prefix}-{name}.scope" if prefix else f"{name}.scope"


def slice_path(name: str) -> str:
    """/a.slice/a-b.slice for a-b.slice, systemd.slice(5)."""
    if not name.endswith(".slice") or "/" in name:
        raise invalid(f"invalid slice name {name!r}: want one that ends in .slice")
    stem = name.removesuffix(".slice")
    if stem == "-":
        return ""
    parts = stem.split("-")
    if "" in parts:
        raise invalid(f"invalid slice name {name!r}")
    return "".join("/" + "-".join(parts[: count + 1]) + ".slice" for count in range(len(parts)))


def is_running() -> bool:
    """Whether systemd manages this machine, sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


class ScopeCgroup:
    """The Cgroup of a transient scope; `inner` is the plain driver for the same path."""

    is_born_into = False
    __slots__ = ("_inner", "_slice", "_unit", "path")

    def __init__(self, text: str, inner: Cgroup) -> None:
        if not is_running():
            raise invalid(
                "systemd cgroup flag passed, but systemd support for managing cgroups is not available"
            )
        self.path = text
        self._slice, self._unit = parse(text)
        self._inner = inner

    @property
    def birthplace(self) -> int:
        return self._inner.birthplace

    def create(self, resources: dict[str, Any], *, member: int = 0) -> None:
        if not member:
            raise invalid("a user namespace and systemd cgroups of version 1 do not go together")
        connection = Connection(_PRIVATE)
        try:
            self._start(connection, resources, member)
        finally:
            connection.close()
        try:
            self._inner.create(resources, member=member)
        except BaseException:
            self.remove()
            raise

    def open(self) -> None:
        self._inner.open()

    def open_doors(self) -> None:
        pass  # nothing is there before the process is

    def close_doors(self) -> None:
        pass

    def join(self) -> None:
        self._inner.join()

    def update(self, resources: dict[str, Any]) -> None:
        connection = Connection(_PRIVATE)
        try:
            wanted = limits(resources)
            if wanted:
                arguments = [self._unit, True, wanted]
                connection.call(_PATH, _MANAGER, "SetUnitProperties", "sba(sv)", arguments)
        finally:
            connection.close()
        self._inner.update(resources)

    def pids(self) -> list[int]:
        return self._inner.pids()

    def kill(self) -> None:
        self._inner.kill()

    def freeze(self) -> None:
        self._inner.freeze()

    def thaw(self) -> None:
        self._inner.thaw()

    def is_frozen(self) -> bool:
        return self._inner.is_frozen()

    def open_oom_events(self) -> int:
        return self._inner.open_oom_events()

    def oom_kill_count(self) -> int:
        return self._inner.oom_kill_count()

    def directories(self) -> dict[str, str]:
        return self._inner.directories()

    def remove(self) -> None:
        connection = Connection(_PRIVATE)
        try:
            for method, signature, arguments in (
                ("StopUnit", "ss", [self._unit, "replace"]),
                ("ResetFailedUnit", "s", [self._unit]),
            ):
                try:
                    connection.call(_PATH, _MANAGER, method, signature, arguments)
                except BusError as exc:
                    if exc.name != _NO_SUCH_UNIT:
                        raise
        finally:
            connection.close()
        self._inner.remove()

    def _start(self, connection: Connection, resources: dict[str, Any], member: int) -> None:
        properties: list[Property] = [
            ("Description", ("s", f"wherry container {self._unit}")),
            ("Slice", ("s", self._slice)),
            ("Delegate", ("b", True)),
            ("DefaultDependencies", ("b", False)),
            ("PIDs", ("au", [member])),
            *((f"{name}Accounting", ("b", True)) for name in ("Memory", "CPU", "Tasks", "IO")),
            *limits(resources),
        ]
        arguments = [self._unit, "replace", properties, []]
        signature = "ssa(sv)a(sa(sv))"
        try:
            job = connection.call(_PATH, _MANAGER, "StartTransientUnit", signature, arguments)[0]
        except BusError as exc:
            if exc.name != _UNIT_EXISTS:
                raise
            # One that failed stays until somebody has taken note; a living one is refused again.
            connection.call(_PATH, _MANAGER, "ResetFailedUnit", "s", [self._unit])
            job = connection.call(_PATH, _MANAGER, "StartTransientUnit", signature, arguments)[0]
        while True:
            _, removed, _, result = connection.wait_signal("JobRemoved")
            if removed == job:
                break
        if result != "done":
            raise BusError(self._unit, f"the job to start the scope ended as {result!r}")


def limits(resources: dict[str, Any]) -> list[Property]:
    """Unit properties for the limits that systemd would otherwise take back, in the terms of cgroup v2."""
    found: list[Property] = []
    memory = values.child(resources, "memory")
    limit, swap = values.number(memory, "limit") or 0, values.number(memory, "swap") or 0
    if limit:
        found.append(("MemoryMax", ("t", limit if limit > 0 else _UNLIMITED)))
    if swap and limit:
        found.append(("MemorySwapMax", ("t", swap - limit if swap > 0 and limit > 0 else _UNLIMITED)))
    reservation = values.number(memory, "reservation") or 0
    if reservation:
        found.append(("MemoryLow", ("t", reservation if reservation > 0 else _UNLIMITED)))
    cpu = values.child(resources, "cpu")
    shares, quota = values.number(cpu, "shares") or 0, values.number(cpu, "quota") or 0
    period = values.number(cpu, "period") or 100000
    if shares:
        found.append(("CPUWeight", ("t", v2.weight_for_shares(shares))))
    if quota:
        found.append(("CPUQuotaPeriodUSec", ("t", period)))
        found.append(("CPUQuotaPerSecUSec", ("t", quota * 1000000 // period if quota > 0 else _UNLIMITED)))
    pids = values.number(values.child(resources, "pids"), "limit") or 0
    if pids:
        found.append(("TasksMax", ("t", pids if pids > 0 else _UNLIMITED)))
    return found
