"""What a network driver is, and the plain values it trades in.

A *sandbox* is a network namespace held by descriptor; it has no name on the host, so the kernel removes it,
and the veth that lies in it, when the last descriptor and process are gone. An *endpoint* is one
container's place on one network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from wherry.network.sandboxes import Sandbox


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A network as stored. Addresses are text: `172.17.0.0/16`, `172.17.0.1`."""

    id: str
    name: str
    driver: str
    created_ns: int
    subnet: str | None = None
    gateway: str | None = None
    interface: str | None = None  # the bridge's name on the host
    mtu: int = 1500
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One container's place on one network."""

    id: str
    network_id: str
    container_id: str
    address: str = ""  # without prefix; empty on host and none
    prefix_length: int = 0
    gateway: str = ""
    mac: str = ""


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

        Its `id` becomes the endpoint's.
        """
        ...

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        """Give `sandbox` its interface, address and routes on `network`."""
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
