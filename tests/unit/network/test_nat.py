"""The firewall by what it does to packets, and by what it leaves alone."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.network.conftest import Outside, is_cut_off, listen_in, pool, reaches, run, set_rules
from wherry.errors import Internal, Unsupported
from wherry.network import nat, nft
from wherry.network.driver import AddressPool, Endpoint, NetworkConfig
from wherry.network.drivers.bridge import Bridge
from wherry.network.ipam import mac_for
from wherry.network.nat import Firewall
from wherry.network.sandboxes import Maker, Sandbox


def ruleset() -> str:
    return run("nft", "-s", "list", "ruleset")


def network(number: int, **changes: Any) -> NetworkConfig:
    return NetworkConfig(
        id=f"{number:064}",
        name=f"net{number}",
        driver="bridge",
        created_ns=0,
        pools=(AddressPool(subnet=f"172.30.{number}.0/24", gateway=f"172.30.{number}.1"),),
        interface=f"wht{number}",
        **changes,
    )


class Machine:
    """Bridges and containers on the test's host."""

    def __init__(self, maker: Maker, firewall: Firewall) -> None:
        self.firewall = firewall
        self.driver = Bridge(maker, firewall)
        self._sandboxes: list[Sandbox] = []

    async def container(self, on: NetworkConfig, last: int) -> Sandbox:
        await self.driver.create(on)
        sandbox = await self.driver.sandbox(on)
        assert sandbox is not None
        address = f"{pool(on).subnet.rpartition('.')[0]}.{last}"
        endpoint = Endpoint(
            id=sandbox.id,
            network_id=on.id,
            container_id=f"c{last}",
            address=address,
            prefix_length=24,
            gateway=pool(on).gateway,
            mac=mac_for(address),
            interface="eth0",
        )
        await self.driver.connect(on, endpoint, sandbox)
        sandbox.links.add_default_route(sandbox.indexes[on.id], endpoint.gateway)
        self._sandboxes.append(sandbox)
        return sandbox

    async def close(self) -> None:
        for sandbox in self._sandboxes:
            sandbox.close()
        await self.driver.close()


def firewall(*, accept: bool = False, owns_forwarding: bool = False) -> Firewall:
    return Firewall("wherry-test", accept=accept, owns_forwarding=owns_forwarding)


@pytest.fixture
async def machine(maker: Maker) -> AsyncIterator[Machine]:
    nat.enable_forwarding()
    made = Machine(maker, firewall())
    yield made
    await made.close()


async def test_a_container_reaches_other_hosts_under_the_hosts_address(
    machine: Machine, outside: Outside
) -> None:
    inner = await machine.container(network(1), 2)
    server = listen_in(outside.netns, "198.51.100.2")
    server.settimeout(5)
    assert reaches(inner.netns, "198.51.100.2") == "172.30.1.2"
    assert server.accept()[1][0] == "198.51.100.1"
    server.close()


async def test_without_masquerade_the_address_is_its_own(machine: Machine, outside: Outside) -> None:
    inner = await machine.container(network(1, masquerade=False), 2)
    outside.route_to_containers()
    server = listen_in(outside.netns, "198.51.100.2")
    server.settimeout(5)
    assert reaches(inner.netns, "198.51.100.2") == "172.30.1.2"
    assert server.accept()[1][0] == "172.30.1.2"
    server.close()


async def test_the_host_and_containers_of_one_network_reach_each_other(machine: Machine) -> None:
    first, second = await machine.container(network(1), 2), await machine.container(network(1), 3)
    with listen_in(first.netns, "172.30.1.2"), listen_in(second.netns, "172.30.1.3"):
        assert reaches(first.netns, "172.30.1.3") == "172.30.1.2"  # not masqueraded
        assert reaches(second.netns, "172.30.1.2") == "172.30.1.3"
        assert reaches(None, "172.30.1.2") == "172.30.1.1"


async def test_another_machine_does_not_reach_a_containers_address(
    machine: Machine, outside: Outside
) -> None:
    """It routes to it through this host: 20.10 lets it (CVE-like, moby 28 closed it)."""
    inner = await machine.container(network(1), 2)
    outside.route_to_containers()
    with listen_in(inner.netns, "172.30.1.2"), listen_in(inner.netns, "0.0.0.0", 9090):
        assert reaches(None, "172.30.1.2") is not None
        assert is_cut_off(outside.netns, "172.30.1.2")
        assert is_cut_off(outside.netns, "172.30.1.2", 9090)


