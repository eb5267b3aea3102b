"""`docker network` as people use it: names and subnets, who reaches whom, joining and leaving, IPv6, other hosts.

Other hosts are network namespaces joined to this one by a veth pair; traffic stays in what the test made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import docker.errors
import pytest

import docker
from tests.conftest import MARK
from tests.docker.engine import Engine, Ran, Wherry

SLEEP = ("busybox", "sleep", "300")


@pytest.fixture
def net(engine: Engine, name: str) -> Iterator[str]:
    """A name for one test's networks; all that begin so are removed after it, with whoever is on them."""
    yield f"{name}-n"
    ids = engine.docker("ps", "-aq", "--filter", f"name=^/?{name}").out.split()
    if ids:
        engine.docker("rm", "-f", *ids)
    for found in engine.docker("network", "ls", "--format", "{{.Name}}").out.split():
        if found.startswith(name):
            engine.docker("network", "rm", found).ok()


@pytest.fixture
def create(engine: Engine, net: str) -> Callable[..., str]:
    """Make a network from flags; its name."""
    numbers = iter(range(100))

    def make(*flags: str) -> str:
        made = f"{net}{next(numbers)}"
        engine.docker("network", "create", *flags, made).ok()
        return made

    return make


@pytest.fixture
def run(engine: Engine, name: str) -> Callable[..., str]:
    """Start a container that sleeps, from flags; its name."""
    numbers = iter(range(100))

    def start(*flags: str) -> str:
        made = f"{name}-c{next(numbers)}"
        engine.docker("run", "-d", "--name", made, *flags, *SLEEP).ok()
        return made

    return start


def inspect(engine: Engine, name: str) -> Any:
    return json.loads(engine.docker("network", "inspect", name).ok().out)[0]


def places(engine: Engine, container: str) -> Any:
    shown = engine.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container).ok()
    return json.loads(shown.out)


def address(engine: Engine, container: str, network: str, *, ipv6: bool = False) -> str:
    return str(places(engine, container)[network]["GlobalIPv6Address" if ipv6 else "IPAddress"])


def ping(engine: Engine, container: str, target: str) -> bool:
    return engine.docker("exec", container, "ping", "-c1", "-W1", target).code == 0


def gateway(engine: Engine, container: str) -> str:
    found = re.search(r"default via (\S+)", engine.docker("exec", container, "ip", "route").ok().out)
    return found[1] if found else ""


def links(engine: Engine, container: str) -> list[str]:
    shown = engine.docker("exec", container, "ip", "-o", "link").ok().out
    return re.findall(r"^\d+: ([^:@]+)", shown, re.MULTILINE)


