"""The example application, brought up, scaled and taken down by compose: version 2 and Debian's 1.29."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.docker.engine import ROOT, Engine

pytestmark = pytest.mark.timeout(400)

V2 = [  # the first is where ./dev puts it
    f"{sys.prefix}/sid/usr/libexec/docker/cli-plugins/docker-compose",
    "/usr/libexec/docker/cli-plugins/docker-compose",
    "/usr/lib/docker/cli-plugins/docker-compose",
]


class Compose:
    """One compose program on one project."""

    def __init__(self, program: str, engine: Engine, image: str, project: str) -> None:
        self.program = program
        self.engine = engine
        self.project = project
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.environment = {
            **engine.environment(),
            "DOCKER_HOST": engine.host,
            "COMPOSE_PROJECT_NAME": project,
            "IMAGE": image,
            "FRONT": str(self.port),
        }

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [self.program, *words],
            cwd=f"{ROOT}/examples/compose",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def visit(self) -> tuple[int, str]:
        """The count that the application answers with, and the container that did; tried until all are up."""
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as answer:
                    text = answer.read().decode()
                found = re.fullmatch(r"visit (\d+), served by (\w+)\n", text)
                assert found is not None, text
                return int(found[1]), found[2]
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def container(self, service: str) -> str:
        label = f"label=com.docker.compose.service={service}"
        mine = f"label=com.docker.compose.project={self.project}"
        return self.engine.docker("ps", "-q", "--filter", label, "--filter", mine).ok().out.split()[0]


@pytest.fixture(params=["v2", "1.29"])
def compose(request: pytest.FixtureRequest, engine: Engine, debian: str, name: str) -> Iterator[Compose]:
    if request.param == "v2":
        program = next((path for path in V2 if os.access(path, os.X_OK)), None)
    else:
        program = shutil.which("docker-compose")
    if program is None:
        pytest.skip(f"no docker-compose {request.param} on this machine")
    project = re.sub("[^a-z0-9]", "", name)[:20] + request.param.replace(".", "")
    made = Compose(program, engine, debian, project)
    yield made
    made("down", "-v", "--remove-orphans")


def test_an_application_comes_up_is_used_and_goes(compose: Compose) -> None:
    engine = compose.engine
    compose("up", "-d")
    first, _ = compose.visit()
    second, server = compose.visit()
    assert second == first + 1
    assert (
        engine.docker("inspect", "-f", "{{.Config.Hostname}}", compose.container("app")).ok().line == server
    )

    assert "front" in compose("ps")
    assert "Ready to accept connections" in compose("logs", "redis")
    assert compose("exec", "-T", "redis", "redis-cli", "get", "visits").strip() == str(second)

    compose("up", "-d", "--scale", "app=3")
    servers: set[str] = set()
    deadline = time.monotonic() + 30
    while len(servers) < 3 and time.monotonic() < deadline:
        servers.add(compose.visit()[1])
    assert len(servers) == 3

    before, _ = compose.visit()
    compose("down")
    assert not engine.docker(
        "ps", "-aq", "--filter", f"label=com.docker.compose.project={compose.project}"
    ).out
    compose("up", "-d")
    assert compose.visit()[0] == before + 1  # the volume outlives the containers
    assert engine.docker("volume", "ls", "-q", "--filter", f"name={compose.project}_data").ok().line
    compose("down", "-v")
    assert not engine.docker("volume", "ls", "-q", "--filter", f"name={compose.project}_data").out
    assert not engine.docker("network", "ls", "-q", "--filter", f"name={compose.project}").out


def test_an_application_outlives_the_daemon(wherry: Engine, compose: Compose) -> None:
    compose("up", "-d")
    first, _ = compose.visit()
    wherry.restart()
    assert compose.visit()[0] == first + 1
    compose("restart", "app")  # a new address perhaps, found by its name
    assert compose.visit()[0] == first + 2
