"""What a network driver is, and the plain values it trades in.

A *sandbox* is a network namespace held by descriptor; it has no name on the host, so the kernel removes it, and
the veth that lies in it, when the last descriptor and process are gone. An *endpoint* is one container's place on
one network.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


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
    """How containers join one kind of network."""

    name: str

    async def create(self, network: NetworkConfig) -> None:
        """Make the host's side (bridge, rules). Called at every start too: puts right what is missing."""
        ...

    async def remove(self, network: NetworkConfig) -> None: ...

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: int) -> None:
        """Give the network namespace `sandbox` (a descriptor) its interface, address and routes."""
        ...

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> None:
        """Take the host's side back. Nothing happens when it is gone already."""
        ...