def host(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


class Neighbour:
    """Another machine on a network of its own with this host: 198.51.100.2 and 2001:db8:77::2 here are .1 and ::1."""

    ADDRESS, ADDRESS6 = "198.51.100.2", "2001:db8:77::2"

    def __init__(self) -> None:
        self.here = f"{MARK}p"[:15]
        self.holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n"
        host("ip", "link", "add", self.here, "type", "veth", "peer", "lan0", "netns", str(self.holder.pid))
        host("ip", "address", "add", "198.51.100.1/24", "dev", self.here)
        host("ip", "address", "add", "2001:db8:77::1/64", "dev", self.here, "nodad")
        host("ip", "link", "set", self.here, "up")
        self.run("ip", "address", "add", f"{self.ADDRESS}/24", "dev", "lan0")
        self.run("ip", "address", "add", f"{self.ADDRESS6}/64", "dev", "lan0", "nodad")
        self.run("ip", "link", "set", "lan0", "up")

    def run(self, *command: str) -> str:
        return host("nsenter", "-t", str(self.holder.pid), "-n", *command)

    def pings(self, target: str) -> bool:
        words = ["nsenter", "-t", str(self.holder.pid), "-n", "busybox", "ping", "-c1", "-W1", target]
        code = subprocess.run(words, capture_output=True, timeout=20, check=False).returncode
        assert code in (0, 1)  # anything else: there is no ping
        return code == 0

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()
        if self.holder.stdout is not None:
            self.holder.stdout.close()
        subprocess.run(["ip", "link", "del", self.here], capture_output=True, check=False)


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    if os.environ.get("WHERRY_TEST_HOST"):
        pytest.skip("changes this host's routes")
    made = Neighbour()
    yield made
    made.close()


# Making and removing


def test_a_network_is_made_listed_inspected_and_removed(engine: Engine, net: str) -> None:
    flags = ("--subnet", "10.111.0.0/24", "--ip-range", "10.111.0.128/25", "--gateway", "10.111.0.7")
    more = (
        "--aux-address",
        "router=10.111.0.128",
        "--label",
        "a=b",
        "-o",
        "com.docker.network.driver.mtu=1400",
    )
    made = engine.docker("network", "create", *flags, *more, net).ok().line
    assert re.fullmatch("[0-9a-f]{64}", made)
    shown = inspect(engine, net)
    assert (shown["Id"], shown["Driver"], shown["Scope"], shown["Labels"]) == (
        made,
        "bridge",
        "local",
        {"a": "b"},
    )
    assert shown["IPAM"] == {
        "Driver": "default",
        "Options": {},
        "Config": [
            {
                "Subnet": "10.111.0.0/24",
                "IPRange": "10.111.0.128/25",
                "Gateway": "10.111.0.7",
                "AuxiliaryAddresses": {"router": "10.111.0.128"},
            }
        ],
    }
    assert shown["Options"] == {"com.docker.network.driver.mtu": "1400"} and shown["Containers"] == {}
    assert host("cat", f"/sys/class/net/br-{made[:12]}/mtu") == "1400\n"
    assert engine.docker("network", "ls", "-q", "--filter", f"name=^{net}$").line == made[:12]
    assert engine.docker("network", "rm", net).ok().line == net
    assert not os.path.exists(f"/sys/class/net/br-{made[:12]}")
    engine.docker("network", "inspect", net).failed(1, f"network {net} not found")


def test_containers_get_addresses_of_the_range_and_none_twice(
    engine: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    network = create(
        "--subnet", "10.111.0.0/24", "--ip-range", "10.111.0.128/29", "--aux-address", "x=10.111.0.130"
    )
    # the gateway is the first address of the range, as in Docker
    containers = [run("--network", network) for _ in range(3)]
    given = [address(engine, container, network) for container in containers]
    assert given == ["10.111.0.129", "10.111.0.131", "10.111.0.132"]
    shown = inspect(engine, network)["Containers"].values()
    assert {item["Name"]: item["IPv4Address"] for item in shown} == {
        container: f"{text}/24" for container, text in zip(containers, given, strict=True)
    }


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--subnet", "10.111.0.3/24"], "invalid subnet 10.111.0.3/24: it should be 10.111.0.0/24"),
        (
            ["--subnet", "10.111.0.0/24", "--subnet", "10.112.0.0/24"],
            "bridge driver doesn't support multiple subnets",
        ),
        (["-d", "host"], 'only one instance of "host" network is allowed'),
        (["-d", "null"], 'only one instance of "null" network is allowed'),
        (["-d", "nosuch"], "nosuch"),
        (["-d", "overlay"], "This node is not a swarm manager"),
        (["-o", "com.docker.network.driver.mtu=x"], 'value: x (strconv.Atoi: parsing "x": invalid syntax)'),
        (["-o", "com.docker.network.bridge.name=longer-than-a-name"], "longer-than-a-name"),
        (["-o", "com.docker.network.bridge.gateway_mode_ipv4=x"], "unknown gateway mode x"),
        (
            ["-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated"],
            "can only be used for an internal network",
        ),
        (["-d", "macvlan", "-o", "parent=lo"], "loopback interface is not a valid macvlan parent link"),
        (["-d", "macvlan", "-o", "parent=nosuch0"], "invalid subinterface vlan name nosuch0"),
        (
            ["-d", "macvlan", "-o", "parent=nosuch0.5"],
            "-o parent interface was not found on the host: nosuch0",
        ),
        (["-d", "macvlan", "-o", "macvlan_mode=x"], "requested macvlan mode 'x' is not valid"),
        (["-d", "ipvlan", "-o", "ipvlan_mode=x"], "requested ipvlan mode 'x' is not valid"),
        (["--config-from", "nosuch"], 'configuration network "nosuch" does not exist'),
        (["--ipv4=false"], "IPv4 or IPv6 must be enabled"),
        (["--internal", "--config-only"], "configuration network can only contain network specific fields"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    wherry: Engine, net: str, flags: list[str], text: str
) -> None:
    before = [network["Id"] for network in wherry.api("GET", "/networks").json]
    wherry.docker("network", "create", *flags, net).failed(1, text)
    wherry.docker("network", "inspect", net).failed(1, "not found")
    assert [network["Id"] for network in wherry.api("GET", "/networks").json] == before


def test_overlaps_are_refused(
    engine: Engine, create: Callable[..., str], net: str, neighbour: Neighbour
) -> None:
    create("--subnet", "10.111.0.0/16")
    text = "Pool overlaps with other one on this address space"
    for subnet in ("10.111.0.0/16", "10.111.7.0/24", "10.0.0.0/8"):
        engine.docker("network", "create", "--subnet", subnet, net).failed(1, text)
    for subnet in ("198.51.100.0/24", "198.51.0.0/16"):  # the host's own
        engine.docker("network", "create", "--subnet", subnet, net).failed(1, text, "198.51.100.0/24")


def test_names_are_unique_and_the_built_in_ones_are_taken(engine: Engine, create: Callable[..., str]) -> None:
    network = create()
    engine.docker("network", "create", network).failed(1, f"network with name {network} already exists")
    for taken in ("bridge", "host", "none"):
        text = f"operation is not permitted on predefined {taken} network"
        assert text in engine.api("POST", "/networks/create", body={"Name": taken}).expect(403).message
        engine.docker("network", "rm", taken).failed(
            1, f"{taken} is a pre-defined network and cannot be removed"
        )


def test_a_network_in_use_stays(engine: Engine, create: Callable[..., str], run: Callable[..., str]) -> None:
    network = create()
    container = run("--network", network)
    endpoint = places(engine, container)[network]["EndpointID"][:12]
    text = f'network {network} has active endpoints (name:"{container}" id:"{endpoint}")'
    engine.docker("network", "rm", network).failed(1, f"error while removing network: {text}")
    engine.docker("stop", "-t0", container).ok()
    engine.docker("network", "rm", network).ok()
    engine.docker("start", container).failed(1, f"network {network} not found")


def test_prune_takes_the_unused_that_the_filters_allow(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    used, kept, gone = create("--label", "p=1"), create("--label", "p=2"), create("--label", "p=1")
    run("--network", used)
    assert (
        wherry.docker("network", "prune", "-f", "--filter", "label=p=1", "--filter", "until=1h").ok().out
        == ""
    )
    pruned = wherry.docker("network", "prune", "-f", "--filter", "label=p", "--filter", "label!=p=2").ok().out
    assert pruned.split() == ["Deleted", "Networks:", gone]
    left = wherry.docker("network", "ls", "--format", "{{.Name}}").out.split()
    assert used in left and kept in left and gone not in left
    wherry.api("POST", '/networks/prune?filters={"x":["y"]}').expect(400)


def test_a_template_lends_its_subnet(wherry: Engine, create: Callable[..., str], net: str) -> None:
    template = create("--config-only", "--subnet", "10.111.0.0/24")
    made = f"{net}-made"
    wherry.docker("network", "create", "--config-from", template, made).ok()
    assert inspect(wherry, made)["IPAM"]["Config"][0]["Subnet"] == "10.111.0.0/24"
    assert inspect(wherry, made)["ConfigFrom"] == {"Network": template}
    wherry.docker("network", "rm", template).failed(1, "is in use")
    wherry.docker("network", "rm", made, template).ok()


# Who reaches whom


def test_networks_are_apart_and_the_default_one_too(
    engine: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    one, two = create(), create()
    first, second, other, default = run("--network", one), run("--network", one), run("--network", two), run()
    assert ping(engine, first, address(engine, second, one))
    assert not ping(engine, first, address(engine, other, two))
    assert not ping(engine, other, address(engine, first, one))
    assert not ping(engine, default, address(engine, first, one))
    assert not ping(engine, first, address(engine, default, "bridge"))


def test_an_internal_network_has_no_way_out(
    engine: Engine, create: Callable[..., str], run: Callable[..., str], neighbour: Neighbour
) -> None:
    inner, outer = create("--internal"), create()
    first, second, free = run("--network", inner), run("--network", inner), run("--network", outer)
    assert ping(engine, free, neighbour.ADDRESS)
    assert gateway(engine, first) == ""
    assert ping(engine, first, address(engine, second, inner))
    # even with a route that the container makes for itself
    bridge = inspect(engine, inner)["IPAM"]["Config"][0]["Gateway"]
    engine.docker("exec", "--privileged", first, "ip", "route", "add", "default", "via", bridge).ok()
    assert not ping(engine, first, neighbour.ADDRESS)


def test_other_hosts_see_the_hosts_address_and_no_containers(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str], neighbour: Neighbour
) -> None:
    network = create("--subnet", "10.111.0.0/24")
    container = run("--network", network)
    assert ping(wherry, container, neighbour.ADDRESS)  # it has no route back to the container's own address
    neighbour.run("ip", "route", "add", "10.111.0.0/24", "via", "198.51.100.1")
    assert not neighbour.pings(address(wherry, container, network))


def test_without_icc_containers_do_not_reach_each_other(
    engine: Engine, create: Callable[..., str], run: Callable[..., str], neighbour: Neighbour
) -> None:
    network = create("-o", "com.docker.network.bridge.enable_icc=false")
    first, second = run("--network", network), run("--network", network)
    assert not ping(engine, first, address(engine, second, network))
    assert ping(engine, first, neighbour.ADDRESS)


def test_ipv6_inside_to_another_host_and_between_networks(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str], neighbour: Neighbour
) -> None:
    one = create("--ipv6", "--subnet", "2001:db8:111::/64", "--subnet", "10.111.0.0/24")
    two, six = create("--ipv6"), create("--ipv6", "--ipv4=false")
    first = run("--network", one, "--ip6", "2001:db8:111::77", "--ip", "10.111.0.77")
    second, other, alone = run("--network", one), run("--network", two), run("--network", six)
    assert address(wherry, first, one, ipv6=True) == "2001:db8:111::77"
    assert address(wherry, second, one, ipv6=True) == "2001:db8:111::2"
    subnets = [config["Subnet"] for config in inspect(wherry, two)["IPAM"]["Config"]]
    assert subnets[1].startswith("fd") and subnets[1].endswith("/64")
    assert ping(wherry, second, "2001:db8:111::77")
    assert not ping(wherry, second, address(wherry, other, two, ipv6=True))
    assert ping(wherry, first, neighbour.ADDRESS6)
    assert (address(wherry, alone, six), ping(wherry, alone, neighbour.ADDRESS6)) == ("", True)
    neighbour.run("ip", "route", "add", "2001:db8:111::/64", "via", "2001:db8:77::1")
    assert not neighbour.pings("2001:db8:111::77")
    for interface in ("eth0", "lo"):
        shown = wherry.docker("exec", first, "cat", f"/proc/sys/net/ipv6/conf/{interface}/accept_ra").line
        assert shown == "0", interface


def test_a_routed_network_keeps_its_addresses(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str], neighbour: Neighbour
) -> None:
    mode = ("-o", "com.docker.network.bridge.gateway_mode_ipv4=routed")
    container = run("--network", create("--subnet", "10.111.0.0/24", *mode))
    assert not ping(wherry, container, neighbour.ADDRESS)  # no way back yet
    neighbour.run("ip", "route", "add", "10.111.0.0/24", "via", "198.51.100.1")
    assert ping(wherry, container, neighbour.ADDRESS)


def test_macvlan_puts_a_container_on_the_hosts_network(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str], neighbour: Neighbour
) -> None:
    parent = ("-d", "macvlan", "-o", f"parent={neighbour.here}")
    network = create(*parent, "--subnet", "198.51.100.0/24", "--gateway", "198.51.100.2")
    container = run("--network", network, "--ip", "198.51.100.9")
    assert ping(wherry, container, neighbour.ADDRESS)
    assert gateway(wherry, container) == "198.51.100.2"
    assert neighbour.pings("198.51.100.9")
    assert not ping(wherry, container, "198.51.100.1")  # the host itself, as with every macvlan
    alone = create("-d", "macvlan")
    first, second = run("--network", alone), run("--network", alone)
    assert ping(wherry, first, address(wherry, second, alone)) and gateway(wherry, first) == ""


