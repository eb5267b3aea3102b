"""Published ports of containers: with the start and the end of one, and, beyond Docker, while it runs.

What a container is to have stands in its record (`PortBindings`, `PublishAllPorts`); what it has, its shim holds as
sockets. A change writes the record first, then acts: a daemon that dies in between leaves a difference, which the next
one's `restore` settles in favour of the record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from wherry.engine.creation import port_specs
from wherry.engine.views import port_map
from wherry.errors import Conflict, Internal, InvalidParameter, NotFound, Unsupported, WherryError
from wherry.linux.killpoint import killpoint
from wherry.model.containers import HostConfig, PortBinding
from wherry.network.ports import (
    PortSpec,
    Publication,
    check_host_ip,
    covers,
    parse_port,
    parse_port_range,
    specs_for,
)
from wherry.network.publishing import Place, Reserved
from wherry.shim.client import Shim, ShimError, ShimGone

if TYPE_CHECKING:
    from wherry.engine.context import Context
    from wherry.engine.records import Container
    from wherry.network.networks import Networks

_log = logging.getLogger(__name__)

_PER_REQUEST = 100
"""Sockets handed to a shim in one message: fewer than protocol.MAX_FDS."""

Bindings = Mapping[str, Sequence[PortBinding] | None]


class Publishing:
    """What start, end and recovery of a container do about its ports. The container's lock is the caller's."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._publisher = networks.publisher

    def reserve(
        self, container: Container, specs: Sequence[PortSpec], *, without: str = ""
    ) -> list[Reserved]:
        """Take the host's ports, all or none. Internal, with Docker's words, when one of them is not to be had.

        `without`, here and below: a network that the container is about to leave.
        """
        way = self._networks.way_in(container.id, without=without)
        if way is None or not specs:
            return []
        try:
            return self._publisher.reserve(container.id, specs, way.place, default=way.default_address)
        except (Internal, Unsupported) as exc:
            raise type(exc)(
                "failed to set up container networking: driver failed programming external connectivity on endpoint"
                f" {container.name} ({way.endpoint_id}): {exc}"
            ) from exc

    def hand_over(
        self, shim: Shim, container_id: str, reserved: Sequence[Reserved], *, without: str = ""
    ) -> list[asyncio.Future[dict[str, Any]]]:
        """Have the shim hold the sockets. Ours are closed when this returns; await the answers before you `open`."""
        place = self._place(container_id, without=without)
        answers: list[asyncio.Future[dict[str, Any]]] = []
        for start in range(0, len(reserved), _PER_REQUEST):
            some = reserved[start : start + _PER_REQUEST]
            answers.append(
                shim.keep(
                    {one.publication.name: one.sock.fileno() for one in some},
                    relay={one.publication.name: place.target(one.publication) for one in some},
                )
            )
        self.let_go(reserved)
        return answers

    def let_go(self, reserved: Iterable[Reserved]) -> None:
        """Close our copies of the sockets."""
        for one in reserved:
            one.sock.close()

    async def open(self, container: Container, *, without: str = "") -> None:
        """Lead the container's ports to where it is now."""
        await self._publisher.open(container.id, self._place(container.id, without=without))
        container.state.ports = self._publisher.of(container.id)

    async def close(self, container: Container) -> None:
        """Take all of the container's ports back."""
        await self._publisher.close(container.id)
        container.state.ports = ()

    async def restore(self, container: Container, shim: Shim, kept: Iterable[str]) -> None:
        """Take note of what a running container has, and settle what an earlier daemon left half-done."""
        self._publisher.adopt(container.id, kept, self._place(container.id))
        container.state.ports = self._publisher.of(container.id)
        await self.retarget(container)

    async def retarget(self, container: Container, *, without: str = "") -> None:
        """A running container has the ports of its record, where it is now. What cannot be had is logged."""
        shim = container.shim
        if shim is None:
            return
        ports, specs = self._publisher.of(container.id), port_specs(container.record)
        if self._networks.way_in(container.id, without=without) is None:
            specs = []
        kept = [p for p in ports if any(covers(s, p) for s in specs)]
        place = self._place(container.id, without=without)
        try:
            await self.withdraw(container, shim, [p for p in ports if p not in kept])
            if kept:
                await shim.keep({}, relay={port.name: place.target(port) for port in kept})
            missing = [s for s in specs if not any(covers(s, p) for p in kept)]
            reserved = self.reserve(container, missing, without=without)
            await asyncio.gather(*self.hand_over(shim, container.id, reserved, without=without))
        except (WherryError, OSError) as exc:
            _log.error("ports of container %s: %s", container.name, exc)
        await self.open(container, without=without)

    async def withdraw(self, container: Container, shim: Shim, ports: Sequence[Publication]) -> None:
        """Take some of the container's ports back while it runs."""
        if ports:
            await self._publisher.close(container.id, ports)
            killpoint("ports:withdrawn")
            await shim.drop([port.name for port in ports])

    def open_to_the_world(self) -> list[tuple[str, Publication]]:
        """Ports that other hosts can reach, as far as wherry is concerned, with the container's ID."""
        return [(owner, port) for owner, port in self._publisher.all() if not port.is_loopback]

    def _place(self, container_id: str, *, without: str = "") -> Place:
        way = self._networks.way_in(container_id, without=without)
        return way.place if way is not None else Place()


