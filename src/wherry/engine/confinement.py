"""What holds a container in: capabilities, hidden paths, devices, kernel settings and the system call filter.

Docker's defaults and Docker's rules, as data and plain functions; nothing here reads or changes the
machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from msgspec import field

from wherry.engine import seccomp_profile
from wherry.engine.seccomp_profile import Argument, Rule
from wherry.errors import InvalidParameter
from wherry.model.wire import Wire, decode

Spec = dict[str, Any]
"""A runtime-spec object."""

# Capabilities

CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE"),
    *("CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE"),
    *("CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT"),
    *("CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE"),
    *("CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN"),
    *("CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF"),
    "CAP_CHECKPOINT_RESTORE",
)
"""By their number in the kernel."""

DEFAULT_CAPABILITIES = frozenset(
    (
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW"),
        *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"),
        *("CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
    )
)

_ALL = "ALL"


def capabilities_for(
    cap_add: Iterable[str], cap_drop: Iterable[str], *, privileged: bool, bounding: Collection[str]
) -> list[str]:
    """What a container's processes may have at most, by number. `bounding` is what the engine itself has.

    Names come with or without CAP_, in any case, and ALL stands for every one. A default that the engine
    lacks is left out; one that was asked for by name and is lacking is an error, as a name nobody knows is.
    """
    added = {_normalize(name, "CapAdd", bounding) for name in cap_add}
    dropped = {_normalize(name, "CapDrop", bounding) for name in cap_drop}
    if privileged:
        chosen = set(CAPABILITIES)
    elif _ALL in added:
        chosen = set(CAPABILITIES) - dropped
    elif _ALL in dropped:
        chosen = added
    else:
        chosen = (DEFAULT_CAPABILITIES - dropped) | added
    return [name for name in CAPABILITIES if name in chosen and name in bounding]


def _normalize(name: str, option: str, bounding: Collection[str]) -> str:
    # Docker's texts.
    upper = name.upper()
    if upper == _ALL:
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in CAPABILITIES:
        raise InvalidParameter(f'invalid {option}: unknown capability: "{full}"')
    if full not in bounding:
        raise InvalidParameter(
            f"invalid {option}: capability not supported by your kernel or not available in the current "
            f'environment: "{full}"'
        )
    return full


# Paths of the kernel's file systems

MASKED_PATHS = (
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
"""Hidden, in the order in which Docker shows them. What a kernel does not have is skipped."""

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def masked_paths(cpus: int, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Every path that is hidden on a machine with `cpus` processors.

    Interrupt and throttling counts let one container watch another's work (GHSA-6fw5-f8r9-fgfm).
    """
    counters = (f"/sys/devices/system/cpu/cpu{n}/thermal_throttle" for n in range(cpus))
    return [*MASKED_PATHS, *(path for path in counters if exists(path))]


def default_mounts(*, shm_size: int, privileged: bool) -> list[Spec]:
    """The mounts every container has, in the order they are made."""
    kernel_access = "rw" if privileged else "ro"
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            *("/dev/pts", "devpts", "devpts", "nosuid", "noexec"),
            *("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", kernel_access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", kernel_access, "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size}"),
    ]


def _mount(destination: str, kind: str, source: str, *options: str) -> Spec:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


# Devices


def _device_rule(kind: str, major: int | None, minor: int | None, access: str) -> Spec:
    rule: Spec = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


DEVICE_RULES: tuple[Spec, ...] = (
    {"allow": False, "access": "rwm"},
    _device_rule(
        "c", None, None, "m"
    ),  # nodes may be made of anything, and are of no use unless listed below
    _device_rule("b", None, None, "m"),
    _device_rule("c", 1, 3, "rwm"),  # null
    _device_rule("c", 1, 5, "rwm"),  # zero
    _device_rule("c", 1, 7, "rwm"),  # full
    _device_rule("c", 1, 8, "rwm"),  # random
    _device_rule("c", 1, 9, "rwm"),  # urandom
    _device_rule("c", 5, 0, "rwm"),  # tty
    _device_rule("c", 5, 1, "rwm"),  # console
    _device_rule("c", 5, 2, "rwm"),  # ptmx
    _device_rule("c", 136, None, "rwm"),  # the terminals of pts
)
"""The device cgroup's list.

Everything is denied but these. Unlike runc we do not let /dev/net/tun through.
"""

