"""The whole engine, driven by the docker CLI, on a machine with cgroup v2: with our runtime, runc and crun.

Debian's crun refuses the hybrid cgroups that many machines without systemd have, so it can only be tried here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.docker import rootfs
from tests.docker.engine import Wherry
from wherry.runtime.cgroups.driver import is_unified

RUNTIMES = {name: {"path": path} for name in ("runc", "crun") if (path := shutil.which(name))}


@pytest.fixture(scope="module")
def engine() -> Iterator[Wherry]:
    if not is_unified():
        pytest.skip("this machine has cgroup v1: tests/docker covers it")
    wherry = Wherry("whvm", "198.18.1.1/24", config={"runtimes": RUNTIMES})
    wherry.start(wait=False)
    wherry.wait_ready(300)
    wherry.docker(
        "import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar(), timeout_s=300
    ).ok()
    yield wherry
    wherry.remove()


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
