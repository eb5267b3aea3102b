"""The `linux` object: namespaces, ids, sysctls, seccomp, cgroups; and hooks."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from tests.oci.conftest import Bundle
from wherry.runtime.cgroups.driver import is_unified


def namespace_path(kind: str) -> dict[str, str]:
    return {"type": kind, "path": f"/proc/self/ns/{kind}"}


def set_namespace(bundle: Bundle, kind: str, entry: dict[str, str] | None) -> None:
    kept = [each for each in bundle.linux["namespaces"] if each["type"] != kind]
    bundle.linux["namespaces"] = [*kept, entry] if entry else kept


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "mount"])
def test_new_namespaces(bundle: Bundle, kind: str) -> None:
    name = {"network": "net", "mount": "mnt"}.get(kind, kind)
    assert bundle.output("readlink", f"/proc/self/ns/{name}").strip() != os.readlink(f"/proc/self/ns/{name}")


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "cgroup"])
def test_shared_namespaces(bundle: Bundle, kind: str) -> None:
    set_namespace(bundle, kind, None)
    if kind in ("network", "cgroup"):
        bundle.config["mounts"] = [each for each in bundle.config["mounts"] if "cgroup" not in each["type"]]
    name = {"network": "net"}.get(kind, kind)
    assert bundle.output("readlink", f"/proc/self/ns/{name}").strip() == os.readlink(f"/proc/self/ns/{name}")


@pytest.mark.parametrize(
    ("kind", "name"), [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")]
)
def test_namespaces_of_another_container(bundle: Bundle, kind: str, name: str) -> None:
    pid = bundle.start("sleep", "1000")
    first, bundle.id = bundle.id, bundle.id + "-b"
    bundle.linux["cgroupsPath"] += "-b"
    set_namespace(bundle, kind, {"type": kind, "path": f"/proc/{pid}/ns/{name}"})
    if kind == "uts":
        del bundle.config["hostname"]
    try:
        seen = bundle.output("readlink", f"/proc/self/ns/{name}").strip()
        assert seen == os.readlink(f"/proc/{pid}/ns/{name}")
    finally:
        bundle.end(pid)
        bundle.call("delete", "--force", first)


def test_pid_namespace(bundle: Bundle) -> None:
    assert bundle.output("sh", "-c", "echo $$; ls -d /proc/[0-9]* | wc -l").split()[0] == "1"


def test_host_and_domain_name(bundle: Bundle) -> None:
    bundle.config["hostname"] = "vessel"
    bundle.config["domainname"] = "harbour"
    assert (
        bundle.output("cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname")
        == "vessel\nharbour\n"
    )


def test_loopback_is_up(bundle: Bundle) -> None:
    assert "LOOPBACK,UP" in bundle.output("ip", "link", "show", "lo")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "network", "path": "/proc/self/ns/ipc"}, "is not a network namespace"),
        ({"type": "network", "path": "/etc/passwd"}, "is not a namespace"),
        ({"type": "network", "path": "/no/such"}, "no such file or directory"),
        ({"type": "network", "path": "relative"}, "is not absolute"),
        ({"type": "warp"}, "does not exist"),
        ({"type": "ipc"}, "duplicated namespace"),
    ],
    ids=json.dumps,
)
def test_wrong_namespaces(bundle: Bundle, entry: dict[str, str], message: str) -> None:
    bundle.linux["namespaces"].append(entry) if entry["type"] in ("ipc", "warp") else set_namespace(
        bundle, entry["type"], entry
    )
    assert message in bundle.refused()


def test_hostname_needs_its_namespace(bundle: Bundle) -> None:
    set_namespace(bundle, "uts", None)
    assert "unable to set hostname without a private UTS namespace" in bundle.refused()


def user_namespace(bundle: Bundle) -> None:
    """Ids 0-65535 of the container are 100000-165535 of the host's."""
    set_namespace(bundle, "user", {"type": "user"})
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapping
    for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    # The way to the root must be open to a stranger.
    for path in (bundle.directory, *bundle.directory.parents):
        if path != Path("/") and path.stat().st_uid == 0 and path.is_relative_to("/tmp/pytest-of-root"):
            path.chmod(0o755)


def test_user_namespace(bundle: Bundle) -> None:
    user_namespace(bundle)
    pid = bundle.start("sleep", "1000")
    assert os.stat(f"/proc/{pid}").st_uid == 100000
    script = "id -u; cat /proc/self/uid_map; echo x > /made; echo x > /dev/null; ls /dev | wc -l; hostname"
    out = bundle.exec("sh", "-c", script).stdout.split()
    assert out[:4] == ["0", "0", "100000", "65536"]
    assert out[-1] == "wherry"
    assert (bundle.rootfs / "made").stat().st_uid == 100000
    bundle.end(pid)