async def test_networks_do_not_reach_each_other(machine: Machine) -> None:
    first, second = await machine.container(network(1), 2), await machine.container(network(2), 2)
    with listen_in(second.netns, "172.30.2.2"), listen_in(first.netns, "172.30.1.2"):
        assert reaches(None, "172.30.2.2") is not None
        assert is_cut_off(first.netns, "172.30.2.2")
        assert is_cut_off(second.netns, "172.30.1.2")


async def test_without_icc_containers_reach_the_host_but_not_each_other(machine: Machine) -> None:
    closed = network(1, icc=False)
    first, second = await machine.container(closed, 2), await machine.container(closed, 3)
    with listen_in(second.netns, "172.30.1.3"), listen_in(first.netns, "172.30.1.2"):
        assert is_cut_off(first.netns, "172.30.1.3")
        assert reaches(None, "172.30.1.3") is not None
        assert reaches(None, "172.30.1.2") is not None


async def test_an_internal_network_reaches_nothing_else(machine: Machine, outside: Outside) -> None:
    inner = await machine.container(network(1, internal=True), 2)
    with listen_in(outside.netns, "198.51.100.2"):
        assert reaches(None, "198.51.100.2") is not None
        assert is_cut_off(inner.netns, "198.51.100.2")


async def test_applying_again_changes_nothing(machine: Machine) -> None:
    await machine.firewall.add(network(1))
    before = ruleset()
    await machine.firewall.add(network(1))
    await machine.firewall.restore()
    assert ruleset() == before


async def test_what_somebody_changed_in_our_table_is_put_right(machine: Machine) -> None:
    await machine.driver.create(network(1))
    before = ruleset()
    run("nft", "flush", "chain", "inet", "wherry-test", "inward")
    run("nft", "delete", "element", "inet", "wherry-test", "bridges", "{ wht1 }")
    await machine.firewall.restore()
    assert ruleset() == before


