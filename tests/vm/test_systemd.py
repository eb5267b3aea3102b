"""--systemd-cgroup on a machine that systemd manages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.oci.conftest import Bundle, bundle, image, no_cgroup_left, subreaper
from wherry.runtime.cgroups.driver import is_unified
from wherry.runtime.cgroups.systemd import is_running

__all__ = ["bundle", "image", "no_cgroup_left", "subreaper"]


@pytest.fixture
def scope(bundle: Bundle) -> Bundle:
    if not is_running():
        pytest.skip("systemd does not manage this machine")
    bundle.linux["cgroupsPath"] = f"machine.slice:wht:{bundle.id}"
    bundle.options = ("--systemd-cgroup",)
    return bundle


def unit(bundle: Bundle) -> str:
    return f"wht-{bundle.id}.scope"


def shown(name: str, key: str) -> str:
    words = ["systemctl", "show", "--value", "--property", key, name]
    return subprocess.run(words, text=True, capture_output=True, check=True).stdout.strip()


def place(bundle: Bundle) -> Path:
    top = Path("/sys/fs/cgroup") if is_unified() else Path("/sys/fs/cgroup/memory")
    return top / "machine.slice" / unit(bundle)


def test_a_scope_with_its_limits(scope: Bundle) -> None:
    scope.linux["resources"] |= {
        "memory": {"limit": 64 << 20, "swap": 96 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000},
        "pids": {"limit": 17},
    }
    pid = scope.start("sleep", "1000")
    assert shown(unit(scope), "ActiveState") == "active"
    assert shown(unit(scope), "Delegate") == "yes"
    assert shown(unit(scope), "Slice") == "machine.slice"
    assert shown(unit(scope), "MemoryMax") == str(64 << 20)
    assert shown(unit(scope), "TasksMax") == "17"
    assert str(pid) in (place(scope) / "cgroup.procs").read_text().split()
    if is_unified():
        assert (place(scope) / "memory.swap.max").read_text().strip() == str(32 << 20)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    if is_unified():
        assert (place(scope) / "memory.max").read_text().strip() == str(64 << 20)
        assert (place(scope) / "cpu.max").read_text().split() == ["50000", "100000"]
    scope.call("update", "--memory", "32m", scope.id)
    assert shown(unit(scope), "MemoryMax") == str(32 << 20)
    assert scope.exec("sh", "-c", "exit 5", code=5)
    scope.end(pid)
    scope.call("delete", scope.id)
    assert shown(unit(scope), "ActiveState") == "inactive"
    assert not place(scope).exists()


def test_devices_are_limited_in_a_scope(scope: Bundle) -> None:
    scope.linux["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    assert "Operation not permitted" in scope.run("sh", "-c", ": < /dev/fuse", code=None).stderr


def test_what_fails_leaves_no_scope(scope: Bundle) -> None:
    assert "executable file not found" in scope.run("nosuch", code=1).stderr
    assert shown(unit(scope), "ActiveState") == "inactive"


def test_a_paused_one_is_deleted(scope: Bundle) -> None:
    pid = scope.start("sleep", "1000")
    scope.call("pause", scope.id)
    scope.call("delete", "--force", scope.id)
    os.waitpid(pid, 0)
    assert shown(unit(scope), "ActiveState") == "inactive"
