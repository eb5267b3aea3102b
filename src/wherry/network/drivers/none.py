"""The `null` driver behind network `none`: a network namespace with nothing but `lo`."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.nat import Firewall
from wherry.network.sandboxes import Maker, Pool, Sandbox


class NoNetwork:
    name = "null"

    def __init__(self, maker: Maker, firewall: Firewall) -> None:
        self._pool = Pool(maker, maker.make)

    async def create(self, network: NetworkConfig) -> None:
        self._pool.refill()

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        pass

    async def remove(self, network: NetworkConfig) -> None:
        pass

    async def sandbox(self, network: NetworkConfig) -> Sandbox | None:
        return await self._pool.take()

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        pass

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> bool:
        return True

    async def reconcile(self, network: NetworkConfig, live: list[Endpoint]) -> None:
        pass

    async def close(self) -> None:
        await self._pool.close()
