"""The host's firewall for containers: one nftables table of our own.

The table is rendered whole from the networks there are and replaced in one transaction, so a start puts
right whatever was changed, and there is no moment without rules. Rules are per network, not per container:
starting a container changes none. Its published ports are elements of maps (`port_rules.py`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from wherry.errors import Internal
from wherry.network import foreign, nft, port_rules
from wherry.network.driver import NetworkConfig
from wherry.network.elements import Element, Elements, Lead, elements_of

_log = logging.getLogger(__name__)

_FORWARD = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}
_INTERFACES6 = "/proc/sys/net/ipv6/conf"


class Firewall:
    """Our table, kept in step with the networks that were added."""

    def __init__(
        self,
        table: str,
        *,
        accept: bool = False,
        is_enabled: bool = True,
        has_ipv6: bool = True,
        owns_forwarding: bool = False,
    ) -> None:
        self.table = table
        self._accept = accept
        self._is_enabled = is_enabled
        self._has_ipv6 = has_ipv6
        self._guards = {4} if owns_forwarding else set[int]()
        self._networks: dict[str, NetworkConfig] = {}
        self._lock = asyncio.Lock()
        self._is_batching = False
        self._warnings: list[str] = []
        self._applied: list[dict[str, Any]] = []  # our table as the kernel listed it when it was right
        self._leads: set[Lead] | None = None  # None: those that an earlier daemon left are not read yet
        self._elements: Elements | None = None

    @property
    def port_id(self) -> int:
        """The sender of the changes to our table that need no second look; 0 when there were none."""
        return self._elements.port_id if self._elements is not None else 0

    async def lead(self, leads: Sequence[Lead]) -> None:
        """Let published ports be led to their containers. Those that lead there already go on doing so."""
        async with self._lock:
            if not leads or not self._is_enabled:
                return
            known = self._known_leads()
            known.update(leads)
            try:
                self._opened().add(elements_of(leads))
            except OSError as exc:
                _log.warning(
                    "cannot add published ports to table inet %s, making it anew: %s", self.table, exc
                )
                await self._apply()
            port_rules.let_loopback_out(leads, self._networks.values())

    async def unlead(self, leads: Sequence[Lead]) -> None:
        """Lead these no more. They may be gone already."""
        async with self._lock:
            if not leads or not self._is_enabled:
                return
            known = self._known_leads()
            known.difference_update(leads)
            needed = set(elements_of(known))
            try:
                self._opened().remove([e for e in elements_of(leads) if e not in needed])
            except OSError as exc:
                _log.warning("cannot take ports from table inet %s, making it anew: %s", self.table, exc)
                await self._apply()

    async def lead_only(self, leads: Sequence[Lead]) -> None:
        """At a start: lead these, and nothing that an earlier daemon left besides."""
        stale = self._known_leads().difference(leads)
        await self.unlead(sorted(stale))
        await self.lead(leads)

    def close(self) -> None:
        if self._elements is not None:
            self._elements.close()
            self._elements = None

    def _opened(self) -> Elements:
        if self._elements is None:
            self._elements = Elements(self.table)
        return self._elements

    def _known_leads(self) -> set[Lead]:
        if self._leads is None:
            found = port_rules.elements_in(self._listing()) if self._is_enabled else set[Element]()
            self._leads = port_rules.leads_of(found)
        return self._leads

    def guard_routes(self, version: int) -> None:
        """From the next `add` on, keep the host from routing for others: wherry switched that on, for this family."""
        self._guards.add(version)

    async def add(self, network: NetworkConfig) -> None:
        """Let `network`'s rules be in force. Called again, it puts them right."""
        async with self._lock:
            self._networks[network.id] = network
            await self._apply()

    async def remove(self, network: NetworkConfig) -> None:
        async with self._lock:
            if self._networks.pop(network.id, None) is not None:
                await self._apply()

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[None]:
        """Changes inside come into force together at the end: each costs a whole replacement."""
        self._is_batching = True
        try:
            yield
        finally:
            self._is_batching = False
        async with self._lock:
            await self._apply()

    async def restore(self) -> None:
        """Put our rules back where somebody changed them."""
        async with self._lock:
            if self._networks and self._is_enabled:
                if not await asyncio.to_thread(self._is_right):
                    _log.warning(
                        "somebody changed the rules of table inet %s: putting them right", self.table
                    )
                    await self._apply()
                elif self._accept:
                    await self._settle()

    async def check(self) -> None:
        """Look at other firewalls again; `warnings` has the result."""
        async with self._lock:
            if self._is_enabled:
                await self._settle()

    def warnings(self) -> list[str]:
        """What keeps containers from other hosts, each with the rule to add. As of the last `check`."""
        return list(self._warnings)

    async def remove_all(self) -> None:
        """Take our table and our marked rules away."""
        async with self._lock:
            self._networks.clear()
            await self._apply()
            if self._is_enabled:
                await self._settle()

    async def _apply(self) -> None:
        if self._is_enabled and not self._is_batching:
            await asyncio.to_thread(self._replace)
            if self._accept:
                await self._settle()

    async def _settle(self) -> None:
        bridges = {n.interface for n in self._networks.values() if n.interface and not n.internal}
        try:
            self._warnings = await asyncio.to_thread(
                foreign.settle, self.table, sorted(bridges), accept=self._accept
            )
        except Internal as exc:
            _log.warning("cannot look at the host's other firewall rules: %s", exc)

    def _replace(self) -> None:
        leads = self._known_leads()
        networks = self._networks.values()
        nft.run(render(self.table, networks, guards=self._guards, ipv6=self._has_ipv6, leads=leads))
        port_rules.let_loopback_out(leads, networks)
        self._applied = port_rules.without_leads(self._listing())

    def _is_right(self) -> bool:
        listing = self._listing()
        return port_rules.without_leads(listing) == self._applied and port_rules.elements_in(listing) == set(
            elements_of(self._known_leads())
        )

    def _listing(self) -> list[dict[str, Any]]:
        try:
            return nft.listing(f"list table inet {self.table}")
        except Internal:
            return []  # there is none