INIT_TARGET = "/sbin/docker-init"
"""Where `--init` puts its program in the container."""

RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in (
        *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC"),
        *("RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
    )
)

# Kernel settings

DEFAULT_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Set in a network namespace of the container's own.

Its ports are its own, so nobody needs a capability for them.
"""

_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_SYSCTL_NAME = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_:*@-]+)*")


def check_sysctls(given: Mapping[str, str], *, host_network: bool, host_ipc: bool) -> None:
    """Refuse each setting that would reach beyond the container's own namespaces."""
    for name in given:
        dotted = name.replace("/", ".")
        # Docker's texts, which are runc's.
        if dotted == "kernel.hostname":
            raise InvalidParameter(
                f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field'
            )
        if not _SYSCTL_NAME.fullmatch(name):
            raise InvalidParameter(f'sysctl "{name}" is not in a separate kernel namespace')
        if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            if host_ipc:
                raise InvalidParameter(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif dotted.startswith("net."):
            if host_network:
                raise InvalidParameter(f'sysctl "{name}" not allowed in host network namespace')
        else:
            raise InvalidParameter(f'sysctl "{name}" is not in a separate kernel namespace')


# The system call filter

_MACHINES = {  # the kernel's word for a machine: the profile's word, and libseccomp's
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "i386": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv6l": ("arm", "SCMP_ARCH_ARM"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "mips64el": ("mipsel64", "SCMP_ARCH_MIPSEL64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
}

_ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in ("KILL", "KILL_PROCESS", "KILL_THREAD", "ERRNO", "TRAP", "ALLOW", "TRACE", "LOG", "NOTIFY")
)
_COMPARISONS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))


def seccomp_for(profile: str | None, capabilities: Collection[str], *, arch: str, kernel: str) -> Spec | None:
    """The OCI `linux.seccomp` of a container with these capabilities; None where nothing is filtered.

    `profile` is None or "builtin" for our own, "unconfined", or a profile in Docker's JSON. `arch` and
    `kernel` are the machine's, as uname says them.
    """
    if profile == "unconfined":
        return None
    machine, own = _MACHINES.get(arch, (arch, ""))
    conditions = _Conditions(frozenset(capabilities), machine, _kernel_version(kernel))
    if profile is None or profile == "builtin":
        resolved: Spec = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1}
        sub = seccomp_profile.ARCHITECTURES.get(own)
        if sub is not None:
            resolved["architectures"] = [own, *sub]
        resolved["syscalls"] = [_syscall(rule) for rule in seccomp_profile.RULES if conditions.hold(rule)]
        return resolved
    return _resolve_custom(profile, conditions, own)


