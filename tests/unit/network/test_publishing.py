"""Published ports by what becomes of packets: from this host, from other machines, from containers.

The sockets that reserve ports are held here, and nobody accepts on them: whatever is answered came by the rules.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from tests.unit.network.conftest import Outside, inside, is_cut_off, listen_in, reaches, run, set_rules
from tests.unit.network.test_nat import Machine, firewall, network
from wherry.errors import Internal, Unsupported
from wherry.network import nat, nft, port_rules
from wherry.network.driver import NetworkConfig
from wherry.network.elements import Element, Elements, Lead, elements_of
from wherry.network.links import Links
from wherry.network.ports import Ledger, PortSpec
from wherry.network.publishing import Place, Publisher, Reserved
from wherry.network.sandboxes import Maker, Sandbox

HOST = "198.51.100.1"


class Stage:
    """A machine with a publisher."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.publisher = Publisher(machine.firewall, ledger=Ledger((40000, 40010)))
        self.reserved: list[Reserved] = []

    async def container(self, last: int = 2, on: NetworkConfig | None = None) -> Sandbox:
        """With a server on its port 8080."""
        sandbox = await self.machine.container(on or network(1), last)
        self._servers = [*getattr(self, "_servers", []), listen_in(sandbox.netns, "0.0.0.0")]
        return sandbox

    async def publish(
        self,
        port: int,
        host_ip: str = "",
        *,
        to: str = "172.30.1.2",
        owner: str = "c2",
        protocol: str = "tcp",
    ) -> list[Reserved]:
        spec = PortSpec(container_port=8080, protocol=protocol, host_ip=host_ip, first=port, last=port)
        reserved = self.publisher.reserve(owner, [spec], Place(address=to))
        await self.publisher.open(owner, Place(address=to))
        self.reserved += reserved
        return reserved

    async def close(self) -> None:
        for one in self.reserved:
            one.sock.close()
        for server in getattr(self, "_servers", []):
            server.close()
        self.machine.firewall.close()
        await self.machine.close()


@pytest.fixture
async def stage(maker: Maker) -> AsyncIterator[Stage]:
    nat.enable_forwarding()
    made = Stage(Machine(maker, firewall()))
    yield made
    await made.close()


def listed() -> set[Element]:
    return port_rules.elements_in(nft.listing("list table inet wherry-test"))


async def test_from_the_host_itself_and_from_others(stage: Stage, outside: Outside) -> None:
    container = await stage.container()
    await stage.publish(80)
    for address in ("127.0.0.1", "127.0.0.9", HOST, "172.30.1.1"):
        assert reaches(None, address, 80), address
    assert reaches(outside.netns, HOST, 80) == "198.51.100.2"
    assert is_cut_off(outside.netns, "172.30.1.2")
    assert reaches(container.netns, "172.30.1.1", 8080) is None  # nothing but the published port


async def test_the_clients_address_is_kept(stage: Stage, outside: Outside) -> None:
    await stage.container()
    await stage.publish(80)
    server = stage._servers[0]
    server.settimeout(5)
    assert reaches(outside.netns, HOST, 80)
    _, peer = server.accept()
    assert peer[0] == "198.51.100.2"


async def test_a_port_of_one_address_is_there_alone(stage: Stage, outside: Outside) -> None:
    await stage.container()
    await stage.publish(81, HOST)
    await stage.publish(82, "127.0.0.1")
    assert reaches(outside.netns, HOST, 81) and reaches(None, HOST, 81)
    assert reaches(None, "127.0.0.1", 81) is None
    assert reaches(None, "127.0.0.1", 82)
    assert reaches(None, HOST, 82) is None and is_cut_off(outside.netns, HOST, 82)


async def test_loopback_ports_are_out_of_others_reach(stage: Stage, outside: Outside) -> None:
    """The hole: a neighbour sends packets for 127.0.0.1, by its cable or by a container's."""
    container = await stage.container()
    await stage.publish(82, "127.0.0.1")
    await stage.publish(83)
    for netns, gateway in ((outside.netns, HOST), (container.netns, "172.30.1.1")):

        def send_loopback_out(gateway: str = gateway) -> None:
            with open("/proc/sys/net/ipv4/conf/all/route_localnet", "w") as file:
                file.write("1")
            run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
            run("ip", "route", "flush", "table", "local", "127.0.0.1")
            run("ip", "route", "add", "127.0.0.1/32", "via", gateway)

        inside(netns, send_loopback_out)
    set_rules(
        """table inet watch {
            counter uplink { }
            counter wht1 { }
            chain arrived {
                type filter hook prerouting priority -400;
                iifname uplink ip daddr 127.0.0.1 counter name uplink
                iifname wht1 ip daddr 127.0.0.1 counter name wht1
            }
        }"""
    )
    secret = socket.create_server(("127.0.0.1", 9999))
    for netns in (outside.netns, container.netns):
        for port in (82, 83, 9999):
            assert is_cut_off(netns, "127.0.0.1", port), port
    for way in ("uplink", "wht1"):  # they did arrive
        (counter,) = nft.listing(f"list counter inet watch {way}")[1:]
        assert counter["counter"]["packets"] >= 3
    secret.close()


