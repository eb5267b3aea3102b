"""Published ports as values: what a client asks for, what it gets, and who has which port of the host.

    80/tcp + {HostIp: "", HostPort: "8000-8010"}   ──parse──►  PortSpec (what is asked, checked)
    PortSpec + free ports of the host              ──Ledger──► Publication (one address, one port)

No sockets and no rules here: `publishing.py` acts. Messages marked so are Docker's, byte for byte.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from wherry.errors import InvalidParameter

PROTOCOLS = ("tcp", "udp", "sctp")
ANY4, ANY6 = "0.0.0.0", "::"
LAST_PORT = 65535
_DEFAULT_EPHEMERAL = (49153, 65535)  # where the kernel says nothing
_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"


class PortSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One port to publish. `first` and `last`: the host's ports to choose from, both 0 for any free one."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""  # empty: every address, or what the network or the daemon says
    first: int = 0
    last: int = 0


class Publication(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A port of the host that leads to a container's: one protocol, one address, one port."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int

    @property
    def name(self) -> str:
        """What its socket is kept by in the shim: everything there is to know about it."""
        return f"port/{self.protocol}/{self.host_ip}/{self.host_port}/{self.container_port}"

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host_ip

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host_ip).is_loopback

    @property
    def is_wildcard(self) -> bool:
        return self.host_ip in (ANY4, ANY6)

    @classmethod
    def from_name(cls, name: str) -> Publication | None:
        """The publication that `name` was made of; None for what else a shim keeps."""
        parts = name.split("/")
        if len(parts) != 5 or parts[0] != "port" or parts[1] not in PROTOCOLS:
            return None
        _, protocol, host_ip, host_port, container_port = parts
        return cls(
            protocol=protocol,
            host_ip=host_ip,
            host_port=int(host_port),
            container_port=int(container_port),
        )


def parse_port(text: str) -> tuple[int, str]:
    """`80/tcp` or `80` as (80, "tcp"). Raises InvalidParameter with Docker's text."""
    number, slash, protocol = text.partition("/")
    protocol = protocol.lower()
    if not _is_port(number) or (slash and protocol not in PROTOCOLS):
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return int(number), protocol or "tcp"


def parse_port_range(text: str) -> tuple[int, int]:
    """`8080` or `8000-8010` as the first and the last. Raises InvalidParameter with Docker's text."""
    first, dash, last = text.partition("-")
    if not dash:
        last = first
    if not _is_port(first, lowest=0) or not _is_port(last, lowest=0) or int(first) > int(last):
        raise InvalidParameter(f'invalid port specification: "{text}"')
    if int(first) == 0 and dash:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return int(first), int(last)


def parse_binding(port: str, host_ip: str, host_port: str) -> PortSpec:
    """One entry of `PortBindings`. An empty or zero host port asks for any free one."""
    container_port, protocol = parse_port(port)
    first, last = parse_port_range(host_port) if host_port else (0, 0)
    if host_ip:
        host_ip = check_host_ip(host_ip)
    return PortSpec(container_port=container_port, protocol=protocol, host_ip=host_ip, first=first, last=last)


