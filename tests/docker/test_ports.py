"""Published ports with the real docker CLI and SDK. Another host is a network namespace on a wire of the tests' own."""

from __future__ import annotations

import ctypes
import http.client
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

import docker
from tests.conftest import MARK
from tests.docker.engine import Client, Engine, Ran, Wherry

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_ports = itertools.count(21000 + os.getpid() % 500 * 20)

SERVE = "mkdir -p /w; echo hello >/w/index.html; exec httpd -f -v -p 80 -h /w"


@pytest.fixture
def port() -> int:
    """A port of the host that nobody has."""
    while True:
        number = next(_ports)
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("0.0.0.0", number))
        except OSError:
            continue
        return number


def serve(engine: Engine, name: str, *options: str) -> str:
    """A web server on the container's port 80."""
    return engine.docker("run", "-d", "--name", name, *options, "busybox", "sh", "-c", SERVE).ok().line


def fetch(address: str, port: int, *, patience_s: float = 10) -> str | None:
    """What a web server answers; None when no connection comes up."""
    deadline = time.monotonic() + patience_s
    while True:
        connection = http.client.HTTPConnection(address, port, timeout=patience_s)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        except OSError:
            return None
        except http.client.HTTPException:
            if time.monotonic() > deadline:  # relayed, and the server is not up yet
                return None
            time.sleep(0.05)
        finally:
            connection.close()


