"""The networks of one engine: those that always exist and those made by users, who is on them, and the host's
side of it all.

`acquire` gives a container its places and its sandbox before it starts, `release` takes them back when it has
ended, `reconcile` does so at a daemon's start for those that ended meanwhile. Nothing here is needed
for running containers to go on: bridge, interfaces and rules are the kernel's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import cast

import msgspec

from wherry import plugins
from wherry.errors import Internal, InvalidParameter, NotFound
from wherry.network import foreign, nat
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
from wherry.network.driver import Endpoint, EndpointRequest, NetworkConfig, NetworkDriver
from wherry.network.ipam import Addresses, mac_for
from wherry.network.publishing import Publisher
from wherry.network.rule_watch import RuleWatch
from wherry.network.sandboxes import Maker, Sandbox
from wherry.store.database import Database

_log = logging.getLogger(__name__)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A container's places on its networks."""

    endpoints: tuple[Endpoint, ...]  # as asked for
    sandbox: int | None  # the network namespace; closed by `release`: hand out copies. None: the host's


class Networks:
    """Open with `await Networks.open(database, settings)`. One per data root."""

    def __init__(self, database: Database, settings: NetworkSettings, firewall: nat.Firewall) -> None:
        self._database = database
        self._settings = settings
        self._firewall = firewall
        marks = [foreign.mark_for(firewall.table, settings.bridge)] if settings.firewall_accept else []
        self._watch = RuleWatch(
            [firewall.table, *marks],
            firewall.restore,
            ignores=lambda sender: sender != 0 and sender == firewall.port_id,
        )
        self.publisher = Publisher(firewall)
        self._maker = Maker()
        self._drivers: dict[str, NetworkDriver] = {}
        self._networks: dict[str, NetworkConfig] = {}
        self._addresses: dict[str, Addresses] = {}
        self._endpoints: dict[str, dict[str, Endpoint]] = {}  # by container, then by network
        self._sandboxes: dict[str, int] = {}  # by container: of those that this daemon started
        self._warnings: list[str] = []

    @classmethod
    async def open(cls, database: Database, settings: NetworkSettings) -> Networks:
        """Make sure of the default networks and the host's side of them, as they were if they were."""
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
            owns_forwarding=owns_forwarding,
        )
        networks = cls(database, settings, firewall)
        networks._warnings = warnings
        try:
            await networks._load()
            await networks._ensure_defaults()
            for network in networks._networks.values():
                await networks._driver(network).create(network)
            if settings.iptables and wants_bridge:
                networks._watch.start()
        except BaseException:
            await networks.close()
            raise
        return networks

    async def acquire(self, container_id: str, wanted: Sequence[EndpointRequest]) -> Attachment:
        """Give a container its places on the networks `wanted`, one at least, and a sandbox with all of them.

        Places it still has from an earlier start are released first.
        """
        asked = [(self.inspect(self._name_for(request.network)), request) for request in wanted]
        await self.release(container_id)
        first = asked[0][0]
        async with AsyncExitStack() as undo:
            sandbox = await self._driver(first).sandbox(first)
            if sandbox is not None:
                undo.callback(sandbox.close)
            undo.push_async_callback(self.release, container_id)
            endpoints = [
                self._place(network, container_id, request, sandbox if network is first else None, number)
                for number, (network, request) in enumerate(asked)
            ]
            # Side by side: the database thread writes while we talk to the kernel.
            written = self._database.run(lambda c: _insert(c, endpoints), durable=False)
            if sandbox is None:
                await written
            else:
                await asyncio.gather(written, self._connect(endpoints, sandbox))
            undo.pop_all()
        if sandbox is None:
            return Attachment(endpoints=tuple(endpoints), sandbox=None)
        self._sandboxes[container_id] = sandbox.hand_over()
        return Attachment(endpoints=tuple(endpoints), sandbox=self._sandboxes[container_id])

    async def release(self, container_id: str) -> None:
        """Take a container's places back: its interfaces off their bridges, then its addresses free.

        It may have none. What fails is logged: a container that has ended must end all the same, and an address
        that could not be freed is freed at the next start.
        """
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is not None:
            os.close(sandbox)
        for endpoint in list(self._endpoints.get(container_id, {}).values()):
            await self._leave(endpoint)

    async def _leave(self, endpoint: Endpoint) -> None:
        network = self._networks[endpoint.network_id]
        try:
            _, is_clean = await asyncio.gather(
                self._database.run(lambda c: _delete(c, endpoint), durable=False),
                self._driver(network).disconnect(network, endpoint),
            )
        except (OSError, Internal) as exc:
            _log.error(
                "container %s keeps its address %s for now: %s", endpoint.container_id, endpoint.address, exc
            )
            return
        places = self._endpoints.get(endpoint.container_id, {})
        if places.get(network.id) is endpoint:
            del places[network.id]
            if not places:
                del self._endpoints[endpoint.container_id]
            if endpoint.address:
                self._addresses[network.id].release(endpoint.address, rest=not is_clean)

    async def _connect(self, endpoints: Sequence[Endpoint], sandbox: Sandbox) -> None:
        """Each endpoint's interface in `sandbox`, then the way out."""
        for endpoint in endpoints:
            network = self._networks[endpoint.network_id]
            await self._driver(network).connect(network, endpoint, sandbox)
        out = self._gateway(endpoints)
        if out is not None:
            sandbox.links.add_default_route(sandbox.indexes[out.network_id], out.gateway)

    def _gateway(self, endpoints: Iterable[Endpoint]) -> Endpoint | None:
        """The endpoint that leads out: of those with a gateway the highest priority, then the first name, as Docker."""
        return min(
            (endpoint for endpoint in endpoints if endpoint.gateway),
            key=lambda endpoint: (-endpoint.priority, self._networks[endpoint.network_id].name),
            default=None,
        )

    async def reconcile(self, live: Iterable[str]) -> None:
        """At a daemon's start: free the places of all but `live`, and remove interfaces left over."""
        live = set(live)
        for container_id in [c for c in self._endpoints if c not in live]:
            await self.release(container_id)
        for network in self._networks.values():
            await self._driver(network).reconcile(network, self.endpoints(network.id))
        await self.publisher.reconcile()

    def way_in(self, container_id: str) -> Endpoint | None:
        """The place that the container's published ports lead to: of those that can have any, the one that leads out.

        None for a container that is on internal networks only, or shares the host's.
        """
        return self._gateway(e for e in self.endpoints_of(container_id) if self._publishes(e))

    def publish_address(self, endpoint: Endpoint) -> str:
        """Where ports are bound that name no address; "" for everywhere."""
        options = self._networks[endpoint.network_id].options
        if options.get(DEFAULT_BRIDGE_OPTION) == "true":
            return self._settings.publish_address
        return options.get(HOST_BINDING_OPTION, "") or self._settings.publish_address

    def _publishes(self, endpoint: Endpoint) -> bool:
        network = self._networks[endpoint.network_id]
        return network.driver == "bridge" and not network.internal

    def list(self) -> list[NetworkConfig]:
        return sorted(self._networks.values(), key=lambda network: network.created_ns, reverse=True)

    def inspect(self, name_or_id: str) -> NetworkConfig:
        """The network with this name, ID or unambiguous ID prefix."""
        by_name = [n for n in self._networks.values() if n.name == name_or_id]
        exact = by_name or [n for n in self._networks.values() if n.id == name_or_id]
        if exact:
            return exact[0]
        by_prefix = [n for n in self._networks.values() if name_or_id and n.id.startswith(name_or_id)]
        if len(by_prefix) > 1:  # Docker's texts
            raise InvalidParameter(
                f"network {name_or_id} is ambiguous ({len(by_prefix)} matches found based on ID prefix)"
            )
        if not by_prefix:
            raise NotFound(f"network {name_or_id} not found")
        return by_prefix[0]

    def endpoints_of(self, container_id: str) -> tuple[Endpoint, ...]:
        """The container's places, if it has any now."""
        return tuple(self._endpoints.get(container_id, {}).values())

    def endpoints(self, network_id: str) -> list[Endpoint]:
        """Who is on a network now."""
        return [places[network_id] for places in self._endpoints.values() if network_id in places]

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
        """Remove the host's side of everything: bridge, interfaces, rules. For an uninstall; then `close`."""
        for container_id in list(self._endpoints):
            await self.release(container_id)
        for network in self._networks.values():
            await self._driver(network).remove(network)
        await self._firewall.remove_all()

    def _name_for(self, network_mode: str) -> str:
        if network_mode in ("", "default"):
            return "none" if self._settings.bridge == NO_BRIDGE else "bridge"
        return network_mode

    def _driver(self, network: NetworkConfig) -> NetworkDriver:
        driver = self._drivers.get(network.driver)
        if driver is None:
            entry = (
                "none" if network.driver == "null" else network.driver
            )  # Docker shows `none`'s driver as null
            made = plugins.load_driver(plugins.NETWORKS, entry)(self._maker, self._firewall)
            driver = self._drivers[network.driver] = cast("NetworkDriver", made)
        return driver

    def _place(
        self,
        network: NetworkConfig,
        container_id: str,
        request: EndpointRequest,
        sandbox: Sandbox | None,
        number: int,
    ) -> Endpoint:
        """Take an address and make the endpoint, in memory. `number`: how many networks the container has before."""
        endpoint_id = sandbox.id if sandbox is not None else secrets.token_hex(32)
        endpoint = Endpoint(
            id=endpoint_id,
            network_id=network.id,
            container_id=container_id,
            priority=request.priority,
            aliases=request.aliases,
        )
        addresses, pool = self._addresses.get(network.id), network.ipv4
        if addresses is not None and pool is not None:
            address = addresses.take()
            endpoint = msgspec.structs.replace(
                endpoint,
                address=address,
                prefix_length=addresses.prefix_length,
                gateway="" if network.internal else pool.gateway,
                mac=request.mac or mac_for(address),
                interface=request.interface or f"eth{number}",
            )
        self._endpoints.setdefault(container_id, {})[network.id] = endpoint
        return endpoint

    async def _load(self) -> None:
        stored, endpoints = await self._database.run(_read, durable=False)
        self._networks = {network.id: network for network in stored}
        for endpoint in endpoints:
            self._endpoints.setdefault(endpoint.container_id, {})[endpoint.network_id] = endpoint
        for network in stored:
            taken = [e.address for e in endpoints if e.network_id == network.id and e.address]
            self._set_addresses(network, taken)

    def _set_addresses(self, network: NetworkConfig, taken: Iterable[str]) -> None:
        pool = network.ipv4
        if pool is not None and pool.gateway:
            self._addresses[network.id] = Addresses(pool.subnet, pool.gateway, taken)

    async def _ensure_defaults(self) -> None:
        known = {network.name: network for network in self._networks.values()}
        for name, driver in (("none", "null"), ("host", "host")):
            if name not in known:
                await self._store(new_network(name, driver))
        present = known.get("bridge")
        if self._settings.bridge == NO_BRIDGE:
            if present is not None and not self.endpoints(present.id):
                await self._forget(present)
            return
        host = look_at_bridge(self._settings.bridge)
        is_used = present is not None and bool(self.endpoints(present.id))
        wanted, warning = choose_bridge(self._settings, present, host, is_used=is_used)
        if warning:
            self._warnings.append(warning)
        if wanted != present:
            await self._store(wanted)
            self._set_addresses(wanted, ())

    async def _store(self, network: NetworkConfig) -> None:
        await self._database.run(lambda connection: _upsert(connection, network))
        self._networks[network.id] = network

    async def _forget(self, network: NetworkConfig) -> None:
        await self._database.run(lambda c: c.execute("DELETE FROM network WHERE id = ?", (network.id,)))
        del self._networks[network.id]
        self._addresses.pop(network.id, None)


