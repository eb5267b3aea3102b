"""The `host` driver: the container stays in the host's network namespace."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.nat import Firewall
from wherry.network.sandboxes import Maker, Sandbox


class Host:
    name = "host"

    def __init__(self, maker: Maker, firewall: Firewall) -> None:
        pass

    async def create(self, network: NetworkConfig) -> None:
        pass

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        pass

    async def remove(self, network: NetworkConfig) -> None:
        pass

    async def sandbox(self, network: NetworkConfig) -> Sandbox | None:
        return None

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        pass

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> bool:
        return True

    async def reconcile(self, network: NetworkConfig, live: list[Endpoint]) -> None:
        pass

    async def close(self) -> None:
        pass
