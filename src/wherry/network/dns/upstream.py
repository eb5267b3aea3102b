"""Questions that are not about containers, asked of other resolvers.

Each goes out by a socket of its own, with a random port and id, connected to one server; only an answer to that very
question is taken. Servers are asked in order, the next one when the one before refuses or stays silent for a while;
whoever answers first is believed. What comes back is passed on as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from wherry.network.dns import messages
from wherry.network.dns.resolv_conf import Server

MAX_SERVERS = 3
"""As in resolv.conf(5), and Docker."""
PATIENCE_S = 1.0
"""How long a server may be silent before the next is asked as well. The C library asks again after 5 s."""
TIME_LIMIT_S = 4.5
ROUNDS = 2
"""A datagram may be lost: silent servers are asked once more."""
_MAX_STRAYS = 32
"""Datagrams that are no answer, before a server is given up."""
PORT = 53

OpenSocket = Callable[[Server, socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]]

_log = logging.getLogger(__name__)
_NEXT = (messages.SERVER_FAILURE, messages.REFUSED, messages.FORMAT_ERROR, messages.NOT_IMPLEMENTED)
"""What a server says that does not help: the next one may."""


async def ask(
    data: bytes, question: bytes, servers: Sequence[Server], open_socket: OpenSocket, *, is_stream: bool
) -> bytes | None:
    """The answer to the message `data`, under its id; None when no server has one in time.

    `question` is the part of `data` that an answer must repeat.
    """
    first = list(dict.fromkeys(servers))[:MAX_SERVERS]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TIME_LIMIT_S
    asking: dict[asyncio.Task[bytes | None], Server] = {}
    useless: set[Server] = set()
    try:
        for server in first * ROUNDS:
            if server in useless or loop.time() >= deadline:
                continue
            step = _ask_one(data, question, server, open_socket, is_stream=is_stream)
            asking[asyncio.create_task(step)] = server
            until = min(deadline, loop.time() + PATIENCE_S)
            answer = await _next_answer(asking, useless, until)
            if answer is not None:
                return messages.with_id(answer, int.from_bytes(data[:2]))
        while asking and loop.time() < deadline:
            answer = await _next_answer(asking, useless, deadline)
            if answer is not None:
                return messages.with_id(answer, int.from_bytes(data[:2]))
        return None
    finally:
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)


async def _next_answer(
    asking: dict[asyncio.Task[bytes | None], Server], useless: set[Server], until: float
) -> bytes | None:
    """The first answer to come; None when a server turned out useless, or nothing came until then."""
    left = until - asyncio.get_running_loop().time()
    done, _ = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        server = asking.pop(task)
        answer = task.result()
        if answer is not None:
            return answer
        useless.add(server)
    return None


async def _ask_one(
    data: bytes, question: bytes, server: Server, open_socket: OpenSocket, *, is_stream: bool
) -> bytes | None:
    """One server's answer; None when it does not help, or cannot be asked."""
    number = int.from_bytes(os.urandom(2))
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    try:
        sock = await open_socket(server, family, kind)
    except OSError as exc:
        _log.debug("cannot ask the resolver %s: %s", server, exc)
        return None
    try:
        sock.setblocking(False)
        exchange = _by_stream if is_stream else _by_datagram
        return await exchange(
            sock, _destination(server.address, family), messages.with_id(data, number), number, question
        )
    except (OSError, EOFError) as exc:
        _log.debug("the resolver %s: %s", server, exc)
        return None
    finally:
        sock.close()


def _destination(address: str, family: socket.AddressFamily) -> tuple[str, int] | tuple[str, int, int, int]:
    if family == socket.AF_INET:
        return address, PORT
    host, _, scope = address.partition("%")
    if not scope:
        return host, PORT, 0, 0
    return host, PORT, 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope)


async def _by_datagram(
    sock: socket.socket,
    to: tuple[str, int] | tuple[str, int, int, int],
    data: bytes,
    number: int,
    question: bytes,
) -> bytes | None:
    loop = asyncio.get_running_loop()
    sock.connect(to)  # from here on the kernel drops what others send
    await loop.sock_sendall(sock, data)
    for _ in range(_MAX_STRAYS):
        answer = await loop.sock_recv(sock, messages.MAX_SIZE)
        code = messages.answers_to(answer, number, question)
        if code is not None:
            return None if code in _NEXT else answer
    return None


async def _by_stream(
    sock: socket.socket,
    to: tuple[str, int] | tuple[str, int, int, int],
    data: bytes,
    number: int,
    question: bytes,
) -> bytes | None:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, to)
    await loop.sock_sendall(sock, len(data).to_bytes(2) + data)
    answer = await _exactly(sock, int.from_bytes(await _exactly(sock, 2)))
    code = messages.answers_to(answer, number, question)
    return None if code is None or code in _NEXT else answer


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(sock, size - len(data))
        if not more:
            raise EOFError("hung up in the middle of an answer")
        data += more
    return data
