"""Every test here has a host of its own: a fresh network namespace, with nothing but `lo`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from wherry.network.driver import AddressPool, EndpointRequest, NetworkConfig
from wherry.network.links import Links
from wherry.network.networks import Networks, NetworkSettings
from wherry.network.sandboxes import Maker, Sandbox
from wherry.store.database import Database

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def host() -> Iterator[None]:
    """This thread, and the threads it starts, in a network namespace that nobody else sees."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if _libc.unshare(CLONE_NEWNET):
        os.close(before)
        pytest.skip("needs root, to make network namespaces")
    try:
        links = Links()
        links.change(1, up=True)
        links.close()
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def links(host: None) -> Iterator[Links]:
    opened = Links()
    yield opened
    opened.close()


@pytest.fixture
def maker(host: None) -> Iterator[Maker]:
    made = Maker()
    yield made
    made.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(str(tmp_path / "wherry.db"))
    yield opened
    await opened.close()


SETTINGS = NetworkSettings(bridge="wht0", bip="172.30.9.1/24")


@pytest.fixture
async def networks(host: None, database: Database) -> AsyncIterator[Networks]:
    opened = await Networks.open(database, SETTINGS)
    yield opened
    await opened.close()


def on(*networks: str) -> list[EndpointRequest]:
    """What a container asks that wants to be on these networks."""
    return [EndpointRequest(network=name) for name in networks]


def pool(network: NetworkConfig) -> AddressPool:
    assert network.ipv4 is not None
    return network.ipv4


def subnet_of(networks: Networks, name: str = "bridge") -> str:
    return pool(networks.inspect(name)).subnet


def run(*command: str) -> str:
    """A command's output."""
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def set_rules(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, check=True, text=True)


async def eventually(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait for something that the kernel does in its own time and tells nobody about."""
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


def inside(netns: int, step: Callable[[], T]) -> T:
    """The result of `step`, run in a thread that has entered the network namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.setns(netns, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            results.append(step())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def listen_in(netns: int, address: str, port: int = 8080) -> socket.socket:
    """A server in the namespace; the socket stays there, whoever uses it."""
    return inside(netns, lambda: socket.create_server((address, port)))


def reaches(netns: int | None, address: str, port: int = 8080, *, patience_s: float = 5) -> str | None:
    """Whether a connection from the namespace (None.

    The host's) comes up, and if so, from which address.
    """

    def connect() -> str | None:
        client = socket.socket()
        client.settimeout(patience_s)
        try:
            client.connect((address, port))
            return str(client.getsockname()[0])
        except (TimeoutError, OSError):
            return None
        finally:
            client.close()

    return connect() if netns is None else inside(netns, connect)


def is_cut_off(netns: int, address: str, port: int = 8080) -> bool:
    """Whether no connection comes up. Have one that does beside it: silence alone proves little."""
    return reaches(netns, address, port, patience_s=0.7) is None


class Outside:
    """Another machine, 198.51.100.2, on a wire to the host's interface `uplink`, 198.51.100.1."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.netns = sandbox.netns
        host = Links()
        host.add_veth("uplink", mtu=1500, peer="eth0", peer_netns=self.netns)
        host.add_address(host.index_of("uplink"), "198.51.100.1", 24)
        host.change(host.index_of("uplink"), up=True)
        host.close()
        index = sandbox.links.index_of("eth0")
        sandbox.links.change(index, up=True)
        sandbox.links.add_address(index, "198.51.100.2", 24)

    def route_to_containers(self) -> None:
        index = self._sandbox.links.index_of("eth0")
        self._sandbox.links.add_default_route(index, "198.51.100.1")


@pytest.fixture
async def outside(maker: Maker) -> AsyncIterator[Outside]:
    sandbox = await maker.run(maker.make)
    yield Outside(sandbox)
    sandbox.close()
