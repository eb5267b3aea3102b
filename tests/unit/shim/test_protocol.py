"""Frames and descriptors, whatever the kernel makes of the stream."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.shim import protocol
from wherry.shim.protocol import Channel, ProtocolError, encode


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    ends = Channel(one), Channel(other)
    yield ends
    for end in ends:
        end.close()


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def receive(channel, count):
    found = []
    while len(found) < count:
        found += channel.receive()
    return found


def test_descriptors_belong_to_the_frame_that_names_them(pair):
    one, other = pair
    pipes = [os.pipe() for _ in range(2)]
    one.send({"n": 1})
    one.send({"n": 2}, [pipes[0][0], pipes[1][0]])
    one.send({"n": 3})
    one.send({"n": 4}, [pipes[0][1]])
    for number in (0, 1):
        for end in (0, 1):
            if (number, end) != (1, 1):
                os.close(pipes[number][end])
    messages = receive(other, 4)
    assert [(m["n"], len(fds)) for m, fds in messages] == [(1, 0), (2, 2), (3, 0), (4, 1)]
    os.write(messages[3][1][0], b"x")
    assert os.read(messages[1][1][0], 1) == b"x"
    assert not os.get_inheritable(messages[1][1][0])
    for _, fds in messages:
        protocol.close_all(fds)
    os.close(pipes[1][1])


@settings(deadline=None)
@given(st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(data):
    messages = data.draw(st.lists(st.dictionaries(st.text(max_size=3), st.integers()), max_size=6))
    messages = [{k: v for k, v in m.items() if k != "fds"} for m in messages]
    stream = b"".join(encode(m) for m in messages)
    one, other = socket.socketpair()
    channel = Channel(other)
    found = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        one.sendall(stream[:cut])
        stream = stream[cut:]
        found += [m for m, _ in channel.receive()]
    assert found == messages
    one.close()
    assert channel.receive() is None
    channel.close()


def test_large_frames_wait_in_the_queue_with_their_descriptors(pair):
    one, other = pair
    read, write = os.pipe()
    big = "x" * 3_000_000
    one.send({"big": big})
    one.send({"n": 2}, [write])
    os.close(write)
    assert one.wants_write
    found = []
    while len(found) < 2:
        found += other.receive()
        one.flush()
    assert not one.wants_write
    assert found[0][0]["big"] == big
    os.write(found[1][1][0], b"y")
    assert os.read(read, 1) == b"y"
    os.close(found[1][1][0])
    os.close(read)


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\2[]",
        b"\0\0\0\3abc",
        b'\0\0\0\x09{"fds":1}',
        b'\0\0\0\x0a{"fds":-1}',
        b'\0\0\0\x0d{"fds":"one"}',
        b'\0\0\0\x0c{"fds":true}',
        (100_000).to_bytes(4, "big") + b"[" * 100_000,
    ],
)
def test_what_is_no_frame_ends_the_connection(pair, stream):
    one, other = pair
    one.sock.setblocking(True)
    one.sock.sendall(stream)
    with pytest.raises(ProtocolError):
        while True:
            assert other.receive() is not None


def test_unclaimed_descriptors_are_bounded_and_closed():
    one, other = socket.socketpair()
    channel = Channel(other)
    before = open_fds()
    with pytest.raises(ProtocolError):
        for _ in range(4):
            socket.send_fds(one, [b"\0"], [0] * 100)
            channel.receive()
    channel.close()
    one.close()
    assert open_fds() <= before


def test_a_peer_that_never_reads_is_given_up(pair):
    one, _ = pair
    with pytest.raises(ProtocolError):
        for _ in range(100):
            one.send({"big": "x" * 1_000_000})


def test_a_message_too_large_to_be_read_is_not_sent():
    with pytest.raises(ProtocolError):
        encode({"big": "x" * (protocol.MAX_FRAME + 1)})
