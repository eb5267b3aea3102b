"""What a shim asks of a container, whoever made it: our own runtime (maker.py), or another (external.py)."""

from __future__ import annotations

import sys

from wherry.shim.protocol import INVALID, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from wherry.shim.maker import Create
else:
    Protocol = object


class Process(Protocol):
    """`console` is the terminal's master, or -1. The shim takes it and leaves -1."""

    pid: int
    pidfd: int
    console: int


class Prepared(Protocol):
    """See wherry.runtime.lifecycle.Prepared."""

    pid: int

    def go(self, *, height: int = 0, width: int = 0) -> Process: ...
    def discard(self) -> None: ...


class Container(Protocol):
    """See wherry.runtime.lifecycle.Container. `oom_events`: readable when memory ran out, or -1; the shim's to
    close.
    """

    stdin: int
    """Our end of the first process's stdin, or -1."""
    sources: dict[str, int]
    """Our ends of its stdout and stderr. With a terminal, `init.console` takes the place of all three."""

    @property
    def init(self) -> Process: ...
    @property
    def oom_events(self) -> int: ...
    @property
    def netns(self) -> int: ...
    @property
    def rootfs(self) -> int: ...
    def start(self) -> None: ...
    def prepare(
        self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None
    ) -> Prepared | None: ...
    def exec(self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None) -> Process: ...
    def signal(self, number: int, *, everything: bool = False) -> None: ...
    def pids(self) -> list[int]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def oom_kill_count(self) -> int: ...
    def destroy(self) -> None: ...


class Runtimes:
    """What a launcher has loaded before it forks: how our containers are made, and the log drivers by name."""

    def __init__(self, create: Create, log_drivers: dict[str, Any]) -> None:
        self.create = create
        self._log_drivers = log_drivers

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
