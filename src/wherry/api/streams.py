"""Answers that go on for a while: progress, events, logs, archives.

Each pulls from an async iterator of the engine no faster than the client reads (so a slow reader holds one message,
not a backlog), and closes it as soon as the client is gone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aiohttp import web

from wherry.api import errors
from wherry.api.hijack import connection_of
from wherry.model import wire

if TYPE_CHECKING:
    from wherry.api.call import Call
    from wherry.api.contract import LogStream

SYSTEM_ERROR_STREAM = 3


class UntilGone:
    """`with UntilGone(call):` the block is cancelled, and ends in ConnectionResetError, when the client leaves."""

    def __init__(self, call: Call) -> None:
        self._connection = connection_of(call.request)
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._connection.is_gone:
            raise ConnectionResetError("client went away")
        self._connection.on_gone = self._cancel

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.on_gone = None
        if self._is_cancelled and self._task is not None:
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise ConnectionResetError("client went away") from None


async def begin(call: Call, content_type: str, *, status: int = 200) -> web.StreamResponse:
    """Write the head at once: clients wait for it before they go on, though nothing may come for hours."""
    response = web.StreamResponse(status=status, headers={**call.headers, "Content-Type": content_type})
    await response.prepare(call.request)
    return response


async def progress(
    call: Call, messages: AsyncIterator[dict[str, Any]], *, in_band: bool = False
) -> web.StreamResponse:
    """JSON lines. An error before the first message is an ordinary answer (unless `in_band`), a later one the
    stream's last line.

    The work ends when the client leaves, except that an upload's client may close its sending side behind the body.
    """
    if call.request.can_read_body:
        return await _progress(call, messages, in_band)
    with UntilGone(call):
        return await _progress(call, messages, in_band)


async def _progress(call: Call, messages: AsyncIterator[dict[str, Any]], in_band: bool) -> web.StreamResponse:
    response = None
    try:
        async for message in messages:
            response = response or await begin(call, "application/json")
            await response.write(_line(message))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as exc:
        if response is None and not in_band:
            raise
        response = response or await begin(call, "application/json")
        errors.log_failure(exc, call.request.method, call.request.path)
        text = errors.message_for(exc)
        await response.write(_line({"errorDetail": {"message": text}, "error": text}))
    finally:
        await close(messages)
    return response or await begin(call, "application/json")


async def lines(call: Call, values: AsyncIterator[Any], content_type: str) -> web.StreamResponse:
    """JSON lines without an end of their own (events): the head goes out before the first value is there."""
    with UntilGone(call):
        try:
            response = await begin(call, content_type)
            async for value in values:
                await response.write(wire.encode(value) + b"\n")
        finally:
            await close(values)
    return response


async def archive(call: Call, parts: AsyncIterator[bytes], content_type: str) -> web.StreamResponse:
    """Bytes whose length is not known. An error after the first part can only cut the connection off."""
    try:
        first = await anext(parts, b"")
        response = await begin(call, content_type)
        await response.write(first)
        async for part in parts:
            await response.write(part)
    finally:
        await close(parts)
    return response


async def logs(call: Call, stream: LogStream, content_type: str, *, follow: bool) -> web.StreamResponse:
    """A container's log. What fails later is told inside the stream, as Docker does."""
    parts = aiter(stream)
    response = await begin(call, content_type)
    try:
        if follow:
            with UntilGone(call):
                await _copy(parts, response)
        else:
            await _copy(parts, response)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as exc:
        errors.log_failure(exc, call.request.method, call.request.path)
        text = f"Error grabbing logs: {errors.message_for(exc)}\n".encode("utf-8", "replace")
        await response.write(_frame(SYSTEM_ERROR_STREAM, text) if stream.mux else text)
    finally:
        await close(parts)
    return response


async def _copy(parts: AsyncIterator[bytes], response: web.StreamResponse) -> None:
    async for part in parts:
        await response.write(part)


async def close(iterator: AsyncIterator[Any]) -> None:
    """End a generator now, not when the collector finds it: it holds files, sockets or downloads."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


def _line(message: object) -> bytes:
    """One progress message; its line ends as Docker's do."""
    return wire.encode(message) + b"\r\n"


def _frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data
