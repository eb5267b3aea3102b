"""The `macvlan` driver: each container has a MAC address of its own on the host's network, beside the host."""

from __future__ import annotations

import os
from collections.abc import Iterable

from wherry.errors import InvalidParameter
from wherry.network.driver import NetworkConfig
from wherry.network.drivers.on_parent import NOWHERE, OnParent
from wherry.network.links import Links


class Macvlan(OnParent):
    name = "macvlan"

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        """Mode passthru has its parent for itself. Docker's texts."""
        for other in others:
            if other.driver != self.name or other.parent != network.parent:
                continue
            if network.mode == "passthru":
                raise InvalidParameter(
                    f"cannot use mode passthru, macvlan network {other.id} is already using parent interface "
                    f"{network.parent}"
                )
            if other.mode == "passthru":
                raise InvalidParameter(
                    f"macvlan network {other.id} is already using parent interface {network.parent} in mode passthru"
                )

    def _add(self, host: Links, parent: int, network: NetworkConfig, inside: str, netns: int) -> None:
        host.add_macvlan(inside, parent=parent, mode=network.mode, netns=netns, mtu=_own_mtu(network))

    def _probe(self, host: Links) -> None:
        netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            host.add_macvlan("wherry-probe", parent=NOWHERE, mode="bridge", netns=netns, mtu=0)
        finally:
            os.close(netns)


def _own_mtu(network: NetworkConfig) -> int:
    """The MTU somebody asked for; 0 for the parent's, as Docker does."""
    return network.mtu if "com.docker.network.driver.mtu" in network.options else 0
