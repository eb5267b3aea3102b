"""`network` and its commands, but for the picture (network_graph.py)."""

from __future__ import annotations

import ipaddress

from wherry.cli import listing
from wherry.cli.flags import BOOL, FILTER, INT, LIST, STRING, Command, Kind, Options
from wherry.cli.inspect import inspect_kind
from wherry.cli.listing import Fields, gather_filters, short_id
from wherry.cli.mounts import split_csv
from wherry.cli.prune import confirm
from wherry.cli.session import Exit, Session
from wherry.client.answers import items, mapping
from wherry.client.api import ApiError, filters, segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

NETWORKS = (
    "WARNING! This will remove all custom networks not used by at least one container.\n"
    "Are you sure you want to continue?"
)
HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}
STRINGS = Kind("strings", split_csv, is_list=True)
"""Several in one, parted by commas, and the flag more than once."""


def _read_map(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals and not name:
        raise ValueError("invalid argument: expected a key and a value")
    return name, value


MAP = Kind("map", _read_map, is_list=True)


def _all(options: Options, name: str) -> list[str]:
    return [text for group in options.many(name) for text in group]


# Creating


def _create(session: Session, options: Options, arguments: list[str]) -> int:
    try:
        ipam = ipam_config(
            subnets=_all(options, "subnet"),
            ranges=_all(options, "ip-range"),
            gateways=_all(options, "gateway"),
            auxiliary=dict(options.many("aux-address")),
        )
    except ValueError as exc:
        raise Exit(1, str(exc)) from None
    body: dict[str, Any] = {
        "Name": arguments[0],
        "Driver": options.text("driver"),
        "Scope": options.text("scope"),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Options": dict(options.many("ipam-opt")),
            "Config": ipam,
        },
        "Internal": options.on("internal"),
        "Attachable": options.on("attachable"),
        "Ingress": options.on("ingress"),
        "ConfigOnly": options.on("config-only"),
        "ConfigFrom": {"Network": options.text("config-from")} if options.text("config-from") else None,
        "Options": dict(options.many("opt")),
        "Labels": dict(_pair(text) for text in options.many("label")),
    }
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.changed(flag):
            body[key] = options.on(flag)
    made = session.client.post("/networks/create", value=body)
    if made.get("Warning"):
        session.err(f"WARNING: {made['Warning']}\n")
    session.out(f"{made['Id']}\n")
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def ipam_config(
    *, subnets: list[str], ranges: list[str], gateways: list[str], auxiliary: dict[str, str]
) -> list[dict[str, Any]]:
    """Each subnet with the range, gateway and addresses that lie in it. Raises ValueError with docker's texts."""
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise ValueError("every ip-range or gateway must have a corresponding subnet")
    if len(subnets) == 1 and not (ranges or gateways or auxiliary):
        return [{"Subnet": subnets[0]}]  # as docker, which leaves the reading to the engine
    networks = {text: _network(text, "invalid subnet: ") for text in subnets}
    for text, network in networks.items():
        for other, its in networks.items():
            if other is not text and network.version == its.version and network.overlaps(its):
                raise ValueError("multiple overlapping subnet configuration is not supported")
    if len(networks) < len(subnets):
        raise ValueError("multiple overlapping subnet configuration is not supported")
    found: dict[str, dict[str, Any]] = {text: {"Subnet": text} for text in subnets}

    def home(address: Address, what: str) -> dict[str, Any]:
        for text, network in networks.items():
            if address.version == network.version and address in network:
                return found[text]
        raise ValueError(f"no matching subnet for {what}")

    for text in ranges:
        config = home(_network(text).network_address, f"range {text}")
        if "IPRange" in config:
            raise ValueError(
                f"cannot configure multiple ranges ({text}, {config['IPRange']}) on the same subnet ({config['Subnet']})"
            )
        config["IPRange"] = text
    for text in gateways:
        config = home(_address(text), f"gateway {text}")
        if "Gateway" in config:
            raise ValueError(
                f"cannot configure multiple gateways ({text}, {config['Gateway']}) for the same subnet"
                f" ({config['Subnet']})"
            )
        config["Gateway"] = text
    for name, text in auxiliary.items():
        config = home(_address(text), f"aux-address {text}")
        config.setdefault("AuxiliaryAddresses", {})[name] = text
    return list(found.values())


def _network(text: str, before: str = "") -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{before}invalid CIDR address: {text}") from None


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"invalid IP address: {text}") from None


