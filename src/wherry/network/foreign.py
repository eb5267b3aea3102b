"""Other people's firewall rules: who drops what our containers forward, and what would help.

An `accept` of ours cannot overrule a `drop` in another table. So foreign chains that drop forwarded packets
are found and reported; other tables are read, never changed, but for the marked rules that
`--firewall-accept` asks for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from wherry.errors import Internal
from wherry.network import nft

_log = logging.getLogger(__name__)

OUR_PREFIX = "wherry"
"""Every wherry's table has a name that begins so, several daemons' side by side."""

_LEGACY_TABLES = "/proc/net/ip_tables_names"
_DOCKER_USER = "DOCKER-USER"  # where dockerd leaves other people's rules alone when it rewrites its own
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WAYS = ("iifname", "oifname")

Rule = dict[str, Any]


class ForeignChain(msgspec.Struct):
    """Somebody else's base chain on the way of forwarded packets."""

    family: str
    table: str
    chain: str
    drops: bool
    target: str  # the chain where a rule of ours belongs: DOCKER-USER where that is, else the chain itself
    rules: list[Rule]  # of both

    @property
    def place(self) -> str:
        return f"{self.family} {self.table} {self.target}"


def settle(table: str, bridges: Sequence[str], *, accept: bool) -> list[str]:
    """Report every foreign drop that hurts `bridges`, or with `accept`, put rules against it.

    Marked rules of `table`'s that are no longer wanted are taken away.
    """
    warnings: list[str] = []
    for chain in _forward_chains():
        for rule in tuple(chain.rules):
            bridge = _marked_for(rule, table)
            if bridge and not (accept and chain.drops and bridge in bridges):
                nft.run(f"delete rule {chain.family} {chain.table} {rule['chain']} handle {rule['handle']}\n")
                chain.rules.remove(rule)
        for bridge in bridges if chain.drops else ():
            missing = [way for way in _WAYS if not _accepts(chain, way, bridge)]
            if missing and accept:
                mark = mark_for(table, bridge)
                nft.run(
                    "".join(
                        f'insert rule {chain.place} {way} "{bridge}" counter accept comment "{mark}"\n'
                        for way in missing
                    )
                )
            elif missing:
                warnings.append(_warning(chain, bridge, missing))
    if bridges and _has_legacy_filter():
        warnings.append(
            "the host has rules of iptables-legacy, which wherry cannot read: "
            f"if its FORWARD chain drops, add iptables-legacy -I FORWARD -i {bridges[0]} -j ACCEPT "
            f"and iptables-legacy -I FORWARD -o {bridges[0]} -j ACCEPT"
        )
    return warnings


def mark_for(table: str, bridge: str) -> str:
    """The comment on our rules in other people's chains."""
    return f"{table}: added by --firewall-accept for {bridge}"


def _warning(chain: ForeignChain, bridge: str, missing: Sequence[str]) -> str:
    rules = "; ".join(f"nft insert rule {chain.place} {way} {bridge} counter accept" for way in missing)
    lasting = ""
    if chain.table == "firewalld":
        lasting = (
            f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} (and --reload), or until then "
        )
    return (
        f"chain {chain.chain} of table {chain.family} {chain.table} drops what containers on {bridge} "
        f"exchange with other hosts: add {lasting}{rules}; or start wherryd with --firewall-accept"
    )


def _forward_chains() -> list[ForeignChain]:
    found: list[ForeignChain] = []
    for item in nft.listing("list chains"):
        chain: dict[str, Any] | None = item.get("chain")
        if chain is None or chain.get("hook") != "forward" or chain.get("family") not in ("ip", "inet"):
            continue
        family, table, name = chain["family"], chain["table"], chain["name"]
        if (
            table.startswith(OUR_PREFIX)
            or not _PLAIN_NAME.fullmatch(table)
            or not _PLAIN_NAME.fullmatch(name)
        ):
            continue
        try:
            rules = _rules(family, table, name)
            target = _DOCKER_USER if any(_jump_target(rule) == _DOCKER_USER for rule in rules) else name
            others = _rules(family, table, target) if target != name else []
        except Internal as exc:
            _log.warning("cannot read chain %s of table %s %s: %s", name, family, table, exc)
            continue
        drops = chain.get("policy") == "drop" or bool(rules and _is_final_drop(rules[-1]))
        found.append(ForeignChain(family, table, name, drops, target, [*rules, *others]))
    return found


def _rules(family: str, table: str, chain: str) -> list[Rule]:
    return [item["rule"] for item in nft.listing(f"list chain {family} {table} {chain}") if "rule" in item]


def _expressions(rule: Rule) -> list[dict[str, Any]]:
    """A rule's statements, the counters left out."""
    expressions = cast("list[Any]", rule.get("expr") or [])
    return [cast("dict[str, Any]", e) for e in expressions if isinstance(e, dict) and "counter" not in e]


def _is_final_drop(rule: Rule) -> bool:
    expressions = _expressions(rule)
    return len(expressions) == 1 and not {"drop", "reject"}.isdisjoint(expressions[0])


def _jump_target(rule: Rule) -> str | None:
    for expression in _expressions(rule):
        jump = expression.get("jump") or expression.get("goto")
        if isinstance(jump, dict):
            return cast("dict[str, str]", jump).get("target")
    return None


def _accepts(chain: ForeignChain, way: str, bridge: str) -> bool:
    """Whether a rule lets all pass that comes from (iifname) or goes to (oifname) `bridge`."""
    wanted = {"op": "==", "left": {"meta": {"key": way}}, "right": bridge}
    for rule in chain.rules:
        expressions = _expressions(rule)
        if len(expressions) == 2 and expressions[0].get("match") == wanted and "accept" in expressions[1]:
            return True
    return False


def _marked_for(rule: Rule, table: str) -> str:
    """The bridge for which we put this rule there; "" when it is not ours."""
    comment = str(rule.get("comment", ""))
    return comment.rpartition(" ")[2] if comment.startswith(mark_for(table, "")) else ""


def _has_legacy_filter() -> bool:
    try:
        with open(_LEGACY_TABLES, "rb") as file:
            return b"filter" in file.read().split()
    except OSError:
        return False
