"""What a container wrote, read back from its log: `docker logs`, with follow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator

import msgspec

from wherry.engine.attach import frame
from wherry.engine.context import Context
from wherry.engine.log_setup import Source, log_source
from wherry.engine.records import Container
from wherry.engine.times import rfc3339
from wherry.errors import InvalidParameter
from wherry.linux.inotify import watch_modified
from wherry.logs.driver import Entry, LogReader

BATCH = 256
"""Entries read in one go in a thread, and sent as one chunk."""
POLL_S = 1.0
"""How often a follower looks without being woken: covers a rotation between two looks."""


class LogsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The query of GET /containers/{id}/logs. `tail=None` is everything."""

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    tail: int | None = None


class LogStream:
    """An asynchronous iterator of bytes, framed if `mux`."""

    def __init__(self, chunks: AsyncIterator[bytes], *, mux: bool) -> None:
        self._chunks = chunks
        self.mux = mux

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        close = getattr(self._chunks, "aclose", None)
        if close:
            await close()


async def open_logs(context: Context, container: Container, options: LogsOptions) -> LogStream:
    """The stream that `options` ask for. Errors come now, not in the middle."""
    if not (options.stdout or options.stderr):
        raise InvalidParameter("must specify at least one of 'stdout' or 'stderr'")
    source = log_source(context, container.record)
    reader: LogReader = source.driver.reader(
        source.path,
        since_ns=options.since_ns or 0,
        until_ns=options.until_ns or 0,
        tail=-1 if options.tail is None else options.tail,
    )
    mux = not container.record.config.tty
    return LogStream(_chunks(container, source, reader, options, mux=mux), mux=mux)


async def _chunks(
    container: Container, source: Source, reader: LogReader, options: LogsOptions, *, mux: bool
) -> AsyncIterator[bytes]:
    wanted = {
        name for name, is_wanted in (("stdout", options.stdout), ("stderr", options.stderr)) if is_wanted
    }

    def encode(entry: Entry) -> bytes:
        line = entry.line
        if options.details:
            pairs = ",".join(f"{key}={value}" for key, value in sorted((entry.attrs or {}).items()))
            line = pairs.encode() + b" " + line
        if options.timestamps:
            line = _padded(entry.time_ns).encode() + b" " + line
        return frame(1 if entry.stream == "stdout" else 2, line) if mux else line

    def batch(entries: Iterator[Entry]) -> tuple[bytes, bool]:
        """Up to BATCH entries, encoded; whether the end was reached."""
        pieces: list[bytes] = []
        for entry in entries:
            if entry.stream in wanted:
                pieces.append(encode(entry))
                if len(pieces) >= BATCH:
                    return b"".join(pieces), False
        return b"".join(pieces), True

    waker = _Waker(source.path) if options.follow else None
    try:
        while True:
            # Looked at before reading: what follows is complete.
            has_ended = not container.state.is_running or _is_past(options.until_ns)
            entries = reader.entries()
            at_end = False
            while not at_end:
                data, at_end = await asyncio.to_thread(batch, entries)
                if data:
                    yield data
            if waker is None or has_ended:
                return
            await waker.wait(container)
    finally:
        if waker:
            waker.close()
        await asyncio.to_thread(reader.close)


def _is_past(time_ns: int | None) -> bool:
    return bool(time_ns) and time.time_ns() > (time_ns or 0)


class _Waker:
    """Wakes a follower when the log grows or the container ends; costs no thread while it waits."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._grown = asyncio.Event()

    async def wait(self, container: Container) -> None:
        if self._descriptor < 0:
            try:
                self._descriptor = watch_modified(self._path)
            except OSError:
                await asyncio.sleep(0.05)  # not there yet
                return
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)
            return  # look once more: it may have grown before we watched
        ended = asyncio.ensure_future(container.ended.wait())
        grown = asyncio.ensure_future(self._grown.wait())
        try:
            await asyncio.wait((ended, grown), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            grown.cancel()
        self._grown.clear()

    def _readable(self) -> None:
        try:
            os.read(self._descriptor, 65536)
        except BlockingIOError:
            pass
        self._grown.set()

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)


def _padded(ns: int) -> str:
    """RFC 3339 with all nine digits, as `docker logs -t` prints it."""
    text = rfc3339(ns - ns % 1_000_000_000)
    return f"{text[:-1]}.{ns % 1_000_000_000:09d}Z"
