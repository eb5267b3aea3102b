"""Progress messages: what a pull, load or import says while it works, in Docker's JSON form.

Work runs in a task of its own and says things to a `Progress`; `stream` turns that into an async iterator. A slow
reader costs nothing but detail: an unread update of a layer is replaced by the next one. Closing the iterator cancels
the work and waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

Message = dict[str, Any]

UPDATE_INTERVAL_S = 0.1
_BAR = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")


class Progress:
    """The saying side. All methods are for the event loop; from a thread use `from_thread`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._cells: deque[list[Message]] = deque()
        self._updates: dict[str, list[Message]] = {}
        self._last: dict[str, float] = {}
        self._news = asyncio.Event()

    def send(self, message: Message) -> None:
        """Say something that must be heard."""
        self._updates.pop(str(message.get("id", "")), None)
        self._cells.append([message])
        self._news.set()

    def status(self, text: str, layer: str | None = None) -> None:
        """A plain line, or the state of one layer."""
        if layer is None:
            self.send({"status": text})
        else:
            self.send({"status": text, "progressDetail": {}, "id": layer})

    def update(self, text: str, layer: str, current: int, total: int) -> None:
        """How far something is (`layer` may be empty). At most ten a second are passed on, and the last."""
        now = time.monotonic()
        if current < total and now - self._last.get(layer, 0.0) < UPDATE_INTERVAL_S:
            return
        self._last[layer] = now
        message: Message = {"status": text, "progressDetail": {"current": current}}
        if layer:
            message["id"] = layer
        if total > 0:
            message["progressDetail"]["total"] = total
        message["progress"] = bar(current, total)
        cell = self._updates.get(layer)
        if cell is not None:
            cell[0] = message
            return
        self._updates[layer] = cell = [message]
        self._cells.append(cell)
        self._news.set()

    def from_thread(self, text: str, layer: str, total: int) -> Callable[[int], None]:
        """A function for a thread to call with the bytes done so far, as often as it likes."""
        last = 0.0

        def report(current: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= UPDATE_INTERVAL_S or current >= total:
                last = now
                self._loop.call_soon_threadsafe(self.update, text, layer, current, total)

        return report

    async def next(self, until: asyncio.Future[Any]) -> Message | None:
        """The next message; None when `until` is done and everything was heard."""
        while not self._cells:
            if until.done():
                return None
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait((news, until), return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
        (message,) = self._cells.popleft()
        layer = str(message.get("id", ""))
        if self._updates.get(layer, [None])[0] is message:
            del self._updates[layer]
        return message


async def stream(work: Callable[[Progress], Awaitable[None]]) -> AsyncGenerator[Message]:
    """What `work` says, until it ends; then its exception, if it had one."""
    progress = Progress()
    task = asyncio.ensure_future(work(progress))
    try:
        while True:
            message = await progress.next(task)
            if message is None:
                break
            yield message
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # seen: when the reader has gone there is nobody to tell


def bar(current: int, total: int) -> str:
    """Docker's drawing of progress: `[=====>      ]  1.2MB/3.4MB`."""
    if total <= 0 or current > total:
        return f"{human_size(current):>8}"
    filled = int(current / total * 100) // 2
    drawn = "=" * filled + ">" + " " * (_BAR - filled)
    return f"[{drawn}] {human_size(current):>8}/{human_size(total)}"


def human_size(count: float) -> str:
    """`1.988MB`: four digits, powers of a thousand, as Docker prints sizes."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.4g}{_UNITS[unit]}"
