"""Published ports on a kernel that has SCTP, and too old to forget connections by address."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.docker.engine import Wherry
from tests.docker.test_ports import inside
from tests.vm.engine import running

SCTP = 132


@pytest.fixture(scope="module")
def engine() -> Iterator[Wherry]:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        subprocess.run(["modprobe", "sctp"], check=False, capture_output=True)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        pytest.skip("this kernel has no SCTP")
    with running("whvmp", "198.18.2.1/24") as wherry:
        yield wherry


@pytest.mark.timeout(600)
def test_sctp_is_led_to_the_container(engine: Wherry) -> None:
    def docker(*words: str) -> str:
        return engine.docker(*words, timeout_s=300).ok().line

    docker("run", "-d", "--name", "box", "-p", "9000:9/sctp", "busybox", "sleep", "1000")
    assert docker("port", "box") == "9/sctp -> 0.0.0.0:9000"
    pid = docker("inspect", "-f", "{{.State.Pid}}", "box")

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
        made.bind(("0.0.0.0", 9))
        made.listen()
        made.settimeout(120)
        return made

    server = inside(f"/proc/{pid}/ns/net", listen)
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
    client.settimeout(120)
    client.connect(("198.18.2.1", 9000))
    accepted, _ = server.accept()
    client.send(b"question")
    assert accepted.recv(100) == b"question"
    for sock in (client, accepted, server):
        sock.close()
    refused = engine.docker("run", "--rm", "-p", "9000:9/sctp", "busybox", "true", timeout_s=300)
    assert refused.code == 125 and "Bind for 0.0.0.0:9000 failed: port is already allocated" in refused.err
    docker("rm", "-f", "box")


@pytest.mark.timeout(600)
def test_tcp_by_rules_and_by_relay(engine: Wherry) -> None:
    script = "echo hello >index.html; httpd -f"
    engine.docker(
        "run", "-d", "--name", "web", "-p", "9001:80", "busybox", "sh", "-c", script, timeout_s=300
    ).ok()
    for address in ("127.0.0.1", "::1"):
        deadline = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection((address, 9001), timeout=60) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    if b"hello" in client.makefile("rb").read():
                        break
            except OSError:
                pass
            assert time.monotonic() < deadline, address
            time.sleep(0.2)
    engine.docker("rm", "-f", "web", timeout_s=300).ok()
