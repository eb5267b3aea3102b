"""Networks as clients use them: made, listed, looked into, removed; with who is on them by name.

Containers join and leave in connecting.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from wherry.engine.connecting import Connecting, network_attributes
from wherry.engine.events import Events
from wherry.engine.image_filters import until_ns
from wherry.engine.times import rfc3339
from wherry.engine.views import Filters, check_filters, label_matches
from wherry.errors import Forbidden, InvalidParameter, NotFound, WherryError
from wherry.model.containers import EndpointSettings
from wherry.model.networks import (
    IPAM,
    ConfigReference,
    EndpointResource,
    IPAMConfig,
    NetworkCreate,
    NetworkCreated,
    NetworkResource,
    NetworksPruned,
)
from wherry.network.creation import PREDEFINED, NetworkRequest, PoolRequest
from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.networks import Networks

_log = logging.getLogger(__name__)

_KNOWN_FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_PRUNE_FILTERS = frozenset(("until", "label", "label!"))
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

NameOf = Callable[[str], str]


class NetworkDirectory:
    """The engine's networks. `name_of` gives a container's name by its ID."""

    def __init__(
        self, networks: Networks, name_of: NameOf, *, connecting: Connecting, events: Events
    ) -> None:
        self._networks = networks
        self._name_of = name_of
        self._connecting = connecting
        self._events = events

    async def list(self, filters: Filters | None = None) -> list[NetworkResource]:
        """The networks that `filters` lets through, newest first."""
        is_wanted = network_filter(filters or {}, is_used=lambda n: bool(self._networks.endpoints(n.id)))
        return [
            resource(network, (), self._name_of) for network in self._networks.list() if is_wanted(network)
        ]

    async def inspect(self, name_or_id: str) -> NetworkResource:
        network = self._networks.inspect(name_or_id)
        return resource(network, self._networks.endpoints(network.id), self._name_of)

    async def create(self, body: NetworkCreate) -> NetworkCreated:
        """A new network. Its warning tells whose firewall keeps it from other hosts, if one does."""
        network = await self._networks.create(request_of(body))
        self._events.emit("network", "create", network.id, network_attributes(network))
        warnings = [w for w in self._networks.warnings() if network.interface and network.interface in w]
        return NetworkCreated(id=network.id, warning="; ".join(warnings))

    async def remove(self, name_or_id: str) -> None:
        """Docker's texts where containers are on it, or it is one of those that always exist."""
        network = self._networks.inspect(name_or_id)
        endpoints = self._networks.endpoints(network.id)
        if endpoints and network.name not in PREDEFINED:
            users = ", ".join(
                f"name:{json.dumps(self._name_of(e.container_id))} id:{json.dumps(e.id[:12])}"
                for e in endpoints
            )
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints ({users})"
            )
        network = await self._networks.remove(network.id)
        self._events.emit("network", "destroy", network.id, network_attributes(network))

    async def prune(self, filters: Filters | None = None) -> NetworksPruned:
        """Remove every network of a user that nobody is on and that the filters allow."""
        filters = filters or {}
        check_filters(filters, _PRUNE_FILTERS)
        until = until_ns(filters)
        deleted: list[str] = []
        for network in self._networks.list():
            if (
                network.name in PREDEFINED
                or network.config_only
                or self._networks.endpoints(network.id)
                or (until is not None and network.created_ns > until)
                or not label_matches(network.labels, filters.get("label", []))
                or any(label_matches(network.labels, [label]) for label in filters.get("label!", ()))
            ):
                continue
            try:
                await self.remove(network.id)
            except (Forbidden, NotFound):
                continue  # somebody joined or removed it meanwhile
            except (WherryError, OSError) as exc:
                _log.warning("network %s could not be removed: %s", network.name, exc)
                continue
            deleted.append(network.name)
        self._events.emit("network", "prune", "", {"reclaimed": "0"})
        return NetworksPruned(networks_deleted=deleted or None)

    async def connect(
        self, name_or_id: str, container: str, settings: EndpointSettings | None = None
    ) -> None:
        """The container is on the network, now or, when it does not run, from its next start on."""
        await self._connecting.connect(container, name_or_id, settings or EndpointSettings())

    async def disconnect(self, name_or_id: str, container: str, *, force: bool = False) -> None:
        await self._connecting.disconnect(container, name_or_id, force=force)


def request_of(body: NetworkCreate) -> NetworkRequest:
    """A create's body in the network subsystem's terms."""
    ipam = body.ipam or IPAM()
    return NetworkRequest(
        name=body.name,
        driver=body.driver,
        pools=tuple(
            PoolRequest(
                subnet=config.subnet,
                gateway=config.gateway,
                ip_range=config.ip_range,
                auxiliary=config.auxiliary_addresses,
            )
            for config in ipam.config or ()
        ),
        ipam_driver=ipam.driver,
        ipam_options=ipam.options,
        enable_ipv4=body.enable_ipv4,
        enable_ipv6=body.enable_ipv6,
        internal=body.internal,
        attachable=body.attachable,
        ingress=body.ingress,
        scope=body.scope,
        config_only=body.config_only,
        config_from=body.config_from.network if body.config_from is not None else "",
        options=body.options or {},
        labels=body.labels or {},
    )


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
        scope=network.scope,
        enable_ipv4=network.ipv4 is not None or not network.pools,
        enable_ipv6=network.ipv6 is not None,
        ipam=IPAM(driver=network.ipam_driver, options=network.ipam_options, config=config or None),
        config_from=ConfigReference(network.config_from),
        config_only=network.config_only,
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
        is_predefined = network.name in PREDEFINED
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