# Listing and removing


def _ls(session: Session, options: Options, arguments: list[str]) -> int:
    answer = session.client.get("/networks", filters(gather_filters(options.many("filter"))))
    found: list[dict[str, Any]] = sorted(answer, key=_by_name)
    trunc = not options.on("no-trunc")
    format_text = options.text("format")
    if options.on("quiet") and not format_text:
        session.out("".join(f"{short_id(n['Id']) if trunc else n['Id']}\n" for n in found))
        return 0
    if not format_text:
        from wherry.cli.config import load_config

        configured = load_config(session.environ).get("networksFormat", "")
        format_text = configured if isinstance(configured, str) else ""
    listing.show(
        session,
        [_network_fields(network, trunc=trunc) for network in found],
        format_text,
        columns=("ID", "Name", "Driver", "Scope"),
        headers=HEADERS,
        type_name="*network.networkContext",
    )
    return 0


def _network_fields(network: dict[str, Any], *, trunc: bool) -> Fields:
    labels: dict[str, str] = mapping(network, "Labels")

    def shown(key: str) -> str:
        return "true" if network.get(key) else "false"

    def label(name: str) -> str:
        return labels.get(name, "")

    return Fields(
        {
            "ID": lambda: short_id(network["Id"]) if trunc else network["Id"],
            "Name": lambda: network["Name"],
            "Driver": lambda: network.get("Driver", ""),
            "Scope": lambda: network.get("Scope", ""),
            "IPv4": lambda: "true" if network.get("EnableIPv4", True) else "false",
            "IPv6": lambda: shown("EnableIPv6"),
            "Internal": lambda: shown("Internal"),
            "Labels": lambda: ",".join(sorted(f"{name}={value}" for name, value in labels.items())),
            "CreatedAt": lambda: network.get("Created", ""),
        },
        {"Label": label},
    )


def _by_name(network: dict[str, Any]) -> list[tuple[int, int, str]]:
    return natural(network["Name"])


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts `net2` before `net10`."""
    parts: list[tuple[int, int, str]] = []
    at = 0
    while at < len(text):
        end = at
        is_number = text[at] in "0123456789"
        while end < len(text) and (text[end] in "0123456789") == is_number:
            end += 1
        part = text[at:end]
        parts.append((0, int(part), part) if is_number else (1, 0, part))
        at = end
    return parts


def _rm(session: Session, options: Options, arguments: list[str]) -> int:
    code = 0
    for name in arguments:
        try:
            session.client.delete(f"/networks/{segment(name)}")
        except WherryError as exc:
            if not (options.on("force") and isinstance(exc, ApiError) and exc.status == 404):
                code = session.fail(exc)
            continue
        session.out(f"{name}\n")
    if code:
        raise Exit(code, f"exit status {code}")
    return 0


def _prune(session: Session, options: Options, arguments: list[str]) -> int:
    if not options.on("force"):
        confirm(session, NETWORKS)
    answer = session.client.post("/networks/prune", filters(gather_filters(options.many("filter"))))
    deleted = items(answer, "NetworksDeleted")
    if deleted:
        session.out("Deleted Networks:\n" + "".join(f"{name}\n" for name in deleted) + "\n")
    return 0


# Containers


def _connect(session: Session, options: Options, arguments: list[str]) -> int:
    network, container = arguments
    driver_options: dict[str, str] = {}
    for text in _all(options, "driver-opt"):
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Exit(1, "invalid key/value pair format in driver options")
        driver_options[name.strip()] = value.strip()
    addresses = {
        "IPv4Address": options.text("ip"),
        "IPv6Address": options.text("ip6"),
        "LinkLocalIPs": _all(options, "link-local-ip"),
    }
    body: dict[str, Any] = {
        "Container": container,
        "EndpointConfig": {
            "IPAMConfig": {key: value for key, value in addresses.items() if value},
            "Links": options.many("link") or None,
            "Aliases": _all(options, "alias"),
            "DriverOpts": driver_options,
            "MacAddress": options.text("mac-address"),
            "GwPriority": options.number("gw-priority"),
        },
    }
    session.client.post(f"/networks/{segment(network)}/connect", value=body)
    return 0


def _disconnect(session: Session, options: Options, arguments: list[str]) -> int:
    network, container = arguments
    session.client.post(
        f"/networks/{segment(network)}/disconnect",
        value={"Container": container, "Force": options.on("force")},
    )
    return 0


COMMANDS = {
    "network connect": Command(
        _connect,
        "[OPTIONS] NETWORK CONTAINER",
        (2, 2),
        (
            ("alias", "", STRINGS, "Add network-scoped alias for the container"),
            ("driver-opt", "", STRINGS, "driver options for the network"),
            (
                "gw-priority",
                "",
                INT,
                "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
            ),
            ("ip", "", STRING, 'IPv4 address (e.g., "172.30.100.104")'),
            ("ip6", "", STRING, 'IPv6 address (e.g., "2001:db8::33")'),
            ("link", "", LIST, "Add link to another container"),
            ("link-local-ip", "", STRINGS, "Add a link-local address for the container"),
            ("mac-address", "", STRING, 'MAC address (e.g., "92:d0:c6:0a:29:33")'),
        ),
        examples="""
