"""The name service's sockets inside a container's network namespace, and the rules that lead port 53 to them.

They listen on random ports of 127.0.0.11, so that the container can have port 53 for itself. A rule of nftables, inside
that namespace alone, redirects what goes to 127.0.0.11:53. The other one gives an answer its proper sender even when
the kernel has forgotten the question meanwhile (after 30 s: a daemon that was away).
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wherry.errors import Internal, Unsupported
from wherry.network import nft

T = TypeVar("T")

ADDRESS = "127.0.0.11"
PORT = 53
UDP_NAME, TCP_NAME = "dns_udp", "dns_tcp"
"""Under which names a shim keeps the sockets."""

_BACKLOG = 64
_CLONE_NEWNET = 0x40000000

_RULES = """
add table ip wherry_names
delete table ip wherry_names
table ip wherry_names {{
    chain output {{
        type nat hook output priority -100; policy accept;
        ip daddr {address} udp dport {port} dnat to {address}:{udp}
        ip daddr {address} tcp dport {port} dnat to {address}:{tcp}
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {address} udp sport {udp} snat to {address}:{port}
        ip saddr {address} tcp sport {tcp} snat to {address}:{port}
    }}
}}
"""

_log = logging.getLogger(__name__)


class NameSockets:
    """Where a container's questions arrive. Close it."""

    __slots__ = ("tcp", "udp")

    def __init__(self, udp: socket.socket, tcp: socket.socket) -> None:
        udp.setblocking(False)
        tcp.setblocking(False)
        self.udp = udp
        self.tcp = tcp  # listening

    @classmethod
    def of(cls, udp: int, tcp: int) -> NameSockets:
        """From descriptors that are ours from here on."""
        return cls(socket.socket(fileno=udp), socket.socket(fileno=tcp))

    def descriptors(self) -> dict[str, int]:
        """By the names a shim keeps them under; still ours."""
        return {UDP_NAME: self.udp.fileno(), TCP_NAME: self.tcp.fileno()}

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def open_here() -> NameSockets:
    """Listen in the calling thread's network namespace, whose `lo` is up. Takes some 6 ms.

    Without nftables they listen on port 53 itself, which the container then cannot have.
    """
    sockets = _listen(0)
    try:
        nft.run(
            _RULES.format(
                address=ADDRESS,
                port=PORT,
                udp=sockets.udp.getsockname()[1],
                tcp=sockets.tcp.getsockname()[1],
            )
        )
    except (Internal, Unsupported) as exc:
        sockets.close()
        _log.warning("containers cannot have port %d of %s for themselves: %s", PORT, ADDRESS, exc)
        return _listen(PORT)
    except BaseException:
        sockets.close()
        raise
    return sockets


def _listen(port: int) -> NameSockets:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind((ADDRESS, port))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((ADDRESS, port))
            tcp.listen(_BACKLOG)
        except BaseException:
            tcp.close()
            raise
    except BaseException:
        udp.close()
        raise
    return NameSockets(udp, tcp)


class Visitor:
    """A thread that steps into other network namespaces to open sockets there, and back."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="names")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, netns: int, step: Callable[[], T]) -> asyncio.Future[T]:
        """Run `step` in the namespace that the descriptor `netns` names. Close that with `close_after` only."""

        def visit() -> T:
            self._enter(netns)
            try:
                return step()
            finally:
                self._enter(self._host)  # staying would keep a namespace whose container has gone

        return asyncio.get_running_loop().run_in_executor(self._thread, visit)

    def close_after(self, netns: int) -> None:
        """Close a namespace's descriptor once the visits are over that were asked for before."""
        self._thread.submit(os.close, netns)

    def close(self) -> None:
        self._thread.shutdown()
        os.close(self._host)

    def _enter(self, netns: int) -> None:
        if self._libc.setns(netns, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"setns: {os.strerror(code)}")
