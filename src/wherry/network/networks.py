"""The networks of one engine: those that always exist and those made by users, who is on them, and the host's
side of it all.

`acquire` gives a container its places and its sandbox before it starts, `release` takes them back when it has
ended, `reconcile` does so at a daemon's start for those that ended meanwhile; `connect` and `disconnect` change the
places of one that runs. Nothing here is needed for running containers to go on: bridge, interfaces and rules are the
kernel's.

What a crash can leave behind, and who puts it right: a network's row comes before its bridge and goes after it, so
`open` makes what is missing; an endpoint's row comes before its interface and goes after it, so `reconcile` frees
those of the dead, and the engine those that no container asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import cast

import msgspec

from wherry import plugins
from wherry.errors import Forbidden, Internal, InvalidParameter, NotFound, Unsupported, WherryError
from wherry.linux.killpoint import killpoint
from wherry.network import foreign, nat, rows
from wherry.network.creation import PREDEFINED, NetworkRequest, plan_network
from wherry.network.defaults import (
    DEFAULT_BRIDGE_OPTION,
    HOST_BINDING_OPTION,
    NO_BRIDGE,
    NetworkSettings,
    check_settings,
    choose_bridge,
    firewall_table,
    look_at_bridge,
    new_network,
)
from wherry.network.dns.namespace import NameSockets
from wherry.network.driver import Endpoint, EndpointRequest, NetworkConfig, NetworkDriver
from wherry.network.links import IPNetwork, Links
from wherry.network.places import Places
from wherry.network.pools import PoolSetting, host_networks, local_pool, subnets_of
from wherry.network.publishing import Place, Publisher, WayIn
from wherry.network.requests import check_request
from wherry.network.routing import choose_gateway, set_default_routes
from wherry.network.rule_watch import RuleWatch
from wherry.network.sandboxes import Maker, Sandbox
from wherry.store.database import Database

_log = logging.getLogger(__name__)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A container's places on its networks."""

    endpoints: tuple[Endpoint, ...]  # as asked for
    sandbox: int | None  # the network namespace; closed by `release`: hand out copies. None: the host's
    names: NameSockets | None = None  # the name service's, where the sandbox was made with them: the taker's


