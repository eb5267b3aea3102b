from __future__ import annotations

import pytest

from wherry.engine.networks import network_filter, resource
from wherry.errors import InvalidParameter
from wherry.network.driver import AddressPool, Endpoint, NetworkConfig

BRIDGE = NetworkConfig(
    id="4c6d" + "0" * 60,
    name="bridge",
    driver="bridge",
    created_ns=1_795_558_932_867_669_827,
    pools=(AddressPool(subnet="172.17.0.0/16", gateway="172.17.0.1"),),
    interface="wherry0",
)
NONE = NetworkConfig(id="414c" + "0" * 60, name="none", driver="null", created_ns=1)
OWN = NetworkConfig(id="77" * 32, name="own", driver="bridge", created_ns=2, labels={"a": "b"})


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["bridge", "none", "own"]),
        ({"name": ["rid"]}, ["bridge"]),
        ({"name": ["^own$", "non"]}, ["none", "own"]),
        ({"name": ["^ow"]}, ["own"]),
        ({"name": ["ow$"]}, []),
        ({"id": ["4c6"]}, ["bridge"]),
        ({"driver": ["null"]}, ["none"]),
        ({"driver": ["nul"]}, []),
        ({"type": ["custom"]}, ["own"]),
        ({"type": ["builtin", "custom"]}, ["bridge", "none", "own"]),
        ({"scope": ["local"]}, ["bridge", "none", "own"]),
        ({"scope": ["swarm"]}, []),
        ({"dangling": ["true"]}, ["own"]),
        ({"dangling": ["false"]}, ["bridge", "none"]),
        ({"label": ["a"]}, ["own"]),
        ({"label": ["a=b", "a"]}, ["own"]),
        ({"label": ["a=c"]}, []),
        ({"name": ["o"], "driver": ["bridge"]}, ["own"]),
    ],
)
def test_filters_are_dockers(filters: dict[str, list[str]], names: list[str]) -> None:
    matches = network_filter(filters, is_used=lambda network: False)
    assert [n.name for n in (BRIDGE, NONE, OWN) if matches(n)] == names


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"nosuch": ["x"]}, "invalid filter 'nosuch'"),
        ({"type": ["x"]}, "invalid filter: 'type'='x'"),
        (
            {"dangling": ["x"]},
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
        ),
    ],
)
def test_a_bad_filter_is_refused_in_dockers_words(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        network_filter(filters, is_used=lambda network: False)
    assert str(caught.value) == message


def test_a_network_is_shown_with_its_containers() -> None:
    endpoint = Endpoint(
        id="e" * 64,
        network_id=BRIDGE.id,
        container_id="c" * 64,
        address="172.17.0.2",
        prefix_length=16,
        gateway="172.17.0.1",
        mac="02:42:ac:11:00:02",
    )
    shown = resource(BRIDGE, [endpoint], lambda container_id: "web")
    assert shown.created == "2026-11-24T22:22:12.867669827Z"
    assert shown.ipam.config is not None
    assert (shown.ipam.config[0].subnet, shown.ipam.config[0].gateway) == ("172.17.0.0/16", "172.17.0.1")
    assert shown.containers["c" * 64].name == "web"
    assert shown.containers["c" * 64].ipv4_address == "172.17.0.2/16"
    assert resource(NONE, [], str).ipam.config is None
