"""Docker's default confinement, value by value.

The published profile lies beside this file for comparison.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from wherry.engine import confinement
from wherry.engine.confinement import capabilities_for, check_sysctls, default_mounts, seccomp_for
from wherry.errors import InvalidParameter

ALL = frozenset(confinement.CAPABILITIES)
HERE = os.path.dirname(__file__)

with open(os.path.join(HERE, "data", "seccomp-default.json"), encoding="utf-8") as file:
    PUBLISHED = file.read()


def mask(names: list[str]) -> int:
    return sum(1 << confinement.CAPABILITIES.index(name) for name in names)


def test_the_default_capabilities_are_dockers_fourteen() -> None:
    assert mask(capabilities_for([], [], privileged=False, bounding=ALL)) == 0xA80425FB


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (["NET_ADMIN"], ["ALL"], 1 << 12),
        (["cap_net_admin"], ["all"], 1 << 12),
        ([], ["ALL"], 0),
        (["ALL"], [], (1 << 41) - 1),
        (["ALL"], ["NET_RAW"], (1 << 41) - 1 - (1 << 13)),
        (["ALL"], ["ALL"], (1 << 41) - 1),  # as Docker: added last
        ([], ["CAP_CHOWN", "kill"], 0xA80425FB - 1 - (1 << 5)),
        (["SYS_PTRACE", "SYS_PTRACE"], [], 0xA80425FB | 1 << 19),
        (["CHOWN"], ["CHOWN"], 0xA80425FB),  # as Docker: added last
    ],
)
def test_capabilities_are_added_and_dropped_as_docker_does(
    add: list[str], drop: list[str], expected: int
) -> None:
    assert mask(capabilities_for(add, drop, privileged=False, bounding=ALL)) == expected


def test_nothing_is_given_that_the_engine_lacks() -> None:
    without = ALL - {"CAP_SYS_RESOURCE", "CAP_CHOWN"}
    assert set(capabilities_for([], [], privileged=True, bounding=without)) == without
    assert set(capabilities_for(["ALL"], [], privileged=False, bounding=without)) == without
    assert "CAP_CHOWN" not in capabilities_for([], [], privileged=False, bounding=without)


@pytest.mark.parametrize(
    ("add", "drop", "message"),
    [
        (["X"], [], 'invalid CapAdd: unknown capability: "CAP_X"'),
        ([""], [], 'invalid CapAdd: unknown capability: "CAP_"'),
        ([], ["cap_foo"], 'invalid CapDrop: unknown capability: "CAP_FOO"'),
        (
            ["SYS_RESOURCE"],
            [],
            "invalid CapAdd: capability not supported by your kernel or not available in the current environment: "
            '"CAP_SYS_RESOURCE"',
        ),
    ],
)
def test_a_bad_capability_is_refused_in_dockers_words(add: list[str], drop: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        capabilities_for(add, drop, privileged=False, bounding=ALL - {"CAP_SYS_RESOURCE"})
    assert str(caught.value) == message


def test_default_mounts_are_dockers() -> None:
    mounts = {m["destination"]: m for m in default_mounts(shm_size=67108864, privileged=False)}
    assert list(mounts) == ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]
    assert mounts["/dev/shm"]["options"] == ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]
    assert "ro" in mounts["/sys"]["options"]
    assert "ro" in mounts["/sys/fs/cgroup"]["options"]


def test_privileged_containers_may_write_sysfs_and_cgroups() -> None:
    for mount in default_mounts(shm_size=1, privileged=True):
        assert "ro" not in mount["options"]


def test_devices_are_denied_first_and_the_tunnel_is_not_among_the_allowed() -> None:
    assert confinement.DEVICE_RULES[0] == {"allow": False, "access": "rwm"}
    assert not [rule for rule in confinement.DEVICE_RULES if rule.get("major") == 10]


def test_throttle_counters_that_exist_are_masked() -> None:
    paths = confinement.masked_paths(3, lambda path: "cpu1" in path)
    assert paths == [*confinement.MASKED_PATHS, "/sys/devices/system/cpu/cpu1/thermal_throttle"]
    assert {"/proc/interrupts", "/sys/devices/virtual/powercap"} < set(paths)


@pytest.mark.parametrize(
    "name", ["net.ipv4.ip_forward", "net/ipv4/ip_forward", "kernel.shmmax", "fs.mqueue.msg_max"]
)
def test_a_setting_of_the_containers_own_namespaces_is_allowed(name: str) -> None:
    check_sysctls({name: "1"}, host_network=False, host_ipc=False)


@pytest.mark.parametrize(
    ("name", "host_network", "host_ipc", "message"),
    [
        (
            "net.core.somaxconn",
            True,
            False,
            'sysctl "net.core.somaxconn" not allowed in host network namespace',
        ),
        ("kernel.msgmax", False, True, 'sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace'),
        ("fs.mqueue.x", False, True, 'sysctl "fs.mqueue.x" is not allowed in the hosts ipc namespace'),
        ("vm.swappiness", False, False, 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        (
            "kernel.core_pattern",
            False,
            False,
            'sysctl "kernel.core_pattern" is not in a separate kernel namespace',
        ),
        ("net/../kernel/x", False, False, 'sysctl "net/../kernel/x" is not in a separate kernel namespace'),
        ("net./x", False, False, 'sysctl "net./x" is not in a separate kernel namespace'),
        ("", False, False, 'sysctl "" is not in a separate kernel namespace'),
        (
            "kernel.hostname",
            False,
            False,
            'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field',
        ),
    ],
)
def test_a_setting_of_the_host_is_refused(
    name: str, host_network: bool, host_ipc: bool, message: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_sysctls({name: "1"}, host_network=host_network, host_ipc=host_ipc)
    assert str(caught.value) == message


DEFAULTS = capabilities_for([], [], privileged=False, bounding=ALL)


def meaning(resolved: dict[str, Any] | None) -> Any:
    """What a resolved profile does, without regard to how its rules are grouped."""
    assert resolved is not None
    rules: set[Any] = set()
    for call in resolved["syscalls"]:
        args = tuple(
            sorted((a["index"], a["op"], a["value"], a.get("valueTwo", 0)) for a in call.get("args", []))
        )
        rules |= {(name, call["action"], call.get("errnoRet"), args) for name in call["names"]}
    return (
        resolved["defaultAction"],
        resolved.get("defaultErrnoRet"),
        tuple(resolved.get("architectures", [])),
        rules,
    )


@pytest.mark.parametrize(
    "arch", ["x86_64", "aarch64", "armv7l", "i686", "ppc64le", "s390x", "riscv64", "mips64"]
)
@pytest.mark.parametrize("kernel", ["6.18.0-1-amd64", "4.8.0", "4.7.99", "3.10.0-957.el7"])
@pytest.mark.parametrize(
    "capabilities",
    [
        [],
        DEFAULTS,
        list(ALL),
        *([*DEFAULTS, name] for name in confinement.CAPABILITIES if name not in DEFAULTS),
    ],
    ids=lambda names: "+".join(sorted(set(names) - set(DEFAULTS))) or str(len(names)),
)
def test_the_built_in_profile_equals_the_published_one(
    capabilities: list[str], kernel: str, arch: str
) -> None:
    ours = seccomp_for(None, capabilities, arch=arch, kernel=kernel)
    published = seccomp_for(PUBLISHED, capabilities, arch=arch, kernel=kernel)
    assert meaning(ours) == meaning(published)


def test_the_custom_reader_itself_agrees_with_the_published_document() -> None:
    """Counted in the document by hand: so that both sides of the comparison above cannot be wrong alike."""
    resolved = seccomp_for(PUBLISHED, DEFAULTS, arch="x86_64", kernel="6.18.0")
    assert resolved is not None
    document = json.loads(PUBLISHED)
    unconditional = [c for c in document["syscalls"] if not c.get("includes") and not c.get("excludes")]
    names = {n for c in resolved["syscalls"] for n in c["names"]}
    assert {n for c in unconditional for n in c["names"]} <= names
    assert {"chroot", "ptrace", "arch_prctl", "modify_ldt", "clone3"} <= names
    assert not {"mount", "reboot", "bpf", "swapcontext", "io_uring_setup", "userfaultfd", "keyctl"} & names
    assert resolved["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]


def test_no_call_is_listed_twice_in_the_big_group() -> None:
    resolved = seccomp_for(None, [], arch="x86_64", kernel="6.18")
    assert resolved is not None
    names = resolved["syscalls"][0]["names"]
    assert len(names) == len(set(names)) == 361


def test_unconfined_is_no_filter() -> None:
    assert seccomp_for("unconfined", DEFAULTS, arch="x86_64", kernel="6.18") is None
    assert seccomp_for("{}", DEFAULTS, arch="x86_64", kernel="6.18") is None


def test_a_custom_profile_is_read_without_regard_to_case_and_filtered() -> None:
    profile = {
        "DefaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": None},
            {"names": ["a"], "action": "SCMP_ACT_LOG", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["b"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "99.1"}},
            {"names": ["c"], "action": "SCMP_ACT_LOG", "excludes": {"arches": ["amd64"]}},
            {"names": ["d"], "action": "SCMP_ACT_LOG", "excludes": {"caps": ["CAP_CHOWN"]}},
        ],
    }
    assert seccomp_for(json.dumps(profile), DEFAULTS, arch="x86_64", kernel="6.18") == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Decoding seccomp profile failed: "),
        ("[]", "Decoding seccomp profile failed: "),
        ('{"defaultAction": 3}', "Decoding seccomp profile failed: "),
        ('{"defaultAction": "SCMP_ACT_FOO"}', "string SCMP_ACT_FOO is not a valid action for seccomp"),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{}]}',
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'",
        ),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_LOG"}]}',
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
        ),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":'
            '[{"name":"a","action":"SCMP_ACT_LOG","includes":{"minKernel":"x"}}]}',
            'Decoding seccomp profile failed: invalid kernel version: "x", expected "<kernel>.<major>"',
        ),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_LOG","args":[{"op":"LT"}]}]}',
            "string LT is not a valid operator for seccomp",
        ),
    ],
)
def test_a_bad_profile_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        seccomp_for(text, DEFAULTS, arch="x86_64", kernel="6.18")
    assert str(caught.value).startswith(message)