def test_user_namespace_with_a_user(bundle: Bundle) -> None:
    user_namespace(bundle)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert bundle.output("id", "-u") == "1000\n"


def test_user_namespace_needs_mappings(bundle: Bundle) -> None:
    set_namespace(bundle, "user", {"type": "user"})
    assert "no user ID and group ID mappings" in bundle.refused()


def test_sysctl(bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
    out = bundle.output(
        "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/shm_rmid_forced"
    )
    assert out == "80\n1\n"


@pytest.mark.parametrize(
    "key",
    [
        "kernel.core_pattern",
        "vm.overcommit_memory",
        "kernel.../../x",
        "fs.file-max",
        "",
        "net/../kernel/panic",
    ],
)
def test_sysctls_of_the_host_are_refused(bundle: Bundle, key: str) -> None:
    bundle.linux["sysctl"] = {key: "1"}
    assert "sysctl" in bundle.refused()


@pytest.mark.parametrize(("kind", "key"), [("network", "net.ipv4.ip_forward"), ("ipc", "kernel.shmmax")])
def test_sysctls_need_the_namespace(bundle: Bundle, kind: str, key: str) -> None:
    set_namespace(bundle, kind, None)
    bundle.linux["sysctl"] = {key: "1"}
    assert "sysctl" in bundle.refused()


@pytest.mark.parametrize("nnp", [False, True])
def test_seccomp(bundle: Bundle, nnp: bool) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the numbers are x86_64's")
    bundle.process["noNewPrivileges"] = nnp
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}],
    }
    done = bundle.run("sh", "-c", "grep Seccomp: /proc/self/status; mkdir /x", code=1)
    assert done.stdout.split() == ["Seccomp:", "2"]
    assert "Read-only file system" in done.stderr