class Networks:
    """Open with `await Networks.open(database, settings)`. One per data root."""

    def __init__(self, database: Database, settings: NetworkSettings, firewall: nat.Firewall) -> None:
        self._database = database
        self._settings = settings
        self._firewall = firewall
        self._watch = RuleWatch(
            [firewall.table],
            firewall.restore,
            ignores=lambda sender: sender != 0 and sender == firewall.port_id,
        )
        self.publisher = Publisher(firewall)
        self._maker = Maker()
        self._drivers: dict[str, NetworkDriver] = {}
        self._networks: dict[str, NetworkConfig] = {}
        self._ids: dict[str, str] = {}  # by name
        self._places = Places()
        self._sandboxes: dict[str, int] = {}  # by container: of those that this daemon started
        self._changing = asyncio.Lock()  # held while a network is made or removed
        self._warnings: list[str] = []
        self._has_forwarding6 = False

    @classmethod
    async def open(cls, database: Database, settings: NetworkSettings) -> Networks:
        """Make sure of the default networks and the host's side of all of them, as they were if they were."""
        check_settings(settings)
        wants_bridge = settings.bridge != NO_BRIDGE
        warnings: list[str] = []
        owns_forwarding = False
        if wants_bridge and settings.ip_forward:
            try:
                owns_forwarding = await _enable_forwarding(database)
            except OSError as exc:
                warnings.append(f"containers reach this host only: its routing is off and stays off ({exc})")
        firewall = nat.Firewall(
            firewall_table(settings.bridge),
            accept=settings.firewall_accept,
            is_enabled=settings.iptables and wants_bridge,
            has_ipv6=settings.ip6tables,
            owns_forwarding=owns_forwarding,
        )
        own_pool = await database.run(local_pool)
        if not any(":" in pool.base for pool in settings.default_address_pools):
            pools = (*settings.default_address_pools, PoolSetting(own_pool, 64))
            settings = msgspec.structs.replace(settings, default_address_pools=pools)
        networks = cls(database, settings, firewall)
        networks._warnings = warnings
        try:
            await networks._load()
            await networks._ensure_defaults()
            async with firewall.batch():
                for network in networks._networks.values():
                    await networks._bring_up(network)
            if settings.iptables and wants_bridge:
                networks._watch.start()
        except BaseException:
            await networks.close()
            raise
        return networks

    # Networks

    async def create(self, request: NetworkRequest) -> NetworkConfig:
        """Make the network that `request` asks for. Nothing of it stays when that fails."""
        async with self._changing:
            network = plan_network(
                request,
                settings=self._settings,
                drivers=plugins.driver_names(plugins.NETWORKS),
                networks=list(self._networks.values()),
                on_host=_host_networks(request.options.get("com.docker.network.bridge.name", "")),
            )
            if network.config_only:
                await self._store(network)
                return network
            self._driver(network).check(network, self._networks.values())
            async with AsyncExitStack() as undo:
                undo.push_async_callback(self._take_down, network)
                await self._database.run(lambda c: rows.write_network(c, network))
                killpoint("network-create:row-written")
                await self._put_up(network)
                killpoint("network-create:host-side-made")
                undo.pop_all()
            self._remember(network)
        if not network.internal:
            await self._firewall.check()
        return network

    async def remove(self, name_or_id: str) -> NetworkConfig:
        """Remove a network that nobody is on; what it was. Docker's texts where that cannot be."""
        async with self._changing:
            network = self.inspect(name_or_id)
            if network.name in PREDEFINED:
                raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
            if network.config_only and any(n.config_from == network.name for n in self._networks.values()):
                raise Forbidden(
                    f'error while removing network: configuration network "{network.name}" is in use'
                )
            # From here on no container can come, and those on their way see it gone.
            if self._places.on(network.id):
                raise Forbidden(f"network {network.name} has active endpoints")
            self._forget(network)
            try:
                await asyncio.shield(self._take_down(network))
            except BaseException:
                self._remember(network)
                raise
        return network

    def list(self) -> list[NetworkConfig]:
        return sorted(self._networks.values(), key=lambda network: network.created_ns, reverse=True)

    def inspect(self, name_or_id: str) -> NetworkConfig:
        """The network with this name, ID or unambiguous ID prefix."""
        exact = self._networks.get(self._ids.get(name_or_id, name_or_id))
        if exact is not None:
            return exact
        by_prefix = [n for n in self._networks.values() if name_or_id and n.id.startswith(name_or_id)]
        if len(by_prefix) > 1:  # Docker's texts
            raise InvalidParameter(
                f"network {name_or_id} is ambiguous ({len(by_prefix)} matches found based on ID prefix)"
            )
        if not by_prefix:
            raise NotFound(f"network {name_or_id} not found")
        return by_prefix[0]

    def find(self, name_or_id: str) -> NetworkConfig | None:
        """As `inspect`; None when there is none."""
        try:
            return self.inspect(name_or_id)
        except NotFound:
            return None

    # Containers on them

    async def acquire(self, container_id: str, wanted: Sequence[EndpointRequest]) -> Attachment:
        """Give a container its places on the networks `wanted`, and a sandbox with all of them.

        Without any it is as alone as on `none`. Places it still has from an earlier start are released first.
        """
        asked = [(self._for_container(request), request) for request in wanted]
        await self.release(container_id)
        first = asked[0][0] if asked else self.inspect("none")
        async with AsyncExitStack() as undo:
            sandbox = await self._driver(first).sandbox(first)
            if sandbox is not None:
                undo.callback(sandbox.close)
            undo.push_async_callback(self.release, container_id)
            endpoints = [
                self._take(network, container_id, request, sandbox if network is first else None)
                for network, request in asked
            ]
            # Side by side: the database thread writes while we talk to the kernel.
            written = self._database.run(lambda c: rows.insert_endpoints(c, endpoints), durable=False)
            if sandbox is None:
                await written
            else:
                await asyncio.gather(written, self._join(endpoints, sandbox))
            undo.pop_all()
        if sandbox is None:
            return Attachment(endpoints=tuple(endpoints), sandbox=None)
        names = sandbox.hand_over_names()
        self._sandboxes[container_id] = sandbox.hand_over()
        return Attachment(endpoints=tuple(endpoints), sandbox=self._sandboxes[container_id], names=names)

    async def release(self, container_id: str) -> None:
        """Take a container's places back: its interfaces off their bridges, then its addresses free.

        It may have none. What fails is logged: a container that has ended must end all the same, and an address
        that could not be freed is freed at the next start.
        """
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is not None:
            os.close(sandbox)
        for endpoint in list(self._places.of(container_id).values()):
            await self._leave(endpoint)

    async def connect(self, container_id: str, request: EndpointRequest, netns: int) -> Endpoint:
        """Give a running container a place on one more network. `netns` is closed."""
        sandbox = await self._maker.run(lambda: self._maker.adopt(netns), undo=Sandbox.close)
        try:
            network = self._for_container(request)
            endpoint = self._take(network, container_id, request, None)
            async with AsyncExitStack() as undo:
                undo.push_async_callback(self._part, endpoint, sandbox)
                await self._database.run(lambda c: rows.insert_endpoints(c, [endpoint]))
                killpoint("network-connect:row-written")
                await self._driver(network).connect(network, endpoint, sandbox)
                killpoint("network-connect:interface-made")
                self._set_routes(container_id, sandbox)
                undo.pop_all()
            return endpoint
        finally:
            sandbox.close()

    async def disconnect(self, container_id: str, name_or_id: str, netns: int) -> Endpoint:
        """Take a running container's place on a network away; what it was. `netns` is closed.

        Docker's text where it has none there.
        """
        sandbox = await self._maker.run(lambda: self._maker.adopt(netns), undo=Sandbox.close)
        try:
            network = self.inspect(name_or_id)
            endpoint = self._places.of(container_id).get(network.id)
            if endpoint is None:
                raise Internal(f"container {container_id} is not connected to network {network.name}")
            await asyncio.shield(self._part(endpoint, sandbox))
            return endpoint
        finally:
            sandbox.close()

    async def open_counters(self, netns: int) -> int:
        """/proc/net/dev of that namespace, opened for reading. It keeps the namespace until it is closed."""

        def open_there() -> int:
            return os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)

        return await self._maker.run(lambda: self._maker.enter(netns, open_there), undo=os.close)

    async def reconcile(self, live: Iterable[str]) -> None:
        """At a daemon's start: free the places of all but `live`, and remove interfaces left over."""
        live = set(live)
        for container_id in [c for c in self._places.containers() if c not in live]:
            await self.release(container_id)
        for network in self._networks.values():
            if not network.config_only:
                await self._driver(network).reconcile(network, self.endpoints(network.id))
        await self.publisher.reconcile()

    def way_in(self, container_id: str, *, without: str = "") -> WayIn | None:
        """Where the container's published ports lead: of the networks that can have any, to those that lead out.

        `without`: a network that it is about to leave. None for a container that is on internal networks only, or
        shares the host's.
        """
        places = [
            e for e in self.endpoints_of(container_id) if e.network_id != without and self._publishes(e)
        ]
        by4 = choose_gateway(places, self._networks)
        by6 = choose_gateway(places, self._networks, ipv6=True)
        endpoint = by4 or by6
        if endpoint is None:
            return None
        return WayIn(
            endpoint_id=endpoint.id,
            place=Place(address=by4.address if by4 else "", address6=by6.address6 if by6 else ""),
            default_address=self._publish_address(endpoint),
        )

    def _publish_address(self, endpoint: Endpoint) -> str:
        options = self._networks[endpoint.network_id].options
        if options.get(DEFAULT_BRIDGE_OPTION) == "true":
            return self._settings.publish_address
        return options.get(HOST_BINDING_OPTION, "") or self._settings.publish_address

    def _publishes(self, endpoint: Endpoint) -> bool:
        network = self._networks[endpoint.network_id]
        return network.driver == "bridge" and not network.internal

    def endpoints_of(self, container_id: str) -> tuple[Endpoint, ...]:
        """The container's places, if it has any now."""
        return tuple(self._places.of(container_id).values())

    def endpoints(self, network_id: str) -> list[Endpoint]:
        """Who is on a network now."""
        return self._places.on(network_id)

    # The host

    def warnings(self) -> list[str]:
        """What keeps containers from other hosts, for `info` and for a create's `Warnings`."""
        return self._warnings + self._firewall.warnings()

    async def check_firewall(self) -> None:
        """Look at the host's other firewalls again, for fresh `warnings`. Takes some ms."""
        await self._firewall.check()

    async def close(self) -> None:
        """Stop. What runs goes on running, and what was made ahead of time vanishes."""
        await self._watch.close()
        for driver in self._drivers.values():
            await driver.close()
        self._drivers.clear()
        self._maker.close()
        for sandbox in self._sandboxes.values():
            os.close(sandbox)
        self._sandboxes.clear()
        self._firewall.close()

    async def remove_all(self) -> None:
        """Remove the host's side of everything: bridges, interfaces, rules. For an uninstall; then `close`."""
        for container_id in self._places.containers():
            await self.release(container_id)
        async with self._firewall.batch():
            for network in self._networks.values():
                if not network.config_only:
                    await self._driver(network).remove(network)
        await self._firewall.remove_all()

    # Steps

    def _for_container(self, request: EndpointRequest) -> NetworkConfig:
        """The network a container asks for, with the request checked."""
        network = self.inspect(self._name_for(request.network))
        if network.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")  # Docker's text
        check_request(network.name, request, network)
        return network

    def _name_for(self, network_mode: str) -> str:
        if network_mode in ("", "default"):
            return "none" if self._settings.bridge == NO_BRIDGE else "bridge"
        return network_mode

    def _take(
        self, network: NetworkConfig, container_id: str, request: EndpointRequest, sandbox: Sandbox | None
    ) -> Endpoint:
        if network.id not in self._networks:  # removed while we waited
            raise NotFound(f"network {network.name} not found")
        return self._places.take(
            network, container_id, request, endpoint_id=sandbox.id if sandbox is not None else ""
        )

    async def _join(self, endpoints: Sequence[Endpoint], sandbox: Sandbox) -> None:
        """Each endpoint's interface in `sandbox`, then the way out."""
        for endpoint in endpoints:
            network = self._networks[endpoint.network_id]
            await self._driver(network).connect(network, endpoint, sandbox)
        set_default_routes(sandbox, endpoints, self._networks, is_new=True)

    async def _part(self, endpoint: Endpoint, sandbox: Sandbox) -> None:
        """Take a running container off a network: routes first, so that none leads into an interface that goes."""
        try:
            self._set_routes(endpoint.container_id, sandbox, without=endpoint.network_id)
        except OSError as exc:  # somebody inside changed interfaces or routes: leaving goes on all the same
            _log.warning("container %s is left without its routes: %s", endpoint.container_id, exc)
        killpoint("network-disconnect:routes-changed")
        link = sandbox.links.find(endpoint.interface) if endpoint.interface else None
        if link is not None:
            await asyncio.to_thread(sandbox.links.delete, link.index)
        killpoint("network-disconnect:interface-removed")
        await self._leave(endpoint)

    def _set_routes(self, container_id: str, sandbox: Sandbox, *, without: str = "") -> None:
        places: list[Endpoint] = []
        for endpoint in self._places.of(container_id).values():
            if endpoint.network_id == without or not endpoint.interface:
                continue
            if endpoint.network_id not in sandbox.indexes:
                link = sandbox.links.find(endpoint.interface)
                if link is None:
                    continue  # somebody inside renamed or removed it
                sandbox.indexes[endpoint.network_id] = link.index
            places.append(endpoint)
        set_default_routes(sandbox, places, self._networks, is_new=False)

    async def _leave(self, endpoint: Endpoint) -> None:
        network = self._networks[endpoint.network_id]
        try:
            _, is_clean = await asyncio.gather(
                self._database.run(lambda c: rows.delete_endpoint(c, endpoint), durable=False),
                self._driver(network).disconnect(network, endpoint),
            )
        except (OSError, Internal) as exc:
            _log.error(
                "container %s keeps its address %s for now: %s", endpoint.container_id, endpoint.address, exc
            )
            return
        self._places.leave(endpoint, rest=not is_clean)

    async def _put_up(self, network: NetworkConfig) -> None:
        """The host's side of a network, and what it needs of the host."""
        if network.driver == "bridge" and network.ipv6 is not None and self._settings.ip_forward:
            await self._need_forwarding6()
        await self._driver(network).create(network)

    async def _bring_up(self, network: NetworkConfig) -> None:
        """As `_put_up` at a start: a user's network that cannot be must not keep the engine from starting."""
        if network.config_only:
            return
        try:
            await self._put_up(network)
        except (WherryError, OSError) as exc:
            if network.name in PREDEFINED:
                raise
            _log.error("network %s cannot be used: %s", network.name, exc)
            self._warnings.append(f"network {network.name} cannot be used: {exc}")

    async def _take_down(self, network: NetworkConfig) -> None:
        if not network.config_only:
            await self._driver(network).remove(network)
        killpoint("network-remove:host-side-gone")
        await self._database.run(lambda c: rows.delete_network(c, network))

    async def _need_forwarding6(self) -> None:
        if self._has_forwarding6:
            return
        try:
            if await _enable_forwarding(self._database, 6):
                self._firewall.guard_routes(6)
        except FileNotFoundError as exc:
            raise Unsupported(
                "this host has no IPv6: start its kernel with it, or leave --ipv6 away"
            ) from exc
        except OSError as exc:
            self._warnings.append(f"containers reach this host only over IPv6: its routing stays off ({exc})")
        self._has_forwarding6 = True

    def _driver(self, network: NetworkConfig) -> NetworkDriver:
        driver = self._drivers.get(network.driver)
        if driver is None:
            entry = (
                "none" if network.driver == "null" else network.driver
            )  # Docker shows `none`'s driver as null
            made = plugins.load_driver(plugins.NETWORKS, entry)(self._maker, self._firewall)
            driver = self._drivers[network.driver] = cast("NetworkDriver", made)
        return driver

    # What is known

    async def _load(self) -> None:
        stored, endpoints = await self._database.run(rows.read_all, durable=False)
        for network in stored:
            self._remember(network, [e for e in endpoints if e.network_id == network.id])

    def _remember(self, network: NetworkConfig, endpoints: Iterable[Endpoint] = ()) -> None:
        self._networks[network.id] = network
        self._ids[network.name] = network.id
        self._places.open(network, endpoints)
        if self._settings.firewall_accept and network.interface:
            self._watch.add(foreign.mark_for(self._firewall.table, network.interface))

    def _forget(self, network: NetworkConfig) -> None:
        del self._networks[network.id]
        del self._ids[network.name]
        self._places.close(network)

    async def _store(self, network: NetworkConfig) -> None:
        await self._database.run(lambda c: rows.write_network(c, network))
        self._remember(network)

    async def _ensure_defaults(self) -> None:
        for name, driver in (("none", "null"), ("host", "host")):
            if name not in self._ids:
                await self._store(new_network(name, driver))
        present = self._networks.get(self._ids.get("bridge", ""))
        if self._settings.bridge == NO_BRIDGE:
            if present is not None and not self.endpoints(present.id):
                await self._database.run(lambda c: rows.delete_network(c, present))
                self._forget(present)
            return
        others = [n for n in self._networks.values() if n is not present]
        host = look_at_bridge(self._settings.bridge, subnets_of(others))
        is_used = present is not None and bool(self.endpoints(present.id))
        wanted, warning = choose_bridge(self._settings, present, host, is_used=is_used)
        if warning:
            self._warnings.append(warning)
        if wanted != present:
            await self._store(wanted)


def _host_networks(bridge: str) -> list[IPNetwork]:
    """The subnets the host uses, those on an interface that is to be the bridge left out."""
    links = Links()
    try:
        link = links.find(bridge) if 0 < len(bridge) < 16 else None
        return host_networks(links, ignoring=link.index if link is not None else 0)
    finally:
        links.close()


async def _enable_forwarding(database: Database, version: int = 4) -> bool:
    """Turn routing on. Whether it was us who did, since this boot."""
    boot = nat.boot_id()
    key = "ip_forward_enabled_at_boot" if version == 4 else "ipv6_forward_enabled_at_boot"
    if not nat.is_forwarding(version):
        # Written down first: a daemon that dies in between must not forget whose doing it was.
        await database.run(lambda c: c.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (key, boot)))
        nat.enable_forwarding(version)
        return True

    def read(connection: sqlite3.Connection) -> bool:
        query = "SELECT 1 FROM fact WHERE key = ? AND value = ?"
        return connection.execute(query, (key, boot)).fetchone() is not None

    return await database.run(read, durable=False)
