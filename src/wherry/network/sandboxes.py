"""Network namespaces by descriptor, made by a daemon that never forks, and kept ready in small pools.

A network namespace belongs to a thread. One thread of ours, the *maker*, steps into a new namespace, opens
a descriptor and a netlink socket there, and steps back. Nothing gets a name on the host: when the last
descriptor and process are gone, so are the namespace and both ends of every veth in it. A daemon that is
killed leaves no pool.

Making a sandbox with its veth costs about 1.5 ms; taking a ready one costs nothing. A pool is refilled once
the burst that emptied it is over, or at once when it runs low. One of a network that somebody made is *elastic*:
it holds nothing until it is used, grows with use, and lets go of everything when it has not been used for a while.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wherry.errors import Unavailable
from wherry.network.dns.namespace import NameSockets, open_here
from wherry.network.links import Links

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CLONE_NEWNET = 0x40000000
_LOOPBACK = 1  # the kernel gives `lo` the first index in every namespace

POOL_SIZE = 6
"""Sandboxes kept ready per pool. Each costs the kernel some 100 KiB and the daemon two descriptors."""

IDLE_S = 30.0
"""How long an elastic pool keeps what nobody takes."""

REFILL_DELAY_S = 0.05
"""How long after the last start an unhurried refill waits, so as not to compete with that start for the
processor.
"""


class Sandbox:
    """A network namespace we hold. Close it, or `hand_over` its descriptor: never both."""

    __slots__ = ("_netns", "id", "indexes", "interface", "links", "names", "network_id", "port_index")

    def __init__(self, netns: int, links: Links) -> None:
        self.id = secrets.token_hex(32)  # becomes the id of the first endpoint in it
        self._netns = netns
        self.links = links  # configures the inside
        self.names: NameSockets | None = None  # the name service's sockets, if it was made with them
        self.indexes: dict[str, int] = {}  # of the interfaces inside, by network
        self.network_id = ""  # the network it was made for, with a veth; empty: for none
        self.interface = ""  # the host's end of that veth
        self.port_index = 0  # that end's index on the host

    @property
    def netns(self) -> int:
        """The descriptor, still ours."""
        return self._netns

    def hand_over(self) -> int:
        """The descriptor, the caller's from here on."""
        netns, self._netns = self._netns, -1
        self.close()
        return netns

    def hand_over_names(self) -> NameSockets | None:
        """The name service's sockets, the caller's from here on."""
        names, self.names = self.names, None
        return names

    def close(self) -> None:
        self.links.close()
        if self.names is not None:
            self.names.close()
            self.names = None
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1


class Maker:
    """The thread that makes network namespaces.

    `run` runs any blocking network call there, one after another.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandboxes")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    async def run(self, step: Callable[[], T], *, undo: Callable[[T], None] | None = None) -> T:
        """`step`'s result. If we are cancelled meanwhile it goes on to its end, for it holds descriptors of ours;
        `undo` takes its result back."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, step)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                try:
                    await asyncio.wait([work])
                except asyncio.CancelledError:
                    continue
            if undo is not None and not work.cancelled() and work.exception() is None:
                undo(work.result())
            raise

    def make(self, *, names: bool = False) -> Sandbox:
        """A namespace with `lo` up and no IPv6. For the maker's thread only.

        `names`: with the name service's sockets and rules.
        """
        if self._libc.unshare(_CLONE_NEWNET):
            raise _error("unshare(CLONE_NEWNET)")
        try:
            netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                links = Links()
            except BaseException:
                os.close(netns)
                raise
            sandbox = Sandbox(netns, links)
            try:
                disable_ipv6("all", "default")
                links.change(_LOOPBACK, up=True)
                if names:
                    sandbox.names = open_here()
            except BaseException:
                sandbox.close()
                raise
        finally:
            self._return()
        return sandbox

    def enter(self, netns: int, step: Callable[[], T]) -> T:
        """The result of `step`, carried out inside the namespace. For the maker's thread only."""
        if self._libc.setns(netns, _CLONE_NEWNET):
            raise _error("setns")
        try:
            return step()
        finally:
            self._return()

    def adopt(self, netns: int) -> Sandbox:
        """A sandbox over a running container's namespace; `netns` is its own from here on. Maker's thread only."""
        try:
            links = self.enter(netns, Links)
        except BaseException:
            os.close(netns)
            raise
        return Sandbox(netns, links)

    def _return(self) -> None:
        if self._libc.setns(self._host, _CLONE_NEWNET):
            # This thread would go on making the host's veths in the wrong place: it
            # must not go on at all.
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise _error("setns: cannot return to the host's network namespace")

    def close(self) -> None:
        """Wait for what is being made, then end."""
        self._thread.shutdown()
        if self._host >= 0:
            os.close(self._host)
            self._host = -1


