"""The part of our nftables table that leads published ports to their containers.

    other host ─► raw: guard ─► dstnat: published? ─► forward: translated? ─► srcnat: hairpin? ─► container
    this host  ─────────────► output: published? ──────────────────────────► srcnat: from 127/8? ─► container

A port is one element of a map, its key the address, protocol and port on the host, its value the container's.
What arrives at an address of the host is looked up, first with its address, then for any address.

127.0.0.1 takes a route that the kernel forbids otherwise: out of a bridge, before the source is translated. The
switch for it (route_localnet) also lets packets *in* by that bridge that are for 127.0.0.0/8, so the guard drops them,
and nothing that arrives from outside is led by an element for 127.0.0.0/8. `[::1]` has no such switch: the shim
relays it.

The shim relays, too, what a container sends to its own port by the host's address, and what comes from a network whose
containers do not see each other (`closed`). Where the kernel shows bridged packets to these chains (br_netfilter), a
packet that is translated back to its own bridge stays bridged, and a bridge sends nothing back to where it came from.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import Any

from wherry.network.driver import NetworkConfig
from wherry.network.elements import Element, Lead, elements_of

_log = logging.getLogger(__name__)

MAPS = {
    "ports4": "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    "any4": "inet_proto . inet_service : ipv4_addr . inet_service",
    "ports6": "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
    "any6": "inet_proto . inet_service : ipv6_addr . inet_service",
    "selves4": "ipv4_addr . inet_proto . inet_service",
    "selves6": "ipv6_addr . inet_proto . inet_service",
}
"""Our maps, and sets, by what they hold."""


def render(networks: Iterable[NetworkConfig], leads: Iterable[Lead]) -> str:
    """Maps and chains, for the inside of our table. The set `bridges` is the table's own."""
    by_map: dict[str, list[str]] = {name: [] for name in MAPS}
    for element in elements_of(sorted(leads)):
        by_map[element.map].append(element.text)
    homes: dict[bool, list[str]] = {False: [], True: []}
    for network in networks:
        for pool in network.pools if network.interface else ():
            homes[pool.is_ipv6].append(f'{pool.subnet} . "{network.interface}"')
    maps = "".join(
        f"\t{'map' if ' : ' in kind else 'set'} {name} {{ type {kind}; {_elements(by_map[name])}}}\n"
        for name, kind in MAPS.items()
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
		iifname @closed return
		ip saddr . meta l4proto . th dport @selves4 return
		ip6 saddr . meta l4proto . th dport @selves6 return
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


def elements_in(listing: Iterable[dict[str, Any]]) -> set[Element]:
    """The elements of our maps and sets, of a table as nft lists it."""
    found: set[Element] = set()
    for item in listing:
        for kind in ("map", "set"):
            holder = item.get(kind)
            if holder is None or holder["name"] not in MAPS:
                continue
            for entry in holder.get("elem", ()):
                key, data = entry if kind == "map" else (entry, None)
                found.add(
                    Element(
                        map=holder["name"],
                        key=tuple(key["concat"]),
                        data=tuple(data["concat"]) if data is not None else (),
                    )
                )
    return found


def leads_of(elements: Iterable[Element]) -> set[Lead]:
    """What `elements` lead."""
    found: set[Lead] = set()
    for element in elements:
        if element.data:
            address = str(element.key[0]) if len(element.key) == 3 else ""
            protocol, port = element.key[-2:]
            to_address, to_port = element.data
            found.add(
                Lead(
                    address=address,
                    protocol=str(protocol),
                    port=int(port),
                    to_address=str(to_address),
                    to_port=int(to_port),
                )
            )
    return found


def without_leads(listing: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The listing of a table, whatever ports are published."""
    bare: list[dict[str, Any]] = []
    for item in listing:
        for kind in ("map", "set"):
            holder = item.get(kind)
            if holder is not None and holder["name"] in MAPS:
                item = {kind: {key: value for key, value in holder.items() if key != "elem"}}
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
