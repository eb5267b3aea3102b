"""The engine's launcher, replaced when it dies: shims go on without one, but nothing new could start.

Keeps what a launcher must hold for daemons to come (listening sockets), so that a new one can be given the same.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from wherry import plugins
from wherry.errors import Unavailable
from wherry.shim.client import Launcher, OnEvent, OnLost, Shim, ShimError, ShimGone

_log = logging.getLogger(__name__)

RETRY_S = 1.0
ATTEMPTS = 5


class Launching:
    """`await Launching.open(exec_root)`; `spawn` runs the new launcher's start in the engine's own task group."""

    def __init__(self, exec_root: str) -> None:
        self._exec_root = exec_root
        self._launcher: Launcher | None = None
        self._held: dict[str, socket.socket] = {}
        self._ready = asyncio.Event()
        self._is_closed = False
        self.background: Callable[[Coroutine[Any, Any, None]], None] | None = None

    @classmethod
    async def open(cls, exec_root: str) -> Launching:
        launching = cls(exec_root)
        await launching._find()
        return launching

    async def _find(self) -> None:
        launcher = await Launcher.open(self._exec_root, log_drivers=_log_drivers(), on_lost=self._lost)
        for name, listener in self._held.items():
            await launcher.hold(name, listener)
        self._launcher = launcher
        self._ready.set()

    def _lost(self) -> None:
        self._ready.clear()
        self._launcher = None
        if not self._is_closed and self.background is not None:
            _log.warning("the launcher died: starting another, containers go on running")
            self.background(self._replace())

    async def _replace(self) -> None:
        for _ in range(ATTEMPTS):
            try:
                await self._find()
                return
            except (ShimGone, OSError) as exc:
                _log.error("cannot start a launcher: %s", exc)
                await asyncio.sleep(RETRY_S)

    async def _live(self) -> Launcher:
        if self._launcher is None:
            try:
                async with asyncio.timeout(RETRY_S * ATTEMPTS):
                    await self._ready.wait()
            except TimeoutError as exc:
                raise Unavailable("no launcher can be started: see the daemon's log") from exc
        assert self._launcher is not None
        return self._launcher

    async def spawn(self, container_id: str, directory: str, *, on_event: OnEvent, on_lost: OnLost) -> Shim:
        """A new shim; requests to it may be sent right away. One that could not be forked is lost (`on_lost`)."""
        launcher = await self._live()
        shim, spawned = launcher.spawn(container_id, directory, on_event=on_event, on_lost=on_lost)
        spawned.add_done_callback(lambda done: done.cancelled() or done.exception())
        return shim

    async def hold(self, name: str, listener: socket.socket) -> None:
        """Have this launcher, and any that replaces it, keep a listening socket for the next daemon."""
        self._held[name] = listener
        await (await self._live()).hold(name, listener)

    async def take(self) -> dict[str, socket.socket]:
        """The listening sockets an earlier daemon left."""
        kept = await (await self._live()).take()
        self._held.update(kept)
        return kept

    async def drop(self, name: str) -> None:
        self._held.pop(name, None)
        await (await self._live()).drop(name)

    async def stop(self) -> None:
        """Have the launcher end with its last shim: for programs that embed the engine and leave nothing behind."""
        if self._launcher is not None:
            self._is_closed = True
            await self._launcher.stop()

    async def leave(self, *error: object) -> None:
        """Hang up. The launcher goes on, unless the engine could not start: then it ends with its last shim."""
        if error and error[0] is not None and self._launcher is not None:
            try:
                await self.stop()
            except (ShimGone, ShimError):
                pass
        self.close()

    def close(self) -> None:
        """Hang up; the launcher goes on."""
        self._is_closed = True
        if self._launcher is not None:
            self._launcher.close()


def _log_drivers() -> list[str]:
    """Every driver that is installed: a launcher loads nothing later."""
    return [plugins.driver_path(plugins.LOGS, name) for name in plugins.driver_names(plugins.LOGS)]
