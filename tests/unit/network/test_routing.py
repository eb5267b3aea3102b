from __future__ import annotations

from wherry.network.driver import Endpoint, NetworkConfig
from wherry.network.routing import choose_gateway


def network(name: str, **fields: object) -> NetworkConfig:
    return NetworkConfig(id=name, name=name, driver="bridge", created_ns=0, **fields)  # type: ignore[arg-type]


def endpoint(
    on: str, *, priority: int = 0, four: bool = True, six: bool = False, address: str = "x"
) -> Endpoint:
    return Endpoint(
        id=on,
        network_id=on,
        container_id="c",
        address=address,
        gateway=f"{on}4" if four else "",
        gateway6=f"{on}6" if six else "",
        priority=priority,
    )


NETWORKS = {
    "alpha": network("alpha"),
    "beta": network("beta"),
    "inner": network("inner", internal=True),
    "routed": NetworkConfig(id="routed", name="routed", driver="ipvlan", mode="l3", created_ns=0),
}


def chosen(*endpoints: Endpoint, ipv6: bool = False) -> str:
    found = choose_gateway(endpoints, NETWORKS, ipv6=ipv6)
    return found.network_id if found is not None else ""


def test_the_first_name_leads_out_unless_another_has_priority() -> None:
    assert chosen(endpoint("beta"), endpoint("alpha")) == "alpha"
    assert chosen(endpoint("beta", priority=1), endpoint("alpha")) == "beta"
    assert chosen(endpoint("beta"), endpoint("alpha", priority=-1)) == "beta"


def test_both_families_before_one() -> None:
    assert chosen(endpoint("alpha"), endpoint("beta", six=True)) == "beta"
    assert chosen(endpoint("alpha"), endpoint("beta", six=True), ipv6=True) == "beta"
    assert chosen(endpoint("alpha", four=False, six=True), endpoint("beta"), ipv6=False) == "beta"


def test_without_a_gateway_there_is_no_way_out() -> None:
    assert chosen(endpoint("inner", four=False)) == ""
    assert chosen(endpoint("alpha"), ipv6=True) == ""
    assert chosen() == ""


def test_ipvlan_l3_leads_out_by_its_interface() -> None:
    assert chosen(endpoint("routed", four=False)) == "routed"
    assert chosen(endpoint("routed", four=False, address="")) == ""
