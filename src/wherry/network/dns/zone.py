"""Who is called what, network by network: what the name service answers from.

The engine says who joins and leaves. Names are lower case (`messages.py` says how they are written); the first one
of a member is the container's own, and what an address is called.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container on one network. Made by `member`."""

    container_id: str
    names: tuple[bytes, ...]
    addresses: tuple[bytes, ...]  # of 4 and of 16 bytes


def member(container_id: str, names: Iterable[str], addresses: Iterable[str]) -> Member:
    """`names`: the container's, then its other ones on this network. Empty addresses are left out."""
    return Member(
        container_id=container_id,
        names=tuple(dict.fromkeys(fold(name) for name in names if name)),
        addresses=tuple(ipaddress.ip_address(address).packed for address in addresses if address),
    )


def fold(name: str) -> bytes:
    """A name as the zone keeps it."""
    return name.encode(errors="replace").lower().rstrip(b".")


class _Network:
    def __init__(self, name: bytes) -> None:
        self.name = name
        self.members: dict[str, Member] = {}
        self.by_name: dict[bytes, list[Member]] = {}
        self.by_address: dict[bytes, Member] = {}


class Zone:
    """The names of every network. Networks are named by their id."""

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}

    def join(self, network_id: str, network_name: str, who: Member) -> None:
        """From now on `who` is found on the network; what was known of that container there is forgotten."""
        self.leave(network_id, who.container_id)
        network = self._networks.get(network_id)
        if network is None:
            network = self._networks[network_id] = _Network(fold(network_name))
        network.members[who.container_id] = who
        for name in who.names:
            network.by_name.setdefault(name, []).append(who)
        for address in who.addresses:
            network.by_address[address] = who

    def leave(self, network_id: str, container_id: str) -> None:
        """The container is no longer found on the network. It need not have been."""
        network = self._networks.get(network_id)
        who = network.members.pop(container_id, None) if network is not None else None
        if network is None or who is None:
            return
        for name in who.names:
            others = network.by_name[name]
            others.remove(who)
            if not others:
                del network.by_name[name]
        for address in who.addresses:
            if network.by_address.get(address) is who:
                del network.by_address[address]
        if not network.members:
            del self._networks[network_id]

    def networks_of(self, container_id: str) -> list[str]:
        return [key for key, network in self._networks.items() if container_id in network.members]

    def find(
        self,
        networks: Sequence[str],
        name: bytes,
        size: int,
        links: Mapping[str, Mapping[bytes, bytes]] | None = None,
    ) -> list[bytes] | None:
        """The addresses of `size` bytes that `name` has for who is on `networks`, which are asked in order.

        None when nobody is called so; an empty list when somebody is who has no such address. `a.b.c` is first
        looked for as such, then as `a.b` on a network called `c`, then as `a` on `b.c`. `links`: by network, the
        names that only the asker uses, and what they stand for.
        """
        is_known = False
        known = [(key, found) for key in networks if (found := self._networks.get(key)) is not None]
        for wanted, suffix in _readings(name):
            for key, network in known:
                if suffix and network.name != suffix:
                    continue
                meant = links[key].get(wanted, wanted) if links and key in links else wanted
                members = network.by_name.get(meant)
                if members is None:
                    continue
                is_known = True
                found = [a for who in members for a in who.addresses if len(a) == size]
                if found:
                    return found
            if is_known:
                return []
        return None

    def name_of(self, networks: Sequence[str], address: bytes) -> bytes | None:
        """What an address is called for who is on `networks`: `container.network`."""
        for key in networks:
            network = self._networks.get(key)
            who = network.by_address.get(address) if network is not None else None
            if network is not None and who is not None and who.names:
                return who.names[0] + b"." + network.name
        return None


def _readings(name: bytes) -> Iterable[tuple[bytes, bytes]]:
    """The ways to take a name apart into a container's and a network's."""
    yield name, b""
    at = name.rfind(b".")
    while at > 0:
        yield name[:at], name[at + 1 :]
        at = name.rfind(b".", 0, at)
