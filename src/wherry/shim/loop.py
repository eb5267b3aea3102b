"""A very small event loop on epoll: descriptors, timers, and word of children that ended.

The launcher and the shim are each one thread on one of these. A handler gets the epoll bits that fired.
Handlers may watch and forget descriptors freely, also ones that have an event waiting in the same round.
"""

from __future__ import annotations

import os
import select
import signal
import time

from wherry.shim.reports import report, whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE, HANGUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


class Timer:
    """A call that is due at `at` (monotonic seconds) unless cancelled."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


def ignore(number: int, frame: object) -> None:
    """A handler that does nothing. Unlike SIG_IGN it does not outlive an execve, and wakes the loop."""


class Loop:
    """Waits and dispatches until `stopped` is set."""

    def __init__(self) -> None:
        self.stopped = False
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._wake: tuple[int, int] | None = None

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call `handler` when `fd` is ready. A mask of 0 still tells of a hang-up."""
        if fd not in self._handlers:
            self._epoll.register(fd, mask)
        elif self._masks[fd] != mask:
            self._epoll.modify(fd, mask)
        self._handlers[fd] = handler
        self._masks[fd] = mask

    def forget(self, fd: int) -> None:
        """Wait for `fd` no more. Must come before it is closed; harmless if it was not watched."""
        if self._handlers.pop(fd, None) is not None:
            del self._masks[fd]
            self._epoll.unregister(fd)

    def watches(self, fd: int) -> bool:
        return fd in self._handlers

    def later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call once, `delay_s` from now."""
        timer = Timer(time.monotonic() + delay_s, call)
        self._timers.append(timer)
        return timer

    def watch_children(self, reap: Callable[[], None]) -> None:
        """Call `reap` when a child has ended (at least once for any number of them).

        SIGCHLD must have a handler, such as `ignore`, or the kernel tells nobody.
        """
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wake = (read, write)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def woken(_: int) -> None:
            try:
                os.read(read, 4096)
            except BlockingIOError:
                pass
            reap()

        self.watch(read, READ, woken)

    def run(self) -> None:
        """Dispatch until stopped."""
        while not self.stopped:
            self._round()

    def _round(self) -> None:
        timeout = -1.0
        if self._timers:
            self._timers = [timer for timer in self._timers if timer.call is not None]
            if self._timers:
                timeout = max(0.0, min(timer.at for timer in self._timers) - time.monotonic())
        # A number may be closed and taken again within the round: only the handler that was meant gets the
        # event.
        ready = [(fd, bits, self._handlers.get(fd)) for fd, bits in self._epoll.poll(timeout)]
        for fd, bits, handler in ready:
            if handler is not None and self._handlers.get(fd) is handler:
                self._handle(fd, bits, handler)
        if self._timers:
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer.at <= now]:
                if timer.call is not None:
                    call, timer.call = timer.call, None
                    try:
                        call()
                    except Exception as exc:
                        report(f"in a timer: {whereabouts(exc)}")

    def _handle(self, fd: int, bits: int, handler: Callable[[int], None]) -> None:
        """A mistake in one handler costs what it was about, not the container."""
        try:
            handler(bits)
        except Exception as exc:
            report(whereabouts(exc))
            self.forget(fd)  # or it would be reported without end

    def abandon(self) -> None:
        """In a forked child: let go of everything without touching the parent's."""
        if self._wake:
            signal.set_wakeup_fd(-1)
            os.close(self._wake[0])
            os.close(self._wake[1])
        self._epoll.close()
