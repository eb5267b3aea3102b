"""What the administrator decides about networks, and what the default network becomes by it.

Decisions only: `choose_bridge` is given what was stored and what the host has, and answers with what is to be.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Iterable, Sequence

import msgspec

from wherry.errors import InvalidParameter
from wherry.network.driver import AddressPool, NetworkConfig
from wherry.network.foreign import OUR_PREFIX
from wherry.network.ipam import parse_bridge_address
from wherry.network.links import IPInterface, IPNetwork, Links
from wherry.network.pools import DEFAULT_POOLS, PoolSetting, check_pool, choose_subnet, host_networks
from wherry.network.ports import check_host_ip

DEFAULT_BRIDGE = "wherry0"
NO_BRIDGE = "none"

DEFAULT_BRIDGE_OPTION = "com.docker.network.bridge.default_bridge"
HOST_BINDING_OPTION = "com.docker.network.bridge.host_binding_ipv4"

OUR_BRIDGES = "02:42:77:68"
"""How the address of a bridge begins that we made, and may remove: the one mark that is there from the start."""

_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The names are dockerd's flags."""

    bridge: str = DEFAULT_BRIDGE  # made when it does not exist; "none" turns the default network off
    bip: str = ""  # the bridge's address with prefix; empty: what it has, else the first free pool
    bip6: str = ""
    fixed_cidr: str = ""  # the part of the bridge's subnet that addresses are taken from
    fixed_cidr_v6: str = ""  # with `ipv6`: the default network's IPv6 subnet
    default_address_pools: tuple[PoolSetting, ...] = DEFAULT_POOLS
    default_network_opts: dict[str, dict[str, str]] = {}  # options of new networks, by driver
    ipv6: bool = False  # on the default network
    mtu: int = 1500
    icc: bool = True
    ip_masq: bool = True
    ip_forward: bool = True
    iptables: bool = True  # the firewall rules, whatever they are made with
    ip6tables: bool = True
    publish_address: str = ""  # where ports are bound that name no address; empty: everywhere
    firewall_accept: bool = False  # put an accept for our bridges into others' chains that would drop


class BridgeOnHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the host has of the bridge that is to be used, and what it has besides."""

    is_there: bool
    is_ours: bool
    addresses: Sequence[IPInterface]
    used: Sequence[IPNetwork]  # by other interfaces, routes, the resolvers and our other networks


def check_settings(settings: NetworkSettings) -> None:
    if not is_interface_name(settings.bridge):
        raise InvalidParameter(
            f"invalid bridge name {settings.bridge!r}: use 1-15 letters, digits, dots, dashes and underscores"
        )
    if settings.bip:
        parse_bridge_address(settings.bip)
    if settings.bip6:
        parse_bridge_address(settings.bip6, ipv6=True)
    for text, version in ((settings.fixed_cidr, 4), (settings.fixed_cidr_v6, 6)):
        if text and (network := _parse_network(text)).version != version:
            raise InvalidParameter(f"invalid CIDR address: {network}: an IPv{version} subnet is needed here")
    if settings.publish_address:
        check_host_ip(settings.publish_address)
    if not 68 <= settings.mtu <= 65535:
        raise InvalidParameter(f"invalid MTU {settings.mtu}: use 68-65535")
    for pool in settings.default_address_pools:
        check_pool(pool)


def is_interface_name(text: str) -> bool:
    return _INTERFACE_NAME.fullmatch(text) is not None and text not in (".", "..")


def _parse_network(text: str) -> IPNetwork:
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        return ipaddress.ip_network(text, strict=False)
    except ValueError as exc:
        raise InvalidParameter(f"invalid CIDR address: {text}") from exc  # Docker's text


def firewall_table(bridge: str) -> str:
    """The nftables table of the daemon with this bridge: bridges are what tells daemons apart."""
    return OUR_PREFIX if bridge == DEFAULT_BRIDGE else f"{OUR_PREFIX}-{bridge}"


def new_network(name: str, driver: str) -> NetworkConfig:
    return NetworkConfig(id=secrets.token_hex(32), name=name, driver=driver, created_ns=time.time_ns())


def choose_bridge(
    settings: NetworkSettings, present: NetworkConfig | None, host: BridgeOnHost, *, is_used: bool
) -> tuple[NetworkConfig, str]:
    """The default network as it is to be, given how it was, and a warning or "".

    While containers are on it (`is_used`) it stays as it was.
    """
    pools = [_choose_pool(settings, present, host)]
    if settings.ipv6:
        pools.append(_choose_pool6(settings, present, host))
    if present is not None and is_used:
        if (present.interface, present.pools) == (settings.bridge, tuple(pools)):
            return present, ""
        now = ", ".join(pool.subnet for pool in present.pools) or "no subnet"
        return present, (
            f"containers run on bridge {present.interface} ({now}): "
            "its new settings apply when wherryd is started without them"
        )
    network = msgspec.structs.replace(
        present or new_network("bridge", "bridge"),
        pools=tuple(pools),
        interface=settings.bridge,
        mtu=settings.mtu,
        icc=settings.icc,
        masquerade=settings.ip_masq,
        options={
            DEFAULT_BRIDGE_OPTION: "true",
            "com.docker.network.bridge.enable_icc": _boolean(settings.icc),
            "com.docker.network.bridge.enable_ip_masquerade": _boolean(settings.ip_masq),
            HOST_BINDING_OPTION: settings.publish_address or "0.0.0.0",
            "com.docker.network.bridge.name": settings.bridge,
            "com.docker.network.driver.mtu": str(settings.mtu),
        },
    )
    return network, ""


def _choose_pool(settings: NetworkSettings, present: NetworkConfig | None, host: BridgeOnHost) -> AddressPool:
    """`--bip`, else what the bridge has, else what it had, else of the first pool that overlaps nothing."""
    address = _choose_address(settings, present, host)
    if not settings.fixed_cidr:
        return AddressPool(subnet=str(address.network), gateway=str(address.ip))
    part = ipaddress.IPv4Network(_parse_network(settings.fixed_cidr))
    if not part.subnet_of(address.network):
        raise InvalidParameter(
            f"--fixed-cidr {settings.fixed_cidr} is not within the bridge's subnet {address.network}: "
            "give the bridge an address in it with --bip"
        )
    return AddressPool(subnet=str(address.network), gateway=str(address.ip), ip_range=str(part))


def _choose_address(
    settings: NetworkSettings, present: NetworkConfig | None, host: BridgeOnHost
) -> ipaddress.IPv4Interface:
    on_host = [a for a in host.addresses if isinstance(a, ipaddress.IPv4Interface)]
    if settings.bip:
        chosen = ipaddress.IPv4Interface(settings.bip)
        if host.is_there and not host.is_ours and on_host and chosen not in on_host:
            raise InvalidParameter(  # Docker's text
                f"bridge IPv4 ({on_host[0]}) does not match requested configuration {settings.bip}"
            )
        return chosen
    if on_host:
        return on_host[0]
    if settings.fixed_cidr:  # as dockerd, which makes a subnet of it where it has none
        part = ipaddress.IPv4Network(_parse_network(settings.fixed_cidr))
        return ipaddress.IPv4Interface((int(part.network_address) + 1, part.prefixlen))
    if present is not None and (pool := present.ipv4) is not None:
        before = ipaddress.IPv4Network(pool.subnet)
        if not any(before.overlaps(network) for network in host.used if network.version == 4):
            return ipaddress.IPv4Interface(f"{pool.gateway}/{before.prefixlen}")
    subnet = choose_subnet(settings.default_address_pools, host.used)
    return ipaddress.IPv4Interface((int(subnet.network_address) + 1, subnet.prefixlen))


def _choose_pool6(
    settings: NetworkSettings, present: NetworkConfig | None, host: BridgeOnHost
) -> AddressPool:
    """`--bip6`, else `--fixed-cidr-v6`, else what it had, else of the first IPv6 pool that is free."""
    part = settings.fixed_cidr_v6
    if settings.bip6:
        address = ipaddress.IPv6Interface(settings.bip6)
        return AddressPool(subnet=str(address.network), gateway=str(address.ip), ip_range=part)
    if part:
        subnet = _parse_network(part)
    elif present is not None and present.ipv6 is not None:
        return present.ipv6
    else:
        subnet = choose_subnet(settings.default_address_pools, host.used, ipv6=True)
    return AddressPool(subnet=str(subnet), gateway=str(subnet.network_address + 1))


def look_at_bridge(name: str, ours: Iterable[IPNetwork] = ()) -> BridgeOnHost:
    """Ask the host about the bridge `name`, which may not exist. `ours`: the subnets of our other networks."""
    links = Links()
    try:
        link = links.find(name)
        index = link.index if link is not None else 0
        return BridgeOnHost(
            is_there=link is not None,
            is_ours=link is not None and link.mac.startswith(OUR_BRIDGES),
            addresses=[address for i, address in links.addresses() if link is not None and i == index],
            used=[*host_networks(links, ignoring=index), *ours],
        )
    finally:
        links.close()


def _boolean(value: bool) -> str:
    return "true" if value else "false"
