from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Forbidden, InvalidParameter
from wherry.network.pools import DEFAULT_POOLS, PoolSetting, check_pool, choose_subnet, local_pool
from wherry.store.database import Database

Network = ipaddress.IPv4Network


def test_dockers_own_pools_are_walked_in_its_order() -> None:
    used: list[Network] = []
    for _ in range(16):
        used.append(Network(str(choose_subnet(DEFAULT_POOLS, used))))
    assert [str(n) for n in used[:15]] == [f"172.{second}.0.0/16" for second in range(17, 32)]
    assert str(used[15]) == "192.168.0.0/20"


def test_a_pool_that_overlaps_a_route_is_passed_over() -> None:
    used = [Network(text) for text in ("172.17.3.0/24", "172.18.0.0/15", "10.0.0.0/8")]
    assert str(choose_subnet(DEFAULT_POOLS, used)) == "172.20.0.0/16"
    with pytest.raises(Forbidden, match="all predefined address pools have been fully subnetted"):
        choose_subnet(DEFAULT_POOLS, [Network("0.0.0.0/0")])


def test_a_huge_pool_is_searched_without_counting() -> None:
    pools = [PoolSetting("fd00::/8", 64), PoolSetting("10.0.0.0/8", 30)]
    six = [ipaddress.IPv6Network("fd00::/9")]
    assert str(choose_subnet(pools, six, ipv6=True)) == "fd80::/64"
    assert str(choose_subnet(pools, [Network("10.0.0.0/9"), Network("10.128.0.1/32")])) == "10.128.0.4/30"


@given(
    used=st.lists(st.tuples(st.integers(0, 1023), st.integers(24, 32)), max_size=30), size=st.integers(23, 28)
)
def test_what_is_chosen_is_the_first_that_overlaps_nothing(used: list[tuple[int, int]], size: int) -> None:
    """The same as by trying one subnet after the other."""
    networks = [Network((0x0A000000 + at, length), strict=False) for at, length in used]
    pool = PoolSetting("10.0.0.0/22", size)
    free = (
        subnet
        for subnet in Network(pool.base).subnets(new_prefix=size)
        if not any(subnet.overlaps(other) for other in networks)
    )
    expected = next(free, None)
    if expected is None:
        with pytest.raises(Forbidden):
            choose_subnet([pool], networks)
    else:
        assert choose_subnet([pool], networks) == expected


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (PoolSetting("10.0.0.1/8", 24), "invalid base pool '10.0.0.1/8'"),
        (PoolSetting("x", 24), "invalid base pool 'x'"),
        (PoolSetting("10.0.0.0/8", 33), "invalid size 33"),
        (PoolSetting("10.0.0.0/8", 0), "invalid size 0"),
        (PoolSetting("10.0.0.0/24", 16), "smaller prefix"),
        (PoolSetting("fd00::/8", 129), "invalid size 129"),
    ],
)
def test_a_bad_pool_names_itself(pool: PoolSetting, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        check_pool(pool)


async def test_the_local_ipv6_pool_is_chosen_once(database: Database) -> None:
    pool = await database.run(local_pool)
    assert ipaddress.IPv6Network(pool).subnet_of(ipaddress.IPv6Network("fd00::/8"))
    assert ipaddress.IPv6Network(pool).prefixlen == 48
    assert await database.run(local_pool) == pool