def check_host_ip(text: str) -> str:
    """An address in its shortest form."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as exc:
        raise InvalidParameter(f"invalid IP address in port mapping: {text}") from exc
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        raise InvalidParameter(f"invalid IP address in port mapping: {text}")
    return str(address)


def specs_for(
    bindings: Mapping[str, Sequence[tuple[str, str]]], exposed: Iterable[str], *, publish_all: bool
) -> list[PortSpec]:
    """What `PortBindings` (as (address, port) pairs by container port) and `-P` ask for, by container port.

    A port with an empty list gets any free one, as Docker gives it. `-P` adds the exposed ports that have none.
    """
    wanted: dict[tuple[int, str], list[PortSpec]] = {}
    for port, pairs in bindings.items():
        found = [parse_binding(port, host_ip, host_port) for host_ip, host_port in pairs or [("", "")]]
        wanted.setdefault(parse_port(port), []).extend(found)
    if publish_all:
        for port in exposed:
            number, protocol = parse_port(port)
            if (number, protocol) not in wanted:
                wanted[number, protocol] = [PortSpec(container_port=number, protocol=protocol)]
    specs = [spec for key in sorted(wanted) for spec in dict.fromkeys(wanted[key])]
    # Those that leave no choice first: a range must not take what another asks for by number.
    return sorted(specs, key=lambda spec: (spec.first == 0, spec.last - spec.first))


def addresses_for(spec: PortSpec, default: str, *, has_ipv6: bool) -> tuple[str, ...]:
    """The host's addresses that `spec` binds, all with the same port.

    `default`: where a port is bound that names no address; "" or 0.0.0.0 mean every address, IPv6 ones too.
    """
    host_ip = spec.host_ip or default
    if not spec.host_ip and default in ("", ANY4):
        return (ANY4, ANY6) if has_ipv6 else (ANY4,)
    return (host_ip,)


def ephemeral_range() -> tuple[int, int]:
    """The ports that are given out where none is asked for, as Docker: the kernel's own range."""
    try:
        with open(_RANGE_FILE) as file:
            first, last = file.read().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return _DEFAULT_EPHEMERAL


def covers(spec: PortSpec, publication: Publication) -> bool:
    """Whether `publication` is what `spec` asked for."""
    return (
        (spec.container_port, spec.protocol) == (publication.container_port, publication.protocol)
        and spec.host_ip in ("", publication.host_ip)
        and (spec.first == 0 or spec.first <= publication.host_port <= spec.last)
    )


class Ledger:
    """Which ports of the host are whose. Only what wherry published: other programs' are the kernel's to know."""

    def __init__(self, ephemeral: tuple[int, int] | None = None) -> None:
        self._ephemeral = ephemeral or ephemeral_range()
        self._owners: dict[tuple[str, int], dict[str, str]] = {}  # by protocol and port; then by address
        self._last: dict[str, int] = {}  # by protocol: the last one given out unasked

    def holder(self, protocol: str, address: str, port: int) -> str:
        """Who has a port that would be in the way; "" when it is free."""
        for other, owner in self._owners.get((protocol, port), {}).items():
            if (":" in other) == (":" in address) and (
                other == address or other in (ANY4, ANY6) or address in (ANY4, ANY6)
            ):
                return owner
        return ""

    def take(self, publication: Publication, owner: str) -> None:
        key = (publication.protocol, publication.host_port)
        self._owners.setdefault(key, {})[publication.host_ip] = owner

    def free(self, publication: Publication) -> None:
        key = (publication.protocol, publication.host_port)
        owners = self._owners.get(key, {})
        owners.pop(publication.host_ip, None)
        if not owners:
            self._owners.pop(key, None)

    def candidates(self, spec: PortSpec, addresses: Sequence[str]) -> Iterable[int]:
        """The ports that `spec` allows and nobody here has, in the order to try them.

        Those given out unasked go round the range, so that one that was just freed rests.
        """
        if spec.first:
            numbers: Iterable[int] = range(spec.first, spec.last + 1)
        else:
            first, last = self._ephemeral
            begin = self._last.get(spec.protocol, first - 1) + 1
            numbers = [*range(begin, last + 1), *range(first, begin)]
        for number in numbers:
            if not any(self.holder(spec.protocol, address, number) for address in addresses):
                if not spec.first:
                    self._last[spec.protocol] = number
                yield number


def already_allocated(address: str, port: int) -> str:
    """Docker's text."""
    shown = f"[{address}]" if ":" in address else address
    return f"Bind for {shown}:{port} failed: port is already allocated"


def cannot_bind(address: str, port: int, protocol: str, reason: str) -> str:
    """Docker's text."""
    shown = f"[{address}]" if ":" in address else address
    return f"failed to bind host port {shown}:{port}/{protocol}: {reason}"


def _is_port(text: str, *, lowest: int = 1) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= LAST_PORT
