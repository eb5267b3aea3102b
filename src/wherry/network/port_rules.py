"""The part of our nftables table that leads published ports to their containers.

    other host ─► raw: guard ─► dstnat: published? ─► forward: translated? ─► srcnat: hairpin? ─► container
    this host  ─────────────► output: published? ──────────────────────────► srcnat: from 127/8? ─► container

A port is one element of a map, its key the address, protocol and port on the host, its value the container's.
What arrives at an address of the host is looked up, first with its address, then for any address.

127.0.0.1 takes a route that the kernel forbids otherwise: out of a bridge, before the source is translated. The
switch for it (route_localnet) also lets packets *in* by that bridge that are for 127.0.0.0/8, so the guard drops them,
and nothing that arrives from outside is led by an element for 127.0.0.0/8. `[::1]` has no such switch: the shim
relays it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import Any, cast

from wherry.network.driver import NetworkConfig
from wherry.network.elements import Lead

_log = logging.getLogger(__name__)

MAPS = {
    "ports4": "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    "any4": "inet_proto . inet_service : ipv4_addr . inet_service",
    "ports6": "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
    "any6": "inet_proto . inet_service : ipv6_addr . inet_service",
}


def render(networks: Iterable[NetworkConfig], leads: Iterable[Lead]) -> str:
    """Maps and chains, for the inside of our table. The set `bridges` is the table's own."""
    by_map: dict[str, list[str]] = {name: [] for name in MAPS}
    for lead in sorted(leads):
        by_map[lead.map].append(lead.text)
    homes: dict[bool, list[str]] = {False: [], True: []}
    for network in networks:
        for pool in network.pools if network.interface else ():
            homes[pool.is_ipv6].append(f'{pool.subnet} . "{network.interface}"')
    maps = "".join(
        f"\tmap {name} {{ type {kind}; {_elements(by_map[name])}}}\n" for name, kind in MAPS.items()
    )
    return f"""
{maps}	set hairpins4 {{ type ipv4_addr . ifname; flags interval; {_elements(homes[False])}}}
	set hairpins6 {{ type ipv6_addr . ifname; flags interval; {_elements(homes[True])}}}

	chain loopback_guard {{
		type filter hook prerouting priority raw; policy accept;
		# 127.0.0.0/8 is this host's own, though its bridges may carry it outwards
		iifname @bridges ip daddr 127.0.0.0/8 drop
		iifname @bridges ip saddr 127.0.0.0/8 drop
	}}

	chain published {{
		dnat ip to ip daddr . meta l4proto . th dport map @ports4
		dnat ip to meta l4proto . th dport map @any4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
		dnat ip6 to meta l4proto . th dport map @any6
	}}

	chain ports_in {{
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 127.0.0.0/8 return
		fib daddr type local meta l4proto {{ tcp, udp, sctp }} goto published
	}}

	chain ports_out {{
		type nat hook output priority -100; policy accept;
		ip6 daddr ::1 return
		fib daddr type local meta l4proto {{ tcp, udp, sctp }} goto published
	}}

	chain hairpin {{
		type nat hook postrouting priority srcnat - 1; policy accept;
		ct status dnat ip saddr 127.0.0.0/8 oifname @bridges masquerade
		# a container that reaches its own network by the host's address must get its answer from there
		ct status dnat ip saddr . oifname @hairpins4 masquerade
		ct status dnat ip6 saddr . oifname @hairpins6 masquerade
	}}
"""


def leads_in(listing: Iterable[dict[str, Any]]) -> set[Lead]:
    """The elements of our maps, of a table as nft lists it."""
    found: set[Lead] = set()
    for item in listing:
        table_map = item.get("map")
        if table_map is None or table_map["name"] not in MAPS:
            continue
        for key, value in table_map.get("elem", ()):
            parts, target = cast("list[Any]", key["concat"]), cast("list[Any]", value["concat"])
            found.add(
                Lead(
                    address=str(parts[0]) if len(parts) == 3 else "",
                    protocol=str(parts[-2]),
                    port=int(parts[-1]),
                    to_address=str(target[0]),
                    to_port=int(target[1]),
                )
            )
    return found


def without_leads(listing: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The listing of a table, whatever ports are published."""
    bare: list[dict[str, Any]] = []
    for item in listing:
        table_map = item.get("map")
        if table_map is not None and table_map["name"] in MAPS:
            item = {"map": {key: value for key, value in table_map.items() if key != "elem"}}
        bare.append(item)
    return bare


def let_loopback_out(leads: Iterable[Lead], networks: Iterable[NetworkConfig]) -> None:
    """Let 127.0.0.1 be led out of the bridges that a port of it is published on, now that the guard stands."""
    targets = {
        ipaddress.ip_address(lead.to_address)
        for lead in leads
        if ":" not in lead.to_address and (not lead.address or lead.address.startswith("127."))
    }
    for network in networks if targets else ():
        pool = network.ipv4
        if network.interface and pool and any(t in ipaddress.ip_network(pool.subnet) for t in targets):
            try:
                with open(
                    f"/proc/sys/net/ipv4/conf/{network.interface}/route_localnet", "wb", buffering=0
                ) as file:
                    file.write(b"1")
            except OSError as exc:
                _log.warning("ports published on %s are not reached by 127.0.0.1: %s", network.interface, exc)


def _elements(items: list[str]) -> str:
    return f"elements = {{ {', '.join(items)} }} " if items else ""
