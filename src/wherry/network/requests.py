"""What a container may ask of a network: checked with Docker's texts, without I/O."""

from __future__ import annotations

import ipaddress
import re

from wherry.errors import InvalidParameter
from wherry.network.creation import PREDEFINED
from wherry.network.defaults import is_interface_name
from wherry.network.driver import EndpointRequest, NetworkConfig

_MAC = re.compile(r"([0-9A-Fa-f]{2})([:-]?[0-9A-Fa-f]{2}){5}")


def check_request(name: str, request: EndpointRequest, network: NetworkConfig | None) -> None:
    """Refuse what cannot be, with everything that is wrong. `network` is None where there is no such network yet."""
    errors: list[str] = []
    if name in PREDEFINED:
        if request.address or request.address6:
            errors.append("user specified IP address is supported on user defined networks only")
        if request.aliases:
            errors.append("network-scoped alias is supported only for containers in user defined networks")
    for version, text in ((4, request.address), (6, request.address6)):
        if not text:
            continue
        address = _read(text)
        if address is None or address.version != version or address.is_unspecified:
            errors.append(f"invalid IPv{version} address: {text}")
        elif network is not None and name not in PREDEFINED:
            errors += _range_errors(address, network)
    for text in request.link_local:
        address = _read(text)
        if address is None or not address.is_link_local:
            errors.append(f"invalid link-local IP address: {text}")
    if errors:
        shown = errors[0] if len(errors) == 1 else "* " + "\n* ".join(errors)
        raise InvalidParameter(f"invalid endpoint settings:\n{shown}")
    if request.mac:
        check_mac(request.mac)
        if network is not None and network.driver == "ipvlan":
            raise InvalidParameter("ipvlan interfaces do not support custom mac address assignment")
    if request.interface and not is_interface_name(request.interface):
        raise InvalidParameter(f"invalid interface name {request.interface!r}: use 1-15 letters and digits")


def check_mac(text: str) -> str:
    """The MAC address in the kernel's form."""
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1 or not text.strip("0:-"):
        raise InvalidParameter(f"invalid MAC address: {text}")
    plain = re.sub("[:-]", "", text).lower()
    return ":".join(plain[at : at + 2] for at in range(0, 12, 2))


def _read(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _range_errors(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: NetworkConfig
) -> list[str]:
    pools = [pool for pool in network.pools if pool.is_ipv6 == (address.version == 6)]
    chosen = [pool for pool in pools if not pool.automatic]
    if any(address in ipaddress.ip_network(pool.subnet) for pool in chosen):
        return []
    if chosen:
        return [f"no configured subnet or ip-range contain the IP address {address}"]
    return [
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    ]