async def test_untouched_rules_are_not_applied_again(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.driver.create(network(1))
    await machine.firewall.restore()
    assert caplog.records == []
    run("nft", "flush", "ruleset")
    await machine.firewall.restore()
    assert "wherry-test" in caplog.text
    assert "wherry-test" in ruleset()


async def test_other_tables_and_other_daemons_are_left_alone(machine: Machine) -> None:
    run("nft", "add table inet wherry-other; add chain inet wherry-other c; add table ip theirs")
    before = ruleset()
    await machine.firewall.add(network(1))
    assert "wherry-test" in ruleset()
    await machine.firewall.remove(network(1))
    assert ruleset() == before


async def test_a_foreign_drop_is_reported_with_the_rule_that_helps(
    machine: Machine, outside: Outside
) -> None:
    inner = await machine.container(network(1), 2)
    assert machine.firewall.warnings() == []
    run("iptables", "-P", "FORWARD", "DROP")
    run("iptables", "-N", "DOCKER-USER")
    run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
    await machine.firewall.check()
    (warning,) = machine.firewall.warnings()
    assert warning == (
        "chain FORWARD of table ip filter drops what containers on wht1 exchange with other hosts: add "
        "nft insert rule ip filter DOCKER-USER iifname wht1 counter accept; "
        "nft insert rule ip filter DOCKER-USER oifname wht1 counter accept; "
        "or start wherryd with --firewall-accept"
    )
    with listen_in(outside.netns, "198.51.100.2"):
        assert is_cut_off(inner.netns, "198.51.100.2")
        for rule in warning.split(": add ")[1].split("; ")[:2]:
            run("sh", "-c", rule)
        assert reaches(inner.netns, "198.51.100.2") is not None
    await machine.firewall.check()
    assert machine.firewall.warnings() == []


@pytest.mark.parametrize(
    ("rules", "chain"),
    [
        ("chain routed { type filter hook forward priority 0; policy drop; }", "routed"),
        ("chain routed { type filter hook forward priority 0; ct state invalid drop; reject; }", "routed"),
        ("chain routed { type filter hook forward priority 0; iifname lo accept; counter drop; }", "routed"),
    ],
)
async def test_every_kind_of_foreign_drop_is_seen(machine: Machine, rules: str, chain: str) -> None:
    set_rules(f"table inet theirs {{ {rules}\n}}\n")
    await machine.firewall.add(network(1))
    await machine.firewall.check()
    (warning,) = machine.firewall.warnings()
    assert warning.startswith(f"chain {chain} of table inet theirs drops what containers on wht1")


@pytest.mark.parametrize(
    "rules",
    [
        "chain routed { type filter hook forward priority 0; ct state invalid drop; }",
        "chain routed { type filter hook input priority 0; policy drop; }",
        "chain routed { type filter hook forward priority 0; policy drop; iifname wht1 accept; oifname wht1 accept; }",
    ],
)
async def test_what_does_not_hurt_is_not_reported(machine: Machine, rules: str) -> None:
    set_rules(f"table inet theirs {{ {rules}\n}}\n")
    await machine.firewall.add(network(1))
    await machine.firewall.check()
    assert machine.firewall.warnings() == []


async def test_firewall_accept_adds_marked_rules_once_and_takes_them_away(
    maker: Maker, outside: Outside
) -> None:
    nat.enable_forwarding()
    run("iptables", "-P", "FORWARD", "DROP")
    run("iptables", "-A", "FORWARD", "-i", "lo", "-j", "ACCEPT")
    before = run("iptables-save", "-t", "filter").splitlines()[1:-1]
    machine = Machine(maker, firewall(accept=True))
    inner = await machine.container(network(1), 2)
    await machine.firewall.restore()
    assert machine.firewall.warnings() == []
    saved = run("iptables-save", "-t", "filter")  # it still reads the table that we inserted into
    assert [line for line in saved.splitlines() if "wht1" in line] == [
        f'-A FORWARD -{way} wht1 -m comment --comment "wherry-test: added by --firewall-accept for wht1" -j ACCEPT'
        for way in ("o", "i")
    ]
    with listen_in(outside.netns, "198.51.100.2"):
        assert reaches(inner.netns, "198.51.100.2") is not None
    await machine.close()
    again = firewall()  # the next start is without the option
    await again.add(network(1))
    await again.check()
    assert run("iptables-save", "-t", "filter").splitlines()[1:-1] == before
    assert len(again.warnings()) == 1


async def test_remove_all_takes_marked_rules_too(maker: Maker) -> None:
    set_rules("table inet theirs { chain routed { type filter hook forward priority 0; policy drop; }\n}\n")
    before = ruleset()
    made = firewall(accept=True)
    await made.add(network(1))
    assert ruleset() != before
    await made.remove_all()
    assert ruleset() == before


async def test_having_enabled_forwarding_opens_no_way_between_other_interfaces(
    maker: Maker, outside: Outside
) -> None:
    machine = Machine(maker, firewall(owns_forwarding=True))
    nat.enable_forwarding()
    inner = await machine.container(network(1), 2)
    with listen_in(outside.netns, "198.51.100.2"):
        assert reaches(inner.netns, "198.51.100.2") is not None
    text = ruleset()
    assert text.index("iifname @bridges accept") < text.index("\t\tdrop\n\t}\n\n\tchain inward")
    await machine.close()


def test_forwarding_is_switched_on(host: None) -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
        file.write("0")
    assert not nat.is_forwarding()
    nat.enable_forwarding()
    assert nat.is_forwarding()


def test_without_networks_there_is_no_table() -> None:
    assert nat.render("wherry", [], guards=[4]) == "table inet wherry\ndelete table inet wherry\n"


def test_a_text_is_carried_out_as_a_whole_or_not_at_all(host: None) -> None:
    nft.run(nat.render("wherry", [network(1), network(2, icc=False)], guards=[4]))
    listed = nft.listing("list table inet wherry")
    names = {item["chain"]["name"] for item in listed if "chain" in item}
    ports = {"loopback_guard", "published", "ports_in", "ports_out", "hairpin"}
    assert names == {"prerouting", "forward", "routed", "inward", "within", "postrouting", *ports}
    with pytest.raises(Internal, match="nftables refused: "):
        nft.run("flush chain inet wherry inward\nadd rule inet wherry nosuch accept\n")
    with pytest.raises(Internal, match="nftables refused: "):
        nft.run("flush chain inet wherry inward\nnonsense\n")
    assert nft.listing("list table inet wherry") == listed


def test_without_nft_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object, **options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "nft")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(
        Unsupported, match="install Debian's package nftables, or start with --iptables=false"
    ):
        nft.run("list tables")