class _Conditions:
    """What a rule's conditions are held against."""

    def __init__(self, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> None:
        self._capabilities = capabilities
        self._machine = machine
        self._kernel = kernel

    def hold(self, rule: Rule) -> bool:
        return (
            self._capabilities.issuperset(rule.caps)
            and self._capabilities.isdisjoint(rule.without_caps)
            and (not rule.arches or self._machine in rule.arches)
            and self._machine not in rule.without_arches
            and self._kernel >= rule.kernel
        )


def _syscall(rule: Rule) -> Spec:
    call: Spec = {"names": list(rule.names), "action": rule.action}
    if rule.errno is not None:
        call["errnoRet"] = rule.errno
    if rule.args:
        call["args"] = [_argument(argument) for argument in rule.args]
    return call


def _argument(argument: Argument) -> Spec:
    written: Spec = {"index": argument.index, "value": argument.value, "op": f"SCMP_CMP_{argument.op}"}
    if argument.value_two:
        written["valueTwo"] = argument.value_two
    return written


class _CustomArgument(Wire):
    index: int = 0
    value: int = 0
    value_two: int = 0
    op: str = ""


class _CustomFilter(Wire):
    caps: list[str] = []
    arches: list[str] = []
    min_kernel: str = ""


class _CustomRule(Wire):
    name: str = ""
    names: list[str] = []
    action: str = ""
    errno_ret: int | None = None
    args: list[_CustomArgument] = []
    includes: _CustomFilter = field(default_factory=_CustomFilter)
    excludes: _CustomFilter = field(default_factory=_CustomFilter)


class _CustomArchitecture(Wire):
    architecture: str = ""
    sub_architectures: list[str] = []


class _CustomProfile(Wire):
    """Docker's seccomp profile. Its keys are camelCase; they are read without regard to case."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] = []
    arch_map: list[_CustomArchitecture] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[_CustomRule] = []


def _resolve_custom(text: str, conditions: _Conditions, own: str) -> Spec | None:
    try:
        profile = decode(text.encode(), _CustomProfile)
    except InvalidParameter as exc:
        raise InvalidParameter(f"Decoding seccomp profile failed: {exc}") from exc  # Docker's, to the colon
    if not profile.default_action and not profile.syscalls:
        return None  # as runc has it: an empty profile filters nothing
    _check_action(profile.default_action)
    resolved: Spec = {"defaultAction": profile.default_action}
    if profile.default_errno_ret is not None:
        resolved["defaultErrnoRet"] = profile.default_errno_ret
    architectures = _custom_architectures(profile, own)
    if architectures:
        resolved["architectures"] = architectures
    if profile.flags:
        resolved["flags"] = profile.flags
    if profile.listener_path:
        resolved["listenerPath"] = profile.listener_path
        resolved["listenerMetadata"] = profile.listener_metadata
    resolved["syscalls"] = [
        _syscall(rule) for rule in (_custom_rule(r) for r in profile.syscalls) if conditions.hold(rule)
    ]
    return resolved


def _custom_architectures(profile: _CustomProfile, own: str) -> list[str]:
    if profile.architectures and profile.arch_map:  # Docker's text
        raise InvalidParameter(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    for entry in profile.arch_map:
        if entry.architecture == own:
            return [own, *entry.sub_architectures]
    return profile.architectures


def _custom_rule(rule: _CustomRule) -> Rule:
    if rule.name and rule.names:  # Docker's text
        raise InvalidParameter(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    _check_action(rule.action)
    kernel = (0, 0)
    if rule.includes.min_kernel:
        kernel = _min_kernel(rule.includes.min_kernel)
    return Rule(
        names=tuple(rule.names) or (rule.name,),
        action=rule.action,
        errno=rule.errno_ret,
        args=tuple(_custom_argument(argument) for argument in rule.args),
        caps=tuple(rule.includes.caps),
        arches=tuple(rule.includes.arches),
        without_caps=tuple(rule.excludes.caps),
        without_arches=tuple(rule.excludes.arches),
        kernel=kernel,
    )


def _custom_argument(argument: _CustomArgument) -> Argument:
    if argument.op not in _COMPARISONS:
        raise InvalidParameter(f"string {argument.op} is not a valid operator for seccomp")  # runc's text
    if not 0 <= argument.index <= 5:
        raise InvalidParameter(f"seccomp argument index {argument.index}: a system call's are 0-5")
    return Argument(argument.index, argument.op.removeprefix("SCMP_CMP_"), argument.value, argument.value_two)


def _check_action(action: str) -> None:
    if action not in _ACTIONS:
        raise InvalidParameter(f"string {action} is not a valid action for seccomp")  # runc's text


def _min_kernel(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", text):  # Docker's text
        raise InvalidParameter(
            f'Decoding seccomp profile failed: invalid kernel version: "{text}", expected "<kernel>.<major>"'
        )
    return _kernel_version(text)


def _kernel_version(release: str) -> tuple[int, int]:
    """6.18 of `6.18.0-1-amd64`."""
    numbers = re.match(r"([0-9]+)\.([0-9]+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
