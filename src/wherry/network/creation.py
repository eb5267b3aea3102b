"""What a network will be, decided from what a user asks, the administrator's settings, and what is taken already.

No I/O but for chance. `plan_network` refuses what Docker refuses, with its texts and statuses, and fills in what
Docker fills in. What depends on the host's interfaces is the driver's `check`.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from wherry.errors import Conflict, Forbidden, InvalidParameter, NotFound
from wherry.network.defaults import NetworkSettings, is_interface_name
from wherry.network.driver import AddressPool, NetworkConfig
from wherry.network.links import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES, IPNetwork
from wherry.network.pools import choose_subnet, subnets_of

PREDEFINED = frozenset(("bridge", "host", "none", "default"))

_BRIDGE = "com.docker.network.bridge."
_MTU = "com.docker.network.driver.mtu"
_ENABLE = {4: "com.docker.network.enable_ipv4", 6: "com.docker.network.enable_ipv6"}
_GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
MAX_NAME = 1024


class PoolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet as asked for: everything is text, and may be empty."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A network as asked for. None: not said."""

    name: str
    driver: str = ""
    pools: tuple[PoolRequest, ...] = ()
    ipam_driver: str = ""
    ipam_options: dict[str, str] | None = None
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    scope: str = ""
    config_only: bool = False
    config_from: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


def plan_network(
    request: NetworkRequest,
    *,
    settings: NetworkSettings,
    drivers: Sequence[str],
    networks: Sequence[NetworkConfig],
    on_host: Sequence[IPNetwork],
) -> NetworkConfig:
    """The network that `request` asks for, beside `networks`. `on_host`: the subnets the host itself uses."""
    _check_name(request, networks)
    if request.config_only and (request.ingress or request.internal or request.attachable or request.scope):
        raise Forbidden(  # Docker's text
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if request.config_from:
        request = _from_template(request, networks)
    driver = request.driver or "bridge"
    if not request.config_only:
        _check_driver(driver, request, drivers)
    options = {**settings.default_network_opts.get(driver, {}), **request.options}
    if request.config_from:
        options = dict(request.options)
    has4 = _is_enabled(4, request.enable_ipv4, options, default=True)
    has6 = _is_enabled(6, request.enable_ipv6, options, default=False)
    pools = _check_pools(request, has6=has6)
    identity = secrets.token_hex(32)
    network = NetworkConfig(
        id=identity,
        name=request.name,
        driver="null" if request.config_only else driver,
        created_ns=time.time_ns(),
        internal=request.internal,
        attachable=request.attachable,
        options=options,
        labels=request.labels,
        ipam_driver=request.ipam_driver or "default",
        ipam_options=request.ipam_options,
        config_only=request.config_only,
        config_from=request.config_from,
    )
    if request.config_only:
        given = (
            AddressPool(subnet=p.subnet, gateway=p.gateway, ip_range=p.ip_range, auxiliary=p.auxiliary)
            for p in request.pools
        )
        return msgspec.structs.replace(network, pools=tuple(given))
    network = _apply_options(network, settings)
    if request.ipam_driver == "null":
        return network
    if not (has4 or has6):
        raise InvalidParameter("IPv4 or IPv6 must be enabled")  # Docker's text
    taken = subnets_of(networks)
    chosen: list[AddressPool] = []
    for version, is_wanted in ((4, has4), (6, has6)):
        asked = [pool for pool in pools if pool.version == version]
        if not is_wanted:
            continue
        if len(asked) > 1 and driver == "bridge":
            raise Forbidden("bridge driver doesn't support multiple subnets")  # Docker's text
        for pool in asked or [_Pool(version=version)]:
            made = _allocate(pool, network, settings, taken, on_host)
            chosen.append(made)
            taken.append(ipaddress.ip_network(made.subnet))
    return msgspec.structs.replace(network, pools=tuple(chosen))


def _check_name(request: NetworkRequest, networks: Sequence[NetworkConfig]) -> None:
    name = request.name
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")  # Docker's text
    if name in PREDEFINED:  # Docker's text, with its blank at the end
        raise Forbidden(f"operation is not permitted on predefined {name} network ")
    if len(name.encode("utf-8", "replace")) > MAX_NAME:
        raise InvalidParameter(f"invalid name {name[:64]!r}…: at most {MAX_NAME} bytes fit")
    if any(network.name == name for network in networks):
        raise Conflict(f"network with name {name} already exists")  # Docker's text
    if request.scope not in ("", "local", "swarm", "global"):
        raise InvalidParameter(f"invalid scope {request.scope!r}: use local or swarm")


def _check_driver(driver: str, request: NetworkRequest, drivers: Sequence[str]) -> None:
    """All texts are Docker's."""
    if driver in ("host", "null", "none"):
        shown = "null" if driver == "none" else driver
        raise Forbidden(f'only one instance of "{shown}" network is allowed')
    if driver == "overlay":
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node'
            " to swarm and try again."
        )
    if request.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.scope in ("swarm", "global"):
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    if driver not in drivers:
        raise NotFound(f'plugin "{driver}" not found')
    if request.ipam_driver not in ("", "default", "null"):
        raise NotFound(f'plugin "{request.ipam_driver}" not found')


