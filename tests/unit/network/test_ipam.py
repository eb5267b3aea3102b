from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Forbidden, InvalidParameter
from wherry.network.driver import AddressPool
from wherry.network.ipam import Addresses, mac_for, parse_bridge_address


def addresses_of(
    subnet: str, gateway: str = "", taken: list[str] | None = None, **fields: object
) -> Addresses:
    pool = msgspec.convert({"subnet": subnet, "gateway": gateway, **fields}, AddressPool)
    return Addresses(pool, taken or ())


def test_the_lowest_free_address_is_next() -> None:
    """As dockerd: with .2, .3 and .4 in use, and .2 freed, .2 comes next, and then .5."""
    addresses = addresses_of("172.31.240.0/24", "172.31.240.1")
    assert [addresses.take() for _ in range(3)] == ["172.31.240.2", "172.31.240.3", "172.31.240.4"]
    addresses.release("172.31.240.2")
    assert [addresses.take(), addresses.take()] == ["172.31.240.2", "172.31.240.5"]


def test_an_address_that_rests_comes_last() -> None:
    addresses = addresses_of("10.0.0.0/29", "10.0.0.1", ["10.0.0.5"])
    assert [addresses.take(), addresses.take()] == ["10.0.0.2", "10.0.0.3"]
    addresses.release("10.0.0.2", rest=True)
    addresses.release(
        "10.0.0.5", rest=True
    )  # above what was given out so far: its turn comes with the others
    assert [addresses.take() for _ in range(4)] == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(Forbidden):
        addresses.take()


def test_a_gateway_in_the_middle_is_never_given_out() -> None:
    addresses = addresses_of("10.0.0.0/29", "10.0.0.3")
    assert [addresses.take() for _ in range(5)] == [f"10.0.0.{n}" for n in (1, 2, 4, 5, 6)]


def test_a_full_subnet_is_refused_in_dockers_words() -> None:
    addresses = addresses_of("10.0.0.0/30", "10.0.0.1")
    addresses.take()
    with pytest.raises(Forbidden, match="no available IPv4 addresses on this network's address pools"):
        addresses.take()
    addresses.release("10.0.0.2")
    assert addresses.take() == "10.0.0.2"


@given(
    taken=st.sets(st.integers(2, 14)),
    steps=st.lists(st.one_of(st.just("take"), st.integers(0, 17)), max_size=60),
)
def test_addresses_behave_like_a_sorted_set(taken: set[int], steps: list[str | int]) -> None:
    addresses = addresses_of("10.0.0.0/28", "10.0.0.1", [f"10.0.0.{n}" for n in taken])
    used = set(taken)
    for step in steps:
        free = [n for n in range(2, 15) if n not in used]
        if step == "take" and free:
            assert addresses.take() == f"10.0.0.{free[0]}"
            used.add(free[0])
        elif isinstance(step, int):
            addresses.release(f"10.0.0.{step}")
            used.discard(step)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["take", "release", "rest"]), st.integers(1, 6)), max_size=80)
)
def test_no_address_is_given_out_twice_and_none_is_lost(steps: list[tuple[str, int]]) -> None:
    addresses = addresses_of("10.0.0.0/29", "10.0.0.1")
    used: set[str] = set()
    for step, number in steps:
        if step != "take":
            addresses.release(f"10.0.0.{number}", rest=step == "rest")
            used.discard(f"10.0.0.{number}")
        elif len(used) < 5:
            taken = addresses.take()
            assert taken not in used
            used.add(taken)
        else:
            with pytest.raises(Forbidden):
                addresses.take()


def test_the_mac_is_dockers() -> None:
    assert mac_for("172.31.240.2") == "02:42:ac:1f:f0:02"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "10.0.0.1",
        "10.0.0.1/33",
        "10.0.0.1/31",
        "10.0.0.0/24",
        "10.0.0.255/24",
        "::1/64",
        "10.0.0.1/24 ",
    ],
)
def test_a_bad_bridge_address_names_itself(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_bridge_address(text)
    assert text in str(caught.value)


def test_a_bridge_address_is_read() -> None:
    assert str(parse_bridge_address("172.18.5.1/16").network) == "172.18.0.0/16"
