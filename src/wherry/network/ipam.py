"""Which addresses of a subnet are free. Like Docker: the lowest free one is next, save those that rest.

The truth is the `endpoint` table, whose UNIQUE (network_id, address) makes a double allocation impossible;
this is its image in memory, filled from it at start.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections import deque
from collections.abc import Iterable, Sequence

from wherry.errors import Forbidden, InvalidParameter

# Docker's own default pools, in its order.
DEFAULT_POOLS = (
    *(f"172.{second}.0.0/16" for second in range(17, 32)),
    *(f"192.168.{third}.0/20" for third in range(0, 256, 16)),
)


class Addresses:
    """The addresses of one network. `taken` are in use already; `gateway` is never given out."""

    def __init__(self, subnet: str, gateway: str, taken: Iterable[str] = ()) -> None:
        network = ipaddress.IPv4Network(subnet)
        self.prefix_length = network.prefixlen
        self._subnet = subnet
        self._first = int(network.network_address) + 1
        self._end = int(network.broadcast_address)  # not given out either
        self._gateway = int(ipaddress.IPv4Address(gateway))
        self._taken = {int(ipaddress.IPv4Address(address)) for address in taken}
        self._freed: list[int] = []  # a heap: free and below `_next`; may hold what was taken again
        self._next = self._first
        self._rested: deque[int] = deque()  # free, and given out only when nothing else is left

    def take(self) -> str:
        """The lowest free address, from now on taken."""
        while self._freed:
            candidate = heapq.heappop(self._freed)
            if candidate not in self._taken:
                return self._mark(candidate)
        while self._next < self._end:
            candidate = self._next
            self._next += 1
            if candidate != self._gateway and candidate not in self._taken:
                return self._mark(candidate)
        while self._rested:
            candidate = self._rested.popleft()
            if candidate not in self._taken:
                return self._mark(candidate)
        # Docker's text.
        raise Forbidden(f"no available IPv4 addresses on this network's address pools: {self._subnet}")

    def release(self, address: str, *, rest: bool = False) -> None:
        """`address` is free again; to `rest` it is to come last. Nothing happens when it was not taken."""
        number = int(ipaddress.IPv4Address(address))
        if number in self._taken:
            self._taken.remove(number)
            if rest:
                self._rested.append(number)
            elif self._first <= number < self._next:
                heapq.heappush(self._freed, number)

    def _mark(self, number: int) -> str:
        self._taken.add(number)
        return str(ipaddress.IPv4Address(number))


def mac_for(address: str) -> str:
    """The MAC address Docker gives an address: 02:42 and its four bytes."""
    return f"02:42:{ipaddress.IPv4Address(address).packed.hex(':')}"


def choose_subnet(pools: Sequence[str], used: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first of `pools` that overlaps nothing of `used`."""
    used = list(used)
    for pool in pools:
        network = ipaddress.IPv4Network(pool)
        if not any(network.overlaps(other) for other in used):
            return network
    # Docker's text.
    raise Forbidden(
        "could not find an available, non-overlapping IPv4 address pool among the defaults "
        "to assign to the network"
    )


def parse_bridge_address(text: str) -> ipaddress.IPv4Interface:
    """`--bip`: an address with its prefix, such as 172.18.0.1/16."""
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError as exc:
        raise InvalidParameter(f"invalid CIDR address: {text}") from exc  # Docker's text
    if "/" not in text:
        raise InvalidParameter(f"invalid CIDR address: {text}")
    if interface.network.prefixlen > 30:
        raise InvalidParameter(f"invalid bridge address {text}: a subnet of /30 or larger is needed")
    if interface.ip in (interface.network.network_address, interface.network.broadcast_address):
        raise InvalidParameter(f"invalid bridge address {text}: it is the subnet's own or broadcast address")
    return interface
