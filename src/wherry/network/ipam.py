"""Which addresses of a subnet are free. Like Docker: the lowest free one is next, save those that rest.

The truth is the `endpoint` table, whose UNIQUE (network_id, address) makes a double allocation impossible;
this is its image in memory, filled from it at start.
"""

from __future__ import annotations

import heapq
import ipaddress
import secrets
from collections import deque
from collections.abc import Iterable

from wherry.errors import Forbidden, InvalidParameter
from wherry.network.driver import AddressPool
from wherry.network.links import IPInterface


class Addresses:
    """The addresses of one pool. `taken` are in use already; gateway and auxiliary addresses are never given out.

    `network` is what a message calls it.
    """

    def __init__(self, pool: AddressPool, taken: Iterable[str] = (), *, network: str = "") -> None:
        self._subnet = ipaddress.ip_network(pool.subnet)
        self.prefix_length = self._subnet.prefixlen
        source = ipaddress.ip_network(pool.ip_range or pool.subnet)
        self._shown = network or pool.subnet
        reserved = [pool.gateway, *pool.auxiliary.values()]
        self._reserved = {int(ipaddress.ip_address(address)) for address in reserved if address}
        self._reserved.add(int(self._subnet.network_address))
        if self._subnet.version == 4 and self._subnet.prefixlen < 31:
            self._reserved.add(int(self._subnet.broadcast_address))
        self._taken = {int(ipaddress.ip_address(address)) for address in taken}
        self._first = int(source.network_address)
        self._end = int(source.broadcast_address) + 1
        self._freed: list[int] = []  # a heap: free and below `_next`; may hold what was taken again
        self._next = self._first
        self._rested: deque[int] = deque()  # free, and given out only when nothing else is left

    def holds(self, address: str) -> bool:
        """Whether `address` is one of this subnet."""
        return ipaddress.ip_address(address) in self._subnet

    def take(self, wanted: str = "") -> str:
        """`wanted`, or the lowest free address; from now on taken."""
        if wanted:
            return self._take_this(wanted)
        while self._freed:
            candidate = heapq.heappop(self._freed)
            if candidate not in self._taken:
                return self._mark(candidate)
        while self._next < self._end:
            candidate = self._next
            self._next += 1
            if candidate not in self._reserved and candidate not in self._taken:
                return self._mark(candidate)
        while self._rested:
            candidate = self._rested.popleft()
            if candidate not in self._taken:
                return self._mark(candidate)
        # Docker's text.
        raise Forbidden(
            f"no available IPv{self._subnet.version} addresses on this network's address pools: {self._shown}"
        )

    def release(self, address: str, *, rest: bool = False) -> None:
        """`address` is free again; to `rest` it is to come last. Nothing happens when it was not taken."""
        number = int(ipaddress.ip_address(address))
        if number in self._taken:
            self._taken.remove(number)
            if not self._first <= number < self._end:
                return  # somebody had asked for it, outside the range that is given out
            if rest:
                self._rested.append(number)
            elif number < self._next:
                heapq.heappush(self._freed, number)

    def _take_this(self, wanted: str) -> str:
        address = ipaddress.ip_address(wanted)
        if address not in self._subnet:
            raise InvalidParameter("requested address is out of range")  # Docker's text
        if int(address) in self._taken or int(address) in self._reserved:
            raise Forbidden("Address already in use")  # Docker's text
        return self._mark(int(address))

    def _mark(self, number: int) -> str:
        self._taken.add(number)
        kind = ipaddress.IPv4Address if self._subnet.version == 4 else ipaddress.IPv6Address
        return str(kind(number))


def mac_for(address: str) -> str:
    """The MAC address Docker gives an IPv4 address: 02:42 and its four bytes; without one, 02:42 and chance."""
    last = ipaddress.IPv4Address(address).packed if address else secrets.token_bytes(4)
    return f"02:42:{last.hex(':')}"


def parse_bridge_address(text: str, *, ipv6: bool = False) -> IPInterface:
    """`--bip` and `--bip6`: an address with its prefix, such as 172.18.0.1/16."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as exc:
        raise InvalidParameter(f"invalid CIDR address: {text}") from exc  # Docker's text
    if "/" not in text:
        raise InvalidParameter(f"invalid CIDR address: {text}")
    if interface.version != (6 if ipv6 else 4):
        raise InvalidParameter(
            f"invalid bridge address {text}: an IPv{6 if ipv6 else 4} address is needed here"
        )
    if interface.network.prefixlen > interface.max_prefixlen - 2:
        raise InvalidParameter(
            f"invalid bridge address {text}: a subnet of /{interface.max_prefixlen - 2} or larger is needed"
        )
    ends = [interface.network.network_address]
    if interface.version == 4:
        ends.append(interface.network.broadcast_address)
    if interface.ip in ends:
        raise InvalidParameter(f"invalid bridge address {text}: it is the subnet's own or broadcast address")
    return interface