def is_forwarding(version: int = 4) -> bool:
    with open(_FORWARD[version], "rb") as file:
        return file.read(1) != b"0"


def enable_forwarding(version: int = 4) -> None:
    """Let the host route between interfaces.

    With IPv6, a host that routes no longer listens to routers itself, and would lose its own default route: where
    it does listen now, it is told to go on (accept_ra 2).
    """
    if version == 6:
        for name in os.listdir(_INTERFACES6):
            _keep_listening(f"{_INTERFACES6}/{name}/accept_ra")
    with open(_FORWARD[version], "wb", buffering=0) as file:
        file.write(b"1")


def _keep_listening(path: str) -> None:
    try:
        with open(path, "r+b", buffering=0) as file:
            if file.read(1) == b"1":
                file.write(b"2")
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENODEV):  # it has gone meanwhile
            raise


def boot_id() -> str:
    """What tells this boot of the machine from others: a reboot forgets the forwarding switch."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


_VIRTUAL = '{ "bridge", "veth", "tun", "wireguard", "vlan", "bond", "macvlan", "ipvlan", "vrf" }'
"""Kinds of interface that somebody made in order to route; hardware has no kind."""

_ROUTE_GUARD = f"""
		# wherry switched this host's forwarding on: from hardware to hardware it still routes nothing
		iifname @bridges accept
		meta iifkind {_VIRTUAL} accept
		meta oifkind {_VIRTUAL} accept
		drop"""


def render(
    table: str,
    networks: Iterable[NetworkConfig],
    *,
    guards: Iterable[int],
    ipv6: bool = True,
    leads: Iterable[Lead] = (),
) -> str:
    """The commands that replace our table by one for `networks`; without networks, that remove it.

    `guards`: for which address families (4, 6) the host is kept from routing for others. Without `ipv6` there
    are no rules for it: all of it passes.
    """
    networks = list(networks)
    ours = [n for n in networks if n.interface and n.pools]
    clear = (
        f"table inet {table}\ndelete table inet {table}\n"  # the first line so that the second cannot fail
    )
    if not ours:
        return clear
    bridges = [f'"{n.interface}"' for n in ours]
    closed = [f'"{n.interface}"' for n in ours if not n.icc]
    internal = [f'"{n.interface}"' for n in ours if n.internal]
    guard = "".join(f"\n\t\tmeta nfproto ipv{version} jump routed" for version in sorted(guards))
    passes6 = "" if ipv6 else "\n\t\tmeta nfproto ipv6 accept"
    routed = f"\n\tchain routed {{{_ROUTE_GUARD}\n\t}}\n" if guard else ""
    return f"""{clear}table inet {table} {{
	comment "made and kept right by wherryd: changes here are lost"

	set bridges {{ type ifname; {_elements(bridges)}}}
	set closed {{ type ifname; {_elements(closed)}}}
	set internal {{ type ifname; {_elements(internal)}}}
{_sets(ours, 4)}{_sets(ours if ipv6 else [], 6)}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		# a container's own address is for its bridge and this host: other machines use published ports
		iifname != "lo" ip daddr @guarded ip daddr . iifname != @homes fib daddr type != local drop
		iifname != "lo" ip6 daddr @guarded6 ip6 daddr . iifname != @homes6 fib daddr type != local drop
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;{passes6}
		oifname @bridges jump inward
		iifname @internal drop{guard}
	}}
{routed}
	chain inward {{
		ct state established,related accept
		# where the kernel shows bridged packets here (br_netfilter): neighbours find each other
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		ct status dnat oifname != @internal accept
		ip daddr . iifname @homes jump within
		ip6 daddr . iifname @homes6 jump within
		ip daddr @unprotected accept
		ip6 daddr @unprotected6 accept
		drop
	}}

	chain within {{
		iifname @closed drop
		accept
	}}

	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @masqueraded ip saddr . oifname != @homes masquerade
		ip6 saddr @masqueraded6 ip6 saddr . oifname != @homes6 masquerade
	}}
{port_rules.render(networks, leads)}}}
"""


def _sets(networks: list[NetworkConfig], version: int) -> str:
    """What is per address family; the sets of IPv6 have a 6 at the end of their names."""
    six = version == 6
    suffix = "6" if six else ""
    homes: list[str] = []
    guarded: list[str] = []
    masqueraded: list[str] = []
    unprotected: list[str] = []
    for network in networks:
        subnets = [pool.subnet for pool in network.pools if pool.is_ipv6 == six]
        mode = network.gateway_mode6 if six else network.gateway_mode
        homes += [f'{subnet} . "{network.interface}"' for subnet in subnets]
        # Where addresses are not translated, answers come to the container's own: the forward chain tells
        # them apart.
        if network.masquerades(ipv6=six):
            masqueraded += subnets
        if (network.masquerades(ipv6=six) and mode != "nat-unprotected") or network.internal:
            guarded += subnets
        if mode == "nat-unprotected" and not network.internal:
            unprotected += subnets
    kind = f"ipv{version}_addr"
    return f"""	set guarded{suffix} {{ type {kind}; flags interval; {_elements(guarded)}}}
	set homes{suffix} {{ type {kind} . ifname; flags interval; {_elements(homes)}}}
	set masqueraded{suffix} {{ type {kind}; flags interval; {_elements(masqueraded)}}}
	set unprotected{suffix} {{ type {kind}; flags interval; {_elements(unprotected)}}}
"""


def _elements(items: list[str]) -> str:
    return f"elements = {{ {', '.join(items)} }} " if items else ""