def eventually(address: str, port: int) -> str | None:
    """As `fetch`, for a server that is just starting."""
    deadline = time.monotonic() + 10
    while (found := fetch(address, port)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def inside(path: str, step: Callable[[], T]) -> T:
    """The result of `step` in the network namespace at `path`."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _libc.setns(descriptor, 0x40000000):
                raise OSError(ctypes.get_errno(), "setns")
            results.append(step())
        except BaseException as exc:
            errors.append(exc)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def outside(engine: Engine) -> Iterator[str]:
    """Another host, 198.51.100.130; this one is 198.51.100.129. Its network namespace, as a path."""
    warnings = engine.api("GET", "/info").json["Warnings"] or ()
    if any("chain" in text and "drops" in text for text in warnings):
        pytest.skip(f"another firewall of this machine drops what is forwarded: {warnings}")
    holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    path, link = f"/proc/{holder.pid}/ns/net", f"{MARK}-up"[:15]
    while os.stat(path).st_ino == os.stat("/proc/self/ns/net").st_ino:
        time.sleep(0.005)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        ip("addr", "add", "198.51.100.129/30", "dev", link)
        ip("link", "set", link, "up")
        enter = ["nsenter", f"--net={path}", "ip"]
        for words in (
            "addr add 198.51.100.130/30 dev eth0",
            "link set eth0 up",
            "link set lo up",
            "route add default via 198.51.100.129",
        ):
            subprocess.run([*enter, *words.split()], check=True)
        yield path
    finally:
        holder.kill()
        holder.wait()
        subprocess.run(["ip", "link", "del", link], capture_output=True)


HOST = "198.51.100.129"


def gateway(engine: Engine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.NetworkSettings.Gateway}}", name).ok().line


def pid_of(engine: Engine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.State.Pid}}", name).ok().line


def test_reached_by_every_address_of_the_host(engine: Engine, name: str, port: int) -> None:
    serve(engine, name, "-p", f"{port}:80")
    for address in ("127.0.0.1", gateway(engine, name), "::1"):
        assert eventually(address, port) == "hello", address
    assert engine.docker("port", name).ok().out.split("\n")[:2] == [
        f"80/tcp -> 0.0.0.0:{port}",
        f"80/tcp -> [::]:{port}",
    ]
    assert engine.docker("port", name, "80").ok().out.split() == [f"0.0.0.0:{port}", f"[::]:{port}"]
    shown = engine.docker("ps", "--filter", f"name={name}", "--format", "{{.Ports}}").ok().line
    assert shown in (
        f"0.0.0.0:{port}->80/tcp, [::]:{port}->80/tcp",
        f"0.0.0.0:{port}->80/tcp, :::{port}->80/tcp",
    )


def test_views(engine: Engine, name: str, port: int) -> None:
    options = ("-p", f"{port}:80", "-p", f"127.0.0.1:{port}:53/udp", "--expose", "99")
    container = serve(engine, name, *options)
    found = engine.api("GET", f"/containers/{name}/json").expect(200).json
    assert found["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": str(port)}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}],
    }
    assert found["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}, {"HostIp": "::", "HostPort": str(port)}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}],
        "99/tcp": None,
    }
    (row,) = engine.api("GET", "/containers/json", filters={"id": [container]}).json
    assert sorted(row["Ports"], key=str) == sorted(
        [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": port, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": port, "Type": "tcp"},
            {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": port, "Type": "udp"},
            {"PrivatePort": 99, "Type": "tcp"},
        ],
        key=str,
    )
    engine.docker("stop", "-t", "0", name).ok()
    stopped = engine.api("GET", f"/containers/{name}/json").json
    assert stopped["NetworkSettings"]["Ports"] == {}
    assert engine.docker("port", name).ok().out == ""


def test_filters(engine: Engine, name: str, port: int) -> None:
    serve(engine, name, "-p", f"{port}:80", "--expose", "90-92/udp")

    def shown(*filters: str) -> bool:
        options = [word for text in filters for word in ("--filter", text)]
        return name in engine.docker("ps", "--format", "{{.Names}}", *options).ok().out.split()

    for hit in (f"publish={port}", f"publish={port}/tcp", f"publish={port - 3}-{port + 3}/tcp", "expose=80",
                "expose=91/udp", "expose=1-100/udp"):  # fmt: skip
        assert shown(hit), hit
    for miss in (f"publish={port}/udp", f"publish={port + 1}", "expose=91", "expose=93/udp"):
        assert not shown(miss), miss
    for wrong in ("publish=x", "publish=5-1"):
        assert engine.docker("ps", "--filter", wrong).code == 1, wrong


def test_from_another_host(engine: Engine, name: str, port: int, outside: str) -> None:
    serve(engine, name, "-p", f"{port}:80")
    assert eventually("127.0.0.1", port) == "hello"
    assert inside(outside, lambda: fetch(HOST, port)) == "hello"
    deadline = time.monotonic() + 10  # the log is written some time after the answer
    while (
        "198.51.100.130" not in (seen := engine.docker("logs", name).ok().err) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert "198.51.100.130" in seen  # its own address


def test_a_loopback_port_is_this_hosts_alone(wherry: Engine, name: str, port: int, outside: str) -> None:
    serve(wherry, name, "-p", f"127.0.0.1:{port}:80")
    address = wherry.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name).ok().line
    assert eventually("127.0.0.1", port) == "hello"
    for target, number in ((HOST, port), (address, 80), ("127.0.0.1", port)):
        assert inside(outside, lambda t=target, n=number: fetch(t, n, patience_s=1)) is None, target


def request_from(engine: Engine, name: str, address: str, port: int) -> str:
    """A web page as another process in the container gets it."""
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port} | tail -1"
    return engine.docker("exec", name, "sh", "-c", script).line


def test_containers_reach_it_by_the_hosts_address(engine: Engine, name: str, port: int) -> None:
    serve(engine, name, "-p", f"{port}:80")
    engine.docker("run", "-d", "--name", f"{name}-2", "busybox", "sleep", "300").ok()
    host = gateway(engine, name)
    assert eventually("127.0.0.1", port) == "hello"
    for asking in (name, f"{name}-2"):
        assert request_from(engine, asking, host, port) == "hello", asking


def test_conflicts_are_refused_before_the_start(engine: Engine, name: str, port: int) -> None:
    serve(engine, name, "-p", f"{port}:80")
    refused = engine.docker("run", "--name", f"{name}-2", "-p", f"{port}:80", "busybox", "true")
    refused.failed(125, f"Bind for 0.0.0.0:{port} failed: port is already allocated")
    state = engine.api("GET", f"/containers/{name}-2/json").json["State"]
    assert (state["Status"], state["Pid"]) == ("created", 0)
    assert "port is already allocated" in state["Error"]
    answer = engine.api("POST", f"/containers/{name}-2/start").expect(500)
    assert "failed programming external connectivity on endpoint" in answer.message
    engine.docker("rm", "-f", name).ok()
    engine.docker("start", f"{name}-2").ok()


def test_a_port_that_a_program_has(wherry: Engine, name: str, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        refused = wherry.docker("run", "--name", name, "-p", f"{port}:80", "busybox", "true")
        refused.failed(125, f"failed to bind host port 0.0.0.0:{port}/tcp: address already in use")
    wherry.docker("start", "-a", name).ok()


def test_ranges_and_any_port(engine: Engine, name: str, port: int) -> None:
    published = f"{port}-{port + 1}:80"
    serve(engine, name, "-p", published)
    serve(engine, f"{name}-2", "-p", published)
    assert engine.docker("port", name, "80").ok().out.split()[0] == f"0.0.0.0:{port}"
    assert engine.docker("port", f"{name}-2", "80").ok().out.split()[0] == f"0.0.0.0:{port + 1}"
    assert engine.docker("run", "--name", f"{name}-3", "-p", published, "busybox", "true").code == 125
    serve(engine, f"{name}-4", "-p", f"{port + 2}-{port + 4}:80-82", "-p", "80", "-P", "--expose", "7777/udp")
    found = engine.docker("port", f"{name}-4").ok().out
    for offset in range(3):
        assert f"{80 + offset}/tcp -> 0.0.0.0:{port + 2 + offset}\n" in found
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    (random_port,) = re.findall(r"7777/udp -> 0\.0\.0\.0:(\d+)", found)
    assert first <= int(random_port) <= last
    assert fetch("127.0.0.1", port + 2) == "hello"


def test_datagrams(engine: Engine, name: str, port: int, outside: str) -> None:
    engine.docker("run", "-d", "--name", name, "-p", f"{port}:53/udp", "busybox", "sleep", "300").ok()

    def bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", 53))
        made.settimeout(10)
        return made

    server = inside(f"/proc/{pid_of(engine, name)}/ns/net", bind)

    def asks(family: int, address: str) -> tuple[bytes, str]:
        """What comes back, and from whom the server has it."""
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect((address, port))
            client.send(b"question")
            data, peer = server.recvfrom(100)
            server.sendto(data + b"!", peer)
            return client.recv(100), str(peer[0])

    for family, address in (
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, gateway(engine, name)),
        (socket.AF_INET6, "::1"),
    ):
        assert asks(family, address)[0] == b"question!", address
    assert inside(outside, lambda: asks(socket.AF_INET, HOST)) == (b"question!", "198.51.100.130")
    server.close()


def test_ports_outlive_the_daemon(other: Callable[..., Wherry], port: int) -> None:
    daemon = other()
    serve(daemon, "web", "-p", f"{port}:80")
    serve(daemon, "mortal", "-p", f"{port + 1}:80")
    assert eventually("127.0.0.1", port) == eventually("::1", port) == "hello"
    open_all_along = socket.create_connection(("::1", port))
    before = daemon.docker("port", "web").ok().out
    mortal = int(pid_of(daemon, "mortal"))
    daemon.kill()
    assert fetch("127.0.0.1", port) == fetch("::1", port) == "hello"
    table = f"wherry-{daemon.bridge}"
    subprocess.run(["nft", "delete", "table", "inet", table], check=True)
    assert fetch("127.0.0.1", port) == "hello"  # relayed
    os.kill(mortal, signal.SIGKILL)
    assert fetch("127.0.0.1", port + 1, patience_s=1) is None
    daemon.start()
    assert daemon.docker("port", "web").ok().out == before
    assert fetch("127.0.0.1", port) == fetch("::1", port) == "hello"
    open_all_along.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert b"hello" in open_all_along.makefile("rb").read()
    open_all_along.close()
    names = daemon.docker("ps", "--format", "{{.Names}}").ok().out.split()
    assert len(names) == 1
    listing = subprocess.run(
        ["nft", "list", "map", "inet", table, "any4"], capture_output=True, text=True
    ).stdout
    assert len(re.findall(r"tcp \. \d+ :", listing)) == 1
    daemon.docker("rm", "-f", "web").ok()
    for number in (port, port + 1):
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            socket.create_server((address, number), family=family).close()


def test_where_ports_are_bound_by_default(other: Callable[..., Wherry], port: int) -> None:
    daemon = other("--ip", "127.0.0.1")
    serve(daemon, "web", "-p", f"{port}:80")
    assert daemon.docker("port", "web").ok().line == f"80/tcp -> 127.0.0.1:{port}"
    assert daemon.api("GET", "/info").json["OpenPorts"] == []
    serve(daemon, "open", "-p", f"0.0.0.0:{port + 1}:80")
    assert daemon.api("GET", "/info").json["OpenPorts"] == [f"0.0.0.0:{port + 1}/tcp open:80"]


def test_networks_of_others(wherry: Engine, name: str, port: int) -> None:
    run = wherry.docker(
        "run", "-d", "--name", name, "--network", "host", "-p", f"{port}:80", "busybox", "sleep", "300"
    )
    assert "Published ports are discarded when using host network mode" in run.ok().err
    assert wherry.docker("port", name).ok().out == ""
    wherry.docker(
        "run", "-d", "--name", f"{name}-2", "--network", "none", "-p", f"{port}:80", "busybox", "sleep", "9"
    ).ok()
    body = {
        "Image": "busybox",
        "HostConfig": {"NetworkMode": f"container:{name}-2", "PortBindings": {"80/tcp": []}},
    }
    answer = wherry.api("POST", "/containers/create", body).expect(400)
    assert answer.message == "conflicting options: port publishing and the container type network mode"


@pytest.mark.parametrize(
    ("bindings", "named"),
    [
        ({"x/tcp": []}, "x/tcp"),
        ({"80/icmp": []}, "80/icmp"),
        ({"0/tcp": []}, "0/tcp"),
        ({"65536/tcp": []}, "65536/tcp"),
        ({"80/tcp": [{"HostPort": "eighty"}]}, "eighty"),
        ({"80/tcp": [{"HostPort": "65536"}]}, "65536"),
        ({"80/tcp": [{"HostPort": "90-80"}]}, "90-80"),
        ({"80/tcp": [{"HostIp": "300.0.0.1", "HostPort": "80"}]}, "300.0.0.1"),
    ],
)
def test_malformed_ports_are_named(wherry: Engine, name: str, bindings: dict[str, Any], named: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"PortBindings": bindings}}
    assert named in wherry.api("POST", "/containers/create", body, name=name).expect(400).message
    wherry.docker("create", "--name", name, "busybox", "sleep", "300").ok()
    assert (
        named
        in wherry.api("POST", f"/containers/{name}/ports", {"PortBindings": bindings}).expect(400).message
    )


def wherry_cli(engine: Engine, *argv: str) -> Ran:
    return Client(engine.socket_path, [sys.executable, "-m", "wherry.cli"]).docker(
        *argv, env={"WHERRY_HOST": engine.host}
    )


def test_publishing_on_a_running_container(wherry: Engine, name: str, port: int) -> None:
    serve(wherry, name)
    wherry_cli(wherry, "port", "add", name, f"{port}:80", f"127.0.0.1:{port + 1}:80").ok()
    assert eventually("127.0.0.1", port) == fetch("::1", port) == fetch("127.0.0.1", port + 1) == "hello"
    assert wherry.docker("port", name).ok().out.split("\n")[:-1] == [
        f"80/tcp -> 0.0.0.0:{port}",
        f"80/tcp -> 127.0.0.1:{port + 1}",
        f"80/tcp -> [::]:{port}",
    ]
    wherry.docker("restart", "-t", "0", name).ok()  # it is remembered
    assert eventually("127.0.0.1", port) == "hello"
    wherry_cli(wherry, "port", "rm", name, f"{port}:80").ok()
    assert fetch("127.0.0.1", port) is None and fetch("::1", port) is None
    assert fetch("127.0.0.1", port + 1) == "hello"
    wherry.docker("restart", "-t", "0", name).ok()
    assert eventually("127.0.0.1", port + 1) == "hello"
    assert wherry.docker("port", name).ok().line == f"80/tcp -> 127.0.0.1:{port + 1}"
    wherry_cli(wherry, "port", "rm", name, "80").ok()
    assert wherry.docker("port", name).ok().out == ""
    missing = wherry_cli(wherry, "port", "rm", name, "80")
    assert missing.code == 1 and f"no public port '80/tcp' published for {name}" in missing.err


def test_a_change_of_ports_is_whole_or_not_at_all(wherry: Engine, name: str, port: int) -> None:
    serve(wherry, name)
    with socket.create_server(("127.0.0.1", port + 1)):
        refused = wherry_cli(wherry, "port", "add", name, f"{port}:80", f"{port + 1}:80")
        assert refused.code == 1 and f"{port + 1}/tcp: address already in use" in refused.err
    assert wherry.docker("port", name).ok().out == ""
    assert wherry.docker("inspect", "-f", "{{.HostConfig.PortBindings}}", name).ok().line == "map[]"
    wherry.docker("stop", "-t", "0", name).ok()
    wherry_cli(wherry, "port", "add", name, f"{port}:80").ok()
    wherry.docker("start", name).ok()
    assert eventually("127.0.0.1", port) == "hello"


def test_all_but_one_of_all_ports(wherry: Engine, name: str) -> None:
    serve(wherry, name, "-P", "--expose", "80", "--expose", "81")
    wherry_cli(wherry, "port", "rm", name, "81").ok()
    wherry.docker("restart", "-t", "0", name).ok()
    ports = wherry.api("GET", f"/containers/{name}/ports").expect(200).json["Ports"]
    assert len(ports["80/tcp"]) >= 1 and ports["81/tcp"] is None


def test_changes_where_there_is_nothing_to_publish(wherry: Engine, name: str, port: int) -> None:
    wherry.docker("run", "-d", "--name", name, "--network", "host", "busybox", "sleep", "300").ok()
    body = {"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}}
    assert (
        "no network of its own" in wherry.api("POST", f"/containers/{name}/ports", body).expect(409).message
    )
    wherry.docker("run", "-d", "--name", f"{name}-2", "--network", "none", "busybox", "sleep", "300").ok()
    assert (
        "no network that ports" in wherry.api("POST", f"/containers/{name}-2/ports", body).expect(409).message
    )
    wherry.api("POST", "/containers/no-such/ports", body).expect(404)
    wherry.api("POST", f"/containers/{name}-2/ports", {}).expect(400)
    wherry.api("DELETE", f"/containers/{name}-2/ports").expect(400)


def test_docker_py(engine: Engine, name: str, port: int) -> None:
    sdk: Any = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    container = sdk.containers.run(
        "busybox",
        ["sh", "-c", SERVE],
        name=name,
        detach=True,
        ports={"80/tcp": [port, ("127.0.0.1", port + 1)], "81/tcp": None},
    )
    container.reload()
    assert {b["HostPort"] for b in container.ports["80/tcp"]} == {str(port), str(port + 1)}
    assert container.ports["81/tcp"][0]["HostPort"].isdigit()
    assert eventually("127.0.0.1", port + 1) == "hello"
    sdk.close()


def test_many_ports(wherry: Engine, name: str, port: int) -> None:
    wherry.docker(
        "run", "-d", "--name", name, "-p", "12000-12299:12000-12299", "busybox", "sleep", "300"
    ).ok()
    assert len(wherry.docker("port", name).ok().out.split("\n")) == 601
    wherry.docker("rm", "-f", name).ok()
    socket.create_server(("0.0.0.0", 12299)).close()


@pytest.fixture
def network(engine: Engine, name: str) -> Iterator[Callable[..., str]]:
    """Makes networks; they are removed after the test."""
    made: list[str] = []

    def make(*options: str) -> str:
        made.append(f"{MARK}-n{len(made)}-{name[-8:].strip('-')}")
        engine.docker("network", "create", *options, made[-1]).ok()
        return made[-1]

    yield make
    for one in made:
        ids = engine.docker("ps", "-aq", "--filter", f"network={one}").out.split()
        if ids:
            engine.docker("rm", "-f", *ids)
        engine.docker("network", "rm", one)


def test_from_another_network(engine: Engine, name: str, port: int, network: Callable[..., str]) -> None:
    serve(engine, name, "-p", f"{port}:80")
    assert eventually("127.0.0.1", port) == "hello"
    engine.docker("run", "-d", "--name", f"{name}-2", "--network", network(), "busybox", "sleep", "300").ok()
    assert request_from(engine, f"{name}-2", gateway(engine, name), port) == "hello"
    address = engine.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name).ok().line
    assert engine.docker("exec", f"{name}-2", "nc", "-w", "1", address, "80").code != 0


def test_ports_follow_the_networks(
    wherry: Engine, name: str, port: int, network: Callable[..., str], outside: str
) -> None:
    first, second, internal = network(), network(), network("--internal")
    serve(wherry, name, "-p", f"{port}:80", "--network", first)
    assert eventually("127.0.0.1", port) == "hello"
    wherry.docker("network", "connect", second, name).ok()
    wherry.docker("network", "disconnect", first, name).ok()
    for address in ("127.0.0.1", "::1"):
        assert fetch(address, port) == "hello", address
    assert inside(outside, lambda: fetch(HOST, port)) == "hello"
    wherry.docker("network", "connect", internal, name).ok()
    wherry.docker("network", "disconnect", second, name).ok()
    assert fetch("127.0.0.1", port) is None and wherry.docker("port", name).ok().out == ""
    wherry.docker("network", "connect", first, name).ok()
    assert fetch("127.0.0.1", port) == fetch("::1", port) == "hello"


def test_a_networks_own_address(engine: Engine, name: str, port: int, network: Callable[..., str]) -> None:
    made = network("-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1")
    serve(engine, name, "-p", f"{port}:80", "--network", made)
    assert engine.docker("port", name).ok().line == f"80/tcp -> 127.0.0.1:{port}"


def test_ipv6(wherry: Engine, name: str, port: int, network: Callable[..., str], outside: str) -> None:
    made = network("--ipv6", "--subnet", f"fd{os.getpid() % 256:02x}:{port:x}::/64")
    serve(wherry, name, "-p", f"{port}:80", "-p", f"[::1]:{port + 1}:80", "--network", made)
    wherry.docker("run", "-d", "--name", f"{name}-2", "--network", made, "busybox", "sleep", "300").ok()
    for address, number in (("::1", port), ("::1", port + 1), ("127.0.0.1", port)):
        assert eventually(address, number) == "hello", address
    gateway6 = (
        wherry.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPv6Gateway}}{{end}}", name)
        .ok()
        .line
    )
    assert fetch(gateway6, port) == "hello"
    assert fetch(gateway6, port + 1) is None
    for asking in (name, f"{name}-2"):
        assert request_from(wherry, asking, gateway6, port) == "hello", asking
    link = f"{MARK}-up"[:15]
    ip("addr", "add", "fd42:6:7:8::1/64", "dev", link, "nodad")
    subprocess.run(
        ["nsenter", f"--net={outside}", "ip", "addr", "add", "fd42:6:7:8::2/64", "dev", "eth0", "nodad"],
        check=True,
    )
    assert inside(outside, lambda: fetch("fd42:6:7:8::1", port)) == "hello"
    assert "fd42:6:7:8::2" in wherry.docker("logs", name).ok().err  # led, not relayed
    assert inside(outside, lambda: fetch("fd42:6:7:8::1", port + 1, patience_s=1)) is None
