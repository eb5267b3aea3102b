"""Networks as clients see them: lists and inspects, with who is on them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wherry.engine.times import rfc3339
from wherry.engine.views import Filters, check_filters, label_matches
from wherry.errors import InvalidParameter
from wherry.model.networks import IPAM, EndpointResource, IPAMConfig, NetworkResource
from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.networks import Networks

_KNOWN_FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_PREDEFINED = frozenset(("bridge", "host", "none"))
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

NameOf = Callable[[str], str]


class NetworkDirectory:
    """`docker network ls` and `inspect`. `name_of` gives a container's name by its ID."""

    def __init__(self, networks: Networks, name_of: NameOf) -> None:
        self._networks = networks
        self._name_of = name_of

    async def list(self, filters: Filters | None = None) -> list[NetworkResource]:
        """The networks that `filters` lets through, newest first."""
        is_wanted = network_filter(filters or {}, is_used=lambda n: bool(self._networks.endpoints(n.id)))
        return [
            resource(network, (), self._name_of) for network in self._networks.list() if is_wanted(network)
        ]

    async def inspect(self, name_or_id: str) -> NetworkResource:
        network = self._networks.inspect(name_or_id)
        return resource(network, self._networks.endpoints(network.id), self._name_of)


def resource(network: NetworkConfig, endpoints: Sequence[Endpoint], name_of: NameOf) -> NetworkResource:
    """A network in the API's words."""
    config = [
        IPAMConfig(
            subnet=pool.subnet,
            ip_range=pool.ip_range,
            gateway=pool.gateway,
            auxiliary_addresses=dict(pool.auxiliary),
        )
        for pool in network.pools
    ]
    return NetworkResource(
        name=network.name,
        id=network.id,
        created=rfc3339(network.created_ns),
        driver=network.driver,
        enable_ipv6=network.ipv6 is not None,
        ipam=IPAM(config=config or None),
        internal=network.internal,
        attachable=network.attachable,
        containers={e.container_id: _endpoint(e, name_of(e.container_id)) for e in endpoints},
        options=dict(network.options),
        labels=dict(network.labels),
    )


def _endpoint(endpoint: Endpoint, name: str) -> EndpointResource:
    return EndpointResource(
        name=name,
        endpoint_id=endpoint.id,
        mac_address=endpoint.mac,
        ipv4_address=f"{endpoint.address}/{endpoint.prefix_length}" if endpoint.address else "",
        ipv6_address=f"{endpoint.address6}/{endpoint.prefix_length6}" if endpoint.address6 else "",
    )


def network_filter(
    filters: Filters, *, is_used: Callable[[NetworkConfig], bool]
) -> Callable[[NetworkConfig], bool]:
    """Docker's rules for `network ls --filter`: keys are ANDed, values of a key ORed, labels ANDed.

    `id` and `name` look for a part of the text, at its ends with ^ and $. (Docker takes any regular
    expression; ours can take exponential time.) Raises InvalidParameter, with Docker's texts, for a key or
    value nobody knows.
    """
    check_filters(filters, _KNOWN_FILTERS)
    types = set(filters.get("type", ()))
    for value in types - {"builtin", "custom"}:
        raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    dangling = {_boolean("dangling", value) for value in filters.get("dangling", ())}

    def matches(network: NetworkConfig) -> bool:
        is_predefined = network.name in _PREDEFINED
        is_dangling = not is_predefined and not is_used(network)
        return (
            (not filters.get("driver") or network.driver in filters["driver"])
            and (not filters.get("scope") or "local" in filters["scope"])
            and (not types or ("builtin" if is_predefined else "custom") in types)
            and (not dangling or is_dangling in dangling)
            and label_matches(network.labels, filters.get("label", []))
            and (not filters.get("name") or any(_holds(network.name, text) for text in filters["name"]))
            and (not filters.get("id") or any(_holds(network.id, text) for text in filters["id"]))
        )

    return matches


def _holds(value: str, text: str) -> bool:
    part = text.removeprefix("^").removesuffix("$")
    if text.startswith("^") and text.endswith("$"):
        return value == part
    if text.startswith("^"):
        return value.startswith(part)
    return value.endswith(part) if text.endswith("$") else part in value


def _boolean(name: str, value: str) -> bool:
    known = _BOOLEANS.get(value)
    if known is None:
        raise InvalidParameter(
            f'invalid value for filter \'{name}\', must be "true" (or "1"), or "false" (or "0")'
        )
    return known