async def _enable_forwarding(database: Database) -> bool:
    """Turn routing on. Whether it was us who did, since this boot."""
    boot = nat.boot_id()
    if not nat.is_forwarding():
        # Written down first: a daemon that dies in between must not forget whose doing it was.
        await database.run(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO fact VALUES ('ip_forward_enabled_at_boot', ?)", (boot,)
            )
        )
        nat.enable_forwarding()
        return True

    def read(connection: sqlite3.Connection) -> bool:
        query = "SELECT 1 FROM fact WHERE key = 'ip_forward_enabled_at_boot' AND value = ?"
        return connection.execute(query, (boot,)).fetchone() is not None

    return await database.run(read, durable=False)


def _read(connection: sqlite3.Connection) -> tuple[list[NetworkConfig], list[Endpoint]]:
    networks = [row["config"] for row in connection.execute("SELECT config FROM network")]
    endpoints = [row["config"] for row in connection.execute("SELECT config FROM endpoint")]
    return (
        [msgspec.json.decode(config, type=NetworkConfig) for config in networks],
        [msgspec.json.decode(config, type=Endpoint) for config in endpoints],
    )


def _upsert(connection: sqlite3.Connection, network: NetworkConfig) -> None:
    connection.execute(
        "INSERT INTO network (id, name, driver, created_ns, config) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET config = excluded.config",
        (network.id, network.name, network.driver, network.created_ns, msgspec.json.encode(network)),
    )


def _delete(connection: sqlite3.Connection, endpoint: Endpoint) -> None:
    connection.execute("DELETE FROM endpoint WHERE id = ?", (endpoint.id,))


def _insert(connection: sqlite3.Connection, endpoints: Iterable[Endpoint]) -> None:
    connection.executemany(
        "INSERT INTO endpoint (id, network_id, container_id, address, address6, config) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                endpoint.id,
                endpoint.network_id,
                endpoint.container_id,
                endpoint.address or None,
                endpoint.address6 or None,
                msgspec.json.encode(endpoint),
            )
            for endpoint in endpoints
        ],
    )
