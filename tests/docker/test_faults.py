"""What the machine does to an engine: full disks, dead helpers, things that somebody else removed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.docker import rootfs
from tests.docker.engine import Wherry

Other = Callable[..., Wherry]


@pytest.fixture
def small(other: Other) -> Iterator[Wherry]:
    """A daemon with 40 MB of disk."""
    daemon = other(start=False)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", daemon.data_root], check=True)
    with open(f"{daemon.data_root}/daemon.json", "w") as file:
        file.write("{}")
    daemon.start()
    daemon.docker("import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar()).ok()
    yield daemon
    daemon.stop()
    subprocess.run(["umount", "-l", daemon.data_root], check=True)


def files(daemon: Wherry) -> set[str]:
    found = set()
    for folder, _, names in os.walk(daemon.data_root):
        found.update(os.path.join(folder, name) for name in names if not name.startswith("wherry.db"))
    return found


@pytest.mark.parametrize("how", ["load", "import", "pull"])
def test_a_full_disk_fails_the_image_and_nothing_else(small: Wherry, registry: object, how: str) -> None:
    before = files(small)
    layer = rootfs.tar([("noise", os.urandom(60_000_000))])
    if how == "import":
        ran = small.docker("import", "-", "big", input=layer)
    elif how == "load":
        ran = small.docker(
            "load", input=rootfs.docker_archive(rootfs.image_config([layer]), [layer], "big:1")
        )
    else:
        registry.put_image("faults/big", "1", [layer])  # type: ignore[attr-defined]
        ran = small.docker("pull", f"{registry.address}/faults/big:1")  # type: ignore[attr-defined]
    ran.failed(1, "no space left on device")
    assert "Traceback" not in ran.err + small.log_tail()
    assert small.docker("images", "-aq").ok().out.count("\n") == 1
    deadline = time.monotonic() + 5
    while files(small) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    # A pull may keep what it has got, to go on from there; but not so much that nothing else works.
    left = files(small) - before
    assert how == "pull" or not left, left
    assert small.docker("run", "--rm", "busybox", "echo", "ok").ok().line == "ok"


def test_a_container_that_fills_the_disk_is_told_so(small: Wherry) -> None:
    ran = small.docker("run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=100")
    assert ran.code == 1 and "No space left on device" in ran.err
    assert small.docker("run", "--rm", "busybox", "echo", "ok").ok().line == "ok"


def test_a_log_that_fills_the_disk_does_not_stop_the_container(small: Wherry) -> None:
    script = "i=0; while [ $i -lt 60 ]; do head -c 1000000 /dev/zero | tr '\\0' x; i=$((i+1)); done; exit 5"
    ran = small.docker("run", "--name", "talker", "busybox", "sh", "-c", script)
    assert (ran.code, len(ran.raw)) == (5, 60_000_000)
    small.docker("rm", "talker").ok()
    assert small.docker("run", "--rm", "busybox", "echo", "ok").ok().line == "ok"


def shim_of(daemon: Wherry, name: str) -> int:
    pid = int(daemon.docker("inspect", "-f", "{{.State.Pid}}", name).ok().line)
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def ended(daemon: Wherry, name: str, timeout_s: float = 10.0) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        found = (
            daemon.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", name)
            .ok()
            .line
        )
        if found.startswith("exited") or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_a_container_ends_with_its_shim(other: Other, name: str) -> None:
    daemon = other()
    daemon.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    pid = int(daemon.docker("inspect", "-f", "{{.State.Pid}}", name).ok().line)
    os.kill(shim_of(daemon, name), signal.SIGKILL)
    assert ended(daemon, name).startswith("exited ")
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
    daemon.docker("start", name).ok()


def test_containers_outlive_the_launcher(other: Other, name: str) -> None:
    daemon = other()
    daemon.docker("run", "-d", "--name", name, "busybox", "sh", "-c", "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done").ok()  # fmt: skip
    shim = shim_of(daemon, name)
    with open(f"/proc/{shim}/stat") as file:
        launcher = int(file.read().rpartition(")")[2].split()[1])
    os.kill(launcher, signal.SIGKILL)
    assert daemon.docker("exec", name, "echo", "ok").ok().line == "ok"
    assert daemon.docker("run", "--rm", "busybox", "echo", "new").ok().line == "new"
    daemon.docker("stop", name).ok()
    assert ended(daemon, name).startswith("exited 6")


def test_daemon_and_launcher_die_together(other: Other, name: str) -> None:
    daemon = other()
    daemon.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    shim = shim_of(daemon, name)
    with open(f"/proc/{shim}/stat") as file:
        launcher = int(file.read().rpartition(")")[2].split()[1])
    os.kill(launcher, signal.SIGKILL)
    daemon.restart()
    assert daemon.docker("inspect", "-f", "{{.State.Status}}", name).ok().line == "running"
    assert daemon.docker("exec", name, "echo", "ok").ok().line == "ok"
    daemon.docker("rm", "-f", name).ok()


def test_a_bridge_that_somebody_deleted_comes_back(other: Other, name: str) -> None:
    daemon = other()
    daemon.docker("run", "--rm", "busybox", "true").ok()
    subprocess.run(["ip", "link", "del", daemon.bridge], check=True)
    assert "eth0" in daemon.docker("run", "--rm", "busybox", "ls", "/sys/class/net").ok().out


def test_fifty_runs_leave_nothing(other: Other, name: str) -> None:
    daemon = other()

    def counts() -> dict[str, int]:
        daemon.docker("run", "--rm", "busybox", "true").ok()
        time.sleep(0.3)  # for what is given back, and made ready again, behind the answer
        fds = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in daemon.processes())
        return {
            "processes": len(daemon.processes()),
            "descriptors": fds,
            "cgroups": sum(daemon.name in folder for folder, _, _ in os.walk("/sys/fs/cgroup")),
            "ports": len(os.listdir(f"/sys/class/net/{daemon.bridge}/brif")),
            "files": len(files(daemon)),
            "run": sum(len(names) for _, _, names in os.walk(daemon.exec_root)),
        }

    before = counts()
    for n in range(50):
        assert daemon.docker("run", "--rm", "busybox", "echo", str(n)).ok().line == str(n)
    after = counts()
    grown = {key: (before[key], after[key]) for key in before if after[key] > before[key]}
    assert not grown, grown
