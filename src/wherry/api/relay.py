"""Copying between two connections in the daemon: only where a socket cannot be handed on, which is TLS."""

from __future__ import annotations

import asyncio
from typing import cast


class Relay(asyncio.Protocol):
    """One side of a pair: what it receives goes to the other side, no faster than that one takes it.

    The client's end of input is passed on and output goes on; the engine's end is the end of the connection.
    """

    def __init__(self, *, is_engine: bool) -> None:
        self._is_engine = is_engine
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
        other = self._other_transport()
        if other is not None:
            other.write(data)

    def eof_received(self) -> bool:
        other = self._other_transport()
        if self._is_engine or other is None:
            return False
        if other.can_write_eof() and not other.is_closing():
            other.write_eof()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        other = self._other_transport()
        if other is not None:
            other.close()

    def pause_writing(self) -> None:
        other = self._other_transport()
        if other is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        other = self._other_transport()
        if other is not None:
            other.resume_reading()

    def _other_transport(self) -> asyncio.Transport | None:
        return self._other._transport if self._other is not None else None
