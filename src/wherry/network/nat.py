"""The host's firewall for containers: one nftables table of our own, and a look at everybody else's.

The table is rendered whole from the networks there are and replaced in one transaction, so a start puts
right whatever was changed, and there is no moment without rules. Everything is per network, not per
container: starting a container changes no rule.

Other tables are read, never changed, but for the two marked rules that `--firewall-accept` asks for. An
`accept` of ours cannot overrule a `drop` of theirs, so a foreign drop on the way is reported with the rule
that would help.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from wherry.errors import Internal
from wherry.network.driver import NetworkConfig
from wherry.network.nft import Nft, open_nft

_log = logging.getLogger(__name__)

_IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"
_LEGACY_TABLES = "/proc/net/ip_tables_names"
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")

OUR_PREFIX = "wherry"
"""Every wherry's table has a name that begins so, several daemons' side by side."""


class ForeignDrop(msgspec.Struct, frozen=True):
    """Somebody else's base chain that drops what containers forward."""

    family: str
    table: str
    chain: str
    target: str  # the chain where an accept belongs: DOCKER-USER where that is, else the chain itself


class Firewall:
    """Our table, kept in step with the networks that were added."""

    def __init__(
        self, table: str, *, accept: bool = False, is_enabled: bool = True, owns_forwarding: bool
    ) -> None:
        self.table = table
        self._accept = accept
        self._is_enabled = is_enabled
        self._guards_routes = owns_forwarding
        self._nft: Nft | None = None
        self._networks: dict[str, NetworkConfig] = {}
        self._lock = asyncio.Lock()
        self._warnings: list[str] = []
        self._applied: list[dict[str, Any]] = []  # our table as the kernel listed it when it was right

    async def add(self, network: NetworkConfig) -> None:
        """Let `network`'s rules be in force. Called again, it puts them right."""
        async with self._lock:
            self._networks[network.id] = network
            await self._apply()

    async def remove(self, network: NetworkConfig) -> None:
        async with self._lock:
            if self._networks.pop(network.id, None) is not None:
                await self._apply()

    async def restore(self) -> None:
        """Put our rules back where somebody changed them."""
        async with self._lock:
            if self._networks and self._is_enabled and await asyncio.to_thread(self._is_changed):
                _log.warning("somebody changed the rules of table inet %s: putting them right", self.table)
                await self._apply()
            elif self._accept:
                await asyncio.to_thread(self._check)

    async def check(self) -> None:
        """Look at other firewalls again; `warnings` has the result."""
        async with self._lock:
            if self._is_enabled:
                await asyncio.to_thread(self._check)

    def warnings(self) -> list[str]:
        """What keeps containers from other hosts, each with the rule to add. As of the last `check`."""
        return list(self._warnings)

    async def remove_all(self) -> None:
        """Take our table and our marked rules away."""
        async with self._lock:
            self._networks.clear()
            await self._apply()

    async def _apply(self) -> None:
        if self._is_enabled:
            await asyncio.to_thread(self._replace)
            await asyncio.to_thread(self._check)

    def _replace(self) -> None:
        networks = list(self._networks.values())
        self._open().run(render(self.table, networks, guards_routes=self._guards_routes))
        self._applied = self._listing()

    def _is_changed(self) -> bool:
        return self._listing() != self._applied

    def _listing(self) -> list[dict[str, Any]]:
        try:
            return self._open().listing(f"list table inet {self.table}\n")
        except Internal:
            return []  # there is none

    def _check(self) -> None:
        nft = self._open()
        bridges = sorted({n.interface for n in self._networks.values() if n.interface and not n.internal})
        self._warnings = []
        try:
            drops = _foreign_drops(nft, self.table)
            marked = [rule for drop in drops for rule in _marked_rules(nft, drop, self.table)]
            for family, table, chain, handle, bridge in marked:
                if not self._accept or bridge not in bridges:
                    nft.run(f"delete rule {family} {table} {chain} handle {handle}\n")
            for drop in drops:
                for bridge in bridges:
                    self._settle(nft, drop, bridge)
        except Internal as exc:
            _log.warning("cannot look at the host's other firewall rules: %s", exc)
        if bridges and _has_legacy_filter():
            self._warnings.append(
                "the host has rules of iptables-legacy, which wherry cannot read: "
                "if its FORWARD chain drops, add "
                f"iptables-legacy -I FORWARD -i {bridges[0]} -j ACCEPT and "
                f"iptables-legacy -I FORWARD -o {bridges[0]} -j ACCEPT"
            )

    def _settle(self, nft: Nft, drop: ForeignDrop, bridge: str) -> None:
        missing = [way for way in ("iifname", "oifname") if not _accepts(nft, drop, way, bridge)]
        if not missing:
            return
        place = f"{drop.family} {drop.table} {drop.target}"
        if self._accept:
            mark = _mark(self.table, bridge)
            nft.run(
                "".join(
                    f'insert rule {place} {way} "{bridge}" counter accept comment "{mark}"\n'
                    for way in missing
                )
            )
            return
        rules = "; ".join(f"nft insert rule {place} {way} {bridge} counter accept" for way in missing)
        self._warnings.append(
            f"chain {drop.chain} of table {drop.family} {drop.table} drops what containers on {bridge} "
            f"exchange with other hosts: add {_helper(drop, bridge)}{rules}; "
            "or start wherryd with --firewall-accept"
        )

    def _open(self) -> Nft:
        if self._nft is None:
            self._nft = open_nft()
        return self._nft


