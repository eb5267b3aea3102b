"""GET /containers/{id}/attach/ws: a container's streams over a websocket.

A websocket's frames have to be made and read here, so the engine gets one end of a socket pair and the daemon
copies. Docker sends the bytes as they are, stdout and stderr mixed, so frames of a multiplexed stream are unpacked.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from wherry.api import versions
from wherry.api.hijack import connection_of
from wherry.errors import InvalidParameter

if TYPE_CHECKING:
    from wherry.api.call import Call
    from wherry.api.contract import Attachment

_PART = 64 * 1024
MAX_MESSAGE = 4 * 1024 * 1024


class Unframer:
    """Takes the 8-byte headers out of a multiplexed stream, however it is cut into parts."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """The payload bytes in the next part of the stream."""
        out: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left == 0:
                take = 8 - len(self._header)
                self._header += data[at : at + take]
                at += take
                if len(self._header) == 8:
                    self._left = int.from_bytes(self._header[4:], "big")
                    self._header = b""
                continue
            part = data[at : at + self._left]
            out.append(part)
            at += len(part)
            self._left -= len(part)
        return b"".join(out)


async def serve(call: Call, attachment: Attachment) -> web.StreamResponse:
    """Answer the handshake, then copy until the container's output ends or the client leaves."""
    response = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, compress=False)
    if not _is_handshake(call.request, response):
        raise InvalidParameter("websocket: the request is no websocket handshake")
    response.headers.update(call.headers)
    await response.prepare(call.request)
    connection_of(call.request).pass_through()
    engine_side, our_side = socket.socketpair()
    engine_side.setblocking(False)
    our_side.setblocking(False)
    with our_side:
        await attachment.deliver(engine_side, b"")
        is_binary = call.version >= versions.BINARY_WEBSOCKET
        output = asyncio.ensure_future(_copy_out(our_side, response, is_binary=is_binary, mux=attachment.mux))
        try:
            await _copy_in(response, our_side)
        finally:
            our_side.shutdown(socket.SHUT_RDWR)
            output.cancel()
            await asyncio.wait((output,))
    return response


def _is_handshake(request: web.BaseRequest, response: web.WebSocketResponse) -> bool:
    try:
        return response.can_prepare(request).ok
    except ValueError:  # a key that is no text
        return False


async def _copy_out(
    sock: socket.socket, response: web.WebSocketResponse, *, is_binary: bool, mux: bool
) -> None:
    loop = asyncio.get_running_loop()
    unframer = Unframer() if mux else None
    try:
        while data := await loop.sock_recv(sock, _PART):
            if unframer is not None:
                data = unframer.feed(data)
            if not data:
                continue
            if is_binary:
                await response.send_bytes(data)
            else:
                await response.send_str(data.decode("utf-8", "replace"))
    except ConnectionError:
        pass  # one of the two left
    finally:
        await response.close()


async def _copy_in(response: web.WebSocketResponse, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async for message in response:
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
        elif message.type is WSMsgType.TEXT:
            data = message.data.encode()
        else:
            break
        try:
            await loop.sock_sendall(sock, data)
        except ConnectionError:
            break
