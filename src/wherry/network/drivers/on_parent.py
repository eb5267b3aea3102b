"""What `macvlan` and `ipvlan` have in common: interfaces of containers that hang on one of the host's own, the *parent*.

Nothing of a container stays on the host: its interface is made inside its namespace and goes with it. No rule of ours
sees its packets, and the host itself cannot reach it, nor it the host: that is how the kernel does it.

A parent that does not exist is made, as Docker makes it: `eth0.10` is VLAN 10 of eth0, and without any parent there is
a dummy that joins the network's own containers. Those carry an alias and go with the last network that uses them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable

from wherry.errors import InvalidParameter, Unsupported
from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.links import Link, Links
from wherry.network.nat import Firewall
from wherry.network.sandboxes import Maker, Sandbox, enable_ipv6

_ALIAS = "wherry parent"
NOWHERE = 0x7FFFFFFE
"""An interface index that no host has."""


class OnParent:
    """Base of both drivers; `_add` makes one interface, in the maker's thread."""

    name = ""

    def __init__(self, maker: Maker, firewall: Firewall) -> None:
        self._maker = maker
        self._links = Links()  # for the event loop
        self._maker_links: Links | None = None
        self._networks: dict[str, NetworkConfig] = {}
        self._is_known_to_work = False

    def _add(self, host: Links, parent: int, network: NetworkConfig, inside: str, netns: int) -> None:
        raise NotImplementedError

    def _probe(self, host: Links) -> None:
        """Ask the kernel for an interface that cannot be: its refusal tells whether it knows the kind."""
        raise NotImplementedError

    async def create(self, network: NetworkConfig) -> None:
        self._check_kernel()
        parent = self._links.find(network.parent)
        if parent is None:
            parent = self._make_parent(network)
        if parent.alias == _ALIAS and not parent.is_up:
            self._links.change(parent.index, up=True)
        self._networks[network.id] = network

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        pass

    async def remove(self, network: NetworkConfig) -> None:
        self._networks.pop(network.id, None)
        if any(other.parent == network.parent for other in self._networks.values()):
            return
        parent = self._links.find(network.parent)
        if parent is not None and parent.alias == _ALIAS:
            await asyncio.to_thread(_delete, parent.index)

    async def sandbox(self, network: NetworkConfig) -> Sandbox | None:
        return await self._maker.run(self._maker.make, undo=Sandbox.close)

    async def connect(self, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        parent = self._links.find(network.parent)
        if parent is None:  # somebody removed it
            await self.create(network)
            parent = self._links.find(network.parent)
        if parent is None:
            raise InvalidParameter(f"the parent interface {network.parent} was not found on the host")
        await self._maker.run(lambda: self._make(parent, network, endpoint, sandbox))

    async def disconnect(self, network: NetworkConfig, endpoint: Endpoint) -> bool:
        return True

    async def reconcile(self, network: NetworkConfig, live: list[Endpoint]) -> None:
        pass

    async def close(self) -> None:
        self._links.close()
        if self._maker_links is not None:
            self._maker_links.close()

    def _make(self, parent: Link, network: NetworkConfig, endpoint: Endpoint, sandbox: Sandbox) -> None:
        """The interface inside, with its addresses and up. In the maker's thread."""
        if self._maker_links is None:
            self._maker_links = Links()
        try:
            self._add(self._maker_links, parent.index, network, endpoint.interface, sandbox.netns)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise InvalidParameter(
                    f"the parent interface {network.parent} is in use in another way: as a bridge's port, by another "
                    "driver, or in mode passthru"
                ) from exc
            raise
        index = sandbox.indexes[network.id] = sandbox.links.index_of(endpoint.interface)
        if endpoint.mac:
            sandbox.links.change(index, mac=endpoint.mac)
        if endpoint.address6:
            self._maker.enter(sandbox.netns, lambda: enable_ipv6("lo", endpoint.interface))
        sandbox.links.change(index, up=True)
        for address, length in (
            (endpoint.address, endpoint.prefix_length),
            (endpoint.address6, endpoint.prefix_length6),
        ):
            if address:
                sandbox.links.add_address(index, address, length)
        sandbox.links.add_link_local(index, endpoint.link_local)

    def _make_parent(self, network: NetworkConfig) -> Link:
        """A dummy, or the VLAN its name tells. Docker's texts."""
        name = network.parent
        if "parent" not in network.options:
            self._add_dummy(name)
        else:
            base, dot, number = name.rpartition(".")
            if not dot or not base or not number.isdigit():
                raise InvalidParameter(
                    f"invalid subinterface vlan name {name}, example formatting is eth0.10"
                )
            if not 1 <= int(number) <= 4094:
                raise InvalidParameter(f"vlan id must be between 1-4094, received: {int(number)}")
            parent = self._links.find(base)
            if parent is None:
                raise InvalidParameter(f"-o parent interface was not found on the host: {base}")
            try:
                self._links.add_vlan(name, parent=parent.index, vlan=int(number))
            except OSError as exc:
                if exc.errno == errno.EOPNOTSUPP:
                    raise Unsupported("this kernel has no VLAN interfaces (module 8021q)") from exc
                raise
        index = self._links.index_of(name)
        self._links.change(index, alias=_ALIAS, up=True)
        return self._links.get(index)

    def _add_dummy(self, name: str) -> None:
        try:
            self._links.add_dummy(name)
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            self._links.add_bridge(name)  # this kernel has no dummies: a bridge without ports is as good

    def _check_kernel(self) -> None:
        if self._is_known_to_work:
            return
        try:
            self._probe(self._links)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                raise Unsupported(
                    f"this kernel has no {self.name} interfaces: load its module {self.name}, or take another driver"
                ) from exc
        self._is_known_to_work = True


def _delete(index: int) -> None:
    links = Links()
    try:
        links.delete(index)
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise
    finally:
        links.close()
