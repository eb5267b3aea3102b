from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.network.driver import AddressPool, EndpointRequest, NetworkConfig
from wherry.network.requests import check_mac, check_request


def network(*, automatic: bool = False, driver: str = "bridge") -> NetworkConfig:
    pools = (
        AddressPool(subnet="10.0.0.0/24", gateway="10.0.0.1", automatic=automatic),
        AddressPool(subnet="fd00::/64", gateway="fd00::1", automatic=automatic),
    )
    return NetworkConfig(id="a" * 64, name="net", driver=driver, created_ns=0, pools=pools)


def request(**fields: object) -> EndpointRequest:
    return EndpointRequest(network="net", **fields)  # type: ignore[arg-type]


USERS = "user specified IP address is supported only when connecting to networks with user configured subnets"


@pytest.mark.parametrize(
    ("name", "asked", "on", "text"),
    [
        ("bridge", request(address="10.0.0.9"), None, "supported on user defined networks only"),
        ("bridge", request(aliases=("x",)), None, "only for containers in user defined networks"),
        ("net", request(address="x"), network(), "invalid IPv4 address: x"),
        ("net", request(address="fd00::9"), network(), "invalid IPv4 address: fd00::9"),
        ("net", request(address="0.0.0.0"), network(), "invalid IPv4 address: 0.0.0.0"),
        ("net", request(address6="10.0.0.9"), network(), "invalid IPv6 address: 10.0.0.9"),
        ("net", request(address="10.0.1.9"), network(), "subnet or ip-range contain the IP address 10.0.1.9"),
        ("net", request(address="10.0.0.9"), network(automatic=True), USERS),
        ("net", request(link_local=("10.0.0.9",)), network(), "invalid link-local IP address: 10.0.0.9"),
        ("net", request(mac="zz"), network(), "invalid MAC address: zz"),
        ("net", request(mac="01:00:5e:00:00:01"), network(), "invalid MAC address: 01:00:5e:00:00:01"),
        ("net", request(mac="02:42:00:00:00:01"), network(driver="ipvlan"), "custom mac address"),
        ("net", request(interface="a/b"), network(), "invalid interface name 'a/b'"),
    ],
)
def test_refusals(name: str, asked: EndpointRequest, on: NetworkConfig | None, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_request(name, asked, on)
    assert text in str(caught.value)


def test_everything_wrong_is_listed() -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_request("net", request(address="x", address6="y"), network())
    assert str(caught.value) == (
        "invalid endpoint settings:\n* invalid IPv4 address: x\n* invalid IPv6 address: y"
    )


def test_what_is_right_passes() -> None:
    wanted = request(
        address="10.0.0.9", address6="fd00::9", link_local=("169.254.1.1", "fe80::1"), mac="02-42-0A-00-00-09"
    )
    check_request("net", wanted, network())
    check_request("nosuch", request(address="10.9.9.9", aliases=("a",)), None)
    assert check_mac("02-42-0A-00-00-09") == check_mac("02420a000009") == "02:42:0a:00:00:09"


@given(st.text(max_size=24), st.text(max_size=40), st.text(max_size=20))
def test_any_text_passes_or_is_refused_by_name(address: str, address6: str, mac: str) -> None:
    try:
        check_request("net", request(address=address, address6=address6, mac=mac), network())
    except InvalidParameter as exc:
        assert str(exc)