async def test_containers_reach_it_by_the_hosts_address(stage: Stage, outside: Outside) -> None:
    await stage.container()
    neighbour = await stage.container(3)
    other = await stage.container(2, network(2))
    await stage.publish(80)
    for sandbox in (neighbour, other):
        for address in (HOST, "172.30.1.1"):
            assert reaches(sandbox.netns, address, 80), address
    assert is_cut_off(other.netns, "172.30.1.2")  # and not by its own


async def test_its_own_port_and_where_containers_do_not_see_each_other_are_the_sockets(stage: Stage) -> None:
    """There, the shim relays (see port_rules)."""
    container = await stage.container()
    blind = network(2, icc=False)
    await stage.container(2, blind)
    neighbour = await stage.container(3, blind)
    for port, sandbox, to in ((80, container, "172.30.1.2"), (81, neighbour, "172.30.2.2")):
        reserved = await stage.publish(port, to=to, owner=to)
        reserved[0].sock.settimeout(5)
        assert reaches(sandbox.netns, "172.30.1.1", port)
        reserved[0].sock.accept()[0].close()


async def test_an_internal_network_is_not_led_to(stage: Stage, outside: Outside) -> None:
    await stage.container(on=network(1, internal=True))
    await stage.publish(80)
    assert is_cut_off(outside.netns, HOST, 80)


async def test_withdrawn_is_withdrawn(stage: Stage, outside: Outside) -> None:
    await stage.container()
    reserved = await stage.publish(80)
    assert reaches(outside.netns, HOST, 80)
    await stage.publisher.close("c2")
    for one in reserved:
        one.sock.close()
    assert listed() == set()
    assert reaches(None, "127.0.0.1", 80) is None and reaches(outside.netns, HOST, 80) is None
    assert stage.publisher.all() == []
    await stage.publish(80)
    assert reaches(outside.netns, HOST, 80)


async def test_a_port_can_be_led_elsewhere(stage: Stage, outside: Outside) -> None:
    await stage.container()
    await stage.container(3)
    await stage.publish(80, to="172.30.1.9")
    assert is_cut_off(outside.netns, HOST, 80)
    await stage.publisher.open("c2", Place(address="172.30.1.3"))
    assert reaches(outside.netns, HOST, 80)


