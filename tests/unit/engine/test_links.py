from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.links import link_environment, parse_link
from wherry.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db", ("db", "db")),
        ("db:store", ("db", "store")),
        ("/db:/web/store", ("db", "store")),  # as inspect shows them
    ],
)
def test_links(text: str, expected: tuple[str, str]) -> None:
    assert parse_link(text) == expected


@pytest.mark.parametrize("text", ["", ":", "a:b:c", ":a", "a:", "a:b c", "a:b\n"])
def test_bad_links(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_link(text)


@given(st.text(max_size=30))
def test_any_text_is_a_link_or_refused(text: str) -> None:
    try:
        name, alias = parse_link(text)
    except InvalidParameter:
        return
    assert name and alias and "\n" not in alias


def test_variables() -> None:
    told = link_environment(
        "/web/my-db", "172.17.0.2", ["6379/tcp"], ["PW=1=2", "PATH=/bin", "HOME=/", "odd"]
    )
    assert told == [
        "MY_DB_PORT=tcp://172.17.0.2:6379",
        "MY_DB_PORT_6379_TCP=tcp://172.17.0.2:6379",
        "MY_DB_PORT_6379_TCP_ADDR=172.17.0.2",
        "MY_DB_PORT_6379_TCP_PORT=6379",
        "MY_DB_PORT_6379_TCP_PROTO=tcp",
        "MY_DB_NAME=/web/my-db",
        "MY_DB_ENV_PW=1=2",
    ]


def test_ports_in_a_row_are_told_as_one_too() -> None:
    told = link_environment("/web/db", "10.0.0.2", ["82/tcp", "80/tcp", "81/tcp", "53/udp"], [])
    assert told[:7] == [
        "DB_PORT=udp://10.0.0.2:53",
        "DB_PORT_80_TCP_START=tcp://10.0.0.2:80",
        "DB_PORT_80_TCP_ADDR=10.0.0.2",
        "DB_PORT_80_TCP_PROTO=tcp",
        "DB_PORT_80_TCP_PORT_START=80",
        "DB_PORT_80_TCP_END=tcp://10.0.0.2:82",
        "DB_PORT_80_TCP_PORT_END=82",
    ]
    assert "DB_PORT_53_UDP_PROTO=udp" in told


def test_nothing_exposed() -> None:
    assert link_environment("/web/db", "10.0.0.2", [], []) == ["DB_NAME=/web/db"]
