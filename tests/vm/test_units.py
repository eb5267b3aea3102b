"""The systemd units of packaging/, on a machine that systemd manages: run with `vm-run --systemd`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.docker import rootfs
from tests.docker.engine import ROOT, Engine
from wherry.runtime.cgroups.systemd import is_running

UNITS = "/run/systemd/system"


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not is_running():
        pytest.skip("systemd does not manage this machine")
    for name in ("wherry.service", "wherry.socket"):
        with open(f"{ROOT}/packaging/{name}") as file:
            text = file.read()
        here = f"ExecStart=/usr/bin/env PYTHONPATH={ROOT}/src {sys.executable} -m wherry.daemon"
        with open(f"{UNITS}/{name}", "w") as file:
            file.write(re.sub(r"^ExecStart=\S+", here, text, flags=re.MULTILINE))
    systemctl("daemon-reload")
    systemctl("start", "wherry.socket")
    socket = systemctl("show", "--value", "--property", "Listen", "wherry.socket").partition(" ")[0]
    yield Engine(f"unix://{socket}")
    systemctl("stop", "wherry.socket", "wherry.service")
    for name in ("wherry.service", "wherry.socket"):
        os.unlink(f"{UNITS}/{name}")


@pytest.mark.timeout(600)
def test_a_client_starts_the_daemon_and_containers_outlive_its_restart(engine: Engine) -> None:
    def docker(*words: str, input: bytes = b"") -> str:
        return engine.docker(*words, input=input, timeout_s=300).ok().line

    assert systemctl("is-active", "wherry.socket") == "active"
    assert docker("version", "--format", "{{.Server.Os}}") == "linux"
    assert systemctl("is-active", "wherry.service") == "active"
    docker("import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar())
    docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    pid = docker("inspect", "-f", "{{.State.Pid}}", "box")
    systemctl("restart", "wherry.service")
    assert docker("inspect", "-f", "{{.State.Running}} {{.State.Pid}}", "box") == f"true {pid}"
    assert docker("exec", "box", "echo", "still here") == "still here"
    docker("rm", "-f", "box")
