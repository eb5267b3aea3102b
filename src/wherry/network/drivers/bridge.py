"""The `bridge` driver: a Linux bridge on the host, and a veth from it into each container.

A veth is made ahead of time together with its sandbox, so that joining is an address, a MAC and a route.
Leaving is taking the port off the bridge, which is what others notice; the interface itself goes with the
container's network namespace, and a sweep removes what somebody keeps alive.

Every interface carries an alias (`ip link` shows it) that says whose it is: nothing else is ever removed.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import logging
import secrets

from wherry.errors import Internal
from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.links import Links
from wherry.network.nat import Firewall
from wherry.network.sandboxes import Maker, Pool, Sandbox, disable_ipv6

_log = logging.getLogger(__name__)

_INSIDE = "eth0"
_SWEEP_DELAY_S = 1.0
_NAME_ATTEMPTS = 8

OUR_BRIDGE = "wherry bridge"
"""The alias of a bridge that we made, and may remove."""


class _Side:
    """The host's side of one network."""

    def __init__(self, index: int, pool: Pool) -> None:
        self.index = index
        self.pool = pool


class Bridge:
    name = "bridge"

    def __init__(self, maker: Maker, firewall: Firewall) -> None:
        self._maker = maker
        self._firewall = firewall
        self._links = Links()  # for the event loop
        self._maker_links: Links | None = None  # the host's, for the maker's thread
        self._instance = secrets.token_hex(4)
        self._sides: dict[str, _Side] = {}
        self._doomed: set[int] = set()
        self._sweeping: asyncio.Task[None] | None = None

    async def create(self, network: NetworkConfig) -> None:
        index = self._put_right(network)
        side = self._sides.get(network.id)
        if side is not None and side.index != index:
            await self._drop_side(network)
            side = None
        if side is None:
            make = functools.partial(self._make, network, index)
            self._sides[network.id] = _Side(index, Pool(self._maker, make))
        await self._firewall.add(network)

    async def remove(self, network: NetworkConfig) -> None:
        await self._drop_side(network)
        await self._firewall.remove(network)
        link = self._links.find(_bridge(network))
        if link is not None and link.alias == OUR_BRIDGE:
            await asyncio.to_thread(_delete_all, {link.index})

    async def sandbox(self, network: NetworkConfig) -> Sandbox | None:
        side = self._sides[network.id]
        sandbox = await side.pool.take()
        if self._links.find(sandbox.interface) is None:
            # Somebody removed our interfaces, or the bridge itself, under us: begin anew.
            sandbox.close()
            side.pool.discard()
            await self.create(network)
            sandbox = await self._sides[network.id].pool.take()
        return sandbox

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        inside, index = sandbox.links, sandbox.peer_index
        inside.change(index, mac=endpoint.mac)
        inside.add_address(index, endpoint.address, endpoint.prefix_length)
        if endpoint.gateway:
            inside.add_default_route(index, endpoint.gateway)
        self._links.change(sandbox.port_index, alias=f"{_port_alias(network)} {endpoint.container_id[:12]}")

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> None:
        link = self._links.find(interface_name(endpoint.id))
        if link is None:
            return
        try:
            self._links.change(link.index, master=0, up=False)
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise
            return
        self._doomed.add(link.index)
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep(delay_s=_SWEEP_DELAY_S))

    async def reconcile(self, network: NetworkConfig, live: list[Endpoint]) -> None:
        names = {interface_name(endpoint.id) for endpoint in live}
        mine = f"{_port_alias(network)} {self._instance}"
        stale = {
            link.index
            for link in self._links.links()
            if link.kind == "veth"
            and f"{link.alias} ".startswith(f"{_port_alias(network)} ")
            and link.alias != mine
            and link.name not in names
        }
        if stale:
            _log.info(
                "removing %d interfaces that an earlier daemon left on %s", len(stale), network.interface
            )
            await asyncio.to_thread(_delete_all, stale)
        self._sides[network.id].pool.refill()

    async def close(self) -> None:
        for side in self._sides.values():
            await side.pool.close()
        self._sides.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        if self._doomed:
            await self._sweep(delay_s=0)
        self._links.close()
        if self._maker_links is not None:
            self._maker_links.close()

    def _put_right(self, network: NetworkConfig) -> int:
        """Make the bridge where it is missing, and see to its address; the index it has."""
        name = _bridge(network)
        link = self._links.find(name)
        if link is None:
            mac = f"02:42:{secrets.token_bytes(4).hex(':')}"
            self._links.add_bridge(name, mac=mac, mtu=network.mtu, alias=OUR_BRIDGE)
            disable_ipv6(name)
            link = self._links.find(name)
            if link is None:
                raise Internal(f"bridge {name} vanished while it was being made")
        if link.kind != "bridge":
            raise Internal(f"interface {name} is not a bridge: remove it, or name another with --bridge")
        if network.gateway is not None and network.subnet is not None:
            wanted = ipaddress.IPv4Interface(f"{network.gateway}/{network.subnet.partition('/')[2]}")
            present = [address for index, address in self._links.addresses() if index == link.index]
            if wanted not in present:
                self._links.add_address(link.index, str(wanted.ip), wanted.network.prefixlen)
            if link.alias == OUR_BRIDGE:
                for address in present:
                    if address != wanted:
                        self._links.remove_address(link.index, str(address.ip), address.network.prefixlen)
        if not link.is_up:
            self._links.change(link.index, up=True)
        return link.index

    def _make(self, network: NetworkConfig, bridge: int) -> Sandbox:
        """A sandbox with a veth on the bridge, up on both ends. In the maker's thread."""
        if self._maker_links is None:
            self._maker_links = Links()
        host = self._maker_links
        sandbox = self._maker.make()
        try:
            name = self._add_veth(host, network, sandbox)
            port = host.index_of(name)
            disable_ipv6(name)
            host.change(port, up=True, master=bridge, alias=f"{_port_alias(network)} {self._instance}")
            if not network.icc:
                host.isolate(port)
            sandbox.interface, sandbox.port_index = name, port
            sandbox.peer_index = sandbox.links.index_of(_INSIDE)
            sandbox.links.change(sandbox.peer_index, up=True)
        except BaseException:
            sandbox.close()  # and with it the veth
            raise
        return sandbox

    def _add_veth(self, host: Links, network: NetworkConfig, sandbox: Sandbox) -> str:
        for _ in range(_NAME_ATTEMPTS):
            name = interface_name(sandbox.id)
            try:
                host.add_veth(name, mtu=network.mtu, peer=_INSIDE, peer_netns=sandbox.netns)
            except FileExistsError:
                sandbox.id = secrets.token_hex(32)
            else:
                return name
        raise Internal("no free interface name: too many veth interfaces on this host")

    async def _sweep(self, *, delay_s: float) -> None:
        while self._doomed:
            await asyncio.sleep(delay_s)
            doomed, self._doomed = self._doomed, set()
            try:
                await asyncio.shield(asyncio.to_thread(_delete_all, doomed))
            except asyncio.CancelledError:
                self._doomed |= doomed
                raise

    async def _drop_side(self, network: NetworkConfig) -> None:
        side = self._sides.pop(network.id, None)
        if side is not None:
            await side.pool.close()


def interface_name(endpoint_id: str) -> str:
    """The host's end of an endpoint's veth."""
    return f"veth{endpoint_id[:7]}"


def _port_alias(network: NetworkConfig) -> str:
    return f"wherry port {network.interface}"


def _bridge(network: NetworkConfig) -> str:
    if network.interface is None:
        raise Internal(f"network {network.name} has no bridge")
    return network.interface


def _delete_all(indexes: set[int]) -> None:
    """Delete those interfaces that still exist. Sleeps some 30 ms for each."""
    links = Links()
    try:
        for index in indexes.intersection(link.index for link in links.links()):
            try:
                links.delete(index)
            except OSError as exc:
                if exc.errno != errno.ENODEV:  # the kernel was quicker
                    raise
    finally:
        links.close()
