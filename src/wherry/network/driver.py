"""What a network driver is, and the plain values it trades in.

A *sandbox* is a network namespace held by descriptor; it has no name on the host, so the kernel removes it,
and the interfaces that lie in it, when the last descriptor and process are gone. An *endpoint* is one
container's place on one network; a container has one on each of its networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from wherry.network.sandboxes import Sandbox


class AddressPool(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet of a network, IPv4 or IPv6. Addresses are text: `172.17.0.0/16`, `172.17.0.1`."""

    subnet: str
    gateway: str = ""  # empty: there is none
    ip_range: str = ""  # where addresses are taken from; empty: the whole subnet
    auxiliary: dict[str, str] = {}  # never given out, by the name the administrator gave each
    automatic: bool = False  # wherry chose the subnet: nobody may ask for an address in it, as in Docker

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.subnet


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A network as stored."""

    id: str
    name: str
    driver: str
    created_ns: int
    pools: tuple[AddressPool, ...] = ()
    interface: str | None = None  # the bridge's name on the host
    mtu: int = 1500
    internal: bool = False
    attachable: bool = False
    icc: bool = True
    masquerade: bool = True
    gateway_mode: str = "nat"  # IPv4: nat, nat-unprotected, routed or isolated
    gateway_mode6: str = "nat"
    inhibit_ipv4: bool = False  # the bridge gets no IPv4 address: somebody else is the gateway
    parent: str = ""  # macvlan and ipvlan: the host's interface
    mode: str = ""  # of macvlan or ipvlan
    flag: str = ""  # of ipvlan
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None  # shown as given
    scope: str = "local"
    config_only: bool = False  # a template for others
    config_from: str = ""

    @property
    def has_names(self) -> bool:
        """Whether its containers find each other by name: on every network but Docker's three own ones."""
        return self.name not in ("bridge", "host", "none")

    @property
    def ipv4(self) -> AddressPool | None:
        return next((pool for pool in self.pools if not pool.is_ipv6), None)

    @property
    def ipv6(self) -> AddressPool | None:
        return next((pool for pool in self.pools if pool.is_ipv6), None)

    @property
    def is_routed_by_device(self) -> bool:
        """Whether the default route names the interface and no gateway."""
        return self.driver == "ipvlan" and self.mode in ("l3", "l3s") and not self.internal

    @property
    def has_way_out(self) -> bool:
        """Whether its gateway leads anywhere: not where a network is internal, or hangs on a dummy of ours."""
        return not self.internal and not (self.parent and "parent" not in self.options)

    def masquerades(self, *, ipv6: bool) -> bool:
        """Whether what leaves the network carries the host's address."""
        mode = self.gateway_mode6 if ipv6 else self.gateway_mode
        return self.masquerade and mode.startswith("nat") and not self.internal


class EndpointRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a container asks of one network. Empty: wherry chooses."""

    network: str  # name, ID, or unambiguous ID prefix
    address: str = ""
    address6: str = ""
    mac: str = ""
    interface: str = ""  # its name inside
    link_local: tuple[str, ...] = ()  # further addresses of 169.254.0.0/16 and fe80::/10
    priority: int = 0  # the highest of a container's networks is its default gateway
    aliases: tuple[str, ...] = ()


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One container's place on one network. Addresses are without prefix, and empty where there is none."""

    id: str
    network_id: str
    container_id: str
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    address6: str = ""
    prefix_length6: int = 0
    gateway6: str = ""
    link_local: tuple[str, ...] = ()
    mac: str = ""
    interface: str = ""  # inside; empty on host and none
    priority: int = 0
    aliases: tuple[str, ...] = ()


class NetworkDriver(Protocol):
    """How containers join one kind of network. Built once per daemon, for all networks of its kind."""

    name: str

    async def create(self, network: NetworkConfig) -> None:
        """Make the host's side. Called at every start too: puts right what is missing, disturbs nothing."""
        ...

    async def remove(self, network: NetworkConfig) -> None:
        """Take the host's side down. Nothing happens when it is gone already."""
        ...

    async def sandbox(self, network: NetworkConfig) -> Sandbox | None:
        """A sandbox for a container whose first network this is; None where it shares the host's namespace.

        Its `id` becomes the endpoint's. It may have its interface on `network` already: `sandbox.network_id` says so.
        """
        ...

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        """Give `sandbox` its interface and addresses on `network`. The default route is `routing.py`'s.

        `sandbox` may be a running container's.
        """
        ...

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        """Refuse a new network that the host, or one of `others`, has no room for. Raises WherryError."""
        ...

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> bool:
        """Take the host's side back, at once as far as others on the network can tell. May be gone already.

        False where something of it lives on for a while, so that the address had better rest.
        """
        ...

    async def reconcile(self, network: NetworkConfig, live: list[Endpoint]) -> None:
        """Remove what an earlier daemon left of endpoints that are not in `live`."""
        ...

    async def close(self) -> None:
        """Let go of everything that no container uses. What runs goes on."""
        ...
