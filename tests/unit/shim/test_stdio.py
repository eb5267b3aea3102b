"""The pump between a process's streams, its log and its clients, on pipes and terminals of our own."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import socket
import threading
import time
import tty

import pytest

from wherry.shim import stdio
from wherry.shim.keys import Detacher
from wherry.shim.loop import Loop
from wherry.shim.stdio import STDERR, STDOUT, Client, Stdio


class Log:
    def __init__(self):
        self.written = []
        self.closed = False

    def write(self, stream, data, time_ns):
        self.written.append((stream, bytes(data)))

    def close(self):
        self.closed = True

    def fileno(self):
        return -1


class Rig:
    """A Stdio with the process's ends in our hands. The loop runs in the test's own thread, while `until` is not so."""

    def __init__(self, *, stdin=False, terminal=False, log=None, close_stdin=True):
        self.loop = Loop()
        self.detached = 0
        self.drained = False
        self.slave = -1
        if terminal:
            console, self.slave = pty.openpty()
            tty.setraw(self.slave)
            self.stdout = self.stdin = self.slave
            self.stdio = Stdio(
                self.loop,
                sources={},
                console=console,
                log=log,
                close_stdin=close_stdin,
                on_detach=self._on_detach,
            )
            return
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.stdin, feed = os.pipe() if stdin else (-1, -1)
        self.stdio = Stdio(
            self.loop, sources={STDOUT: out, STDERR: err}, stdin=feed, log=log, close_stdin=close_stdin,
        )  # fmt: skip

    def _on_detach(self):
        self.detached += 1

    def attach(self, *, stdin=False, mux=True, wants=(STDOUT, STDERR), keys=b"", pending=b"", family="unix"):
        if family == "unix":
            ours, theirs = socket.socketpair()
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
            listener.close()
        detacher = Detacher(keys) if keys else None
        client = Client(theirs, stdin=stdin, wants=frozenset(wants), mux=mux, detacher=detacher)
        self.stdio.attach(client, pending)
        ours.settimeout(20)
        return ours

    def run(self, until, timeout=20):
        deadline = time.monotonic() + timeout
        tick = None
        while not until():
            assert time.monotonic() < deadline, "did not come about"
            if tick is None or tick.call is None:
                tick = self.loop.later(0.01, lambda: None)
            self.loop._round()

    def spin(self, seconds):
        end = time.monotonic() + seconds
        self.run(lambda: time.monotonic() > end)

    def finish(self):
        self.stdio.finish(self._on_drained)

    def _on_drained(self):
        self.drained = True

    def end(self):
        """The process ends."""
        if self.slave >= 0:
            os.close(self.slave)
        else:
            os.close(self.stdout)
            os.close(self.stderr)
        self.finish()


def collect(sock):
    """Read to the end in a thread; join for the bytes."""
    found = []

    def read():
        while data := sock.recv(1 << 20):
            found.append(data)
        sock.close()

    thread = threading.Thread(target=read)
    thread.start()
    thread.found = found
    return thread


def demux(data):
    streams = {1: b"", 2: b""}
    while data:
        length = int.from_bytes(data[4:8], "big")
        assert data[1:4] == b"\0\0\0"
        streams[data[0]] += data[8 : 8 + length]
        assert len(data) >= 8 + length
        data = data[8 + length :]
    return streams[1], streams[2]


def test_output_reaches_log_and_every_client_that_asked():
    log = Log()
    rig = Rig(log=log)
    both, raw, errors = rig.attach(), rig.attach(mux=False), rig.attach(wants=[STDERR])
    os.write(rig.stdout, b"out\n")
    rig.spin(0.05)
    os.write(rig.stderr, b"err\n")
    readers = [collect(sock) for sock in (both, raw, errors)]
    rig.end()
    rig.run(lambda: rig.drained)
    rig.run(lambda: rig.stdio.is_idle)
    for reader in readers:
        reader.join()
    got = [b"".join(reader.found) for reader in readers]
    assert demux(got[0]) == (b"out\n", b"err\n")
    assert got[1] == b"out\nerr\n"
    assert demux(got[2]) == (b"", b"err\n")
    assert log.written == [(STDOUT, b"out\n"), (STDERR, b"err\n")]
    assert log.closed


def test_a_log_driver_that_fails_does_not_stop_the_output():
    class Broken(Log):
        def write(self, stream, data, time_ns):
            raise RuntimeError("out of order")

    rig = Rig(log=Broken())
    sock = rig.attach(mux=False)
    os.write(rig.stdout, b"one")
    rig.spin(0.05)
    os.write(rig.stdout, b"two")
    reader = collect(sock)
    rig.end()
    rig.run(lambda: rig.drained and rig.stdio.is_idle)
    reader.join()
    assert b"".join(reader.found) == b"onetwo"


def test_without_log_and_client_output_is_dropped():
    rig = Rig()
    os.set_blocking(rig.stdout, False)
    written = 0
    while written < 1 << 20:
        try:
            written += os.write(rig.stdout, b"x" * 65536)
        except BlockingIOError:
            rig.spin(0.01)
    rig.end()
    rig.run(lambda: rig.drained)


def pump(fd, total, digest):
    """Write `total` changing bytes to `fd` in a thread; digest them."""
    block = os.urandom(1 << 20)

    def write():
        left = total
        while left:
            piece = block[: min(left, len(block))]
            digest.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
            left -= len(piece)
        os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("family", ["unix", "tcp"])
@pytest.mark.parametrize("mux", [True, False])
def test_a_slow_reader_gets_every_byte(mux, family):
    rig = Rig()
    sock = rig.attach(mux=mux, family=family)
    sent, total = hashlib.sha256(), 20 << 20
    writer = pump(rig.stdout, total, sent)
    os.close(rig.stderr)
    got = []

    def read():
        while data := sock.recv(1 << 18):
            got.append(data)
            time.sleep(0.002)
        sock.close()

    reader = threading.Thread(target=read)
    reader.start()
    rig.run(lambda: not writer.is_alive())
    rig.finish()
    rig.run(lambda: rig.drained and rig.stdio.is_idle)
    reader.join()
    data = b"".join(got)
    assert hashlib.sha256(demux(data)[0] if mux else data).digest() == sent.digest()


def test_a_client_that_does_not_read_pauses_the_process_and_bounds_memory():
    rig = Rig()
    sock = rig.attach()
    os.set_blocking(rig.stdout, False)
    written = idle = 0
    while idle < 20:
        try:
            written += os.write(rig.stdout, b"x" * 4096)
            idle = 0
        except BlockingIOError:
            idle += 1
            rig.spin(0.01)
    assert written < 1 << 20
    reader = collect(sock)
    rig.end()
    rig.run(lambda: rig.drained and rig.stdio.is_idle)
    reader.join()
    assert len(demux(b"".join(reader.found))[0]) == written


def test_a_laggard_among_others_is_disconnected(monkeypatch):
    monkeypatch.setattr(stdio, "LAGGARD_S", 0.5)
    rig = Rig()
    lazy, keen = rig.attach(), rig.attach()
    sent, total = hashlib.sha256(), 4 << 20
    reader = collect(keen)
    writer = pump(rig.stdout, total, sent)
    os.close(rig.stderr)
    rig.run(lambda: not writer.is_alive())
    rig.finish()
    rig.run(lambda: rig.drained and rig.stdio.is_idle)
    reader.join()
    assert hashlib.sha256(demux(b"".join(reader.found))[0]).digest() == sent.digest()
    lazy.close()


def test_a_stuck_client_does_not_keep_the_exit_secret(monkeypatch):
    monkeypatch.setattr(stdio, "FLUSH_S", 0.2)
    rig = Rig()
    sock = rig.attach()
    os.set_blocking(rig.stdout, False)
    written = 0
    for _ in range(100):
        try:
            written += os.write(rig.stdout, b"x" * 65536)
        except BlockingIOError:
            rig.spin(0.005)
    rig.end()
    rig.run(lambda: rig.drained)
    assert not rig.stdio.is_idle
    reader = collect(sock)
    rig.run(lambda: rig.stdio.is_idle)
    reader.join()
    assert len(demux(b"".join(reader.found))[0]) == written


def test_half_close_ends_stdin_and_output_goes_on():
    rig = Rig(stdin=True)
    sock = rig.attach(stdin=True, pending=b"early ")
    sock.sendall(b"late")
    sock.shutdown(socket.SHUT_WR)
    rig.run(lambda: select.select([rig.stdin], [], [], 0)[0])
    rig.spin(0.05)
    assert os.read(rig.stdin, 100) == b"early late"
    assert os.read(rig.stdin, 100) == b""
    os.write(rig.stdout, b"after")
    reader = collect(sock)
    rig.end()
    rig.run(lambda: rig.stdio.is_idle)
    reader.join()
    assert demux(b"".join(reader.found))[0] == b"after"


@pytest.mark.parametrize("terminal", [True, False])
def test_half_close_is_a_farewell_where_stdin_stays_open(terminal):
    rig = Rig(stdin=True, terminal=terminal, close_stdin=terminal)
    sock = rig.attach(stdin=True, mux=False)
    sock.sendall(b"hello")
    sock.shutdown(socket.SHUT_WR)
    reader = collect(sock)
    rig.run(lambda: not reader.is_alive())
    assert os.read(rig.stdin, 100) == b"hello"
    other = rig.attach(stdin=True, mux=False)
    other.sendall(b"again")
    rig.run(lambda: select.select([rig.stdin], [], [], 0)[0])
    assert os.read(rig.stdin, 100) == b"again"
    other.close()
    rig.end()
    rig.run(lambda: rig.stdio.is_idle)


def test_300_mb_of_input_arrive_as_sent():
    rig = Rig(stdin=True)
    sock = rig.attach(stdin=True)
    sock.settimeout(None)
    sent, total = hashlib.sha256(), 300 << 20
    got, count = hashlib.sha256(), 0
    writer = pump(os.dup(sock.fileno()), total, sent)

    def read():
        nonlocal count
        while data := os.read(rig.stdin, 1 << 20):
            got.update(data)
            count += len(data)

    reader = threading.Thread(target=read)
    reader.start()
    rig.run(lambda: not writer.is_alive(), timeout=60)
    sock.shutdown(socket.SHUT_WR)
    rig.run(lambda: not reader.is_alive())
    assert count == total
    assert got.digest() == sent.digest()
    done = collect(sock)
    rig.end()
    rig.run(lambda: rig.stdio.is_idle)
    done.join()


def test_a_process_that_closes_its_stdin_does_not_stop_its_client():
    rig = Rig(stdin=True)
    sock = rig.attach(stdin=True)
    os.close(rig.stdin)
    sock.settimeout(0)
    sent = 0
    while sent < 1 << 20:
        try:
            sent += sock.send(b"x" * 65536)
        except BlockingIOError:
            rig.spin(0.005)
    sock.settimeout(20)
    os.write(rig.stdout, b"still here")
    reader = collect(sock)
    rig.end()
    rig.run(lambda: rig.stdio.is_idle)
    reader.join()
    assert demux(b"".join(reader.found))[0] == b"still here"


def test_input_that_nobody_read_does_not_reset_the_last_output():
    rig = Rig(stdin=True)
    sock = rig.attach(stdin=True)
    sock.settimeout(0)
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)
            rig.spin(0.001)
    sock.settimeout(20)
    os.write(rig.stdout, b"goodbye")
    reader = collect(sock)
    os.close(rig.stdin)
    rig.end()
    rig.run(lambda: rig.stdio.is_idle)
    reader.join()
    assert demux(b"".join(reader.found))[0] == b"goodbye"


def test_a_client_that_hangs_up_is_let_go_at_once():
    rig = Rig(stdin=True, close_stdin=False)
    socks = [rig.attach(), rig.attach(stdin=True), rig.attach(wants=())]
    for sock in socks:
        sock.close()
    rig.run(lambda: rig.stdio.is_idle, timeout=1)
    rig.end()
    rig.run(lambda: rig.drained)


def test_input_sent_just_before_hanging_up_arrives():
    rig = Rig(stdin=True)
    sock = rig.attach(stdin=True)
    total = 1 << 20
    sender = threading.Thread(target=lambda: (sock.sendall(b"z" * total), sock.close()))
    sender.start()
    got = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(rig.stdin, 65536), b"")))
    reader.start()
    rig.run(lambda: not reader.is_alive())
    sender.join()
    assert len(b"".join(got)) == total


def test_detach_keys_let_the_client_go_and_nobody_else():
    rig = Rig(terminal=True)
    leaver, stayer = (rig.attach(stdin=True, mux=False, keys=b"\x10\x11") for _ in range(2))
    leaver.sendall(b"ab\x10\x11")
    reader = collect(leaver)
    rig.run(lambda: not reader.is_alive())
    assert rig.detached == 1
    assert os.read(rig.slave, 100) == b"ab"
    stayer.sendall(b"\x10c")
    rig.spin(0.05)
    assert os.read(rig.slave, 100) == b"\x10c"
    os.write(rig.slave, b"out")
    rig.spin(0.05)
    assert stayer.recv(100) == b"out"
    stayer.close()
    rig.end()
    rig.run(lambda: rig.stdio.is_idle)


def test_a_terminal_s_last_output_is_read_after_the_end():
    log = Log()
    rig = Rig(terminal=True, log=log)
    sock = rig.attach(mux=False)
    os.write(rig.slave, b"l" * 3000)
    reader = collect(sock)
    rig.end()
    rig.run(lambda: rig.drained and rig.stdio.is_idle)
    reader.join()
    assert b"".join(reader.found) == b"l" * 3000
    assert b"".join(data for _, data in log.written) == b"l" * 3000


def test_a_pipe_that_somebody_keeps_open_ends_the_wait_after_a_while():
    rig = Rig()
    keeper = os.dup(rig.stdout)
    os.write(rig.stdout, b"last")
    sock = rig.attach()
    rig.end()
    begun = time.monotonic()
    reader = collect(sock)
    rig.run(lambda: rig.drained)
    assert stdio.QUIET_S <= time.monotonic() - begun < 1
    rig.run(lambda: not reader.is_alive())
    assert demux(b"".join(reader.found))[0] == b"last"
    os.close(keeper)


def test_a_pipe_that_somebody_keeps_filling_ends_the_wait_in_the_end(monkeypatch):
    monkeypatch.setattr(stdio, "DRAIN_S", 0.5)
    rig = Rig()
    keeper = os.dup(rig.stdout)
    stop = threading.Event()

    def fill():
        while not stop.is_set():
            try:
                os.write(keeper, b"more\n")
            except BrokenPipeError:
                return
            time.sleep(0.01)

    thread = threading.Thread(target=fill)
    thread.start()
    rig.end()
    rig.run(lambda: rig.drained, timeout=3)
    stop.set()
    thread.join()
    os.close(keeper)


def test_a_handler_that_fails_costs_its_descriptor_and_no_more(capfd):
    loop = Loop()
    read, write = os.pipe()
    other, feed = os.pipe()
    calls = []

    def fail(bits):
        calls.append("fail")
        raise RuntimeError("a mistake")

    def work(bits):
        calls.append(os.read(other, 10))

    loop.watch(read, 1, fail)
    loop.watch(other, 1, work)
    loop.later(0, lambda: 1 / 0)
    os.write(write, b"x")
    os.write(feed, b"y")
    for _ in range(3):
        loop.later(0, lambda: None)
        loop._round()
    assert sorted(calls, key=str) == [b"y", "fail"]
    assert "a mistake" in capfd.readouterr().err
    for fd in (read, write, other, feed):
        os.close(fd)
