from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from wherry.cli.network_graph import as_svg, as_text, read_graph
from wherry.cli.session import Exit


def network(name: str, *subnets: str, driver: str = "bridge", **fields: Any) -> dict[str, Any]:
    config = [{"Subnet": subnet} for subnet in subnets]
    return {"Name": name, "Id": name * 8, "Driver": driver, "IPAM": {"Config": config or None}, **fields}


def container(name: str, places: dict[str, str], ports: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    networks = {key: {"IPAddress": address} for key, address in places.items()}
    return {
        "Id": name * 20,
        "Names": [f"/{name}"],
        "Image": "busybox",
        "Ports": ports or [],
        "NetworkSettings": {"Networks": networks},
    }


NETWORKS = [
    network("net10"),
    network("net2", "10.2.0.0/24", "fd00::/64", Internal=True),
    network("host", driver="host"),
]
CONTAINERS = [
    container("web", {"net2": "10.2.0.2", "net10": ""}),
    container(
        "db<1>",
        {"net2": "10.2.0.3"},
        [
            {"IP": "0.0.0.0", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
            {"IP": "::", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
            {"IP": "127.0.0.1", "PublicPort": 53, "PrivatePort": 53, "Type": "udp"},
            {"PrivatePort": 90, "Type": "tcp"},
        ],
    ),
]


def test_the_text_is_a_tree() -> None:
    assert as_text(read_graph(NETWORKS, CONTAINERS, only=[], used=False)) == (
        "host  (host)\n"
        "└─ (no container)\n"
        "net2  (bridge)  10.2.0.0/24  fd00::/64  internal\n"
        "├─ db<1>  10.2.0.3  127.0.0.1:53→53/udp 8080→80/tcp\n"
        "└─ web    10.2.0.2\n"
        "net10  (bridge)\n"
        "└─ web\n"
    )


def test_a_choice_of_networks() -> None:
    assert [n.title for n in read_graph(NETWORKS, CONTAINERS, only=[], used=True).networks] == [
        "net2",
        "net10",
    ]
    chosen = read_graph(NETWORKS, CONTAINERS, only=["net10net10"], used=False)
    assert ([n.title for n in chosen.networks], [c.title for c in chosen.containers]) == (["net10"], ["web"])
    with pytest.raises(Exit, match="network nosuch not found"):
        read_graph(NETWORKS, CONTAINERS, only=["nosuch"], used=False)


@pytest.mark.parametrize("containers", [CONTAINERS, []])
def test_the_picture_is_xml_with_everything_inside_its_frame(containers: list[dict[str, Any]]) -> None:
    root = ElementTree.fromstring(as_svg(read_graph(NETWORKS, containers, only=[], used=False)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"net2", "net10", "host", "10.2.0.0/24", "internal"} <= set(texts)
    if containers:
        assert {"web", "db<1>", "10.2.0.3", "127.0.0.1:53→53/udp  8080→80/tcp"} <= set(texts)
    for element in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y = float(element.get("x", "0")), float(element.get("y", "0"))
        assert x + float(element.attrib["width"]) <= width and y + float(element.attrib["height"]) <= height


def test_nothing_at_all_is_a_picture_too() -> None:
    assert ElementTree.fromstring(as_svg(read_graph([], [], only=[], used=False))).tag.endswith("svg")
