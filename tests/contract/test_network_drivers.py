"""What every network driver promises (network/driver.py), tried on each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.unit.network.conftest import eventually, host, maker, run  # noqa: F401  # fixtures
from wherry import plugins
from wherry.errors import Unsupported
from wherry.network.driver import AddressPool, Endpoint, NetworkConfig, NetworkDriver
from wherry.network.ipam import mac_for
from wherry.network.links import Links
from wherry.network.nat import Firewall
from wherry.network.sandboxes import Maker, Sandbox

NETWORKS = {
    "bridge": NetworkConfig(
        id="b" * 64,
        name="one",
        driver="bridge",
        created_ns=0,
        pools=(AddressPool(subnet="172.30.9.0/24", gateway="172.30.9.1"),),
        interface="wht0",
    ),
    "bridge with IPv6": NetworkConfig(
        id="d" * 64,
        name="six",
        driver="bridge",
        created_ns=0,
        pools=(
            AddressPool(subnet="172.30.9.0/24", gateway="172.30.9.1"),
            AddressPool(subnet="fd00:9::/64", gateway="fd00:9::1"),
        ),
        interface="wht0",
    ),
    "macvlan": NetworkConfig(
        id="e" * 64,
        name="alone",
        driver="macvlan",
        created_ns=0,
        pools=(AddressPool(subnet="172.30.9.0/24", gateway="172.30.9.1"),),
        parent="dm-eeeeeeeeeeee",
        mode="bridge",
    ),
    "macvlan on a parent": NetworkConfig(
        id="f" * 64,
        name="lan",
        driver="macvlan",
        created_ns=0,
        pools=(AddressPool(subnet="172.30.9.0/24", gateway="172.30.9.1"),),
        parent="lan0",
        mode="private",
        options={"parent": "lan0"},
    ),
    **{
        f"ipvlan {mode}": NetworkConfig(
            id="9" * 64,
            name="ipvlan",
            driver="ipvlan",
            created_ns=0,
            pools=(AddressPool(subnet="172.30.9.0/24", gateway="172.30.9.1"),),
            parent="lan0",
            mode=mode,
            flag="bridge",
            options={"parent": "lan0"},
        )
        for mode in ("l2", "l3", "l3s")
    },
    "host": NetworkConfig(id="a" * 64, name="host", driver="host", created_ns=0),
    "none": NetworkConfig(id="c" * 64, name="none", driver="null", created_ns=0),
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> NetworkConfig:
    return NETWORKS[request.param]


@pytest.fixture
async def driver(
    request: pytest.FixtureRequest,
    network: NetworkConfig,
    maker: Maker,  # noqa: F811  # the fixture
) -> AsyncIterator[NetworkDriver]:
    entry = "none" if network.driver == "null" else network.driver
    firewall = Firewall("wherry-test", owns_forwarding=False)
    made: NetworkDriver = plugins.load_driver(plugins.NETWORKS, entry)(maker, firewall)
    if network.parent == "lan0":
        run("ip", "link", "add", "lan0", "type", "veth", "peer", "lan1")
    try:
        await made.create(network)
    except Unsupported as exc:
        await made.close()
        pytest.skip(str(exc))
    yield made
    await made.close()


def endpoint_for(network: NetworkConfig, number: int, sandbox: Sandbox | None) -> Endpoint:
    endpoint_id = sandbox.id if sandbox else f"{number:064}"
    if network.ipv4 is None:
        return Endpoint(id=endpoint_id, network_id=network.id, container_id=f"container{number}")
    address = f"172.30.9.{number + 1}"
    return Endpoint(
        id=endpoint_id,
        network_id=network.id,
        container_id=f"container{number}",
        address=address,
        prefix_length=24,
        gateway=network.ipv4.gateway,
        address6=f"fd00:9::{number + 1}" if network.ipv6 else "",
        prefix_length6=64,
        mac=mac_for(address) if network.driver != "ipvlan" else "",
        interface="eth0",
    )


async def join(driver: NetworkDriver, network: NetworkConfig, number: int) -> tuple[Endpoint, Sandbox | None]:
    sandbox = await driver.sandbox(network)
    endpoint = endpoint_for(network, number, sandbox)
    if sandbox is not None:
        await driver.connect(network, endpoint, sandbox)
    return endpoint, sandbox


def names() -> set[str]:
    links = Links()
    try:
        return {link.name for link in links.links()}
    finally:
        links.close()


def test_its_name_is_dockers(driver: NetworkDriver, network: NetworkConfig) -> None:
    assert driver.name == network.driver


async def test_create_again_disturbs_nobody(driver: NetworkDriver, network: NetworkConfig) -> None:
    _, sandbox = await join(driver, network, 1)
    before = sandbox.links.links() if sandbox else []
    await driver.create(network)
    assert (sandbox.links.links() if sandbox else []) == before
    if sandbox:
        sandbox.close()


async def test_each_container_has_a_sandbox_of_its_own(driver: NetworkDriver, network: NetworkConfig) -> None:
    joined = [await join(driver, network, number) for number in range(1, 10)]
    sandboxes = [sandbox for _, sandbox in joined if sandbox is not None]
    assert len(sandboxes) in (0, 9)  # all share the host's namespace, or none do
    assert len({os.fstat(s.netns).st_ino for s in sandboxes}) == len(sandboxes)
    assert len({endpoint.id for endpoint, _ in joined}) == 9
    for sandbox in sandboxes:
        assert next(link for link in sandbox.links.links() if link.name == "lo").is_up
        sandbox.close()


async def test_an_endpoint_has_its_interface_up_with_its_addresses(
    driver: NetworkDriver, network: NetworkConfig
) -> None:
    endpoint, sandbox = await join(driver, network, 1)
    if sandbox is None or not endpoint.address:
        return
    index = sandbox.links.index_of("eth0")
    assert sandbox.indexes[network.id] == index and sandbox.links.get(index).is_up
    if endpoint.mac:
        assert sandbox.links.get(index).mac == endpoint.mac
    expected = {f"{endpoint.address}/24"} | ({f"{endpoint.address6}/64"} if endpoint.address6 else set())
    assert {str(address) for at, address in sandbox.links.addresses() if at == index} == expected
    sandbox.close()


async def test_a_running_container_joins_as_well(
    driver: NetworkDriver,
    network: NetworkConfig,
    maker: Maker,  # noqa: F811  # the fixture
) -> None:
    if network.ipv4 is None:
        return
    running = await maker.run(maker.make)
    sandbox = await maker.run(lambda: maker.adopt(os.dup(running.netns)))
    endpoint = msgspec.structs.replace(endpoint_for(network, 3, None), interface="eth3")
    await driver.connect(network, endpoint, sandbox)
    sandbox.close()
    assert running.links.get(running.links.index_of("eth3")).is_up
    await asyncio.to_thread(running.links.delete, running.links.index_of("eth3"))
    await driver.disconnect(network, endpoint)
    running.close()


async def test_disconnect_may_be_told_twice_and_after_the_sandbox_is_gone(
    driver: NetworkDriver, network: NetworkConfig
) -> None:
    endpoint, sandbox = await join(driver, network, 1)
    await driver.disconnect(network, endpoint)
    if sandbox:
        sandbox.close()
    await driver.disconnect(network, endpoint)
    await driver.disconnect(network, endpoint_for(network, 7, None))


async def test_reconcile_keeps_the_living(driver: NetworkDriver, network: NetworkConfig) -> None:
    endpoint, sandbox = await join(driver, network, 1)
    before = sandbox.links.links() if sandbox else []
    await driver.reconcile(network, [endpoint])
    assert (sandbox.links.links() if sandbox else []) == before
    if sandbox:
        sandbox.close()


async def test_remove_and_close_leave_nothing(driver: NetworkDriver, network: NetworkConfig) -> None:
    endpoint, sandbox = await join(driver, network, 1)
    await driver.disconnect(network, endpoint)
    if sandbox:
        sandbox.close()
    await driver.remove(network)
    await driver.remove(network)
    await driver.close()
    await driver.close()
    expected = {"lo", "lan0", "lan1"} if network.parent == "lan0" else {"lo"}
    await eventually(lambda: names() == expected)
