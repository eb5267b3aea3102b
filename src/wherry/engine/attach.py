"""Clients on a raw connection: attached to a container or an exec, or waiting for a container to end.

The API takes a connection away from its HTTP library once the head is written and gives it here as a plain socket.
We hand it on to the container's shim by descriptor, so that it outlives the daemon, or answer it ourselves.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable

import msgspec

from wherry.engine.records import Waiter
from wherry.errors import InvalidParameter
from wherry.model.containers import ContainerWaited
from wherry.model.wire import encode
from wherry.shim.keys import parse as parse_keys

DETACH_KEYS = "ctrl-p,ctrl-q"

Deliver = Callable[[socket.socket, bytes], Awaitable[None]]


class AttachOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an attach asks for: the query of POST /containers/{id}/attach."""

    stream: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    logs: bool = False
    detach_keys: str | None = None


def check_detach_keys(keys: str | None) -> None:
    """Refuse a key sequence nobody could type. Docker's text."""
    try:
        parse_keys(keys or "")
    except ValueError as exc:
        raise InvalidParameter(f"Invalid detach keys ({keys}) provided: {exc}") from exc


class Attachment:
    """A client that is about to get a raw connection. `mux`: output comes in 8-byte frames (there is no terminal)."""

    def __init__(self, *, mux: bool, deliver: Deliver) -> None:
        self.mux = mux
        self._deliver = deliver

    async def deliver(self, sock: socket.socket, pending: bytes) -> None:
        """Take the connection over; `pending` was read from the client already. The socket is ours from here."""
        await self._deliver(sock, pending)


class EarlyClient(msgspec.Struct, frozen=True):
    """A client attached to a container that does not run yet."""

    sock: socket.socket
    pending: bytes
    options: AttachOptions

    def is_gone(self) -> bool:
        """Whether the client has hung up both ways (a closed stdin alone is no hang-up)."""
        poll = select.poll()
        poll.register(self.sock, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


async def answer_wait(waiter: Waiter, sock: socket.socket) -> None:
    """Write the owed answer to a client whose response head is out, once the container has ended; or notice that the
    client has gone. The other descriptor of the connection, in the shim, is made void by the shutdown."""
    waiter.socket = sock
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        try:
            if sock.recv(4096):
                return  # nothing is expected; a pipelined request will see the connection close
        except BlockingIOError:
            return
        except OSError:
            pass
        loop.remove_reader(sock)
        if not gone.done():
            gone.set_result(None)

    sock.setblocking(False)
    loop.add_reader(sock, readable)
    try:
        await asyncio.wait((waiter.answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if waiter.answer.done():
            await _send_answer(sock, waiter.answer.result())
        loop.remove_reader(sock)
        hang_up(sock)
    finally:  # cancelled: the daemon stops, and the shim, which has a copy, or the next daemon answers
        if sock.fileno() >= 0:
            loop.remove_reader(sock)
        waiter.answer.cancel()
        waiter.socket = None
        sock.close()


async def _send_answer(sock: socket.socket, answer: ContainerWaited) -> None:
    body = encode(answer) + b"\n"
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    try:
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_sendall(sock, chunk)
    except OSError:
        pass  # the client left, or reads nothing: nobody is owed anything


def hang_up(sock: socket.socket) -> None:
    """End the connection for every holder of it, then let go of ours."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


def frame(stream: int, data: bytes) -> bytes:
    """One frame of the multiplexed stream: stdout is 1, stderr 2."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
