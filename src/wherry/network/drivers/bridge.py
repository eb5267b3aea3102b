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
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from wherry.errors import Forbidden, Internal, InvalidParameter
from wherry.network import connections
from wherry.network.defaults import OUR_BRIDGES
from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.links import Link, Links
from wherry.network.nat import Firewall
from wherry.network.sandboxes import POOL_SIZE, Maker, Pool, Sandbox, disable_ipv6, enable_ipv6

_log = logging.getLogger(__name__)

_DEFAULT = "bridge"
"""The network whose pool is filled before anybody asks."""
_INSIDE = "eth0"
_SWEEP_DELAY_S = 1.0
_NAME_ATTEMPTS = 8
_READY_ATTEMPTS = 100
_TAKE_ATTEMPTS = POOL_SIZE + 2


class _Side:
    """The host's side of one network."""

    def __init__(self, index: int) -> None:
        self.index = index  # the bridge's; another one once somebody deleted it and we made it again
        self.pool: Pool


class Bridge:
    name = "bridge"

    def __init__(self, maker: Maker, firewall: Firewall) -> None:
        self._maker = maker
        self._firewall = firewall
        self._links = Links()  # for the event loop
        self._maker_links: Links | None = None  # the host's, for the maker's thread
        self._instance = secrets.token_hex(4)
        self._sides: dict[str, _Side] = {}
        # A thread of its own: a container's end waits for it, and the others have long work.
        self._forgetter = ThreadPoolExecutor(1, thread_name_prefix="connections")
        self._doomed: dict[int, float] = {}  # ports taken off their bridge, and when
        self._sweeping: asyncio.Task[None] | None = None

    async def create(self, network: NetworkConfig) -> None:
        index = self._put_right(network)
        side = self._sides.get(network.id)
        if side is None:
            side = self._sides[network.id] = _Side(index)
            make = functools.partial(self._make, network, side)
            side.pool = Pool(self._maker, make, elastic=network.name != _DEFAULT)
        elif side.index != index:
            side.index = index
            side.pool.discard()
        await self._firewall.add(network)

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        for other in others:
            if other.interface == network.interface:  # Docker's text
                raise Forbidden(
                    f"cannot create network {network.id} ({network.interface}): conflicts with network {other.id} "
                    f"({other.interface}): networks have same bridge name"
                )
        link = self._links.find(_bridge(network))
        if link is not None and link.kind != "bridge":
            raise InvalidParameter(f"interface {link.name} is not a bridge: choose another name")

    async def remove(self, network: NetworkConfig) -> None:
        await self._drop_side(network)
        await self._firewall.remove(network)
        link = self._links.find(_bridge(network))
        if link is not None and link.mac.startswith(OUR_BRIDGES):
            await asyncio.to_thread(_delete_all, {link.index})

    async def sandbox(self, network: NetworkConfig) -> Sandbox | None:
        failure: OSError | None = None
        for _ in range(_TAKE_ATTEMPTS):
            try:
                if failure is not None:
                    await self.create(network)
                return await self._take(self._sides[network.id])
            except OSError as exc:
                failure = exc  # somebody removed interfaces, or the bridge itself, under us: even just now
        raise Internal(f"cannot join bridge {network.interface}: {failure}") from failure

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        if sandbox.network_id == network.id:
            port, index = sandbox.port_index, sandbox.indexes[network.id]
            if endpoint.interface != _INSIDE:
                sandbox.links.change(index, up=False)  # the kernel renames none that is up
                sandbox.links.change(index, name=endpoint.interface, up=True)
        else:
            port, index = await self._maker.run(
                lambda: self._add_port(network, self._sides[network.id], endpoint, sandbox)
            )
            sandbox.indexes[network.id] = index
        sandbox.links.change(index, mac=endpoint.mac)
        if endpoint.address:
            sandbox.links.add_address(index, endpoint.address, endpoint.prefix_length)
        if endpoint.address6:
            sandbox.links.add_address(index, endpoint.address6, endpoint.prefix_length6)
        sandbox.links.add_link_local(index, endpoint.link_local)
        self._links.change(port, alias=f"{_port_alias(network)} {endpoint.container_id[:12]}")

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> bool:
        port = self._links.find(interface_name(endpoint.id))
        if port is not None:
            self._detach(network, port)
        addresses = [address for address in (endpoint.address, endpoint.address6) if address]
        return await asyncio.get_running_loop().run_in_executor(self._forgetter, _forget, addresses)

    async def reconcile(self, network: NetworkConfig, live: list[Endpoint]) -> None:
        names = {interface_name(endpoint.id) for endpoint in live}
        mine = f"{_port_alias(network)} {self._instance}"
        stale = {
            link.index
            for link in self._links.links(alias=f"{_port_alias(network)} ")
            if link.kind == "veth" and link.alias != mine and link.name not in names
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
        await asyncio.to_thread(_delete_all, set(self._doomed))
        self._forgetter.shutdown()
        self._links.close()
        if self._maker_links is not None:
            self._maker_links.close()

    async def _take(self, side: _Side) -> Sandbox:
        sandbox = await side.pool.take()
        port = self._links.find(sandbox.interface)
        if port is None or port.master != side.index:
            sandbox.close()
            raise OSError(errno.ENODEV, f"{sandbox.interface} is no longer on its bridge")
        return sandbox

    def _detach(self, network: NetworkConfig, port: Link) -> None:
        """Take a port off the bridge, and see that it is gone some time later."""
        try:
            self._links.change(port.index, master=0)
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return
            _log.warning("cannot take %s off bridge %s: %s", port.name, network.interface, exc)
        self._doomed[port.index] = time.monotonic()
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())

    def _put_right(self, network: NetworkConfig) -> int:
        """Make the bridge where it is missing, and see to its address; the index it has."""
        name = _bridge(network)
        link = self._links.find(name)
        if link is None:
            self._links.add_bridge(
                name, mac=f"{OUR_BRIDGES}:{secrets.token_bytes(2).hex(':')}", mtu=network.mtu
            )
            link = self._links.find(name)
            if link is None:
                raise Internal(f"bridge {name} vanished while it was being made")
        if link.kind != "bridge":
            raise InvalidParameter(
                f"interface {name} is not a bridge: remove it, or name another with --bridge"
            )
        self._put_address_right(network, link)
        if link.mac.startswith(OUR_BRIDGES):
            self._links.change(link.index, mtu=network.mtu, alias="wherry bridge", up=True)
        elif not link.is_up:
            self._links.change(link.index, up=True)
        self._take_ports_back(network, link.index)
        return link.index

    def _put_address_right(self, network: NetworkConfig, link: Link) -> None:
        """Give the bridge its addresses, and if it is ours, no others."""
        is_ours = link.mac.startswith(OUR_BRIDGES)
        if network.ipv6 is not None:
            enable_ipv6(link.name)
        elif is_ours:
            disable_ipv6(link.name)
        wanted = [
            ipaddress.ip_interface(f"{pool.gateway}/{pool.subnet.partition('/')[2]}")
            for pool in network.pools
            if pool.gateway and not (network.inhibit_ipv4 and not pool.is_ipv6)
        ]
        present = [address for index, address in self._links.addresses() if index == link.index]
        for address in wanted:
            if address not in present:
                self._links.add_address(link.index, str(address.ip), address.network.prefixlen)
        for address in present if is_ours else ():
            if address not in wanted:
                self._links.remove_address(link.index, str(address.ip), address.network.prefixlen)

    def _take_ports_back(self, network: NetworkConfig, bridge: int) -> None:
        """Put ports back that somebody took off the bridge, or that were on one that somebody deleted."""
        for link in self._links.links(alias=f"{_port_alias(network)} "):
            if link.kind == "veth" and link.master == 0 and link.index not in self._doomed:
                try:
                    self._links.change(link.index, master=bridge)
                except OSError as exc:
                    if exc.errno != errno.ENODEV:  # it went with its namespace, just now
                        raise

    def _make(self, network: NetworkConfig, side: _Side) -> Sandbox:
        """A sandbox with a veth on the bridge, up on both ends. In the maker's thread."""
        sandbox = self._maker.make(names=network.has_names)
        try:
            for _ in range(_NAME_ATTEMPTS):
                try:
                    ends = self._add_veth(network, side, sandbox, interface_name(sandbox.id), _INSIDE)
                    break
                except FileExistsError:
                    sandbox.id = secrets.token_hex(32)
            else:
                raise Internal("no free interface name: too many veth interfaces on this host")
        except BaseException:
            sandbox.close()  # and with it the veth
            raise
        sandbox.network_id, sandbox.interface = network.id, interface_name(sandbox.id)
        sandbox.port_index, sandbox.indexes[network.id] = ends
        return sandbox

    def _add_port(
        self, network: NetworkConfig, side: _Side, endpoint: Endpoint, sandbox: Sandbox
    ) -> tuple[int, int]:
        """A veth for a sandbox that was made for another network. In the maker's thread."""
        try:
            return self._add_veth(network, side, sandbox, interface_name(endpoint.id), endpoint.interface)
        except FileExistsError as exc:
            raise Internal(f"cannot add {endpoint.interface}: an interface with its name exists") from exc

    def _add_veth(
        self, network: NetworkConfig, side: _Side, sandbox: Sandbox, name: str, inside: str
    ) -> tuple[int, int]:
        """A veth between the bridge and `sandbox`, up on both ends; their indexes, the host's first."""
        if self._maker_links is None:
            self._maker_links = Links()
        host = self._maker_links
        host.add_veth(name, mtu=network.mtu, peer=inside, peer_netns=sandbox.netns)
        try:
            port = host.index_of(name)
            disable_ipv6(name)
            host.change(port, up=True, master=side.index, alias=f"{_port_alias(network)} {self._instance}")
            if not network.icc:
                host.isolate(port)
            peer = sandbox.links.index_of(inside)
            if network.ipv6 is not None:
                self._maker.enter(sandbox.netns, lambda: enable_ipv6("lo", inside))
            sandbox.links.change(peer, up=True)
            _await_ready(sandbox.links, peer)
            _await_ready(host, port)
        except BaseException:
            link = host.find(name)
            if link is not None:
                host.delete(link.index)
            raise
        return port, peer

    async def _sweep(self) -> None:
        """Delete the ports that the end of their container's network namespace has not taken along in time."""
        while self._doomed:
            await asyncio.sleep(_SWEEP_DELAY_S)
            before = time.monotonic() - _SWEEP_DELAY_S
            late = {index for index, since in self._doomed.items() if since <= before}
            await asyncio.to_thread(_delete_all, late)
            for index in late:
                del self._doomed[index]

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


def _await_ready(links: Links, index: int) -> None:
    """Wait for the kernel's own background work: until then packets are dropped, and the first is sent again
    only a second later."""
    for _ in range(_READY_ATTEMPTS):
        if links.get(index).is_ready:
            return
        time.sleep(0.001)


def _forget(addresses: list[str]) -> bool:
    try:
        return all([connections.forget(address) for address in addresses])
    except OSError as exc:
        _log.warning("%s", exc)
        return False


def _delete_all(indexes: set[int]) -> None:
    """Delete those interfaces that still exist. Sleeps some 30 ms for each."""
    links = Links()
    try:
        for index in indexes.intersection(link.index for link in links.links()):
            try:
                links.delete(index)
            except OSError as exc:
                if exc.errno != errno.ENODEV:  # ENODEV: the kernel was quicker
                    _log.warning("cannot remove an interface of a container that has ended: %s", exc)
    finally:
        links.close()