# Joining and leaving


def test_joining_and_leaving_while_running(
    engine: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    one, two = create(), create("--subnet", "10.111.0.0/24")
    mover, there = run("--network", one), run("--network", two)
    engine.docker("network", "connect", "--ip", "10.111.0.9", "--alias", "m", two, mover).ok()
    assert ping(engine, mover, address(engine, there, two))
    assert ping(engine, there, "10.111.0.9")
    assert links(engine, mover) == ["lo", "eth0", "eth1"]
    shown = places(engine, mover)[two]
    assert (shown["IPAddress"], shown["IPAMConfig"], shown["DNSNames"]) == (
        "10.111.0.9",
        {"IPv4Address": "10.111.0.9"},
        [mover, "m", shown["DNSNames"][-1]],
    )
    engine.docker("network", "connect", two, mover).failed(1, f"already exists in network {two}")
    engine.docker("network", "disconnect", one, mover).ok()
    assert links(engine, mover) == ["lo", "eth1"] and list(places(engine, mover)) == [two]
    assert gateway(engine, mover) == "10.111.0.1"
    engine.docker("network", "disconnect", one, mover).failed(1, f"is not connected to network {one}")
    engine.docker("network", "connect", one, mover).ok()
    assert links(engine, mover) == ["lo", "eth1", "eth0"]
    engine.docker("restart", "-t0", mover).ok()
    assert set(places(engine, mover)) == {one, two} and address(engine, mover, two) == "10.111.0.9"


def test_joining_and_leaving_while_stopped(engine: Engine, create: Callable[..., str], name: str) -> None:
    one, two = create(), create()
    engine.docker("create", "--name", name, "--network", one, *SLEEP).ok()
    engine.docker("network", "connect", two, name).ok()
    engine.docker("network", "disconnect", one, name).ok()
    engine.docker("network", "disconnect", one, name).failed(1, f"is not connected to the network {one}")
    engine.docker("start", name).ok()
    assert list(places(engine, name)) == [two] and links(engine, name) == ["lo", "eth0"]
    engine.docker("network", "disconnect", two, name).ok()
    assert (links(engine, name), places(engine, name)) == (["lo"], {})
    engine.docker("restart", "-t0", name).ok()
    assert (links(engine, name), places(engine, name)) == (["lo"], {})


def test_the_highest_priority_is_the_way_out(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    one, two = create("--subnet", "10.111.0.0/24"), create("--subnet", "10.112.0.0/24")
    inner = create("--internal", "--subnet", "10.113.0.0/24")
    container = run("--network", f"name={one}", "--network", f"name={two},gw-priority=1", "--network", inner)
    assert gateway(wherry, container) == "10.112.0.1"
    wherry.docker("network", "disconnect", two, container).ok()
    assert gateway(wherry, container) == "10.111.0.1"
    wherry.docker("network", "connect", "--gw-priority", "5", two, container).ok()
    assert gateway(wherry, container) == "10.112.0.1"
    for network in (one, two):
        wherry.docker("network", "disconnect", network, container).ok()
    assert gateway(wherry, container) == ""


def test_published_ports_follow_a_container_to_its_networks(
    wherry: Engine, create: Callable[..., str], name: str
) -> None:
    one, two = create(), create()
    serve = ("sh", "-c", "mkdir /w; echo hello > /w/index.html; exec busybox httpd -f -p 80 -h /w")
    flags = ("-p", "127.0.0.1::80", "--network", one)
    wherry.docker("run", "-d", "--name", name, *flags, "busybox", *serve).ok()
    port = wherry.docker("port", name, "80").ok().line.rpartition(":")[2]

    def answers() -> bool:
        for _ in range(20):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as page:
                    return page.read() == b"hello\n"
            except OSError:  # it has yet to start, or there is no way to it
                time.sleep(0.05)
        return False

    assert answers()
    wherry.docker("network", "connect", two, name).ok()
    wherry.docker("network", "disconnect", one, name).ok()
    assert answers()
    wherry.docker("network", "disconnect", two, name).ok()
    assert not answers()
    assert wherry.docker("port", name).ok().out == ""
    wherry.docker("network", "connect", one, name).ok()
    port = (
        wherry.docker("port", name, "80").ok().line.rpartition(":")[2]
    )  # any port: it may be another one now
    assert answers()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--ip", "10.9.9.9"], "no configured subnet or ip-range contain the IP address 10.9.9.9"),
        (["--ip", "10.111.0.1"], "Address already in use"),
        (["--ip", "10.111.0.255"], "Address already in use"),
        (["--ip6", "fd00::9"], "supported only when connecting to networks with user configured subnets"),
        (["--link-local-ip", "10.1.1.1"], "invalid link-local IP address: 10.1.1.1"),
    ],
)
def test_addresses_that_cannot_be_are_refused(
    wherry: Engine,
    create: Callable[..., str],
    run: Callable[..., str],
    name: str,
    flags: list[str],
    text: str,
) -> None:
    network = create("--subnet", "10.111.0.0/24")
    container = run()
    wherry.docker("network", "connect", *flags, network, container).failed(1, text)
    assert (list(places(wherry, container)), links(wherry, container)) == (["bridge"], ["lo", "eth0"])
    wherry.docker("run", "--rm", "--network", network, *flags, "busybox", "true").failed(125, text)
    assert inspect(wherry, network)["Containers"] == {}


