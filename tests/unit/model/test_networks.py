"""The shapes are those that dockerd 28 answered with."""

from __future__ import annotations

import json

from wherry.model.networks import IPAM, EndpointResource, IPAMConfig, NetworkResource
from wherry.model.wire import encode


def test_a_network_is_spelled_as_docker_does() -> None:
    network = NetworkResource(
        name="bridge",
        id="ab" * 32,
        created="2026-11-24T22:10:34.327411345Z",
        driver="bridge",
        ipam=IPAM(driver="default", config=[IPAMConfig(subnet="172.17.0.0/16", gateway="172.17.0.1")]),
        containers={
            "cd" * 32: EndpointResource(
                name="web",
                endpoint_id="ef" * 32,
                mac_address="02:42:ac:11:00:02",
                ipv4_address="172.17.0.2/16",
            )
        },
        options={"com.docker.network.bridge.name": "docker0"},
    )
    assert json.loads(encode(network)) == {
        "Name": "bridge",
        "Id": "ab" * 32,
        "Created": "2026-11-24T22:10:34.327411345Z",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}],
        },
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            "cd" * 32: {
                "Name": "web",
                "EndpointID": "ef" * 32,
                "MacAddress": "02:42:ac:11:00:02",
                "IPv4Address": "172.17.0.2/16",
                "IPv6Address": "",
            }
        },
        "Options": {"com.docker.network.bridge.name": "docker0"},
        "Labels": {},
    }


def test_a_network_without_addresses_has_a_null_config() -> None:
    network = NetworkResource(
        name="none", id="0" * 64, created="", driver="null", ipam=IPAM(driver="default")
    )
    assert json.loads(encode(network))["IPAM"] == {"Driver": "default", "Options": None, "Config": None}
