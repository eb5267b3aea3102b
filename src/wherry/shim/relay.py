"""Carries what reaches a published port's own socket to the container, for as long as the container lives.

Where the host's firewall rules can lead a packet to the container they do, and nothing arrives here. What they
cannot lead is relayed: `[::1]` and `[::]` to a container with IPv4 only, and every connection where there are no rules.

    client ──splice──► pipe ──splice──► container      one pipe for each way, filled only as fast as it is emptied
           ◄─splice─── pipe ◄─splice───                the end of one way is passed on, the other goes on

UDP has no connections: a *session* is a client's address, with a socket of its own towards the container that is
closed when both were silent for SESSION_IDLE_S. Answers leave from the address that the client wrote to. A full
relay takes no more connections until one ends, and gives up the longest silent session for a new one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time

from wherry.shim.loop import READ, WRITE
from wherry.shim.reports import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.shim.loop import Loop, Timer

    Target = tuple[str, int]

MAX_CONNECTIONS = 1000
"""Of one port. Each has two sockets and two pipes: six descriptors."""
MAX_SESSIONS = 1000
SESSION_IDLE_S = 90.0
PIPE_BYTES = 1 << 20
_ACCEPTS = 64  # in one round, before others have their turn
_MOVES = 16
_DATAGRAMS = 64
_DATAGRAM_BYTES = 65536
_MOVE_NONBLOCK = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
_PKTINFO: dict[
    int, tuple[int, int, int]
] = {  # level, the option that asks for it, the kind of the control message
    socket.AF_INET: (socket.IPPROTO_IP, 8, 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 49, 50),
}
_DESCRIPTORS_SPENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def relay_for(loop: Loop, fd: int, target: Target | None) -> TcpRelay | UdpRelay | None:
    """A relay on the socket `fd`, which it owns from here on; None where the socket is only to be held.

    Without a target, what arrives is refused until `target` is set.
    """
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    listens = kind == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listens:
        return TcpRelay(loop, sock, target)
    if kind == socket.SOCK_DGRAM:
        return UdpRelay(loop, sock, target)
    sock.detach()
    return None


class _Way:
    """One direction of a connection."""

    __slots__ = ("filled", "is_done", "is_ended", "pipe", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(self.pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # the user's share of pipe memory is spent: smaller ones do as well, slower
        self.filled = 0
        self.is_ended = False  # the source has nothing more to say
        self.is_done = False  # and the sink knows

    def move(self) -> None:
        """Move what can be moved now. OSError when either end is lost."""
        for _ in range(_MOVES):
            if self.is_done:
                return
            moved = False
            if not self.is_ended:
                count = _splice(self.source.fileno(), self.pipe[1])
                if count == 0:
                    self.is_ended = True
                elif count > 0:
                    self.filled += count
                    moved = True
            if self.filled:
                count = _splice(self.pipe[0], self.sink.fileno())
                if count > 0:
                    self.filled -= count
                    moved = True
            elif self.is_ended:
                self.is_done = True
                try:
                    self.sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it has hung up itself
            if not moved:
                return

    def close(self) -> None:
        os.close(self.pipe[0])
        os.close(self.pipe[1])


def _splice(source: int, sink: int) -> int:
    """Bytes moved; 0 at the source's end; -1 when nothing can be moved now."""
    try:
        return os.splice(source, sink, PIPE_BYTES, flags=_MOVE_NONBLOCK)
    except BlockingIOError:
        return -1


