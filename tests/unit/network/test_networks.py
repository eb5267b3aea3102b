"""Networks as the engine uses them: places given and taken back, over restarts and deaths of the daemon."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.unit.network.conftest import SETTINGS, eventually, inside, on, pool, run, set_rules, subnet_of
from wherry.errors import Conflict, Forbidden, Internal, InvalidParameter, NotFound
from wherry.network import connections, sandboxes
from wherry.network.creation import NetworkRequest
from wherry.network.driver import AddressPool, EndpointRequest, NetworkConfig
from wherry.network.links import Link, Links
from wherry.network.networks import Networks, NetworkSettings
from wherry.network.pools import PoolSetting
from wherry.store.database import Database


def ports() -> dict[str, str]:
    """Interfaces on the test's bridge, and their aliases."""
    opened = Links()
    try:
        bridge = opened.find("wht0")
        return {link.name: link.alias for link in opened.links() if bridge and link.master == bridge.index}
    finally:
        opened.close()


def connected() -> dict[str, str]:
    """Those of them that a container has."""
    return {
        name: alias.rpartition(" ")[2]
        for name, alias in ports().items()
        if alias.rpartition(" ")[2].startswith("container")
    }


async def rows(database: Database) -> list[tuple[str, str | None]]:
    def read(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
        found = connection.execute("SELECT container_id, address FROM endpoint ORDER BY container_id")
        return [tuple(row) for row in found]

    return await database.run(read, durable=False)


def all_links() -> list[Link]:
    opened = Links()
    try:
        return opened.links()
    finally:
        opened.close()


def link_names() -> list[str]:
    return [link.name for link in all_links()]


@pytest.fixture
def forgetting_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every kernel could forget connections, so that addresses come back at once."""
    forget = connections.forget
    monkeypatch.setattr(connections, "forget", lambda address: forget(address) or True)


async def test_an_address_whose_connections_live_on_rests(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "forget", lambda address: False)
    await networks.acquire("container1", on("bridge"))
    await networks.release("container1")
    assert (await networks.acquire("container1", on("bridge"))).endpoints[0].address == "172.30.9.3"


async def test_the_three_default_networks_are_there_and_keep_their_ids(
    networks: Networks, database: Database
) -> None:
    ids = {n.name: n.id for n in networks.list()}
    assert {n.name: n.driver for n in networks.list()} == {"bridge": "bridge", "host": "host", "none": "null"}
    assert all(len(i) == 64 for i in ids.values())
    await networks.close()
    again = await Networks.open(database, SETTINGS)
    assert {n.name: n.id for n in again.list()} == ids
    await again.close()


async def test_a_container_on_the_bridge_has_interface_address_mac_and_route(networks: Networks) -> None:
    attachment = await networks.acquire("container1", on("default"))
    endpoint = attachment.endpoints[0]
    assert networks.inspect(endpoint.network_id).name == "bridge"
    assert (endpoint.address, endpoint.prefix_length, endpoint.gateway) == ("172.30.9.2", 24, "172.30.9.1")
    assert endpoint.mac == "02:42:ac:1e:09:02"

    def look() -> tuple[str, str]:
        address = run("ip", "-j", "address")
        route = run("ip", "-j", "route")
        return address, route

    assert attachment.sandbox is not None
    address, route = inside(attachment.sandbox, look)
    eth0 = next(link for link in json.loads(address) if link["ifname"] == "eth0")
    assert (eth0["address"], eth0["operstate"], eth0["mtu"]) == ("02:42:ac:1e:09:02", "UP", 1500)
    assert [a["local"] for a in eth0["addr_info"]] == ["172.30.9.2"]
    assert {(r["dst"], r.get("gateway")) for r in json.loads(route)} == {
        ("default", "172.30.9.1"),
        ("172.30.9.0/24", None),
    }
    assert connected() == {f"veth{endpoint.id[:7]}": "container1"}


async def test_a_container_on_two_networks_has_an_interface_on_each(
    networks: Networks, database: Database
) -> None:
    other = NetworkConfig(
        id="77" * 32,
        name="aside",
        driver="bridge",
        created_ns=1,
        pools=(AddressPool(subnet="172.30.10.0/24", gateway="172.30.10.1"),),
        interface="wht1",
    )
    await database.run(
        lambda c: c.execute(
            "INSERT INTO network (id, name, driver, created_ns, config) VALUES (?, ?, ?, ?, ?)",
            (other.id, other.name, other.driver, 1, msgspec.json.encode(other)),
        )
    )
    await networks.close()
    again = await Networks.open(database, SETTINGS)
    wanted = [EndpointRequest(network="bridge"), EndpointRequest(network="aside")]
    attachment = await again.acquire("container1", wanted)
    assert attachment.sandbox is not None

    def look() -> tuple[dict[str, str], str]:
        links = json.loads(run("ip", "-j", "-4", "address"))
        route = json.loads(run("ip", "-j", "route", "show", "default"))[0]
        return {link["ifname"]: link["addr_info"][0]["local"] for link in links}, route["gateway"]

    expected = {"lo": "127.0.0.1", "eth0": "172.30.9.2", "eth1": "172.30.10.2"}
    assert inside(attachment.sandbox, look) == (expected, "172.30.10.1")  # aside comes before bridge
    preferred = [EndpointRequest(network="bridge", priority=1), EndpointRequest(network="aside")]
    attachment = await again.acquire("container1", preferred)
    assert attachment.sandbox is not None
    assert inside(attachment.sandbox, look)[1] == "172.30.9.1"
    await again.release("container1")
    assert again.endpoints_of("container1") == () and not await rows(database)
    await again.close()


async def test_host_and_none_have_no_address(networks: Networks) -> None:
    host = await networks.acquire("container1", on("host"))
    none = await networks.acquire("container2", on("none"))
    assert host.sandbox is None
    assert (host.endpoints[0].address, none.endpoints[0].address) == ("", "")
    assert none.sandbox is not None
    assert inside(none.sandbox, lambda: sorted(os.listdir("/proc/thread-self/net/dev_snmp6") or [])) in (
        [],
        ["lo"],
    )


@pytest.mark.usefixtures("forgetting_kernel")
async def test_a_released_address_is_free_and_its_port_off_the_bridge(
    networks: Networks, database: Database
) -> None:
    first = await networks.acquire("container1", on("bridge"))
    await networks.acquire("container2", on("bridge"))
    assert await rows(database) == [("container1", "172.30.9.2"), ("container2", "172.30.9.3")]
    await networks.release("container1")
    await networks.release("container1")  # again is fine
    await networks.release("nobody")
    assert connected() == {
        f"veth{e.id[:7]}": "container2" for e in networks.endpoints(first.endpoints[0].network_id)
    }
    assert await rows(database) == [("container2", "172.30.9.3")]
    assert networks.endpoints_of("container1") == ()
    assert (await networks.acquire("container3", on("bridge"))).endpoints[0].address == "172.30.9.2"


@pytest.mark.usefixtures("forgetting_kernel")
async def test_a_second_start_of_a_container_takes_the_place_of_the_first(
    networks: Networks, database: Database
) -> None:
    await networks.acquire("container1", on("bridge"))
    again = await networks.acquire("container1", on("bridge"))
    assert again.endpoints[0].address == "172.30.9.2"
    assert len(connected()) == 1
    assert await rows(database) == [("container1", "172.30.9.2")]


@pytest.mark.parametrize("name", ["nosuch", "", " ", "container:x", "../x", "bridge "])
async def test_an_unknown_network_is_refused_in_dockers_words(networks: Networks, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        networks.inspect(name)
    assert str(caught.value) == f"network {name} not found"


async def test_a_network_is_found_by_name_id_and_prefix(networks: Networks) -> None:
    bridge = networks.inspect("bridge")
    assert networks.inspect(bridge.id) is bridge
    assert networks.inspect(bridge.id[:12]) is bridge


async def test_a_burst_gets_distinct_addresses_and_nothing_is_left(
    networks: Networks, database: Database
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    taken = await asyncio.gather(*(networks.acquire(f"container{n}", on("bridge")) for n in range(30)))
    assert sorted(a.endpoints[0].address for a in taken) == sorted(f"172.30.9.{n}" for n in range(2, 32))
    await asyncio.gather(*(networks.release(f"container{n}") for n in range(30)))
    assert connected() == {}
    assert await rows(database) == []
    await networks.remove_all()
    await networks.close()
    assert len(os.listdir("/proc/self/fd")) < before
    await eventually(lambda: link_names() == ["lo"])
    assert run("nft", "list", "tables") == ""


async def test_a_full_network_refuses_and_keeps_nothing(host: None, database: Database) -> None:
    small = msgspec.structs.replace(SETTINGS, bip="172.30.9.1/30")
    networks = await Networks.open(database, small)
    await networks.acquire("container1", on("bridge"))
    with pytest.raises(Forbidden, match="no available IPv4 addresses"):
        await networks.acquire("container2", on("bridge"))
    assert len(await rows(database)) == 1
    assert len(connected()) == 1
    await networks.release("container1")
    assert (await networks.acquire("container2", on("bridge"))).endpoints[0].address == "172.30.9.2"
    await networks.close()


@pytest.mark.usefixtures("forgetting_kernel")
async def test_a_cancelled_acquire_keeps_nothing(networks: Networks, database: Database) -> None:
    for turns in range(12):
        task = asyncio.create_task(networks.acquire("container1", on("bridge")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            await networks.release("container1")
        assert await rows(database) == []
        assert connected() == {}
        assert networks.endpoints_of("container1") == ()
    assert (await networks.acquire("container2", on("bridge"))).endpoints[0].address == "172.30.9.2"


@pytest.mark.parametrize("pause_s", [0, 0.002, 0.1])
async def test_a_bridge_that_somebody_deleted_is_made_again(networks: Networks, pause_s: float) -> None:
    await networks.acquire("container1", on("bridge"))
    await asyncio.sleep(pause_s)
    run("ip", "link", "delete", "wht0")
    await asyncio.gather(*(networks.acquire(f"container{n}", on("bridge")) for n in range(2, 9)))
    assert sorted(connected().values()) == [
        f"container{n}" for n in range(1, 9)
    ]  # the first is back on it too


async def test_ready_interfaces_that_somebody_deleted_are_made_again(networks: Networks) -> None:
    await networks.reconcile(set())
    await eventually(lambda: len(ports()) == 6)
    for name in ports():
        run("ip", "link", "delete", name)
    await asyncio.gather(*(networks.acquire(f"container{n}", on("bridge")) for n in range(3)))
    assert len(connected()) == 3


async def test_a_restart_leaves_running_containers_alone_and_frees_the_dead(
    networks: Networks, database: Database
) -> None:
    running = await networks.acquire("container1", on("bridge"))
    assert running.sandbox is not None
    netns = os.dup(running.sandbox)  # as a shim holds it
    await networks.acquire("container2", on("bridge"))
    before = connected()
    await networks.close()
    again = await Networks.open(database, SETTINGS)
    assert again.endpoints_of("container1") == running.endpoints
    await again.reconcile({"container1"})
    assert connected() == {name: c for name, c in before.items() if c == "container1"}
    assert await rows(database) == [("container1", "172.30.9.2")]
    assert (await again.acquire("container3", on("bridge"))).endpoints[0].address == "172.30.9.3"
    assert inside(netns, lambda: os.path.exists("/proc/thread-self/net/dev"))
    os.close(netns)
    await again.close()


async def test_reconcile_removes_only_interfaces_of_this_bridge_that_are_ours(
    networks: Networks, database: Database
) -> None:
    run("ip", "link", "add", "theirs", "master", "wht0", "type", "veth", "peer", "theirs2")
    run("ip", "link", "add", "vethabcdef0", "type", "veth", "peer", "p0")
    run("ip", "link", "set", "vethabcdef0", "alias", "wherry port wht00 c")
    run("ip", "link", "add", "vethabcdef1", "type", "veth", "peer", "p1")
    run("ip", "link", "set", "vethabcdef1", "alias", "wherry port wht0 c")
    await networks.reconcile(set())
    names = set(link_names())
    assert {"theirs", "theirs2", "vethabcdef0", "p0"} <= names
    assert not {"vethabcdef1", "p1"} & names


VICTIM = """
import asyncio, os, sys
from wherry.network.creation import NetworkRequest
from wherry.network.driver import EndpointRequest
from wherry.network.networks import Networks, NetworkSettings
from wherry.store.database import Database

ON_BRIDGE = [EndpointRequest(network="bridge")]

async def main():
    database = await Database.open(sys.argv[1])
    networks = await Networks.open(database, NetworkSettings(bridge="wht0", bip="172.30.9.1/24"))
    await networks.reconcile(set())
    for number in range(3):
        await networks.acquire(f"container{number}", ON_BRIDGE)
    print("ready", flush=True)
    while True:
        for number in range(3, 6):
            await networks.acquire(f"container{number}", ON_BRIDGE)
            await networks.release(f"container{number - 1}")
        made = await networks.create(NetworkRequest(name="made", enable_ipv6=True))
        attachment = await networks.acquire("container9", [EndpointRequest(network="made")])
        await networks.connect("container9", ON_BRIDGE[0], os.dup(attachment.sandbox))
        await networks.disconnect("container9", "made", os.dup(attachment.sandbox))
        await networks.release("container9")
        await networks.remove("made")

asyncio.run(main())
"""


def start_victim(path: str) -> subprocess.Popen[str]:
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, path], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    with victim.stdout as output:
        assert output.readline() == "ready\n"
    return victim


@pytest.mark.parametrize("after_ms", [0, 1, 3, 7, 12, 20, 30, 40, 55, 70, 90, 120])
async def test_a_killed_daemon_leaves_nothing_the_next_does_not_clean(
    host: None, tmp_path: Path, after_ms: int
) -> None:
    path = str(tmp_path / "killed.db")
    victim = start_victim(path)
    await asyncio.sleep(after_ms / 1000)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL  # it was at work, and had not failed by itself
    database = await Database.open(path)
    networks = await Networks.open(database, SETTINGS)
    await networks.reconcile(set())
    assert await rows(database) == []
    assert connected() == {}
    made = [network for network in networks.list() if network.name == "made"]
    bridges = {link.name for link in all_links() if link.kind == "bridge"}
    assert bridges == {"wht0", *(network.interface for network in made)}
    assert (await networks.acquire("container9", on("bridge"))).endpoints[0].address == "172.30.9.2"
    await networks.remove_all()
    await networks.close()
    await database.close()
    await eventually(lambda: link_names() == ["lo"])
    assert run("nft", "list", "tables") == ""


@pytest.mark.usefixtures("forgetting_kernel")
async def test_a_database_that_fails_does_not_keep_a_container_from_ending(
    networks: Networks, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await networks.acquire("container1", on("bridge"))
    await database.run(lambda c: c.execute("ALTER TABLE endpoint RENAME TO away"))
    await networks.release("container1")
    assert "container container1 keeps its address 172.30.9.2 for now" in caplog.text
    with pytest.raises(Exception, match="no such table"):
        await networks.acquire("container2", on("bridge"))
    assert connected() == {}
    await database.run(lambda c: c.execute("ALTER TABLE away RENAME TO endpoint"))
    assert (await networks.acquire("container3", on("bridge"))).endpoints[0].address != "172.30.9.2"
    await networks.reconcile({"container3"})
    assert [container for container, _ in await rows(database)] == ["container3"]
    assert (await networks.acquire("container4", on("bridge"))).endpoints[0].address == "172.30.9.2"


async def test_that_we_enabled_forwarding_is_remembered_until_the_next_boot(
    host: None, database: Database
) -> None:
    def guards() -> bool:
        shown = run("nft", "list", "ruleset")
        return "iifkind" in shown

    run("sysctl", "-w", "net.ipv4.ip_forward=0")
    for _ in range(2):
        networks = await Networks.open(database, SETTINGS)
        assert guards()
        await networks.close()
    await database.run(lambda c: c.execute("UPDATE fact SET value = 'an earlier boot'"))
    networks = await Networks.open(database, SETTINGS)
    assert not guards()
    await networks.close()


@pytest.mark.parametrize(
    "damage",
    ["flush ruleset", "delete table inet wherry-wht0", "flush chain inet wherry-wht0 postrouting"],
)
async def test_flushed_rules_come_back_by_themselves(networks: Networks, damage: str) -> None:
    def rules() -> str:
        return run("nft", "list", "ruleset")

    before = rules()
    assert "masquerade" in before
    run("nft", damage)
    assert rules() != before
    await eventually(lambda: rules() == before, timeout_s=2)


async def test_an_accept_that_somebody_flushed_comes_back_by_itself(host: None, database: Database) -> None:
    set_rules("table ip theirs { chain routed { type filter hook forward priority 0; policy drop; }\n}\n")
    networks = await Networks.open(database, msgspec.structs.replace(SETTINGS, firewall_accept=True))

    def rules() -> str:
        return run("nft", "-s", "list", "table", "ip", "theirs")

    before = rules()
    assert before.count("added by --firewall-accept for wht0") == 2
    run("nft", "flush", "chain", "ip", "theirs", "routed")
    await eventually(lambda: rules() == before, timeout_s=3)
    await networks.remove_all()
    assert "firewall-accept" not in rules()
    await networks.close()


async def test_a_loop_of_starts_grows_nothing(networks: Networks) -> None:
    async def loop(times: int) -> None:
        for _ in range(times):
            await networks.acquire("container1", on("bridge"))
            await networks.release("container1")

    await loop(20)
    gc.collect()
    descriptors, objects = len(os.listdir("/proc/self/fd")), len(gc.get_objects())
    await loop(100)
    await asyncio.sleep(0.2)  # the pool fills up again
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 12
    assert len(gc.get_objects()) < objects + 500
    await eventually(lambda: len(all_links()) <= 2 + 6)


# Networks that somebody makes


async def test_a_network_is_made_used_and_removed_without_a_trace(networks: Networks) -> None:
    made = await networks.create(NetworkRequest(name="made", enable_ipv6=True))
    assert networks.inspect("made") is made and made.interface in link_names()
    assert str(made.interface) in run("nft", "list", "table", "inet", "wherry-wht0")
    attachment = await networks.acquire("container1", on("made"))
    endpoint = attachment.endpoints[0]
    assert attachment.sandbox is not None

    def look() -> set[str]:
        found = json.loads(run("ip", "-j", "address", "show", "eth0"))[0]["addr_info"]
        assert all("tentative" not in address for address in found)
        return {address["local"] for address in found if address["scope"] == "global"}

    assert inside(attachment.sandbox, look) == {endpoint.address, endpoint.address6}
    with pytest.raises(Forbidden, match="has active endpoints"):
        await networks.remove("made")
    await networks.release("container1")
    await networks.remove("made")
    assert made.interface not in link_names()
    assert str(made.interface) not in run("nft", "list", "table", "inet", "wherry-wht0")
    with pytest.raises(NotFound):
        await networks.acquire("container1", on("made"))


async def test_what_cannot_be_made_leaves_nothing(networks: Networks, database: Database) -> None:
    run("ip", "link", "add", "taken", "type", "veth", "peer", "other")
    options = {"com.docker.network.bridge.name": "taken"}
    with pytest.raises(InvalidParameter, match="interface taken is not a bridge"):
        await networks.create(NetworkRequest(name="made", options=options))
    assert [n.name for n in networks.list() if n.name == "made"] == []
    names = await database.run(lambda c: [row["name"] for row in c.execute("SELECT name FROM network")])
    assert sorted(names) == ["bridge", "host", "none"]
    assert (await networks.create(NetworkRequest(name="made"))).name == "made"  # the name is free


async def test_a_foreign_drop_is_found_when_a_network_is_made(networks: Networks) -> None:
    set_rules("table ip theirs { chain routed { type filter hook forward priority 0; policy drop; }\n}\n")
    made = await networks.create(NetworkRequest(name="made"))
    inner = await networks.create(NetworkRequest(name="inner", internal=True))
    found = [warning for warning in networks.warnings() if str(made.interface) in warning]
    assert len(found) == 1 and f"nft insert rule ip theirs routed iifname {made.interface}" in found[0]
    assert not [warning for warning in networks.warnings() if str(inner.interface) in warning]
    await networks.remove("made")
    run("nft", "delete", "table", "ip", "theirs")


async def test_names_and_subnets_are_given_once_to_many_at_once(networks: Networks) -> None:
    wanted = [networks.create(NetworkRequest(name=f"net{n % 8}")) for n in range(16)]
    results = await asyncio.gather(*wanted, return_exceptions=True)
    made = [r for r in results if isinstance(r, NetworkConfig)]
    assert len(made) == 8 and sum(isinstance(r, Conflict) for r in results) == 8
    assert len({pool(network).subnet for network in made}) == 8


async def test_a_user_networks_pool_is_empty_until_it_is_used_and_again_when_it_rests(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "IDLE_S", 0.3)
    made = await networks.create(NetworkRequest(name="made"))

    def ready() -> int:
        return sum(f"wherry port {made.interface} " in link.alias for link in all_links()) - len(
            networks.endpoints(made.id)
        )

    await networks.acquire("container0", on("made"))
    await asyncio.sleep(0.1)
    assert ready() == 0  # a network with a single container costs nothing
    for number in range(1, 5):
        await networks.acquire(f"container{number}", on("made"))
    await eventually(lambda: ready() == 4)
    await eventually(lambda: ready() == 0)
    assert (await networks.acquire("container9", on("made"))).sandbox is not None


@pytest.mark.usefixtures("forgetting_kernel")
async def test_a_running_container_joins_and_leaves(networks: Networks, database: Database) -> None:
    await networks.create(NetworkRequest(name="aside"))
    attachment = await networks.acquire("container1", on("bridge"))
    assert attachment.sandbox is not None
    sandbox = attachment.sandbox

    def look() -> tuple[list[str], str]:
        names = sorted(link["ifname"] for link in json.loads(run("ip", "-j", "link")))
        routes = json.loads(run("ip", "-j", "route", "show", "default"))
        return names, routes[0]["gateway"] if routes else ""

    request = EndpointRequest(network="aside")
    joined = await networks.connect("container1", request, os.dup(sandbox))
    assert inside(sandbox, look) == (["eth0", "eth1", "lo"], joined.gateway)
    with pytest.raises(Forbidden, match="already exists in network aside"):
        await networks.connect("container1", request, os.dup(sandbox))
    assert len(await rows(database)) == 2
    await networks.disconnect("container1", "bridge", os.dup(sandbox))
    assert inside(sandbox, look) == (["eth1", "lo"], joined.gateway)
    with pytest.raises(Internal, match="is not connected to network bridge"):
        await networks.disconnect("container1", "bridge", os.dup(sandbox))
    assert await rows(database) == [("container1", joined.address)]
    back = await networks.connect("container1", EndpointRequest(network="bridge"), os.dup(sandbox))
    assert (back.address, back.interface) == ("172.30.9.2", "eth0")
    await networks.release("container1")
    assert await rows(database) == [] and connected() == {}


async def test_a_container_that_renamed_its_interfaces_joins_and_leaves_all_the_same(
    networks: Networks, database: Database
) -> None:
    await networks.create(NetworkRequest(name="aside"))
    attachment = await networks.acquire("container1", on("bridge"))
    assert attachment.sandbox is not None

    def rename() -> None:
        run("ip", "link", "set", "eth0", "down")
        run("ip", "link", "set", "eth0", "name", "mine")
        run("ip", "link", "set", "mine", "up")

    inside(attachment.sandbox, rename)
    request = EndpointRequest(network="aside")
    assert (await networks.connect("container1", request, os.dup(attachment.sandbox))).interface == "eth1"
    await networks.disconnect("container1", "bridge", os.dup(attachment.sandbox))
    await networks.disconnect("container1", "aside", os.dup(attachment.sandbox))
    assert await rows(database) == [] and connected() == {}


async def test_a_cancelled_connect_keeps_nothing(networks: Networks, database: Database) -> None:
    await networks.create(NetworkRequest(name="aside"))
    attachment = await networks.acquire("container1", on("bridge"))
    assert attachment.sandbox is not None
    await eventually(lambda: len(ports()) == 7)  # what is kept ready is there
    before = len(os.listdir("/proc/self/fd"))
    for turns in range(14):
        work = networks.connect("container1", EndpointRequest(network="aside"), os.dup(attachment.sandbox))
        task = asyncio.create_task(work)
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            await networks.disconnect("container1", "aside", os.dup(attachment.sandbox))
        assert await rows(database) == [("container1", "172.30.9.2")]
    names = inside(attachment.sandbox, link_names)
    assert sorted(names) == ["eth0", "lo"]
    assert len(os.listdir("/proc/self/fd")) <= before + 3


async def test_the_default_network_has_ipv6_when_asked(host: None, database: Database) -> None:
    settings = msgspec.structs.replace(
        SETTINGS, ipv6=True, fixed_cidr_v6="fd00:9::/64", fixed_cidr="172.30.9.128/25"
    )
    networks = await Networks.open(database, settings)
    endpoint = (await networks.acquire("container1", on("bridge"))).endpoints[0]
    assert (endpoint.address, endpoint.address6, endpoint.gateway6) == (
        "172.30.9.128",
        "fd00:9::2",
        "fd00:9::1",
    )
    assert run("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1\n"
    await networks.close()
    other = msgspec.structs.replace(SETTINGS, ipv6=True, bip6="fd00:a::5/64")
    again = await Networks.open(database, other)
    await again.reconcile(set())
    await again.close()
    last = await Networks.open(database, other)
    assert [p.gateway for p in last.inspect("bridge").pools] == ["172.30.9.1", "fd00:a::5"]
    await last.close()


# Settings


async def test_without_a_bridge_the_default_network_is_none(host: None, database: Database) -> None:
    networks = await Networks.open(database, NetworkSettings(bridge="none"))
    assert {n.name for n in networks.list()} == {"host", "none"}
    attachment = await networks.acquire("container1", on("default"))
    assert networks.inspect(attachment.endpoints[0].network_id).name == "none"
    with pytest.raises(NotFound, match="network bridge not found"):
        await networks.acquire("container2", on("bridge"))
    assert link_names() == ["lo"]
    await networks.close()


async def test_an_existing_bridge_is_used_as_it_is_and_never_removed(host: None, database: Database) -> None:
    run("ip", "link", "add", "wht0", "type", "bridge")
    run("ip", "address", "add", "172.30.77.9/24", "dev", "wht0")
    networks = await Networks.open(database, NetworkSettings(bridge="wht0"))
    bridge = networks.inspect("bridge")
    assert (pool(bridge).subnet, pool(bridge).gateway) == ("172.30.77.0/24", "172.30.77.9")
    assert (await networks.acquire("container1", on("bridge"))).endpoints[0].address == "172.30.77.1"
    with pytest.raises(InvalidParameter, match="does not match requested configuration"):
        await Networks.open(database, NetworkSettings(bridge="wht0", bip="172.30.78.1/24"))
    await networks.remove_all()
    await networks.close()
    assert "wht0" in link_names()


async def test_an_interface_that_is_no_bridge_is_refused(host: None, database: Database) -> None:
    run("ip", "link", "add", "wht0", "type", "veth", "peer", "wht1")
    with pytest.raises(InvalidParameter, match="wht0 is not a bridge"):
        await Networks.open(database, SETTINGS)


async def test_the_first_free_pool_is_chosen_and_kept(host: None, database: Database) -> None:
    run("ip", "link", "add", "lan", "type", "bridge")
    run("ip", "link", "set", "lan", "up")
    run("ip", "address", "add", "172.17.4.1/24", "dev", "lan")
    run("ip", "route", "add", "172.18.0.0/16", "via", "172.17.4.2")
    settings = NetworkSettings(bridge="wht0")
    networks = await Networks.open(database, settings)
    assert subnet_of(networks) == "172.19.0.0/16"
    await networks.remove_all()
    await networks.close()
    run("ip", "link", "delete", "lan")
    again = await Networks.open(database, settings)
    assert subnet_of(again) == "172.19.0.0/16"
    await again.close()


async def test_another_address_is_taken_on_when_nobody_is_connected(
    networks: Networks, database: Database
) -> None:
    await networks.acquire("container1", on("bridge"))
    await networks.close()
    moved = msgspec.structs.replace(SETTINGS, bip="172.30.10.1/24")
    busy = await Networks.open(database, moved)
    assert subnet_of(busy) == "172.30.9.0/24"
    assert len([w for w in busy.warnings() if "172.30.9.0/24" in w]) == 1
    await busy.reconcile(set())
    await busy.close()
    free = await Networks.open(database, moved)
    assert (await free.acquire("container1", on("bridge"))).endpoints[0].address == "172.30.10.2"
    opened = Links()
    assert [str(a) for i, a in opened.addresses() if i == opened.index_of("wht0")] == ["172.30.10.1/24"]
    opened.close()
    await free.close()


async def test_two_daemons_stand_side_by_side(networks: Networks, tmp_path: Path) -> None:
    database = await Database.open(str(tmp_path / "second.db"))
    second = await Networks.open(database, NetworkSettings(bridge="wht1", bip="172.30.10.1/24"))
    first = await networks.acquire("container1", on("bridge"))
    await second.acquire("container1", on("bridge"))
    await second.reconcile(set())
    await second.remove_all()
    await second.close()
    await database.close()
    assert connected() == {f"veth{first.endpoints[0].id[:7]}": "container1"}
    tables = run("nft", "list", "tables")
    assert tables == "table inet wherry-wht0\n"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (NetworkSettings(bridge=""), "''"),
        (NetworkSettings(bridge="sixteen-letters-"), "'sixteen-letters-'"),
        (NetworkSettings(bridge='x" accept; #'), "accept"),
        (NetworkSettings(bridge="a/b"), "'a/b'"),
        (NetworkSettings(bip="10.0.0.1"), "10.0.0.1"),
        (NetworkSettings(mtu=1), "MTU 1"),
        (NetworkSettings(default_address_pools=(PoolSetting("10.0.0.1/8", 24),)), "'10.0.0.1/8'"),
    ],
)
async def test_bad_settings_are_refused_and_name_the_value(
    host: None, database: Database, settings: NetworkSettings, text: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await Networks.open(database, settings)
    assert text in str(caught.value)
    assert link_names() == ["lo"]
