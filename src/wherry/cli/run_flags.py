"""The flags of `run` and `create`, and how their values are read. What becomes of them is `create.py`'s."""

from __future__ import annotations

import os

from wherry.cli import units
from wherry.cli.flags import BOOL, INT, LIST, STRING, UINT16, Kind
from wherry.cli.mounts import read_mount
from wherry.cli.networks import read_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.flags import Row

ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
SYSCTLS = frozenset(
    [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ]
)


def _read_env(text: str) -> str:
    """`NAME=value`, or `NAME` for the caller's own value; unset there, the engine takes the name out."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if equals or name not in os.environ:
        return text
    return f"{name}={os.environ[name]}"


def _read_label(text: str) -> str:
    if not text.partition("=")[0]:
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def _read_attach(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def _read_sysctl(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not equals or not (name in SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def _read_ulimit(text: str) -> dict[str, Any]:
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    numbers: list[int] = []
    for part in parts:
        try:
            numbers.append(int(part))
        except ValueError:
            raise ValueError(f'strconv.ParseInt: parsing "{part}": invalid syntax') from None
    soft, hard = numbers[0], numbers[-1]
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _read_host_entry(text: str) -> str:
    """`name:address`, also `name=address`; sent with a colon."""
    name, found, address = text.partition("=") if "=" in text else text.partition(":")
    if not found or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    address = address.strip("[]") if address.startswith("[") and address.endswith("]") else address
    if address != "host-gateway" and not is_ip(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    from _socket import AF_INET, AF_INET6, inet_pton

    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _read_ip(text: str) -> str:
    if not is_ip(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def _read_gpus(text: str) -> dict[str, Any]:
    """`all`, a number, or `device=ID,capabilities=…` with several values in double quotes."""
    from wherry.cli.mounts import split_csv

    request: dict[str, Any] = {
        "Driver": "",
        "Count": 0,
        "DeviceIDs": None,
        "Capabilities": [["gpu"]],
        "Options": {},
    }
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", field
        if key == "count":
            if value != "all" and not value.lstrip("-").isdigit():
                raise ValueError(f'invalid count ({value}): value must be either "all" or an integer')
            request["Count"] = -1 if value == "all" else int(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if not request["Count"] and request["DeviceIDs"] is None:
        request["Count"] = 1
    return request


def _read_weight_device(text: str) -> dict[str, Any]:
    path, _, weight = text.rpartition(":")
    if not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    if not weight.isdigit() or not (int(weight) == 0 or 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def _read_rate_device(text: str) -> dict[str, Any]:
    path, _, rate = text.partition(":")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    try:
        return {"Path": path, "Rate": units.read_bytes(rate)}
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def _read_iops_device(text: str) -> dict[str, Any]:
    path, _, rate = text.partition(":")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    if not rate.isdigit():
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(rate)}


ENV = Kind("list", _read_env, is_list=True)
LABEL = Kind("list", _read_label, is_list=True)
ATTACH = Kind("list", _read_attach, is_list=True)
MAP = Kind("map", str, is_list=True)
SYSCTL = Kind("map", _read_sysctl, is_list=True)
ULIMIT = Kind("ulimit", _read_ulimit, is_list=True)
MOUNT = Kind("mount", read_mount, is_list=True)
NETWORK = Kind("network", read_network, is_list=True)
GPUS = Kind("gpu-request", _read_gpus, is_list=True)
HOST_ENTRY = Kind("list", _read_host_entry, is_list=True)
IP_LIST = Kind("list", _read_ip, is_list=True)
BYTES = Kind("bytes", units.read_bytes, 0)
MEMORY_SWAP = Kind("bytes", units.read_memory_swap, 0)
NANO_CPUS = Kind("decimal", units.read_nano_cpus, 0)
DURATION = Kind("duration", units.read_duration, 0)
WEIGHT_DEVICE = Kind("list", _read_weight_device, is_list=True)
RATE_DEVICE = Kind("list", _read_rate_device, is_list=True)
IOPS_DEVICE = Kind("list", _read_iops_device, is_list=True)

_RUN_ONLY = ("detach", "detach-keys", "sig-proxy", "trace")

RUN_ROWS: tuple[Row, ...] = (
    ("add-host", "", HOST_ENTRY, "Add a custom host-to-IP mapping (host:ip)"),
    ("annotation", "", MAP, "Add an annotation to the container (passed through to the OCI runtime)"),
    ("attach", "a", ATTACH, "Attach to STDIN, STDOUT or STDERR"),
    ("blkio-weight", "", UINT16, "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
    ("blkio-weight-device", "", WEIGHT_DEVICE, "Block IO weight (relative device weight)"),
    ("cap-add", "", LIST, "Add Linux capabilities"),
    ("cap-drop", "", LIST, "Drop Linux capabilities"),
    ("cgroup-parent", "", STRING, "Optional parent cgroup for the container"),
    (
        "cgroupns",
        "",
        STRING,
        "Cgroup namespace to use (host|private)\n"
        "'host':    Run the container in the host's cgroup namespace\n"
        "'private': Run the container in its own private cgroup namespace\n"
        "'':        Use the cgroup namespace as configured by the\n"
        "           default-cgroupns-mode option on the daemon (default)",
    ),
    ("cidfile", "", STRING, "Write the container ID to the file"),
    ("cpu-period", "", INT, "Limit CPU CFS (Completely Fair Scheduler) period"),
    ("cpu-quota", "", INT, "Limit CPU CFS (Completely Fair Scheduler) quota"),
    ("cpu-rt-period", "", INT, "Limit CPU real-time period in microseconds"),
    ("cpu-rt-runtime", "", INT, "Limit CPU real-time runtime in microseconds"),
    ("cpu-shares", "c", INT, "CPU shares (relative weight)"),
    ("cpus", "", NANO_CPUS, "Number of CPUs"),
    ("cpuset-cpus", "", STRING, "CPUs in which to allow execution (0-3, 0,1)"),
    ("cpuset-mems", "", STRING, "MEMs in which to allow execution (0-3, 0,1)"),
    ("detach", "d", BOOL, "Run container in background and print container ID"),
    ("detach-keys", "", STRING, "Override the key sequence for detaching a container"),
    ("device", "", LIST, "Add a host device to the container"),
    ("device-cgroup-rule", "", LIST, "Add a rule to the cgroup allowed devices list"),
    ("device-read-bps", "", RATE_DEVICE, "Limit read rate (bytes per second) from a device"),
    ("device-read-iops", "", IOPS_DEVICE, "Limit read rate (IO per second) from a device"),
    ("device-write-bps", "", RATE_DEVICE, "Limit write rate (bytes per second) to a device"),
    ("device-write-iops", "", IOPS_DEVICE, "Limit write rate (IO per second) to a device"),
    ("dns", "", IP_LIST, "Set custom DNS servers"),
    ("dns-option", "", LIST, "Set DNS options"),
    ("dns-search", "", LIST, "Set custom DNS search domains"),
    ("domainname", "", STRING, "Container NIS domain name"),
    ("entrypoint", "", STRING, "Overwrite the default ENTRYPOINT of the image"),
    ("env", "e", ENV, "Set environment variables"),
    ("env-file", "", LIST, "Read in a file of environment variables"),
    ("expose", "", LIST, "Expose a port or a range of ports"),
    ("gpus", "", GPUS, "GPU devices to add to the container ('all' to pass all GPUs)"),
    ("group-add", "", LIST, "Add additional groups to join"),
    ("health-cmd", "", STRING, "Command to run to check health"),
    ("health-interval", "", DURATION, "Time between running the check (ms|s|m|h)"),
    ("health-retries", "", INT, "Consecutive failures needed to report unhealthy"),
    (
        "health-start-interval",
        "",
        DURATION,
        "Time between running the check during the start period (ms|s|m|h)",
    ),
    (
        "health-start-period",
        "",
        DURATION,
        "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)",
    ),
    ("health-timeout", "", DURATION, "Maximum time to allow one check to run (ms|s|m|h)"),
    ("hostname", "h", STRING, "Container host name"),
    ("init", "", BOOL, "Run an init inside the container that forwards signals and reaps processes"),
    ("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
    ("ip", "", STRING, "IPv4 address (e.g., 172.30.100.104)"),
    ("ip6", "", STRING, "IPv6 address (e.g., 2001:db8::33)"),
    ("ipc", "", STRING, "IPC mode to use"),
    ("isolation", "", STRING, "Container isolation technology"),
    ("kernel-memory", "", BYTES, "Kernel memory limit"),
    ("label", "l", LABEL, "Set meta data on a container"),
    ("label-file", "", LIST, "Read in a line delimited file of labels"),
    ("link", "", LIST, "Add link to another container"),
    ("link-local-ip", "", LIST, "Container IPv4/IPv6 link-local addresses"),
    ("log-driver", "", STRING, "Logging driver for the container"),
    ("log-opt", "", LIST, "Log driver options"),
    ("mac-address", "", STRING, "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    ("memory", "m", BYTES, "Memory limit"),
    ("memory-reservation", "", BYTES, "Memory soft limit"),
    ("memory-swap", "", MEMORY_SWAP, "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"),
    ("memory-swappiness", "", INT, "Tune container memory swappiness (0 to 100)", -1),
    ("mount", "", MOUNT, "Attach a filesystem mount to the container"),
    ("name", "", STRING, "Assign a name to the container"),
    ("network", "", NETWORK, "Connect a container to a network"),
    ("network-alias", "", LIST, "Add network-scoped alias for the container"),
    ("no-healthcheck", "", BOOL, "Disable any container-specified HEALTHCHECK"),
    ("oom-kill-disable", "", BOOL, "Disable OOM Killer"),
    ("oom-score-adj", "", INT, "Tune host's OOM preferences (-1000 to 1000)"),
    ("pid", "", STRING, "PID namespace to use"),
    ("pids-limit", "", INT, "Tune container pids limit (set -1 for unlimited)"),
    ("platform", "", STRING, "Set platform if server is multi-platform capable"),
    ("privileged", "", BOOL, "Give extended privileges to this container"),
    ("publish", "p", LIST, "Publish a container's port(s) to the host"),
    ("publish-all", "P", BOOL, "Publish all exposed ports to random ports"),
    ("pull", "", STRING, 'Pull image before running ("always", "missing", "never")', "missing"),
    ("quiet", "q", BOOL, "Suppress the pull output"),
    ("read-only", "", BOOL, "Mount the container's root filesystem as read only"),
    ("restart", "", STRING, "Restart policy to apply when a container exits", "no"),
    ("rm", "", BOOL, "Automatically remove the container and its associated anonymous volumes when it exits"),
    ("runtime", "", STRING, "Runtime to use for this container"),
    ("security-opt", "", LIST, "Security Options"),
    ("shm-size", "", BYTES, "Size of /dev/shm"),
    ("sig-proxy", "", BOOL, "Proxy received signals to the process", True),
    ("stop-signal", "", STRING, "Signal to stop the container"),
    ("stop-timeout", "", INT, "Timeout (in seconds) to stop a container"),
    ("storage-opt", "", LIST, "Storage driver options for the container"),
    ("sysctl", "", SYSCTL, "Sysctl options"),
    ("tmpfs", "", LIST, "Mount a tmpfs directory"),
    ("tty", "t", BOOL, "Allocate a pseudo-TTY"),
    ("ulimit", "", ULIMIT, "Ulimit options"),
    ("user", "u", STRING, "Username or UID (format: <name|uid>[:<group|gid>])"),
    ("userns", "", STRING, "User namespace to use"),
    ("uts", "", STRING, "UTS namespace to use"),
    ("volume", "v", LIST, "Bind mount a volume"),
    ("volume-driver", "", STRING, "Optional volume driver for the container"),
    ("volumes-from", "", LIST, "Mount volumes from the specified container(s)"),
    ("workdir", "w", STRING, "Working directory inside the container"),
    ("trace", "", BOOL, "Print where the time from start to exec went, after the output"),
    ("disable-content-trust", "", BOOL, "", True),
)

CREATE_ROWS: tuple[Row, ...] = tuple(row for row in RUN_ROWS if row[0] not in _RUN_ONLY)