def enable_forwarding() -> bool:
    """Let the host route between interfaces.

    True when it did not before: then we answer for what that opens.
    """
    with open(_IP_FORWARD, "r+b", buffering=0) as file:
        if file.read(1) != b"0":
            return False
        file.seek(0)
        file.write(b"1")
        return True


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


def render(table: str, networks: Iterable[NetworkConfig], *, guards_routes: bool) -> str:
    """The commands that replace our table by one for `networks`; without networks, that remove it."""
    ours = [n for n in networks if n.interface and n.subnet]
    clear = (
        f"table inet {table}\ndelete table inet {table}\n"  # the first line so that the second cannot fail
    )
    if not ours:
        return clear
    bridges = [f'"{n.interface}"' for n in ours]
    closed = [f'"{n.interface}"' for n in ours if not n.icc]
    internal = [f'"{n.interface}"' for n in ours if n.internal]
    # Where addresses are not translated, answers come to the container's own: the forward chain tells
    # them apart.
    guarded = [str(n.subnet) for n in ours if n.masquerade or n.internal]
    homes = [f'{n.subnet} . "{n.interface}"' for n in ours]
    masqueraded = [str(n.subnet) for n in ours if n.masquerade and not n.internal]
    guard = _ROUTE_GUARD if guards_routes else ""
    return f"""{clear}table inet {table} {{
	comment "made and kept right by wherryd: changes here are lost"

	set bridges {{ type ifname; {_elements(bridges)}}}
	set closed {{ type ifname; {_elements(closed)}}}
	set internal {{ type ifname; {_elements(internal)}}}
	set guarded {{ type ipv4_addr; flags interval; {_elements(guarded)}}}
	set homes {{ type ipv4_addr . ifname; flags interval; {_elements(homes)}}}
	set masqueraded {{ type ipv4_addr; flags interval; {_elements(masqueraded)}}}

	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		# a container's own address is for its bridge and this host: other machines use published ports
		iifname != "lo" ip daddr @guarded ip daddr . iifname != @homes drop
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname @bridges jump inward
		iifname @internal drop{guard}
	}}

	chain inward {{
		ct state established,related accept
		ip daddr . iifname @homes jump within
		ct status dnat oifname != @internal accept
		drop
	}}

	chain within {{
		iifname @closed drop
		accept
	}}

	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @masqueraded ip saddr . oifname != @homes masquerade
	}}
}}
"""


