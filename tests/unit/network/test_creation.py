from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Conflict, Forbidden, InvalidParameter, NotFound, WherryError
from wherry.network.creation import NetworkRequest, PoolRequest, plan_network
from wherry.network.defaults import NetworkSettings
from wherry.network.driver import NetworkConfig
from wherry.network.links import IPNetwork
from wherry.network.pools import DEFAULT_POOLS, PoolSetting

SETTINGS = NetworkSettings(default_address_pools=(*DEFAULT_POOLS, PoolSetting("fd00:1::/48", 64)))
DRIVERS = ("bridge", "host", "ipvlan", "macvlan", "none")
BRIDGE = "com.docker.network.bridge."


def plan(
    name: str = "net",
    *pools: PoolRequest,
    networks: list[NetworkConfig] | None = None,
    on_host: list[IPNetwork] | None = None,
    settings: NetworkSettings = SETTINGS,
    **fields: object,
) -> NetworkConfig:
    request = msgspec.structs.replace(NetworkRequest(name=name, pools=pools), **fields)
    return plan_network(
        request, settings=settings, drivers=DRIVERS, networks=networks or [], on_host=on_host or []
    )


def test_without_a_wish_the_first_free_pool_is_taken() -> None:
    network = plan(on_host=[ipaddress.IPv4Network("172.17.0.0/24")])
    assert network.ipv4 is not None and network.ipv6 is None
    assert (network.ipv4.subnet, network.ipv4.gateway, network.ipv4.automatic) == (
        "172.18.0.0/16",
        "172.18.0.1",
        True,
    )
    assert network.interface == f"br-{network.id[:12]}" and network.driver == "bridge" and network.mtu == 1500


def test_ipv6_takes_the_next_subnet_of_its_pool() -> None:
    first = plan("one", enable_ipv6=True)
    second = plan("two", enable_ipv6=True, enable_ipv4=False, networks=[first])
    assert [p.subnet for p in first.pools] == ["172.17.0.0/16", "fd00:1::/64"]
    assert [(p.subnet, p.gateway) for p in second.pools] == [("fd00:1:0:1::/64", "fd00:1:0:1::1")]


def test_a_gateway_is_the_first_address_that_nothing_else_has() -> None:
    pool = PoolRequest(
        subnet="10.0.0.0/24", ip_range="10.0.0.128/25", auxiliary={"a": "10.0.0.128", "b": "10.0.0.129"}
    )
    made = plan("net", pool).ipv4
    assert made is not None and made.gateway == "10.0.0.130"
    assert [p.gateway for p in plan("net", PoolRequest(subnet="10.0.0.0/24")).pools] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (PoolRequest(subnet="x"), "invalid subnet x: invalid CIDR block notation"),
        (PoolRequest(subnet="10.0.0.0"), "invalid subnet 10.0.0.0: invalid CIDR block notation"),
        (PoolRequest(subnet="10.0.0.0/33"), "invalid subnet 10.0.0.0/33: invalid CIDR block notation"),
        (PoolRequest(subnet="10.0.0.1/24"), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        (
            PoolRequest(subnet="10.0.0.0/24", ip_range="fd00::/64"),
            "invalid ip-range fd00::/64: parent subnet is an IPv4 block",
        ),
        (
            PoolRequest(subnet="10.0.0.0/24", ip_range="10.0.0.0/16"),
            "invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.0.0/24",
        ),
        (
            PoolRequest(subnet="10.0.0.0/24", ip_range="10.0.1.0/25"),
            "invalid ip-range 10.0.1.0/25: parent subnet 10.0.0.0/24 doesn't contain ip-range",
        ),
        (
            PoolRequest(subnet="10.0.0.0/24", gateway="10.0.1.1"),
            "invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't contain this address",
        ),
        (PoolRequest(subnet="10.0.0.0/24", gateway="x"), "invalid gateway x: invalid address"),
        (
            PoolRequest(subnet="10.0.0.0/24", gateway="fd00::1"),
            "invalid gateway fd00::1: parent subnet is an IPv4 block",
        ),
        (
            PoolRequest(subnet="10.0.0.0/24", auxiliary={"r": "10.0.1.1"}),
            "invalid auxiliary address r: parent subnet 10.0.0.0/24 doesn't contain this address",
        ),
    ],
)
def test_what_is_wrong_with_a_subnet_is_said_in_dockers_words(pool: PoolRequest, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        plan("net", pool)
    assert str(caught.value) == f"invalid network config:\n{text}"


def test_everything_wrong_is_listed() -> None:
    with pytest.raises(InvalidParameter) as caught:
        plan("net", PoolRequest(subnet="10.0.0.1/24", gateway="x"))
    assert str(caught.value) == (
        "invalid network config:\n* invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24\n"
        "* invalid gateway x: invalid address"
    )


OTHER = plan("other", PoolRequest(subnet="10.1.0.0/16"))


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"name": " "}, InvalidParameter, "invalid name: name is empty"),
        ({"name": "bridge"}, Forbidden, "operation is not permitted on predefined bridge network "),
        ({"name": "other"}, Conflict, "network with name other already exists"),
        ({"driver": "host"}, Forbidden, 'only one instance of "host" network is allowed'),
        ({"driver": "nosuch"}, NotFound, 'plugin "nosuch" not found'),
        ({"ipam_driver": "nosuch"}, NotFound, 'plugin "nosuch" not found'),
        ({"scope": "swarm"}, Forbidden, "cannot create a swarm scoped network when swarm is not active"),
        ({"ingress": True}, Forbidden, "Ingress network can only be global scope network"),
        ({"enable_ipv4": False}, InvalidParameter, "IPv4 or IPv6 must be enabled"),
        ({"config_from": "nosuch"}, NotFound, 'configuration network "nosuch" does not exist'),
        (
            {"config_from": "x", "labels": {"a": "b"}},
            Forbidden,
            "user specified configurations are not supported",
        ),
        ({"config_from": "x", "options": {"a": "b"}}, Forbidden, "network driver options are not supported"),
        ({"pools": (PoolRequest(subnet="10.1.7.0/24"),)}, Forbidden, "Pool overlaps with other one"),
        ({"pools": (PoolRequest(subnet="10.0.0.0/8"),)}, Forbidden, "Pool overlaps with other one"),
        ({"pools": (PoolRequest(subnet="192.0.2.0/24"),)}, Forbidden, "the host itself uses 192.0.2.0/25"),
        ({"options": {BRIDGE + "enable_icc": "yes"}}, InvalidParameter, f"{BRIDGE}enable_icc value: yes"),
        ({"options": {BRIDGE + "name": "a/b"}}, InvalidParameter, "invalid bridge name 'a/b'"),
        ({"options": {BRIDGE + "host_binding_ipv4": "x"}}, InvalidParameter, "host_binding_ipv4 value: x"),
        ({"options": {"com.docker.network.driver.mtu": "1"}}, InvalidParameter, "invalid MTU number: 1"),
        ({"options": {"com.docker.network.enable_ipv6": "x"}}, InvalidParameter, "is not a valid bool"),
    ],
)
def test_refusals(fields: dict[str, object], kind: type[WherryError], text: str) -> None:
    host: list[IPNetwork] = [ipaddress.IPv4Network("192.0.2.0/25"), ipaddress.IPv4Network("10.0.0.0/7")]
    given = {"name": "net", **fields}
    pools = given.pop("pools", ())
    name = given.pop("name")
    with pytest.raises(WherryError) as caught:
        plan(str(name), *pools, networks=[OTHER], on_host=host, **given)  # type: ignore[misc]
    assert type(caught.value) is kind and text in str(caught.value)


