from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from tests.unit.network.conftest import Outside, inside, on
from wherry.network import connections
from wherry.network.networks import Networks


def udp(netns: int, address: str, port: int) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(0.5)
        return made

    return inside(netns, make)


@pytest.fixture
async def exchange(
    networks: Networks, outside: Outside
) -> AsyncIterator[tuple[socket.socket, socket.socket, tuple[str, int]]]:
    """A container's UDP exchange with a server outside: both ends, and where the server sees the container."""
    attachment = await networks.acquire("container1", on("bridge"))
    assert attachment.sandbox is not None
    server, client = udp(outside.netns, "198.51.100.2", 5353), udp(attachment.sandbox, "0.0.0.0", 4000)
    server.settimeout(5)
    client.sendto(b"question", ("198.51.100.2", 5353))
    _, seen_as = server.recvfrom(100)
    server.sendto(b"answer", seen_as)
    assert client.recv(100) == b"answer"
    yield server, client, seen_as
    server.close()
    client.close()


async def test_the_next_owner_of_an_address_inherits_no_connection(
    networks: Networks, exchange: tuple[socket.socket, socket.socket, tuple[str, int]]
) -> None:
    server, client, seen_as = exchange
    server.sendto(b"more", seen_as)
    assert client.recv(100) == b"more"  # as long as it is there, it gets it
    await networks.release("container1")
    attachment = await networks.acquire("container2", on("bridge"))
    assert attachment.sandbox is not None
    can_forget = connections.forget("172.30.9.99")
    # A kernel that cannot forget has the address rest: another one is given out.
    assert (attachment.endpoints[0].address == "172.30.9.2") is can_forget
    with udp(attachment.sandbox, "0.0.0.0", 4000) as heir:
        server.sendto(b"late", seen_as)
        with pytest.raises(TimeoutError):
            heir.recv(100)
        heir.sendto(b"own question", ("198.51.100.2", 5353))
        assert server.recvfrom(100)[0] == b"own question"


async def test_other_addresses_keep_theirs(
    exchange: tuple[socket.socket, socket.socket, tuple[str, int]],
) -> None:
    server, client, seen_as = exchange
    connections.forget("172.30.9.3")
    server.sendto(b"more", seen_as)
    assert client.recv(100) == b"more"


def test_nothing_to_forget_is_fine(host: None) -> None:
    assert connections.forget("172.30.9.2") in (True, False)