async def test_datagrams_leave_the_socket_alone_and_follow_the_owner(stage: Stage, outside: Outside) -> None:
    servers = {}
    for last in (2, 3):
        sandbox = await stage.container(last)

        def bind() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind(("0.0.0.0", 8080))
            made.settimeout(5)
            return made

        servers[last] = inside(sandbox.netns, bind)
    client = inside(outside.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.bind(("198.51.100.2", 5000))
    client.settimeout(5)
    client.sendto(b"too early", (HOST, 53))  # tracked as one for the host itself
    first = await stage.publish(53, protocol="udp")
    client.sendto(b"question", (HOST, 53))
    data, peer = servers[2].recvfrom(100)
    assert (data, peer) == (b"question", ("198.51.100.2", 5000))
    servers[2].sendto(b"answer", peer)
    assert client.recvfrom(100) == (b"answer", (HOST, 53))
    for one in first:
        one.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.sock.recv(100)
    await stage.publisher.close("c2")
    for one in first:
        one.sock.close()
    await stage.publish(53, protocol="udp", to="172.30.1.3", owner="c3")
    client.sendto(b"for the heir", (HOST, 53))
    assert servers[3].recvfrom(100)[0] == b"for the heir"
    for sock in (client, *servers.values()):
        sock.close()


async def test_a_taken_port_is_refused_with_docker_words(stage: Stage) -> None:
    await stage.publish(80, "127.0.0.1")
    with pytest.raises(Internal) as ours:
        await stage.publish(80, owner="c3")
    assert str(ours.value) == "Bind for 0.0.0.0:80 failed: port is already allocated"
    program = socket.create_server(("127.0.0.1", 81))
    with pytest.raises(Internal) as theirs:
        await stage.publish(81, owner="c3")
    assert str(theirs.value) == "failed to bind host port 0.0.0.0:81/tcp: address already in use"
    program.close()
    with pytest.raises(Internal) as strange:
        await stage.publish(82, "192.0.2.77", owner="c3")
    assert str(strange.value) == "failed to bind host port 192.0.2.77:82/tcp: cannot assign requested address"
    assert [owner for owner, _ in stage.publisher.all()] == ["c2"]


async def test_no_one_else_gets_a_reserved_port(stage: Stage) -> None:
    await stage.publish(80)
    for address in ("0.0.0.0", "127.0.0.1"):
        with socket.socket() as rival:
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                rival.bind((address, 80))
                rival.listen()


async def test_ended_connections_are_not_in_the_way(stage: Stage) -> None:
    """TIME_WAIT of a server that closed first."""
    server = socket.create_server(("127.0.0.1", 80))
    client = socket.create_connection(("127.0.0.1", 80))
    accepted, _ = server.accept()
    accepted.close()
    assert client.recv(1) == b""
    client.close()
    server.close()
    await stage.publish(80)


async def test_all_or_nothing(stage: Stage) -> None:
    program = socket.create_server(("0.0.0.0", 82))
    specs = [PortSpec(container_port=80, first=port, last=port) for port in (80, 81, 82)]
    with pytest.raises(Internal):
        stage.publisher.reserve("c2", specs, Place(address="172.30.1.2"))
    assert stage.publisher.all() == []
    socket.create_server(("0.0.0.0", 80)).close()
    program.close()


async def test_a_range_and_any_port(stage: Stage) -> None:
    program = socket.create_server(("0.0.0.0", 8000))
    spec = PortSpec(container_port=80, first=8000, last=8002)
    found = []
    for owner in ("a", "b"):
        reserved = stage.publisher.reserve(owner, [spec], Place(address="172.30.1.2"))
        stage.reserved += reserved
        assert len({one.publication.host_port for one in reserved}) == 1
        found.append(reserved[0].publication.host_port)
    assert found == [8001, 8002]
    with pytest.raises(Internal, match="8000/tcp: address already in use"):
        stage.publisher.reserve("c", [spec], Place(address="172.30.1.2"))
    program.close()
    busy = socket.create_server(("0.0.0.0", 40001))
    anything = PortSpec(container_port=80)
    given = [stage.publisher.reserve("d", [anything], Place(address="172.30.1.2")) for _ in range(10)]
    assert [some[0].publication.host_port for some in given] == [40000, *range(40002, 40011)]
    with pytest.raises(Internal):
        stage.publisher.reserve("e", [anything], Place(address="172.30.1.2"))
    stage.reserved += [one for some in given for one in some]
    busy.close()


async def test_sctp_says_what_is_missing(stage: Stage) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
        pytest.skip("this kernel has SCTP")
    except OSError:
        pass
    with pytest.raises(Unsupported, match="80/sctp: this host's kernel has no SCTP"):
        await stage.publish(80, protocol="sctp")


async def test_a_start_follows_what_shims_hold(stage: Stage, outside: Outside) -> None:
    """The next daemon: its table has what the last one left, from its first moment, and then what is true."""
    await stage.container()
    await stage.publish(80)
    await stage.publish(90, to="172.30.1.9", owner="gone")
    names = [p.name for owner, p in stage.publisher.all() if owner == "c2"]
    successor = firewall()
    publisher = Publisher(successor)
    await successor.add(network(1))
    assert len(listed()) == 4 and reaches(outside.netns, HOST, 80)
    publisher.adopt("c2", [*names, "dns"], Place(address="172.30.1.2"))
    await publisher.reconcile()
    assert listed() == set(
        elements_of([Lead(protocol="tcp", port=80, to_address="172.30.1.2", to_port=8080)])
    )
    assert reaches(outside.netns, HOST, 80)
    with pytest.raises(Internal, match="already allocated"):
        publisher.reserve("c3", [PortSpec(container_port=1, first=80, last=80)], Place(address="172.30.1.3"))
    successor.close()


async def test_changed_elements_are_put_right(stage: Stage) -> None:
    await stage.container()
    await stage.publish(80)
    right = listed()
    for harm in (
        "flush map inet wherry-test any4\n",
        "add element inet wherry-test any4 { tcp . 22 : 172.30.1.2 . 22 }\n",
        "flush set inet wherry-test selves4\n",
        "delete table inet wherry-test\n",
    ):
        set_rules(harm)
        await stage.machine.firewall.restore()
        assert listed() == right, harm
    assert reaches(None, "127.0.0.1", 80)
    set_rules("delete table inet wherry-test\n")
    await stage.publish(81)
    assert reaches(None, "127.0.0.1", 80) and reaches(None, "127.0.0.1", 81)


async def test_someone_elses_drop_wins_and_accept_opens(maker: Maker, outside: Outside) -> None:
    nat.enable_forwarding()
    set_rules(
        "table inet theirs {\n chain forward {\n type filter hook forward priority 10; policy drop;\n }\n }\n"
    )
    for accept in (False, True):
        stage = Stage(Machine(maker, firewall(accept=accept)))
        await stage.container()
        await stage.publish(80)
        await stage.machine.firewall.check()
        if accept:
            assert stage.machine.firewall.warnings() == [] and reaches(outside.netns, HOST, 80)
        else:
            (warning,) = stage.machine.firewall.warnings()
            assert "nft insert rule inet theirs forward" in warning and "wht1" in warning
            assert is_cut_off(outside.netns, HOST, 80)
        await stage.publisher.close("c2")
        for one in stage.reserved:
            one.sock.close()
        await stage.machine.driver.remove(network(1))
        await stage.close()


async def test_without_rules_the_sockets_get_it_all(maker: Maker) -> None:
    """--iptables=false: the shim relays everything."""
    off = nat.Firewall("wherry-test", is_enabled=False, owns_forwarding=False)
    publisher = Publisher(off)
    (one, *_) = publisher.reserve(
        "c2",
        [PortSpec(container_port=80, host_ip="127.0.0.1", first=80, last=80)],
        Place(address="172.30.1.2"),
    )
    await publisher.open("c2", Place(address="172.30.1.2"))
    one.sock.settimeout(5)
    assert reaches(None, "127.0.0.1", 80)
    one.sock.accept()[0].close()
    assert "wherry-test" not in run("nft", "list", "tables")
    await publisher.close("c2")
    publisher.cancel("c2", [one])


def test_relays_and_leads_by_family() -> None:
    place, both = Place(address="10.0.0.2"), Place(address="10.0.0.2", address6="fd00::2")
    from wherry.network.ports import Publication

    def at(host_ip: str) -> Publication:
        return Publication(container_port=80, protocol="tcp", host_ip=host_ip, host_port=8080)

    assert place.target(at("::")) == ("10.0.0.2", 80) and place.lead(at("::")) is None
    assert both.target(at("::")) == ("fd00::2", 80)
    assert both.lead(at("::")) == Lead(protocol="tcp", port=8080, to_address="fd00::2", to_port=80)
    assert both.lead(at("::1")) is None and both.target(at("::1")) == ("fd00::2", 80)
    lead = both.lead(at("127.0.0.1"))
    assert lead is not None and lead.address == "127.0.0.1"
    assert Place(address6="fd00::2").target(at("0.0.0.0")) == ("fd00::2", 80)
    assert Place().target(at("::")) is None


def test_elements_as_the_kernel_takes_them(host: None) -> None:
    nft.run(nat.render("wherry-test", [network(1)], guards=[]))
    elements = Elements("wherry-test")
    leads = [
        Lead(protocol=protocol, address=address, port=port, to_address=to, to_port=port + 1)
        for protocol, port in (("tcp", 80), ("udp", 53), ("sctp", 65534))
        for address, to in (
            ("", "172.30.1.2"),
            ("10.0.0.1", "172.30.1.2"),
            ("", "fd00::2"),
            ("fe80::1", "fd00::2"),
        )
    ]
    wanted = elements_of(leads)
    elements.add(wanted)
    elements.add(wanted[:1])  # again is fine
    assert listed() == set(wanted)
    assert port_rules.leads_of(listed()) == set(leads)
    with pytest.raises(FileExistsError, match=r"172\.30\.1\.3"):
        elements.add(elements_of([Lead(protocol="tcp", port=80, to_address="172.30.1.3", to_port=1)]))
    elements.remove(wanted[:3])
    elements.remove(wanted)  # some of it gone already
    assert listed() == set()
    run("nft", "delete", "table", "inet", "wherry-test")
    with pytest.raises(FileNotFoundError):
        elements.add(wanted)
    elements.remove(wanted)
    elements.close()


def test_many_elements(host: None) -> None:
    nft.run(nat.render("wherry-test", [network(1)], guards=[]))
    elements = Elements("wherry-test")
    many = elements_of(
        Lead(protocol="tcp", port=p, to_address="172.30.1.2", to_port=p) for p in range(1, 2001)
    )
    elements.add(many)
    assert len(listed()) == 4000
    elements.remove(many)
    assert listed() == set()
    elements.close()
    Links().close()
