"""rtnetlink as we speak it, against the kernel; iproute2 is the second opinion."""

from __future__ import annotations

import errno
import ipaddress
import json
from typing import Any

import pytest

from tests.unit.network.conftest import run
from wherry.network.links import Links
from wherry.network.sandboxes import Maker


def ip(*arguments: str) -> list[dict[str, Any]]:
    return json.loads(run("ip", "-json", "-details", *arguments))


def test_a_bridge_is_made_as_asked(links: Links) -> None:
    links.add_bridge("wht0", mac="02:42:01:02:03:04", mtu=1400)
    links.change(links.index_of("wht0"), up=True, alias="mine")
    (seen,) = ip("link", "show", "wht0")
    assert (seen["address"], seen["mtu"], seen["ifalias"]) == ("02:42:01:02:03:04", 1400, "mine")
    link = links.find("wht0")
    assert link is not None
    assert (link.kind, link.mac, link.mtu, link.alias, link.is_up) == (
        "bridge",
        "02:42:01:02:03:04",
        1400,
        "mine",
        True,
    )


async def test_a_veth_reaches_into_a_namespace(links: Links, maker: Maker) -> None:
    sandbox = await maker.run(maker.make)
    links.add_bridge("wht0", mac="02:42:01:02:03:04", mtu=1500)
    bridge = links.index_of("wht0")
    links.add_veth("vethx", mtu=1400, peer="eth0", peer_netns=sandbox.netns)
    port = links.index_of("vethx")
    links.change(port, up=True, master=bridge, alias="whose")
    links.isolate(port)
    (seen,) = ip("link", "show", "vethx")
    assert (seen["master"], seen["mtu"], seen["ifalias"]) == ("wht0", 1400, "whose")
    assert seen["linkinfo"]["info_slave_data"]["isolated"] is True
    peer = sandbox.links.find("eth0")
    assert peer is not None
    assert (peer.kind, peer.mtu, peer.is_up) == ("veth", 1400, False)
    links.change(port, master=0)
    detached = links.find("vethx")
    assert detached is not None
    assert detached.master == 0
    sandbox.close()


def test_addresses_and_routes_are_set_and_listed(links: Links) -> None:
    links.add_bridge("wht0", mac="02:42:01:02:03:04", mtu=1500)
    index = links.index_of("wht0")
    links.change(index, up=True)
    links.add_address(index, "172.30.9.1", 24)
    links.add_address(index, "172.30.9.1", 24)  # again is fine
    links.add_default_route(index, "172.30.9.254")
    assert (index, ipaddress.IPv4Interface("172.30.9.1/24")) in links.addresses()
    assert (index, ipaddress.IPv4Network("172.30.9.0/24")) in links.routes()
    (address,) = [a for entry in ip("address", "show", "wht0") for a in entry["addr_info"]]
    assert address["broadcast"] == "172.30.9.255"
    assert {route["gateway"] for route in ip("route") if route["dst"] == "default"} == {"172.30.9.254"}
    links.remove_address(index, "172.30.9.1", 24)
    assert [a for i, a in links.addresses() if i == index] == []


def test_what_is_not_there_is_said_so(links: Links) -> None:
    assert links.find("nosuch") is None
    with pytest.raises(OSError, match="get interface nosuch") as caught:
        links.index_of("nosuch")
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(OSError, match="delete interface 4711"):
        links.delete(4711)


def test_a_taken_name_is_refused(links: Links) -> None:
    links.add_bridge("wht0", mac="02:42:01:02:03:04", mtu=1500)
    with pytest.raises(FileExistsError):
        links.add_bridge("wht0", mac="02:42:01:02:03:04", mtu=1500)


def test_a_dump_longer_than_one_message_is_read_whole(links: Links) -> None:
    for number in range(60):
        links.add_bridge(f"wht{number}", mac="02:42:01:02:03:04", mtu=1500)
    assert {link.name for link in links.links()} == {"lo", *(f"wht{number}" for number in range(60))}
    assert links.find("wht59") is not None  # and the socket is in step afterwards


def test_a_deleted_interface_is_gone(links: Links) -> None:
    links.add_bridge("wht0", mac="02:42:01:02:03:04", mtu=1500)
    links.delete(links.index_of("wht0"))
    assert [link.name for link in links.links()] == ["lo"]
