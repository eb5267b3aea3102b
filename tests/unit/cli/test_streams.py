"""The conversation with a process: frames, half-close, detach keys, signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.streams import (
    Conversation,
    Demultiplexer,
    Signals,
    proxied_signals,
    signal_name,
    write_stream,
)
from wherry.cli.terminal import DetachKeys, parse_detach_keys
from wherry.client.http import ProtocolError


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12),
    st.lists(st.integers(1, 20), max_size=40),
)
def test_frames_are_told_apart_however_they_are_cut(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    got = {1: b"", 2: b""}

    def write(stream: int, data: bytes | memoryview) -> None:
        got[stream] += bytes(data)

    frames = Demultiplexer(write)
    data = b"".join(frame(*part) for part in parts)
    for cut in cuts:
        frames.feed(data[:cut])
        data = data[cut:]
    frames.feed(data)
    assert frames.is_between_frames
    assert got == {n: b"".join(data for stream, data in parts if stream == n) for n in (1, 2)}


@pytest.mark.parametrize(
    "head", [b"\x07\0\0\0\0\0\0\1", b"\x01\0\1\0\0\0\0\1", b"\x01\0\0\0\xff\xff\xff\xff", b"HTTP/1.1"]
)
def test_what_is_no_frame_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError, match="unrecognized input header"):
        Demultiplexer(lambda stream, data: None).feed(head)  # pyright: ignore


def test_an_error_of_the_engine_in_the_stream_is_raised() -> None:
    with pytest.raises(ProtocolError, match="error from daemon in stream: no more"):
        Demultiplexer(write_stream).feed(frame(3, b"no more"))


class Pipes:
    """A conversation whose stdin is a pipe, and what it writes to stdout and stderr."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.ours, self.peer = socket.socketpair()
        self.stdin, self.typed = os.pipe()
        self.capfd = capfd


@pytest.fixture
def pipes(capfd: pytest.CaptureFixture[str]) -> Iterator[Pipes]:
    made = Pipes(capfd)
    yield made
    made.peer.close()
    for fd in (made.stdin, made.typed):
        try:
            os.close(fd)
        except OSError:
            pass


def test_input_is_passed_on_and_its_end_too_while_output_goes_on(pipes: Pipes) -> None:
    got: list[bytes] = []

    def peer() -> None:
        while data := pipes.peer.recv(100):
            got.append(data)
        pipes.peer.sendall(frame(1, b"out\n") + frame(2, b"err\n"))
        pipes.peer.close()

    thread = threading.Thread(target=peer)
    thread.start()
    os.write(pipes.typed, b"hello")
    os.close(pipes.typed)
    Conversation(pipes.ours, frame(1, b"early\n"), stdin=pipes.stdin, tty=False, keys=None).pump()
    thread.join(10)
    assert b"".join(got) == b"hello"
    captured = pipes.capfd.readouterr()
    assert (captured.out, captured.err) == ("early\nout\n", "err\n")


def test_a_process_that_reads_nothing_does_not_stop_its_output(pipes: Pipes) -> None:
    def peer() -> None:
        pipes.peer.sendall(frame(1, b"x" * 1_000_000))
        pipes.peer.close()  # with everything typed unread

    def type_much() -> None:
        try:
            for _ in range(64):
                os.write(pipes.typed, b"y" * 65536)
        except OSError:
            pass

    threads = [threading.Thread(target=act, daemon=True) for act in (peer, type_much)]
    for thread in threads:
        thread.start()
    Conversation(pipes.ours, b"", stdin=pipes.stdin, tty=False, keys=None).pump()
    threads[0].join(10)
    assert len(pipes.capfd.readouterr().out) == 1_000_000
    os.close(pipes.stdin)


def test_a_stream_cut_inside_a_frame_is_an_error(pipes: Pipes) -> None:
    pipes.peer.sendall(frame(1, b"hello")[:-2])
    pipes.peer.close()
    with pytest.raises(ProtocolError, match="unexpected EOF"):
        Conversation(pipes.ours, b"", stdin=None, tty=False, keys=None).pump()


def test_detach_keys_end_the_conversation_and_are_not_passed_on(pipes: Pipes) -> None:
    os.write(pipes.typed, b"ab\x10\x11cd")
    conversation = Conversation(
        pipes.ours, b"", stdin=pipes.stdin, tty=True, keys=DetachKeys(parse_detach_keys("ctrl-p,ctrl-q"))
    )
    conversation.pump()
    assert conversation.detached
    assert pipes.peer.recv(100) == b"ab"


def test_signals_are_told_in_the_middle_of_a_conversation(pipes: Pipes) -> None:
    seen: list[int] = []

    def on_signal(number: int) -> None:
        seen.append(number)
        pipes.peer.close()

    with Signals([signal.SIGUSR1]) as signals:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        Conversation(pipes.ours, b"", stdin=None, tty=True, keys=None).pump(
            signals=signals, on_signal=on_signal
        )
        timer.join(10)
    assert seen == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_signals_by_name() -> None:
    numbers = proxied_signals()
    assert {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGCONT,
    } <= set(numbers)
    assert not {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGSEGV} & set(numbers)
    assert signal_name(signal.SIGTERM) == "TERM"
    assert signal_name(signal.SIGHUP) == "HUP"
    assert signal_name(40) == "40"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a,b", b"ab"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x00\x1b\x1c\x1d\x1e\x1f"),
        ("DEL", b"\x7f"),
    ],
)
def test_detach_keys_by_name(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["foo", "ctrl-", "ctrl-1", "", "ctrl-pp", "é"])
def test_detach_keys_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="Unknown character"):
        parse_detach_keys(text)


def test_a_beginning_of_the_sequence_is_passed_on_when_it_comes_to_nothing() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"a\x10") == (b"a", False)
    assert keys.feed(b"b") == (b"\x10b", False)
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"\x10") == (b"\x10", False)
    assert keys.feed(b"\x11") == (b"", True)


@given(st.lists(st.binary(max_size=6), max_size=10))
def test_bytes_without_the_sequence_all_arrive_in_the_end(pieces: list[bytes]) -> None:
    keys = DetachKeys(b"\x10\x11")
    data = b"".join(pieces).replace(b"\x10\x11", b"")
    if b"\x10\x11" in data:
        return
    out, detached = keys.feed(data)
    rest, _ = keys.feed(b".")
    assert not detached
    assert out + rest == data + b"."
