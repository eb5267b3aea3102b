"""TLS under the API's connections, with each direction closed on its own.

asyncio's TLS answers the peer's close_notify by closing both ways, which would cut the output of
`echo x | docker run -i …` off as soon as its input ends. Here the end of input is passed on as `eof_received`, and
the other direction stays open until it is closed (RFC 8446 §6.1).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 30.0
_PART = 64 * 1024


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """A protocol on the plain connection, and a transport for the one above it, which is made after the handshake."""

    def __init__(self, context: ssl.SSLContext, make_protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        super().__init__()
        self._context = context
        self._make_protocol = make_protocol
        self._inner: asyncio.Protocol | None = None
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._plain: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_ended = False
        """The peer has closed its direction."""
        self._has_ended = False
        """We have closed ours."""

    # The protocol's side: what the plain transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._plain = cast(asyncio.Transport, transport)
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self.abort)

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        if self._inner is None:
            self._shake_hands()
        else:
            self._read()

    def eof_received(self) -> bool:
        """A connection that ends without close_notify was cut off: what came may not be all."""
        if not self._is_ended:
            self.abort()
        return self._is_ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as exc:
            log.debug("TLS handshake failed: %s", exc)
            self._flush()  # the alert that says why
            self._plain.close()
            return
        self._stop_timer()
        self._flush()
        self._inner = cast(asyncio.Protocol, self._make_protocol())
        self._inner.connection_made(self)
        self._read()

    def _read(self) -> None:
        while not (self._is_paused or self._is_ended or self._inner is None):
            try:
                data = self._tls.read(_PART)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as exc:
                log.debug("TLS connection broken: %s", exc)
                self.abort()
                return
            if data:
                self._inner.data_received(data)
            else:
                self._is_ended = True
                if not self._inner.eof_received():
                    self.close()
        self._flush()

    def _flush(self) -> None:
        if self._out.pending and not self._plain.is_closing():
            self._plain.write(self._out.read())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The transport's side: what the protocol above calls

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not data or self._has_ended or self._plain.is_closing():
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as exc:
            log.debug("TLS connection broken: %s", exc)
            self.abort()
            return
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send close_notify: the peer sees the end, and may go on sending."""
        if self._has_ended or self._plain.is_closing():
            return
        self._has_ended = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the peer has not closed its direction yet; ours is closed all the same
        self._flush()

    def close(self) -> None:
        self.write_eof()
        self._plain.close()

    def abort(self) -> None:
        self._plain.abort()

    def is_closing(self) -> bool:
        return self._plain.is_closing()

    def pause_reading(self) -> None:
        self._is_paused = True
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._plain.resume_reading()
            self._loop.call_soon(self._read)  # what was received already, decrypted only now

    def is_reading(self) -> bool:
        return not self._is_paused and self._plain.is_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner if self._inner is not None else self

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._plain.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._plain.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._context
        if name == "ssl_object":
            return self._tls
        if name == "peercert":
            return self._tls.getpeercert()
        return self._plain.get_extra_info(name, default)