class Pool:
    """A few sandboxes made ahead by `make`, which runs in the maker's thread."""

    def __init__(
        self, maker: Maker, make: Callable[[], Sandbox], size: int = POOL_SIZE, *, elastic: bool = False
    ) -> None:
        self._maker = maker
        self._make = make
        self._most = size
        self._size = 0 if elastic else size  # how many are kept ready now
        self._is_elastic = elastic
        self._idle: asyncio.TimerHandle | None = None
        self._ready: deque[Sandbox] = deque()
        self._waiting: deque[asyncio.Future[Sandbox]] = deque()
        self._filling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._ready)

    async def take(self) -> Sandbox:
        """A ready sandbox, or the next one made. It is the caller's to close."""
        if self._is_elastic:
            self._grow()
        if self._ready:
            sandbox = self._ready.popleft()
            self.refill(delay_s=REFILL_DELAY_S if 2 * len(self._ready) >= self._size else 0)
            return sandbox
        waiter: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self.refill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._ready.append(waiter.result())  # it came in the very moment we were cancelled
            raise

    def _grow(self) -> None:
        """One more is kept ready with every take but the first: a network with a single container costs nothing."""
        if self._idle is not None:
            self._idle.cancel()
            self._size = min(self._most, self._size + 1)
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._shrink)

    def _shrink(self) -> None:
        self._idle = None
        self._size = 0
        self.discard()

    def refill(self, *, delay_s: float = 0) -> None:
        """Begin to fill up, after `delay_s` without another `take`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed or (self._filling is not None and not self._filling.done()):
            return
        if delay_s:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.refill)
        else:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    def discard(self) -> None:
        """Close what is ready, because the bridge it hangs on has gone or changed."""
        while self._ready:
            self._ready.popleft().close()

    async def close(self) -> None:
        self._is_closed = True
        for timer in (self._timer, self._idle):
            if timer is not None:
                timer.cancel()
        if self._filling is not None:
            await asyncio.wait([self._filling])
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(Unavailable("the engine is stopping"))
        self.discard()

    async def _fill(self) -> None:
        while not self._is_closed and (self._waiting or len(self._ready) < self._size):
            try:
                sandbox = await self._maker.run(self._make)
            except (OSError, RuntimeError) as exc:
                if not self._waiting:
                    _log.warning("cannot make a network sandbox ahead of time: %s", exc)
                    return  # the next take tries again
                self._fail_next(exc)
            else:
                self._give(sandbox)

    def _give(self, sandbox: Sandbox) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(sandbox)
                return
        self._ready.append(sandbox)

    def _fail_next(self, exc: Exception) -> None:
        waiter = self._waiting.popleft()
        if not waiter.done():
            waiter.set_exception(exc)


def disable_ipv6(*interfaces: str) -> None:
    """Turn IPv6 off, as Docker does where a network has none, and router advertisements (CVE-2020-13401).

    Acts on the calling thread's network namespace. A kernel without IPv6 is fine.
    """
    for interface in interfaces:
        _set(interface, disable_ipv6=1, accept_ra=0)


def enable_ipv6(*interfaces: str) -> None:
    """Turn IPv6 on where a network has it: without router advertisements, and addresses good at once (no DAD).

    Acts on the calling thread's network namespace.
    """
    for interface in interfaces:
        _set(interface, accept_ra=0, accept_dad=0, dad_transmits=0, disable_ipv6=0)


def _set(interface: str, **settings: int) -> None:
    for setting, value in settings.items():
        try:
            descriptor = os.open(f"/proc/sys/net/ipv6/conf/{interface}/{setting}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)


def _error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
