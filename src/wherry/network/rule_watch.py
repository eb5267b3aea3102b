"""Notice that somebody changed the host's nftables rules: a flush or a firewall's reload takes ours along.

The kernel tells every change to those who listen. What changed is not looked at; `on_change` is called once
things have been quiet, or at the latest after a second of steady change.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_QUIET_S = 0.2
_LATEST_S = 1.0


class RuleWatch:
    """Begin with `start`, end with `close`."""

    def __init__(self, on_change: Callable[[], Awaitable[None]]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """OSError where the kernel has no nftables."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
        asyncio.get_running_loop().add_reader(self._socket, self._drain)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def _drain(self) -> None:
        assert self._socket is not None
        self._changed.set()
        for _ in range(64):  # the rest wakes us again
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:  # more changes than the queue holds: a change all the same
                    raise

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            latest = loop.time() + _LATEST_S
            while self._changed.is_set() and loop.time() < latest:
                self._changed.clear()
                await asyncio.sleep(_QUIET_S)
            self._changed.clear()
            try:
                await self._on_change()
            except Exception:
                _log.exception("cannot put the firewall rules right")
