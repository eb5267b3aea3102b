"""The runtime on a machine that has what development machines lack: cgroup v2, every capability, AppArmor.

Run inside such a machine, as root: `python -m pytest tests/vm`. The tests are those of the library half, and a few of
the stand-alone command's.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from tests.oci.conftest import Bundle, bundle, image, make_bundle, no_cgroup_left, subreaper
from tests.oci.test_api import *  # noqa: F403 - every test of it, and its fixtures
from tests.oci.test_linux import (
    test_limits,
    test_the_memory_limit_holds,
    test_the_pids_limit_holds,
    test_the_view_of_the_own_cgroup,
    test_user_namespace,
)
from wherry.runtime.cgroups.driver import is_unified

__all__ = [
    "bundle",
    "image",
    "make_bundle",
    "no_cgroup_left",
    "subreaper",
    "test_limits",
    "test_the_memory_limit_holds",
    "test_the_pids_limit_holds",
    "test_the_view_of_the_own_cgroup",
    "test_user_namespace",
]


@pytest.fixture(scope="session", autouse=True)
def only_with_cgroup_v2() -> None:
    if not is_unified():
        pytest.skip("this machine has cgroup v1: tests/oci covers it")


def test_an_rlimit_is_raised(bundle: Bundle) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}]
    assert bundle.output("sh", "-c", "ulimit -n") == f"{hard + 1}\n"


def test_a_lower_oom_score(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = -500
    assert bundle.output("cat", "/proc/self/oom_score_adj") == "-500\n"


def test_swap_and_unified_settings(bundle: Bundle) -> None:
    bundle.linux["resources"]["memory"] = {"limit": 64 << 20, "swap": 96 << 20}
    bundle.linux["resources"]["unified"] = {"memory.high": str(48 << 20)}
    pid = bundle.start("sleep", "1000")
    place = Path("/sys/fs/cgroup" + bundle.linux["cgroupsPath"])
    assert (place / "memory.swap.max").read_text().strip() == str(32 << 20)
    assert (place / "memory.high").read_text().strip() == str(48 << 20)
    assert str(pid) in (place / "cgroup.procs").read_text().split()
    bundle.end(pid)


def test_kill_all_and_pause(bundle: Bundle) -> None:
    namespaces = [each for each in bundle.linux["namespaces"] if each["type"] != "pid"]
    bundle.linux["namespaces"] = namespaces
    pid = bundle.start("sh", "-c", "sleep 1000 & sleep 1000 & wait")
    bundle.call("pause", bundle.id)
    assert bundle.shown()["status"] == "paused"
    bundle.call("resume", bundle.id)
    assert len(json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout)) == 3
    bundle.call("kill", "--all", bundle.id, "KILL")
    os.waitpid(pid, 0)
    bundle.call("delete", bundle.id)


def test_apparmor_profile(bundle: Bundle) -> None:
    if not Path("/sys/kernel/security/apparmor").exists():
        pytest.skip("no AppArmor here")
    bundle.process["apparmorProfile"] = "unconfined"
    assert bundle.output("cat", "/proc/self/attr/apparmor/current").split()[0] == "unconfined"
    bundle.process["apparmorProfile"] = "no-such-profile"
    assert "no-such-profile" in bundle.refused()
