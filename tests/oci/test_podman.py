"""Another engine uses our runtime by its command line: podman, where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MARK
from wherry.runtime.cgroups.driver import is_unified

# A hard limit that root without CAP_SYS_RESOURCE can set, unlike podman's own default.
LIMITS = ("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000")
Podman = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Podman]:
    if not shutil.which("podman") or not shutil.which("conmon"):
        pytest.skip("podman is not installed")
    place = tmp_path_factory.mktemp("podman")
    runtime = place / "wherry-runtime"
    path = os.pathsep.join(sys.path)
    runtime.write_text(f'#!/bin/sh\nPYTHONPATH={path!r} exec {sys.executable} -m wherry.runtime "$@"\n')
    runtime.chmod(0o755)
    words = ["podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    words += ["--root", str(place / "root"), "--runroot", str(place / "run"), "--tmpdir", str(place / "tmp")]
    words += ["--runtime", str(runtime)]

    def call(*rest: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *rest], text=True, capture_output=True, check=False, timeout=110)

    archive = place / "image.tar"
    subprocess.run(["tar", "-C", str(image), "-cf", str(archive), "."], check=True)
    imported = call("import", str(archive), "wherry-test")
    if imported.returncode:
        pytest.skip(f"podman does not work here: {imported.stderr}")
    yield call
    call("rm", "--force", "--all", "--time", "0")
    call("rmi", "--force", "--all")


def run(podman: Podman, *rest: str) -> subprocess.CompletedProcess[str]:
    parent = ("--cgroup-parent", f"/{MARK}")
    return podman("run", "--rm", "--network", "none", *parent, *LIMITS, *rest)


def test_run(podman: Podman) -> None:
    done = run(podman, "--hostname", "vessel", "wherry-test", "sh", "-c", "hostname; id -u; exit 3")
    assert (done.returncode, done.stdout) == (3, "vessel\n0\n"), done.stderr


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("nosuch", 127, 'exec: \\"nosuch\\": executable file not found in $PATH'),
        ("/etc", 126, 'exec: \\"/etc\\": permission denied'),
    ],
)
def test_failures(podman: Podman, command: str, code: int, message: str) -> None:
    done = run(podman, "wherry-test", command)
    assert done.returncode == code
    assert message in done.stderr


def test_options(podman: Podman, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("shared\n")
    limits = (
        "--memory",
        "64m",
        "--pids-limit",
        "20",
        "--cpus",
        "0.5",
        "--user",
        "1000:1000",
        "--cap-drop",
        "ALL",
    )
    mounts = ("--read-only", "--volume", f"{tmp_path}:/mnt:ro", "--tmpfs", "/scratch")
    memory = "/sys/fs/cgroup/memory.max" if is_unified() else "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    script = (
        f"cat /mnt/file {memory}; grep CapBnd /proc/self/status; echo x > /scratch/x; echo x > /x || echo ro"
    )
    done = run(podman, *limits, *mounts, "wherry-test", "sh", "-c", script)
    assert done.stdout.split() == ["shared", str(64 << 20), "CapBnd:", "0" * 16, "ro"], done.stderr


def test_exec_stop_and_remove(podman: Podman) -> None:
    words = ("run", "--detach", "--network", "none", "--cgroup-parent", f"/{MARK}", *LIMITS)
    started = podman(*words, "wherry-test", "sleep", "1000")
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()
    assert podman("exec", name, "hostname").stdout.strip() == name[:12]
    assert podman("exec", name, "sh", "-c", "exit 9").returncode == 9
    assert podman("exec", name, "nosuch").returncode == 127
    assert podman("exec", "--tty", name, "tty").stdout.strip() == "/dev/pts/0"
    assert podman("pause", name).returncode == 0
    assert podman("unpause", name).returncode == 0
    assert podman("kill", name).returncode == 0
    assert podman("wait", name).stdout.strip() == "137"
    found = json.loads(podman("inspect", name).stdout)[0]
    assert found["State"]["Status"] == "exited"
    assert podman("rm", name).returncode == 0
