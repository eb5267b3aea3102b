"""The first protocol on every API connection, and how a connection is taken away from HTTP.

`Connection` gives aiohttp exactly one request at a time (head, then body, told apart by framing.py) and keeps
whatever stands behind it. So `hijack` can hand over a socket together with the bytes that the client sent early:
stdin in the same segment as `POST /exec/…/start`, say, which aiohttp alone would swallow.

    IDLE ── head complete ──► BODY ── last byte ──► BUSY ── answer written ──► IDLE …
                                                     │
                                    detach: bytes behind the request go with the socket
                                    pass_through: they go to aiohttp's websocket reader

Requests are answered one after the other, as HTTP/1.1 asks for, so one at a time costs a pipelining client nothing.
This leans on aiohttp's protocol class beyond its public face: raise aiohttp's version together with the tests.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import logging
import os
import socket
import sys
import termios
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.helpers import set_exception
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from wherry.api import errors, framing
from wherry.api.relay import Relay

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.streams import StreamReader

log = logging.getLogger(__name__)

MAX_HELD = 64 * 1024
"""Bytes behind the current request that are kept before the client is made to wait."""

HEAD_TIMEOUT_S = 300.0
"""How long a client may take to send one head (Docker's ReadHeaderTimeout)."""

_ERROR_LINGER_S = 0.5
"""After a framing error: time for the client to read the answer before the connection ends (as Go's server)."""


_QUICK_LOOKS = 20
_SLOW_LOOKS = 20
"""How often a client is looked at for having read a head: without pause first, then every millisecond."""


class _State(enum.Enum):
    IDLE = enum.auto()
    BODY = enum.auto()
    BUSY = enum.auto()
    PASS_THROUGH = enum.auto()
    CLOSING = enum.auto()


class Connection(RequestHandler):
    """One client's connection, from its first byte to the last, or until it is hijacked."""

    __slots__ = (
        "_body_left",
        "_chunks",
        "_head_timer",
        "_headers",
        "_held",
        "_is_answered",
        "_payload",
        "_scanned",
        "_state",
        "is_gone",
        "on_gone",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        headers: Mapping[str, str],
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._headers = headers
        self._state = _State.IDLE
        self._held = bytearray()
        self._scanned = 0
        self._body_left = 0
        self._chunks: framing.Chunks | None = None
        self._payload: StreamReader | None = None
        self._is_answered = True
        self._head_timer: asyncio.TimerHandle | None = None
        self.is_gone = False
        """The client will send nothing more: it closed, or closed its sending side."""
        self.on_gone: Callable[[], None] | None = None
        """Called once when that happens; a stream sets it to stop what nobody reads any more."""

    @property
    def is_tls(self) -> bool:
        return self.ssl_context is not None

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        if not data or self._state is _State.PASS_THROUGH:
            super().data_received(data)  # empty: aiohttp's own way to go on after a pause
            return
        if self._state is _State.CLOSING:
            return
        self._held += data
        self._advance()
        if self._state is _State.BUSY and len(self._held) > MAX_HELD:
            self._pause_reading_for_buffer()

    # aiohttp's own returns None, which closes; the event loop takes both (asyncio.Protocol.eof_received).
    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the connection open for the answer: the client may have closed its sending side only."""
        if self._state is _State.BODY:
            self._fail_body("unexpected EOF")
        self._leave()
        return self._state is _State.BUSY

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        self._state = _State.CLOSING
        super().connection_lost(exc)
        self._leave()

    def _leave(self) -> None:
        self.is_gone = True
        callback, self.on_gone = self.on_gone, None
        if callback is not None:
            callback()

    # One request at a time

    def _advance(self) -> None:
        while self._held:
            if self._state is _State.IDLE:
                moved = self._begin_request()
            elif self._state is _State.BODY:
                moved = self._feed_body()
            else:
                return
            if not moved:
                return

    def _begin_request(self) -> bool:
        """Give aiohttp the next head, if it is complete. False: nothing to do until more bytes come."""
        held = self._held
        while held.startswith(b"\r\n"):  # RFC 9112 §2.2: an empty line before a request is ignored
            del held[:2]
        try:
            end = held.find(b"\r\n\r\n", max(0, self._scanned - 3), framing.MAX_HEAD)
            if end < 0:
                framing.check_beginning(held)
                self._scanned = len(held)
                if held and self._head_timer is None:
                    self._head_timer = self._loop.call_later(HEAD_TIMEOUT_S, self._abort)
                return False
            self._stop_head_timer()
            self._scanned = 0
            head = bytes(held[: end + 4])
            del held[: end + 4]
            if head == framing.HTTP2_HEAD:
                self._abort()  # at once, so that a client that only tries HTTP/2 falls back
                return False
            length = framing.body_length(head)
        except framing.FramingError as exc:
            self._refuse(exc)
            return False
        self._chunks = framing.Chunks() if length is None else None
        self._body_left = length or 0
        self._is_answered = False
        self._state = _State.BUSY if length == 0 else _State.BODY
        super().data_received(head)
        self._payload = self._messages[-1][1] if self._messages else None
        return self._state is _State.BODY

    def _feed_body(self) -> bool:
        if self._chunks is not None:
            try:
                size = self._chunks.consume(self._held)
            except framing.FramingError as exc:
                self._fail_body(str(exc))
                return False
            is_complete = self._chunks.is_done
        else:
            size = min(self._body_left, len(self._held))
            self._body_left -= size
            is_complete = self._body_left == 0
        if size == 0:
            return False
        part = bytes(self._held[:size])
        del self._held[:size]
        if is_complete:
            self._state = _State.BUSY
        super().data_received(part)
        if is_complete and self._is_answered:
            self._end_request()
        return True

    def _fail_body(self, why: str) -> None:
        """The body can't be completed: whoever reads it gets an error, and this request is the last one."""
        self._state = _State.BUSY
        self._held.clear()
        self.close()
        if self._payload is not None:
            set_exception(self._payload, RequestPayloadError(why))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._is_answered = True
            if not resp.keep_alive:
                self.close()
            if self._state is _State.BUSY:
                self._end_request()

    def _end_request(self) -> None:
        """Both the answer and the body are through: the next request may begin, if there is to be one."""
        self._payload = None
        if self._close or self._force_close:
            self._state = _State.CLOSING
            return
        self._state = _State.IDLE
        self._advance()
        if self._buffer_paused:
            self._resume_reading_if_drained()
        if self.is_gone and self._state is _State.IDLE:
            self.close()

    def _resume_reading_if_drained(self) -> None:
        if self._state is _State.PASS_THROUGH:
            super()._resume_reading_if_drained()
        elif len(self._held) <= MAX_HELD:
            self._resume_reading_for_buffer()

    # Ends

    def _refuse(self, error: framing.FramingError) -> None:
        """Answer a request that cannot be delimited, and end the connection: what follows is not trusted."""
        self._state = _State.CLOSING
        self._held.clear()
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        body = errors.body(str(error))
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        transport.write(response_head(f"{error.status} {HTTPStatus(error.status).phrase}", headers) + body)
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(_ERROR_LINGER_S, self._abort)

    def _abort(self) -> None:
        self._state = _State.CLOSING
        self._stop_head_timer()
        if self.transport is not None:
            self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # How aiohttp reports what it could not make sense of

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client left: aiohttp closes without a word
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer has begun: it can only be cut off")
        if exc is not None and status >= 500:
            log.error("request failed", exc_info=exc)
        response = errors.answer_text(status, (message or "request failed").split("\n")[0][:300])
        response.headers.update(self._headers)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        if isinstance(error, (RequestPayloadError, ConnectionError)):
            return  # the client's doing, and answered already
        log.error(*args, **kw)

    # Away from HTTP

    def pass_through(self) -> None:
        """Give aiohttp all further bytes as they come: for a websocket, after its response was prepared."""
        self._state = _State.PASS_THROUGH
        early, self._held = bytes(self._held), bytearray()
        if early:
            super().data_received(early)
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        if self.is_gone and self.transport is not None:
            self.transport.close()

    async def detach(self, head: bytes, *, settle: bool) -> tuple[socket.socket, bytes]:
        """Write `head`, then leave the connection to the caller: see `hijack`."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("client went away")
        # With a limit of zero, writing is paused whenever anything is unsent.
        transport.set_write_buffer_limits(high=0)
        transport.write(head)
        await self._drain_helper()
        plain = transport.get_extra_info("socket")
        if settle and plain.family == socket.AF_UNIX:
            await _until_read(plain.fileno())
            if self.transport is None:
                raise ConnectionResetError("client went away")
        early = bytes(self._held)
        self._held.clear()
        self._state = _State.CLOSING
        self.transport = None
        if transport.get_extra_info("sslcontext") is not None:
            return await self._relay_tls(transport), early
        ours = socket.socket(fileno=os.dup(plain.fileno()))
        ours.setblocking(False)
        # abort() only takes the descriptor out of the loop and closes it: the connection lives on in the duplicate.
        transport.abort()
        return ours, early

    async def _relay_tls(self, transport: asyncio.Transport) -> socket.socket:
        """TLS stays here: the caller gets one end of a socket pair, and the daemon copies in between."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        outer = Relay(is_engine=False)
        transport.pause_reading()
        transport.set_protocol(outer)
        outer.connection_made(transport)
        _, inner = await self._loop.create_connection(lambda: Relay(is_engine=True), sock=theirs)
        outer.join(inner)
        if self.is_gone:
            outer.eof_received()  # the client's end of input came before us, and comes only once
        transport.resume_reading()
        self.connection_lost(None)
        return ours


class Detached(web.StreamResponse):
    """What a handler returns after `hijack`: nothing is written and nothing closed."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection that `request` came in on."""
    return cast(Connection, request.protocol)


def response_head(status: str, headers: Mapping[str, str]) -> bytes:
    """A response head in bytes, for answers that do not go through aiohttp."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode()


def stream_head(request: web.BaseRequest, content_type: str) -> bytes:
    """The head that turns a connection into a raw stream: 101 if the client asked for an upgrade, else 200.

    Docker's byte for byte: no Content-Length and no chunking, and the plain 200 knows only the raw type.
    """
    if "Upgrade" in request.headers:
        headers = {"Content-Type": content_type, "Connection": "Upgrade", "Upgrade": "tcp"}
        return response_head("101 UPGRADED", headers)
    return response_head("200 OK", {"Content-Type": "application/vnd.docker.raw-stream"})


async def _until_read(descriptor: int) -> None:
    """Return once the peer of a unix socket has read all that was written, or does not hurry.

    docker-py reads the head through a buffer and the stream beside it, so output that reaches it together with the
    head is lost to it. Docker's own slowness hides that; we are fast enough to hit it.
    """
    turns = 0
    while _unread(descriptor) and turns < _QUICK_LOOKS + _SLOW_LOOKS:
        await asyncio.sleep(0 if turns < _QUICK_LOOKS else 0.001)
        turns += 1


def _unread(descriptor: int) -> int:
    """Bytes (with the kernel's own overhead) that the peer of a unix socket has not read yet: unix(7), SIOCOUTQ."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


async def hijack(
    request: web.BaseRequest, head: bytes, *, settle: bool = False
) -> tuple[socket.socket, bytes]:
    """Write the raw `head` and take the connection away from HTTP and from the event loop.

    `settle` waits a moment for the client to have read the head: for a stream that may begin at once.

    Returns the connection as a plain non-blocking socket, now the caller's to close, and the bytes that the client
    sent behind the request. The request's body must have been read. Return `Detached()` from the handler.
    Raises ConnectionResetError if the client is gone.
    """
    return await connection_of(request).detach(head, settle=settle)