def _elements(items: list[str]) -> str:
    return f"elements = {{ {', '.join(items)} }} " if items else ""


def _foreign_drops(nft: Nft, table: str) -> list[ForeignDrop]:
    found: list[ForeignDrop] = []
    for item in nft.listing("list chains\n"):
        chain: dict[str, Any] | None = item.get("chain")
        if (
            chain is None
            or chain.get("hook") != "forward"
            or chain.get("family") not in ("ip", "inet")
            or (chain["family"], chain["table"]) == ("inet", table)
            or chain["table"].startswith(OUR_PREFIX)
            or not _is_plain(chain["table"], chain["name"])
        ):
            continue
        family, name = chain["family"], chain["table"]
        rules = _rules(nft, family, name, chain["name"])
        if chain.get("policy") == "drop" or (rules and _is_final_drop(rules[-1])):
            jumps = [_jump_target(rule) for rule in rules]
            target = "DOCKER-USER" if "DOCKER-USER" in jumps else chain["name"]
            found.append(ForeignDrop(family, name, chain["name"], target))
    return found


def _rules(nft: Nft, family: str, table: str, chain: str) -> list[dict[str, Any]]:
    listing = nft.listing(f"list chain {family} {table} {chain}\n")
    return [item["rule"] for item in listing if "rule" in item]


def _expressions(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """A rule's statements, the counters left out."""
    expressions = cast("list[Any]", rule.get("expr") or [])
    return [cast("dict[str, Any]", e) for e in expressions if isinstance(e, dict) and "counter" not in e]


def _is_final_drop(rule: dict[str, Any]) -> bool:
    expressions = _expressions(rule)
    return len(expressions) == 1 and not {"drop", "reject"}.isdisjoint(expressions[0])


def _jump_target(rule: dict[str, Any]) -> str | None:
    for expression in _expressions(rule):
        jump = expression.get("jump") or expression.get("goto")
        if isinstance(jump, dict):
            return cast("dict[str, str]", jump).get("target")
    return None


def _accepts(nft: Nft, drop: ForeignDrop, way: str, bridge: str) -> bool:
    """Whether the chain, or the one it jumps to for such rules, accepts all that comes from (or goes to)
    `bridge`.
    """
    wanted = {"op": "==", "left": {"meta": {"key": way}}, "right": bridge}
    for chain in {drop.chain, drop.target}:
        for rule in _rules(nft, drop.family, drop.table, chain):
            expressions = _expressions(rule)
            if len(expressions) == 2 and expressions[0].get("match") == wanted and "accept" in expressions[1]:
                return True
    return False


def _marked_rules(nft: Nft, drop: ForeignDrop, table: str) -> list[tuple[str, str, str, int, str]]:
    """Rules that we put into others' chains: family, table, chain, handle, bridge."""
    found: list[tuple[str, str, str, int, str]] = []
    for chain in {drop.chain, drop.target}:
        for rule in _rules(nft, drop.family, drop.table, chain):
            mark = str(rule.get("comment", ""))
            if mark.startswith(_mark(table, "")):
                found.append((drop.family, drop.table, chain, int(rule["handle"]), mark.rpartition(" ")[2]))
    return found


def _mark(table: str, bridge: str) -> str:
    return f"{table}: added by --firewall-accept for {bridge}"


def _helper(drop: ForeignDrop, bridge: str) -> str:
    """The same in the words of the tool whose chain it is, where that keeps it over a restart."""
    if drop.table == "firewalld":
        return (
            f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} (and --reload), or until then "
        )
    return ""


def _is_plain(*names: str) -> bool:
    """Whether nft's grammar takes these names as they are: they come from other programs."""
    return all(_PLAIN_NAME.fullmatch(name) for name in names)


def _has_legacy_filter() -> bool:
    try:
        with open(_LEGACY_TABLES, "rb") as file:
            return b"filter" in file.read().split()
    except OSError:
        return False
