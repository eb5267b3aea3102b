"""What a command reads and writes, for a program that embeds the engine: one end of a socket, taken apart."""

from __future__ import annotations

import asyncio
import socket

from wherry.engine.attach import Attachment
from wherry.errors import WherryError

MAX_OUTPUT = 64 << 20
"""Bytes of one stream that are kept in memory; a command that writes more is refused."""


class Unframe:
    """Takes the 8-byte frames of the multiplexed stream apart, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that are complete by now: (1 for stdout or 2 for stderr, what was written)."""
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        start = 0
        while len(self._buffer) - start >= 8:
            end = start + 8 + int.from_bytes(self._buffer[start + 4 : start + 8], "big")
            if len(self._buffer) < end:
                break
            found.append((self._buffer[start], bytes(self._buffer[start + 8 : end])))
            start = end
        del self._buffer[:start]
        return found


async def connect(attachment: Attachment) -> socket.socket:
    """Our end of a connection whose other end the engine has."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        await attachment.deliver(theirs, b"")
    except BaseException:
        ours.close()
        raise
    return ours


async def exchange(client: socket.socket, stdin: bytes, *, mux: bool) -> tuple[bytes, bytes]:
    """Send all of `stdin`, and read stdout and stderr to their end. Closes `client`.

    Without `mux` (the command has a terminal) everything is stdout.
    """
    loop = asyncio.get_running_loop()
    unframe = Unframe()
    outputs = {1: bytearray(), 2: bytearray()}
    sending = asyncio.ensure_future(_send(client, stdin))
    try:
        while chunk := await loop.sock_recv(client, 1 << 18):
            for stream, piece in unframe.feed(chunk) if mux else [(1, chunk)]:
                output = outputs[2 if stream == 2 else 1]
                if len(output) + len(piece) > MAX_OUTPUT:
                    raise WherryError(f"the command wrote more than {MAX_OUTPUT} bytes: read its log instead")
                output += piece
    finally:
        sending.cancel()
        client.close()
    return bytes(outputs[1]), bytes(outputs[2])


async def _send(client: socket.socket, data: bytes) -> None:
    try:
        await asyncio.get_running_loop().sock_sendall(client, data)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the command ended without reading all of it
