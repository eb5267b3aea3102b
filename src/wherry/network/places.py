"""Who is on which network, with which addresses: in memory, and as rows that make a double allocation impossible."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from wherry.errors import Forbidden
from wherry.network.driver import AddressPool, Endpoint, EndpointRequest, NetworkConfig
from wherry.network.ipam import Addresses, mac_for
from wherry.network.requests import check_mac


class Places:
    """Changed by `Networks` alone. A place is taken in memory at once, and written by the caller before it counts."""

    def __init__(self) -> None:
        self._by_container: dict[str, dict[str, Endpoint]] = {}  # then by network
        self._by_network: dict[str, dict[str, Endpoint]] = {}  # then by container
        self._addresses: dict[str, list[Addresses]] = {}  # one for each pool of a network

    def open(self, network: NetworkConfig, endpoints: Iterable[Endpoint] = ()) -> None:
        """Let places be taken on `network`, where `endpoints` are already; again, when its pools have changed."""
        endpoints = list(endpoints)
        self._by_network[network.id] = {e.container_id: e for e in endpoints}
        for endpoint in endpoints:
            self._by_container.setdefault(endpoint.container_id, {})[network.id] = endpoint
        taken = [a for e in endpoints for a in (e.address, e.address6) if a]
        self._addresses[network.id] = [
            Addresses(
                pool,
                [a for a in taken if (":" in a) == pool.is_ipv6],
                network=f"{network.name} ({network.id})",
            )
            for pool in (() if network.config_only else network.pools)
        ]

    def close(self, network: NetworkConfig) -> None:
        """No more places on it; it must be empty."""
        self._by_network.pop(network.id, None)
        self._addresses.pop(network.id, None)

    def of(self, container_id: str) -> Mapping[str, Endpoint]:
        """A container's places, by network."""
        return self._by_container.get(container_id, {})

    def on(self, network_id: str) -> list[Endpoint]:
        """Who is on a network."""
        return list(self._by_network.get(network_id, {}).values())

    def containers(self) -> list[str]:
        return list(self._by_container)

    def take(
        self, network: NetworkConfig, container_id: str, request: EndpointRequest, *, endpoint_id: str = ""
    ) -> Endpoint:
        """Take addresses, and the place. Raises Forbidden where there is none, or the container has one already."""
        if network.id in self.of(container_id):  # Docker's text, with the ID for a name it knows
            raise Forbidden(f"endpoint with name {container_id} already exists in network {network.name}")
        address = address6 = ""
        pool = pool6 = None
        try:
            if network.ipv4 is not None:
                address, pool = self._take_address(network, request.address, ipv6=False)
            if network.ipv6 is not None:
                address6, pool6 = self._take_address(network, request.address6, ipv6=True)
        except BaseException:
            self._give_back(network.id, address, rest=False)
            raise
        has_interface = network.driver not in ("host", "null")
        has_mac = has_interface and network.driver != "ipvlan"
        mac = (check_mac(request.mac) if request.mac else mac_for(address)) if has_mac else ""
        endpoint = Endpoint(
            id=endpoint_id or secrets.token_hex(32),
            network_id=network.id,
            container_id=container_id,
            address=address,
            prefix_length=_prefix_length(pool),
            gateway=pool.gateway if pool is not None and network.has_way_out else "",
            address6=address6,
            prefix_length6=_prefix_length(pool6),
            gateway6=pool6.gateway if pool6 is not None and network.has_way_out else "",
            link_local=request.link_local,
            mac=mac,
            interface=(request.interface or self._free_interface(container_id)) if has_interface else "",
            priority=request.priority,
            aliases=request.aliases,
        )
        self._by_container.setdefault(container_id, {})[network.id] = endpoint
        self._by_network.setdefault(network.id, {})[container_id] = endpoint
        return endpoint

    def leave(self, endpoint: Endpoint, *, rest: bool) -> None:
        """The place is free again; its addresses come last if they are to `rest`. It may be free already."""
        places = self._by_container.get(endpoint.container_id, {})
        if places.get(endpoint.network_id) is not endpoint:
            return
        del places[endpoint.network_id]
        if not places:
            del self._by_container[endpoint.container_id]
        self._by_network.get(endpoint.network_id, {}).pop(endpoint.container_id, None)
        for address in (endpoint.address, endpoint.address6):
            self._give_back(endpoint.network_id, address, rest=rest)

    def _take_address(
        self, network: NetworkConfig, wanted: str, *, ipv6: bool
    ) -> tuple[str, AddressPool | None]:
        """`wanted` from the pool it lies in, else the first free address of all pools of the family."""
        full: Forbidden | None = None
        for addresses, pool in zip(self._addresses[network.id], network.pools, strict=True):
            if pool.is_ipv6 != ipv6 or (wanted and not addresses.holds(wanted)):
                continue
            try:
                return addresses.take(wanted), pool
            except Forbidden as exc:
                full = exc
                if wanted:
                    raise
        if full is not None:
            raise full
        return "", None

    def _give_back(self, network_id: str, address: str, *, rest: bool) -> None:
        for addresses in self._addresses.get(network_id, ()) if address else ():
            if addresses.holds(address):
                addresses.release(address, rest=rest)

    def _free_interface(self, container_id: str) -> str:
        used = {endpoint.interface for endpoint in self.of(container_id).values()}
        number = 0
        while f"eth{number}" in used:
            number += 1
        return f"eth{number}"


def _prefix_length(pool: AddressPool | None) -> int:
    return int(pool.subnet.partition("/")[2]) if pool is not None else 0
