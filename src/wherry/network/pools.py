"""Which subnet a network gets: the first of the administrator's address pools that overlaps nothing.

A pool is a `base` network cut into subnets of `size` bits, as in dockerd's `default-address-pools`.
"""

from __future__ import annotations

import ipaddress
import secrets
import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from wherry.errors import Forbidden, InvalidParameter
from wherry.network.driver import NetworkConfig
from wherry.network.links import IPNetwork, Links


class PoolSetting(msgspec.Struct, frozen=True):
    """One entry of `default-address-pools`."""

    base: str
    size: int


# Docker's own, in its order.
DEFAULT_POOLS = (
    *(PoolSetting(f"172.{second}.0.0/16", 16) for second in (17, 18, 19)),
    *(PoolSetting(f"172.{second}.0.0/14", 16) for second in (20, 24, 28)),
    PoolSetting("192.168.0.0/16", 20),
)


def check_pool(pool: PoolSetting) -> IPNetwork:
    """The pool's base. Raises InvalidParameter with dockerd's texts."""
    try:
        base = ipaddress.ip_network(pool.base)
    except ValueError as exc:
        raise InvalidParameter(f"invalid base pool {pool.base!r}: {exc}") from exc
    if not 0 < pool.size <= base.max_prefixlen:
        raise InvalidParameter(f"invalid size {pool.size} for pool {pool.base}: use 1-{base.max_prefixlen}")
    if pool.size < base.prefixlen:
        raise InvalidParameter(
            f"network {pool.base} has a smaller prefix (/{base.prefixlen}) than the target size of that pool (/{pool.size})"
        )
    return base


def choose_subnet(
    pools: Sequence[PoolSetting], used: Iterable[IPNetwork], *, ipv6: bool = False
) -> IPNetwork:
    """The first subnet of `pools` that overlaps nothing of `used`. Raises Forbidden when there is none left."""
    version = 6 if ipv6 else 4
    taken = sorted({(int(n.network_address), int(n.broadcast_address)) for n in used if n.version == version})
    for pool in pools:
        base = check_pool(pool)
        if base.version == version and (found := _first_gap(base, pool.size, taken)) is not None:
            return found
    # Docker's text.
    raise Forbidden("all predefined address pools have been fully subnetted")


def _first_gap(base: IPNetwork, size: int, taken: Sequence[tuple[int, int]]) -> IPNetwork | None:
    """Walk over `taken`, ranges in order, instead of over the subnets: a /8 may be cut into millions."""
    step = 1 << (base.max_prefixlen - size)
    at, end = int(base.network_address), int(base.broadcast_address)
    for first, last in taken:
        if last < at:
            continue
        if first >= at + step:
            break  # the gap before it is wide enough
        at = (last // step + 1) * step
    return type(base)((at, size)) if at + step - 1 <= end else None


def host_networks(links: Links, *, ignoring: int = 0) -> list[IPNetwork]:
    """What a subnet of ours must not hide: the host's addresses, routes and resolvers; those of one interface aside."""
    return [
        *(address.network for index, address in links.addresses() if index != ignoring),
        *(route for index, route in links.routes() if index != ignoring),
        *_nameservers(),
    ]


def subnets_of(networks: Iterable[NetworkConfig]) -> list[IPNetwork]:
    return [ipaddress.ip_network(pool.subnet) for n in networks if not n.config_only for pool in n.pools]


def local_pool(connection: sqlite3.Connection) -> str:
    """This data root's own part of fd00::/8, for IPv6 networks without a subnet: chosen once by chance (RFC 4193)."""
    row = connection.execute("SELECT value FROM fact WHERE key = 'local_ipv6_pool'").fetchone()
    if row is not None:
        return str(row[0])
    pool = str(ipaddress.IPv6Network(((0xFD << 40 | secrets.randbits(40)) << 80, 48)))
    connection.execute("INSERT INTO fact VALUES ('local_ipv6_pool', ?)", (pool,))
    return pool


def _nameservers() -> list[IPNetwork]:
    """The host's resolvers: a subnet of ours must not hide one that lies beyond a router."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    found: list[IPNetwork] = []
    for words in lines:
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(ipaddress.ip_network(words[1].partition("%")[0]))
            except ValueError:
                continue
    return found