wherry network connect --alias db back postgres
wherry network connect --ip 10.5.0.9 --gw-priority 1 front web
""",
    ),
    "network create": Command(
        _create,
        "[OPTIONS] NETWORK",
        (1, 1),
        (
            ("attachable", "", BOOL, "Enable manual container attachment"),
            ("aux-address", "", MAP, "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
            ("config-from", "", STRING, "The network from which to copy the configuration"),
            ("config-only", "", BOOL, "Create a configuration only network"),
            ("driver", "d", STRING, "Driver to manage the Network", "bridge"),
            ("gateway", "", STRINGS, "IPv4 or IPv6 Gateway for the master subnet"),
            ("ingress", "", BOOL, "Create swarm routing-mesh network"),
            ("internal", "", BOOL, "Restrict external access to the network"),
            ("ip-range", "", STRINGS, "Allocate container ip from a sub-range"),
            ("ipam-driver", "", STRING, "IP Address Management Driver", "default"),
            ("ipam-opt", "", MAP, "Set IPAM driver specific options"),
            ("ipv4", "", BOOL, "Enable or disable IPv4 address assignment", True),
            ("ipv6", "", BOOL, "Enable or disable IPv6 address assignment"),
            ("label", "", LIST, "Set metadata on a network"),
            ("opt", "o", MAP, "Set driver specific options"),
            ("scope", "", STRING, "Control the network's scope"),
            ("subnet", "", STRINGS, "Subnet in CIDR format that represents a network segment"),
        ),
        examples="""
wherry network create back
wherry network create --internal --subnet 10.5.0.0/16 --ip-range 10.5.1.0/24 vault
wherry network create --ipv6 -o com.docker.network.bridge.name=br-front front
wherry network create -d macvlan -o parent=eth0.10 --subnet 192.0.2.0/24 lan
""",
    ),
    "network disconnect": Command(
        _disconnect,
        "[OPTIONS] NETWORK CONTAINER",
        (2, 2),
        (("force", "f", BOOL, "Force the container to disconnect from a network"),),
        examples="wherry network disconnect front web",
    ),
    "network inspect": Command(
        inspect_kind("network"),
        "[OPTIONS] NETWORK [NETWORK...]",
        (1, None),
        (
            listing.SHORT_FORMAT_ROW,
            ("verbose", "v", BOOL, "Verbose output for diagnostics"),
        ),
        examples="wherry network inspect -f '{{range .Containers}}{{println .Name .IPv4Address}}{{end}}' back",
    ),
    "network ls": Command(
        _ls,
        "[OPTIONS]",
        (0, 0),
        (
            ("filter", "f", FILTER, 'Provide filter values (e.g. "driver=bridge")'),
            listing.FORMAT_ROW,
            ("no-trunc", "", BOOL, "Do not truncate the output"),
            ("quiet", "q", BOOL, "Only display network IDs"),
        ),
        examples="wherry network ls -f type=custom --format '{{.Name}}: {{.Driver}}'",
    ),
    "network prune": Command(
        _prune,
        "[OPTIONS]",
        (0, 0),
        (
            ("filter", "", FILTER, 'Provide filter values (e.g. "until=<timestamp>")'),
            ("force", "f", BOOL, "Do not prompt for confirmation"),
        ),
        examples="wherry network prune -f --filter until=24h",
    ),
    "network rm": Command(
        _rm,
        "NETWORK [NETWORK...]",
        (1, None),
        (("force", "f", BOOL, "Do not error if the network does not exist"),),
        examples="wherry network rm back front",
    ),
}