def _from_template(request: NetworkRequest, networks: Sequence[NetworkConfig]) -> NetworkRequest:
    """The request with what its `--config-from` says. All texts are Docker's."""
    if request.config_only:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    has_own = (
        request.ipam_driver not in ("", "default")
        or request.enable_ipv4 is False
        or request.enable_ipv6
        or request.labels
        or request.ipam_options
        or request.pools
    )
    if has_own:
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if request.options:
        raise Forbidden(
            "network driver options are not supported if the network depends on a configuration network"
        )
    template = next((n for n in networks if n.config_only and request.config_from in (n.name, n.id)), None)
    if template is None:
        raise NotFound(f'configuration network "{request.config_from}" does not exist')
    pools = tuple(
        PoolRequest(subnet=p.subnet, gateway=p.gateway, ip_range=p.ip_range, auxiliary=p.auxiliary)
        for p in template.pools
    )
    return msgspec.structs.replace(
        request,
        config_from=template.name,
        pools=pools,
        ipam_driver=template.ipam_driver,
        ipam_options=template.ipam_options,
        enable_ipv6=any(p.is_ipv6 for p in template.pools) or None,
        options=template.options,
        labels=template.labels,
    )


def _is_enabled(version: int, said: bool | None, options: dict[str, str], *, default: bool) -> bool:
    """Whether an address family is on. What the request says itself wins over the driver option."""
    name = _ENABLE[version]
    if said is not None:
        options.pop(name, None)
        return said
    text = options.get(name)
    if text is None:
        return default
    if text not in _TRUE + _FALSE:
        raise InvalidParameter(f'driver-opt "{name}" is not a valid bool')  # Docker's text
    return text in _TRUE


# Subnets


class _Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet as asked for, read and checked."""

    version: int
    subnet: IPNetwork | None = None
    ip_range: IPNetwork | None = None
    gateway: str = ""
    auxiliary: dict[str, str] = {}


def _check_pools(request: NetworkRequest, *, has6: bool) -> list[_Pool]:
    """What was asked of addresses. Raises InvalidParameter that lists everything wrong, in Docker's words."""
    errors: list[str] = []
    pools = [_check_pool(asked, errors, has6=has6) for asked in request.pools]
    if errors:
        one_line = errors[0] if len(errors) == 1 else "* " + "\n* ".join(errors)
        raise InvalidParameter(f"invalid network config:\n{one_line}")
    return [pool for pool in pools if pool is not None]


def _check_pool(asked: PoolRequest, errors: list[str], *, has6: bool) -> _Pool | None:
    if not asked.subnet:  # Docker lets it choose one, and takes the rest of the line as text for later
        for what, text in (("ip-range", asked.ip_range), ("gateway", asked.gateway)):
            if text:
                errors.append(f"invalid {what} {text}: no subnet is given for it")
        return _Pool(version=4)
    try:
        if "/" not in asked.subnet:
            raise ValueError
        subnet = ipaddress.ip_network(asked.subnet, strict=False)
    except ValueError:
        errors.append(f"invalid subnet {asked.subnet}: invalid CIDR block notation")
        return None
    if subnet.version == 6 and not has6:
        return None  # as Docker: not looked at
    if str(subnet.network_address) != _without_prefix(asked.subnet):
        errors.append(f"invalid subnet {asked.subnet}: it should be {subnet}")
    ip_range = _check_range(asked.ip_range, subnet, errors)
    gateway = _check_address(f"gateway {asked.gateway}", asked.gateway, subnet, errors)
    auxiliary = {
        name: _check_address(f"auxiliary address {name}", text, subnet, errors)
        for name, text in asked.auxiliary.items()
    }
    return _Pool(
        version=subnet.version, subnet=subnet, ip_range=ip_range, gateway=gateway, auxiliary=auxiliary
    )


