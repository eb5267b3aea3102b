"""The whole engine, driven by the docker CLI, on a machine with cgroup v2: with our runtime, runc and crun.

Debian's crun refuses the hybrid cgroups that many machines without systemd have, so it can only be tried here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.docker.engine import Wherry
from tests.vm.engine import running
from wherry.runtime.cgroups.driver import is_unified

RUNTIMES = {name: {"path": path} for name in ("runc", "crun") if (path := shutil.which(name))}


@pytest.fixture(scope="module")
def engine() -> Iterator[Wherry]:
    if not is_unified():
        pytest.skip("this machine has cgroup v1: tests/docker covers it")
    with running("whvm", "198.18.1.1/24", {"runtimes": RUNTIMES}) as wherry:
        yield wherry


@pytest.fixture(params=["wherry", "runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name != "wherry" and name not in RUNTIMES:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.mark.timeout(600)
def test_a_container_runs_is_limited_and_ends(engine: Wherry, runtime: str) -> None:
    def docker(*words: str) -> str:
        return engine.docker(*words, timeout_s=300).ok().line

    docker("run", "-d", "--name", "box", "--runtime", runtime, "--memory", "64m", "busybox", "sleep", "1000")
    assert docker("exec", "box", "cat", "/sys/fs/cgroup/memory.max") == str(64 << 20)
    assert docker("exec", "box", "hostname") == docker("inspect", "-f", "{{.Config.Hostname}}", "box")
    assert docker("inspect", "-f", "{{.HostConfig.Runtime}} {{.State.Running}}", "box") == f"{runtime} true"
    docker("kill", "box")
    assert docker("wait", "box") == "137"
    docker("rm", "box")
    ended = engine.docker(
        "run", "--rm", "--runtime", runtime, "busybox", "sh", "-c", "echo out; exit 7", timeout_s=300
    )
    assert (ended.code, ended.out) == (7, "out\n")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_containers_of_an_ipvlan_network_reach_each_other(engine: Wherry, mode: str) -> None:
    def docker(*words: str) -> str:
        return engine.docker(*words, timeout_s=300).ok().line

    subnet = "10.211.9.0/24"
    docker("network", "create", "-d", "ipvlan", "-o", f"ipvlan_mode={mode}", "--subnet", subnet, "thin")
    docker(
        "run", "-d", "--name", "one", "--network", "thin", "--ip", "10.211.9.5", "busybox", "sleep", "1000"
    )
    docker("run", "--rm", "--network", "thin", "busybox", "ping", "-c", "1", "-W", "20", "one")
    docker("rm", "-f", "one")
    docker("network", "rm", "thin")
