"""The `ipvlan` driver: containers on the host's network under the host's MAC address; l2, or routed (l3, l3s)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from wherry.errors import InvalidParameter
from wherry.network.driver import NetworkConfig
from wherry.network.drivers.on_parent import NOWHERE, OnParent
from wherry.network.links import Links


class Ipvlan(OnParent):
    name = "ipvlan"

    def check(self, network: NetworkConfig, others: Iterable[NetworkConfig]) -> None:
        """A parent has one mode and one flag for all: the kernel would change those of the others."""
        for other in others:
            if other.driver != self.name or other.parent != network.parent:
                continue
            if (other.mode, other.flag) != (network.mode, network.flag):
                raise InvalidParameter(
                    f"ipvlan network {other.name} uses parent interface {network.parent} in mode {other.mode} with "
                    f"flag {other.flag}: a parent has one mode and one flag"
                )

    def _add(self, host: Links, parent: int, network: NetworkConfig, inside: str, netns: int) -> None:
        mtu = network.mtu if "com.docker.network.driver.mtu" in network.options else 0
        host.add_ipvlan(inside, parent=parent, mode=network.mode, flag=network.flag, netns=netns, mtu=mtu)

    def _probe(self, host: Links) -> None:
        netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            host.add_ipvlan("wherry-probe", parent=NOWHERE, mode="l2", flag="bridge", netns=netns, mtu=0)
        finally:
            os.close(netns)
