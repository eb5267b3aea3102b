"""One container's name server: takes its questions, answers those about containers, has the rest asked elsewhere.

Runs on the daemon's event loop. A question about a name of the container's networks is answered at once and never
leaves the host, whatever its type. Everything else goes to `Forward`, at most MAX_FORWARDED questions at a time. By
TCP (RFC 7766) a connection may carry many questions, answered as the answers come.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from wherry.network.dns import messages
from wherry.network.dns.messages import Malformed, Query
from wherry.network.dns.namespace import NameSockets
from wherry.network.dns.zone import Zone

TTL = 600
"""Docker's. (The C library does not keep answers.)"""
MAX_FORWARDED = 1024
"""Questions of one container under way to other resolvers: Docker's bound. More are refused."""
MAX_CONNECTIONS = 32
MAX_PER_CONNECTION = 8
"""Questions of one TCP connection under way; it is not read further meanwhile."""
IDLE_S = 10.0
_BURST = 16
"""Datagrams taken before the event loop gets on with other things."""
_MAX_QUERY = 4096

_SIZES = {messages.A: 4, messages.AAAA: 16}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a container may ask about, and whom for the rest."""

    networks: tuple[str, ...]  # ids, in the order in which they are asked
    links: dict[str, dict[bytes, bytes]] = {}  # by network: names that only this container uses, and what for
    servers: tuple[str, ...] = ()  # `--dns`; empty: the host's
    is_external: bool = True  # False: every network is internal, nothing goes out
    keeps_single_labels: bool = False  # the user set ndots: names without a dot are not asked of others
    has_ipv6: bool = False


Forward = Callable[[Query, bytes, bool], Awaitable[bytes | None]]
"""Ask others: a question, its message, whether it came by TCP. None when nobody answers."""


class Resolver:
    """Serves from `start` to `close`. Owns `sockets`."""

    def __init__(self, zone: Zone, view: View, sockets: NameSockets, forward: Forward) -> None:
        self.view = view
        self._zone = zone
        self._sockets = sockets
        self._forward = forward
        self._forwarding: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sockets.udp, self._on_datagrams)
        loop.add_reader(self._sockets.tcp, self._on_connection)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sockets.udp)
        loop.remove_reader(self._sockets.tcp)
        for task in self._forwarding:
            task.cancel()
        for connection in list(self._connections):
            connection.close()
        self._sockets.close()

    def handle(
        self, data: bytes, send: Callable[[bytes], None], *, is_stream: bool
    ) -> asyncio.Task[None] | None:
        """Answer the message by `send`: now, or when the task returned is done."""
        try:
            query = messages.parse_query(data)
        except Malformed as exc:
            if exc.answer:
                send(exc.answer)
            return None
        limit = messages.MAX_SIZE if is_stream else query.udp_size
        answer = self.answer(query, limit)
        if answer is None and len(self._forwarding) >= MAX_FORWARDED:
            answer = messages.reply(query, code=messages.REFUSED)
        if answer is not None:
            send(answer)
            return None
        task = asyncio.get_running_loop().create_task(
            self._pass_on(query, data, send, limit, is_stream=is_stream)
        )
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)
        return task

    def answer(self, query: Query, limit: int) -> bytes | None:
        """Our own answer; None where others are to be asked."""
        records = self._records(query) if query.klass == messages.IN else None
        if records is not None:
            if len(records) > 1:
                random.shuffle(records)
            return messages.reply(query, records, ttl=TTL, limit=limit)
        if not self.view.is_external:
            return messages.reply(query, code=messages.SERVER_FAILURE)
        if self.view.keeps_single_labels and query.kind in _SIZES and b"." not in query.name:
            return messages.reply(query)
        return None

    def _records(self, query: Query) -> list[bytes] | None:
        view = self.view
        if query.kind == messages.PTR:
            address = messages.address_in(query.name)
            if address is not None:
                name = self._zone.name_of(view.networks, address)
                return None if name is None else _pointer(name)
        # A name of ours exists for every type of question; with other records than addresses it has none.
        return self._zone.find(view.networks, query.name, _SIZES.get(query.kind, 0), view.links)

    async def _pass_on(
        self, query: Query, data: bytes, send: Callable[[bytes], None], limit: int, *, is_stream: bool
    ) -> None:
        answer = await self._forward(query, data, is_stream)
        if answer is None:
            answer = messages.reply(query, code=messages.SERVER_FAILURE)
        elif len(answer) > limit:
            answer = messages.truncated(query, answer)
        send(answer)

    def _on_datagrams(self) -> None:
        udp = self._sockets.udp
        for _ in range(_BURST):
            try:
                data, sender = udp.recvfrom(_MAX_QUERY)
            except OSError:
                return  # none left, or one of our answers was refused

            def send(answer: bytes, sender: object = sender) -> None:
                try:
                    udp.sendto(answer, sender)  # pyright: ignore[reportArgumentType]  as recvfrom gave it
                except OSError:
                    pass  # it has gone, or does not read: it may ask again

            self.handle(data, send, is_stream=False)

    def _on_connection(self) -> None:
        try:
            sock, _ = self._sockets.tcp.accept()
        except OSError:
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        connection = _Connection(sock, self.handle, self._connections.discard)
        self._connections.add(connection)
        connection.start()


class _Connection:
    """One TCP connection: messages behind their length in two bytes."""

    def __init__(
        self,
        sock: socket.socket,
        handle: Callable[..., asyncio.Task[None] | None],
        on_close: Callable[[_Connection], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._handle = handle
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._out: deque[memoryview] = deque()
        self._pending: set[asyncio.Task[None]] = set()
        self._is_reading = False
        self._is_closed = False
        self._is_at_end = False
        self._timer = self._loop.call_later(IDLE_S, self.close)

    def start(self) -> None:
        self._go_on()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._timer.cancel()
        for task in self._pending:
            task.cancel()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._on_close(self)

    def _go_on(self) -> None:
        """Handle what has arrived, as far as the bounds allow, and read on if they do."""
        while not self._is_closed and self._has_room() and (message := self._next()) is not None:
            task = self._handle(message, self._send, is_stream=True)
            if task is not None:
                self._pending.add(task)
                task.add_done_callback(self._on_done)
        if self._is_closed:
            return
        if self._is_at_end and not self._pending and not self._out:
            self.close()
            return
        wants = self._has_room() and not self._is_at_end
        if wants != self._is_reading:
            self._is_reading = wants
            if wants:
                self._loop.add_reader(self._sock, self._on_readable)
            else:
                self._loop.remove_reader(self._sock)

    def _has_room(self) -> bool:
        return len(self._pending) < MAX_PER_CONNECTION and len(self._out) < MAX_PER_CONNECTION

    def _next(self) -> bytes | None:
        if len(self._in) < 2:
            return None
        size = int.from_bytes(self._in[:2])
        if size > _MAX_QUERY:
            self.close()
            return None
        if len(self._in) < 2 + size:
            return None
        message = bytes(self._in[2 : 2 + size])
        del self._in[: 2 + size]
        return message

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(_MAX_QUERY)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self._in += data
        else:
            self._is_at_end = True
        self._go_on()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        if not self._is_closed:
            self._go_on()

    def _send(self, answer: bytes) -> None:
        if self._is_closed:
            return
        self._timer.cancel()
        self._timer = self._loop.call_later(IDLE_S, self.close)  # idle: nothing was answered for so long
        self._out.append(memoryview(len(answer).to_bytes(2) + answer))
        if len(self._out) == 1:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(self._out[0])
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                    break
                self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._out:
            self._loop.add_writer(self._sock, self._on_writable)
        else:
            self._loop.remove_writer(self._sock)

    def _on_writable(self) -> None:
        self._flush()
        if not self._is_closed:
            self._go_on()


def _pointer(name: bytes) -> list[bytes]:
    try:
        return [messages.encode_name(name)]
    except ValueError:
        return []  # a container's or network's name with parts of more than 63 bytes
