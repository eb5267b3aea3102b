from __future__ import annotations

import asyncio

import pytest

from wherry.engine.progress import Progress, bar, human_size, stream
from wherry.engine.transfers import Report, Transfers


def test_bar_is_dockers() -> None:
    assert bar(115, 115) == "[" + "=" * 50 + ">]     115B/115B"
    assert bar(0, 1000) == "[>" + " " * 50 + "]       0B/1kB"
    assert bar(5, 0) == "      5B"
    assert human_size(1_988_123) == "1.988MB"


async def test_unread_updates_are_replaced_and_the_last_is_kept() -> None:
    async def work(progress: Progress) -> None:
        progress.status("begin", "layer")
        for done in range(1001):
            progress.update("Downloading", "layer", done, 1000)
        progress.status("end", "layer")

    messages = [message async for message in stream(work)]
    assert len(messages) <= 4
    assert messages[0]["status"] == "begin"
    assert messages[-2]["progressDetail"] == {"current": 1000, "total": 1000}
    assert messages[-1]["status"] == "end"


async def test_failure_follows_what_was_said() -> None:
    async def work(progress: Progress) -> None:
        progress.status("said")
        raise ValueError("then this")

    messages = stream(work)
    assert await anext(messages) == {"status": "said"}
    with pytest.raises(ValueError, match="then this"):
        await anext(messages)


async def test_closing_cancels_and_waits() -> None:
    ended: list[str] = []

    async def work(progress: Progress) -> None:
        progress.status("said")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("yes")

    messages = stream(work)
    await anext(messages)
    await messages.aclose()
    assert ended == ["yes"]


async def test_failure_of_anothers_transfer_is_tried_again() -> None:
    transfers = Transfers()
    begun = asyncio.Event()
    fail = asyncio.Event()

    async def failing(report: Report) -> None:
        begun.set()
        await fail.wait()
        raise ValueError("not my credentials")

    async def working(report: Report) -> None:
        report(7)

    heard: list[int] = []
    first = asyncio.ensure_future(transfers.join("k", failing, heard.append))
    await begun.wait()
    second = asyncio.ensure_future(transfers.join("k", working, heard.append))
    await asyncio.sleep(0)
    fail.set()
    with pytest.raises(ValueError, match="not my credentials"):
        await first
    await second
    assert heard == [7]


async def test_transfers_are_limited() -> None:
    transfers = Transfers(2)
    running = peak = 0

    async def work(report: Report) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001)
        running -= 1

    await asyncio.gather(*(transfers.join(str(n), work, lambda done: None) for n in range(10)))
    assert peak == 2
