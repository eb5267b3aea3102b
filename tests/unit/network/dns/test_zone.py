from __future__ import annotations

from wherry.network.dns.zone import Zone, member


def zone() -> Zone:
    made = Zone()
    made.join("1", "front", member("c1", ["web", "c1", "shop"], ["10.0.1.2", ""]))
    made.join("1", "front", member("c2", ["Web2", "shop"], ["10.0.1.3", "fd00::3"]))
    made.join("2", "back.net", member("c2", ["Web2", "db.main"], ["10.0.2.3"]))
    return made


def ip(*parts: int) -> bytes:
    return bytes(parts)


def test_names_are_found_on_the_askers_networks_only() -> None:
    assert zone().find(["1"], b"web", 4) == [ip(10, 0, 1, 2)]
    assert zone().find(["2"], b"web", 4) is None
    assert zone().find([], b"web", 4) is None


def test_all_who_share_a_name_are_found() -> None:
    assert zone().find(["1"], b"shop", 4) == [ip(10, 0, 1, 2), ip(10, 0, 1, 3)]


def test_names_are_kept_in_lower_case() -> None:
    assert zone().find(["1"], b"web2", 4) == [ip(10, 0, 1, 3)]


def test_networks_are_asked_in_order() -> None:
    assert zone().find(["2", "1"], b"web2", 4) == [ip(10, 0, 2, 3)]
    assert zone().find(["1", "2"], b"web2", 4) == [ip(10, 0, 1, 3)]


def test_a_name_may_say_its_network() -> None:
    both = ["1", "2"]
    assert zone().find(both, b"web2.back.net", 4) == [ip(10, 0, 2, 3)]
    assert zone().find(both, b"db.main.back.net", 4) == [ip(10, 0, 2, 3)]
    assert zone().find(both, b"db.main", 4) == [ip(10, 0, 2, 3)]
    assert zone().find(both, b"web.back.net", 4) is None
    assert zone().find(["1"], b"web2.back.net", 4) is None


def test_a_known_name_without_such_an_address_is_not_unknown() -> None:
    assert zone().find(["1"], b"web", 16) == []
    assert zone().find(["2", "1"], b"web2", 16) == [bytes.fromhex("fd00" + "0" * 27 + "3")]
    assert zone().find(["1"], b"nobody", 16) is None


def test_links_are_names_of_one_asker_on_one_network() -> None:
    links = {"1": {b"frontend": b"web"}}
    assert zone().find(["1"], b"frontend", 4, links) == [ip(10, 0, 1, 2)]
    assert zone().find(["1"], b"frontend.front", 4, links) == [ip(10, 0, 1, 2)]
    assert zone().find(["2"], b"frontend", 4, links) is None


def test_an_address_is_called_by_container_and_network() -> None:
    assert zone().name_of(["1"], ip(10, 0, 1, 3)) == b"web2.front"
    assert zone().name_of(["1"], ip(10, 0, 2, 3)) is None
    assert zone().name_of(["1", "2"], ip(10, 0, 2, 3)) == b"web2.back.net"


def test_who_left_is_not_found() -> None:
    made = zone()
    made.leave("1", "c2")
    assert made.find(["1"], b"shop", 4) == [ip(10, 0, 1, 2)]
    assert made.find(["1"], b"web2", 4) is None
    assert made.name_of(["1"], ip(10, 0, 1, 3)) is None
    made.leave("1", "c2")
    made.leave("3", "c1")


def test_who_joins_again_has_only_the_new_names() -> None:
    made = zone()
    made.join("1", "front", member("c1", ["renamed"], ["10.0.1.2"]))
    assert made.find(["1"], b"web", 4) is None
    assert made.find(["1"], b"renamed", 4) == [ip(10, 0, 1, 2)]
    assert made.name_of(["1"], ip(10, 0, 1, 2)) == b"renamed.front"


def test_a_container_with_one_name_twice_is_found_once() -> None:
    made = Zone()
    made.join("1", "n", member("c", ["web", "WEB", "web."], ["10.0.0.2"]))
    assert made.find(["1"], b"web", 4) == [ip(10, 0, 0, 2)]
    made.leave("1", "c")
    assert made.find(["1"], b"web", 4) is None
