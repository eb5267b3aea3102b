from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Forbidden
from wherry.network.driver import AddressPool, EndpointRequest, NetworkConfig
from wherry.network.places import Places


def network(*pools: AddressPool, driver: str = "bridge", **fields: object) -> NetworkConfig:
    return NetworkConfig(id="a" * 64, name="net", driver=driver, created_ns=0, pools=pools, **fields)  # type: ignore[arg-type]


FOUR = AddressPool(subnet="10.0.0.0/29", gateway="10.0.0.1")
SIX = AddressPool(subnet="fd00::/64", gateway="fd00::1")
ANY = EndpointRequest(network="net")


def test_a_place_has_an_address_of_each_family_and_a_name_inside() -> None:
    places, both = Places(), network(FOUR, SIX)
    places.open(both)
    first = places.take(both, "one", ANY)
    assert (first.address, first.prefix_length, first.gateway) == ("10.0.0.2", 29, "10.0.0.1")
    assert (first.address6, first.prefix_length6, first.gateway6) == ("fd00::2", 64, "fd00::1")
    assert (first.interface, first.mac) == ("eth0", "02:42:0a:00:00:02")
    other = NetworkConfig(id="b" * 64, name="other", driver="bridge", created_ns=0, pools=(FOUR,))
    places.open(other)
    assert places.take(other, "one", ANY).interface == "eth1"
    places.leave(first, rest=False)
    assert places.take(both, "one", ANY).interface == "eth0"


def test_a_wish_is_granted_or_refused_and_takes_nothing() -> None:
    places, both = Places(), network(FOUR, SIX)
    places.open(both)
    wish = EndpointRequest(network="net", address="10.0.0.4", address6="fd00::9", mac="AA-BB-CC-00-11-22")
    taken = places.take(both, "one", wish)
    assert (taken.address, taken.address6, taken.mac) == ("10.0.0.4", "fd00::9", "aa:bb:cc:00:11:22")
    with pytest.raises(Forbidden, match="Address already in use"):
        places.take(both, "two", EndpointRequest(network="net", address6="fd00::9"))
    with pytest.raises(Forbidden, match="already exists in network net"):
        places.take(both, "one", ANY)
    # the IPv4 address of the refused one is free again
    assert places.take(both, "three", ANY).address == "10.0.0.2"


def test_a_full_subnet_is_followed_by_the_next() -> None:
    places = Places()
    lan = network(FOUR, AddressPool(subnet="10.0.1.0/29", gateway="10.0.1.1"), driver="macvlan")
    places.open(lan)
    given_out = [places.take(lan, f"c{n}", ANY) for n in range(10)]
    assert [e.address for e in given_out[:6]] == [f"10.0.0.{n}" for n in range(2, 7)] + ["10.0.1.2"]
    assert given_out[5].gateway == "10.0.1.1"
    with pytest.raises(Forbidden, match=r"address pools: net \(a{64}\)"):
        places.take(lan, "more", ANY)


def test_no_way_out_is_no_gateway() -> None:
    places, inner = Places(), network(FOUR, internal=True)
    places.open(inner)
    assert places.take(inner, "one", ANY).gateway == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "leave", "wish"]), st.integers(0, 7), st.integers(0, 8)),
        max_size=60,
    )
)
def test_whatever_happens_no_address_has_two_owners_and_none_is_lost(
    steps: list[tuple[str, int, int]],
) -> None:
    places, small = Places(), network(FOUR)
    places.open(small)
    for what, who, number in steps:
        name = f"c{who}"
        try:
            if what == "leave":
                for endpoint in list(places.of(name).values()):
                    places.leave(endpoint, rest=bool(number % 2))
            else:
                wish = f"10.0.0.{number}" if what == "wish" and number < 8 else ""
                places.take(small, name, EndpointRequest(network="net", address=wish))
        except Forbidden:
            pass
        addresses = [e.address for e in places.on(small.id)]
        assert len(set(addresses)) == len(addresses)
        assert not {"10.0.0.0", "10.0.0.1", "10.0.0.7"} & set(addresses)
    for name in places.containers():
        for endpoint in list(places.of(name).values()):
            places.leave(endpoint, rest=False)
    assert sorted(places.take(small, f"d{n}", ANY).address for n in range(5)) == [
        f"10.0.0.{n}" for n in range(2, 7)
    ]
