"""What the administrator decides about networks, and what the default network becomes by it.

Decisions only: `choose_bridge` is given what was stored and what the host has, and answers with what is to be.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Sequence

import msgspec

from wherry.errors import InvalidParameter
from wherry.network.driver import AddressPool, NetworkConfig
from wherry.network.foreign import OUR_PREFIX
from wherry.network.ipam import DEFAULT_POOLS, choose_subnet, parse_bridge_address
from wherry.network.links import Links
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
    default_address_pools: tuple[str, ...] = DEFAULT_POOLS
    mtu: int = 1500
    icc: bool = True
    ip_masq: bool = True
    ip_forward: bool = True
    iptables: bool = True  # the firewall rules, whatever they are made with
    publish_address: str = ""  # where ports are bound that name no address; empty: everywhere
    firewall_accept: bool = False  # put an accept for our bridges into others' chains that would drop


class BridgeOnHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the host has of the bridge that is to be used, and what it has besides."""

    is_there: bool
    is_ours: bool
    addresses: Sequence[ipaddress.IPv4Interface]
    used: Sequence[ipaddress.IPv4Network]  # by other interfaces, routes and the resolvers


def check_settings(settings: NetworkSettings) -> None:
    if not _INTERFACE_NAME.fullmatch(settings.bridge) or settings.bridge in (".", ".."):
        raise InvalidParameter(
            f"invalid bridge name {settings.bridge!r}: use 1-15 letters, digits, dots, dashes and underscores"
        )
    if settings.bip:
        parse_bridge_address(settings.bip)
    if settings.publish_address:
        check_host_ip(settings.publish_address)
    if not 68 <= settings.mtu <= 65535:
        raise InvalidParameter(f"invalid MTU {settings.mtu}: use 68-65535")
    for pool in settings.default_address_pools:
        try:
            ipaddress.IPv4Network(pool)
        except ValueError as exc:
            raise InvalidParameter(f"invalid default address pool {pool!r}: {exc}") from exc


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
    address = _choose_address(settings, present, host)
    if present is not None and is_used:
        now = present.ipv4
        if now is not None and (present.interface, now.gateway, now.subnet) == (
            settings.bridge,
            str(address.ip),
            str(address.network),
        ):
            return present, ""
        return present, (
            f"containers run on bridge {present.interface} ({now.subnet if now else 'no IPv4'}): "
            "its new settings apply when wherryd is started without them"
        )
    network = msgspec.structs.replace(
        present or new_network("bridge", "bridge"),
        pools=(AddressPool(subnet=str(address.network), gateway=str(address.ip)),),
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


def _choose_address(
    settings: NetworkSettings, present: NetworkConfig | None, host: BridgeOnHost
) -> ipaddress.IPv4Interface:
    """`--bip`, else what the bridge has, else what it had, else of the first pool that overlaps nothing."""
    if settings.bip:
        chosen = parse_bridge_address(settings.bip)
        if host.is_there and not host.is_ours and host.addresses and chosen not in host.addresses:
            raise InvalidParameter(  # Docker's text
                f"bridge IPv4 ({host.addresses[0]}) does not match requested configuration {settings.bip}"
            )
        return chosen
    if host.addresses:
        return host.addresses[0]
    if present is not None and (pool := present.ipv4) is not None:
        before = ipaddress.IPv4Network(pool.subnet)
        if not any(before.overlaps(network) for network in host.used):
            return ipaddress.IPv4Interface(f"{pool.gateway}/{before.prefixlen}")
    subnet = choose_subnet(settings.default_address_pools, host.used)
    return ipaddress.IPv4Interface((int(subnet.network_address) + 1, subnet.prefixlen))


def look_at_bridge(name: str) -> BridgeOnHost:
    """Ask the host about the bridge `name`, which may not exist."""
    links = Links()
    try:
        link = links.find(name)
        index = link.index if link is not None else 0
        addresses = links.addresses()
        return BridgeOnHost(
            is_there=link is not None,
            is_ours=link is not None and link.mac.startswith(OUR_BRIDGES),
            addresses=[address for i, address in addresses if i == index],
            used=[
                *(address.network for i, address in addresses if i != index),
                *(route for i, route in links.routes() if i != index),
                *_nameservers(),
            ],
        )
    finally:
        links.close()


def _nameservers() -> list[ipaddress.IPv4Network]:
    """The host's resolvers: a subnet of ours must not hide one that lies beyond a router."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    found: list[ipaddress.IPv4Network] = []
    for words in lines:
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(ipaddress.IPv4Network(words[1]))
            except ValueError:
                continue  # IPv6
    return found


def _boolean(value: bool) -> str:
    return "true" if value else "false"