class _Connection:
    """One relayed connection."""

    __slots__ = ("_client", "_is_connected", "_loop", "_relay", "_server", "_ways")

    def __init__(self, relay: TcpRelay, loop: Loop, client: socket.socket, target: Target) -> None:
        self._relay = relay
        self._loop = loop
        self._client = client
        self._server = socket.socket(_family(target), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._is_connected = False
        self._ways: list[_Way] = []
        try:
            for sock in (self._client, self._server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ways.append(_Way(self._client, self._server))
            self._ways.append(_Way(self._server, self._client))
            code = self._server.connect_ex(target)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except BaseException:
            self._let_go()
            raise
        self._loop.watch(self._server.fileno(), WRITE, self._on_connected)

    def _on_connected(self, bits: int) -> None:
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()  # the client sees its connection go, as it does with nobody listening
            return
        self._is_connected = True
        self._pump(bits)

    def _pump(self, bits: int) -> None:
        try:
            for way in self._ways:
                way.move()
        except OSError:
            self.close()
            return
        if all(way.is_done for way in self._ways):
            self.close()
            return
        out, back = self._ways
        for sock, reads, writes in ((self._client, out, back), (self._server, back, out)):
            # What is left in a pipe waits for its sink, and its source is not read meanwhile.
            mask = (READ if not reads.is_ended and not reads.filled else 0) | (WRITE if writes.filled else 0)
            if mask:
                self._loop.watch(sock.fileno(), mask, self._pump)
            else:
                self._loop.forget(sock.fileno())  # a hang-up would be told over and over

    def close(self) -> None:
        self._loop.forget(self._client.fileno())
        self._loop.forget(self._server.fileno())
        self._let_go()
        self._relay.ended(self)

    def _let_go(self) -> None:
        for way in self._ways:
            way.close()
        self._client.close()
        self._server.close()


class TcpRelay:
    """Accepts on a listening socket and relays each connection to `target`."""

    __slots__ = ("_connections", "_loop", "_retry", "sock", "target")

    def __init__(self, loop: Loop, sock: socket.socket, target: Target | None) -> None:
        self.sock = sock
        self.target = target
        self._loop = loop
        self._connections: set[_Connection] = set()
        self._retry: Timer | None = None
        self._resume()

    def fileno(self) -> int:
        return self.sock.fileno()

    def _on_clients(self, _: int) -> None:
        for _ in range(_ACCEPTS):
            if len(self._connections) >= MAX_CONNECTIONS:
                self._loop.forget(self.sock.fileno())
                return
            try:
                client, _address = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _DESCRIPTORS_SPENT:
                    self._pause()
                    return
                continue  # that client has gone
            if self.target is None:
                client.close()
                continue
            try:
                self._connections.add(_Connection(self, self._loop, client, self.target))
            except OSError as exc:
                if exc.errno in _DESCRIPTORS_SPENT:
                    self._pause()
                    return

    def _pause(self) -> None:
        """No descriptors: others may give some back."""
        self._loop.forget(self.sock.fileno())
        self._retry = self._loop.later(0.2, self._resume)

    def _resume(self) -> None:
        if self.sock.fileno() >= 0:
            self._loop.watch(self.sock.fileno(), READ, self._on_clients)

    def ended(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._resume()

    @property
    def descriptors(self) -> int:
        return 1 + 6 * len(self._connections)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        sock, listening = self.sock, self.sock.fileno()
        self._loop.forget(listening)
        for connection in list(self._connections):
            connection.close()
        self._loop.forget(listening)
        sock.close()


class _Session:
    """One client of a UDP port."""

    __slots__ = ("at", "client", "info", "sock")

    def __init__(
        self, sock: socket.socket, client: tuple[object, ...], info: list[tuple[int, int, bytes]]
    ) -> None:
        self.sock = sock
        self.client = client
        self.info = info  # the control message by which an answer leaves from where the question came to
        self.at = time.monotonic()


class UdpRelay:
    """Relays datagrams that reach a bound socket to `target`, and the answers back."""

    __slots__ = ("_loop", "_sessions", "_sweep", "sock", "target")

    def __init__(self, loop: Loop, sock: socket.socket, target: Target | None) -> None:
        self.sock = sock
        self.target = target
        self._loop = loop
        self._sessions: dict[tuple[object, ...], _Session] = {}  # the longest silent first
        self._sweep: Timer | None = None
        level, option, _ = _PKTINFO[sock.family]
        sock.setsockopt(level, option, 1)
        loop.watch(sock.fileno(), READ, self._on_datagrams)

    def fileno(self) -> int:
        return self.sock.fileno()

    def _on_datagrams(self, _: int) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data, ancillary, _flags, client = self.sock.recvmsg(_DATAGRAM_BYTES, 256)
            except BlockingIOError:
                return
            except OSError:
                continue  # an answer that could not be delivered: ICMP says so here
            session = self._session_of(client, ancillary)
            if session is not None:
                try:
                    session.sock.send(data)
                except OSError:
                    pass  # datagrams may be lost

    def _session_of(
        self, client: tuple[object, ...], ancillary: list[tuple[int, int, bytes]]
    ) -> _Session | None:
        session = self._sessions.pop(client, None)
        if session is None:
            if self.target is None:
                return None
            if len(self._sessions) >= MAX_SESSIONS:
                self._drop(next(iter(self._sessions)))
            try:
                sock = socket.socket(_family(self.target), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                sock.connect(self.target)
            except OSError as exc:
                report(f"cannot relay to {self.target[0]} port {self.target[1]}: {exc}")
                return None
            session = _Session(sock, client, _answer_from(self.sock.family, ancillary))
            self._loop.watch(sock.fileno(), READ, lambda _: self._on_answers(session))
        self._sessions[client] = session
        session.at = time.monotonic()
        if self._sweep is None:
            self._sweep = self._loop.later(SESSION_IDLE_S, self._drop_silent)
        return session

    def _on_answers(self, session: _Session) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data = session.sock.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                return  # refused: nobody listens there now
            session.at = time.monotonic()
            if self._sessions.pop(session.client, None) is not None:
                self._sessions[session.client] = session
            try:
                self.sock.sendmsg([data], session.info, 0, session.client)
            except OSError:
                pass

    def _drop(self, client: tuple[object, ...]) -> None:
        session = self._sessions.pop(client)
        self._loop.forget(session.sock.fileno())
        session.sock.close()

    def _drop_silent(self) -> None:
        self._sweep = None
        before = time.monotonic() - SESSION_IDLE_S
        for client in [client for client, session in self._sessions.items() if session.at <= before]:
            self._drop(client)
        if self._sessions:
            oldest = next(iter(self._sessions.values())).at
            self._sweep = self._loop.later(max(0.1, oldest - before), self._drop_silent)

    @property
    def descriptors(self) -> int:
        return 1 + len(self._sessions)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for client in list(self._sessions):
            self._drop(client)
        self._loop.forget(self.sock.fileno())
        self.sock.close()


def _family(target: Target) -> int:
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET


def _answer_from(family: int, ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message to answer with, from the one that came with the question. ip(7), ipv6(7).

    struct in_pktinfo is interface, local address, destination; the middle one chooses the source.
    """
    level, _, wanted = _PKTINFO[family]
    for of, kind, data in ancillary:
        if of != level or kind != wanted:
            continue
        if family == socket.AF_INET:
            return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
        return [(level, kind, data[:16] + (data[16:20] if data[:2] == b"\xfe\x80" else bytes(4)))]
    return []
