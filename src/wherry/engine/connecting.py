"""Containers joining and leaving networks: `network connect` and `disconnect`, on those that run and those that do not.

What is asked for is in the container's record. Of a running container the record changes last when it joins and first
when it leaves, so after a crash a place that no record asks for is one to be taken back (`mend`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from wherry.engine.context import Context
from wherry.engine.creation import check_endpoints, endpoint_request
from wherry.engine.records import Container
from wherry.errors import Conflict, Forbidden, Internal, InvalidParameter, NotFound, WherryError
from wherry.linux.killpoint import killpoint
from wherry.model.containers import EndpointSettings
from wherry.network.driver import NetworkConfig
from wherry.shim.client import ShimError, ShimGone

_log = logging.getLogger(__name__)

_SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"
_PRIVATE = (
    "container cannot be connected to multiple networks with one of the networks in private (none) mode"
)


class Connecting:
    """`find` looks a container up by name or ID."""

    def __init__(self, context: Context, find: Callable[[str], Container]) -> None:
        self._context = context
        self._find = find

    async def connect(self, reference: str, network_ref: str, settings: EndpointSettings) -> None:
        """All texts are Docker's."""
        container = self._find(reference)
        async with container.lock:
            _check_removal(container)
            try:
                network = self._context.networks.inspect(network_ref)
            except NotFound:
                if container.state.is_running:
                    raise
                network = None  # a start says so if there still is none by then
            name = network.name if network is not None else network_ref
            is_there = name in container.record.endpoints
            if is_there and container.state.is_running:
                raise Forbidden(f"endpoint with name {container.name} already exists in network {name}")
            if network is not None:
                self._check_combination(container, network)
            check_endpoints({name: settings}, self._context.networks.find)
            if container.state.is_running:
                await self._join(container, name, settings)
            container.record.endpoints = {**container.record.endpoints, name: settings}
            if container.state.is_running and name in container.state.endpoints:
                await self._context.naming.connected(container, container.state.endpoints[name])
            await self._context.save_record(container)
            killpoint("connect:record-written")
        if container.state.is_running and network is not None:
            self._tell("connect", network, container)

    async def disconnect(self, reference: str, network_ref: str, *, force: bool) -> None:
        """All texts are Docker's. `force` is for a network that no longer exists."""
        try:
            container = self._find(reference)
        except NotFound as exc:
            if not force:
                raise
            self._context.networks.inspect(network_ref)
            raise NotFound(f"endpoint {reference} not found") from exc
        async with container.lock:
            _check_removal(container)
            network = self._context.networks.find(network_ref)
            if network is None and container.state.is_running and not force:
                raise NotFound(f"network {network_ref} not found")
            name = network.name if network is not None else network_ref
            if network is not None and network.driver == "host" and container.state.is_running:
                raise InvalidParameter(
                    "cannot disconnect container from host network - container was created in host network mode"
                )
            if name not in container.record.endpoints and name not in container.state.endpoints:
                the = "" if container.state.is_running and network is not None else "the "
                raise Internal(f"container {container.id} is not connected to {the}network {name}")
            left = {key: value for key, value in container.record.endpoints.items() if key != name}
            container.record.endpoints = left
            await self._context.save_record(container)
            killpoint("disconnect:record-written")
            was_running = container.state.is_running and network is not None
            if was_running:
                await self._part(container, name)
        if was_running and network is not None:
            self._tell("disconnect", network, container)

    async def mend(self, container: Container) -> None:
        """After a crash: take back the running container's places that its record does not ask for."""
        networks = self._context.networks
        for endpoint in networks.endpoints_of(container.id):
            name = networks.inspect(endpoint.network_id).name
            if name in container.record.endpoints:
                continue
            try:
                netns = await self._netns(container)
                await networks.disconnect(container.id, endpoint.network_id, netns)
                self._context.naming.disconnected(container, endpoint)
            except (WherryError, OSError) as exc:
                _log.error("container %s cannot be taken off network %s: %s", container.id, name, exc)

    async def _join(self, container: Container, name: str, settings: EndpointSettings) -> None:
        netns = await self._netns(container)
        endpoint = await self._context.networks.connect(container.id, endpoint_request(name, settings), netns)
        container.state.endpoints = {**container.state.endpoints, name: endpoint}
        await self._context.ports.retarget(container)
        await self._context.save_state(container)

    async def _part(self, container: Container, name: str) -> None:
        # Ports first: what they lead to may be another container's address a moment later.
        network = self._context.networks.inspect(name)
        await self._context.ports.retarget(container, without=network.id)
        netns = await self._netns(container)
        await self._context.networks.disconnect(container.id, name, netns)
        endpoint = container.state.endpoints.get(name)
        container.state.endpoints = {k: v for k, v in container.state.endpoints.items() if k != name}
        if endpoint is not None:
            self._context.naming.disconnected(container, endpoint)
        await self._context.save_state(container)

    async def _netns(self, container: Container) -> int:
        shim = container.shim
        try:
            if shim is None:
                raise ShimGone
            return await shim.descriptor("netns")
        except (ShimGone, ShimError) as exc:
            raise Conflict(f"container {container.id} is not running") from exc

    def _check_combination(self, container: Container, network: NetworkConfig) -> None:
        """What cannot be together, in the order in which Docker looks."""
        mode = container.record.host.network_mode
        if mode.startswith("container:"):
            raise InvalidParameter(_SHARED)
        if network.driver == "host" and mode != "host":
            raise InvalidParameter(
                "cannot connect container to host network - container must be created in host network mode"
            )
        present = (self._context.networks.find(name) for name in container.record.endpoints)
        for other in present:
            if other is None or other.id == network.id:
                continue
            if "host" in (other.driver, network.driver):
                raise InvalidParameter(_SHARED)
            if "none" in (other.name, network.name):
                raise InvalidParameter(_PRIVATE)

    def _tell(self, action: str, network: NetworkConfig, container: Container) -> None:
        attributes = {**network_attributes(network), "container": container.id}
        self._context.events.emit("network", action, network.id, attributes)


def network_attributes(network: NetworkConfig) -> dict[str, str]:
    """What every event of this network carries."""
    return {"name": network.name, "type": network.driver}


def _check_removal(container: Container) -> None:
    if container.state.status in ("removing", "dead"):
        raise Internal(
            f"Container {container.id} is marked for removal and cannot be connected or disconnected to the network"
        )
