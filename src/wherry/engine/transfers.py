"""Downloads that several pulls share: one transfer a blob, stopped when nobody waits for it any more.

A pull whose client goes away leaves its transfers; those that another pull waits for go on. At most `limit` run at
once (`max-concurrent-downloads`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

Report = Callable[[int], None]
Work = Callable[[Report], Awaitable[None]]


class _Transfer:
    """One running piece of work and who listens to it."""

    def __init__(self, work: Work) -> None:
        self.listeners: list[Report] = []
        self.is_given_up = False
        self.task = asyncio.ensure_future(work(self._report))

    def _report(self, done: int) -> None:
        for listener in self.listeners:
            listener(done)


class Transfers:
    def __init__(self, limit: int = 3) -> None:
        self.limit(limit)
        self._running: dict[str, _Transfer] = {}

    def limit(self, limit: int) -> None:
        """How many run at once from now on; 0: any number. Those under way, and those that wait for them, are not counted."""
        self._slots = asyncio.Semaphore(limit or sys.maxsize)

    @property
    def is_busy(self) -> bool:
        """Whether another transfer would have to wait."""
        return self._slots.locked()

    async def join(self, key: str, work: Work, listener: Report) -> None:
        """Return when the work known as `key` is done, whoever began it. `work` begins it if nobody did.

        The failure of somebody else's work (their credentials, say) is no answer: then `work` is tried.
        """
        while True:
            transfer = self._running.get(key)
            if transfer is not None and transfer.is_given_up:
                await asyncio.wait((transfer.task,))  # it lets go of the blob's file first
                continue
            is_ours = transfer is None
            if transfer is None:
                transfer = self._begin(key, work)
            transfer.listeners.append(listener)
            try:
                await asyncio.wait((transfer.task,))
            finally:
                transfer.listeners.remove(listener)
                if not transfer.listeners and not transfer.task.done():
                    transfer.is_given_up = True
                    transfer.task.cancel()
            if not transfer.task.cancelled() and (is_ours or transfer.task.exception() is None):
                return transfer.task.result()

    def _begin(self, key: str, work: Work) -> _Transfer:
        async def in_turn(report: Report) -> None:
            async with self._slots:
                await work(report)

        transfer = _Transfer(in_turn)
        self._running[key] = transfer

        def end(task: asyncio.Task[None]) -> None:
            if self._running.get(key) is transfer:
                del self._running[key]
            if not task.cancelled():
                task.exception()  # those who wait have it from the task itself

        transfer.task.add_done_callback(end)
        return transfer
