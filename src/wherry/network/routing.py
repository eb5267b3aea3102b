"""Which of a container's networks leads out, decided as Docker decides it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.sandboxes import Sandbox


def choose_gateway(
    endpoints: Iterable[Endpoint], networks: Mapping[str, NetworkConfig], *, ipv6: bool = False
) -> Endpoint | None:
    """The endpoint that leads out for one address family, or None.

    The highest priority; then networks that are not internal; then those that lead out for both families;
    then the first name.
    """

    def rank(endpoint: Endpoint) -> tuple[int, bool, int, str]:
        network = networks[endpoint.network_id]
        ways = sum(_leads_out(endpoint, network, ipv6=way) for way in (False, True))
        return -endpoint.priority, network.internal, -ways, network.name

    ways = [e for e in endpoints if _leads_out(e, networks[e.network_id], ipv6=ipv6)]
    return min(ways, key=rank, default=None)


def set_default_routes(
    sandbox: Sandbox, endpoints: Iterable[Endpoint], networks: Mapping[str, NetworkConfig], *, is_new: bool
) -> None:
    """Let the sandbox's default routes be those of `choose_gateway`. `is_new`: it has none yet."""
    endpoints = list(endpoints)
    for ipv6 in (False, True):
        out = choose_gateway(endpoints, networks, ipv6=ipv6)
        if not is_new:
            sandbox.links.remove_default_routes(ipv6=ipv6)
        if out is None:
            continue
        index, gateway = sandbox.indexes[out.network_id], out.gateway6 if ipv6 else out.gateway
        if gateway:
            sandbox.links.add_default_route(index, gateway)
        else:
            sandbox.links.add_device_route(index, ipv6=ipv6)


def _leads_out(endpoint: Endpoint, network: NetworkConfig, *, ipv6: bool) -> bool:
    if ipv6:
        return bool(endpoint.gateway6 or (endpoint.address6 and network.is_routed_by_device))
    return bool(endpoint.gateway or (endpoint.address and network.is_routed_by_device))
