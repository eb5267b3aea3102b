"""Copying between two connections in the daemon: only where a socket cannot be handed on, which is TLS."""

from __future__ import annotations

import asyncio
from typing import cast


class Relay(asyncio.Protocol):
    """One side of a pair: what it receives goes to the other side, no faster than that one takes it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._other: Relay | None = None

    def join(self, other: Relay) -> None:
        """Begin copying both ways."""
        self._other, other._other = other, self
        for side in (self, other):
            if side._transport is None or side._transport.is_closing():
                side.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on, and keep the other direction open where the transport can (TLS cannot)."""
        other = self._other._transport if self._other is not None else None
        if other is not None and other.can_write_eof() and not other.is_closing():
            other.write_eof()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()

    def pause_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.resume_reading()