def test_an_address_in_use_is_refused_and_free_again_afterwards(
    engine: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    network = create("--subnet", "10.111.0.0/24")
    first = run("--network", network, "--ip", "10.111.0.9")
    refused = engine.docker("run", "--rm", "--network", network, "--ip", "10.111.0.9", "busybox", "true")
    refused.failed(125, "Address already in use")
    engine.docker("rm", "-f", first).ok()
    assert address(engine, run("--network", network, "--ip", "10.111.0.9"), network) == "10.111.0.9"


def test_modes_that_exclude_others(
    engine: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    network = create()
    ours, of_host, of_none = run("--network", network), run("--network", "host"), run("--network", "none")
    shared = (
        "container sharing network namespace with another container or host cannot be connected to any other"
    )
    sharing = run("--network", f"container:{ours}")
    engine.docker("network", "connect", network, sharing).failed(1, shared)
    engine.docker("network", "connect", network, of_host).failed(1, shared)
    private = (
        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
    )
    engine.docker("network", "connect", network, of_none).failed(1, private)
    engine.docker("network", "connect", "none", ours).failed(1, private)
    engine.docker("network", "connect", "host", ours).failed(1, "host network")
    engine.docker("network", "disconnect", "host", of_host).failed(1, "host network")
    engine.docker("network", "connect", "nosuch", ours).failed(1, "network nosuch not found")


def test_sharing_a_containers_network(
    engine: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    owner = run("--network", create(), "--hostname", "owner")
    sharer = run("--network", f"container:{owner}")

    def shown(container: str) -> Ran:
        return engine.docker("exec", container, "sh", "-c", "ip addr; hostname; cat /etc/hosts").ok()

    assert shown(owner).out == shown(sharer).out
    assert "owner" in shown(sharer).out and places(engine, sharer) == {}
    for flags, text in (
        (("--hostname", "x"), "conflicting options: hostname and the network mode"),
        (("--dns", "192.0.2.1"), "conflicting options: dns and the network mode"),
        (
            ("--add-host", "a:192.0.2.1"),
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (("-p", "80"), "conflicting options: port publishing and the container type network mode"),
        (("--expose", "80"), "conflicting options: port exposing and the container type network mode"),
    ):
        command = ("run", "--rm", "--network", f"container:{owner}", *flags, "busybox", "true")
        engine.docker(*command).failed(125, text)


def test_a_mac_address_of_ones_own(
    wherry: Engine, create: Callable[..., str], run: Callable[..., str]
) -> None:
    network = create()
    container = run("--network", network, "--mac-address", "92:d0:c6:0a:29:33")
    assert places(wherry, container)[network]["MacAddress"] == "92:d0:c6:0a:29:33"
    assert "92:d0:c6:0a:29:33" in wherry.docker("exec", container, "ip", "link", "show", "eth0").out
    body = {"Image": "busybox", "MacAddress": "zz"}
    refused = wherry.api("POST", "/v1.43/containers/create", body=body)
    assert (refused.status, refused.message) == (
        400,
        "invalid config for network bridge: invalid MAC address: zz",
    )


def test_older_clients_may_name_one_network(wherry: Engine, create: Callable[..., str]) -> None:
    two = {create(): {}, create(): {}}
    body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": two}}
    refused = wherry.api("POST", "/v1.43/containers/create", body=body).expect(400)
    assert refused.message.startswith("Container cannot be created with multiple network endpoints: ")


# Events, other clients, faults


def test_events_tell_of_networks(engine: Engine, create: Callable[..., str], run: Callable[..., str]) -> None:
    network = create()
    container = run("--network", network)
    engine.docker("rm", "-f", container).ok()
    engine.docker("network", "rm", network).ok()
    soon = str(int(time.time()) + 1)
    told = engine.docker(
        "events", "--since", "1m", "--until", soon, "--filter", f"network={network}", "--format", "{{json .}}"
    )
    found = [json.loads(line) for line in told.out.splitlines()]
    assert [event["Action"] for event in found] == ["create", "connect", "disconnect", "destroy"]
    assert found[0]["Actor"]["Attributes"] == {"name": network, "type": "bridge"}
    assert set(found[1]["Actor"]["Attributes"]) == {"name", "type", "container"}


def test_docker_py(engine: Engine, net: str, name: str) -> None:
    types: Any = docker.types
    client: Any = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    try:
        pool = types.IPAMPool(subnet="10.111.0.0/24", gateway="10.111.0.254")
        made = client.networks.create(net, ipam=types.IPAMConfig(pool_configs=[pool]), labels={"a": "b"})
        container = client.containers.run("busybox", ["sleep", "300"], name=name, detach=True)
        made.connect(container, ipv4_address="10.111.0.9", aliases=["x"])
        made.reload()
        assert [c.id for c in made.containers] == [container.id]
        made.disconnect(container)
        made.reload()
        assert made.containers == []
        with pytest.raises(docker.errors.APIError) as refused:
            client.networks.create(net)
        assert refused.value.status_code == 409
        container.remove(force=True)
        assert net in [n.name for n in client.networks.list(names=[net])]
        made.remove()
        with pytest.raises(docker.errors.NotFound):
            client.networks.get(net)
    finally:
        client.close()


def test_networks_outlive_the_daemon(other: Callable[..., Wherry]) -> None:
    daemon = other()
    for flags in (("a",), ("--ipv6", "b"), ("--internal", "c")):
        daemon.docker("network", "create", *flags).ok()
    for container, network in (("one", "a"), ("two", "a"), ("three", "c")):
        daemon.docker("run", "-d", "--name", container, "--network", network, *SLEEP).ok()
    daemon.docker("network", "connect", "b", "one").ok()
    shown = [inspect(daemon, network) for network in "abc"]
    pid = daemon.docker("inspect", "-f", "{{.State.Pid}}", "one").ok().line
    target = address(daemon, "two", "a")
    daemon.kill()
    assert host("nsenter", "-t", pid, "-n", "busybox", "ping", "-c1", "-W1", target)
    daemon.start()
    assert [inspect(daemon, network) for network in "abc"] == shown
    assert ping(daemon, "one", target)
    daemon.docker("network", "disconnect", "b", "one").ok()
    daemon.docker("network", "connect", "c", "one").ok()
    assert ping(daemon, "one", address(daemon, "three", "c"))
    daemon.crash_everything()
    daemon.start()
    assert all(inspect(daemon, network)["Containers"] == {} for network in "abc")
    daemon.docker("start", "one", "two").ok()
    assert ping(daemon, "one", address(daemon, "two", "a"))


def test_pools_of_the_configuration(other: Callable[..., Wherry]) -> None:
    pools = [{"base": "198.19.64.0/22", "size": 24}, {"base": "fd00:99::/62", "size": 64}]
    daemon = other(config={"default-address-pools": pools, "icc": False}, image=False)
    for number in range(4):
        daemon.docker("network", "create", "--ipv6", f"n{number}").ok()
        found = [config["Subnet"] for config in inspect(daemon, f"n{number}")["IPAM"]["Config"]]
        assert found == [f"198.19.{64 + number}.0/24", f"fd00:99:0:{number or ''}::/64".replace("0:::", ":")]
    daemon.docker("network", "create", "n4").failed(
        1, "all predefined address pools have been fully subnetted"
    )
    daemon.docker("network", "rm", "n2").ok()
    daemon.docker("network", "create", "--ipv6", "n5").ok()
    assert inspect(daemon, "n5")["IPAM"]["Config"][0]["Subnet"] == "198.19.66.0/24"
    assert inspect(daemon, "bridge")["Options"]["com.docker.network.bridge.enable_icc"] == "false"


def test_many_networks_cost_no_namespaces(other: Callable[..., Wherry]) -> None:
    pools = [{"base": "198.19.0.0/17", "size": 28}]
    daemon = other(config={"default-address-pools": pools}, image=False)
    for number in range(60):
        daemon.api("POST", "/networks/create", body={"Name": f"n{number}"}).expect(201)
    shown = host("ip", "-o", "link")
    assert {shown.count(f"wherry port {bridge} ") for bridge in daemon.bridges()} <= {0, 6}
    daemon.restart()
    assert len(daemon.api("GET", "/networks").json) == 63