class PortChanges:
    """Beyond Docker: publish and withdraw ports of a container, running or not. It is remembered."""

    def __init__(self, context: Context, find: Callable[[str], Container]) -> None:
        self._context = context
        self._find = find

    def list(self, reference: str) -> dict[str, list[PortBinding] | None]:
        return port_map(self._find(reference))

    async def add(self, reference: str, bindings: Bindings) -> dict[str, list[PortBinding] | None]:
        """Publish `bindings` (as in `HostConfig.PortBindings`) too. All of it or nothing; the ports there are now."""
        pairs = {port: [(b.host_ip, b.host_port) for b in asked or ()] for port, asked in bindings.items()}
        specs = specs_for(pairs, (), publish_all=False)
        if not specs:
            raise InvalidParameter("no port specified")
        container = self._find(reference)
        async with container.lock:
            self._require_network(container)
            shim = container.shim
            if not container.state.is_running or shim is None:
                await self._remember(container, _with(container.record.host, specs))
                return {}
            if self._context.networks.way_in(container.id) is None:
                raise Conflict(f"container {container.name} is on no network that ports can be published on")
            before = container.record.host
            reserved = self._context.ports.reserve(container, specs)
            ports = [one.publication for one in reserved]
            killpoint("ports:reserved")
            try:
                await self._remember(container, _with(before, specs))
                killpoint("ports:remembered")
                await asyncio.gather(*self._context.ports.hand_over(shim, container.id, reserved))
                killpoint("ports:kept")
                await self._context.ports.open(container)
            except BaseException as exc:
                self._context.ports.let_go(reserved)
                await self._take_back(container, shim, ports, before)
                if isinstance(exc, (ShimError, ShimGone)):
                    raise Conflict(f"cannot publish ports of container {container.name}: {exc}") from exc
                raise
            await self._context.save_state(container)
            self._tell(container)
            return port_map(container)

    async def remove(
        self, reference: str, port: str, *, host_ip: str = "", host_port: str = ""
    ) -> dict[str, list[PortBinding] | None]:
        """Withdraw `port` (`80/tcp`), from every port of the host, or only from one. The ports that are left."""
        number, protocol = parse_port(port)
        first, last = parse_port_range(host_port) if host_port else (0, 0)
        meant = PortSpec(
            container_port=number,
            protocol=protocol,
            host_ip=check_host_ip(host_ip) if host_ip else "",
            first=first,
            last=last,
        )
        container = self._find(reference)
        async with container.lock:
            self._require_network(container)
            ports = [p for p in container.state.ports if covers(meant, p)]
            left, found = _without(container, meant, ports)
            if not found and not ports:
                where = f" on host port {host_port}" if host_port else ""
                raise NotFound(f"no public port '{number}/{protocol}' published for {container.name}{where}")
            await self._remember(container, left)
            killpoint("ports:forgotten")
            if container.shim is not None and container.state.is_running:
                # A binding that is gone takes along what else came of it: [::] beside 0.0.0.0.
                specs = port_specs(container.record)
                gone = [p for p in container.state.ports if not any(covers(s, p) for s in specs)]
                try:
                    await self._context.ports.withdraw(container, container.shim, gone or ports)
                except (ShimError, ShimGone):
                    pass  # it is ending, and with it the sockets
                await self._context.ports.open(container)
                await self._context.save_state(container)
            self._tell(container)
            return port_map(container)

    async def _take_back(
        self, container: Container, shim: Shim, ports: Sequence[Publication], before: HostConfig
    ) -> None:
        """Undo a publication that failed half-way."""
        try:
            await self._context.ports.withdraw(container, shim, ports)
        except (ShimError, ShimGone):
            pass
        await self._context.ports.open(container)
        if container.record.host is not before:
            container.record.host = before
            await self._context.save_record(container)

    async def _remember(self, container: Container, host: HostConfig) -> None:
        config = container.record.config
        exposed = {} if config.exposed_ports is UNSET else config.exposed_ports
        config.exposed_ports = {**exposed, **{port: {} for port in host.port_bindings or ()}}
        container.record.host = host
        await self._context.save_record(container)

    def _require_network(self, container: Container) -> None:
        mode = container.record.host.network_mode
        if mode == "host" or mode.startswith("container:"):
            raise Conflict(
                f"container {container.name} has no network of its own ({mode}): its ports are where that network is"
            )
        if container.state.status in ("removing", "dead"):
            raise Conflict(f"container {container.name} is marked for removal")

    def _tell(self, container: Container) -> None:
        self._context.events.emit("container", "update", container.id, container.event_attributes())