def test_a_subnet_within_a_wider_route_of_the_host_is_an_exception_to_it() -> None:
    network = plan("net", PoolRequest(subnet="10.5.0.0/16"), on_host=[ipaddress.IPv4Network("10.0.0.0/8")])
    assert [p.subnet for p in network.pools] == ["10.5.0.0/16"]


def test_macvlan_lies_on_the_hosts_own_network() -> None:
    network = plan(
        "net",
        PoolRequest(subnet="192.0.2.0/24"),
        driver="macvlan",
        options={"parent": "eth0.7"},
        on_host=[ipaddress.IPv4Network("192.0.2.0/24")],
    )
    assert (network.parent, network.mode, network.interface) == ("eth0.7", "bridge", None)
    alone = plan("net", driver="macvlan")
    assert alone.parent == f"dm-{alone.id[:12]}" and not alone.has_way_out


def test_options_become_values_and_defaults_come_from_the_settings() -> None:
    settings = msgspec.structs.replace(
        SETTINGS, mtu=1400, default_network_opts={"bridge": {BRIDGE + "enable_icc": "false", "x": "y"}}
    )
    network = plan(
        settings=settings, options={BRIDGE + "name": "mine", BRIDGE + "gateway_mode_ipv4": "routed"}
    )
    assert (network.interface, network.icc, network.mtu, network.gateway_mode) == (
        "mine",
        False,
        1400,
        "routed",
    )
    assert not network.masquerades(ipv6=False) and network.options["x"] == "y"
    isolated = plan(internal=True, options={BRIDGE + "gateway_mode_ipv4": "isolated"})
    assert isolated.ipv4 is not None and isolated.ipv4.gateway == ""


def test_a_template_takes_no_subnet_and_lends_its_own() -> None:
    template = plan("template", PoolRequest(subnet="10.7.0.0/24", gateway="10.7.0.9"), config_only=True)
    made = plan("made", config_from="template", networks=[template])
    assert [(p.subnet, p.gateway) for p in made.pools] == [("10.7.0.0/24", "10.7.0.9")]
    assert (template.driver, made.driver, made.config_from) == ("null", "bridge", "template")


@given(
    subnet=st.text(alphabet="0123456789./:abcdefx", max_size=24),
    gateway=st.text(alphabet="0123456789./:ab%", max_size=20),
    ip_range=st.text(alphabet="0123456789./:ab", max_size=20),
)
def test_any_text_is_a_network_or_a_clear_refusal(subnet: str, gateway: str, ip_range: str) -> None:
    pool = PoolRequest(subnet=subnet, gateway=gateway, ip_range=ip_range)
    try:
        network = plan("net", pool, enable_ipv6=True)
    except (InvalidParameter, Forbidden) as exc:
        assert str(exc)
    else:
        assert all(ipaddress.ip_address(p.gateway) in ipaddress.ip_network(p.subnet) for p in network.pools)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 255), st.integers(20, 30)), min_size=1, max_size=12),
)
def test_networks_never_overlap(lengths: list[tuple[int, int]]) -> None:
    made: list[NetworkConfig] = []
    for number, (at, length) in enumerate(lengths):
        wanted = ipaddress.IPv4Network((0x0A000000 + (at << 8), length), strict=False)
        try:
            made.append(plan(f"n{number}", PoolRequest(subnet=str(wanted)), networks=made))
        except Forbidden:
            assert any(wanted.overlaps(ipaddress.ip_network(n.pools[0].subnet)) for n in made)
    subnets = [ipaddress.IPv4Network(n.pools[0].subnet) for n in made]
    assert not any(a.overlaps(b) for i, a in enumerate(subnets) for b in subnets[:i])
