"""The config.json that `spec` writes, and what `features` says we can do."""

from __future__ import annotations

from wherry.linux import capabilities
from wherry.runtime import mounts
from wherry.runtime.namespaces import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_SAFE = ["nosuid", "noexec", "nodev"]


def config() -> dict[str, Any]:
    """A container that runs a shell on a terminal, in a read-only `rootfs`."""
    sets = {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": sets,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wherry",
        "mounts": [
            _mount("/proc", "proc", "proc", []),
            _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", *_PTS]),
            _mount("/dev/shm", "tmpfs", "shm", [*_SAFE, "mode=1777", "size=65536k"]),
            _mount("/dev/mqueue", "mqueue", "mqueue", _SAFE),
            _mount("/sys", "sysfs", "sysfs", [*_SAFE, "ro"]),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_SAFE, "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def features(version: str) -> dict[str, Any]:
    """The specification's features object."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mounts.known_options(),
        "linux": {
            "namespaces": sorted(FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False},
            "seccomp": {
                "enabled": True,
                "actions": [f"SCMP_ACT_{name}" for name in _ACTIONS],
                "operators": [
                    f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
                ],
                "archs": [f"SCMP_ARCH_{name}" for name in ("AARCH64", "ARM", "X32", "X86", "X86_64")],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
        },
        "annotations": {"org.wherry.runtime.version": version},
    }


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        entry["options"] = list(options)
    return entry


_PTS = ("ptmxmode=0666", "mode=0620", "gid=5")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "TRACE", "TRAP")
