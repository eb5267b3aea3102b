"""Notice that somebody changed our nftables rules: a flush or a firewall's reload takes them along.

The kernel tells every change to those who listen. Changes that do not mention one of ours are passed over,
for some hosts change others all the time; `on_change` is called once
things have been quiet, or at the latest after a second of steady change.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

_log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_QUIET_S = 0.2
_LATEST_S = 1.0


class RuleWatch:
    """Begin with `start`, end with `close`."""

    def __init__(
        self,
        words: Sequence[str],
        on_change: Callable[[], Awaitable[None]],
        *,
        ignores: Callable[[int], bool] = lambda sender: False,
    ) -> None:
        """`words`: names and comments, one of which every rule or table of ours carries. `ignores` says by a change's
        sender, a netlink port, whether it was us."""
        self._words = {word.encode() + b"\0" for word in words}
        self._on_change = on_change
        self._ignores = ignores
        self._socket: socket.socket | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, word: str) -> None:
        """One more word to look out for."""
        self._words.add(word.encode() + b"\0")

    def start(self) -> None:
        """OSError where the kernel has no nftables."""
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_NETFILTER,
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
        for _ in range(64):  # the rest wakes us again
            try:
                message = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                self._changed.set()  # more changes than the queue holds: ours may be among them
                continue
            # One transaction's changes come together, all with the port of who made it (nlmsghdr, at 12).
            if len(message) >= 16 and self._ignores(int.from_bytes(message[12:16], sys.byteorder)):
                continue
            if any(word in message for word in self._words):
                self._changed.set()

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
