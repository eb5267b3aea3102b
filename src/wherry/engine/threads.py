"""Blocking calls beside the event loop, and byte streams that cross between the two.

A thread cannot be cancelled. `run` waits for its call even when it is itself cancelled, so that nothing is cleaned
up under a thread that still works; give it short calls, or calls that look at a stop event.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import BinaryIO, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


async def run(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`call`'s result from a thread. Cancelled: waits for the call's end, then lets the cancellation through."""
    future = asyncio.get_running_loop().run_in_executor(None, partial(call, *args, **kwargs))
    return await settled(future)


async def settled(future: asyncio.Future[T]) -> T:
    """`future`'s result. Cancelled, even several times: waits for it, then lets the cancellation through."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()
        raise


class Inlet(io.RawIOBase):
    """Bytes that arrive in the event loop (`await feed(chunks)`), read by blocking code in a thread.

    At most LIMIT bytes wait in between. `close` from either side ends the other: the reader sees an OSError, the
    feeder stops.
    """

    LIMIT = 8 << 20
    BREATH = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._lock = threading.Condition()
        self._chunks: deque[memoryview] = deque()
        self._waiting = 0
        self._is_ended = False
        self._failure: BaseException | None = None

    async def feed(self, chunks: AsyncIterable[bytes], report: Callable[[int], None] | None = None) -> None:
        """Pass on all of `chunks`; the reader's end of file follows, or its error when `chunks` fails.

        `report` is told how many bytes came.
        """
        done = rested = 0
        try:
            async for chunk in chunks:
                if not chunk:
                    continue
                done += len(chunk)
                if report is not None:
                    report(done)
                with self._lock:
                    self._chunks.append(memoryview(chunk))
                    self._waiting += len(chunk)
                    is_full = self._waiting > self.LIMIT
                    if is_full:
                        self._room.clear()
                    self._lock.notify()
                if is_full:
                    await self._room.wait()
                elif done - rested > self.BREATH:
                    rested = done
                    await asyncio.sleep(0)  # chunks that are always ready would hold up everybody else
                if self.closed:
                    return
        except BaseException as exc:
            self._end(exc)
            raise
        self._end(None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        with self._lock:
            while not self._chunks:
                if self.closed:
                    raise OSError("the stream was closed")
                if self._is_ended:
                    if self._failure is not None:
                        raise OSError("the stream broke off") from self._failure
                    return 0
                self._lock.wait()
            chunk = self._chunks[0]
            count = min(len(view), len(chunk))
            view[:count] = chunk[:count]
            if count == len(chunk):
                self._chunks.popleft()
            else:
                self._chunks[0] = chunk[count:]
            was_full = self._waiting > self.LIMIT
            self._waiting -= count
            if was_full and self._waiting <= self.LIMIT:
                self._loop.call_soon_threadsafe(self._room.set)
        return count

    def close(self) -> None:
        if self.closed:
            return
        with self._lock:
            super().close()
            self._chunks.clear()
            self._lock.notify_all()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._room.set)

    def _end(self, failure: BaseException | None) -> None:
        with self._lock:
            self._is_ended = True
            self._failure = failure
            self._lock.notify_all()


async def consume(
    chunks: AsyncIterable[bytes], call: Callable[[BinaryIO], T], report: Callable[[int], None] | None = None
) -> T:
    """`call`'s result from a thread of its own, where it reads what `chunks` brings.

    When `chunks` fails, that failure is raised, whatever `call` made of the end of its input.
    """
    inlet = Inlet()
    feeding = asyncio.ensure_future(inlet.feed(chunks, report))
    working = asyncio.ensure_future(run_alone(call, cast("BinaryIO", inlet)))
    try:
        result = await asyncio.shield(working)
        inlet.close()
        await feeding
        return result
    except Exception:
        if feeding.done() and not feeding.cancelled() and (failure := feeding.exception()):
            raise failure from None
        raise
    finally:
        inlet.close()  # first of all: the thread may be waiting for it
        feeding.cancel()
        await asyncio.wait((feeding, working))
        for task in (feeding, working):
            if not task.cancelled():
                task.exception()


async def run_alone(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `run`, in a thread of its own: for calls that last, so that the short ones never queue behind them."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: BaseException | None) -> None:
        if future.cancelled():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(cast("T", result))

    def body() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = call(*args, **kwargs)
        except BaseException as exc:
            failure = exc
        loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=body, name=getattr(call, "__name__", "engine"), daemon=True).start()
    return await settled(future)
