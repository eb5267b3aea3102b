"""Those who are connected to a process of ours: their requests are answered in order, and events go to all.

The launcher and every shim are served by this; what a request does is the operation's own business.
"""

from __future__ import annotations

import socket

from wherry.errors import InvalidParameter
from wherry.runtime.errors import StartFailed
from wherry.shim.loop import HANGUP, READ, WRITE, Loop
from wherry.shim.protocol import INTERNAL, INVALID, Channel, ProtocolError, Refused, close_all
from wherry.shim.reports import report, whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Message = dict[str, Any]
    Reply = tuple[Message, list[int]]
    Operation = Callable[[Message, list[int]], Reply]


class Peers:
    """The connections of one listening socket, and those that are given to `add`.

    `operations` carry out a request, by its `op`. One takes the descriptors that it wants to keep out of the list,
    and the others are closed. `lost` is called after each connection that ends.
    """

    def __init__(
        self,
        name: str,
        loop: Loop,
        listener: socket.socket,
        *,
        limit: int,
        operations: Mapping[str, Operation],
        lost: Callable[[], None],
    ) -> None:
        self._name = name  # for reports
        self._loop = loop
        self._listener = listener
        self._limit = limit
        self._operations = operations
        self._lost = lost
        self._channels: list[Channel] = []
        loop.watch(listener.fileno(), READ, self._on_connection)

    def __len__(self) -> int:
        return len(self._channels)

    def add(self, sock: socket.socket) -> None:
        channel = Channel(sock)
        self._channels.append(channel)
        self._wait_for(channel)

    def tell(self, event: str, **fields: object) -> None:
        """Send an event to all."""
        for channel in list(self._channels):
            self._send(channel, {"event": event, **fields}, [])

    def abandon(self) -> None:
        """In a forked child: let go of every connection without ending it."""
        self._listener.close()
        for channel in self._channels:
            channel.close()

    def _on_connection(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        if len(self._channels) >= self._limit:
            sock.close()
            return
        self.add(sock)

    def _on_channel(self, channel: Channel, bits: int) -> None:
        try:
            if bits & WRITE:
                channel.flush()
            messages = channel.receive() if bits & (READ | HANGUP) else []
        except (OSError, ProtocolError) as exc:
            report(f"{self._name}: connection ended: {exc}")
            messages = None
        if messages is None:
            self._drop(channel)
            return
        for request, fds in messages:
            reply, out = self._answer(request, fds)
            self._send(channel, {**reply, "seq": request.get("seq")}, out)
        self._wait_for(channel)

    def _wait_for(self, channel: Channel) -> None:
        if not channel.closed:
            mask = READ | WRITE if channel.wants_write else READ
            self._loop.watch(channel.fileno(), mask, lambda bits: self._on_channel(channel, bits))

    def _send(self, channel: Channel, message: Message, fds: list[int]) -> None:
        try:
            channel.send(message, fds)
        except (OSError, ProtocolError) as exc:
            report(f"{self._name}: connection ended: {exc}")
            self._drop(channel)
        else:
            self._wait_for(channel)

    def _drop(self, channel: Channel) -> None:
        if channel in self._channels:
            self._channels.remove(channel)
            self._loop.forget(channel.fileno())
            channel.close()
            self._lost()

    def _answer(self, request: Message, fds: list[int]) -> Reply:
        name = request.get("op", "")
        try:
            operation = self._operations.get(name)
            if operation is None:
                raise Refused(INVALID, f"unknown operation {name!r}")
            return operation(request, fds)
        except Refused as exc:
            return _error(exc.kind, str(exc))
        except StartFailed as exc:
            return _error(exc.kind, exc.message)
        except InvalidParameter as exc:
            return _error(INVALID, str(exc))
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            return _error(INVALID, f"{name}: {type(exc).__name__}: {exc}")
        except Exception as exc:
            # Whatever it is, everything else goes on.
            if not isinstance(exc, OSError):
                report(f"{self._name}: {name}: {whereabouts(exc)}")
            return _error(INTERNAL, f"{name}: {exc}")
        finally:
            close_all(fds)


def _error(kind: str, message: str) -> Reply:
    return {"error": {"kind": kind, "message": message}}, []
