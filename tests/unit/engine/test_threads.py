from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from typing import BinaryIO

import pytest

from wherry.engine import threads
from wherry.engine.spool import Spool


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_consume_passes_all_bytes_in_order() -> None:
    pieces = [os.urandom(n * 1000) for n in range(50)]
    heard: list[int] = []
    data = await threads.consume(chunks(*pieces), lambda source: source.read(), heard.append)
    assert data == b"".join(pieces)
    assert heard[-1] == len(data)


async def test_feeder_waits_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.Inlet, "LIMIT", 1000)
    given = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(100):
            given += 100
            yield bytes(100)

    go_on = threading.Event()

    def slow(source: BinaryIO) -> int:
        go_on.wait(5)
        return len(source.read())

    task = asyncio.ensure_future(threads.consume(counted(), slow))
    for _ in range(20):
        await asyncio.sleep(0)
    assert given <= 1300
    go_on.set()
    assert await task == 10_000


async def test_failure_of_the_reader_ends_the_feeder() -> None:
    ended: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
                await asyncio.sleep(0)
        finally:
            ended.append("yes")

    def refuse(source: BinaryIO) -> None:
        source.read(10)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await threads.consume(endless(), refuse)
    assert ended == ["yes"]


async def test_cancelled_call_is_waited_for_however_often() -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    def call() -> None:
        begun.set()
        go_on.wait(5)
        ended.append("yes")

    task = asyncio.ensure_future(threads.run(call))
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["yes"]


def test_spool_has_no_name(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without_tmpfile(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
        return real(path, flags, *rest, **named)

    for _ in range(2):
        spool = Spool(str(tmp_path))
        spool.write(b"hello world")
        assert spool.read(6, 5) == b"world"
        with spool.reader(0, 5) as reader:
            spool.close()
            assert reader.read() == b"hello"
        assert os.listdir(tmp_path) == []
        monkeypatch.setattr(os, "open", without_tmpfile)
