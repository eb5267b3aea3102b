"""The multiplexed stream taken apart, however it is cut; and an exchange over a socket."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine import output
from wherry.engine.attach import frame
from wherry.engine.output import Unframe, exchange
from wherry.errors import WherryError

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 400), max_size=10))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(frame(stream, piece) for stream, piece in frames)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    unframe = Unframe()
    found = [
        item for start, end in zip(places, places[1:], strict=False) for item in unframe.feed(data[start:end])
    ]
    assert found == frames


def test_half_a_frame_is_not_given_out() -> None:
    unframe = Unframe()
    assert unframe.feed(frame(1, b"hello")[:-1]) == []
    assert unframe.feed(b"o") == [(1, b"hello")]


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def test_exchange_sends_all_input_then_its_end_and_splits_the_output() -> None:
    ours, theirs = pair()
    talking = asyncio.ensure_future(exchange(ours, b"typed" * 100_000, mux=True))
    loop = asyncio.get_running_loop()
    got = bytearray()
    while piece := await loop.sock_recv(theirs, 1 << 16):
        got += piece
    assert bytes(got) == b"typed" * 100_000
    await loop.sock_sendall(theirs, frame(1, b"out") + frame(2, b"err") + frame(1, b"more"))
    theirs.close()
    assert await talking == (b"outmore", b"err")


async def test_exchange_without_frames_is_all_stdout() -> None:
    ours, theirs = pair()
    await asyncio.get_running_loop().sock_sendall(theirs, b"\x01\x00as it is")
    theirs.close()
    assert await exchange(ours, b"", mux=False) == (b"\x01\x00as it is", b"")


async def test_exchange_with_a_command_that_reads_nothing() -> None:
    ours, theirs = pair()
    theirs.close()
    assert await exchange(ours, b"x" * 1_000_000, mux=True) == (b"", b"")


async def test_too_much_output_is_refused_and_the_connection_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_OUTPUT", 10)
    ours, theirs = pair()
    await asyncio.get_running_loop().sock_sendall(theirs, frame(2, b"x" * 11))
    with pytest.raises(WherryError, match="wrote more than 10 bytes"):
        await exchange(ours, b"", mux=True)
    assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
    theirs.close()
