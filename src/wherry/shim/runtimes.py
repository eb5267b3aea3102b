"""What makes containers for a shim: our own runtime, or an external OCI runtime by its command line.

Either gives the same `Container`. The shim is the parent of every process in it and reaps them.
"""

from __future__ import annotations

import sys

from wherry.runtime.errors import StartFailed
from wherry.shim.external import ExternalContainer
from wherry.shim.protocol import INVALID, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol
else:
    Protocol = object


class Process(Protocol):
    """`console` is the terminal's master, or -1. The shim takes it and leaves -1."""

    pid: int
    pidfd: int
    console: int


class Cgroup(Protocol):
    def open_oom_events(self) -> int: ...
    def oom_kill_count(self) -> int: ...


class Container(Protocol):
    """See wherry.runtime.lifecycle.Container."""

    @property
    def init(self) -> Process: ...
    @property
    def cgroup(self) -> Cgroup: ...
    @property
    def netns(self) -> int: ...
    @property
    def rootfs(self) -> int: ...
    def start(self) -> None: ...
    def exec(self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None) -> Process: ...
    def signal(self, number: int, *, everything: bool = False) -> None: ...
    def pids(self) -> list[int]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def destroy(self) -> None: ...


class Runtimes:
    """What a launcher has loaded before it forks: how to make containers, and the log drivers by name."""

    failures: tuple[type[StartFailed]] = (StartFailed,)

    def __init__(self, create: Callable[..., Container], log_drivers: dict[str, Any]) -> None:
        self._create = create
        self._log_drivers = log_drivers

    def create(
        self,
        runtime: list[str] | None,
        spec: dict[str, Any],
        *,
        container_id: str,
        directory: str,
        bundle: str,
        rootfs: dict[str, Any] | None,
        stdio: tuple[int, int, int] | None,
        netns: int | None,
        seccomp: bytes | None,
        cgroup: str,
    ) -> Container:
        """Make the container up to OCI's "created", by `runtime` (an argv) or, where that is None, by ours."""
        if runtime:
            return ExternalContainer(
                runtime,
                spec,
                container_id=container_id,
                directory=directory,
                rootfs=rootfs,
                stdio=stdio,
                netns=netns,
                cgroup=cgroup,
            )
        return self._create(
            spec,
            container_id=container_id,
            rootfs=rootfs,
            stdio=stdio,
            netns=netns,
            seccomp=seccomp,
            cgroup=cgroup,
            bundle=bundle,
        )

    def log_driver(self, name: str) -> Any:
        """The class that `module:attribute` names, which the launcher has loaded."""
        driver = self._log_drivers.get(name)
        if driver is None:
            raise Refused(INVALID, f"log driver {name!r} was not loaded: restart the launcher")
        return driver


def load(name: str) -> Any:
    """What `module:attribute` names. Only before the first fork."""
    module, _, attribute = name.partition(":")
    __import__(module)
    return getattr(sys.modules[module], attribute)
