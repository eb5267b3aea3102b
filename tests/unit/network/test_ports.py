"""What `-p` asks for, and which port of the host it gets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.network.ports import (
    Ledger,
    PortSpec,
    Publication,
    addresses_for,
    check_host_ip,
    covers,
    ephemeral_range,
    parse_binding,
    parse_port,
    parse_port_range,
    specs_for,
)

PORTS = st.integers(1, 65535)
PROTOCOLS = st.sampled_from(["tcp", "udp", "sctp"])
ADDRESSES = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)).filter(
    lambda a: not a.startswith("::ffff:")
)
PUBLICATIONS = st.builds(
    Publication, container_port=PORTS, protocol=PROTOCOLS, host_ip=ADDRESSES, host_port=PORTS
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("80", (80, "tcp")), ("80/tcp", (80, "tcp")), ("53/UDP", (53, "udp")), ("9/sctp", (9, "sctp"))],
)
def test_a_container_port(text: str, meant: tuple[int, str]) -> None:
    assert parse_port(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "/", "0", "65536", "80/", "80/icmp", "x/tcp", "-1", "٨٠", "80-90/tcp", " 80", "080000000080", "8 0"],
)
def test_what_is_no_port_is_named(text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        parse_port(text)
    assert str(refused.value) == f'invalid port specification: "{text}"'


@pytest.mark.parametrize(
    "text", ["", "-", "90-80", "8000-", "-8000", "0-5", "1-65536", "1-2-3", "+1", "a", "8080/tcp"]
)
def test_what_is_no_range_is_named(text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        parse_port_range(text)
    assert str(refused.value) == f'invalid port specification: "{text}"'


@given(st.text())
def test_any_text_is_a_port_or_refused(text: str) -> None:
    for parse in (parse_port, parse_port_range, check_host_ip):
        try:
            parse(text)
        except InvalidParameter as exc:
            assert text in str(exc)


@given(PORTS, PORTS)
def test_a_range_comes_back(one: int, other: int) -> None:
    first, last = sorted((one, other))
    assert parse_port_range(f"{first}-{last}") == (first, last)
    assert parse_port_range(str(first)) == (first, first)


@pytest.mark.parametrize(
    "address", ["1.2.3", "localhost", "::ffff:1.2.3.4", "fe80::1%eth0", "1.2.3.4/24", " 1.2.3.4"]
)
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid IP address in port mapping"):
        parse_binding("80", address, "80")


def test_a_binding_without_a_host_port_asks_for_any() -> None:
    for text in ("", "0"):
        assert parse_binding("80/udp", "", text) == PortSpec(container_port=80, protocol="udp")


def test_an_address_is_shown_in_its_shortest_form() -> None:
    assert parse_binding("80", "0:0::1", "80").host_ip == "::1"


@given(PUBLICATIONS)
def test_a_name_says_all(publication: Publication) -> None:
    assert Publication.from_name(publication.name) == publication


@pytest.mark.parametrize("name", ["", "dns", "port/tcp/1.2.3.4", "port/icmp/::/1/2", "dns/udp/::/1/2"])
def test_other_names_are_nobodys_ports(name: str) -> None:
    assert Publication.from_name(name) is None


def test_all_exposed_ports_get_one_unless_they_have_one() -> None:
    bindings = {"80/tcp": [("127.0.0.1", "8080")]}
    specs = specs_for(bindings, ["80/tcp", "53/udp", "443"], publish_all=True)
    assert [(s.container_port, s.protocol, s.first) for s in specs] == [
        (80, "tcp", 8080),
        (53, "udp", 0),
        (443, "tcp", 0),
    ]
    assert len(specs_for(bindings, ["53/udp"], publish_all=False)) == 1


def test_a_port_without_bindings_gets_any() -> None:
    assert specs_for({"80/tcp": []}, (), publish_all=False) == [PortSpec(container_port=80)]


def test_what_has_no_choice_comes_first() -> None:
    bindings = {"1/tcp": [("", "")], "2/tcp": [("", "8000-8010")], "3/tcp": [("", "8000")]}
    assert [s.container_port for s in specs_for(bindings, (), publish_all=False)] == [3, 2, 1]


@pytest.mark.parametrize(
    ("host_ip", "default", "ipv6", "bound"),
    [
        ("", "", True, ("0.0.0.0", "::")),
        ("", "0.0.0.0", True, ("0.0.0.0", "::")),
        ("", "", False, ("0.0.0.0",)),
        ("", "127.0.0.1", True, ("127.0.0.1",)),
        ("10.0.0.1", "127.0.0.1", True, ("10.0.0.1",)),
        ("0.0.0.0", "", True, ("0.0.0.0",)),
        ("::", "", True, ("::",)),
    ],
)
def test_where_it_is_bound(host_ip: str, default: str, ipv6: bool, bound: tuple[str, ...]) -> None:
    assert addresses_for(PortSpec(container_port=80, host_ip=host_ip), default, has_ipv6=ipv6) == bound


def test_the_kernels_range_is_used() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        assert list(ephemeral_range()) == [int(word) for word in file.read().split()]


def publication(host_ip: str, port: int, protocol: str = "tcp") -> Publication:
    return Publication(container_port=80, protocol=protocol, host_ip=host_ip, host_port=port)


@pytest.mark.parametrize(
    ("ours", "theirs", "is_taken"),
    [
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::", "0.0.0.0", False),
        ("::", "::1", True),
    ],
)
def test_a_wildcard_is_in_the_way_of_every_address_of_its_family(
    ours: str, theirs: str, is_taken: bool
) -> None:
    ledger = Ledger((1, 9))
    ledger.take(publication(ours, 80), "web")
    assert ledger.holder("tcp", theirs, 80) == ("web" if is_taken else "")
    assert ledger.holder("udp", theirs, 80) == ledger.holder("tcp", theirs, 81) == ""
    ledger.free(publication(ours, 80))
    assert ledger.holder("tcp", theirs, 80) == ""


def test_ports_given_out_unasked_go_round() -> None:
    ledger = Ledger((10, 12))
    any_port = PortSpec(container_port=80)
    given_out: list[int] = []
    for _ in range(4):
        port = next(iter(ledger.candidates(any_port, ["0.0.0.0"])))
        given_out.append(port)
    assert given_out == [10, 11, 12, 10]


@given(st.lists(st.tuples(st.sampled_from(["0.0.0.0", "127.0.0.1", "::"]), st.integers(10, 20)), max_size=15))
def test_candidates_are_what_is_free(taken: list[tuple[str, int]]) -> None:
    ledger = Ledger((10, 20))
    for address, port in taken:
        ledger.take(publication(address, port), "web")
    ports4 = {port for address, port in taken if address != "::"}
    spec = PortSpec(container_port=80, first=10, last=20)
    assert list(ledger.candidates(spec, ["0.0.0.0"])) == [p for p in range(10, 21) if p not in ports4]
    both = {port for _, port in taken}
    found = set(itertools.islice(ledger.candidates(PortSpec(container_port=80), ["0.0.0.0", "::"]), 20))
    assert found == set(range(10, 21)) - both


def test_what_an_asked_port_covers() -> None:
    spec = PortSpec(container_port=80, first=8000, last=8010)
    assert covers(spec, publication("::", 8005))
    assert not covers(spec, publication("::", 8011))
    assert not covers(spec, publication("::", 8005, "udp"))
    at = PortSpec(container_port=80, host_ip="127.0.0.1")
    assert covers(at, publication("127.0.0.1", 1)) and not covers(at, publication("0.0.0.0", 1))