def _with(host: HostConfig, specs: Iterable[PortSpec]) -> HostConfig:
    """`host` with bindings for `specs` added."""
    bindings = {port: list(asked or ()) for port, asked in (host.port_bindings or {}).items()}
    for spec in specs:
        shown = "" if not spec.first else str(spec.first)
        if spec.last != spec.first:
            shown = f"{spec.first}-{spec.last}"
        binding = PortBinding(host_ip=spec.host_ip, host_port=shown)
        them = bindings.setdefault(f"{spec.container_port}/{spec.protocol}", [])
        if binding not in them:
            them.append(binding)
    return msgspec.structs.replace(host, port_bindings=dict(bindings))


def _without(container: Container, meant: PortSpec, ports: Sequence[Publication]) -> tuple[HostConfig, bool]:
    """The container's `HostConfig` without the bindings that are `meant` or that `ports` came of; and whether any was.

    `-P` becomes bindings for what is left, since it cannot say "all but one".
    """
    host = container.record.host
    was_all = host.publish_all_ports
    if was_all:
        host = msgspec.structs.replace(_with(host, port_specs(container.record)), publish_all_ports=False)
    left: dict[str, list[PortBinding] | None] = {}
    found = False
    for port, asked in (host.port_bindings or {}).items():
        number, protocol = parse_port(port)
        if (number, protocol) != (meant.container_port, meant.protocol):
            left[port] = asked
            continue
        kept: list[PortBinding] = []
        for spec, binding in [
            (specs_for({port: [(b.host_ip, b.host_port)]}, (), publish_all=False)[0], b)
            for b in asked or [PortBinding()]
        ]:
            is_meant = (meant.host_ip in ("", spec.host_ip)) and (
                meant.first == 0 or (meant.first, meant.last) == (spec.first, spec.last)
            )
            if is_meant or any(covers(spec, p) for p in ports):
                found = True
            else:
                kept.append(binding)
        if kept:
            left[port] = kept
    return msgspec.structs.replace(host, port_bindings=left), found