def _without_prefix(text: str) -> str:
    return str(ipaddress.ip_address(text.partition("/")[0]))


def _check_range(text: str, subnet: IPNetwork, errors: list[str]) -> IPNetwork | None:
    if not text:
        return None
    try:
        if "/" not in text:
            raise ValueError
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        errors.append(f"invalid ip-range {text}: invalid CIDR block notation")
        return None
    if found.version != subnet.version:
        errors.append(f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block")
        return None
    if found.prefixlen < subnet.prefixlen:
        errors.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}")
    if str(found.network_address) != _without_prefix(text):
        errors.append(f"invalid ip-range {text}: it should be {found}")
    if not subnet.overlaps(found):
        errors.append(f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range")
    return found


def _check_address(what: str, text: str, subnet: IPNetwork, errors: list[str]) -> str:
    if not text:
        return ""
    try:
        # Some clients give a gateway with its prefix.
        address = ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        errors.append(f"invalid {what}: invalid address")
        return ""
    if address.version != subnet.version:
        errors.append(f"invalid {what}: parent subnet is an IPv{subnet.version} block")
    elif address not in subnet:
        errors.append(f"invalid {what}: parent subnet {subnet} doesn't contain this address")
    return str(address)


def _allocate(
    pool: _Pool,
    network: NetworkConfig,
    settings: NetworkSettings,
    taken: Sequence[IPNetwork],
    on_host: Sequence[IPNetwork],
) -> AddressPool:
    """The subnet with its gateway. Raises Forbidden where it overlaps what is taken."""
    subnet = pool.subnet
    if subnet is None:
        subnet = choose_subnet(settings.default_address_pools, [*taken, *on_host], ipv6=pool.version == 6)
    else:
        _check_overlap(subnet, taken, on_host if network.driver == "bridge" else ())
        if subnet.version == 6 and (subnet.is_multicast or subnet.is_link_local):
            raise InvalidParameter(
                f"invalid subnet {subnet}: multicast and link-local subnets are not allowed"
            )
        if subnet.num_addresses < 2:
            raise InvalidParameter(f"invalid subnet {subnet}: it has no room for a gateway and a container")
    return AddressPool(
        subnet=str(subnet),
        gateway=_gateway(pool, subnet, network),
        ip_range=str(pool.ip_range) if pool.ip_range is not None else "",
        auxiliary=pool.auxiliary,
        automatic=pool.subnet is None,
    )


def _check_overlap(subnet: IPNetwork, taken: Sequence[IPNetwork], on_host: Sequence[IPNetwork]) -> None:
    """Docker's text. Its words are about other networks; a host's subnet that ours would hide is refused with them.

    A wider route of the host, such as one for all of 10.0.0.0/8, does not count: ours is the exception to it.
    """
    text = "invalid pool request: Pool overlaps with other one on this address space"
    if any(subnet.version == other.version and subnet.overlaps(other) for other in taken):
        raise Forbidden(text)
    for other in on_host:
        if subnet.version == other.version and subnet.overlaps(other) and other.prefixlen >= subnet.prefixlen:
            raise Forbidden(f"{text}: the host itself uses {other}")


def _gateway(pool: _Pool, subnet: IPNetwork, network: NetworkConfig) -> str:
    """As given, else the first address of the range, if nothing else has it; as Docker."""
    if pool.gateway:
        return pool.gateway
    mode = network.gateway_mode if subnet.version == 4 else network.gateway_mode6
    if mode == "isolated" or (network.internal and network.driver in ("macvlan", "ipvlan")):
        return ""
    if network.driver == "ipvlan" and network.mode in ("l3", "l3s"):
        return ""
    source = pool.ip_range or subnet
    used = set(pool.auxiliary.values())
    at = int(source.network_address)
    if at == int(subnet.network_address):
        at += 1
    kind = type(subnet.network_address)
    while str(kind(at)) in used:
        at += 1
    if kind(at) not in source:
        raise InvalidParameter(f"invalid ip-range {source}: it has no room for a gateway")
    return str(kind(at))


# Driver options


def _apply_options(network: NetworkConfig, settings: NetworkSettings) -> NetworkConfig:
    """The options a driver knows, as typed values; the rest is kept and shown."""
    options = network.options
    mtu = _number(options, _MTU, settings.mtu)
    if not 68 <= mtu <= 65535:
        raise InvalidParameter(f"invalid MTU number: {mtu}")  # Docker's text
    fields = _OPTIONS.get(network.driver, lambda network: {})(network)
    return msgspec.structs.replace(network, mtu=mtu, **fields)


def _bridge_options(network: NetworkConfig) -> dict[str, object]:
    options = network.options
    name = options.get(_BRIDGE + "name", "") or f"br-{network.id[:12]}"
    if not is_interface_name(name):
        raise InvalidParameter(
            f"invalid bridge name {name!r}: use 1-15 letters, digits, dots, dashes and underscores"
        )
    modes = {v: _gateway_mode(options, f"{_BRIDGE}gateway_mode_ipv{v}", network) for v in (4, 6)}
    binding = options.get(_BRIDGE + "host_binding_ipv4", "")
    if binding:
        try:
            ipaddress.IPv4Address(binding)
        except ValueError as exc:
            label = _BRIDGE + "host_binding_ipv4"
            raise InvalidParameter(f"failed to parse {label} value: {binding} (nil ip)") from exc
    return {
        "interface": name,
        "icc": _boolean(options, _BRIDGE + "enable_icc", default=True),
        "masquerade": _boolean(options, _BRIDGE + "enable_ip_masquerade", default=True),
        "inhibit_ipv4": _boolean(options, _BRIDGE + "inhibit_ipv4", default=False),
        "gateway_mode": modes[4],
        "gateway_mode6": modes[6],
    }


def _gateway_mode(options: Mapping[str, str], label: str, network: NetworkConfig) -> str:
    mode = options.get(label) or "nat"
    if mode not in _GATEWAY_MODES:
        raise InvalidParameter(f"failed to parse {label} value: {mode} (unknown gateway mode {mode})")
    if mode == "isolated" and not network.internal:
        raise InvalidParameter("gateway mode 'isolated' can only be used for an internal network")
    return mode


def _macvlan_options(network: NetworkConfig) -> dict[str, object]:
    mode = network.options.get("macvlan_mode", "") or "bridge"
    if mode not in MACVLAN_MODES:  # Docker's text
        raise InvalidParameter(
            f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
        )
    return {"parent": _parent(network), "mode": mode}


def _ipvlan_options(network: NetworkConfig) -> dict[str, object]:
    mode = network.options.get("ipvlan_mode", "") or "l2"
    flag = network.options.get("ipvlan_flag", "") or "bridge"
    if mode not in IPVLAN_MODES:  # Docker's texts
        raise InvalidParameter(
            f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default"
        )
    if flag not in IPVLAN_FLAGS:
        raise InvalidParameter(
            f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default"
        )
    return {"parent": _parent(network), "mode": mode, "flag": flag}


def _parent(network: NetworkConfig) -> str:
    """The host's interface, or the name of a dummy of our own where none is given, as Docker makes one."""
    parent = network.options.get("parent", "")
    if not parent:
        return f"{'di' if network.driver == 'ipvlan' else 'dm'}-{network.id[:12]}"
    if parent == "lo":  # Docker's text
        raise InvalidParameter(f"loopback interface is not a valid {network.driver} parent link")
    if not is_interface_name(parent):
        raise InvalidParameter(f"invalid parent interface {parent!r}")
    return parent


_OPTIONS: dict[str, Callable[[NetworkConfig], dict[str, object]]] = {
    "bridge": _bridge_options,
    "macvlan": _macvlan_options,
    "ipvlan": _ipvlan_options,
}


def _boolean(options: Mapping[str, str], label: str, *, default: bool) -> bool:
    text = options.get(label)
    if text is None:
        return default
    if text not in _TRUE + _FALSE:  # Docker's text, with Go's reason
        reason = f'strconv.ParseBool: parsing "{text}": invalid syntax'
        raise InvalidParameter(f"failed to parse {label} value: {text} ({reason})")
    return text in _TRUE


def _number(options: Mapping[str, str], label: str, default: int) -> int:
    text = options.get(label)
    if text is None:
        return default
    try:
        if len(text) > 18:
            raise ValueError
        return int(text) or default
    except ValueError:
        reason = f'strconv.Atoi: parsing "{text}": invalid syntax'
        raise InvalidParameter(f"failed to parse {label} value: {text} ({reason})") from None
