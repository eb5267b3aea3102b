"""Real programs of size: Debian with nginx, redis, Python and apt."""

from __future__ import annotations

import http.client
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docker.engine import Engine
from tests.docker.test_containers import connected

pytestmark = pytest.mark.timeout(400)  # the first run makes the root filesystem


def address(engine: Engine, name: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return engine.docker("inspect", "-f", form, name).ok().line


def test_nginx_answers(engine: Engine, debian: str, name: str, tmp_path: object) -> None:
    with open(f"{tmp_path}/index.html", "w") as file:
        file.write("served from a container\n")
    os.chmod(str(tmp_path), 0o755)  # nginx reads it as www-data
    mount = f"{tmp_path}:/var/www/html:ro"
    engine.docker("run", "-d", "--name", name, "-v", mount, debian, "nginx", "-g", "daemon off;").ok()
    host = address(engine, name)
    connected(host, 80).close()
    connection = http.client.HTTPConnection(host, 80, timeout=10)
    connection.request("GET", "/index.html")
    assert connection.getresponse().read() == b"served from a container\n"
    engine.docker("stop", "-t", "5", name).ok()
    assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", name).ok().line == "0"


def test_redis_keeps_data_over_a_restart(engine: Engine, debian: str, name: str) -> None:
    command = "redis-server --bind 0.0.0.0 --protected-mode no --dir /data --appendonly yes"
    engine.docker("run", "-d", "--name", name, debian, "sh", "-c", f"mkdir -p /data; exec {command}").ok()

    def ask(*words: str) -> str:
        with connected(address(engine, name), 6379) as sock:
            sock.sendall(" ".join(words).encode() + b"\r\n")
            return sock.makefile().readline().strip()

    assert ask("PING") == "+PONG"
    assert ask("SET", "key", "value") == "+OK"
    engine.docker("restart", name).ok()
    deadline = time.monotonic() + 10
    while ask("EXISTS", "key") != ":1" and time.monotonic() < deadline:
        time.sleep(0.05)  # it is loading what it kept
    assert ask("EXISTS", "key") == ":1"


def test_python_runs(engine: Engine, debian: str, name: str) -> None:
    program = "import hashlib, os, threading, multiprocessing, sqlite3, ssl; print(os.getpid(), hashlib.sha256(b'x').hexdigest()[:8]); q = multiprocessing.Queue(); p = multiprocessing.Process(target=q.put, args=(1,)); p.start(); print(q.get()); p.join()"
    assert engine.docker("run", "--rm", debian, "python3", "-c", program).ok().out == "1 2d711642\n1\n"
    answer = engine.docker("run", "--rm", "-i", debian, "python3", "-", input="print(6 * 7)\n")
    assert answer.ok().out == "42\n"


def test_apt_works_with_the_hosts_network(engine: Engine, debian: str, name: str) -> None:
    copies = ["-v", "/etc/apt:/etc/apt:ro", "-v", "/usr/share/keyrings:/usr/share/keyrings:ro",
              "-v", "/etc/ssl/certs:/etc/ssl/certs:ro", "-v", "/usr/local/share/ca-certificates:/usr/local/share/ca-certificates:ro"]  # fmt: skip
    proxies = [f"-e{k}" for k in os.environ if k.lower() in ("http_proxy", "https_proxy", "no_proxy")]
    script = "apt-get update -q 2>&1 | tail -n 3; apt-get install -y -q --no-install-recommends hello >/tmp/log 2>&1 || tail -n 20 /tmp/log; hello"
    ran = engine.docker(
        "run", "--rm", "--network", "host", *copies, *proxies, debian, "sh", "-c", script, timeout_s=200
    )
    if "Hello, world!" not in ran.out and ("Could not resolve" in ran.out or "Unable to connect" in ran.out):
        pytest.skip("no Debian mirror can be reached from this machine")
    assert "Hello, world!" in ran.ok().out, ran.out + ran.err


def test_dpkg_and_shells_see_an_ordinary_system(engine: Engine, debian: str, name: str) -> None:
    script = "set -e; . /etc/os-release; echo $VERSION_CODENAME; dpkg -s nginx-light | grep ^Status; bash -c 'echo ${BASH_VERSION%%.*}'; mount | grep -c proc; su -s /bin/sh www-data -c id"
    lines = engine.docker("run", "--rm", debian, "sh", "-c", script).ok().out.splitlines()
    assert lines[0] == "bookworm" and lines[1] == "Status: install ok installed" and lines[2] == "5"
    assert "www-data" in lines[-1]


def test_the_socket_in_a_container_outlives_the_daemon(
    wherry: Engine, debian: str, name: str, tmp_path: Path
) -> None:
    """A client inside waits for the next daemon, as those outside do, on the socket it was given at its start."""
    program = (
        "import http.client, socket, sys\n"
        "class Api(http.client.HTTPConnection):\n"
        "    def connect(self):\n"
        "        self.sock = socket.socket(socket.AF_UNIX); self.sock.connect('/docker.sock')\n"
        "api = Api('docker'); api.request('GET', '/version')\n"
        "print(api.getresponse().status)\n"
    )
    mount = f"{wherry.socket_path}:/docker.sock"
    shared = f"{tmp_path}:/shared"
    wherry.docker("run", "-d", "--name", name, "-v", mount, "-v", shared, debian, "sleep", "300").ok()
    wherry.restart()
    assert wherry.docker("exec", name, "python3", "-c", program).ok().line == "200"
    ask = f"touch /shared/asked; python3 -c {shlex.quote(program)} > /shared/answer 2>&1"
    waiting = f"while [ ! -e /shared/gone ]; do sleep 0.02; done; {ask}"
    wherry.docker("exec", "-d", name, "sh", "-c", waiting).ok()
    wherry.kill()
    (tmp_path / "gone").touch()
    until((tmp_path / "asked").exists)
    time.sleep(0.5)  # it asks while nobody is there
    assert not (tmp_path / "answer").read_text()
    wherry.start()
    until(lambda: bool((tmp_path / "answer").read_text()))
    assert (tmp_path / "answer").read_text() == "200\n"


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