def test_seccomp_holds_for_exec(bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    pid = bundle.start("sleep", "1000")
    assert "Operation not permitted" in bundle.exec("mkdir", "/x", code=1).stderr
    bundle.end(pid)


def test_seccomp_that_cannot_be_compiled(bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_WHATEVER"}
    assert "invalid seccomp action" in bundle.refused()


def test_our_own_executable_cannot_be_written_through(bundle: Bundle) -> None:
    """CVE-2019-5736: what a container finds at /proc/PID/exe, before execve, is on a read-only mount."""
    pid = bundle.create("sleep", "1000")
    descriptor = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
    try:
        assert os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
        with pytest.raises(OSError, match=r"Read-only|Text file busy"):
            os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
    finally:
        os.close(descriptor)
    bundle.end(pid)


def test_we_cannot_be_traced_before_execve(bundle: Bundle) -> None:
    pid = bundle.create("sleep", "1000")
    # Not dumpable: /proc/PID belongs to root whoever the process is, and same-user access is refused.
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert os.stat(f"/proc/{pid}/fd").st_uid == 0
    bundle.end(pid)


def cgroup_file(bundle: Bundle, v1: str, v2: str) -> str:
    if is_unified():
        return Path(f"/sys/fs/cgroup{bundle.linux['cgroupsPath']}/{v2}").read_text().strip()
    return Path(f"/sys/fs/cgroup/{v1.split('.')[0]}{bundle.linux['cgroupsPath']}/{v1}").read_text().strip()


def test_limits(bundle: Bundle) -> None:
    bundle.linux["resources"] |= {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 17},
    }
    pid = bundle.start("sleep", "1000")
    unified = is_unified()
    assert cgroup_file(bundle, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert cgroup_file(bundle, "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert cgroup_file(bundle, "cpu.shares", "cpu.weight") == ("20" if unified else "512")
    assert cgroup_file(bundle, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert cgroup_file(bundle, "cpuset.cpus", "cpuset.cpus") == "0"
    assert cgroup_file(bundle, "pids.max", "pids.max") == "17"
    bundle.call("update", "--memory", "32m", "--pids-limit", "9", bundle.id)
    assert cgroup_file(bundle, "memory.limit_in_bytes", "memory.max") == str(32 << 20)
    assert cgroup_file(bundle, "pids.max", "pids.max") == "9"
    bundle.end(pid)


def test_the_pids_limit_holds(bundle: Bundle) -> None:
    bundle.linux["resources"]["pids"] = {"limit": 5}
    done = bundle.run("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait", code=None)
    assert "fork" in done.stderr


def test_the_memory_limit_holds(bundle: Bundle) -> None:
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    add = {"destination": "/big", "type": "tmpfs", "source": "tmpfs", "options": ["size=100m"]}
    bundle.config["mounts"].append(add)
    assert bundle.run("dd", "if=/dev/zero", "of=/big/x", "bs=1M", "count=64", code=None).returncode == 137


def test_a_limit_that_is_refused(bundle: Bundle) -> None:
    bundle.linux["resources"]["cpu"] = {"cpus": "100000-100001"}
    message = bundle.refused()
    assert "100000-100001" in message


@pytest.mark.parametrize("path", ["/../x", "/", "/a/../../b"])
def test_cgroup_paths_that_leave_the_hierarchy(bundle: Bundle, path: str) -> None:
    bundle.linux["cgroupsPath"] = path
    assert "invalid cgroup path" in bundle.refused()


def test_the_view_of_the_own_cgroup(bundle: Bundle) -> None:
    view = "/sys/fs/cgroup/cgroup.procs" if is_unified() else "/sys/fs/cgroup/pids/tasks"
    out = bundle.output("cat", "/proc/self/cgroup", view)
    assert {line.split(":")[2] for line in out.splitlines() if line.count(":") == 2} == {"/"}
    assert "1" in out.split()


def test_the_view_without_a_cgroup_namespace(bundle: Bundle) -> None:
    if is_unified():
        pytest.skip("cgroup v1: each hierarchy's own directory is bound")
    set_namespace(bundle, "cgroup", None)
    out = bundle.output("sh", "-c", "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/tasks")
    assert f":{bundle.linux['cgroupsPath']}" in out
    assert "1" in out.split()


HOOK = """#!/bin/sh
read -r state
echo "{name} $1 $VALUE $(readlink /proc/self/ns/mnt) $state" >> {log}
"""


def add_hook(bundle: Bundle, name: str, **extra: object) -> Path:
    log = bundle.directory / "hooks.log"
    script = bundle.directory / f"{name}.sh"
    script.write_text(HOOK.format(name=name, log=log))
    script.chmod(0o755)
    entry = {
        "path": str(script),
        "args": ["hook", "argument"],
        "env": ["VALUE=v", "PATH=/bin:/usr/bin"],
        **extra,
    }
    bundle.config.setdefault("hooks", {}).setdefault(name, []).append(entry)
    return log


def test_hooks_run_in_order_with_the_state(bundle: Bundle) -> None:
    names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    for name in names:
        log = add_hook(bundle, name)
    bundle.config["hooks"]["startContainer"] = [
        {"path": "/bin/sh", "args": ["sh", "-c", "echo $(cat) > /started"], "env": ["PATH=/bin"]}
    ]
    pid = bundle.create("sleep", "1000")
    assert not (bundle.rootfs / "started").exists()
    bundle.call("start", bundle.id)
    bundle.end(pid)
    bundle.call("delete", bundle.id)
    lines = [line.split(" ", 4) for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == names
    assert {tuple(line[1:3]) for line in lines} == {("argument", "v")}
    states = [json.loads(line[4]) for line in lines]
    assert [each["status"] for each in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert {each["id"] for each in states} == {bundle.id}
    assert states[0]["pid"] == states[3]["pid"] == pid
    own = os.readlink("/proc/self/ns/mnt")
    assert [line[3] == own for line in lines] == [True, True, False, True, True]
    assert json.loads((bundle.rootfs / "started").read_text())["status"] == "created"


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_failing_hook_stops_the_container(bundle: Bundle, name: str) -> None:
    bundle.config["hooks"] = {
        name: [{"path": "/bin/sh", "args": ["sh", "-c", "echo broken >&2; exit 3"], "env": ["PATH=/bin"]}]
    }
    message = bundle.refused()
    assert f"error running {name} hook #0: exit status 3" in message
    assert "broken" in message


def test_a_hook_that_takes_too_long(bundle: Bundle) -> None:
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]
    }
    assert "hook ran past specified timeout of 1.0s" in bundle.refused()


def test_no_mount_namespace_is_refused(bundle: Bundle) -> None:
    set_namespace(bundle, "mount", None)
    assert "mount namespace" in bundle.refused()


@pytest.mark.parametrize(
    "change",
    [
        {"ociVersion": "2.0.0"},
        {"linux": None},
        {"process": None},
        {"mounts": "x"},
        {"mounts": [{}]},
        {"root": []},
    ],
    ids=json.dumps,
)
def test_broken_configurations(bundle: Bundle, change: dict[str, object]) -> None:
    bundle.process["args"] = ["true"]
    bundle.config.update(change)
    bundle.write()
    message = bundle.call("run", bundle.id, code=1).stderr
    assert "Traceback" not in message
    bundle.assert_nothing_left()


def test_a_configuration_that_is_no_json(bundle: Bundle) -> None:
    for text in ("", "{", "[]", "[" * 100000, '"x"'):
        (bundle.directory / "config.json").write_text(text)
        message = bundle.call("run", bundle.id, code=1).stderr
        assert "Traceback" not in message
        bundle.assert_nothing_left()


def test_a_session_keyring_of_its_own(bundle: Bundle) -> None:
    if not os.path.exists("/proc/keys"):
        pytest.skip("no keyrings here")
    bundle.linux["maskedPaths"] = []
    assert f" _ses.{bundle.id}: " in bundle.output("cat", "/proc/keys")
