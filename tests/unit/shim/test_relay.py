"""Relaying: what goes in comes out, whole and in order, both ways, and nothing stays behind."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from wherry.shim import relay as module
from wherry.shim.kept import Kept
from wherry.shim.loop import Loop
from wherry.shim.protocol import Refused
from wherry.shim.relay import TcpRelay, UdpRelay, relay_for


class Running:
    """A loop in a thread of its own."""

    def __init__(self):
        self.loop = Loop()
        self._read, self._write = os.pipe()
        self._calls = []
        self.loop.watch(self._read, 1, self._woken)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _woken(self, _):
        os.read(self._read, 1)
        call, done, result = self._calls.pop(0)
        try:
            result.append(call())
        finally:
            done.set()

    def call(self, step):
        """The result of `step`, run where the loop is."""
        done, result = threading.Event(), []
        self._calls.append((step, done, result))
        os.write(self._write, b"x")
        assert done.wait(10)
        return result[0]

    def stop(self):
        self.call(lambda: setattr(self.loop, "stopped", True))
        self._thread.join(10)
        self.loop.forget(self._read)
        os.close(self._read)
        os.close(self._write)
        self.loop.abandon()


@pytest.fixture
def running():
    made = Running()
    yield made
    made.stop()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def server(kind=socket.SOCK_STREAM, address="127.0.0.1"):
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.bind((address, 0))
    made.settimeout(10)
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def start(running, sock, target):
    made = running.call(lambda: relay_for(running.loop, os.dup(sock.fileno()), target))
    sock.close()
    return made


@pytest.fixture
def tcp(running):
    """(connect, accept): a connection through a relay on [::1] to a server with IPv4 only."""
    before = descriptors()
    end, front = server(), server(address="::1")
    where = front.getsockname()
    relay = start(running, front, end.getsockname())
    assert isinstance(relay, TcpRelay)

    def connect():
        client = socket.create_connection(where[:2], timeout=10)
        accepted, _ = end.accept()
        accepted.settimeout(10)
        return client, accepted

    yield connect
    running.call(relay.close)
    end.close()
    deadline = time.monotonic() + 10
    while descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert descriptors() == before


def read_all(sock):
    found = bytearray()
    while data := sock.recv(1 << 16):
        found += data
    return bytes(found)


def test_both_ways_and_half_close(tcp):
    client, end = tcp()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(end) == b"question"
    end.sendall(b"a long " + bytes(3 << 20) + b" answer")
    end.close()
    assert read_all(client) == b"a long " + bytes(3 << 20) + b" answer"
    client.close()


def test_the_server_may_end_first(tcp):
    client, end = tcp()
    end.sendall(b"bye")
    end.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"bye"
    client.sendall(b"wait")
    client.close()
    assert read_all(end) == b"wait"
    end.close()


def test_one_who_does_not_read_holds_up_only_the_sender(tcp):
    client, end = tcp()
    other, other_end = tcp()
    client.setblocking(False)
    sent = 0
    block = os.urandom(1 << 16)
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.3:
        try:
            sent += client.send(block[sent % len(block) :])
            quiet_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert sent < 64 << 20, "nothing holds the sender up"
    other.sendall(b"past it")
    assert other_end.recv(100) == b"past it"
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    found = read_all(end)
    assert len(found) == sent and all(
        found[i : i + len(block)] == block[: len(found) - i] for i in range(0, len(found), len(block))
    )
    for sock in (client, end, other, other_end):
        sock.close()


def test_a_reset_ends_both_sides(tcp):
    client, end = tcp()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert end.recv(1) == b""
    end.close()


def test_nobody_there_is_seen_by_the_client(running):
    end, front = server(), server(address="::1")
    where, target = front.getsockname(), end.getsockname()
    end.close()
    relay = start(running, front, target)
    with socket.create_connection(where[:2], timeout=10) as client:
        assert client.recv(1) == b""
    running.call(relay.close)


def test_a_full_relay_takes_the_next_when_one_ends(running, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    end, front = server(), server()
    where = front.getsockname()
    relay = start(running, front, end.getsockname())
    clients = [socket.create_connection(where, timeout=10) for _ in range(3)]
    ends = [end.accept()[0] for _ in range(2)]
    end.settimeout(0.3)
    with pytest.raises(TimeoutError):
        end.accept()
    end.settimeout(10)
    clients[0].close()
    for sock in ends:
        sock.close()
    third, _ = end.accept()
    clients[2].sendall(b"in")
    assert third.recv(10) == b"in"
    running.call(relay.close)
    for sock in (*clients, third, end):
        sock.close()


@pytest.fixture
def udp(running):
    before = descriptors()
    end, front = server(socket.SOCK_DGRAM), server(socket.SOCK_DGRAM, "::1")
    where = front.getsockname()
    relay = start(running, front, end.getsockname())
    assert isinstance(relay, UdpRelay)
    yield relay, where, end
    running.call(relay.close)
    end.close()
    assert descriptors() == before


def ask(where, data=b"?"):
    client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    client.settimeout(10)
    client.connect(where)
    client.send(data)
    return client


def test_each_client_has_its_own_answers(udp):
    _, where, end = udp
    first, second = ask(where, b"1"), ask(where, b"2")
    questions = dict(end.recvfrom(10) for _ in range(2))
    assert questions[b"1"] != questions[b"2"]
    end.sendto(b"for 2", questions[b"2"])
    end.sendto(b"for 1", questions[b"1"])
    assert (first.recv(100), second.recv(100)) == (b"for 1", b"for 2")
    first.send(bytes(60000))
    assert end.recvfrom(65536) == (bytes(60000), questions[b"1"])
    first.close()
    second.close()


def test_the_longest_silent_session_gives_way(udp, monkeypatch):
    relay, where, end = udp
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    clients = []
    for number in range(4):
        clients.append(ask(where, b"%d" % number))
        assert end.recvfrom(10)[0] == b"%d" % number
    assert relay.descriptors == 3
    for client in clients:
        client.close()


def test_silent_sessions_end(udp, monkeypatch):
    relay, where, end = udp
    monkeypatch.setattr(module, "SESSION_IDLE_S", 0.2)
    client = ask(where)
    end.recvfrom(10)
    assert relay.descriptors == 2
    deadline = time.monotonic() + 10
    while relay.descriptors > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.close()


def test_the_answer_leaves_from_the_address_asked(running):
    """A wildcard socket on a host with many addresses: a connected client takes no answer from another."""
    end = server(socket.SOCK_DGRAM)
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("0.0.0.0", 0))
    port = front.getsockname()[1]
    relay = start(running, front, end.getsockname())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(("127.0.0.77", port))
        client.send(b"?")
        end.sendto(b"!", end.recvfrom(10)[1])
        assert client.recv(10) == b"!"
    running.call(relay.close)
    end.close()


def test_a_socket_that_only_reserves_is_left_alone(running):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        fd = os.dup(bound.fileno())
        assert running.call(lambda: relay_for(running.loop, fd, None)) is None
        os.close(fd)


def test_kept_by_name():
    loop = Loop()
    kept = Kept(loop)
    front = server()
    fds = [os.dup(front.fileno()), os.open("/dev/null", os.O_RDONLY)]
    with pytest.raises(Refused, match="not a socket"):
        kept.add(["a", "b"], fds, {"c": ["127.0.0.1", 9]})
    with pytest.raises(Refused, match="2 descriptors came for 1"):
        kept.add(["a"], fds, {})
    assert len(fds) == 2
    kept.add(["a", "b"], fds, {"a": ["127.0.0.1", 9]})
    assert fds == [] and sorted(kept.names()) == ["a", "b"]
    assert os.path.sameopenfile(kept.find("b"), kept.find("b")) and kept.find("c") == -1
    again = [os.open("/dev/null", os.O_RDONLY)]
    with pytest.raises(Refused, match="kept already"):
        kept.add(["b"], again, {})
    os.close(again[0])
    kept.add([], [], {"a": None})
    kept.drop(["b", "nobody's"])
    assert kept.names() == ["a"]
    kept.close()
    assert kept.names() == [] and not loop.watches(front.fileno())
    front.close()
    loop.abandon()
