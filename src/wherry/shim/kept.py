"""Descriptors that the shim holds for the daemon by name: they outlive it, and end with the container.

A held socket with a target is relayed to it (`relay.py`); any other is only held. Whoever has the names knows what
there is, so a new daemon asks for them (`state`) and, where it needs one, for the descriptor itself (`fds`).
"""

from __future__ import annotations

import os

from wherry.shim.protocol import CONFLICT, INVALID, Refused
from wherry.shim.relay import relay_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.shim.loop import Loop
    from wherry.shim.relay import Target, TcpRelay, UdpRelay

MAX_NAME = 200


class Kept:
    """All that one shim holds."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._held: dict[str, int] = {}
        self._relays: dict[str, TcpRelay | UdpRelay] = {}

    def add(self, names: list[str], fds: list[int], relay: dict[str, Any]) -> None:
        """Hold `fds`, which are taken from the list, by `names`, and relay by `relay`: all of it or nothing."""
        targets = {name: _target(value) for name, value in relay.items()}
        for name in names:
            if not 0 < len(name) <= MAX_NAME:
                raise Refused(INVALID, f"invalid name {name[:MAX_NAME]!r}: use 1-{MAX_NAME} characters")
            if names.count(name) > 1 or name in self._held or name in self._relays:
                raise Refused(CONFLICT, f"{name} is kept already")
        if len(names) != len(fds):
            raise Refused(INVALID, f"{len(fds)} descriptors came for {len(names)} names")
        for name in targets:
            if name not in names and name not in self._relays:
                raise Refused(INVALID, f"{name!r} is not a socket that can be relayed")
        for name in names:
            fd = fds.pop(0)
            made = relay_for(self._loop, fd, targets[name]) if name in targets else None
            if made is None:
                self._held[name] = fd
            else:
                self._relays[name] = made
        for name, target in targets.items():
            if name in self._relays:
                self._relays[name].target = target

    def drop(self, names: list[str]) -> None:
        for name in names:
            relay, fd = self._relays.pop(name, None), self._held.pop(name, -1)
            if relay is not None:
                relay.close()
            if fd >= 0:
                os.close(fd)

    def find(self, name: str) -> int:
        """The descriptor, still ours; -1 when there is none."""
        relay = self._relays.get(name)
        return relay.fileno() if relay is not None else self._held.get(name, -1)

    def names(self) -> list[str]:
        return [*self._held, *self._relays]

    @property
    def descriptors(self) -> int:
        """How many are open for all of it."""
        return len(self._held) + sum(relay.descriptors for relay in self._relays.values())

    def close(self) -> None:
        self.drop(self.names())


def _target(value: Any) -> Target | None:
    if value is None:
        return None
    address, port = value
    if not isinstance(address, str) or type(port) is not int or not 0 < port < 65536:
        raise Refused(INVALID, f"invalid target {value!r}: use an address and a port")
    return address, port
